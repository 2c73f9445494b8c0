"""Work side by side: in order, and stopped by the first error."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextvars import ContextVar

import pytest

from autopilot.ai.model.parallel import each, to_its_end


def test_results_come_in_order_and_are_told_as_they_come() -> None:
    told: list[int] = []

    def slow(number: int) -> int:
        time.sleep(0.02 * (3 - number))
        return number * 10

    assert each(slow, [0, 1, 2], 3, told.append) == [0, 10, 20]
    assert told == [1, 2, 3]
    assert each(slow, [], 3) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_what_has_not_begun(error) -> None:
    begun: list[int] = []
    ended: list[int] = []
    gate = threading.Event()

    def work(number: int) -> None:
        begun.append(number)
        if number == 0:
            raise error
        gate.wait(0.1)
        ended.append(number)

    with pytest.raises(error):
        each(work, list(range(50)), 2)
    assert len(begun) < 10
    # What had begun is finished: it may have been paid.
    assert len(ended) == len(begun) - 1


def test_the_context_of_the_caller_holds_in_the_threads() -> None:
    variable: ContextVar[str] = ContextVar("variable")
    variable.set("seen")
    assert each(lambda _: variable.get(), [1, 2], 2) == ["seen", "seen"]


def test_what_is_paid_is_done_before_ctrl_c_is_raised() -> None:
    place: ContextVar[str] = ContextVar("place")
    place.set("here")
    ended: list[str] = []

    def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        ended.append(place.get())

    with pytest.raises(KeyboardInterrupt):
        to_its_end(work)
    assert ended == ["here"]
    with pytest.raises(ZeroDivisionError):
        to_its_end(lambda: 1 // 0)
