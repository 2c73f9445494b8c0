"""The run of one `Trainer.fit`: the parts that the loop works with, one call for each request."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from autopilot.audit import run_here
from autopilot.core.callback import Hooks, RunView
from autopilot.core.comparison import EpochView
from autopilot.core.evaluation import Evaluator
from autopilot.core.figures import wish
from autopilot.core.gradient import TextGradient
from autopilot.core.in_progress import Draft
from autopilot.core.interpreter import seed_everything
from autopilot.core.measured import Measured, SplitMetrics
from autopilot.core.noise import DefaultPolicy, noise_sentence
from autopilot.core.optimizer import Step
from autopilot.core.outages import Outages, infrastructure_in
from autopilot.core.policy import Decision
from autopilot.core.records.record import TOGETHER, StepRecord
from autopilot.core.repeats import distrust, measure_again, measure_often
from autopilot.core.run import Run
from autopilot.core.setup_checks import Setup, check_gates
from autopilot.core.signatures import check_awaited
from autopilot.core.stopping import Budget, target_line
from autopilot.core.types import Cost, Datum, Noise
from autopilot.core.writing import check_states
from autopilot.errors import (
    AgentError,
    AutopilotError,
    EvaluationError,
    ModuleError,
    ReplayMissError,
    UsageError,
    UserCodeError,
    all_failed,
)
from autopilot.text import every


class Fit(Run):
    """An experiment that is being fitted: the module with all that changes and judges it.

    Args:
        trainer: Says what decides; callbacks get it.
        train: Batches of the train split; None: the optimizer learns from the val results.
        val: Batches of the val split; None: there is none.
        max_epochs: The number of the last epoch; None: no limit.
        accumulate: Batches between two steps; None: one step an epoch.
        with_noise: Whether the baseline is measured twice; None: where that makes no model call.

    Attributes:
        got_feedback: Whether feedback of the epoch reached a parameter.
        tried: The candidates of an epoch that has several.
    """

    def __init__(
        self,
        trainer: RunView,
        hooks: Hooks,
        outages: Outages,
        setup: Setup,
        evaluator: Evaluator,
        train: Iterable[Any] | None,
        val: Iterable[Any] | None,
        *,
        max_epochs: int | None,
        accumulate: int | None,
        with_noise: bool | None,
    ) -> None:
        super().__init__(evaluator.experiment, outages=outages, hooks=hooks)
        self.monitor, self.mode, self.seed = trainer.monitor, trainer.mode, evaluator.seed
        self.module, self.evaluator = evaluator.module, evaluator
        self.optimizer, self.loss, self.policy = setup.optimizer, setup.loss, setup.policy
        self.train, self.val = train, val
        self.max_epochs, self.accumulate, self.with_noise = max_epochs, accumulate, with_noise
        self.got_feedback, self._lost_feedback = False, list[str]()
        self.tried = list[Draft]()
        self._stepped = 0

    # --- the epoch -----------------------------------------------------------------------------

    def is_done(self) -> bool:
        """Whether no further epoch follows; the reason is in `stop_reason` then."""
        if self.max_epochs is not None and self.experiment.last_epoch >= self.max_epochs:
            epochs = "1 epoch" if self.max_epochs == 1 else f"{self.max_epochs} epochs"
            self.stop(f"reached the maximum of {epochs}")
        self.optimizer.blocked = set(self.experiment.memory.blocked())
        self.stop(self.optimizer.exhausted())
        return bool(self.stop_reason)

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        self.tried = []
        self.start_draft()

    def start_draft(self) -> None:
        """Forgets what was gathered for an earlier epoch, or for an earlier candidate of this."""
        self.got_feedback, self._lost_feedback, self.refused = False, [], None
        self.seen.clear()
        self.evaluator.forget()

    def view(self) -> EpochView:
        """The epoch for the policy."""
        cost = self.meter.cost()
        view = self.experiment.view(self.epoch, self.metrics, self.monitor, self.mode, cost)
        return replace(view, memorized=self.evaluator.given.in_edit())

    def announce(self, decision: Decision) -> Decision:
        """Makes a verdict known to the callbacks, the epoch's notes among its reasons."""
        # Made again after a kill: both count.
        self.cost = self.meter.cost() + Cost(evaluations=self.experiment.progress.lost.evaluations)
        self.decision = replace(decision, reasons=(*decision.reasons, *self.notes))
        self.call("on_verdict", self.decision)
        return self.decision

    def states(self) -> dict[str, Any]:
        """The states that a resumed run goes on with."""
        return {"optimizer": self.optimizer.state_dict(), "callbacks": self.hooks.states()}

    def load_states(self, saved: Mapping[str, Any]) -> None:
        """Goes on from what the last epoch recorded: states, and a reason to stop."""
        if not saved:
            return
        if not self.experiment.ignore_stop:
            self.stop(self.experiment.history[-1].stop)
        for record in self.experiment.records_told() if self.optimizer.is_told() else ():
            self.optimizer.tell(record)
        self.optimizer.load_state_dict(saved.get("optimizer", {}))
        self.hooks.load_states(saved.get("callbacks", {}))

    def note_rest(self) -> None:
        """Notes the time of an epoch that is left in its middle: it counts when it goes on."""
        if self.experiment.last_epoch < self.epoch and not self.experiment.is_guest:
            # Why it is left is more than that it cannot be noted.
            with contextlib.suppress(AutopilotError):
                progress, seconds = self.experiment.progress, self.meter.seconds()
                progress.note_rest(self.epoch, seconds, self.notes, self.stop_reason)

    # --- the baseline --------------------------------------------------------------------------

    def check_baseline(self, val: Measured) -> None:
        """Ends a run that could compare nothing.

        Raises:
            EvaluationError: all items failed, nothing is scored, or the metric is not a finite
                number.
            UsageError: there is no such metric, or none that a gate reads; it names those that
                there are.
        """
        if errors := val.errors():
            said = f"{every(val.evaluations, 'val item')} failed: {errors[0]}"
            raise EvaluationError(said, hint=all_failed(errors))
        if self.val is not None:
            val.passes[0].check_scored("val", self.monitor)
            if self.monitor not in self.metrics["val"]:
                raise UsageError(
                    f"there is no val metric {self.monitor!r}",
                    hint=f"monitor one of: {', '.join(sorted(self.metrics['val']))}",
                )
        check_gates(self.policy, self.metrics, self.monitor, self.experiment.objectives)

    def measure_noise(self, val: Measured, candidates: int) -> list[str]:
        """Measures the baseline's val split a second time, with other chance.

        The experiment gets the noise; the second measurement is put beside the first, `val`.

        Returns:
            One sentence on the noise; none without a val split, or where it is switched off.
        """
        experiment, is_default = self.experiment, isinstance(self.policy, DefaultPolicy)
        if self.val is None or self.with_noise is False:
            return []
        if experiment.known_noise is not None:
            experiment.noise = experiment.known_noise
        elif skipped := self._reason_to_skip(val):
            experiment.noise = Noise(smallest=val.share(self.monitor), skipped=skipped)
            distrust(self, self.evaluator, val, self.val)
        else:
            measure_again(self, self.evaluator, val, self.val)
            assert experiment.monitored is not None, "the Trainer sets it"
            noise = experiment.noise = val.noise(experiment.monitored, candidates)
            if is_default and noise.is_noisy and noise.items == 1:
                experiment.noise = measure_often(self, self.evaluator, val, self.val, candidates)
        return [noise_sentence(experiment.noise, default=is_default)]

    def _reason_to_skip(self, val: Measured) -> str:
        if len(val.passes) > 1:
            return ""
        if not val.evaluations:
            return "there are no val items"
        if self.with_noise is None and (self.experiment.store.calls() or self.ledger.total().calls):
            return "the evaluation calls a model (--measure-noise)"
        # Room for the second measurement, and for the val split of one epoch.
        evaluations, seconds = 3 * val.evaluations, 3 * self.meter.seconds()
        budgets = [each for each in self.hooks.callbacks if isinstance(each, Budget)]
        if any(evaluations > b.evaluations or seconds > b.limits.seconds for b in budgets):
            return "the budget is too small for a second measurement"
        return ""

    # --- feedback ------------------------------------------------------------------------------

    def gather(self, data: Datum, batch: Datum, step: int) -> None:
        """Gives the loss a batch, unless the step that it leads to is recorded."""
        if not self.experiment.has_step(self.epoch, step):
            self._attempt(lambda: self.loss(data, batch), self.loss.mark())
            self.seen.add(data, batch)

    def backward(self) -> None:
        """Turns the gathered feedback into gradients; raises as `check_states`."""
        check_states({"callbacks": self.hooks.states()})  # before the step is paid
        self._attempt(self.loss.backward, self.loss.mark(self.module.parameters()))

    def _attempt(self, gather: Callable[[], object], undo: Callable[[], object]) -> None:
        """Gathers feedback; an agent's failure in that costs feedback, not the run."""
        try:
            with self.experiment.guard.aside():
                self.wait_out(gather, undo)
        except AgentError as failure:
            self._lost_feedback.append(self._survived(failure))
            self.note(f"feedback is missing: {self._lost_feedback[-1]}")

    def has_feedback(self, train: SplitMetrics, *, last: bool) -> bool:
        """Whether there is feedback to make a step by; if not by the last one, the run stops.

        As long as every item raised, a step waits: its feedback is for the next one, unless that is
        the evaluation's own fault, which only the last step knows.

        Args:
            last: Whether that is all of it.

        Raises:
            UserCodeError: all train items raised: that is nothing that an optimizer could repair.
            UsageError: a gate reads a train metric that does not exist.
            EvaluationError: there is no val split, and nothing scores the train items.
        """
        if self.train is None:
            return self._has_val_feedback(train)
        # Without a val split an earlier epoch may have broken it: that state is rejected.
        may_be_broken = self.val is not None or self.epoch <= 1
        if may_be_broken and self.evaluator.failures.raised_of("train") == train.means.items:
            if last:
                raise self._all_raised(train)
            return False
        if last and self.val is None and self.epoch == 1 and not train.errors():
            # Without a val split, nothing else says whether the items are scored.
            train.check_scored("train", self.monitor)
        # What raised may have taken a metric along.
        if last and self.epoch == 1 and not train.means.errors:
            check_gates(self.policy, {"train": train.compute()}, self.monitor)
        if last and not self._has_any_feedback():
            self._pass_value(train, "train")
        return not last or self._goes_on(train, "train")

    def _has_val_feedback(self, val: SplitMetrics) -> bool:
        """The same where the recorded val results are all that there is to learn from."""
        if not self.optimizer.reads_feedback():
            return True
        monitored = self.experiment.monitored
        of_whole = monitored is not None and monitored.owner is not None
        if of_whole or any(item.feedback or item.error_message for item in val.items):
            # Items without words of their own say what is to improve, with their values.
            self._pass_value(val, "val")
        return self._goes_on(val, "val")

    def _goes_on(self, measured: SplitMetrics, split: str) -> bool:
        if self._has_any_feedback() or self._lost_feedback or not self.optimizer.needs_gradient:
            return True
        self.note(reason := measured.silence(split))
        self.stop(reason)
        return False

    def _has_any_feedback(self) -> bool:
        return self.got_feedback or any(p.grad is not None for p in self.optimizer.parameters)

    def _all_raised(self, train: SplitMetrics) -> UserCodeError:
        failures = self.evaluator.failures
        place = failures.first_place("train")
        # Results of a broken harness say nothing: they are made again once it is mended.
        self.experiment.void_results()
        return UserCodeError(
            f"{every(train.means.items, 'train item')} raised: {train.means.errors[0]}"
            + (f" ({place})" if place else ""),
            hint="the evaluation itself fails, not what is optimized: mend it, commit, and start "
            "another experiment; one that is resumed keeps the files that it started from",
            user_traceback=failures.first_traceback("train"),
        )

    def _pass_value(self, measured: SplitMetrics, split: str) -> None:
        """Makes feedback of the value of the metric that decides."""
        value = measured.compute().get(self.monitor)
        if self.monitor == "accuracy" or value is None:
            return
        asked = wish(self.monitor, self.mode)
        gradient = TextGradient(f"{asked}: it is {value:.6g} on the {split} split")
        for parameter in self.optimizer.parameters:
            if parameter.requires_grad:
                parameter.accumulate_grad(gradient)

    # --- the step ------------------------------------------------------------------------------

    def take_step(self, number: int) -> StepRecord:
        """Makes and commits an optimizer's step; an agent's failure costs the epoch, not the run.

        A step that fails is undone. It is made again if that was an outage.

        Raises:
            AgentError: no further call can be made.
            ModuleError: the optimizer returned something else than a Step of texts.
            StateError: JSON would change the optimizer's state; its edits are taken back.
        """
        optimizer, experiment = self.optimizer, self.experiment
        state = copy.deepcopy(optimizer.state_dict())

        def attempt() -> tuple[Step | None, str]:
            told = target_line(self.hooks.callbacks) + self.left()
            self.budget_line = experiment.begin_step(self.epoch, number, told)
            chance = [self.candidate] if self.candidate > 1 else []
            seed_everything(self.seed, "step", self.epoch, number, *chance)
            try:
                step = self._edited(number)
                check_states({"optimizer": optimizer.state_dict()})
                return step, ""
            except AgentError as failure:
                experiment.undo_step()
                return None, self._survived(failure)
            except BaseException:
                experiment.undo_step()
                raise

        step, error = self.wait_out(attempt, undo=lambda: optimizer.load_state_dict(state))
        self.seen.clear()
        cost = self.ledger.take_step()
        if cost != Cost() and (step is None or step.cost == Cost()):
            # An optimizer that states its cost itself knows better.
            step = replace(step or Step(), cost=cost)
        return experiment.commit_step(optimizer, self.epoch, number, step, error)

    def _edited(self, number: int) -> Step | None:
        """Lets the optimizer edit; the model calls made inside belong to the step."""
        optimizer, guard = self.optimizer, self.experiment.guard
        lost, self._lost_feedback = self._lost_feedback, []
        if lost and all(parameter.grad is None for parameter in optimizer.parameters):
            raise AgentError(lost[0])
        self.step_number = self._stepped = number
        # What the optimizer reads is not an input of the evaluation.
        self.ledger.in_step, guard.listens = True, False
        try:
            if optimizer.confined:
                guard.confine()
            step = run_here(optimizer.step)
        finally:
            self.step_number, self.ledger.in_step = 0, False
            self.put_back()
            guard.listens = True
        check_awaited(step, f"{type(optimizer).__name__}.step()", ModuleError)
        if wrong := _mistake(step):
            raise ModuleError(
                f"{type(optimizer).__name__}.step() returned {wrong}",
                hint='return Step("what was done", strategy="its name"), or None',
            )
        used = set(step.strategy.split(TOGETHER)) if step is not None else set()
        for name in sorted(used & optimizer.blocked):
            raise AgentError(
                f"the optimizer used the strategy {name!r}, which is blocked",
                hint="look at Optimizer.blocked before choosing a strategy",
            )
        return step

    def _survived(self, failure: AgentError) -> str:
        """The text that is recorded of an agent's failure, with its hint.

        An agent that failed when it was recorded cannot answer: its failure stands in for it.
        Where no further call can be made, or a service did not answer, it is raised.
        """
        if isinstance(failure, ReplayMissError):
            place = self.epoch, self.candidate, self._stepped
            _, recorded = self.experiment.repeats.get(place, ("", None))
            if recorded is not None and recorded.error:
                return recorded.error
            raise failure
        if infrastructure_in(failure, self.outages.types) is not None:
            raise failure
        return f"{failure.message} ({failure.hint})" if failure.hint else failure.message


def _mistake(step: object) -> str:
    """The mistake in a value that step() returned; "" if it is a Step of texts, or None."""
    if step is None:
        return ""
    if not isinstance(step, Step):
        return f"{type(step).__name__}, not a Step"
    for name in ("summary", "strategy", "rationale"):
        if not isinstance(getattr(step, name), str):
            return f"a Step whose {name} is {getattr(step, name)!r}, not a text"
    return ""
