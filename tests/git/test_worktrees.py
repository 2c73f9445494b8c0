"""autopilot.git.worktrees."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autopilot.errors import GitCommandError, RepositoryError
from autopilot.git.commands import run_git
from autopilot.git.repository import Repository
from autopilot.git.worktrees import (
    add_worktree,
    borrow,
    cache_folder,
    changed_files,
    check_out,
    commit_of_checkout,
    leave_commits,
    note_set_up,
    remove_worktree,
    worktree_path,
)


def listed(repo: Repository) -> list[str]:
    out = run_git(["worktree", "list", "--porcelain"], cwd=repo.workdir).stdout.decode()
    return [line.split(" ", 1)[1] for line in out.splitlines() if line.startswith("worktree ")]


def test_places_in_the_cache(
    repository: Repository, git_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = worktree_path(repository, "x-1")
    assert path.parent.parent == git_environment / ".cache" / "autopilot" / "worktrees"
    assert path.name == "x-1"
    assert path.parent.name.startswith("repo-")
    assert len(path.parent.name) == len("repo-") + 8
    linked = add_worktree(repository, path, repository.head_commit())
    assert worktree_path(linked, "x-1") == path
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() in (
        git_environment / ".cache" / "autopilot",
        git_environment / "Library" / "Caches" / "autopilot",
    )


def test_a_worktree_comes_and_goes_without_hooks(repository: Repository, tmp_path: Path) -> None:
    hook = repository.common_dir / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    path = tmp_path / "deep" / "folder ü" / "x"
    linked = add_worktree(repository, path, repository.head_commit())
    assert (linked.workdir, linked.main_workdir) == (path, repository.workdir)
    assert linked.head_name() == "HEAD detached"
    assert (path / "rules" / "a.txt").read_text() == "a\n"
    assert not (tmp_path / "ran").exists()
    (path / "untracked").write_text("x")
    run_git(["worktree", "lock", str(path)], cwd=repository.workdir)
    remove_worktree(repository, path)
    remove_worktree(repository, path)
    assert not path.exists()
    assert listed(repository) == [str(repository.workdir)]


def test_another_commit_is_checked_out_beside_what_the_set_up_made(
    repository: Repository, tmp_path: Path
) -> None:
    linked = add_worktree(repository, tmp_path / "x", repository.head_commit())
    made = ["# a [b]\\ü", "build/deep/*", "rules/!y "]
    for name in [*made, "later", "rules/later"]:
        (linked.workdir / name).parent.mkdir(parents=True, exist_ok=True)
        (linked.workdir / name).write_text("x")
        if name == made[-1]:
            note_set_up(linked)
    check_out(linked, repository.head_commit())
    assert all((linked.workdir / name).exists() for name in made)
    assert not list(linked.workdir.rglob("later"))


def test_commits_in_a_worktree_are_left_though_a_killed_git_left_its_locks(
    repository: Repository, tmp_path: Path
) -> None:
    linked, base = add_worktree(repository, tmp_path / "x", repository.head_commit()), "README.md"
    (linked.workdir / base).write_text("more\n")
    run_git(["commit", "--quiet", "--all", "--message=theirs"], cwd=linked.workdir)
    for name in ("HEAD.lock", "index.lock"):
        (linked.git_dir / name).touch()
        os.utime(linked.git_dir / name, (1, 1))
    leave_commits(linked, repository.head_commit())
    assert linked.head_commit() == repository.head_commit()
    assert (linked.workdir / base).read_text() == "more\n"


@pytest.mark.parametrize("is_locked", [False, True])
def test_a_folder_that_was_deleted_by_hand_is_no_obstacle(
    repository: Repository, tmp_path: Path, *, is_locked: bool
) -> None:
    path = tmp_path / "x"
    for _ in range(2):
        add_worktree(repository, path, repository.head_commit())
        shutil.rmtree(path)
        if is_locked:  # as a git that is killed while it makes a worktree leaves it
            (repository.common_dir / "worktrees" / "x" / "locked").write_text("initializing")
    remove_worktree(repository, path)
    assert listed(repository) == [str(repository.workdir)]


def test_a_registration_that_was_lost_is_no_obstacle(
    repository: Repository, tmp_path: Path
) -> None:
    path = tmp_path / "x"
    add_worktree(repository, path, repository.head_commit())
    shutil.rmtree(repository.common_dir / "worktrees" / "x")
    remove_worktree(repository, path)
    assert not path.exists()


def test_other_folders_are_never_removed(repository: Repository, tmp_path: Path) -> None:
    path = tmp_path / "mine"
    path.mkdir()
    (path / "work").write_text("x")
    with pytest.raises(GitCommandError, match="not empty"):
        add_worktree(repository, path, repository.head_commit())
    remove_worktree(repository, path)
    assert (path / "work").exists()
    with pytest.raises(RepositoryError, match="main worktree"):
        remove_worktree(repository, repository.workdir)
    assert (repository.workdir / "README.md").exists()


def test_a_place_that_cannot_be_written(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(GitCommandError, match="cannot make a worktree") as caught:
        add_worktree(repository, tmp_path / "file" / "x", repository.head_commit())
    assert "XDG_CACHE_HOME" in caught.value.hint
    with pytest.raises(GitCommandError, match="cannot make a worktree"):
        add_worktree(repository, tmp_path / "x", "1" * 40)
    assert not (tmp_path / "x").exists()
    assert os.listdir(repository.common_dir / "objects")


def test_the_advice_fits_the_reason_why_there_is_no_worktree(
    repository: Repository, tmp_path: Path
) -> None:
    def refused(says: str) -> str:
        with pytest.raises(GitCommandError, match=says) as caught:
            add_worktree(repository, tmp_path / "made", repository.head_commit())
        assert not (tmp_path / "made").exists() and "room" not in caught.value.hint
        return caught.value.hint

    run_git(["config", "filter.locked.smudge", "false"], cwd=repository.workdir)
    run_git(["config", "filter.locked.required", "true"], cwd=repository.workdir)
    attributes = repository.git_dir / "info" / "attributes"
    attributes.write_text("README.md filter=locked\n")
    assert "work in a linked worktree" in refused("smudge filter locked failed")
    attributes.unlink()
    blob = run_git(["rev-parse", "HEAD:README.md"], cwd=repository.workdir).stdout.decode().strip()
    (repository.git_dir / "objects" / blob[:2] / blob[2:]).unlink()
    assert "git fsck" in refused("unable to read sha1 file of README.md")


def test_a_filter_whose_key_is_in_the_git_folder(repository: Repository, tmp_path: Path) -> None:
    key = repository.git_dir / "vault" / "key"
    key.parent.mkdir()
    key.write_text("opened\n")
    smudge = 'cat "$(git rev-parse --git-dir)/vault/key"'
    for name, value in (("smudge", smudge), ("clean", f"{smudge} >&2"), ("required", "true")):
        run_git(["config", f"filter.vault.{name}", value], cwd=repository.workdir)
    (repository.git_dir / "info" / "attributes").write_text("README.md filter=vault\n")
    made = add_worktree(repository, tmp_path / "linked", repository.head_commit())
    check_out(made, repository.head_commit())
    lent = borrow(repository, tmp_path / "lent", repository.head_commit())
    assert {(r.workdir / "README.md").read_text() for r in (made, lent)} == {"opened\n"}
    remove_worktree(repository, made.workdir)
    assert key.exists() and listed(repository) == [str(repository.workdir)]


def test_processes_that_make_worktrees_at_once(repository: Repository, tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from autopilot.git.repository import Repository
from autopilot.git.worktrees import add_worktree, remove_worktree, worktree_path
repo = Repository.discover(Path({str(repository.workdir)!r}))
for number in range(8):
    path = worktree_path(repo, f"{{sys.argv[1]}}-{{number}}")
    linked = add_worktree(repo, path, repo.head_commit())
    assert (path / ".git").is_file()
    remove_worktree(repo, path)
"""
    started = [
        subprocess.Popen([sys.executable, "-c", code, name], stderr=subprocess.PIPE, text=True)
        for name in "abcdefgh"
    ]
    said = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0] * 8, said
    assert listed(repository) == [str(repository.workdir)]
    assert not cache_folder().exists()


