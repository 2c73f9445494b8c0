"""Signals: a run that is told to stop records where it is, and can be resumed."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

_SILENT_S = 1.0
_WAITING = b"\nstopping once the calls are answered that are paid; Ctrl-C again stops at once\n"


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does; a second signal ends the process.

    Where it takes longer, since calls that are paid are waited for, it says so.
    """

    def interrupt(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        if signal.getsignal(signal.SIGALRM) is tell:
            signal.setitimer(signal.ITIMER_REAL, _SILENT_S)
        raise KeyboardInterrupt

    def tell(_number: int, _frame: FrameType | None) -> None:
        os.write(2, _WAITING)  # a stream could be in the middle of a line

    before = {}
    with contextlib.suppress(ValueError):  # not the main thread: signals are somebody else's
        for number, handler in (
            (signal.SIGALRM, tell),
            (signal.SIGINT, interrupt),
            (signal.SIGTERM, interrupt),
        ):
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        if before and signal.getsignal(signal.SIGALRM) is tell:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, theirs in before.items():
            signal.signal(number, theirs)
