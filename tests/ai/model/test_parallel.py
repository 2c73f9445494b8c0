"""Work side by side: in order, stopped by the first error, and within the rate limit."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import pytest
from server import fail, say

from autopilot.ai.judge import Judge
from autopilot.ai.model.model import Model
from autopilot.ai.model.parallel import RateLimit, each, to_its_end
from autopilot.ai.steps import PythonStep
from autopilot.core.types import Datum


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


# --- rate limits --------------------------------------------------------------------------------


class Clock:
    """A time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.now = max(self.now, self.now + seconds)


def limit(**limits: int) -> tuple[RateLimit, Clock]:
    clock = Clock()
    return RateLimit(**limits, clock=clock, sleep=clock.sleep), clock


def test_no_minute_has_more_requests_than_it_may() -> None:
    rate, clock = limit(requests_per_minute=3)
    sent = []
    for _ in range(7):
        rate.wait()
        sent.append(clock.now)
    assert sent == [0, 0, 0, 60, 60, 60, 120]


def test_no_minute_has_more_tokens_than_it_may() -> None:
    rate, clock = limit(tokens_per_minute=1000)
    sent = []
    for tokens in (600, 400, 1, 5000, 1):
        rate.wait(tokens)
        sent.append(clock.now)
    # One that is larger than the limit waits for an empty minute, and fills it.
    assert sent == [0, 0, 60, 120, 180]


def test_a_short_answer_makes_room(serve) -> None:
    """A call may write 8,192 tokens; one that writes 20 does not keep others waiting."""
    server = serve([fail(429), fail(529), say("ok")])
    rate, clock = limit(tokens_per_minute=20_000)
    model = Model("claude-haiku-4-5", rate=rate)
    for number in range(20):
        model.complete(f"question {number}")
    assert server.count == 22
    assert clock.now == 0, "20 calls of 120 tokens fit into a minute"


def test_a_call_that_waits_goes_out_when_another_is_answered() -> None:
    rate, clock = limit(tokens_per_minute=1000)
    first = rate.wait(900)
    rate._sleep = lambda seconds: (clock.sleep(seconds), rate.settle(first, 100))
    rate.wait(900)
    assert clock.now == 1


def test_threads_and_models_share_a_limit(serve) -> None:
    server = serve([say("ok")])
    rate, clock = limit(requests_per_minute=10)
    models = [Model("claude-haiku-4-5", rate=rate) for _ in range(2)]
    times: list[float] = []

    def ask(item: int) -> bool:
        models[item % 2].complete(f"question {item}")
        times.append(clock.now)
        return True

    judge = Judge([PythonStep("ask", lambda s: ask(s["n"]))], num_workers=8)
    judged = judge.judge_all([(Datum(metadata={"n": n}), None) for n in range(25)])
    assert all(judgement.success for judgement in judged)
    assert server.count == 25
    # 25 requests at 10 a minute: the third ten of them goes out two minutes after the first.
    assert 120 <= clock.now <= 180
    assert sum(time == 0 for time in times) <= 10


def test_side_by_side_waits_do_not_let_too_many_through() -> None:
    rate, clock = limit(requests_per_minute=5)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: rate.wait(), range(20)))
    assert clock.now >= 180


@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute"])
def test_a_limit_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        RateLimit(**{name: 0})
