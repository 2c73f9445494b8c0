"""Processes that an agent left: a group's end does not reach what left the group."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

_NAME = "AUTOPILOT_AGENT_IN"
_ATTEMPTS = 3


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
