"""Refs: read, created, moved by compare-and-swap, singly or many at once; nothing is forced.

Names are in full, `refs/heads/main`.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import pygit2

from autopilot.errors import (
    GitCommandError,
    RefMovedError,
    RepositoryError,
    SlugError,
    translated_as,
)
from autopilot.git.commands import run_git
from autopilot.git.locks import one_at_a_time
from autopilot.git.repository import Repository, translated
from autopilot.text import clean

_LOCK_AGE_S = 1.0
_LOCK_WAIT_S = 0.5


def read_ref(repo: Repository, name: str) -> str | None:
    """The id of a ref, not peeled: of an annotated tag, the tag object's. None if missing."""
    with translated(f"cannot read {name}"):
        found = repo.pygit.references.get(name)
        return str(found.resolve().target) if found is not None else None


def create_ref(repo: Repository, name: str, oid: str, log: str) -> None:
    """Creates a ref that does not exist; `log` is what the reflog says.

    Raises:
        RefMovedError: it exists.
        SlugError: another ref's name is in the way: `a` and `a/b` cannot both exist.
        RepositoryError: it cannot be written.
    """
    target, line = pygit2.Oid(hex=oid), log_line(log)
    # libgit2 looks before it takes its own lock: of two, the second would replace the first's.
    with created(repo, name), one_at_a_time(repo.common_dir / "refs"):
        when_unlocked(lambda: repo.pygit.create_reference_direct(name, target, False, message=line))


def update_ref(repo: Repository, name: str, new: str, expected: str, log: str) -> None:
    """Moves a ref if it is where it is expected: a compare-and-swap.

    Raises:
        RefMovedError: it is elsewhere, or gone.
        RepositoryError: it cannot be written.
    """
    with _swapped(repo, name, expected) as reference:
        when_unlocked(lambda: reference.set_target(pygit2.Oid(hex=new), log_line(log)))


def delete_ref(repo: Repository, name: str, expected: str) -> None:
    """Deletes a ref if it is where it is expected.

    Raises:
        RefMovedError: it is elsewhere, or gone.
        RepositoryError: it cannot be written.
    """
    with _swapped(repo, name, expected) as reference:
        when_unlocked(reference.delete)


def list_refs(repo: Repository, prefix: str) -> dict[str, str]:
    """The refs whose names are a prefix or begin with it and "/", with what they point at.

    Starts git.
    """
    command = ["for-each-ref", "--format=%(objectname) %(refname)", prefix.rstrip("/")]
    lines = os.fsdecode(run_git(command, cwd=repo.workdir).stdout).splitlines()
    return {name: oid for oid, _, name in (line.partition(" ") for line in lines)}


def clear_stale_locks(repo: Repository, prefixes: Sequence[str]) -> list[str]:
    """Removes the `.lock` files that a killed process left beside some refs, and returns these.

    Only for names that no other process writes: the caller holds the experiment's lock. A file that
    is younger than a second is waited for, since a `git` command may be about to finish.

    Args:
        prefixes: Refs and folders of refs, `refs/heads/autopilot/fix-1`.
    """
    cleared: list[str] = []
    for prefix in prefixes:
        place = repo.common_dir / prefix
        locks = [place.with_name(f"{place.name}.lock"), *sorted(place.rglob("*.lock"))]
        for lock in locks:
            what = f"cannot remove the stale lock {lock}"
            with (
                translated_as(RepositoryError, what, "remove it by hand"),
                suppress(FileNotFoundError),
            ):
                while 0 <= time.time() - lock.lstat().st_mtime < _LOCK_AGE_S:
                    time.sleep(0.05)
                lock.unlink()
                cleared.append(lock.relative_to(repo.common_dir).as_posix().removesuffix(".lock"))
    return cleared


def when_unlocked(write: Callable[[], object]) -> None:
    """Writes a ref; waits a little, as git does, while another process is writing it."""
    deadline_s = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            write()
            return
        except (pygit2.GitError, OSError) as error:
            if not _is_locked(error) or time.monotonic() > deadline_s:
                raise
        time.sleep(0.002)


