"""Outages: a service that a measurement needs does not answer; no fault of the system.

The one place that decides which failures those are, and that waits until they are over.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from autopilot.core.records.ledger import Ledger
from autopilot.core.records.message import one_line
from autopilot.errors import (
    AutopilotError,
    BudgetExceededError,
    ModelCallError,
    ModuleError,
    NoMoreCallsError,
    OutageError,
    UserCodeError,
)
from autopilot.text import redact

if TYPE_CHECKING:
    from autopilot.core.module import AutoPilotModule

T = TypeVar("T")
W = TypeVar("W")
ErrorTypes = tuple[type[BaseException], ...]

MAX_WAIT_S = 1800.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_INSTANT_S = 0.01
_SHOWN = 300


def infrastructure_in(error: BaseException, types: ErrorTypes = ()) -> BaseException | None:
    """The failure of a service or program in an error or in what led to it; None if there is none.

    Transient ones are worth waiting for: a model call that got no answer, or 408, 429 or 5xx; the
    standard library's ConnectionError and TimeoutError; and the given types. A NoMoreCallsError is
    final. Errors of libraries count by the errors that caused them, an ExceptionGroup if that holds
    for each of its errors.

    Args:
        types: Those in the module's `transient_errors`.

    >>> infrastructure_in(ConnectionResetError("gone"))
    ConnectionResetError('gone')
    >>> infrastructure_in(ValueError("no number")) is None
    True
    """
    for each in _chain(error):
        if isinstance(each, KeyboardInterrupt):
            return None
        transient = isinstance(each, (ConnectionError, TimeoutError, *types))
        if isinstance(each, ModelCallError):
            transient = each.status in (0, 408, 429) or each.status >= 500
        if transient or isinstance(each, NoMoreCallsError):
            return each
        if isinstance(each, BaseExceptionGroup):
            found = [infrastructure_in(one, types) for one in each.exceptions]
            return found[0] if all(found) else None
        if isinstance(each, AutopilotError) and not isinstance(each, UserCodeError):
            # Ours say what happened; what was being handled meanwhile does not matter.
            return None
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)


def transient_errors_of(module: AutoPilotModule) -> ErrorTypes:
    """The error types that a module lists in `transient_errors`.

    Raises:
        ModuleError: not a tuple of exception types.
    """
    given: Any = module.transient_errors
    where = f"{type(module).__name__}.transient_errors"
    if not isinstance(given, tuple | list):
        given = [given]
    for each in given:
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise ModuleError(
                f"{where} has {each!r}, which is no exception type",
                hint="list exception classes: transient_errors = (psycopg.OperationalError,)",
            )
    return tuple(given)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A pause during an outage.

    Args:
        reason: What does not answer, in one line.
        pause_s: Seconds until the next try.
        waited_s: Seconds since the outage began.
        max_wait_s: How long it is waited for in all.
    """

    reason: str
    pause_s: float
    waited_s: float
    max_wait_s: float


class Outages:
    """Waits, with growing pauses, until something answers again.

    Args:
        max_wait_s: Seconds at most for one outage; 0: no waiting.
        types: Those in the module's `transient_errors`.
        call: Runs a moment of the callbacks: "on_outage" before each pause, with a Waiting, and
            "on_outage_end" with the seconds that the outage took.

    >>> Outages().wait_out(lambda: 42)
    42
    """

    def __init__(
        self,
        max_wait_s: float = 0.0,
        types: ErrorTypes = (),
        call: Callable[..., object] = lambda *_: None,
    ) -> None:
        self.max_wait_s, self.types = max_wait_s, types
        self._call = call

    def wait_out(
        self,
        work: Callable[[], T],
        *,
        undo: Callable[[], object] = lambda: None,
        progress: Callable[[], int] = lambda: 0,
        ledger: Ledger | None = None,
        look: Callable[[], object] = lambda: None,
    ) -> T:
        """Does the work, again and again while a service that it needs does not answer.

        Args:
            work: May be called several times.
            undo: Called after each failure, before the pause.
            progress: Grows when a part of the work has succeeded for good: the next failure is a
                new outage then.
            ledger: Whose time limit ends the waiting.
            look: Called before each pause; what it raises ends the waiting.

        Raises:
            OutageError: it did not answer for `max_wait_s`.
            BudgetExceededError: the ledger's time is up.
        """
        began: float | None = None
        since, done, pause_s = 0.0, 0, _FIRST_PAUSE_S
        while True:
            try:
                result = work()
            except BaseException as error:
                found = infrastructure_in(error, self.types)
                if found is None or (found is error and isinstance(error, NoMoreCallsError)):
                    raise
                if isinstance(found, NoMoreCallsError):
                    raise found from None
                undo()
                now, so_far = time.monotonic(), progress()
                if began is None or so_far > done:
                    since, done, pause_s = now, so_far, _FIRST_PAUSE_S
                began = now if began is None else began
                left_s = self.max_wait_s - (now - since)
                if left_s < _INSTANT_S:
                    waited = f" (waited for {now - since:.0f} s)" if now > since else ""
                    message = f"no answer: {_reason(found)}{waited}"
                    raise OutageError(message, hint="wait until it answers") from error
                pause_s = min(pause_s, left_s)
                waiting = Waiting(_reason(found), pause_s, now - since, self.max_wait_s)
            else:
                if began is not None:
                    self._call("on_outage_end", time.monotonic() - began)
                return result
            self._call("on_outage", waiting)
            look()
            sleep(waiting.pause_s, ledger, "waiting for a service")
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


def side_by_side(
    pool: ThreadPoolExecutor, function: Callable[[W], T], work: Sequence[W], done: dict[int, T]
) -> list[T]:
    """Calls a function for each piece of work in threads; results in the order of the work.

    The first error ends it, once the calls in progress are over: none may run beside its repeat.

    Args:
        function: Called in the threads, with the context of this call.
        done: Position to result of finished pieces, which are not done again. Further ones are
            added, also where another piece raises.
    """
    futures = {
        position: pool.submit(copy_context().run, function, piece)
        for position, piece in enumerate(work)
        if position not in done
    }
    try:
        wait(futures.values(), return_when=FIRST_EXCEPTION)
    finally:
        begun = {position: each for position, each in futures.items() if not each.cancel()}
    wait(begun.values())
    done |= {position: each.result() for position, each in begun.items() if not each.exception()}
    for each in begun.values():
        each.result()
    return [done[position] for position in range(len(work))]


def sleep(pause_s: float, ledger: Ledger | None, what: str) -> None:
    """Sleeps, within the time of a budget.

    Raises:
        BudgetExceededError: the time is up, while doing `what`.
    """
    limit_s = math.inf if ledger is None else ledger.limits.seconds
    left_s = math.inf if ledger is None else limit_s - ledger.elapsed_s()
    time.sleep(max(min(pause_s, left_s), 0.0))
    if left_s <= pause_s:
        raise BudgetExceededError(
            f"time budget: {limit_s:g} s spent, {what}",
            hint="give it a larger budget and resume: nothing is paid twice",
        )


def _reason(error: BaseException) -> str:
    if isinstance(error, AutopilotError):
        return one_line(error.message, _SHOWN)
    return one_line(redact(f"{type(error).__name__}: {error}"), _SHOWN)
