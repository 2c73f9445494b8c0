"""autopilot.sandbox.imports: where modules come from, and what only the user's checkout has."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

import pytest
from checkouts import make_checkout

from autopilot.errors import ElsewhereError
from autopilot.git.repository import Repository
from autopilot.sandbox.imports import Missing, check_imports, redirect, root_of


@pytest.fixture
def both(tmp_path: Path, git_environment: Path) -> Missing:
    """A checkout, and a worktree of it that lacks what git does not have."""
    files = {"README.md": "readme\n", "pkg/__init__.py": "", ".gitignore": "data/\n.env\n"}
    user, here = (make_checkout(tmp_path / name, files) for name in ("user", "here"))
    for name in ("data/cases.csv", "pkg/forgotten.py"):
        (user / name).parent.mkdir(exist_ok=True)
        (user / name).write_text("x\n")
    (user / ".env").write_text("export TOKEN=1\n")
    return Missing(Repository.discover(user), Repository.discover(here), here)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("No such file or directory: 'data/cases.csv'", "bring it along: --link data"),
        ("cat: data/cases.csv: No such file or directory", "bring it along: --link data"),
        ("KeyError: 'TOKEN'", "git does not have .env; bring it along: --link .env"),
        ("ModuleNotFoundError: No module named 'pkg.forgotten'", "git add and commit it"),
        ("cannot import name 'forgotten' from 'pkg' (x)", "git does not have pkg/forgotten.py"),
        ("No such file or directory: 'README.md'", None),
        ("No such file or directory: 'nowhere.txt'", None),
        ("KeyError: 'OTHER'", None),
        ("data/cases.csv is fine", None),
    ],
)
def test_what_a_text_misses_is_named_where_the_checkout_has_it(both, text, hint, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(both.folder), *sys.path])
    found = list(both.hints(text))
    assert [hint in each for each in found] == ([True] if hint else []), found


@pytest.mark.parametrize(
    ("name", "place", "root"),
    [
        ("a", "/x/a.py", "/x"),
        ("a", "/x/a/__init__.py", "/x"),
        ("a.b", "/x/a/b.py", "/x"),
        ("a.b", "/x/a/b", "/x"),
        ("a", "/x/other.py", ""),
    ],
)
def test_the_root_of_a_module_is_the_folder_that_it_is_found_in(name, place, root) -> None:
    assert root_of(name, place) == root


def test_what_is_imported_of_the_checkout_stops_a_run_unless_it_is_linked(both, monkeypatch):
    user, here = both.user.workdir, both.repo.workdir
    module = types.ModuleType("pkg")
    module.__file__ = str(here / "pkg/__init__.py")
    monkeypatch.setitem(sys.modules, "pkg", module)
    check_imports(user, here, here, [])
    module.__file__ = str(user / "pkg/__init__.py")
    with pytest.raises(ElsewhereError, match=r"pkg is imported from .*/user/pkg/__init__\.py"):
        check_imports(user, here, here, [])
    check_imports(user, here, here, [user / "pkg"])
    # An installed copy would win as well; a package of another name is none of ours.
    module.__file__ = str(here.parent / "site/pkg/__init__.py")
    with pytest.raises(ElsewhereError, match="/site/pkg/"):
        check_imports(user, here, here, [])
    monkeypatch.delitem(sys.modules, "pkg")
    monkeypatch.setitem(sys.modules, "elsewhere", module)
    check_imports(user, here, here, [])


def test_folders_of_the_checkout_become_those_of_the_worktree_for_children_too(both, monkeypatch):
    user, here = both.user.workdir, both.repo.workdir
    monkeypatch.setattr(sys, "path", ["", str(user), str(user / "data"), "/nowhere"])
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(user / "pkg"), "/nowhere")))
    monkeypatch.setenv("PATH", f"{user}/pkg{os.pathsep}/bin")
    (found,) = redirect(user, here)
    assert (found.folder, found.below, found.names, found.reaches) == (
        str(here), ".", ("pkg",), True,
    )  # fmt: skip
    # What the worktree does not have stays the user's.
    assert sys.path == ["", str(here), str(user / "data"), "/nowhere"]
    assert os.environ["PYTHONPATH"].split(os.pathsep) == [str(here / "pkg"), "/nowhere", str(here)]
    assert os.environ["PATH"].split(os.pathsep) == [str(here / "pkg"), "/bin"]
