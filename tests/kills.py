"""SIGKILL at random moments of a run: to the parent, to the child that evaluates, or to both."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.cli.conftest import Done, Place

WHO = ("parent", "child", "both")
MOMENTS = int(os.environ.get("AUTOPILOT_KILLS", "5"))
"""How many moments each test draws; 40 for a thorough look."""


def kills(
    place: Place, who: str, start: Callable[[str], Any], duration_s: float
) -> Iterator[tuple[str, Done]]:
    """Kills a new run each time; it yields the run's name, and how it ended, or what it became.

    Args:
        place: The repository.
        who: One of WHO.
        start: Starts the run of a name.
        duration_s: How long a run takes that nobody kills.
    """
    seed = int(os.environ.get("AUTOPILOT_KILLS_SEED", "0")) or random.randrange(1, 10**6)
    # Shown if the test fails.
    print(f"AUTOPILOT_KILLS_SEED={seed} AUTOPILOT_KILLS={MOMENTS}, {who}")
    chance, killed, number = random.Random(seed), 0, 0
    while killed < MOMENTS:
        number += 1
        slug, delay_s = f"{who}-{number}", chance.uniform(0.02, duration_s)
        process = start(slug)
        time.sleep(delay_s)
        pids = [] if who == "parent" else forks(process.pid)
        pids += [] if who == "child" else [process.pid]
        chance.shuffle(pids)
        is_running = process.poll() is None and bool(pids)
        for pid in pids if is_running else ():
            # It may have ended by itself just now.
            send_kill(pid)
        done = place.finish(process)
        if who == "child":
            is_killed = is_running and "SIGKILL" in done.out + done.err
        else:
            is_killed = done.code == -signal.SIGKILL
        if is_killed:
            killed += 1
            print(f"{slug}: killed after {delay_s:.3f} s")
            check_no_process(process.pid)
            yield slug, done
        elif "exit code -9" in done.err:
            # A git that was just forked, and looked like a process of ours, was killed.
            continue
        else:
            # It was faster than the first one, or between two children: such a kill is none.
            assert done.code == 0, done
            duration_s *= 0.97
        assert len(place.git("worktree", "list").splitlines()) == 1, slug


def send_kill(pid: int) -> None:
    """Kills a process that may be gone."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def forks(pid: int) -> list[int]:
    """The processes that a process started of its own program: no git."""
    own = command_line(pid)
    return [child for child in children(pid) if command_line(child) == own]


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(each) for each in text.split()]


def check_no_process(session: int) -> None:
    """No process of a command is left; each has a session of its own."""
    deadline = time.monotonic() + 10
    while left := [pid for pid, its, state in _processes() if its == session and state != "Z"]:
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def _processes() -> Iterator[tuple[int, int, str]]:
    """Number, session and state of all processes."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        yield int(path.parent.name), int(fields[3]), fields[0]


def check_nothing_left(place: Place) -> None:
    """No lock of git's, and nothing that git finds wrong."""
    place.check_sound()
    folder = place.top / ".git"
    locks = [path for path in folder.rglob("*.lock") if folder / "autopilot" not in path.parents]
    assert locks == []
