"""The story of one epoch. Read this file and you know the project.

Batches of the train split go through the module; the loss gathers feedback; backward turns it into
gradients; the optimizer edits the parameters; the experiment commits the step; the val split
measures the state after it; the policy decides; the epoch is kept or rolled back; memory learns.
Epoch 0 is the baseline: val is measured before anything changes.

A resumed run repeats the epoch that it was killed in: the evaluator answers the batches that were
recorded and the experiment repeats the steps that were committed, so nothing is paid for twice.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from autopilot.core import evaluation
from autopilot.core.chance import seed_everything
from autopilot.core.evaluation import Evaluator, SplitMetrics
from autopilot.core.feedback import hears
from autopilot.core.loss import Loss
from autopilot.core.module import AutoPilotModule
from autopilot.core.optimizer import Optimizer
from autopilot.core.policy import Decision, Policy, decide
from autopilot.core.records.history import KnownState
from autopilot.core.repeats import Measured, measure, measure_noise
from autopilot.core.types import Cost
from autopilot.core.writing import check_states
from autopilot.errors import EvaluationError

if TYPE_CHECKING:
    from autopilot.core.trainer import Trainer


@dataclass(slots=True)
class Fit:
    """What one call of `Trainer.fit` works with."""

    trainer: Trainer
    module: AutoPilotModule
    loss: Loss
    optimizer: Optimizer
    policy: Policy
    evaluator: Evaluator
    train: Iterable[Any]
    val: Iterable[Any] | None
    max_epochs: int | None
    accumulate: int | None
    heard: bool = False  # whether the epoch's feedback reached a parameter


class Loop(ABC):
    """How epochs follow one another."""

    @abstractmethod
    def run(self, fit: Fit) -> str:
        """Runs epochs until there is a reason to stop, and returns the reason."""


class EpochLoop(Loop):
    """Train, step, validate, decide: once an epoch."""

    def run(self, fit: Fit) -> str:
        trainer, experiment = fit.trainer, fit.trainer.experiment
        if experiment.last_epoch < 0:
            self.baseline(fit)
        trainer.call("on_train_start")
        while not trainer.is_done(fit):
            self.epoch(fit, experiment.last_epoch + 1)
        trainer.call("on_train_end")
        return trainer.stop_reason

    def baseline(self, fit: Fit) -> None:
        """Epoch 0: how good the system is before anything changes."""
        started = _start(fit)
        fit.trainer.start_epoch(0)
        val = self.validate(fit, 0)
        if val.errors():
            raise EvaluationError(
                f"all {val.evaluations} val items failed: {val.errors()[0]}",
                hint="the system must run before it can be improved: try it on one item by hand",
            )
        metrics = {"val": val.compute()} if fit.val is not None else {}
        fit.trainer.check_monitor(metrics, val.passes[0])
        reasons = ("measured before anything changed", *measure_noise(fit, val))
        fit.trainer.experiment.on_validation_complete({"val": val.items}, val.results)
        cost = Cost(evaluations=val.evaluations, seconds=time.monotonic() - started)
        self.conclude(fit, 0, metrics, Decision("baseline", reasons), cost)

    def epoch(self, fit: Fit, epoch: int) -> None:
        """One epoch from the first training batch to the verdict."""
        trainer, experiment = fit.trainer, fit.trainer.experiment
        started = _start(fit)
        trainer.start_epoch(epoch)
        trainer.call("on_train_epoch_start")
        train = self.train(fit, epoch)
        metrics = {"train": train.compute()}
        steps = experiment.steps_of_epoch()
        cost = sum((step.cost for step in steps), Cost(evaluations=train.means.items))

        known = experiment.known_state()
        if known is not None:
            metrics["val"] = dict(known.metrics)
            decision = Decision("rejected", known.reasons)
        else:
            val = self.validate(fit, epoch)
            metrics["val"] = val.compute()
            cost += Cost(evaluations=val.evaluations) + trainer.run.ledger.take_epoch()
            experiment.on_validation_complete({"val": val.items}, val.results)
            view = experiment.view(epoch, metrics, trainer.monitor, trainer.mode, cost)
            decision = decide(fit.policy, view, (train if fit.val is None else val).errors())
        # What the steps took is part of the epoch's time.
        cost += Cost(seconds=time.monotonic() - started - cost.seconds)
        self.conclude(fit, epoch, metrics, decision, cost, known)

    def train(self, fit: Fit, epoch: int) -> SplitMetrics:
        """The train split: feedback from every batch, a step after every window of batches."""
        trainer, module = fit.trainer, fit.module
        module.train()
        fit.heard = False
        measured, step = SplitMetrics(module, keep_items=False), 1
        for index, batch, last in evaluation.batches(fit.train, "train", epoch, trainer.seed):
            trainer.call("on_train_batch_start", batch, index)
            data = fit.evaluator.run("train", epoch, index, batch)
            if not trainer.experiment.has_step(epoch, step):
                trainer.run.attempt(fit.loss, data, batch, undo=fit.loss.mark())
            trainer.call("on_after_loss", data, batch, index)
            measured.update(data)
            if last or (fit.accumulate is not None and (index + 1) % fit.accumulate == 0):
                self.step(fit, epoch, step, measured, last=last)
                step += 1
            trainer.call("on_train_batch_end", data, batch, index)
        return measured

    def step(self, fit: Fit, epoch: int, number: int, train: SplitMetrics, *, last: bool) -> None:
        """loss.backward(), optimizer.step(), commit, optimizer.zero_grad()."""
        trainer, experiment, optimizer = fit.trainer, fit.trainer.experiment, fit.optimizer
        if experiment.has_step(epoch, number):
            record = experiment.replay_step(optimizer, epoch, number)
            fit.heard = fit.heard or bool(record.gradients)
        else:
            check_states({"callbacks": trainer.callback_states()})  # before the step is paid
            trainer.call("on_before_backward")
            trainer.run.attempt(fit.loss.backward, undo=fit.loss.mark(fit.module.parameters()))
            trainer.call("on_after_backward")
            if not hears(fit, train, last=last):
                return  # the next step takes the feedback along; of the last one, there is none
            optimizer.blocked = set(experiment.memory.blocked())
            optimizer.context = experiment.memory.context(strategies=optimizer.strategies())
            trainer.call("on_before_optimizer_step", optimizer)
            seed = partial(seed_everything, trainer.seed, "step", epoch, number)
            done, error = trainer.run.edit(optimizer, epoch, number, seed)
            record = experiment.commit_step(optimizer, epoch, number, done, error)
        trainer.call("on_step_committed", record)
        trainer.call("on_before_zero_grad", optimizer)
        optimizer.zero_grad()

    def validate(self, fit: Fit, epoch: int) -> Measured:
        """The val split, on the state after the step."""
        return measure(fit.trainer, fit.module, fit.evaluator, "val", epoch, fit.val)

    def conclude(
        self,
        fit: Fit,
        epoch: int,
        metrics: dict[str, dict[str, float]],
        decision: Decision,
        cost: Cost,
        known: KnownState | None = None,
    ) -> None:
        """The verdict: told to the callbacks, written down, tagged or rolled back."""
        trainer, experiment = fit.trainer, fit.trainer.experiment
        cost += trainer.run.ledger.take_epoch() + Cost(evaluations=experiment.lost_evaluations())
        decision = trainer.decide(decision, metrics, cost)
        if epoch > 0:
            trainer.call("on_train_epoch_end")
        state = {"optimizer": fit.optimizer.state_dict(), "callbacks": trainer.callback_states()}
        record = experiment.on_epoch_complete(
            epoch,
            metrics,
            decision,
            monitor=trainer.monitor,
            mode=trainer.mode,
            known=known,
            cost=cost,
            stop=trainer.stop_reason,
            state=state,
        )
        trainer.call("on_epoch_recorded", record)


def _start(fit: Fit) -> float:
    """When the epoch began, had the results of before a kill been made in this session."""
    return time.monotonic() - fit.trainer.experiment.recorded_seconds()
