"""Callbacks: code that runs at named moments of the loop."""

from __future__ import annotations

import difflib
import inspect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from autopilot.core.signatures import check_call
from autopilot.errors import UsageError

if TYPE_CHECKING:
    from autopilot.core.experiment import Experiment
    from autopilot.core.failures import Failures
    from autopilot.core.module import AutoPilotModule
    from autopilot.core.optimizer import Optimizer
    from autopilot.core.outages import Waiting
    from autopilot.core.policy import Decision
    from autopilot.core.records.ledger import Ledger, Spent
    from autopilot.core.records.record import Event, MetricsRecord, StepRecord
    from autopilot.core.store import Side
    from autopilot.core.types import Cost, Datum


class RunView(Protocol):
    """The run as a callback sees it: all that a callback may read, and how it ends the run.

    The Trainer is one; annotate the argument `trainer` of a callback's methods with it.

    Attributes:
        experiment: The records: history, best epoch, memory, store.
        failures: The items of the epoch that failed, by split and kind.
        monitor: The val metric that decides.
        mode: "max" when higher is better, "min" when lower is.
        seed: Shuffling and the chance in evaluations derive from it.
        should_stop: Whether the run ends after this epoch; may be set.
    """

    experiment: Experiment
    failures: Failures
    monitor: str
    mode: str
    seed: int

    @property
    def should_stop(self) -> bool:
        """Whether the run ends after this epoch; may be set, as in Lightning."""

    @should_stop.setter
    def should_stop(self, stop: bool) -> None: ...

    @property
    def current_epoch(self) -> int:
        """The epoch in progress; 0 is the baseline."""

    @property
    def decision(self) -> Decision | None:
        """The verdict on the epoch in progress; None before it is judged."""

    @property
    def callback_metrics(self) -> Mapping[str, Mapping[str, float]]:
        """Split to metric name to value, of the epoch in progress, as far as measured."""

    @property
    def ledger(self) -> Ledger:
        """Model calls and their cost, over all sessions."""

    @property
    def notes(self) -> Sequence[str]:
        """Sentences for the user on the epoch in progress."""

    def stop(self, reason: str) -> None:
        """Ends the run after this epoch; the first reason counts."""

    def best_value(self) -> float | None:
        """The best monitored val metric so far, the epoch that was just judged included."""

    def spent(self) -> Cost:
        """The cost of the experiment so far, the epoch that was just judged included."""

    def evaluations_per_epoch(self) -> int:
        """The most evaluations that an epoch took so far."""

    def least_of_next(self) -> Spent:
        """The least that a further epoch of several candidates takes, as far as that is known."""


class Logger(Protocol):
    """Where metrics go beside the experiment: what Lightning's loggers have."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Takes "split/name" to value for an epoch."""


