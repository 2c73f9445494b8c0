"""The run in progress: the way of a model call, wherever it is made, to its experiment and budget.

A context variable, set by the Trainer around fit and test. A thread that was started without the
context finds the run too, as long as there is only one.
"""

from __future__ import annotations

import gc
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from autopilot.core.callback import Hooks
from autopilot.core.exchanges import StepItems
from autopilot.core.outages import Outages, infrastructure_in
from autopilot.core.records.ledger import Ledger
from autopilot.core.types import Cost
from autopilot.errors import NoMoreCallsError

if TYPE_CHECKING:
    from autopilot.core.experiment import Experiment
    from autopilot.core.policy import Decision
    from autopilot.core.records.history import KnownState
    from autopilot.core.records.record import LlmRecord

S = TypeVar("S")
T = TypeVar("T")


class EpochMeter:
    """Adds up the cost of the epoch in progress: evaluations, model calls, steps and wall clock."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._cost = ledger, Cost()
        self._began_s: float | None = None

    def start(self, before_s: float) -> None:
        """Begins an epoch.

        Args:
            before_s: The seconds that earlier sessions spent on it.
        """
        self._cost, self._began_s = Cost(), time.monotonic() - before_s

    def add(self, cost: Cost) -> None:
        """Adds evaluations, or a step with the calls made inside; their time counts anyway."""
        self._cost += cost

    def seconds(self) -> float:
        """The wall clock of the epoch so far, over all sessions; 0 before the first epoch."""
        return 0.0 if self._began_s is None else time.monotonic() - self._began_s

    def cost(self) -> Cost:
        """The cost of the epoch so far."""
        self._cost += self._ledger.take_epoch()
        return replace(self._cost, seconds=self.seconds())


class Run:
    """An experiment that is being worked on, and the epoch in progress.

    Args:
        experiment: Where calls are recorded.
        ledger: The cost of model calls, and its limits.
        outages: Waits where a service does not answer; without it, that ends the run at once.

    Attributes:
        epoch: The epoch in progress.
        metrics: Its metrics as far as measured: split to name to value.
        decision: The verdict on it; None before it is judged.
        cost: Its cost; nothing before it is judged.
        meter: Adds that up.
        notes: Sentences on it for the user.
        stop_reason: Why the run ends after it; "" if it goes on.
        budget_line: A sentence on the budget left, for the optimizer; "" without a budget.
        step_number: The number of the optimizer step in progress; 0 outside of steps.
        candidate: The number of the candidate in progress; 0: the epoch has one alone.
        line: Part of the names of model calls where the epoch has several candidates: the state
            that is measured, or the candidate whose step it is, which asks anew.
        repeat: The number of the measurement in progress: from 1 on, models are asked anew.
        refused: The state that a person refused in this epoch, before it was measured.
        seen: The train items that the next optimizer step may look at.
        asking: The number and the text of the question to an agent that no record holds yet.
    """

    def __init__(
        self,
        experiment: Experiment,
        ledger: Ledger | None = None,
        outages: Outages | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        self.experiment, self.hooks = experiment, hooks or Hooks()
        self.ledger, self.outages = ledger or Ledger(), outages or Outages()
        self.meter = EpochMeter(self.ledger)
        self.epoch = self.step_number = self.repeat = self.candidate = 0
        self.metrics: dict[str, dict[str, float]] = {}
        self.decision: Decision | None = None
        self.cost, self.seen, self.asking = Cost(), StepItems(), (0, "")
        self.refused: KnownState | None = None
        self.notes: list[str] = []
        self.stop_reason = self.budget_line = self.line = ""
        self._judged_calls = 0
        self._charged: set[str] = set()
        self._services: dict[type[object], object] = {}
        self._lock = threading.Lock()

    @property
    def place(self) -> tuple[int, int, int]:
        """Epoch, candidate and step in progress."""
        return self.epoch, self.candidate, self.step_number

    def call(self, moment: str, *arguments: object) -> None:
        """Runs one method of every callback, and of the module if it has it."""
        self.hooks.call(moment, *arguments)

    def pay_from(self, ledger: Ledger) -> None:
        """Counts the model calls in this ledger from now on."""
        self.ledger, self.meter = ledger, EpochMeter(ledger)

    def stop(self, reason: str) -> None:
        """Ends the run after this epoch; the first reason counts."""
        self.stop_reason = self.stop_reason or reason

    def service(self, kind: type[S], make: Callable[[Run], S]) -> S:
        """The run's only object of a class, made when it is first asked for."""
        with self._lock:
            found = self._services.get(kind)
            if not isinstance(found, kind):
                found = self._services[kind] = make(self)
            return found

    def renew_services(self) -> None:
        """Lets objects be made anew that know what is recorded: another line of it follows."""
        with self._lock:
            self._services.clear()

    def provide(self, kind: type[S], service: S) -> None:
        """Makes an object the run's only one of a class."""
        self._services[kind] = service

    def start_epoch(self, epoch: int) -> None:
        """Begins an epoch, or goes on with one that an earlier session left."""
        self.epoch, self.metrics, self.decision, self.cost = epoch, {}, None, Cost()
        self.refused = None
        self.seen.clear()
        before = self.experiment.progress
        self.notes = list(before.notes)
        if not self.experiment.ignore_stop:
            self.stop(before.stop)
        self.meter.start(before.seconds())
        self._judged_calls = self.ledger.total().calls
        if self.experiment.is_open:
            self._judged_calls -= len(self.experiment.store.calls())

    @property
    def wishes(self) -> tuple[str, ...]:
        """The words of people for the prompt of this step; reading binds them to it."""
        return self.experiment.people.wishes()

    def left(self) -> str:
        """The budget left as of the last judged epoch, in words; the same for a resumed run."""
        spent, limits = self.experiment.spent, self.ledger.limits
        pairs = (
            ("tokens", spent.tokens, limits.tokens),
            ("dollars", spent.cost_usd, limits.cost_usd),
            ("model calls", self._judged_calls, limits.calls),
            ("time", spent.seconds, limits.seconds),
        )
        parts = [
            f"{max(0.0, 1 - used / limit):.0%} of the {name}"
            for name, used, limit in pairs
            if math.isfinite(limit) and limit > 0
        ]
        return f"Left of the budget: {', '.join(parts)}." if parts else ""

    def note(self, text: str) -> None:
        """Tells the user of the run, once an epoch: it stands among the epoch's reasons."""
        with self._lock:
            if text not in self.notes:
                self.notes.append(text)

    def wait_out(
        self,
        work: Callable[[], T],
        undo: Callable[[], object] = lambda: None,
        progress: Callable[[], int] = lambda: 0,
    ) -> T:
        """As `Outages.wait_out`; model calls that were answered count as progress."""
        return self.outages.wait_out(
            work,
            undo=undo,
            progress=lambda: progress() + self._answers(),
            ledger=self.ledger,
            look=self.experiment.people.look,
        )

    def _answers(self) -> int:
        """The model calls of this epoch that were answered."""
        if not self.experiment.is_open:
            return 0
        return sum("lost" not in call.reply for call in self.experiment.store.calls())

    @contextmanager
    def repeating(self, number: int) -> Iterator[None]:
        """Makes the body part of the measurement with that number."""
        self.repeat = number
        try:
            yield
        finally:
            self.repeat = 0

    def asks(self) -> None:
        """A model is asked: outside of steps, by what is evaluated."""
        if not self.step_number:
            self.experiment.guard.use("models")

    def put_back(self) -> None:
        """Records as violations what `Guard.put_back` undoes; raises as that."""
        self.experiment.violations += self.experiment.guard.put_back()

    def charge_recorded(self, call: LlmRecord) -> None:
        """Counts a call that the record answered as it was counted when it was paid: once."""
        if self.experiment.only_recorded and call.id not in self._charged:
            self._charged.add(call.id)
            self.ledger.charge(call.role, call.cost, known=call.priced, judged=False)


