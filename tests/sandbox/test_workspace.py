"""autopilot.sandbox.workspace: the checkout of a run, and what is linked into it."""

import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
from checkouts import commit_all

from autopilot.core.records.record import Manifest
from autopilot.errors import TargetError, UsageError
from autopilot.git.commands import run_git
from autopilot.git.worktrees import worktree_path
from autopilot.sandbox.workspace import open_workspace, remove_leftover, undone_on_failure


@pytest.fixture
def user(repository, monkeypatch):
    monkeypatch.chdir(repository.workdir)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return repository


def opened(user, *links, in_place=False, folder=""):
    here, base = user.workdir / folder, user.head_commit()
    return open_workspace(
        user, here, Manifest(slug="a", base=base, in_place=in_place, links=tuple(links))
    )


def test_a_run_works_in_a_worktree_of_its_own(user):
    workspace = opened(user, folder="rules")
    assert (workspace.is_new, workspace.in_place, workspace.directory) == (True, False, "rules")
    assert workspace.repo.workdir == worktree_path(user, "a")
    workspace.enter()
    assert str(Path.cwd()) == sys.path[0] == str(workspace.folder)
    workspace.remove()
    assert not workspace.repo.workdir.exists()
    assert Path.cwd() == user.workdir


def test_what_a_kill_left_is_used_as_it_was_checked_out(user):
    first = opened(user)
    (first.repo.workdir / "README.md").write_text("changed\n")
    again = opened(user)
    assert not again.is_new
    assert (again.repo.workdir / "README.md").read_text() == "readme\n"
    # A git folder of an agent's tells of a kill in a step: nothing is known of the files then.
    (again.private / "git").mkdir(parents=True)
    assert opened(user).is_new


def test_in_place_it_is_the_users_checkout(user):
    workspace = opened(user, in_place=True)
    assert workspace.in_place and workspace.folder == user.workdir
    workspace.remove()
    assert (user.workdir / "README.md").exists()
    with pytest.raises(UsageError, match="--link"):
        opened(user, "data", in_place=True)


def test_links_lead_to_the_users_own_files(user):
    (user.workdir / "rules" / "data").mkdir()
    (user.workdir / "rules" / "data" / "x").write_text("x")
    workspace = opened(user, "data", folder="rules")
    (link,) = workspace.links
    assert link.name == "rules/data"
    assert os.readlink(workspace.folder / "data") == str(user.workdir / "rules" / "data")
    # A copy that an agent's step left is replaced.
    link.place.unlink()
    link.place.mkdir()
    assert opened(user, "data", folder="rules").links == workspace.links
    assert link.place.is_symlink()


@pytest.mark.parametrize(
    ("link", "reason"),
    [("none", "no such file"), ("../", "outside the repository"), ("README.md", "tracked")],
)
def test_a_link_that_cannot_be_leaves_no_worktree(user, link, reason):
    with pytest.raises(UsageError, match=reason):
        opened(user, link)
    assert not worktree_path(user, "a").exists()


def test_errors_tell_of_the_users_own_files(user):
    (user.workdir / "data").mkdir()
    (user.workdir / "data" / "cases.json").write_text("[]")
    workspace = opened(user)
    missing = workspace.repo.workdir / "data" / "cases.json"
    with pytest.raises(TargetError) as caught, workspace.explained():
        raise TargetError(f"No such file or directory: '{missing}'", hint="")
    assert str(user.workdir / "data" / "cases.json") in caught.value.message
    assert caught.value.hint == "git does not have data; bring it along: --link data"


def test_a_failure_takes_the_new_worktree_away(user):
    manifest = Manifest(slug="a", base=user.head_commit())
    with pytest.raises(KeyboardInterrupt), undone_on_failure(user, manifest):
        opened(user)
        raise KeyboardInterrupt
    assert not worktree_path(user, "a").exists()
    kept = opened(user)
    with pytest.raises(KeyboardInterrupt), undone_on_failure(user, manifest):
        raise KeyboardInterrupt
    assert kept.repo.workdir.exists()


def test_children_import_what_a_finder_of_an_editable_install_leads_to(user, monkeypatch):
    # As setuptools installs a project whose packages are not all in one folder.
    (user.workdir / "lib/deep").mkdir(parents=True)
    (user.workdir / "lib/deep/__init__.py").write_text("PLACE = __file__\n")
    commit_all(user.workdir, "lib")
    finder = types.ModuleType("__editable___deep_finder")
    finder.MAPPING = {"deep": str(user.workdir / "lib/deep")}
    finder.NAMESPACES = {"wide": [str(user.workdir / "lib")]}
    exec(
        "from importlib.machinery import PathFinder\nclass Finder:\n    @classmethod\n"
        "    def find_spec(cls, name, path=None, target=None):\n"
        "        if name in MAPPING: return PathFinder.find_spec(name, [MAPPING[name] + '/..'])",
        vars(finder),
    )
    finder.Finder.__module__ = finder.__name__
    monkeypatch.setitem(sys.modules, finder.__name__, finder)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, finder.Finder])
    monkeypatch.setenv("PYTHONPATH", "")
    workspace = opened(user)
    (redirection,) = workspace.enter()
    assert redirection.names == ("deep",)
    assert {"wide": [str(workspace.repo.workdir / "lib")]} == finder.NAMESPACES
    found = sys.meta_path[-1].find_spec("deep")
    assert found.origin == str(workspace.repo.workdir / "lib/deep/__init__.py")
    child = [sys.executable, "-c", "import deep; print(deep.PLACE)"]
    place = subprocess.check_output(child, cwd="/", text=True).strip()
    assert place == str(workspace.repo.workdir / "lib/deep/__init__.py")
    workspace.remove()


def test_an_error_in_a_worktree_that_is_gone_names_that(user):
    workspace = opened(user)
    shutil.rmtree(workspace.repo.workdir)
    with pytest.raises(TargetError) as raised, workspace.explained():
        raise TargetError("a.txt: no such file")
    error = raised.value
    assert error.message == f"the worktree {workspace.repo.workdir} was removed meanwhile"
    assert error.hint == "run the command again, or resume the run: the worktree is made anew"
    assert opened(user).repo.workdir.exists()


@pytest.mark.parametrize("left", ["all", "folder", "registration", "nothing"])
def test_the_worktree_of_a_finished_run_goes(user, left):
    """A kill at any moment of its removal may have left a part of it."""
    workspace = opened(user)
    path = workspace.repo.workdir
    if left == "folder":
        (path / ".git").unlink()
    elif left == "registration":
        shutil.rmtree(path)
    elif left == "nothing":
        workspace.remove()
    remove_leftover(user, Manifest(slug="a", base=user.head_commit()))
    listed = run_git(["worktree", "list"], cwd=user.workdir).stdout.splitlines()
    assert not path.exists() and len(listed) == 1