class Callback:
    """Override the moments that you need. Every method gets the trainer and the module.

    The order, as in Lightning: setup, on_fit_start, the validation hooks of epoch 0,
    on_train_start, then for each epoch on_train_epoch_start (and on_candidates where it has
    several, each of which goes through all up to on_verdict), for each batch on_train_batch_start,
    on_after_loss, where a step follows on_before_backward, on_after_backward,
    on_before_optimizer_step, on_step_committed, on_before_zero_grad, on_review and on_review_end
    where the edit is reviewed, and on_train_batch_end; then the validation hooks
    (on_validation_start, on_validation_epoch_start, those of the batches, on_validation_epoch_end,
    on_validation_end), on_verdict, on_train_epoch_end, and, when the epoch is in the store,
    on_epoch_recorded; at the end on_train_end, on_fit_end, teardown.

    A module may have the same methods, without the arguments trainer and module: they run after
    those of the callbacks.

    A callback's memory is its `state_dict`, which is saved after on_train_epoch_end: a resumed run
    goes on with it.
    """

    def setup(self, trainer: RunView, module: AutoPilotModule, stage: str) -> None:
        """Before anything; stage is "fit", "validate" or "test"."""

    def teardown(self, trainer: RunView, module: AutoPilotModule, stage: str) -> None:
        """After everything, also after an error."""

    def on_fit_start(self, trainer: RunView, module: AutoPilotModule) -> None:
        """The experiment is open, saved state is loaded."""

    def on_fit_end(self, trainer: RunView, module: AutoPilotModule) -> None:
        """The loop has ended."""

    def on_train_start(self, trainer: RunView, module: AutoPilotModule) -> None:
        """The baseline is known; the first epoch follows."""

    def on_train_end(self, trainer: RunView, module: AutoPilotModule) -> None:
        """The last epoch is judged."""

    def on_train_epoch_start(self, trainer: RunView, module: AutoPilotModule) -> None:
        """`trainer.current_epoch` begins."""

    def on_train_epoch_end(self, trainer: RunView, module: AutoPilotModule) -> None:
        """The epoch is judged (`trainer.decision`), and not recorded yet."""

    def on_candidates(
        self, trainer: RunView, module: AutoPilotModule, sides: Sequence[Side]
    ) -> None:
        """An epoch of several candidates is about to make them, one after the other."""

    def on_train_batch_start(
        self, trainer: RunView, module: AutoPilotModule, batch: Datum, batch_idx: int
    ) -> None:
        """A batch is about to be run."""

    on_validation_batch_start = on_test_batch_start = on_train_batch_start

    def on_after_loss(
        self,
        trainer: RunView,
        module: AutoPilotModule,
        outputs: Datum,
        batch: Datum,
        batch_idx: int,
    ) -> None:
        """A training batch is evaluated, the loss has seen it; its graph is there until a step."""

    def on_train_batch_end(
        self,
        trainer: RunView,
        module: AutoPilotModule,
        outputs: Datum,
        batch: Datum,
        batch_idx: int,
    ) -> None:
        """A batch is done; in training, with the step that it filled."""

    on_validation_batch_end = on_test_batch_end = on_train_batch_end

    def on_before_backward(self, trainer: RunView, module: AutoPilotModule) -> None:
        """`loss.backward()` follows."""

    def on_after_backward(self, trainer: RunView, module: AutoPilotModule) -> None:
        """The gradients are there."""

    def on_before_optimizer_step(
        self, trainer: RunView, module: AutoPilotModule, optimizer: Optimizer
    ) -> None:
        """`optimizer.step()` follows."""

    def on_step_committed(
        self, trainer: RunView, module: AutoPilotModule, step: StepRecord
    ) -> None:
        """The step is in the store."""

    def on_review(self, trainer: RunView, module: AutoPilotModule, step: StepRecord) -> None:
        """A step's edit waits for a decision, with `--review`; called again and again until then.

        `trainer.experiment.people.decide("approve", "", "who", step)` decides on it.
        """

    def on_review_end(self, trainer: RunView, module: AutoPilotModule, decision: Event) -> None:
        """A person has decided on a step's edit, here or elsewhere."""

    def on_before_zero_grad(
        self, trainer: RunView, module: AutoPilotModule, optimizer: Optimizer
    ) -> None:
        """`optimizer.zero_grad()` follows."""

    def on_validation_start(self, trainer: RunView, module: AutoPilotModule) -> None:
        """The split is about to be measured."""

    on_validation_epoch_start = on_test_start = on_test_epoch_start = on_validation_start

    def on_validation_end(self, trainer: RunView, module: AutoPilotModule) -> None:
        """The split is measured: its metrics are in `trainer.callback_metrics`."""

    on_validation_epoch_end = on_test_end = on_test_epoch_end = on_validation_end

    def on_verdict(self, trainer: RunView, module: AutoPilotModule, decision: Decision) -> None:
        """The policy has decided; also for the baseline."""

    def on_epoch_recorded(
        self, trainer: RunView, module: AutoPilotModule, record: MetricsRecord
    ) -> None:
        """The epoch is in the store, kept or rolled back; for showing it, not for remembering."""

    def on_outage(self, trainer: RunView, module: AutoPilotModule, waiting: Waiting) -> None:
        """A service does not answer; a pause follows, then another try."""

    def on_outage_end(self, trainer: RunView, module: AutoPilotModule, waited_s: float) -> None:
        """It answers again, after so many seconds."""

    def on_exception(
        self, trainer: RunView, module: AutoPilotModule, exception: BaseException
    ) -> None:
        """An error or an interrupt ends the run."""

    def state_dict(self) -> dict[str, Any]:
        """The state of the callback for a resumed run, as JSON."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` returned."""

    @property
    def state_key(self) -> str:
        """Names the state among those of the other callbacks."""
        return type(self).__name__