def check_free(repo: Repository, name: str) -> None:
    """Refuses a name that git cannot hold beside the refs that there are.

    Raises:
        SlugError: another ref's name is in the way: `a` and `a/b` cannot both exist.
    """
    parts = name.split("/")
    above = ("/".join(parts[:count]) for count in range(3, len(parts)))
    obstacle = next((folder for folder in above if read_ref(repo, folder) is not None), None)
    obstacle = obstacle or next(iter(list_refs(repo, name)), None)
    if obstacle is None:
        return
    short = _short(obstacle)
    other, kind = f"{short.replace('/', '-')}-old", obstacle.removesuffix(short)
    rename = f"git update-ref {kind}{other} {obstacle} && git update-ref -d {obstacle}"
    if kind == "refs/heads/":
        rename = f"git branch -m {short} {other}"
    raise SlugError(
        f"{_short(name)!r} cannot be created: {short!r} exists, and git"
        " cannot hold a name and names below it",
        hint=f"choose another name, or rename the other: {rename}",
    )


@contextmanager
def created(repo: Repository, name: str) -> Iterator[None]:
    """Says why a ref could not be created in the body.

    Raises:
        RefMovedError: it exists.
        SlugError: another ref's name is in the way.
        RepositoryError: another reason.
    """
    try:
        yield
    except (pygit2.GitError, KeyError, ValueError, OSError) as error:
        current = read_ref(repo, name)
        if current is not None:
            raise RefMovedError(
                f"{name} exists already, at {current[:7]}", hint="choose another name"
            ) from error
        check_free(repo, name)
        raise _not_written(name, error) from error


@contextmanager
def _swapped(repo: Repository, name: str, expected: str) -> Iterator[pygit2.Reference]:
    """The ref as it is expected, for the body to move or delete."""
    # The comparison here is only for the message. What decides is libgit2's own: a loaded reference
    # remembers its value, and to set or delete it fails, under the ref's lock, if another process
    # has moved it since. Reading the ref once more distinguishes that failure from others.
    try:
        reference = repo.pygit.references.get(name)
        current = str(reference.target) if reference is not None else None
        if reference is None or current != expected:
            raise moved(name, expected, current)
        yield reference
    except (pygit2.GitError, KeyError, ValueError, OSError) as error:
        current = read_ref(repo, name)
        if current != expected:
            raise moved(name, expected, current) from error
        raise _not_written(name, error) from error


def moved(name: str, expected: str, current: str | None) -> RefMovedError:
    """The error of a ref that is elsewhere than expected; None: it does not exist."""
    where = f"is at {current[:7]}" if current else "is gone"
    return RefMovedError(
        f"{name} {where}, expected at {expected[:7]}: another process moved it",
        hint=f"see `git reflog {_short(name)}` for who did; then resume",
    )


def _not_written(name: str, error: Exception) -> RepositoryError:
    if _is_locked(error):
        return RepositoryError(
            f"cannot write {name}: it is locked",
            hint=f"if no git command is running, remove {name}.lock from the git folder",
        )
    return RepositoryError(
        f"cannot write {name}: {error}",
        hint="see that the name is valid (`git check-ref-format`) and the disk is not full",
    )


def _is_locked(error: Exception) -> bool:
    reason = str(error)
    return "failed to lock file" in reason or (
        "failed to create locked file" in reason and "File exists" in reason
    )


def log_line(text: str) -> str:
    """A text as one line of a reflog."""
    return " ".join(clean(text).split())


def _short(name: str) -> str:
    return re.sub("^refs/(heads/|tags/)?", "", name)


def delete_refs(repo: Repository, expected: Mapping[str, str]) -> None:
    """Deletes all of some refs, or none if one of them is not where it is expected. Starts git.

    Raises:
        GitCommandError: one was moved meanwhile, or is locked.
    """
    lines = "".join(f"delete {name}\0{oid}\0" for name, oid in expected.items())
    run_git(["update-ref", "--stdin", "-z"], cwd=repo.workdir, stdin=os.fsencode(lines))


def move_refs(repo: Repository, moves: Mapping[str, tuple[str, str | None]], log: str) -> None:
    """Creates and moves all of some refs, or none if one is not where it is expected. Starts git.

    Args:
        moves: Name to what it shall point at, and where it is; None: it does not exist.

    Raises:
        RefMovedError: one was moved meanwhile.
        SlugError: another ref's name is in the way.
        GitCommandError: one is locked, or cannot be written.
    """
    if not moves:
        return
    # An old value of zeros means that the ref must not exist.
    lines = "".join(
        f"update {name}\0{new}\0{old or '0' * len(new)}\0" for name, (new, old) in moves.items()
    )
    command = ["update-ref", "-m", log_line(log), "--stdin", "-z"]
    try:
        run_git(command, cwd=repo.workdir, stdin=os.fsencode(lines))
    except GitCommandError as error:
        for name, (_, old) in moves.items():
            current = read_ref(repo, name)
            if current != old:
                raise moved(name, old or "0000000", current) from error
            if old is None:
                check_free(repo, name)
        raise
