"""Loose objects are packed by git: at once, or beside a run that goes on meanwhile."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from autopilot.git.commands import for_git, run_git
from autopilot.git.locks import one_at_a_time
from autopilot.git.repository import Repository

_SAMPLE = "17"
_LOOSE_NAME = re.compile(r"[0-9a-f]{38}")
# Git compares each object with the nearest ten. The trees of several kinds of notes are of one size
# and stand mixed in its order: too few of the ten are of the same kind.
_PACKING = ("-c", "pack.window=30", "-c", "pack.windowMemory=64m")
_PACK_LISTED = ("pack-objects", "--quiet", "--non-empty")
_LOOSE_AT_MOST = 6700  # git's own default


def maintain(repo: Repository, *, only_loose: bool = False) -> bool:
    """Packs objects by git, and waits for that; deletes none.

    Args:
        only_loose: No pack goes in which another process may be reading.

    Returns:
        Whether it ran: not if `gc.auto` is 0.
    """
    if not _loose_at_most(repo):
        return False
    with one_at_a_time(repo.common_dir / "objects"):
        # Each pack is at least twice as large as the next; git before 2.32 does not know how.
        repack = [*_PACKING, "repack", "--geometric=2", "-d", "--quiet"]
        if only_loose or run_git(repack, cwd=repo.workdir, check=False).returncode:
            listed = "\n".join(_loose(repo)).encode()
            run_git([*_PACKING, *_PACK_LISTED, _packs(repo)], cwd=repo.workdir, stdin=listed)
            run_git(["prune-packed", "--quiet"], cwd=repo.workdir)
    return True


def start_packing(repo: Repository, before: int = 0) -> int:
    """Starts to pack loose objects beside this process, if there are too many by `gc.auto`.

    At the lowest priority, one such process at a time for a repository. No pack goes: whoever reads
    in it goes on. It outlives this process; a kill loses nothing.

    Args:
        before: What the last call returned.

    Returns:
        The id of a child that packs, which the next call waits for; 0 if there is none.
    """
    with contextlib.suppress(ChildProcessError):
        if before and os.waitpid(before, os.WNOHANG) == (0, 0):
            return before
    most, folder = _loose_at_most(repo), repo.common_dir / "objects"
    if not most or count_loose(repo) <= most:
        return 0
    git = shlex.join(["git", "-C", str(repo.workdir), "-c", "pack.threads=1", *_PACKING])
    command = f"{git} {shlex.join([*_PACK_LISTED, _packs(repo)])} && {git} prune-packed --quiet"
    # Where a system cannot do it so, the next `autopilot gc` packs.
    unable = contextlib.suppress(OSError, NotImplementedError)
    with contextlib.ExitStack() as stack, unable:
        lock = os.open(folder, os.O_RDONLY)
        stack.callback(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # That process inherits the lock: it is held until the last of its children ends.
        os.set_inheritable(lock, True)
        listed = stack.enter_context(tempfile.TemporaryFile())
        listed.write("\n".join(_loose(repo)).encode())
        listed.seek(0)
        silent = [(os.POSIX_SPAWN_OPEN, each, os.devnull, os.O_WRONLY, 0) for each in (1, 2)]
        return os.posix_spawnp(
            "nice",
            ["nice", "-n", "19", "sh", "-c", command],
            for_git(),
            file_actions=[(os.POSIX_SPAWN_DUP2, listed.fileno(), 0), *silent],
            setsid=True,
        )
    return 0


def wait_for_prune(repo: Repository) -> None:
    """Waits while the user's `git gc --prune=now` runs: it deletes what no ref has yet."""
    deadline_s = time.monotonic() + 600  # a git that was stopped by hand may never end
    with contextlib.suppress(OSError):
        while time.monotonic() < deadline_s:
            pid = (repo.common_dir / "gc.pid").read_text(errors="replace").partition(" ")[0]
            if b"prune" not in Path("/proc", pid, "cmdline").read_bytes():
                break
            time.sleep(0.05)


def count_loose(repo: Repository) -> int:
    """About how many loose objects there are: 256 times those in one folder, as git does it."""
    return 256 * sum(1 for _ in _loose(repo, [_SAMPLE]))


def _loose(repo: Repository, folders: Iterable[str] = ()) -> Iterator[str]:
    for folder in folders or map("{:02x}".format, range(256)):
        with contextlib.suppress(OSError):
            for name in os.listdir(repo.common_dir / "objects" / folder):
                if _LOOSE_NAME.fullmatch(name):
                    yield folder + name


def _loose_at_most(repo: Repository) -> int:
    """How many loose objects the user's git leaves alone; 0: it never packs."""
    try:
        return max(0, int(repo.config("gc.auto") or _LOOSE_AT_MOST))
    except ValueError:
        return _LOOSE_AT_MOST


def _packs(repo: Repository) -> str:
    """How the paths of new packs begin."""
    return str(repo.common_dir / "objects" / "pack" / "pack")
