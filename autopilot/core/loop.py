"""The story of one epoch. Read this file and you know the project.

Batches of the train split go through the module; the loss gathers feedback; backward turns it into
gradients; the optimizer edits the parameters; the experiment commits the step; the val split
measures the state after it; the policy decides; the epoch is kept or rolled back; memory learns.
Epoch 0 is the baseline: val is measured before anything changes. Without a train split, the val
results of the best state, which every epoch starts from, are the feedback.

A resumed run repeats the epoch that it was killed in: the evaluator answers the batches that were
recorded and the experiment repeats the steps that were committed, so nothing is paid for twice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from autopilot.core.fit import Fit
from autopilot.core.items import batches
from autopilot.core.measured import Measured, SplitMetrics, measure, recorded_batches
from autopilot.core.policy import Decision, decide
from autopilot.core.progress import Position
from autopilot.core.records.history import KnownState
from autopilot.core.records.record import StepRecord
from autopilot.core.screening import CheapGates
from autopilot.core.selection import Selection, chance_of
from autopilot.core.types import Cost


class Loop(ABC):
    """How epochs follow one another.

    Attributes:
        proposals: How many candidates an epoch has.
        objectives: Val metrics that it looks at beside the monitored one, each with "max" or "min",
            or None where that is not said.
        gates: Hurdles of a candidate before all of val is measured.
    """

    proposals = 1
    objectives: Mapping[str, str | None] = {}  # never changed
    gates = CheapGates()

    @abstractmethod
    def run(self, fit: Fit) -> str:
        """Runs epochs until there is a reason to stop, and returns the reason."""


class EpochLoop(Loop):
    """Train, step, validate, decide: once an epoch.

    Attributes:
        strategies: Chooses among the optimizer's strategies by how they did; None: it takes them in
            turn.
    """

    strategies: Selection | None = None

    def run(self, fit: Fit) -> str:
        if fit.experiment.last_epoch < 0:
            self.baseline(fit)
        fit.call("on_train_start")
        while not fit.is_done():
            self.epoch(fit, fit.experiment.last_epoch + 1)
        fit.call("on_train_end")
        return fit.stop_reason

    def baseline(self, fit: Fit) -> None:
        """Epoch 0: how good the system is before anything changes."""
        fit.start_epoch(0)
        val = self.validate(fit)
        fit.check_baseline(val)
        reasons = ("measured before anything changed", *fit.measure_noise(val, self.proposals))
        reasons += val.moving(fit.experiment.objectives)
        fit.experiment.on_validation_complete({"val": val.items}, val.results)
        self.conclude(fit, Decision("baseline", reasons))

    def epoch(self, fit: Fit, epoch: int) -> None:
        """One epoch from the first training batch to the verdict."""
        fit.start_epoch(epoch)
        fit.call("on_train_epoch_start")
        train = self.learn_from_val(fit) if fit.train is None else self.train(fit)
        known: KnownState | None = fit.refused or fit.experiment.known_state()
        errors: Sequence[str] = ()
        if known is None:
            known, errors = self.judge(fit, train)
        if known is None:
            decision = decide(fit.policy, fit.view(), errors)
        else:
            fit.metrics["val"] = dict(known.metrics)
            decision = Decision("rejected", known.reasons, is_measured=known.is_judged)
        self.conclude(fit, decision, known)

    def judge(self, fit: Fit, train: SplitMetrics) -> tuple[KnownState | None, Sequence[str]]:
        """A new state: why it was stopped, if it was; and the errors, if all items have one."""
        if (known := self.gates.screened(fit, fit.evaluator, train.given, fit.mode)) is not None:
            return known, ()
        val = self.validate(fit)
        fit.experiment.on_validation_complete({"val": val.items}, val.results)
        return val.stopped, (train if fit.val is None else val).errors()

    def train(self, fit: Fit) -> SplitMetrics:
        """The train split: feedback from every batch, a step after every window of batches."""
        assert fit.train is not None
        fit.module.train()
        train, step = SplitMetrics(fit.module, keep_items=False), 1
        given = batches(fit.train, "train", fit.epoch, fit.seed)
        position = Position("train", fit.epoch)
        for index, batch, last in fit.evaluator.ahead(given, position, fit.accumulate):
            fit.call("on_train_batch_start", batch, index)
            data = fit.evaluator.run(Position("train", fit.epoch, index), batch)
            fit.gather(data, batch, step)
            fit.call("on_after_loss", data, batch, index)
            train.update(data)
            if self.gates.screen:
                train.given.append((batch, data))
            if last or (fit.accumulate is not None and (index + 1) % fit.accumulate == 0):
                self.step(fit, step, train, last=last)
                step += 1
            fit.call("on_train_batch_end", data, batch, index)
            if fit.refused:
                break  # what an edit that was refused would lead to is not of interest
        fit.metrics["train"] = train.compute()
        fit.meter.add(Cost(evaluations=train.means.items))
        return train

    def learn_from_val(self, fit: Fit) -> SplitMetrics:
        """Without a train split: feedback from the val results of the state it starts from."""
        fit.module.train()
        is_read = fit.optimizer.reads_feedback() and not fit.experiment.has_step(fit.epoch, 1)
        metrics, results, epoch = fit.experiment.val_before() if is_read else ({}, [], 0)
        val = SplitMetrics(fit.module, keep_items=True, known=metrics)
        given = recorded_batches(fit.evaluator, fit.val, results, epoch) if results else ()
        for index, (data, batch) in enumerate(given):
            fit.gather(data, batch, 1)
            fit.call("on_after_loss", data, batch, index)
            val.means.update(data)
            val.items += data.items
        self.step(fit, 1, val, last=True)
        return val

    def step(self, fit: Fit, number: int, train: SplitMetrics, *, last: bool) -> None:
        """loss.backward(), optimizer.step(), commit, optimizer.zero_grad()."""
        optimizer, memory = fit.optimizer, fit.experiment.memory
        record = fit.experiment.replay_step(optimizer, fit.epoch, number)
        if record is None:
            if fit.experiment.has_step(fit.epoch, number):
                return  # it came to nothing: a later one of the epoch is recorded
            fit.call("on_before_backward")
            fit.backward()
            fit.call("on_after_backward")
            if not fit.has_feedback(train, last=last):
                return  # the next step takes the feedback along; of the last one, there is none
            optimizer.blocked = set(memory.blocked())
            optimizer.context = memory.context(strategies=optimizer.strategies())
            if self.strategies is not None and (arms := memory.arms(optimizer.strategies())).states:
                # The same for all candidates of an epoch: the second one takes the second.
                chance = chance_of(fit.seed, "strategies", fit.epoch, number)
                optimizer.preferred = self.strategies.chosen(arms, len(arms.states), chance)
            fit.call("on_before_optimizer_step", optimizer)
            record = fit.take_step(number)
        self.stepped(fit, record)

    def stepped(self, fit: Fit, record: StepRecord) -> None:
        """After a step: the callbacks hear of it, and a person may refuse it."""
        fit.optimizer.to_merge = {}
        fit.meter.add(record.cost)
        fit.got_feedback = fit.got_feedback or bool(record.gradients)
        fit.call("on_step_committed", record)
        fit.call("on_before_zero_grad", fit.optimizer)
        fit.optimizer.zero_grad()
        fit.refused = fit.experiment.people.refusal(record, fit.ledger, fit.call)

    def validate(self, fit: Fit) -> Measured:
        """The val split, on the state after the step; in a race, as far as that goes."""
        race = self.gates.race_of(fit, fit.seed, fit.mode)
        return measure(fit, fit.evaluator, "val", fit.epoch, fit.val, race)

    def conclude(self, fit: Fit, decision: Decision, known: KnownState | None = None) -> None:
        """The verdict: callbacks hear it, the experiment tags the epoch or rolls it back."""
        decision = fit.announce(decision)
        if fit.epoch > 0:
            fit.call("on_train_epoch_end")
        record = fit.experiment.on_epoch_complete(
            fit.epoch,
            fit.metrics,
            decision,
            monitor=fit.monitor,
            mode=fit.mode,
            known=known,
            cost=fit.cost,
            stop=fit.stop_reason,
            state=fit.states(),
            tried=fit.tried,
        )
        for each in [attempt.record for attempt in fit.tried if attempt.record] or [record]:
            fit.optimizer.tell(each)
        fit.call("on_epoch_recorded", record)
