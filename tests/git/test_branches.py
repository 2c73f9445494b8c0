"""Branches that somebody may have checked out."""

from __future__ import annotations

import pytest

from autopilot.errors import RefMovedError, RepositoryError
from autopilot.git import commits, objects, refs
from autopilot.git.commands import run_git
from autopilot.git.objects import Entry, tree_of, write_blob, write_tree
from autopilot.git.refs import advance, checked_out_at, find_branch, obstacle
from autopilot.git.repository import Repository

MAIN = "refs/heads/main"


def git(repo, *arguments):
    return run_git(arguments, cwd=repo.workdir).stdout.decode().strip()


def commit_with(repo, name, text, parent="main"):
    """A commit that has a file more than another; no ref moves."""
    parent = repo.resolve(parent)
    entry = Entry(0o100644, write_blob(repo, text.encode()))
    tree = write_tree(repo, tree_of(repo, parent), {name: entry})
    return commits.commit(repo, tree=tree, parents=[parent], message="more")


def test_a_branch_is_found_here_before_on_a_remote(repository):
    tip = repository.head_commit()
    for name in ("refs/remotes/up/main", "refs/remotes/up/topic", "refs/remotes/origin/topic"):
        refs.create_ref(repository, name, tip, "test")
    refs.create_ref(repository, "refs/remotes/up/only/there", tip, "test")
    here = find_branch(repository, "main")
    assert (here.name, here.ref, here.is_local, here.short) == ("main", MAIN, True, "main")
    there = find_branch(repository, "topic")
    assert (there.name, there.is_local, there.short) == ("origin/topic", False, "topic")
    assert find_branch(repository, "up/main").name == "up/main"
    assert find_branch(repository, "only/there").short == "only/there"
    assert find_branch(repository, "nowhere") is None


def test_a_branch_moves_with_its_files_or_without_any(repository):
    old, new = repository.head_commit(), commit_with(repository, "rules/ü b.txt", "b\n")
    refs.create_ref(repository, "refs/heads/other", old, "test")
    assert advance(repository, "refs/heads/other", new, old, "test: other") is None
    assert git(repository, "status", "--porcelain") == ""
    assert advance(repository, MAIN, new, old, "test: main") == repository.workdir
    assert (repository.workdir / "rules" / "ü b.txt").read_text() == "b\n"
    assert git(repository, "status", "--porcelain") == ""
    assert git(repository, "reflog", "-1", "--format=%gs").startswith("test: main")


def test_what_was_moved_meanwhile_is_left_alone(repository, monkeypatch):
    old = repository.head_commit()
    new, other = (commit_with(repository, f"{name}.txt", "b\n") for name in ("new", "other"))
    refs.create_ref(repository, "refs/heads/topic", other, "test")
    with pytest.raises(RefMovedError):
        advance(repository, "refs/heads/topic", new, old, "test")
    git(repository, "reset", "--quiet", "--hard", other)
    monkeypatch.setattr(refs, "obstacle", lambda *arguments: None)
    with pytest.raises(RepositoryError, match=r"main, checked out in .* cannot be moved"):
        advance(repository, MAIN, new, old, "test")
    assert repository.head_commit() == other


@pytest.mark.parametrize("name", ["index.lock", "refs/heads/main.lock"])
def test_a_lock_that_a_killed_git_left_is_named_with_what_to_do(repository, name):
    old, new = repository.head_commit(), commit_with(repository, "new.txt", "b\n")
    lock = repository.git_dir / name
    lock.touch()
    with pytest.raises(RepositoryError, match="main, checked out in") as raised:
        advance(repository, MAIN, new, old, "test")
    assert str(lock) in raised.value.message
    assert raised.value.hint == "if no git command is running, remove that file"
    assert git(repository, "status", "--porcelain") == ""
    lock.unlink()
    assert advance(repository, MAIN, new, old, "test") == repository.workdir


def test_what_is_in_the_way_is_named(repository):
    top = repository.workdir
    tree = tree_of(repository, commit_with(repository, "new/deep/c.txt", "c\n"))
    assert obstacle(repository, MAIN, tree) is None
    (top / "new").write_text("a file where a folder comes\n")
    assert obstacle(repository, MAIN, tree)[0] == (
        f"new in {top} is not tracked by git, and would be overwritten"
    )
    (top / "new").unlink()
    (top / "new" / "deep").mkdir(parents=True)
    assert obstacle(repository, MAIN, tree) is None
    (top / "new" / "deep" / "c.txt").symlink_to("nowhere")
    assert obstacle(repository, MAIN, tree)[0].startswith("new/deep/c.txt in ")
    (top / "new" / "deep" / "c.txt").unlink()
    # A file of its own makes room for a folder of the same name.
    entry = Entry(0o100644, write_blob(repository, b"x\n"))
    start = tree_of(repository, repository.head_commit())
    folder = objects.write_tree(repository, start, {"README.md": None, "README.md/x": entry})
    assert obstacle(repository, MAIN, folder) is None
    (top / "README.md").write_text("edited\n")
    assert obstacle(repository, MAIN, tree)[0].endswith("with uncommitted changes (README.md)")


def test_a_branch_that_is_being_rebased_is_not_moved(repository):
    git(repository, "switch", "--quiet", "--create", "topic")
    (repository.workdir / "README.md").write_text("topic\n")
    git(repository, "commit", "--quiet", "--all", "--message=topic")
    run_git(
        ["rebase", "--quiet", "--interactive", "HEAD~1"],
        cwd=repository.workdir,
        environment={"GIT_SEQUENCE_EDITOR": "sed -i s/pick/edit/"},
    )
    tree = tree_of(repository, repository.head_commit())
    assert obstacle(repository, "refs/heads/topic", tree) == (
        f"topic is being rebased in {repository.workdir}",
        "finish that, or `git rebase --abort`",
    )


def test_where_a_branch_is_checked_out(repository, tmp_path):
    top, linked = repository.workdir, tmp_path / "linked"
    assert checked_out_at(repository, "refs/heads/main") == top
    assert checked_out_at(repository, "refs/heads/lab/x") is None
    run_git(["worktree", "add", "--quiet", "-b", "lab/x", str(linked)], cwd=top)
    seen_from_linked = Repository.discover(linked)
    assert checked_out_at(seen_from_linked, "refs/heads/main") == top
    assert checked_out_at(seen_from_linked, "refs/heads/lab/x") == linked
    for folder, text in ((top, "main\n"), (linked, "side\n")):
        (folder / "README.md").write_text(text)
        run_git(["commit", "--quiet", "-am", text], cwd=folder)
    run_git(["rebase", "main"], cwd=linked, check=False)
    assert checked_out_at(repository, "refs/heads/lab/x") == linked, "mid-rebase"
