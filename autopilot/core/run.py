"""The run that is going on: how a model call, wherever it is made, finds its experiment and budget.

A context variable, set by the Trainer around fit and test. A thread that was started without the
context finds the run too, as long as there is only one.
"""

from __future__ import annotations

import copy
import logging
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.outages import Outages, infrastructure_in
from autopilot.core.records.ledger import Ledger
from autopilot.core.records.record import TOGETHER, LlmRecord
from autopilot.core.signatures import check_awaited
from autopilot.core.types import Cost
from autopilot.core.writing import check_states
from autopilot.errors import AgentError, ModuleError, NoMoreCallsError, ReplayMissError

if TYPE_CHECKING:
    from autopilot.core.experiment import Experiment

S = TypeVar("S")
T = TypeVar("T")


class Run:
    """An experiment that is being worked on.

    Args:
        experiment: Where calls are recorded.
        ledger: What they cost.
        outages: Waits where a service does not answer; without it, that ends the run at once.

    Attributes:
        epoch: The epoch that is going on.
        told: What the optimizer is told of the budget.
        notes: What the user should know of the epoch that is going on.
        step_number: The number of the optimizer step that is going on; 0 outside of steps.
        repeat: The number of the measurement that is going on: from 1 on, models are asked anew.
    """

    def __init__(
        self,
        experiment: Experiment,
        ledger: Ledger | None = None,
        outages: Outages | None = None,
    ) -> None:
        self.experiment = experiment
        self.ledger, self.outages = ledger or Ledger(), outages or Outages()
        self.epoch = self.step_number = self.repeat = 0
        self.told = ""
        self.notes: list[str] = []
        self._failures: list[str] = []
        self._judged_calls = 0
        self._stepped = 0
        self._charged: set[str] = set()
        self._services: dict[type[object], object] = {}
        self._lock = threading.Lock()

    def service(self, kind: type[S], make: Callable[[Run], S]) -> S:
        """The run's only object of a class, made when it is first asked for."""
        with self._lock:
            found = self._services.get(kind)
            if not isinstance(found, kind):
                found = self._services[kind] = make(self)
            return found

    def start_epoch(self, epoch: int) -> None:
        """From here on, calls and notes belong to this epoch."""
        self.epoch, self.notes, self._failures = epoch, [], []
        self._judged_calls = self.ledger.total().calls
        if self.experiment.is_open:
            self._judged_calls -= len(self.experiment.store.calls())

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
        """What the work returns, done again while a service that it needs does not answer.

        Args:
            work: May be called several times: model calls that were answered are not paid twice.
            undo: Takes back what a failed attempt changed.
            progress: See `Outages.wait_out`; calls that were answered count too.

        Raises:
            OutageError: it does not answer; what is recorded stays, and the run can be resumed.
            BudgetExceededError: the time is up.
        """
        return self.outages.wait_out(
            work, undo=undo, progress=lambda: progress() + self._answers(), ledger=self.ledger
        )

    def _answers(self) -> int:
        """The model calls of this epoch that were answered."""
        if not self.experiment.is_open:
            return 0
        return sum("lost" not in call.reply for call in self.experiment.store.calls())

    def attempt(
        self,
        gather: Callable[..., object],
        *arguments: object,
        undo: Callable[[], object] = lambda: None,
    ) -> None:
        """Gathers feedback; an agent's failure in that costs feedback, not the run.

        Args:
            gather: Gathers it.
            arguments: What it is called with.
            undo: Takes back what it gathered before a service did not answer.

        Raises:
            AgentError: there is nothing left to spend, or only records may answer.
        """
        try:
            self.wait_out(lambda: gather(*arguments), undo)
        except AgentError as failure:
            self._failures.append(self.survived(failure))
            self.note(f"feedback is missing: {self._failures[-1]}")

    @property
    def misses_feedback(self) -> bool:
        """Whether an agent's failure cost feedback of the epoch that is going on."""
        return bool(self._failures)

    def left(self) -> str:
        """What is left of the budget as of the last judged epoch: the same for a resumed run."""
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

    def edit(
        self, optimizer: Optimizer, epoch: int, number: int, seed: Callable[[], object]
    ) -> tuple[Step | None, str]:
        """An optimizer's step with its cost; an agent that fails costs its epoch, not the run.

        A step that fails is undone. It is made again if that was an outage.

        Args:
            optimizer: Makes it.
            epoch: The epoch.
            number: The step's number in it.
            seed: Makes chance repeatable; called before each attempt.

        Returns:
            The step, and why it failed.

        Raises:
            AgentError: no further call can be made.
            StateError: JSON would change the optimizer's state; its edits are taken back.
        """
        state = copy.deepcopy(optimizer.state_dict())

        def attempt() -> tuple[Step | None, str]:
            self.told = self.experiment.begin_step(epoch, number, self.left())
            seed()
            try:
                done = self.step(optimizer, number)
                check_states({"optimizer": optimizer.state_dict()})
                return done, ""
            except AgentError as failure:
                self.experiment.undo_step()
                return None, self.survived(failure)
            except BaseException:
                self.experiment.undo_step()
                raise

        done, error = self.wait_out(attempt, undo=lambda: optimizer.load_state_dict(state))
        return self.with_cost(done), error

    def step(self, optimizer: Optimizer, number: int) -> Step | None:
        """An optimizer's step; the calls made inside belong to it.

        Raises:
            AgentError: it used a strategy that is blocked, or an agent's failure left it without
                any feedback.
            ModuleError: it returned something else than a Step of texts.
        """
        failures, self._failures = self._failures, []
        if failures and all(parameter.grad is None for parameter in optimizer.parameters):
            raise AgentError(failures[0])
        guard = self.experiment.guard
        self.step_number = self._stepped = number
        self.ledger.in_step, guard.listens = True, False
        try:
            if optimizer.confined:
                self.confine()
            done = optimizer.step()
        finally:
            self.step_number, self.ledger.in_step = 0, False
            self.put_back()
            guard.listens = True
        check_awaited(done, f"{type(optimizer).__name__}.step()", ModuleError)
        wrong = _mistake(done)
        if wrong:
            raise ModuleError(
                f"{type(optimizer).__name__}.step() returned {wrong}",
                hint='return Step("what was done", strategy="its name"), or None',
            )
        used = set(done.strategy.split(TOGETHER)) if done is not None else set()
        for name in sorted(used & optimizer.blocked):
            raise AgentError(
                f"the optimizer used the strategy {name!r}, which is blocked",
                hint="look at Optimizer.blocked before choosing a strategy",
            )
        return done

    def confine(self) -> None:
        """From here on, what changes beside the parameters is put back."""
        self.experiment.guard.confine()

    def put_back(self) -> None:
        """Puts back what changed beside the parameters, and keeps what was tried for the record.

        Raises:
            ConfinementError: the user's own files were changed: they are left as they are.
        """
        self.experiment.violations += self.experiment.guard.put_back()

    def survived(self, failure: AgentError) -> str:
        """What is written down of an agent's failure: what is wrong, and what to do.

        An agent that failed when it was recorded cannot answer: its failure stands in for it.

        Raises:
            AgentError: no further call can be made, or a service did not answer.
        """
        if isinstance(failure, ReplayMissError):
            _, recorded = self.experiment.repeats.get((self.epoch, self._stepped), ("", None))
            if recorded is not None and recorded.error:
                return recorded.error
            raise failure
        if infrastructure_in(failure, self.outages.types) is not None:
            raise failure
        return f"{failure.message} ({failure.hint})" if failure.hint else failure.message

    def charge_recorded(self, call: LlmRecord) -> None:
        """Counts a call that the record answered as it was counted when it was paid: once."""
        if self.experiment.only_recorded and call.id not in self._charged:
            self._charged.add(call.id)
            self.ledger.charge(call.role, call.cost, known=call.priced, judged=False)

    def with_cost(self, step: Step | None) -> Step | None:
        """An optimizer's step with what its calls cost, unless it says itself what it cost."""
        cost = self.ledger.take_step()
        if cost == Cost() or (step is not None and step.cost != Cost()):
            return step
        return replace(step or Step(), cost=cost)


