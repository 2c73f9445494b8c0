"""Work side by side: in order, and stopped by the first error."""

from __future__ import annotations

import threading
import time
from contextvars import ContextVar

import pytest

from autopilot.ai.parallel import each


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
