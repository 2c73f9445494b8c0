"""Processes that an agent left: a group's end does not reach what left the group."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_NAME = "AUTOPILOT_AGENT_IN"
_ATTEMPTS = 3
_ADOPT = 36  # PR_SET_CHILD_SUBREAPER of Linux' prctl


def mark(workdir: Path) -> dict[str, str]:
    """What an agent's processes have in their environment: where they were let in."""
    return {_NAME: str(workdir)}


def end_marked(workdir: Path) -> None:
    """Ends the processes of agents of a worktree, where the system tells of them (Linux).

    They would write there later: during an evaluation, or, after a kill, in the resumed run.
    """
    wanted = os.fsencode(f"{_NAME}={workdir}")
    for _ in range(_ATTEMPTS):
        found = False
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    os.kill(int(folder.name), signal.SIGKILL)
                    found = True
        if not found:
            return


def adopt(*, is_on: bool) -> float:
    """From here on, a process whose parent ends is a child of this one (Linux), or no longer.

    So is found what emptied its environment, and bears no mark.

    Returns:
        The time, in the system's ticks, for `end_adopted`.
    """
    if not sys.platform.startswith("linux"):
        return 0.0
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_ADOPT, int(is_on), 0, 0, 0)
    return time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")


def end_adopted(since: float, *, everywhere: bool = False) -> None:
    """Ends the children of this process that began since then and left its session (Linux).

    Args:
        since: What `adopt` returned.
        everywhere: Those of its session too.
    """
    ended = set()
    while found := [pid for pid in _strangers(since, everywhere=everywhere) if pid not in ended]:
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
            ended.add(pid)


def _strangers(since: float, *, everywhere: bool) -> Iterator[int]:
    own, session = os.getpid(), os.getsid(0)
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # Behind the name: state, parent, group, session, and as the 20th the time it began.
            told = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            parent, its_session, born = int(told[1]), int(told[3]), int(told[19])
            left = everywhere or its_session != session
            if parent == own and left and born >= int(since):
                yield int(folder.name)
