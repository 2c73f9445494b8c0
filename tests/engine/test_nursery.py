"""The process that starts candidates."""

import os
import signal
from pathlib import Path

import pytest

from autopilot.engine.nursery import AheadTask, Nursery
from autopilot.engine.options import Options
from autopilot.errors import ExperimentError
from autopilot.git.locks import ExclusiveLock


def test_its_end_is_said_with_what_to_do(tmp_path: Path) -> None:
    (lock := ExclusiveLock(tmp_path / "lock")).acquire()
    nursery = Nursery(lock)
    os.kill(nursery._pid, signal.SIGKILL)
    with pytest.raises(ExperimentError, match="ended from outside") as error:
        nursery.work(AheadTask(tmp_path, "demo", 1, (), Options(), 0))
    assert "autopilot resume demo" in error.value.hint
    nursery.close()
    lock.release()