_current: ContextVar[Run | None] = ContextVar("autopilot_run", default=None)
_active: list[Run] = []


def _mistake(done: object) -> str:
    """Why that is no step, as what it is; empty if it is one, or None."""
    if done is None:
        return ""
    if not isinstance(done, Step):
        return f"{type(done).__name__}, not a Step"
    for name in ("summary", "strategy", "rationale"):
        if not isinstance(getattr(done, name), str):
            return f"a Step whose {name} is {getattr(done, name)!r}, not a text"
    return ""


def current_run() -> Run | None:
    """The run that this code works for, if any."""
    found = _current.get()
    if found is None and len(_active) == 1:
        return _active[0]
    return found


def is_infrastructure(error: BaseException) -> bool:
    """Whether an error is a service's or a program's, and is to be raised to the run.

    Outside of an experiment nobody waits for a service: there, only what is final is.
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
    """What the body changes beside the parameters of the run is put back at its end."""
    run = current_run()
    if run is None:
        yield
        return
    run.confine()
    try:
        yield
    finally:
        run.put_back()


def tried(violation: str) -> None:
    """Writes down that somebody tried what is not allowed, and was refused."""
    run = current_run()
    if run is not None:
        run.experiment.violations.append(violation)


@contextmanager
def repeating(number: int) -> Iterator[None]:
    """The body is part of a measurement with that number; 0 is the first."""
    run = current_run()
    if run is not None:
        run.repeat = number
    try:
        yield
    finally:
        if run is not None:
            run.repeat = 0


@contextmanager
def running(run: Run) -> Iterator[Run]:
    """Makes a run the current one."""
    token = _current.set(run)
    _active.append(run)
    try:
        yield run
    finally:
        _active.remove(run)
        _current.reset(token)