def test_a_change_in_the_second_of_the_last_commit_is_not_overlooked(
    repository: Repository,
) -> None:
    """Git compares whole seconds; what is as young as the index, it looks into."""
    path, index = repository.workdir / "rules" / "a.txt", repository.git_dir / "index"
    for number in range(10):
        path.write_text(f"{number}\n")
        run_git(["commit", "--quiet", "--all", "--message=more"], cwd=repository.workdir)
        path.write_text("x\n")
        if int(path.stat().st_ctime) == int(index.stat().st_mtime) == int(path.stat().st_mtime):
            break
    time.sleep(1.1)
    made = commit_of_checkout(repository)
    shown = run_git(["show", f"{made}:rules/a.txt"], cwd=repository.workdir).stdout
    assert shown == b"x\n"


def test_a_repository_that_borrows_objects_writes_its_own(
    repository: Repository, tmp_path: Path
) -> None:
    run_git(["config", "commit.gpgsign", "true"], cwd=repository.workdir)
    run_git(["config", "core.worktree", str(repository.workdir)], cwd=repository.workdir)
    repository = Repository.discover(repository.workdir)
    before = run_git(["for-each-ref"], cwd=repository.workdir).stdout
    first = repository.head_commit()
    borrower = borrow(repository, tmp_path / 'a "folder"' / "x#1", first)
    assert borrower.workdir == tmp_path / 'a "folder"' / "x#1"
    assert (borrower.workdir / "rules" / "a.txt").read_text() == "a\n"
    assert changed_files(borrower, ["."]) == {}
    assert borrower.config_bool("commit.gpgsign") is False
    run_git(["commit", "--quiet", "--allow-empty", "-m", "tried"], cwd=borrower.workdir)
    assert borrower.head_commit() != first
    # A borrower of the borrower finds the objects of both.
    third = borrow(borrower, tmp_path / "third", borrower.head_commit())
    assert third.resolve("HEAD~1") == first
    assert run_git(["for-each-ref"], cwd=repository.workdir).stdout == before
    with pytest.raises(GitCommandError):
        borrow(repository, tmp_path / "none", "0" * 40)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("kind", ["bare layout", "another owner"])
