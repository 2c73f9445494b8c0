"""Locks: one that a process at a time holds and a kill releases, and those that git leaves."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from autopilot.errors import LockHeldError, RepositoryError, translated_as
from autopilot.git.repository import Repository

signer: list[int] = []
"""The process that ends with this one, where it is to be named as the holder instead."""


def named() -> int:
    """The process that a lock of this one names as its holder."""
    return [os.getpid(), *signer][-1]


def is_alive(pid: int) -> bool:
    """Whether there is such a process on this machine, of whichever user."""
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError) as error:  # no process has such a number
        return isinstance(error, PermissionError)
    return True


_ATTEMPTS, _ATTEMPTS_OF_DEAD = 5, 1000
_LOCK_AGE_S = 1.0
# Anybody may hold it, but none for so long: packing hundreds of thousands of refs takes seconds.
_PACKED_AGE_S = 600.0
# File times are a few milliseconds old when they are written, and a machine's clock is corrected.
_CLOCKS_S = 60.0
_PAUSE_S = 0.01


@dataclass(frozen=True, slots=True)
class Holder:
    """The holder of a lock: process id, host, since when (ISO 8601, UTC); 0 and "" if unknown."""

    pid: int
    host: str
    since: str

    def is_dead(self) -> bool:
        """Whether it is of this machine, and has ended: processes that it started hold the lock."""
        return self.pid > 0 and self.host == socket.gethostname() and not is_alive(self.pid)


class ExclusiveLock:
    """An advisory lock on a file, by `flock`.

    The system releases it when its process ends, however it ends. The file stays: to remove it
    would let two processes each lock a file of the same name. Not reentrant, and not to be shared
    between threads.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with ExclusiveLock(Path(folder) / "run.lock") as lock:
        ...         lock.holder() is not None
        True
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds it."""
        return self._handle is not None

    def acquire(self) -> None:
        """Takes the lock. It is waited for where its holder is dead: what that started ends soon.

        Raises:
            LockHeldError: it is held, by another process or by this one.
            RepositoryError: the file cannot be made or locked.
        """
        if self._handle is not None:
            raise self._held(self.holder())
        with _usable(self.path), contextlib.ExitStack() as opened:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            opened.callback(os.close, handle)
            for attempt in count():
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    # `holder` of another process may touch it for an instant: insist a little.
                    holder = _read_holder(self.path)
                    if attempt >= (_ATTEMPTS_OF_DEAD if holder.is_dead() else _ATTEMPTS):
                        raise self._held(holder) from error
                    time.sleep(_PAUSE_S)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            record = {"pid": named(), "host": socket.gethostname(), "since": now}
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(record).encode() + b"\n", 0)
            opened.pop_all()
        self._handle = handle

    def release(self) -> None:
        """Gives the lock back; nothing happens if it is not held."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            os.close(handle)

    @contextlib.contextmanager
    def released_on_failure(self) -> Iterator[None]:
        """Gives the lock back if the body fails or is interrupted, keeps it otherwise."""
        try:
            yield
        except BaseException:
            self.release()
            raise

    def holder(self) -> Holder | None:
        """The holder of the lock now, None if it is free.

        Finding out takes a free lock for an instant, in shared mode.
        """
        if self._handle is not None:
            return _read_holder(self.path)
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return _read_holder(self.path)
        finally:
            os.close(handle)
        return None

    def __enter__(self) -> ExclusiveLock:
        self.acquire()
        return self

    def __exit__(self, *_error: object) -> None:
        self.release()

    def _held(self, holder: Holder | None) -> LockHeldError:
        who = "another process"
        if holder is not None and holder.pid:
            who = f"process {holder.pid} on {holder.host}, since {holder.since}"
            who = f"what is left of {who}" if holder.is_dead() else who
        return LockHeldError(
            f"{self.path.stem} is held by {who}", hint="wait until it is done, or stop it"
        )


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Waits until no other process is in such a body for the same folder. Leaves no file.

    Not reentrant.
    """
    with contextlib.ExitStack() as stack:
        with _usable(folder):
            handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _usable(path: Path) -> contextlib.AbstractContextManager[None]:
    return translated_as(RepositoryError, f"cannot lock {path}", "{remedy}")


def _read_holder(path: Path) -> Holder:
    """The record in the file; empty between taking the lock and writing the record."""
    try:
        record = json.loads(path.read_bytes())
        return Holder(int(record["pid"]), str(record["host"]), str(record["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Holder(0, "", "")


def stale_locks(repo: Repository, prefixes: Sequence[str]) -> Iterator[Path]:
    """The `.lock` files beside and below some refs and folders of refs.

    And that of packed refs, without which none is deleted, if a killed process left it: it is old,
    and no process of git is as old.
    """
    for place in (repo.common_dir / prefix for prefix in prefixes):
        # Not by rglob: a folder may have a tag for each of ten thousand epochs.
        below = ((at, name) for at, _, names in os.walk(place) for name in names)
        locks = sorted(Path(at, name) for at, name in below if name.endswith(".lock"))
        yield from (lock for lock in (Path(f"{place}.lock"), *locks) if lock.is_file())
    packed = repo.common_dir / "packed-refs.lock"
    with contextlib.suppress(FileNotFoundError):
        age_s = time.time() - packed.lstat().st_mtime
        if age_s > _PACKED_AGE_S and _oldest_git_s() < age_s - _CLOCKS_S:
            yield packed


def _oldest_git_s() -> float:
    """For how long the oldest process of git has been running; infinity where none can be seen."""
    ages_s = [0.0 if Path("/proc/self/stat").is_file() else math.inf]
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            name, _, fields = (folder / "stat").read_text(errors="replace").rpartition(")")
            if name.partition("(")[2].startswith("git") and not fields.startswith(" Z"):
                started_s = int(fields.split()[19]) / os.sysconf("SC_CLK_TCK")
                ages_s.append(time.clock_gettime(time.CLOCK_BOOTTIME) - started_s)
    return max(ages_s)


def clear_stale_locks(repo: Repository, prefixes: Sequence[str]) -> list[str]:
    """Removes the `.lock` files that a killed process left beside some refs, and returns these.

    Only for names that no other process writes: the caller holds the experiment's lock. A file that
    is younger than a second is waited for, since a `git` command may be about to finish. That of
    packed refs goes too, see `stale_locks`.

    Args:
        prefixes: Refs and folders of refs, `refs/heads/autopilot/fix-1`.
    """
    cleared: list[str] = []
    for lock in stale_locks(repo, prefixes):
        what = f"cannot remove the stale lock {lock}"
        refused = translated_as(RepositoryError, what, "remove it by hand")
        with refused, contextlib.suppress(FileNotFoundError):
            while 0 <= time.time() - lock.lstat().st_mtime < _LOCK_AGE_S:
                time.sleep(0.05)
            lock.unlink()
            cleared.append(lock.relative_to(repo.common_dir).as_posix().removesuffix(".lock"))
    return cleared
