"""Calls side by side: threads that wait on the network, and the pace that they keep."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextvars import copy_context
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_WINDOW_S = 60.0
_LOOK_S = 1.0


def each(
    function: Callable[[T], R],
    work: Sequence[T],
    num_workers: int,
    finished: Callable[[int], None] = lambda _: None,
) -> list[R]:
    """The function's result for each item, in the items' order.

    The first error, Ctrl-C included, ends it: calls that have begun are waited for, since they are
    paid, and no further one begins.

    Args:
        function: Called in the threads, with the context of this call.
        work: The items.
        num_workers: Number of threads.
        finished: Called in this thread, after each item, with the number of finished items.

    >>> each(lambda number: number * 2, [1, 2, 3], num_workers=2)
    [2, 4, 6]
    """
    if not work:
        return []
    with ThreadPoolExecutor(max(1, min(num_workers, len(work)))) as pool:
        futures = [pool.submit(copy_context().run, function, item) for item in work]
        try:
            for number, future in enumerate(as_completed(futures), start=1):
                future.result()
                finished(number)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]


def to_its_end(work: Callable[[], R]) -> R:
    """The work's result; Ctrl-C waits for it, since it is paid, and a second Ctrl-C does not.

    Args:
        work: Called with the context of this call; in another thread if Ctrl-C would interrupt it.

    >>> to_its_end(lambda: 42)
    42
    """
    # Python raises KeyboardInterrupt in the main thread only.
    if threading.current_thread() is not threading.main_thread():
        return work()
    future: Future[R] = Future()
    context = copy_context()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(context.run(work))
        except BaseException as error:  # noqa: BLE001  # it is raised where it is waited for
            future.set_exception(error)

    try:
        threading.Thread(target=run, daemon=True).start()
        return future.result()
    except KeyboardInterrupt:
        if not future.cancel():
            # The work has begun: wait for its end, whatever that is.
            future.exception()
        raise


@dataclass(eq=False, slots=True)
class Sent:
    """A call that was sent.

    Args:
        tokens: The tokens that it counts with.
        is_open: Whether its answer is outstanding.
    """

    time_s: float
    tokens: int
    is_open: bool = True


class RateLimit:
    """Delays calls so that no minute exceeds the limits. Share one object between models.

    Args:
        requests_per_minute: None: no limit.
        tokens_per_minute: Read and written; None: no limit. A call counts with the most that it
            can take until it is answered, then with what it took. One that can take more than the
            limit waits for an empty minute.
        clock: The time in seconds.
        sleep: Waits for seconds.

    >>> rate = RateLimit(requests_per_minute=50)
    >>> rate.settle(rate.wait(tokens=1000), tokens=120)
    """

    def __init__(
        self,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        for limit in (requests_per_minute, tokens_per_minute):
            if limit is not None and limit < 1:
                raise ValueError(f"a limit per minute must be at least 1, not {limit}")
        self.requests_per_minute = requests_per_minute
        self.tokens_per_minute = tokens_per_minute
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._sent: deque[Sent] = deque()
        self._tokens = 0

    def wait(self, tokens: int = 0) -> Sent:
        """Returns when a call of at most so many tokens may be sent; it counts from then on."""
        if self.requests_per_minute is None and self.tokens_per_minute is None:
            return Sent(0.0, tokens)
        while True:
            with self._lock:
                now = self._clock()
                pause = self._pause(now, tokens)
                if pause <= 0:
                    sent = Sent(now, tokens)
                    self._sent.append(sent)
                    self._tokens += tokens
                    return sent
            self._sleep(pause)

    def settle(self, sent: Sent, tokens: int) -> None:
        """Notes that a call was answered, and took so many tokens."""
        with self._lock:
            if sent in self._sent:
                self._tokens += tokens - sent.tokens
            sent.tokens, sent.is_open = tokens, False

    def _pause(self, now: float, tokens: int) -> float:
        while self._sent and self._sent[0].time_s <= now - _WINDOW_S:
            self._tokens -= self._sent.popleft().tokens
        if not self._sent:
            return 0.0
        pause = self._sent[0].time_s + _WINDOW_S - now
        if len(self._sent) >= (self.requests_per_minute or math.inf):
            return pause
        if self._tokens + tokens <= (self.tokens_per_minute or math.inf):
            return 0.0
        # An answer that is shorter than it could be makes room before the minute is over.
        return min(pause, _LOOK_S) if any(sent.is_open for sent in self._sent) else pause
