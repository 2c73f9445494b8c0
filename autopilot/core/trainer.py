"""The Trainer: puts module, loss, optimizer, policy, experiment and callbacks together."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from importlib import import_module
from types import EllipsisType
from typing import Any

from autopilot.core.callback import Callback, Hooks, Logger, LoggerCallback, RunView, check_callback
from autopilot.core.comparison import Monitored, metric_modes, monitored
from autopilot.core.configuration import as_policy, callbacks_of, check_window, data_source, loss_of
from autopilot.core.evaluation import Evaluator
from autopilot.core.experiment import Experiment
from autopilot.core.failures import Failures
from autopilot.core.figures import direction_of, direction_words, plain_name
from autopilot.core.fit import Fit
from autopilot.core.gate import Gate
from autopilot.core.interpreter import Restart
from autopilot.core.items import leakage_notes
from autopilot.core.loop import EpochLoop, Loop
from autopilot.core.loss import Loss
from autopilot.core.measured import Measured, SplitMetrics, measure, test_gain, unscored
from autopilot.core.module import AutoPilotModule, name_parameters
from autopilot.core.outages import MAX_WAIT_S, Outages, transient_errors_of
from autopilot.core.parameter import spaces_of
from autopilot.core.people import Paused
from autopilot.core.policy import Decision, Policy
from autopilot.core.records.ledger import Ledger, Spent
from autopilot.core.run import Run, running
from autopilot.core.scoring import Scoring, worst_value
from autopilot.core.setup_checks import (
    check_gates,
    check_module,
    check_setup,
    check_steps,
    forecast,
    imported_once,
    split_notes,
)
from autopilot.core.states import directed
from autopilot.core.stopping import ledger_of
from autopilot.core.types import Cost, Result
from autopilot.errors import BudgetExceededError, ModuleError, UsageError

_LOG = logging.getLogger("autopilot")


class Trainer(RunView):
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
        accumulate_grad_batches: Batches between two optimizer steps; defaults to the module's
            setting; if unset there too, one step per epoch.
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
        executor: Lets its workers measure, each in processes of its own: anything that submits as
            the executors of concurrent.futures do. They measure the experiment's commits, and so
            the experiment needs a GitStore, and a manifest whose target names the module.
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
        executor: Executor | None = None,
        dry_run: bool = False,
    ) -> None:
        check_window(accumulate_grad_batches)
        if repeat < 1:
            raise UsageError(f"repeat must be 1 or more, not {repeat}", hint="1: measured once")
        self.policy = None if policy is None else as_policy(policy)
        several = callbacks if isinstance(callbacks, Sequence) else [callbacks]
        # "[...]" in a sample means "yours, if any".
        given = [c for c in several if c is not None and not isinstance(c, EllipsisType)]
        self.loggers = [] if logger is None else [logger]
        self.callbacks: list[Callback] = []
        for each in given:
            if isinstance(each, Callback) or not hasattr(each, "log_metrics"):
                self.callbacks.append(check_callback(each))
            else:
                self.loggers.append(each)
        if not max_wait_s >= 0:
            raise UsageError(
                f"max_wait_s must be 0 or more, not {max_wait_s}", hint="0: wait for no service"
            )
        self.loop = loop or EpochLoop()
        self.experiment = experiment or Experiment()
        self.experiment.repeat = self.repeat = repeat
        self.accumulate_grad_batches, self.max_epochs = accumulate_grad_batches, max_epochs
        self.seed = self.experiment.manifest.seed if seed is None else seed
        self.num_workers, self.max_wait_s = num_workers, max_wait_s
        self.measure_noise, self.dry_run, self._executor = measure_noise, dry_run, executor
        self.monitor, self.mode = monitor or "accuracy", "max"
        self.monitored = Monitored(self.monitor)
        self._monitor, self._mode, self._failed_value = monitor, mode, failed_value
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

        It evaluates in this process, which keeps what it has imported: where the parameters are
        Python files, let `autopilot run` evaluate each state in a new process, or evaluate in a
        child process of your own.

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
        train, val = train_dataloaders, val_dataloaders
        max_epochs = self.max_epochs if max_epochs is None else max_epochs
        if self.dry_run:
            self.prepare(module)
            said = forecast(module, datamodule, train, val, self.policy, self._monitor)
            epochs = "no limit of epochs" if max_epochs is None else f"{max_epochs} epochs"
            decides = f"monitoring val {self.monitor} ({self.mode})"
            for name, mode in self.experiment.objectives.items():
                decides += f", objective {name} ({mode})"
            self.run.stop_reason = f"dry run: {said}, {decides}, {epochs}"
            return self.result()
        with data_source(module, datamodule, "fit") as source:
            train = source.train_dataloader() if train is None else train
            val = source.val_dataloader() if val is None else val
            return self._fit(module, train, val, max_epochs)

    def _fit(
        self,
        module: AutoPilotModule,
        train: Iterable[Any] | None,
        val: Iterable[Any] | None,
        max_epochs: int | None,
    ) -> Result:
        setup = check_setup(module, {"train": train, "val": val}, self.policy, self._monitor)
        experiment = self.experiment
        if not experiment.manifest.target:
            # With a target, a command line tells of it before the run.
            loaders = {"train": train, "val": val}
            no_train = split_notes(loaders) if train is None else ()
            for note in (*leakage_notes(loaders), *imported_once(module), *no_train):
                _LOG.warning("%s", note)
        self.prepare(module, setup.policy, {"train": train, "val": val})
        check_window(module.accumulate_grad_batches)
        self.run = fit = Fit(
            self,
            self.run.hooks,
            self.run.outages,
            setup,
            self.evaluator(module, experiment, setup.loss),
            train,
            val,
            max_epochs=max_epochs,
            accumulate=self.accumulate_grad_batches or module.accumulate_grad_batches,
            with_noise=self.measure_noise,
        )
        try:
            fit.call("setup", "fit")
            experiment.manifest = replace(
                experiment.manifest,
                seed=self.seed,
                strategies=tuple(fit.optimizer.strategies()),
                spaces=spaces_of(module.parameters()),
                steerable=fit.optimizer.steerable,
            )
            fit.load_states(experiment.open(module.parameters()))
            experiment.repeat = max(self.repeat, *(r.repeat for r in experiment.history[:1]), 1)
            known = experiment.metrics.get(0, {})
            check_gates(fit.policy, known, self.monitor, experiment.objectives)
            # What an interrupted fit of the same objects left is not feedback on this one.
            fit.optimizer.zero_grad()
            fit.loss.reset()
            fit.pay_from(ledger_of(experiment, fit.hooks.callbacks))
            with running(fit):
                fit.call("on_fit_start")
                try:
                    self.loop.run(fit)
                except BaseException:
                    fit.note_rest()
                    raise
                experiment.on_loop_complete("stopped", fit.stop_reason)
                fit.call("on_fit_end")
        except (BudgetExceededError, Paused) as end:
            # A call that is too dear ends the session, not the experiment; so does a person.
            fit.call("on_exception", end)
            if isinstance(end, Paused):
                fit.stop_reason = f"{end}, in epoch {fit.epoch}"
            else:
                fit.stop(end.message)
            experiment.on_loop_complete("interrupted", fit.stop_reason)
            return replace(self.result(), interrupted=True)
        except Restart:
            raise
        except BaseException as error:
            fit.call("on_exception", error)
            raise
        finally:
            fit.evaluator.close()
            fit.call("teardown", "fit")
        return self.result()

    def validate(
        self,
        module: AutoPilotModule,
        dataloaders: Iterable[Any] | None = None,
        datamodule: Any = None,
    ) -> Result:
        """Measures the val split as the parameters are now; records nothing."""
        return self._scored(module, "val", dataloaders, datamodule, Experiment())

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
        return self._scored(module, "test", dataloaders, datamodule, experiment)

    def _scored(
        self,
        module: AutoPilotModule,
        split: str,
        loader: Iterable[Any] | None,
        datamodule: Any,
        experiment: Experiment,
    ) -> Result:
        check_module(module)
        check_steps(module, [split])
        name, fitted, best = type(module).__name__, bool(experiment.history), experiment.best_epoch
        if self.dry_run:
            what = f"{name}, the {split} split would be measured"
            return Result(stop_reason=f"dry run: {what}")
        with data_source(module, datamodule, "validate" if split == "val" else split) as source:
            loader = getattr(source, f"{split}_dataloader")() if loader is None else loader
            if loader is None:
                raise ModuleError(
                    f"there is no {split} split for {name}",
                    hint=f"pass dataloaders, or define {split}_dataloader()",
                )
            started, evaluations = time.monotonic(), 0
            for epoch in unscored(experiment, loader) if fitted else [best]:
                if split == "test":
                    self.failures.clear()
                with experiment.at(epoch) if fitted else contextlib.nullcontext():
                    measured = self.measure(module, split, epoch, loader, experiment)
                evaluations += measured.evaluations - sum(each.known for each in measured.passes)
                metrics = measured.compute()
                if fitted:
                    gain = test_gain(self, measured) if epoch == best else None
                    experiment.on_test_complete(metrics, measured.items, epoch, gain)
            seconds = time.monotonic() - started
        return Result(
            best_epoch=best,
            metrics={split: experiment.metrics[best][split] if fitted else metrics},
            cost=Cost(evaluations=evaluations, seconds=seconds),
            test=experiment.test_gain(best),
        )

    def measure(
        self,
        module: AutoPilotModule,
        split: str,
        epoch: int,
        loader: Iterable[Any] | None = None,
        experiment: Experiment | None = None,
    ) -> Measured:
        """Measures a split as an epoch of a run did, with the same chance; records nothing.

        Args:
            module: The system, in the state that is to be measured.
            split: "val" or "test".
            epoch: What shuffling and chance derive from, beside the seed.
            loader: Batches of the split; otherwise the module's own.
            experiment: Answers model calls that it has recorded; otherwise the trainer's.

        Returns:
            The metrics and the items; none of both where the module has no such split.
        """
        experiment = experiment or self.experiment
        stage = "validate" if split == "val" else split
        loader = getattr(module, f"{split}_dataloader")() if loader is None else loader
        if loader is None:
            return Measured([SplitMetrics(module, keep_items=True)])
        self.prepare(module)
        run = self.run
        # Of the same experiment, the same run: its services and its ledger go on. Another one gets
        # a run for this measurement alone, so that callbacks go on seeing the run of `fit`.
        if run.experiment is not experiment:
            run = Run(experiment, outages=run.outages, hooks=run.hooks)
            run.metrics = self.run.metrics
        experiment.monitored, experiment.repeat = self.monitored, self.repeat
        if not (experiment.history or experiment.is_open):
            experiment.open(module.parameters())
        evaluator, fitted = self.evaluator(module, experiment), run.epoch
        run.epoch = epoch
        try:
            run.call("setup", stage)
            with running(run):
                return measure(run, evaluator, split, epoch, loader)
        except Restart:
            raise
        except BaseException as error:
            run.call("on_exception", error)
            raise
        finally:
            evaluator.close()
            run.epoch = fitted
            run.call("teardown", stage)

    # --- what callbacks may ask ----------------------------------------------------------------

    @property
    def current_epoch(self) -> int:
        return self.run.epoch

    @property
    def decision(self) -> Decision | None:
        return self.run.decision

    @property
    def callback_metrics(self) -> dict[str, dict[str, float]]:
        return self.run.metrics

    @property
    def ledger(self) -> Ledger:
        return self.run.ledger

    @property
    def notes(self) -> list[str]:
        return self.run.notes

    @property
    def stop_reason(self) -> str:
        """Why the run ends after this epoch, or ended; "" if it goes on."""
        return self.run.stop_reason

    @property
    def should_stop(self) -> bool:
        return bool(self.run.stop_reason)

    @should_stop.setter
    def should_stop(self, stop: bool) -> None:
        if stop:
            self.stop("a callback asked for it")
        else:
            self.run.stop_reason = ""

    def stop(self, reason: str) -> None:
        self.run.stop(reason)

    def best_value(self) -> float | None:
        value = self.run.metrics.get("val", {}).get(self.monitor)
        if self.decision is not None and self.decision.kept and value is not None:
            return value
        return self.experiment.best_value

    def spent(self) -> Cost:
        recorded = self.experiment.last_epoch >= self.run.epoch
        return self.experiment.spent + (Cost() if recorded else self.run.cost)

    def evaluations_per_epoch(self) -> int:
        # By hand, an epoch may pay for a look at the train split; the baseline measures val alone.
        experiment, most = self.experiment, self.experiment.most_evaluations
        if experiment.manifest.by_hand:
            most = max([judged.counted for judged in experiment.epochs[:1]], default=0)
        elif experiment.last_epoch == 0:  # each of several candidates takes as many
            most *= self.loop.proposals
        recorded = experiment.last_epoch >= self.run.epoch
        return most if recorded else max(most, self.run.cost.evaluations)

    def least_of_next(self) -> Spent:
        many, experiment, run = self.loop.proposals, self.experiment, self.run
        if many == 1:
            return Spent()
        asks = self.ledger.total().calls > 0 or (isinstance(run, Fit) and run.optimizer.merges)
        recorded = experiment.last_epoch >= run.epoch
        cost = Cost()
        if max(experiment.last_epoch, run.epoch) > 0:
            cost = experiment.record_of(experiment.last_epoch).cost if recorded else run.cost
        return Spent(many if asks else 0, cost.tokens, cost.cost_usd)

    def judges_by(self) -> str:
        """The metric that decides whether an epoch is kept, and the objectives, in words."""
        objectives = self.experiment.objectives.items()
        each = ", ".join(f"{name} ({direction_words(mode)})" for name, mode in objectives)
        says = f"val {self.monitor} decides: {direction_words(self.mode)}"
        return f"{says}; objectives: {each}" if each else says

    def result(self) -> Result:
        """The result of the run so far."""
        experiment = self.experiment
        return Result(
            stop_reason=self.stop_reason,
            epochs=max(len(experiment.epochs) - 1, 0),
            kept=max(experiment.kept.bit_count() - 1, 0),
            best_epoch=experiment.best_epoch,
            baseline=experiment.baseline_value,
            best=experiment.best_value,
            metrics=experiment.metrics.get(experiment.best_epoch, {}),
            cost=experiment.spent,
            test=experiment.test_gain(experiment.best_epoch),
        )

    # --- getting ready -------------------------------------------------------------------------

    def prepare(
        self,
        module: AutoPilotModule,
        policy: Policy | None = None,
        loaders: Mapping[str, Iterable[Any] | None] = {},  # never changed
    ) -> None:
        """Finds out what decides, and which callbacks listen; evaluates nothing.

        Args:
            policy: That of a fit, whose loop may not go with it, or with the loaders of the splits.

        Raises:
            UsageError: no direction is stated, a callback has a method that is never called, or as
                `CheapGates.check`.
        """
        name_parameters(module)
        run = self.run
        callbacks = [*map(LoggerCallback, self.loggers), *self.callbacks, *callbacks_of(module)]
        run.hooks = Hooks(self, module, callbacks)
        run.outages = Outages(self.max_wait_s, transient_errors_of(module), run.hooks.call)
        run.stop_reason, run.decision = "", None
        name = self._monitor or module.monitor
        self.monitor, own = plain_name(name), dict(module.named_metrics())
        self.monitored = monitored(self.monitor, own)
        objectives = self.loop.objectives
        stated = metric_modes(own, self.monitor, *objectives)
        self.mode = direction_of(self.monitor, self._mode, module.mode, stated)
        given = module.failed_value if self._failed_value is None else self._failed_value
        self.failed_value = worst_value(given, self.monitored, self.item_metric)
        if policy is not None:
            steps = self.accumulate_grad_batches or module.accumulate_grad_batches
            self.loop.gates.check(policy, self.monitored, loaders, steps, self.repeat)
        self.experiment.monitored = self.monitored
        self.experiment.objectives = directed(objectives, self.monitor, self.mode, stated)
        if self._executor is not None and self.experiment.machines is None:
            # By its name: the core has neither git nor processes.
            hire = import_module("autopilot.engine.workers").hire
            whose = self.experiment, module, self.num_workers
            self.experiment.machines = hire(self._executor, *whose)

    @property
    def item_metric(self) -> str:
        """The metric of the items that decides, or that the deciding one is made of; or ""."""
        if (owner := self.monitored.owner) is not None:
            return str(getattr(owner[0], "name", ""))
        return "" if self.monitor == "accuracy" else self.monitor

    def evaluator(
        self, module: AutoPilotModule, experiment: Experiment, loss: Loss | None = None
    ) -> Evaluator:
        """An evaluator with this trainer's settings, once `prepare` has seen the module."""
        scoring = Scoring((self.item_metric or self.monitor,), self.failed_value)
        loss = loss or loss_of(module)
        loss.direct(self.item_metric, self.mode)
        workers, failures = self.num_workers, self.failures
        return Evaluator(module, experiment, self.seed, workers, loss, scoring, failures)
