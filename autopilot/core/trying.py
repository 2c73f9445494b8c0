"""The loop turned round: a person, or an agent at work, edits the files; an epoch measures that.

The edits are a revision of the store before the epoch begins. The epoch's step writes them into the
files, so that all that follows is as in every other run: commit, val split, verdict, lesson.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from autopilot.core.fit import Fit
from autopilot.core.loop import EpochLoop
from autopilot.core.measured import SplitMetrics
from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.policy import Decision
from autopilot.core.records.history import KnownState
from autopilot.core.records.message import one_line
from autopilot.core.run import current_run
from autopilot.core.setup_checks import item_count
from autopilot.core.stopping import Budget
from autopilot.core.types import Cost

WAITING = "waits for the next edit"
TAKEN_BACK = "take back"
_STRATEGY_WIDTH = 40


@dataclass(frozen=True, slots=True)
class Edit:
    """An edit of the parameters that an epoch is made of.

    Args:
        revision: Holds the parameters' files after it.
        message: What was changed, in the words of whoever did: a line, and more below it.
        takes_back: The kept epoch that it takes back, or the epoch in progress if that ends without
            a measurement; None: it is to be measured.
    """

    revision: str
    message: str
    takes_back: int | None = None

    def step(self) -> Step:
        """The report of its step. In "cache: smaller", the strategy is "cache"."""
        first, _, more = self.message.strip().partition("\n")
        named, colon, _ = first.partition(": ")
        strategy = one_line(named if colon else first, _STRATEGY_WIDTH)
        if self.takes_back is not None:
            strategy = TAKEN_BACK
        return Step(first, strategy, more.strip())


class HandOptimizer(Optimizer):
    """Writes an edit into the parameters' files that somebody else has made.

    Attributes:
        edit: The edit of the epoch in progress.
        takes_back: Of the latest step; see Edit.
    """

    needs_gradient = False
    edit: Edit | None = None
    takes_back: int | None = None

    def step(self) -> Step:
        run = current_run()
        assert run is not None, "the loop calls it"
        experiment = run.experiment
        revision, recorded = experiment.repeats.get(run.place, ("", None))
        if recorded is not None:  # a replay repeats the step from its commit
            if recorded.changed:
                experiment.store.restore(revision)
            self.load_state_dict(recorded.state)
            return Step(recorded.summary, recorded.strategy, recorded.rationale)
        assert self.edit is not None, "the loop sets it"
        experiment.store.restore(self.edit.revision)
        self.takes_back = self.edit.takes_back
        return self.edit.step()

    def state_dict(self) -> dict[str, Any]:
        return {} if self.takes_back is None else {"takes_back": self.takes_back}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.takes_back = state.get("takes_back")


def spent(fit: Fit, more: int = 0) -> str:
    """The budget that has no room for a further epoch and so many evaluations; "" if all have.

    The patience of a module's own callbacks is about optimizers, not about people.
    """
    progress, trainer = fit.experiment.progress, fit.hooks.trainer
    beside = more + progress.lost.evaluations + progress.evaluations("train")
    budgets = [each for each in fit.hooks.callbacks if isinstance(each, Budget)]
    reasons = (each.reason(trainer, beside) for each in budgets if trainer)
    return next(filter(None, reasons), "")


class LookLoop(EpochLoop):
    """Measures the train split on the best state as a step's feedback, and makes no step.

    The results stand in the progress of the next epoch: a kill loses none, and that epoch pays.

    Args:
        look: Called with the feedback in the parameters' gradients.

    Attributes:
        spent: Why the train split was not measured: the budget that is used up; "" otherwise.
    """

    def __init__(self, look: Callable[[Fit], None]) -> None:
        self.look, self.spent = look, ""

    def run(self, fit: Fit) -> str:
        if fit.experiment.last_epoch < 0:
            self.baseline(fit)
        known = fit.experiment.progress.evaluations("train")
        size = (item_count(fit.train) or 0) if fit.train is not None else 0
        self.spent = spent(fit, max(size - known, 0))
        if not self.spent:
            fit.start_epoch(fit.experiment.last_epoch + 1)
            if fit.train is None:
                self.look(fit)
            else:
                self.train(fit)
        fit.stop_reason = WAITING
        return fit.stop_reason

    def step(self, fit: Fit, number: int, train: SplitMetrics, *, last: bool) -> None:
        if last:
            fit.backward()
            self.look(fit)
            fit.optimizer.zero_grad()


class TryLoop(EpochLoop):
    """One epoch at most, without a train pass: its step is an edit.

    Args:
        edit: None: only the baseline is measured, where that is still to be done.

    Attributes:
        spent: Why the edit was not measured: the budget that is used up; "" otherwise.
        reason: Why the session ends.
    """

    def __init__(self, edit: Edit | None = None) -> None:
        self.edit, self.spent, self.reason = edit, "", WAITING

    def run(self, fit: Fit) -> str:
        if fit.experiment.last_epoch < 0:
            self.baseline(fit)
        fit.call("on_train_start")
        if self.edit is not None:
            if self.edit.takes_back is None:
                self.spent = spent(fit)
            if not self.spent:
                self.epoch(fit, fit.experiment.last_epoch + 1)
        fit.call("on_train_end")
        fit.stop_reason = self.reason
        return fit.stop_reason

    def train(self, fit: Fit) -> SplitMetrics:
        """The edit's step; nothing is evaluated for it."""
        optimizer, experiment, edit = fit.optimizer, fit.experiment, self.edit
        assert isinstance(optimizer, HandOptimizer), "the bench sets it"
        optimizer.edit, optimizer.takes_back = edit, None
        # Those of a LookLoop; of results that were made again, the run counts them.
        fit.meter.add(Cost(evaluations=experiment.progress.evaluations("train")))
        # An edit that is taken back before it was measured is a second step, back to the best.
        due = 2 if edit is not None and edit.takes_back == fit.epoch else 1
        for number in itertools.count(1):
            record = experiment.replay_step(optimizer, fit.epoch, number)
            if record is None:
                is_recorded = (fit.epoch, 0, number) in experiment.repeats
                if not (is_recorded if experiment.repeats else number <= due):
                    break
                fit.call("on_before_optimizer_step", optimizer)
                record = fit.take_step(number)
            fit.meter.add(record.cost)
            fit.call("on_step_committed", record)
        return SplitMetrics(fit.module, keep_items=False)

    learn_from_val = train

    def conclude(self, fit: Fit, decision: Decision, known: KnownState | None = None) -> None:
        """A person who takes an edit back decides; else the policy has decided."""
        optimizer = fit.optimizer
        back = optimizer.takes_back if isinstance(optimizer, HandOptimizer) else None
        if fit.epoch and back == fit.epoch:
            decision = Decision("rejected", ("it was taken back before it was measured",))
        elif fit.epoch and back is not None:
            decision = Decision("kept", (f"epoch {back} was taken back by hand",))
        elif known is not None and known.epoch is not None:
            was_kept = fit.experiment.record_of(known.epoch).verdict == "kept"
            # Better than the best: it was taken back since.
            if was_kept and (fit.view().gain() or 0) > 0:
                decision = Decision("kept", (f"epoch {known.epoch} is taken up again",))
        super().conclude(fit, decision, known)
