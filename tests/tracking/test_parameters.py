"""Which files of a repository a parameter is."""

from pathlib import Path

import pytest

from autopilot.core.parameter import PathParameter
from autopilot.errors import ParameterError
from autopilot.git.commands import run_git
from autopilot.git.refs import obstacle
from autopilot.git.worktrees import add_worktree, changed_files, check_out, commit_of_checkout
from autopilot.tracking.parameters import (
    ParameterFiles,
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
    (top / "rules" / "up").symlink_to("../rules")
    with pytest.raises(ParameterError) as caught:
        scope_of(repository, PathParameter(top / "rules" / "up"))
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


@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_bytes_decide_what_is_dirty(repository, top, tmp_path, flag):
    """In place, in a worktree, of a checkout that is measured, of one that is promoted to."""
    linked = add_worktree(repository, tmp_path / "x", repository.head_commit())
    for repo in (repository, linked):
        scopes = [scope_of(repo, PathParameter(repo.workdir / "rules"))]
        run_git(["update-index", flag, "rules/a.txt"], cwd=repo.workdir)
        assert dirty_files(repo, scopes) == changed_files(repo, ["."]) == {}
        (repo.workdir / "rules/a.txt").write_text("b\n")
        expected = {"rules/a.txt": "modified"}
        assert dirty_files(repo, scopes) == changed_files(repo, ["."]) == expected
        with pytest.raises(ParameterError, match=r"rules/a\.txt is modified"):
            check_clean(repo, scopes)
        assert commit_of_checkout(repo) != repo.head_commit()
        (repo.workdir / "rules/a.txt").unlink()
        assert dirty_files(repo, scopes) == {"rules/a.txt": "deleted"}
    why = obstacle(repository, "refs/heads/main", repository.head_commit())
    assert why is not None and "rules/a.txt" in why[0]
    flags = run_git(["ls-files", "-v", "rules/a.txt"], cwd=top).stdout
    assert flags[:1] in (b"h", b"S"), "the user's index stays as it is"
    check_out(linked, linked.head_commit())
    assert (linked.workdir / "rules/a.txt").read_text() == "a\n"


@pytest.mark.parametrize("flag", ["--no-assume-unchanged", "--assume-unchanged"])
def test_what_a_sparse_checkout_leaves_out_is_not_deleted(repository, top, flag):
    scopes = [scope_of(repository, PathParameter(top, "**/*.*"))]
    run_git(["sparse-checkout", "set", "--no-cone", "/rules/"], cwd=top)
    assert not (top / "README.md").exists()
    assert dirty_files(repository, scopes) == {"README.md": "left out"}
    with pytest.raises(ParameterError, match=r"README\.md is left out"):
        check_clean(repository, scopes, include_dirty=True)
    run_git(["update-index", flag, "rules/a.txt"], cwd=top)
    (top / "rules/a.txt").unlink()
    assert dirty_files(repository, scopes) == {"README.md": "left out", "rules/a.txt": "deleted"}


MERGED = "top\n<<<<<<< HEAD\nours\n{}=======\ntheirs\n>>>>>>> side\nend\n"


@pytest.mark.parametrize("base", ["", "||||||| 1a2b3c4\nold\n"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_conflict_is_not_taken_in(repository, top, base, end):
    text = MERGED.format(base).replace("\n", end)
    (top / "rules/a.txt").write_bytes(text.encode())
    scopes = [scope_of(repository, PathParameter(top / "rules"))]
    run_git(["add", "rules"], cwd=top)  # git then takes it for resolved
    with pytest.raises(ParameterError, match=r"rules/a\.txt is conflicted"):
        check_clean(repository, scopes, include_dirty=True)
    # A file that is about conflicts is not in one.
    run_git(["commit", "--quiet", "-m", "docs"], cwd=top)
    (top / "rules/a.txt").write_bytes(f"more{end}{text}".encode())
    assert dirty_files(repository, scopes) == {"rules/a.txt": "modified"}
    check_clean(repository, scopes, include_dirty=True)
    (top / "rules/a.txt").write_bytes(f"{text}{text}".encode())
    assert dirty_files(repository, scopes) == {"rules/a.txt": "conflicted"}
    for cut in ("<<<<<<< HEAD", "======="):  # resolved by half
        (top / "rules/a.txt").write_bytes((text + text.replace(cut + end, "")).encode())
        assert dirty_files(repository, scopes) == {"rules/a.txt": "conflicted"}


def test_a_merge_that_goes_on_is_not_taken_in(repository, top):
    """Whatever is in the file, also what HEAD has: git says that it is unmerged."""
    scopes = [scope_of(repository, PathParameter(top / "rules"))]
    for branch in ("side", "-"):
        run_git(["switch", "-q", *["-c"] * (branch == "side"), branch], cwd=top)
        (top / "rules/a.txt").write_text(f"{branch}\n")
        run_git(["commit", "--quiet", "--all", "-m", branch], cwd=top)
    assert run_git(["merge", "side"], cwd=top, check=False).returncode == 1
    for write in (None, "-\n", "resolved\n"):
        (top / "rules/a.txt").unlink(missing_ok=True)
        if write:
            (top / "rules/a.txt").write_text(write)
        assert dirty_files(repository, scopes) == {"rules/a.txt": "conflicted"}
        with pytest.raises(ParameterError, match=r"rules/a\.txt is conflicted"):
            check_clean(repository, scopes, include_dirty=True)
    run_git(["add", "rules"], cwd=top)
    for each in (scopes, [scope_of(repository, PathParameter(top))]):
        check_clean(repository, each, include_dirty=True)


def test_a_heading_is_no_conflict(repository, top):
    (top / "rules/a.txt").write_text("Title\n=======\n\n<<<<<<< quoted\n\nMore\n=======\n")
    scopes = [scope_of(repository, PathParameter(top / "rules"))]
    assert dirty_files(repository, scopes) == {"rules/a.txt": "modified"}


def test_a_parameter_that_is_a_link_is_refused(repository, top):
    (top / "link.txt").symlink_to("README.md")
    goals = {"up.txt": "../README.md", "out.txt": top.parent / "elsewhere.txt"}
    for name, goal in goals.items():
        (top / "rules" / name).symlink_to(goal)
    run_git(["add", "."], cwd=top)
    run_git(["commit", "--quiet", "-m", "link"], cwd=top)
    parameter, tree = PathParameter(top / "link.txt"), str(repository.pygit.head.peel().tree_id)
    with pytest.raises(ParameterError, match=r"link\.txt is a symbolic link") as caught:
        check_tracked(repository, tree, [scope_of(repository, parameter)])
    assert caught.value.hint == "name the file that it points to: README.md"
    for name, hint in zip(goals, (caught.value.hint, "name a file of the repository"), strict=True):
        with pytest.raises(ParameterError) as caught:
            at = scope_of(repository, PathParameter(top / "rules" / name))
            check_tracked(repository, tree, [at])
        assert caught.value.hint == hint
    # One of a folder's files is refused when it is written to.
    folder = PathParameter(top)
    check_tracked(repository, tree, [scope_of(repository, folder)])
    for each, name in ((parameter, None), (folder, "link.txt")):
        with pytest.raises(ParameterError, match="is a symbolic link"):
            each.write_text("x", name)
    assert (top / "link.txt").is_symlink() and (top / "README.md").read_text() == "readme\n"


def test_a_repository_inside_of_a_folder_is_no_part_of_it(repository, top):
    own = top / "rules/own"
    own.mkdir()
    (own / "x.txt").write_text("x\n")
    run_git(["init", "--quiet"], cwd=own)
    files = ParameterFiles(repository)
    files.bind([PathParameter(top / "rules")])
    assert sorted(files.present(write=False)) == ["rules/a.txt"]
    assert dirty_files(repository, files.scopes) == {}


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
