"""Which files of a repository a parameter is."""

from pathlib import Path

import pytest

from autopilot.core.parameter import PathParameter
from autopilot.errors import ParameterError
from autopilot.git.commands import run_git
from autopilot.tracking.parameters import (
    check_clean,
    check_tracked,
    dirty_files,
    entries_at,
    scope_of,
)


@pytest.fixture
def top(repository):
    return Path(repository.workdir)


def test_the_place_of_a_parameter(repository, top):
    folder = scope_of(repository, PathParameter(top / "rules", "*.txt"))
    assert (folder.prefix, folder.path) == ("rules/", "rules")
    assert folder.covers("rules/a.txt") and not folder.covers("rules/a.md")
    assert not folder.covers("rules2/a.txt") and not folder.covers("a.txt")
    file = scope_of(repository, PathParameter(top / "rules" / "a.txt"))
    assert (file.prefix, file.path, file.files()) == ("rules/", "rules/a.txt", ["rules/a.txt"])
    whole = scope_of(repository, PathParameter(top))
    assert (whole.prefix, whole.path) == ("", ".")
    tree = repository.pygit.head.peel().tree_id
    assert sorted(entries_at(repository, str(tree), [whole])) == ["README.md", "rules/a.txt"]


def test_behind_a_link(repository, top):
    (top / "link").symlink_to("rules")
    with pytest.raises(ParameterError, match="is behind the symbolic link") as caught:
        scope_of(repository, PathParameter(top / "link"))
    assert caught.value.hint == "name the folder that it points to: rules"


def test_a_way_to_the_top_through_a_link_is_fine(repository, top, tmp_path):
    (tmp_path / "way").symlink_to(top)
    scope = scope_of(repository, PathParameter(tmp_path / "way" / "rules"))
    assert scope.path == "rules"


def test_dirty_files_are_those_of_the_parameter(repository, top):
    scopes = [scope_of(repository, PathParameter(top / "rules"))]
    (top / "README.md").write_text("changed\n")
    check_clean(repository, scopes)
    (top / "rules" / "a.txt").write_text("changed\n")
    (top / "rules" / "new.txt").write_text("new\n")
    assert list(dirty_files(repository, scopes)) == ["rules/a.txt", "rules/new.txt"]
    with pytest.raises(ParameterError, match=r"rules/a\.txt is modified") as caught:
        check_clean(repository, scopes)
    assert "--include-dirty" in caught.value.hint


def test_inside_a_submodule(repository, top, tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    run_git(["init", "--quiet"], cwd=inner)
    (inner / "x.txt").write_text("x\n")
    run_git(["add", "x.txt"], cwd=inner)
    name = ["-c", "user.name=a", "-c", "user.email=a@b"]
    run_git([*name, "commit", "--quiet", "-m", "x"], cwd=inner)
    allow = ["-c", "protocol.file.allow=always"]
    run_git([*allow, "submodule", "--quiet", "add", str(inner), "sub"], cwd=top)
    run_git(["commit", "--quiet", "-m", "sub"], cwd=top)
    tree = str(repository.pygit.head.peel().tree_id)
    with pytest.raises(ParameterError, match="is in the submodule sub"):
        check_tracked(repository, tree, [scope_of(repository, PathParameter(top / "sub"))])


def test_two_parameters_for_one_file(repository, top):
    tree = str(repository.pygit.head.peel().tree_id)
    folder, file = PathParameter(top / "rules"), PathParameter(top / "rules" / "a.txt")
    with pytest.raises(ParameterError, match=r"two parameters for one file, rules/a.txt") as error:
        check_tracked(repository, tree, [scope_of(repository, p) for p in (folder, file)])
    assert "leave it out of one" in error.value.hint
    other = scope_of(repository, PathParameter(top, "*.md"))
    check_tracked(repository, tree, [scope_of(repository, folder), other])
