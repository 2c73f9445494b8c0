"""Callbacks: code that runs at named moments of the loop."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from autopilot.core.signatures import check_call
from autopilot.errors import UsageError

if TYPE_CHECKING:
    from autopilot.core.module import AutoPilotModule
    from autopilot.core.optimizer import Optimizer
    from autopilot.core.outages import Waiting
    from autopilot.core.policy import Decision
    from autopilot.core.records.record import MetricsRecord, StepRecord
    from autopilot.core.trainer import Trainer
    from autopilot.core.types import Datum


class Logger(Protocol):
    """Where metrics go beside the experiment: what Lightning's loggers have."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Takes "split/name" to value for an epoch."""


class Callback:
    """Override the moments that you need. Every method gets the trainer and the module.

    The order, as in Lightning: setup, on_fit_start, the validation hooks of epoch 0,
    on_train_start, then for each epoch on_train_epoch_start, for each batch on_train_batch_start,
    on_after_loss, where a step follows on_before_backward, on_after_backward,
    on_before_optimizer_step, on_step_committed, on_before_zero_grad, and on_train_batch_end; then
    the validation hooks
    (on_validation_start, on_validation_epoch_start, those of the batches, on_validation_epoch_end,
    on_validation_end), on_verdict, on_train_epoch_end, and, when the epoch is in the store,
    on_epoch_recorded; at the end on_train_end, on_fit_end, teardown.

    A module may have the same methods, without the arguments trainer and module: they run after
    those of the callbacks.

    What a callback remembers goes through `state_dict`, which is saved after on_train_epoch_end:
    a resumed run goes on with it.
    """

    def setup(self, trainer: Trainer, module: AutoPilotModule, stage: str) -> None:
        """Before anything; stage is "fit", "validate" or "test"."""

    def teardown(self, trainer: Trainer, module: AutoPilotModule, stage: str) -> None:
        """After everything, also after an error."""

    def on_fit_start(self, trainer: Trainer, module: AutoPilotModule) -> None:
        """The experiment is open, saved state is loaded."""

    def on_fit_end(self, trainer: Trainer, module: AutoPilotModule) -> None:
        """The loop has ended."""

    def on_train_start(self, trainer: Trainer, module: AutoPilotModule) -> None:
        """The baseline is known; the first epoch follows."""

    def on_train_end(self, trainer: Trainer, module: AutoPilotModule) -> None:
        """The last epoch is judged."""

    def on_train_epoch_start(self, trainer: Trainer, module: AutoPilotModule) -> None:
        """`trainer.current_epoch` begins."""

    def on_train_epoch_end(self, trainer: Trainer, module: AutoPilotModule) -> None:
        """The epoch is judged (`trainer.decision`), and not recorded yet."""

    def on_train_batch_start(
        self, trainer: Trainer, module: AutoPilotModule, batch: Datum, batch_idx: int
    ) -> None:
        """A training batch is about to be run."""

    def on_train_batch_end(
        self,
        trainer: Trainer,
        module: AutoPilotModule,
        outputs: Datum,
        batch: Datum,
        batch_idx: int,
    ) -> None:
        """A training batch is done: the loss has seen it, and the step that it filled is made."""

    def on_after_loss(
        self,
        trainer: Trainer,
        module: AutoPilotModule,
        outputs: Datum,
        batch: Datum,
        batch_idx: int,
    ) -> None:
        """A training batch is evaluated, the loss has seen it; its graph is there until a step."""

    def on_before_backward(self, trainer: Trainer, module: AutoPilotModule) -> None:
        """`loss.backward()` follows."""

    def on_after_backward(self, trainer: Trainer, module: AutoPilotModule) -> None:
        """The gradients are there."""

    def on_before_optimizer_step(
        self, trainer: Trainer, module: AutoPilotModule, optimizer: Optimizer
    ) -> None:
        """`optimizer.step()` follows."""

    def on_step_committed(
        self, trainer: Trainer, module: AutoPilotModule, step: StepRecord
    ) -> None:
        """The step is in the store."""

    def on_before_zero_grad(
        self, trainer: Trainer, module: AutoPilotModule, optimizer: Optimizer
    ) -> None:
        """`optimizer.zero_grad()` follows."""

    def on_validation_start(self, trainer: Trainer, module: AutoPilotModule) -> None:
        """The val split follows."""

    def on_validation_epoch_start(self, trainer: Trainer, module: AutoPilotModule) -> None:
        """The pass over the val split begins."""

    def on_validation_epoch_end(self, trainer: Trainer, module: AutoPilotModule) -> None:
        """The pass over the val split is done; its metrics are in `trainer.callback_metrics`."""

    def on_validation_end(self, trainer: Trainer, module: AutoPilotModule) -> None:
        """The val metrics are in `trainer.callback_metrics`."""

    def on_validation_batch_start(
        self, trainer: Trainer, module: AutoPilotModule, batch: Datum, batch_idx: int
    ) -> None:
        """A val batch is about to be run."""

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        module: AutoPilotModule,
        outputs: Datum,
        batch: Datum,
        batch_idx: int,
    ) -> None:
        """A val batch is done."""

    def on_test_start(self, trainer: Trainer, module: AutoPilotModule) -> None:
        """The test split follows."""

    def on_test_epoch_start(self, trainer: Trainer, module: AutoPilotModule) -> None:
        """The pass over the test split begins."""

    def on_test_epoch_end(self, trainer: Trainer, module: AutoPilotModule) -> None:
        """The pass over the test split is done; its metrics are in `trainer.callback_metrics`."""

    def on_test_end(self, trainer: Trainer, module: AutoPilotModule) -> None:
        """The test metrics are in `trainer.callback_metrics`."""

    def on_test_batch_start(
        self, trainer: Trainer, module: AutoPilotModule, batch: Datum, batch_idx: int
    ) -> None:
        """A test batch is about to be run."""

    def on_test_batch_end(
        self,
        trainer: Trainer,
        module: AutoPilotModule,
        outputs: Datum,
        batch: Datum,
        batch_idx: int,
    ) -> None:
        """A test batch is done."""

    def on_verdict(self, trainer: Trainer, module: AutoPilotModule, decision: Decision) -> None:
        """The policy has decided; also for the baseline."""

    def on_epoch_recorded(
        self, trainer: Trainer, module: AutoPilotModule, record: MetricsRecord
    ) -> None:
        """The epoch is in the store, kept or rolled back; for showing it, not for remembering."""

    def on_outage(self, trainer: Trainer, module: AutoPilotModule, waiting: Waiting) -> None:
        """A service does not answer; a pause follows, then another try."""

    def on_outage_end(self, trainer: Trainer, module: AutoPilotModule, waited_s: float) -> None:
        """It answers again, after so many seconds."""

    def on_exception(
        self, trainer: Trainer, module: AutoPilotModule, exception: BaseException
    ) -> None:
        """An error or an interrupt ends the run."""

    def state_dict(self) -> dict[str, Any]:
        """What the callback remembers, as JSON."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` returned."""

    @property
    def state_key(self) -> str:
        """Names the state among those of the other callbacks."""
        return type(self).__name__


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
    """Looks at the `on_*` methods of a callback or a module.

    Raises:
        UsageError: one would never be called, and it names the likely one; or cannot be.
    """
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
        given = list(inspect.signature(getattr(Callback, name)).parameters)[skipped:]
        check_call(owner, name, given, UsageError)
