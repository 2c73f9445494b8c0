"""Stop conditions, as callbacks: each stops the run with an honest reason.

A condition is looked at when an epoch ends, and once before the first epoch of a session, so that
a resumed run that has nothing left to do says so at once. Counters are saved state.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from autopilot.core.callback import Callback, RunView
from autopilot.core.comparison import metric_modes
from autopilot.core.figures import direction_of, figure, gained
from autopilot.core.records.ledger import Ledger, Limits

if TYPE_CHECKING:
    from autopilot.core.experiment import Experiment
    from autopilot.core.module import AutoPilotModule


class StopCondition(Callback):
    """Stops the run when `reason` gives one."""

    def reason(self, trainer: RunView) -> str | None:
        """Why the run should stop now, or None."""
        raise NotImplementedError

    def on_train_epoch_end(self, trainer: RunView, module: AutoPilotModule) -> None:
        if found := self.reason(trainer):
            trainer.stop(found)

    # A resumed run that has nothing left to do says so before its first epoch.
    on_train_start = on_train_epoch_end


class EarlyStopping(StopCondition):
    """Stops after some epochs without improvement, or when a target is reached.

    Args:
        patience: Epochs in a row that were not kept; an epoch that changed nothing counts.
        target: Value of the monitored val metric.
        monitor: Another val metric to look at; the trainer's, where epochs are kept by it, if not
            given. "val_loss" and "loss" are the same.
        mode: Of `monitor`: "max" when higher is better, "min" when lower is; what the trainer or
            the module's metric states, if not given.
    """

    def __init__(
        self,
        patience: int | None = None,
        target: float | None = None,
        monitor: str | None = None,
        mode: str | None = None,
    ) -> None:
        if mode not in ("max", "min", None):
            raise ValueError(f'mode must be "max" or "min", not {mode!r}')
        if patience is not None and patience < 1:
            raise ValueError(f"patience must be at least 1, not {patience}")
        self.patience, self.target = patience, target
        self.monitor, self.mode = monitor and monitor.removeprefix("val_"), mode
        self.waited = 0
        self.best: float | None = None

    def on_fit_start(self, trainer: RunView, module: AutoPilotModule) -> None:
        if self.monitor is None or self.mode is not None:
            return
        own = trainer.mode if self.monitor == trainer.monitor else None
        self.mode = direction_of(
            self.monitor, own, None, metric_modes(dict(module.named_metrics()), self.monitor)
        )

    def on_validation_end(self, trainer: RunView, module: AutoPilotModule) -> None:
        value = self._value(trainer)
        if trainer.current_epoch == 0 and self._is_better(value):
            self.best = value

    def on_train_epoch_end(self, trainer: RunView, module: AutoPilotModule) -> None:
        if (decision := trainer.decision) is not None and not decision.is_measured:
            return
        kept = decision is not None and decision.kept
        if self.monitor is not None:
            value = self._value(trainer)
            kept = self._is_better(value)
            self.best = value if kept else self.best
        self.waited = 0 if kept else self.waited + 1
        super().on_train_epoch_end(trainer, module)

    def reason(self, trainer: RunView) -> str | None:
        own = self.monitor is not None
        best = self.best if own else trainer.best_value()
        if self.target is not None and best is not None:
            mode = (self.mode if own else trainer.mode) or "max"
            if gained(self.target, best, mode) >= 0:
                name = self.monitor or trainer.monitor
                return f"target reached: val {name} {figure(best)}, asked for {self.target:g}"
        if self.patience is not None and self.waited >= self.patience:
            what = f" of val {self.monitor}" if own else ""
            return f"{self.waited} epochs without improvement{what}"
        return None

    def _value(self, trainer: RunView) -> float | None:
        return trainer.callback_metrics.get("val", {}).get(self.monitor or "")

    def _is_better(self, value: float | None) -> bool:
        if value is None or not math.isfinite(value):
            return False
        return self.best is None or gained(self.best, value, self.mode or "max") > 0

    def state_dict(self) -> dict[str, Any]:
        return {"waited": self.waited, "best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.waited, self.best = int(state["waited"]), state.get("best")


class Plateau(StopCondition):
    """Stops when the best value gained too little over the latest epochs.

    Args:
        window: Number of epochs looked at.
        min_delta: The gain that is enough.
    """

    def __init__(self, window: int, min_delta: float = 0.001) -> None:
        if window < 1:
            raise ValueError(f"window must be at least 1, not {window}")
        self.window, self.min_delta = window, min_delta
        self.best: list[float | None] = []

    def on_train_epoch_end(self, trainer: RunView, module: AutoPilotModule) -> None:
        if trainer.decision is not None and not trainer.decision.is_measured:
            return
        if not self.best:
            self.best.append(trainer.experiment.baseline_value)
        self.best = [*self.best, trainer.best_value()][-self.window - 1 :]
        super().on_train_epoch_end(trainer, module)

    def reason(self, trainer: RunView) -> str | None:
        first, last = (self.best[0], self.best[-1]) if self.best else (None, None)
        if len(self.best) <= self.window or first is None or last is None:
            return None
        gain = abs(last - first)
        if gain >= self.min_delta:
            return None
        epochs = "1 epoch" if self.window == 1 else f"{self.window} epochs"
        return f"plateau: {figure(gain)} gained in {epochs}, asked for {self.min_delta:g}"

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best = list(state["best"])


class Budget(StopCondition):
    """Stops when something is used up. What earlier sessions spent counts.

    Evaluations are known beforehand: the run stops before an epoch that would exceed them. The
    others are noticed when an epoch ends; but several candidates are only begun if there is enough
    for all, as far as that is known: a model call for each, and what the last epoch took.

    Args:
        evaluations: Items evaluated.
        seconds: Wall clock of the run.
        tokens: Model tokens. No model call is made that could exceed it.
        cost_usd: Dollars. No model call is made that could exceed it.
        calls: Model calls.
    """

    def __init__(
        self,
        evaluations: int | None = None,
        seconds: float | None = None,
        tokens: int | None = None,
        cost_usd: float | None = None,
        calls: int | None = None,
    ) -> None:
        given = (math.inf if n is None else n for n in (calls, tokens, cost_usd, seconds))
        self.limits = Limits(*given)
        self.evaluations = math.inf if evaluations is None else evaluations

    def reason(self, trainer: RunView, beside: int = 0) -> str | None:
        """Why the run ends.

        Args:
            beside: Evaluations that no judged epoch has among its own.
        """
        spent, limits = trainer.spent(), self.limits
        next_epoch = trainer.evaluations_per_epoch()
        if spent.evaluations + beside + next_epoch > self.evaluations:
            return (
                f"evaluation budget: {spent.evaluations + beside} of {self.evaluations} spent, "
                f"an epoch takes {next_epoch}"
            )
        if spent.seconds >= limits.seconds:
            return f"time budget: {spent.seconds:.1f} of {limits.seconds:g} s spent"
        needs, made = trainer.least_of_next(), trainer.ledger.total().calls
        if (used := spent.tokens) + max(needs.tokens, 1) > limits.tokens:
            takes = f", an epoch takes {needs.tokens}" if used < limits.tokens else ""
            return f"token budget: {used} of {limits.tokens} spent{takes}"
        usd = spent.cost_usd
        if usd >= limits.cost_usd or usd + needs.cost_usd > limits.cost_usd:
            takes = f", an epoch takes ${needs.cost_usd:.2f}" if usd < limits.cost_usd else ""
            return f"dollar budget: ${usd:.2f} of ${limits.cost_usd:g} spent{takes}"
        if made + max(needs.calls, 1) > limits.calls:
            takes = f", an epoch takes at least {needs.calls}" if made < limits.calls else ""
            return f"call budget: {made} of {limits.calls:g} made{takes}"
        return None


# How the line on the target begins among the lines that an optimizer is told of a run's end.
TARGET = "The target is "


def target_line(callbacks: Iterable[Callback]) -> str:
    """The target of the run as a line for an optimizer; "" without one."""
    targets = [c.target for c in callbacks if isinstance(c, EarlyStopping) and c.target is not None]
    return f"{TARGET}{figure(targets[0])}.\n" if targets else ""


def ledger_of(experiment: Experiment, callbacks: Iterable[Callback]) -> Ledger:
    """The budget of the callbacks, with the cost of the experiment's calls so far."""
    limits = Limits()
    for callback in callbacks:
        if isinstance(callback, Budget):
            limits = limits & callback.limits
    elapsed_s = experiment.spent.seconds + experiment.progress.seconds()
    ledger = Ledger(limits, elapsed_s, experiment.store.index().spent)
    for call in experiment.store.calls():
        ledger.charge(call.role, call.cost, known=call.priced, judged=call.step > 0)
    return ledger