class LoggerCallback(Callback):
    """Gives the metrics of each epoch to a logger."""

    def __init__(self, logger: Logger) -> None:
        self.logger = logger

    def on_verdict(self, trainer: RunView, module: AutoPilotModule, decision: Decision) -> None:
        metrics = trainer.callback_metrics
        flat = {f"{s}/{name}": v for s, values in metrics.items() for name, v in values.items()}
        self.logger.log_metrics(flat, trainer.current_epoch)


class Hooks:
    """The callbacks of a run in their order, then the module's own methods of the same names."""

    def __init__(
        self,
        trainer: RunView | None = None,
        module: AutoPilotModule | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.callbacks = list(callbacks)
        self.trainer, self._module = trainer, module

    def call(self, moment: str, *arguments: Any) -> None:
        """Runs one method of every callback, and of the module if it has it."""
        for callback in self.callbacks:
            getattr(callback, moment)(self.trainer, self._module, *arguments)
        self.call_module(moment, *arguments)

    def call_module(self, moment: str, *arguments: Any) -> None:
        """Runs one method of the module, if it has it."""
        own = getattr(self._module, moment, None)
        if own is not None:
            own(*arguments)

    def states(self) -> dict[str, Any]:
        """State key to a callback's state; empty states are left out."""
        states = {key: callback.state_dict() for key, callback in self._keyed()}
        return {key: state for key, state in states.items() if state}

    def load_states(self, states: Mapping[str, Any]) -> None:
        """Gives each callback its state back."""
        for key, callback in self._keyed():
            if key in states:
                callback.load_state_dict(states[key])

    def _keyed(self) -> Iterator[tuple[str, Callback]]:
        """The callbacks under their state keys; a second one of a key is key#2."""
        seen: Counter[str] = Counter()
        for callback in self.callbacks:
            seen[callback.state_key] += 1
            number = seen[callback.state_key]
            yield callback.state_key + (f"#{number}" if number > 1 else ""), callback


HOOKS = frozenset(
    name for name in vars(Callback) if name.startswith("on_") or name in ("setup", "teardown")
)


def check_callback(callback: object) -> Callback:
    """The callback, if each of its `on_*` methods is a moment that exists and can be called.

    Raises:
        UsageError: not a Callback; a method that would never be called, with the likely name; or
            one with other arguments than it gets.
    """
    if not isinstance(callback, Callback):
        raise UsageError(
            f"{callback!r} is not a Callback",
            hint="derive it from autopilot.core.callback.Callback",
        )
    check_moments(callback)
    return callback


def check_moments(owner: object) -> None:
    """Raises a UsageError where an `on_*` method would never be called, or cannot be."""
    for name in dir(type(owner)):
        if name.startswith("on_") and name not in HOOKS and callable(getattr(type(owner), name)):
            near = difflib.get_close_matches(name, HOOKS, 1)
            raise UsageError(
                f"{type(owner).__name__}.{name} would never be called",
                hint=f"did you mean {near[0]}?" if near else f"moments: {', '.join(sorted(HOOKS))}",
            )
    # A module's own methods get neither the trainer nor the module.
    skipped = 1 if isinstance(owner, Callback) else 3
    for name in sorted(HOOKS):
        method = getattr(owner, name, None)
        if method is None or getattr(method, "__func__", None) is getattr(Callback, name):
            continue  # asking for signatures takes long
        given = list(inspect.signature(getattr(Callback, name)).parameters)[skipped:]
        check_call(owner, name, given, UsageError)
