"""autopilot.git.locks."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from autopilot.errors import LockHeldError, RepositoryError
from autopilot.git import locks
from autopilot.git.locks import ExclusiveLock, Holder

HOLD = """
import sys, time
from pathlib import Path
from autopilot.git.locks import ExclusiveLock
lock = ExclusiveLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_one_is_told_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "classifier-1.lock"
    first, second = ExclusiveLock(path), ExclusiveLock(path)
    assert first.holder() is None
    assert not path.exists(), "to ask makes no file"
    with first:
        holder = second.holder()
        assert holder is not None
        assert (holder.pid, holder.host) == (os.getpid(), socket.gethostname())
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", holder.since)
        for lock in (first, second):
            with pytest.raises(
                LockHeldError, match=f"classifier-1 is held by process {os.getpid()}"
            ):
                lock.acquire()
        assert first.holder() == holder, "a failed attempt gives nothing back"
    assert second.holder() is None
    with second:
        assert path.exists()
    first.release()


def test_a_kill_releases_it(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p or str(Path.cwd()) for p in sys.path)},
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        holder = ExclusiveLock(path).holder()
        assert holder is not None
        assert holder.pid == child.pid
        with pytest.raises(LockHeldError, match=str(child.pid)):
            ExclusiveLock(path).acquire()
    finally:
        child.kill()
        child.communicate()
    with ExclusiveLock(path) as lock:
        holder = lock.holder()
        assert holder is not None
        assert holder.pid == os.getpid()


def test_what_a_dead_holder_left_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is named by its first process: a kill of that one ends the others a moment later."""
    path, gone = tmp_path / "x.lock", subprocess.Popen(["true"])
    gone.wait()
    monkeypatch.setattr(locks, "signer", [gone.pid])
    left = ExclusiveLock(path)
    left.acquire()
    released = threading.Timer(0.5, left.release)
    released.start()
    with ExclusiveLock(path) as lock:
        assert lock.held
    released.join()
    monkeypatch.setattr(locks, "_ATTEMPTS_OF_DEAD", 7)
    for pid in (gone.pid, 10**30):  # also one that no system has, as of a damaged record
        monkeypatch.setattr(locks, "signer", [pid])
        with left, pytest.raises(LockHeldError, match=f"by what is left of process {pid} on "):
            ExclusiveLock(path).acquire()


def test_a_damaged_record_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    with ExclusiveLock(path):
        path.write_bytes(b"{")
        assert ExclusiveLock(path).holder() == Holder(0, "", "")
        with pytest.raises(LockHeldError, match="held by another process"):
            ExclusiveLock(path).acquire()


def test_a_file_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RepositoryError, match="cannot lock"):
        ExclusiveLock(tmp_path / "file" / "x.lock").acquire()
