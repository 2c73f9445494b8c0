"""autopilot.git.refs."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from autopilot.errors import GitCommandError, RefMovedError, RepositoryError, SlugError
from autopilot.git import locks, objects, refs
from autopilot.git.commands import run_git
from autopilot.git.commits import commit
from autopilot.git.repository import Repository
from autopilot.git.worktrees import add_worktree, worktree_path

BRANCH = "refs/heads/lab/x"


@pytest.fixture(params=["main", "linked"])
def repository(request: pytest.FixtureRequest, repository: Repository) -> Repository:
    """A repository, as its main worktree and as a linked one see it."""
    if request.param == "main":
        return repository
    path = worktree_path(repository, "linked")
    return add_worktree(repository, path, repository.head_commit())


@pytest.fixture
def other(repository: Repository) -> str:
    """A second commit."""
    head = repository.head_commit()
    tree = objects.tree_of(repository, head)
    return commit(repository, tree=tree, parents=[head], message="other")


def test_create_move_delete(repository: Repository, other: str) -> None:
    head = repository.head_commit()
    assert refs.read_ref(repository, BRANCH) is None
    refs.create_ref(repository, BRANCH, head, "start\nof it")
    refs.update_ref(repository, BRANCH, other, head, "step")
    assert refs.read_ref(repository, BRANCH) == other
    log = run_git(["reflog", "show", "--format=%gs %gn", BRANCH], cwd=repository.workdir).stdout
    assert log.decode() == "step Ada Byron\nstart of it Ada Byron\n"
    refs.delete_ref(repository, BRANCH, other)
    assert refs.read_ref(repository, BRANCH) is None


def test_a_ref_that_is_elsewhere_is_not_moved(repository: Repository, other: str) -> None:
    head = repository.head_commit()
    refs.create_ref(repository, BRANCH, head, "")
    with pytest.raises(RefMovedError, match="exists already"):
        refs.create_ref(repository, BRANCH, other, "")
    with pytest.raises(RefMovedError, match=f"is at {head[:7]}, expected at {other[:7]}"):
        refs.update_ref(repository, BRANCH, head, other, "")
    with pytest.raises(RefMovedError):
        refs.delete_ref(repository, BRANCH, other)
    with pytest.raises(RefMovedError, match="is gone"):
        refs.update_ref(repository, "refs/heads/none", head, other, "")
    assert refs.read_ref(repository, BRANCH) == head


def test_a_move_between_look_and_swap_is_noticed(repository: Repository, other: str) -> None:
    head = repository.head_commit()
    refs.create_ref(repository, BRANCH, head, "")
    with pytest.raises(RefMovedError), refs._swapped(repository, BRANCH, head) as reference:
        run_git(["update-ref", BRANCH, other], cwd=repository.workdir)
        reference.set_target(reference.target)
    assert refs.read_ref(repository, BRANCH) == other


def test_many_are_moved_or_deleted_together_or_none_of_them(
    repository: Repository, other: str
) -> None:
    head, more = repository.head_commit(), "refs/heads/lab/y"
    refs.move_refs(repository, {BRANCH: (head, None), more: (head, None)}, "both")
    # Somebody else moves the second one, and makes one that is to be new.
    refs.update_ref(repository, more, other, head, "theirs")
    for moves in (
        {BRANCH: (other, head), more: (other, head)},
        {BRANCH: (other, head), more: (head, None)},
    ):
        with pytest.raises(RefMovedError, match=f"{more} is at {other[:7]}, expected at"):
            refs.move_refs(repository, moves, "ours")
    with pytest.raises(RefMovedError, match="is gone"):
        gone = {BRANCH: (other, head), "refs/heads/lab/z": (other, head)}
        refs.move_refs(repository, gone, "ours")
    for check in (True, False):
        with pytest.raises(GitCommandError):
            refs.delete_refs(repository, {BRANCH: head, more: head}, check=check)
    assert refs.list_refs(repository, "refs/heads/lab") == {BRANCH: head, more: other}
    refs.delete_refs(repository, {BRANCH: head, more: other}, check=True)
    assert refs.list_refs(repository, "refs/heads/lab") == {BRANCH: head, more: other}
    refs.move_refs(repository, {BRANCH: (other, head)}, "ours")
    refs.delete_refs(repository, {BRANCH: other, more: other})
    assert not refs.list_refs(repository, "refs/heads/lab")


def test_a_lock_is_waited_for_or_an_error(repository: Repository) -> None:
    # As libgit2 words it, before and after it has looked for the lock.
    words = iter(["failed to lock file 'x'", "failed to create locked file 'x': File exists"])

    def write() -> None:
        for each in words:
            raise OSError(each)

    refs.when_unlocked(write)
    assert not list(words)
    (repository.common_dir / "refs" / "heads" / "lab.lock").touch()
    with pytest.raises(GitCommandError, match=r"lab\.lock"):
        refs.move_refs(repository, {"refs/heads/lab": (repository.head_commit(), None)}, "us")


def test_a_ref_that_is_damaged_is_left_out_and_noted(repository: Repository) -> None:
    (repository.common_dir / "refs" / "heads" / "torn").write_text("no commit\n")
    assert set(refs.list_refs(repository, "refs/heads")) == {"refs/heads/main"}
    assert any("refs/heads/torn" in error for error in repository.damaged)


def test_names_that_are_in_the_way(repository: Repository) -> None:
    head = repository.head_commit()
    run_git(["branch", "lab"], cwd=repository.workdir)
    with pytest.raises(SlugError, match="'lab' exists") as caught:
        refs.create_ref(repository, BRANCH, head, "")
    assert "git branch -m lab lab-old" in caught.value.hint
    run_git(["branch", "-m", "lab", "lab/x/y"], cwd=repository.workdir)
    for packed in (False, True):
        if packed:
            run_git(["pack-refs", "--all"], cwd=repository.workdir)
        with pytest.raises(SlugError, match="'lab/x/y' exists"):
            refs.create_ref(repository, BRANCH, head, "")
        with pytest.raises(SlugError, match="'lab/x/y' exists"):
            refs.move_refs(repository, {BRANCH: (head, None)}, "")


def test_bad_names_and_targets(repository: Repository) -> None:
    for name, oid in (("refs/heads/a..b", repository.head_commit()), ("refs/heads/a", "1" * 40)):
        with pytest.raises(RepositoryError, match=r"cannot (read|write)"):
            refs.create_ref(repository, name, oid, "")


def test_a_held_lock_is_told(repository: Repository, other: str) -> None:
    head = repository.head_commit()
    refs.create_ref(repository, BRANCH, head, "")
    (repository.common_dir / f"{BRANCH}.lock").touch()
    with pytest.raises(RepositoryError, match="is locked"):
        refs.update_ref(repository, BRANCH, other, head, "")


def test_listing(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    head = repository.head_commit()
    for name in ("lab/x", "lab/y/z", "labx"):
        refs.create_ref(repository, f"refs/heads/{name}", head, "")
    run_git(["pack-refs", "--all"], cwd=repository.workdir)
    refs.create_ref(repository, "refs/heads/lab/new", head, "")
    names = [f"refs/heads/lab/{name}" for name in ("new", "x", "y/z")]
    for prefix in ("refs/heads/lab", "refs/heads/lab/"):
        assert refs.list_refs(repository, prefix) == dict.fromkeys(names, head)
    assert refs.list_refs(repository, "refs/heads/labx") == {"refs/heads/labx": head}
    monkeypatch.setenv("PATH", "")  # no git is started where there is none
    assert refs.list_refs(repository, "refs/none", "refs/heads/la/") == {}


def test_stale_locks_are_cleared_in_the_given_places_only(repository: Repository) -> None:
    head = repository.head_commit()
    refs.create_ref(repository, BRANCH, head, "")
    places = [f"{BRANCH}.lock", "refs/notes/lab/x/metrics.lock", "refs/heads/main.lock"]
    for place in places:
        lock = repository.common_dir / place
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
        os.utime(lock, (time.time() - 60, time.time() - 60))
    cleared = locks.clear_stale_locks(repository, [BRANCH, "refs/notes/lab/x", "refs/tags/lab/x"])
    assert cleared == [BRANCH, "refs/notes/lab/x/metrics"]
    assert [(repository.common_dir / place).exists() for place in places] == [False, False, True]


def test_a_young_lock_is_waited_for(repository: Repository) -> None:
    lock = repository.common_dir / f"{BRANCH}.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    started = time.monotonic()
    assert locks.clear_stale_locks(repository, [BRANCH]) == [BRANCH]
    assert time.monotonic() - started > 0.5


def _create(top: str, oid: str, moment: Barrier, made: Queue[str]) -> None:
    repo = Repository.discover(Path(top))
    for number in range(500):
        name = f"refs/lab/{number}"
        moment.wait()
        with contextlib.suppress(RefMovedError):
            refs.create_ref(repo, name, oid, "one of three")
            made.put(f"{name} {oid}")
    made.put("")


def test_of_three_processes_one_creates_a_ref(repository: Repository, other: str) -> None:
    context = multiprocessing.get_context("spawn")
    moment, made = context.Barrier(3), context.Queue()
    tree = objects.tree_of(repository, other)
    third = commit(repository, tree=tree, parents=[other], message="third")
    for oid in (repository.head_commit(), other, third):
        arguments = (str(repository.workdir), oid, moment, made)
        context.Process(target=_create, args=arguments, daemon=True).start()
    lines = [line for _ in range(3) for line in iter(lambda: made.get(timeout=60), "")]
    assert dict(line.split() for line in lines) == refs.list_refs(repository, "refs/lab")
    assert len(lines) == 500


def test_a_folder_that_goes_meanwhile_is_made_once_more(tmp_path) -> None:
    file = tmp_path / "notes" / "traces"

    def write() -> None:
        try:
            file.write_text("id")
        except FileNotFoundError:
            file.parent.mkdir()
            raise

    refs.when_unlocked(write)
    assert file.read_text() == "id"


def test_names_that_are_looked_up_do_not_stay_in_memory(repository: Repository) -> None:
    head = repository.head_commit()
    refs.create_ref(repository, BRANCH, head, "")
    name = "/".join(("refs", "heads", "lab", "x"))  # not the one that was looked up first
    before = sys.getrefcount(name)
    for _ in range(10):
        refs.read_ref(repository, name)
        refs.update_ref(repository, name, head, head, "")
    assert sys.getrefcount(name) == before