# Cycles among new objects are looked for after so many of them, and seldom among those that such
# looks have left: most are results, which go with their epoch, and a look takes as long as there
# are objects. After five of them, 10,000 items take longer; after 21, one is a pause of 67 ms.
_COLLECT_AFTER = 10_000, 10, 50
_current: ContextVar[Run | None] = ContextVar("autopilot_run", default=None)
_active: list[Run] = []
_is_frozen = False


def state_line(state: str) -> str:
    """The part of a model call's name for the state of a candidate that it measures."""
    return f"s{state[:12]}" if state else ""


def current_run() -> Run | None:
    """The run that this code works for, if any."""
    found = _current.get()
    if found is None and len(_active) == 1:
        return _active[0]
    return found


def is_infrastructure(error: BaseException) -> bool:
    """Whether an error is a service's or a program's, and is to be raised to the run.

    Outside of an experiment, services are not waited for: only a NoMoreCallsError counts there.
    """
    run = current_run()
    if run is None or not run.experiment.is_open:
        return isinstance(infrastructure_in(error), NoMoreCallsError)
    return infrastructure_in(error, run.outages.types) is not None


def say(text: str) -> None:
    """Tells the user something that is no error: through the run, else through the log."""
    run = current_run()
    if run is None:
        logging.getLogger("autopilot").warning("%s", text)
    else:
        run.note(text)


@contextmanager
def confined() -> Iterator[None]:
    """Puts back at the end of the body what it changed beside the parameters of the run."""
    run = current_run()
    if run is None:
        yield
        return
    run.experiment.guard.confine()
    try:
        yield
    finally:
        run.put_back()


def tried(violation: str) -> None:
    """Records a refused attempt at something that is not allowed."""
    run = current_run()
    if run is not None:
        run.experiment.violations.append(violation)


def freeze() -> None:
    """Leaves all that is here out of the search for cycles, as long as this process lives."""
    global _is_frozen
    _is_frozen = True
    gc.freeze()


@contextmanager
def running(run: Run) -> Iterator[Run]:
    """Makes a run the current one; meanwhile, cycles are looked for less often.

    By default, a third of an epoch of many items is that search, through results that stay. What
    was imported before is left out of it, else a look through all is a pause of 0.1 s.
    """
    global _is_frozen
    token, collecting = _current.set(run), gc.get_threshold()
    _active.append(run)
    is_default = 0 < collecting[0] < _COLLECT_AFTER[0]
    # Where much is frozen, to count it takes 20 ms: that is done once.
    _is_frozen = _is_frozen or (is_default and gc.get_freeze_count() > 0)
    freezes = is_default and not _is_frozen
    if is_default:
        gc.set_threshold(*_COLLECT_AFTER)
    if freezes:
        gc.freeze()
    try:
        yield run
    finally:
        if freezes:
            gc.unfreeze()
        gc.set_threshold(*collecting)
        _active.remove(run)
        _current.reset(token)
