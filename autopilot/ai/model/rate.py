"""Rate limits: how many requests and tokens may go out in a minute, over all threads."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

_WINDOW_S = 60.0
_LOOK_S = 1.0


@dataclass(eq=False, slots=True)
class Sent:
    """A call that went out.

    Args:
        time_s: When.
        tokens: With how many it counts.
        is_open: Whether it is not answered yet.
    """

    time_s: float
    tokens: int
    is_open: bool = True


class RateLimit:
    """Lets calls wait so that no minute has more than it may. Share one object between models.

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
        """Returns when a call of so many tokens may go out; it counts from then on."""
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
        """A call is answered, and took so many tokens."""
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
        # An answer that was shorter than it could be makes room earlier.
        return min(pause, _LOOK_S) if any(sent.is_open for sent in self._sent) else pause
