"""Signals: a run that is told to stop records where it is, and can be resumed."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType

listeners: list[Callable[[], None]] = []
"""Called at each signal; a supervised child adds one."""

_SILENT_S = 1.0
_WAITING = b"\nstopping once the calls are answered that are paid; Ctrl-C again stops at once\n"


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does; a second signal ends the process.

    Where it takes longer, since calls that are paid are waited for, it says so.
    """

    def interrupt(number: int, _frame: FrameType | None) -> None:
        for listener in listeners:
            listener()
        signal.signal(number, signal.SIG_DFL)
        # An alarm of somebody else, such as a time limit on this process, stays theirs.
        if signal.getsignal(signal.SIGALRM) == signal.SIG_DFL and not _is_alarm_set():
            signal.signal(signal.SIGALRM, tell)
            signal.setitimer(signal.ITIMER_REAL, _SILENT_S)
        raise KeyboardInterrupt

    def tell(_number: int, _frame: FrameType | None) -> None:
        os.write(2, _WAITING)  # a stream could be in the middle of a line

    before = {}
    with contextlib.suppress(ValueError):  # not the main thread: signals are somebody else's
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, theirs in before.items():
            signal.signal(number, theirs)
        if signal.getsignal(signal.SIGALRM) is tell:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _is_alarm_set() -> bool:
    return signal.getitimer(signal.ITIMER_REAL)[0] > 0
