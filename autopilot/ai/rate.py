"""Rate limits: how many requests and tokens may go out in a minute, over all threads."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable

_WINDOW_S = 60.0


class RateLimit:
    """Lets calls wait so that no minute has more than it may. Share one object between models.

    Args:
        requests_per_minute: None: no limit.
        tokens_per_minute: Read and written, as estimated before each call; None: no limit. A call
            that is larger than the limit waits for an empty minute.
        clock: The time in seconds.
        sleep: Waits for seconds.

    >>> RateLimit(requests_per_minute=50).wait(tokens=1000)
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
        self._sent: deque[tuple[float, int]] = deque()
        self._tokens = 0

    def wait(self, tokens: int = 0) -> None:
        """Returns when a call of so many tokens may go out; it counts from then on."""
        if self.requests_per_minute is None and self.tokens_per_minute is None:
            return
        while True:
            with self._lock:
                now = self._clock()
                pause = self._pause(now, tokens)
                if pause <= 0:
                    self._sent.append((now, tokens))
                    self._tokens += tokens
                    return
            self._sleep(pause)

    def _pause(self, now: float, tokens: int) -> float:
        while self._sent and self._sent[0][0] <= now - _WINDOW_S:
            self._tokens -= self._sent.popleft()[1]
        if not self._sent:
            return 0.0
        full = len(self._sent) >= (self.requests_per_minute or math.inf)
        heavy = self._tokens + tokens > (self.tokens_per_minute or math.inf)
        return self._sent[0][0] + _WINDOW_S - now if full or heavy else 0.0
