"""The Trainer: puts module, loss, optimizer, policy, experiment and callbacks together."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import EllipsisType
from typing import Any

from autopilot.core.callback import Callback, Logger, check_callback, check_moments
from autopilot.core.collection import metric_modes
from autopilot.core.comparison import Monitored, monitored
from autopilot.core.configuration import (
    as_policy,
    callbacks_of,
    check_window,
    data_source,
    loss_of,
)
from autopilot.core.direction import direction_of, direction_words
from autopilot.core.evaluation import Evaluator, SplitMetrics
from autopilot.core.experiment import Experiment
from autopilot.core.failures import Failures
from autopilot.core.gate import Gate
from autopilot.core.leakage import leakage_notes
from autopilot.core.loop import EpochLoop, Fit, Loop
from autopilot.core.loss import Loss
from autopilot.core.module import AutoPilotModule
from autopilot.core.optimizer import Optimizer
from autopilot.core.outages import MAX_WAIT_S, Outages, transient_errors_of
from autopilot.core.policy import Decision, Policy
from autopilot.core.progress import note_rest
from autopilot.core.repeats import Measured, measure, test_gain, unscored
from autopilot.core.run import Run, running
from autopilot.core.scoring import Scoring, worst_value
from autopilot.core.setup_checks import (
    check_gates,
    check_module,
    check_setup,
    check_steps,
    forecast,
)
from autopilot.core.stopping import ledger_of
from autopilot.core.types import Cost, Result
from autopilot.errors import (
    AutopilotError,
    BudgetExceededError,
    ModuleError,
    UsageError,
)

_LOG = logging.getLogger("autopilot")


class Trainer:
    """Runs the loop.

    Args:
        callbacks: Run at named moments, in this order; one, several or none. A logger among them
            is one more logger.
        loop: How epochs follow one another.
        policy: Decides whether an epoch is kept; a gate, or a list of gates, is a condition beside
            the improvement. Otherwise the module's; otherwise an epoch is kept if the monitored
            val metric improved.
        experiment: Where states and records go; otherwise in this process.
        logger: Gets the metrics of each epoch.
        accumulate_grad_batches: Batches between two optimizer steps; otherwise the module's. None
            there too: one step an epoch.
        monitor: The val metric that decides; otherwise the module's.
        mode: "max" when higher is better, "min" when lower is; otherwise the module and its metric
            say.
        failed_value: See AutoPilotModule; otherwise the module's.
        seed: Shuffling, and the chance in evaluations, derive from it; otherwise the experiment's
            manifest says, where it is 0 unless set.
        num_workers: Threads that run the items of a batch side by side; for systems that wait on
            the network.
        max_epochs: The number of the last epoch, where `fit` is not given one.
        measure_noise: Whether the baseline's val split is measured a second time, with other
            chance; unless given, where that makes no model call. Where the two differ, the default
            policy keeps an epoch only if its gain is significant.
        repeat: How often each val item is measured, in every epoch; means are judged.
        max_wait_s: How long a service that does not answer is waited for, in seconds; 0: not at
            all. After that the epoch stays open, and `fit` raises OutageError.
        dry_run: `fit` says what would happen, in `Result.stop_reason`, and touches nothing.

    Raises:
        UsageError: a callback with a method that would never be called, or a negative time.
    """

    def __init__(
        self,
        callbacks: Sequence[Callback | Logger | EllipsisType] | Callback | None = None,
        loop: Loop | None = None,
        policy: Policy | Gate | Sequence[Gate] | None = None,
        experiment: Experiment | None = None,
        logger: Logger | None = None,
        accumulate_grad_batches: int | None = None,
        monitor: str | None = None,
        seed: int | None = None,
        num_workers: int = 0,
        max_epochs: int | None = None,
        *,
        mode: str | None = None,
        failed_value: float | None = None,
        measure_noise: bool | None = None,
        repeat: int = 1,
        max_wait_s: float = MAX_WAIT_S,
        dry_run: bool = False,
    ) -> None:
        check_window(accumulate_grad_batches)
        if repeat < 1:
            raise UsageError(f"repeat must be 1 or more, not {repeat}", hint="1: measured once")
        several = callbacks if isinstance(callbacks, Sequence) else [callbacks]
        # "[...]" in a sample means "yours, if any".
        given = [c for c in several if c is not None and not isinstance(c, EllipsisType)]
        loggers = [] if logger is None else [logger]
        self.callbacks: list[Callback] = []
        for each in given:
            if isinstance(each, Callback) or not hasattr(each, "log_metrics"):
                self.callbacks.append(check_callback(each))
            else:
                loggers.append(each)
        self.loggers = loggers
        self.loop = loop or EpochLoop()
        self.policy = None if policy is None else as_policy(policy)
        self.experiment = experiment or Experiment()
        self.max_epochs = max_epochs
        self.accumulate_grad_batches = accumulate_grad_batches
        self.seed = self.experiment.manifest.seed if seed is None else seed
        self.num_workers = num_workers
        self.measure_noise, self.repeat = measure_noise, repeat
        self.experiment.repeat = repeat
        if not max_wait_s >= 0:
            raise UsageError(
                f"max_wait_s must be 0 or more, not {max_wait_s}", hint="0: wait for no service"
            )
        self.max_wait_s = max_wait_s
        self.dry_run = dry_run
        self.monitor, self.mode = monitor or "accuracy", "max"
        self.monitored = Monitored(self.monitor)
        self.current_epoch = 0
        self.decision: Decision | None = None
        self._began_s = math.inf
        self.callback_metrics: dict[str, dict[str, float]] = {}
        self.stop_reason = ""
        self._monitor, self._mode, self._failed_value = monitor, mode, failed_value
        self._policy = self.policy or Policy()
        self._module: AutoPilotModule | None = None
        self._epoch_cost = Cost()
        self.active: list[Callback] = []
        self.run = Run(self.experiment)
        self.failures = Failures()

    # --- entry points --------------------------------------------------------------------------

    def fit(
        self,
        module: AutoPilotModule,
        train_dataloaders: Iterable[Any] | None = None,
        val_dataloaders: Iterable[Any] | None = None,
        datamodule: Any = None,
        max_epochs: int | None = None,
    ) -> Result:
        """Optimizes the module's parameters; goes on where the experiment was left.

        Args:
            module: The system.
            train_dataloaders: Batches of the train split; otherwise the module's own.
            val_dataloaders: Batches of the val split; otherwise the module's own.
            datamodule: Gives all loaders instead.
            max_epochs: The number of the last epoch; None: until something else stops it.

        Raises:
            ModuleError, DataError, UsageError: the set-up cannot work; see `check_setup`.
            EvaluationError: nothing can be measured.
            OutageError: a service did not answer; call it again to go on.
        """
        check_module(module)
        max_epochs = self.max_epochs if max_epochs is None else max_epochs
        if self.dry_run:
            self.prepare(module)
            self.stop_reason = forecast(
                self,
                module,
                datamodule,
                train_dataloaders,
                val_dataloaders,
                max_epochs,
                self._monitor,
            )
            return self.result()
        with data_source(module, datamodule, "fit") as source:
            train = source.train_dataloader() if train_dataloaders is None else train_dataloaders
            val = source.val_dataloader() if val_dataloaders is None else val_dataloaders
            return self._fit(module, train, val, max_epochs)

    def _fit(
        self,
        module: AutoPilotModule,
        train: Iterable[Any] | None,
        val: Iterable[Any] | None,
        max_epochs: int | None,
    ) -> Result:
        setup = check_setup(module, {"train": train, "val": val}, self.policy, self._monitor)
        assert train is not None, "check_setup refuses that"
        optimizer, loss, self._policy = setup.optimizer, setup.loss, setup.policy
        if not self.experiment.manifest.target:
            # With a target, a command line tells of it before the run.
            for note in leakage_notes({"train": train, "val": val}):
                _LOG.warning("%s", note)
        self.prepare(module)
        check_window(module.accumulate_grad_batches)
        self.experiment.monitored = self.monitored
        evaluator = self.evaluator(module, self.experiment, loss)
        fit = Fit(
            trainer=self,
            module=module,
            loss=loss,
            optimizer=optimizer,
            policy=setup.policy,
            evaluator=evaluator,
            train=train,
            val=val,
            max_epochs=max_epochs,
            accumulate=self.accumulate_grad_batches or module.accumulate_grad_batches,
        )
        try:
            self.call("setup", "fit")
            self._describe(optimizer)
            self._restore(self.experiment.open(module.parameters()), optimizer)
            check_gates(setup.policy, self.experiment.metrics.get(0, {}), self.monitor)
            # What an interrupted fit of the same objects left is not feedback on this one.
            optimizer.zero_grad()
            fit.loss.reset()
            ledger = ledger_of(self.experiment, self.active)
            self.run = Run(self.experiment, ledger, self.run.outages)
            with running(self.run):
                self.call("on_fit_start")
                try:
                    self.loop.run(fit)
                except BaseException:
                    self._note_rest()
                    raise
                self.experiment.on_loop_complete("stopped", self.stop_reason)
                self.call("on_fit_end")
        except BudgetExceededError as spent:
            # A call that is too dear ends the session, not the experiment.
            self.call("on_exception", spent)
            self.stop(spent.message)
            self.experiment.on_loop_complete("interrupted", self.stop_reason)
            return replace(self.result(), interrupted=True)
        except BaseException as error:
            self.call("on_exception", error)
            raise
        finally:
            fit.evaluator.close()
            self.call("teardown", "fit")
        return self.result()

    def validate(
        self,
        module: AutoPilotModule,
        dataloaders: Iterable[Any] | None = None,
        datamodule: Any = None,
    ) -> Result:
        """Measures the val split as the parameters are now; records nothing."""
        return self._evaluate(module, "val", dataloaders, datamodule, Experiment())

    def test(
        self,
        module: AutoPilotModule,
        dataloaders: Iterable[Any] | None = None,
        datamodule: Any = None,
    ) -> Result:
        """Measures the test split, on the best state if this trainer fitted the module.

        Then the baseline is scored too, and both scores are recorded, with what was gained. A score
        that only one of them has, as after a kill, is not made again.
        """
        experiment = self.experiment if self.experiment.history else Experiment()
        return self._evaluate(module, "test", dataloaders, datamodule, experiment)

    def measure(self, module: AutoPilotModule, split: str, epoch: int) -> Measured:
        """Measures a split of the module's own as an epoch of a run did, with the same chance.

        Records nothing. Model calls are the experiment's.

        Args:
            module: The system, in the state that is to be measured.
            split: "val" or "test".
            epoch: What shuffling and chance derive from, beside the seed.

        Returns:
            The metrics and the items; none of both where the module has no such split.
        """
        stage = "validate" if split == "val" else split
        with data_source(module, None, stage) as source:
            loader = getattr(source, f"{split}_dataloader")()
            if loader is None:
                return Measured([SplitMetrics(module, keep_items=True)])
            return self._pass(module, split, stage, loader, self.experiment, epoch)

    # --- what callbacks and policies may ask ---------------------------------------------------

    def stop(self, reason: str) -> None:
        """Ends the run after this epoch; the first reason counts."""
        self.stop_reason = self.stop_reason or reason

    def best_value(self) -> float | None:
        """The best monitored val metric so far, the epoch that was just judged included."""
        value = self.callback_metrics.get("val", {}).get(self.monitor)
        if self.decision is not None and self.decision.kept and value is not None:
            return value
        return self.experiment.best_value

    def spent(self) -> Cost:
        """What the experiment has cost so far, the epoch that was just judged included."""
        recorded = self.experiment.last_epoch >= self.current_epoch
        return self.experiment.spent + (Cost() if recorded else self._epoch_cost)

    def epoch_s(self) -> float:
        """The seconds that the epoch has taken so far, over all sessions."""
        return time.monotonic() - self._began_s

    def evaluations_per_epoch(self) -> int:
        """What an epoch takes, as far as is known: the most that one took so far.

        No epoch after the baseline measures noise.
        """
        epochs = [
            record.cost.evaluations - (record.noise.evaluations if record.noise else 0)
            for record in self.experiment.history
        ]
        recorded = self.experiment.last_epoch >= self.current_epoch
        return max([0, *epochs] if recorded else [self._epoch_cost.evaluations, *epochs])

    def judges_by(self) -> str:
        """What decides whether an epoch is kept, in words."""
        return f"val {self.monitor} decides: {direction_words(self.mode)}"

    def result(self) -> Result:
        """What the run has come to so far."""
        experiment = self.experiment
        judged = [record for record in experiment.history if record.epoch > 0]
        return Result(
            stop_reason=self.stop_reason,
            epochs=len(judged),
            kept=sum(record.verdict == "kept" for record in judged),
            best_epoch=experiment.best_epoch,
            baseline=experiment.baseline_value,
            best=experiment.best_value,
            metrics=experiment.metrics.get(experiment.best_epoch, {}),
            cost=experiment.spent,
            test=experiment.gains.get(experiment.best_epoch),
        )

    # --- what the loop calls -------------------------------------------------------------------

    def call(self, moment: str, *arguments: Any) -> None:
        """Runs one method of every callback, and of the module if it has it."""
        for callback in self.active:
            getattr(callback, moment)(self, self._module, *arguments)
        self.call_module(moment, *arguments)

    def call_module(self, moment: str, *arguments: Any) -> None:
        """Runs one method of the module, if it has it."""
        own = getattr(self._module, moment, None)
        if own is not None:
            own(*arguments)

    @property
    def should_stop(self) -> bool:
        """Whether the run ends after this epoch. To be set by callbacks, as in Lightning."""
        return bool(self.stop_reason)

    @should_stop.setter
    def should_stop(self, stop: bool) -> None:
        if stop:
            self.stop("a callback asked for it")
        else:
            self.stop_reason = ""

    def is_done(self, fit: Fit) -> bool:
        """Whether no further epoch follows; the reason is in `stop_reason` then."""
        if fit.max_epochs is not None and self.experiment.last_epoch >= fit.max_epochs:
            epochs = "1 epoch" if fit.max_epochs == 1 else f"{fit.max_epochs} epochs"
            self.stop(f"reached the maximum of {epochs}")
        fit.optimizer.blocked = set(self.experiment.memory.blocked())
        self.stop(fit.optimizer.exhausted())
        return bool(self.stop_reason)

    def start_epoch(self, epoch: int) -> None:
        """Makes an epoch the current one."""
        self.current_epoch, self.decision, self._epoch_cost = epoch, None, Cost()
        self._began_s = time.monotonic() - self.experiment.recorded_seconds()
        self.run.start_epoch(epoch)
        self.failures.clear()
        self.callback_metrics = {}

    def _note_rest(self) -> None:
        """The wall clock of an epoch that is left in its middle counts when it is gone on with."""
        experiment = self.experiment
        if experiment.last_epoch < self.current_epoch:
            # Why it is left is more than that it cannot be noted.
            with contextlib.suppress(AutopilotError):
                note_rest(experiment.store, self.current_epoch, self.epoch_s())

    def decide(
        self, decision: Decision, metrics: dict[str, dict[str, float]], cost: Cost
    ) -> Decision:
        """Makes a verdict known to callbacks and logger; what else is to be said is added to it."""
        decision = replace(decision, reasons=(*decision.reasons, *self.run.notes))
        self.decision, self.callback_metrics, self._epoch_cost = decision, metrics, cost
        flat = {f"{s}/{name}": v for s, values in metrics.items() for name, v in values.items()}
        for logger in self.loggers:
            logger.log_metrics(flat, self.current_epoch)
        self.call("on_verdict", decision)
        return decision

    def callback_states(self) -> dict[str, Any]:
        """What the callbacks remember."""
        states = {key: callback.state_dict() for key, callback in self._keyed_callbacks()}
        return {key: state for key, state in states.items() if state}

    def _keyed_callbacks(self) -> Iterator[tuple[str, Callback]]:
        """The callbacks under their state keys; a second one of a key is key#2."""
        seen: Counter[str] = Counter()
        for callback in self.active:
            seen[callback.state_key] += 1
            number = seen[callback.state_key]
            yield callback.state_key + (f"#{number}" if number > 1 else ""), callback

    def evaluator(
        self, module: AutoPilotModule, experiment: Experiment, loss: Loss | None = None
    ) -> Evaluator:
        """What runs batches as this trainer does, once `prepare` has seen the module."""
        scoring = Scoring((self.item_metric or self.monitor,), self.failed_value)
        loss = loss or loss_of(module)
        loss.direct(self.item_metric, self.mode)
        return Evaluator(
            module, experiment, self.seed, self.num_workers, loss, scoring, self.failures
        )

    @property
    def item_metric(self) -> str:
        """The metric of the items that decides, or that the deciding one is made of; or ""."""
        if (owner := self.monitored.owner) is not None:
            return str(getattr(owner[0], "name", ""))
        return "" if self.monitor == "accuracy" else self.monitor

    def check_monitor(
        self, metrics: Mapping[str, Mapping[str, float]], measured: SplitMetrics
    ) -> None:
        """Ends a run whose monitored metric does not exist, or one that a gate reads.

        Args:
            metrics: Those of the baseline.
            measured: Its val split.

        Raises:
            UsageError: it names the metrics that there are.
            EvaluationError: nothing is scored, or the metric is not a finite number.
        """
        val = metrics.get("val", {})
        if "val" in metrics:
            measured.check_scored("val", self.monitor)
        if "val" in metrics and self.monitor not in val:
            raise UsageError(
                f"there is no val metric {self.monitor!r}",
                hint=f"monitor one of: {', '.join(sorted(val))}",
            )
        check_gates(self._policy, metrics, self.monitor)

    def _describe(self, optimizer: Optimizer) -> None:
        """What a new experiment's manifest says of this trainer."""
        strategies = tuple(optimizer.strategies())
        self.experiment.manifest = replace(
            self.experiment.manifest, seed=self.seed, strategies=strategies
        )

    def _restore(self, saved: Mapping[str, Any], optimizer: Optimizer) -> None:
        if not saved:
            return
        if not self.experiment.ignore_stop and self.experiment.history[-1].stop:
            self.stop(self.experiment.history[-1].stop)
        optimizer.load_state_dict(saved.get("optimizer", {}))
        states = saved.get("callbacks", {})
        for key, callback in self._keyed_callbacks():
            if key in states:
                callback.load_state_dict(states[key])

    def prepare(self, module: AutoPilotModule) -> None:
        """Finds out what decides, and which callbacks listen; evaluates nothing.

        Raises:
            UsageError: no direction is stated, or a callback has a method that is never called.
        """
        self._module = module
        for name, parameter in module.named_parameters():
            parameter.name = name
        check_moments(module)
        types = transient_errors_of(module)
        self.run.outages = Outages(self.max_wait_s, types, self.call)
        self.active = [*self.callbacks, *callbacks_of(module)]
        name = self._monitor or module.monitor
        self.monitor = name.removeprefix("val_").removeprefix("val/").removeprefix("val ")
        self.monitored = monitored(self.monitor, dict(module.named_metrics()))
        stated = metric_modes(module.named_metrics(), self.monitor)
        self.mode = direction_of(self.monitor, self._mode, module.mode, stated)
        given = module.failed_value if self._failed_value is None else self._failed_value
        self.failed_value = worst_value(given, self.monitored, self.item_metric)
        self.stop_reason = ""
        self.decision = None
        self._began_s = math.inf

    def _evaluate(
        self,
        module: AutoPilotModule,
        split: str,
        dataloaders: Iterable[Any] | None,
        datamodule: Any,
        experiment: Experiment,
    ) -> Result:
        stage = "validate" if split == "val" else split
        check_module(module)
        check_steps(module, [split])
        if self.dry_run:
            what = f"dry run: {type(module).__name__}, the {split} split would be measured"
            return Result(stop_reason=what)
        with data_source(module, datamodule, stage) as source:
            own = getattr(source, f"{split}_dataloader")
            loader = own() if dataloaders is None else dataloaders
            return self._measure(module, split, stage, loader, experiment)

    def _measure(
        self,
        module: AutoPilotModule,
        split: str,
        stage: str,
        loader: Iterable[Any] | None,
        experiment: Experiment,
    ) -> Result:
        if loader is None:
            raise ModuleError(
                f"there is no {split} split for {type(module).__name__}",
                hint=f"pass dataloaders, or define {split}_dataloader()",
            )
        started, evaluations = time.monotonic(), 0
        metrics: Mapping[str, float] = {}
        scored = split == "test" and bool(experiment.history)
        for epoch in unscored(experiment, loader) if scored else [experiment.best_epoch]:
            self.failures.clear()
            with experiment.at(epoch) if scored else contextlib.nullcontext():
                measured = self._pass(module, split, stage, loader, experiment, epoch)
            evaluations, metrics = evaluations + measured.evaluations, measured.compute()
            if scored:
                gain = test_gain(self, measured) if epoch == experiment.best_epoch else None
                experiment.on_test_complete(metrics, measured.items, epoch, gain)
        best = experiment.best_epoch
        return Result(
            best_epoch=best,
            metrics={split: experiment.metrics[best]["test"] if scored else metrics},
            cost=Cost(evaluations=evaluations, seconds=time.monotonic() - started),
            test=experiment.gains.get(best) if scored else None,
        )

    def _pass(
        self,
        module: AutoPilotModule,
        split: str,
        stage: str,
        loader: Iterable[Any],
        experiment: Experiment,
        epoch: int,
    ) -> Measured:
        """A split is measured, once or several times."""
        self.prepare(module)
        if not experiment.history:
            experiment.open(module.parameters())
        evaluator = self.evaluator(module, experiment)
        try:
            self.call("setup", stage)
            own = experiment is self.run.experiment
            run = self.run if own else Run(experiment, outages=self.run.outages)
            run.epoch = epoch
            with running(run):
                measured = measure(self, module, evaluator, split, epoch, loader)
        except BaseException as error:
            self.call("on_exception", error)
            raise
        finally:
            evaluator.close()
            self.call("teardown", stage)
        return measured
