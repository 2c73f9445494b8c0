"""Signals of a run, beside those of whoever starts it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from autopilot.engine.supervisor import interruptible


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """The alarms that somebody else's handler heard."""
    numbers: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _frame: numbers.append(number))
    yield numbers
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


# An alarm of the test's own time limit would be left alone, and none set.
pytestmark = pytest.mark.timeout(600, method="thread")


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_time_limit_of_somebody_else_holds(heard, capfd, interrupted) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.2)
    try:
        with interruptible():
            if interrupted:
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
    except KeyboardInterrupt:
        pass
    time.sleep(0.2)
    assert len(heard) >= (1 if interrupted else 2)
    assert signal.getitimer(signal.ITIMER_REAL)[1] == 0.2
    assert capfd.readouterr().err == ""


def test_a_run_leaves_no_alarm_of_its_own() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert [signal.getsignal(n) for n in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM)] == before