def test_worktrees_of_repositories_that_git_is_strict_about(
    repository: Repository, tmp_path: Path, kind: str
) -> None:
    """A bare folder beside its worktrees under safe.bareRepository; an owner that is trusted."""
    top = repository.workdir
    if kind == "bare layout":
        run_git(["config", "--global", "safe.bareRepository", "explicit"], cwd=top)
        top = tmp_path / "p" / "main"
        run_git(["clone", "--quiet", "--bare", str(repository.workdir), "p/.bare"], cwd=tmp_path)
        (tmp_path / "p" / ".git").write_text("gitdir: ./.bare\n")
        at = ["--git-dir=p/.bare", "worktree", "add", "--quiet"]
        run_git([*at, str(top), "main"], cwd=tmp_path)
    elif os.geteuid():
        pytest.skip("only root gives files away")
    else:
        for path in (top, *top.rglob("*")):
            os.chown(path, 12345, 12345)
        with pytest.raises(RepositoryError, match="dubious ownership") as caught:
            Repository.discover(top)
        run_git(shlex.split(caught.value.hint)[1:], cwd=tmp_path)
    user = Repository.discover(top)
    before = listed(user)
    worktree = add_worktree(user, worktree_path(user, "a"), user.head_commit())
    check_out(worktree, user.head_commit())
    assert Repository.discover(worktree.workdir).common_dir == user.common_dir
    assert len(listed(user)) == len(before) + 1
    remove_worktree(user, worktree.workdir)
    assert listed(user) == before and not worktree.workdir.exists()
    assert not list((user.common_dir / "worktrees").glob("a*"))
