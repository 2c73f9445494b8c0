"""Gates that keep a search honest: the epoch against the best, and val against train.

A comparison passes, and says so, while there is no best to compare with: before the first kept
epoch of a run without a baseline.
"""

from __future__ import annotations

from collections.abc import Sequence

from autopilot.core.comparison import EpochView, measured, nothing_to_compare
from autopilot.core.figures import bound, figures, gained, sounds_like_cost
from autopilot.core.gate import Gate
from autopilot.core.noise import GainGate
from autopilot.core.types import GateResult
from autopilot.errors import UsageError
from autopilot.policy.gates import LIMIT

# 0.75 - 0.70 is 0.05 and a little in binary: limits forgive what rounding adds.
_ROUNDING = 1e-9


class NoRegression(Gate):
    """Val metrics must not get worse than those of the best epoch.

    Args:
        metric: The name of the metric, or several.
        tolerance: How much worse is still allowed, in the metric's own unit.
        higher_is_better: The direction of these metrics; True unless a name sounds like a cost,
            which needs it stated.
        required: An optional gate only warns.

    Raises:
        UsageError: a negative tolerance, no metric, or a cost without a direction.

    >>> view = EpochView(2, {"val": {"recall": 0.7}}, {}, {"val": {"recall": 0.8}}, monitor="f1")
    >>> NoRegression("recall", tolerance=0.05).check(view).reason
    'val recall 0.800 -> 0.700 is worse by 0.100, more than 0.050'
    """

    def __init__(
        self,
        metric: str | Sequence[str],
        tolerance: float = 0.0,
        *,
        higher_is_better: bool | None = None,
        required: bool = True,
    ) -> None:
        super().__init__(required=required)
        self.metric = metric
        self.metrics = [metric] if isinstance(metric, str) else list(metric)
        if not self.metrics:
            raise UsageError("NoRegression has no metric", hint="name one: NoRegression('recall')")
        self.tolerance = _not_negative(tolerance, "tolerance")
        costs = [name for name in self.metrics if sounds_like_cost(name)]
        if costs and higher_is_better is None:
            raise UsageError(
                f"NoRegression does not say whether a higher or a lower {costs[0]!r} is better",
                hint=f"NoRegression({costs[0]!r}, higher_is_better=False), or True",
            )
        self.higher_is_better = higher_is_better

    @property
    def name(self) -> str:
        """The class with its metrics."""
        return f"NoRegression({', '.join(self.metrics)})"

    def reads(self) -> Sequence[tuple[str, str | None]]:
        return [("val", metric) for metric in self.metrics]

    def check(self, view: EpochView) -> GateResult:
        """Compares each metric; the reason names all that got worse, or else all of them."""
        found = [self._compare(view, metric) for metric in self.metrics]
        passed = all(held for held, _ in found)
        said = (sentence for held, sentence in found if passed or not held)
        return self.result(passed=passed, reason="; ".join(said))

    def _compare(self, view: EpochView, metric: str) -> tuple[bool, str]:
        value = measured(view.metrics, "val", metric)
        if isinstance(value, str):
            return False, value
        best = measured(view.best, "val", metric)
        if isinstance(best, str):
            return True, nothing_to_compare(metric)
        worse = gained(value, best, "min" if self.higher_is_better is False else "max")
        before, after = figures(best, value)
        change = f"val {metric} {before} -> {after}"
        # inf - inf is NaN: not known to hold, so it fails.
        if worse <= self.tolerance + _ROUNDING:
            return True, f"{change} is no regression"
        amount, allowed = figures(worse, self.tolerance)
        return False, f"{change} is worse by {amount}, more than {allowed}"


class Improvement(GainGate):
    """The monitored val metric improves on the best by a minimum.

    Every policy asks for improvement already; this asks for a size. `SignificantImprovement` asks
    whether a gain is real.

    Args:
        min_delta: The smallest gain that counts, in the metric's own unit. With 0 any gain does.
        required: An optional gate only warns.

    Raises:
        UsageError: a negative min_delta.

    >>> view = EpochView(2, {"val": {"f1": 0.705}}, {}, {"val": {"f1": 0.7}}, monitor="f1")
    >>> Improvement(0.01).check(view).reason
    'val f1 0.700 -> 0.705 is a gain of 0.005, less than 0.010'
    """

    def __init__(self, min_delta: float = 0.0, *, required: bool = True) -> None:
        super().__init__(required=required)
        self.min_delta = _not_negative(min_delta, "min_delta")

    def _weigh(self, view: EpochView, gain: float) -> tuple[bool, str]:
        before, after = figures(view.best_value, view.value)
        change = f"val {view.monitor} {before} -> {after}"
        if gain <= 0:
            return False, f"{change} is no improvement"
        amount, least = figures(gain, self.min_delta)
        if gain < self.min_delta - _ROUNDING:
            return False, f"{change} is a gain of {amount}, less than {least}"
        return True, f"{change} is a gain of {amount}"


class GeneralizationGap(Gate):
    """Limits how much better train is than val: a wide gap is fitting to the train items.

    The gap is positive where train is better, in either direction. Train is measured while the
    epoch runs and val after its steps, so a gap may be negative; that passes.

    Args:
        max_gap: The widest gap that passes, in the metric's own unit.
        metric: The name of the metric; the monitored one, in its mode, by default.
        higher_is_better: The direction of `metric`; the run's mode by default.
        required: An optional gate only warns.

    Raises:
        UsageError: max_gap is NaN.

    >>> metrics = {"train": {"f1": 0.95}, "val": {"f1": 0.7}}
    >>> GeneralizationGap(0.1).check(EpochView(2, metrics, {}, {}, monitor="f1")).reason
    'f1 is 0.950 on train and 0.700 on val, a gap of 0.250, above 0.100'
    """

    def __init__(
        self,
        max_gap: float,
        metric: str | None = None,
        *,
        higher_is_better: bool | None = None,
        required: bool = True,
    ) -> None:
        super().__init__(required=required)
        self.max_gap = bound(max_gap, LIMIT)
        self.metric = metric
        self.higher_is_better = higher_is_better

    def reads(self) -> Sequence[tuple[str, str | None]]:
        return [("train", self.metric), ("val", self.metric)]

    def check(self, view: EpochView) -> GateResult:
        """Compares the two splits of this epoch."""
        metric = view.monitor if self.metric is None else self.metric
        train = measured(view.metrics, "train", metric)
        val = measured(view.metrics, "val", metric)
        if isinstance(train, str) or isinstance(val, str):
            problems = [text for text in (train, val) if isinstance(text, str)]
            return self.result(passed=False, reason="; ".join(problems))
        own = "min" if self.higher_is_better is False else "max"
        gap = gained(val, train, view.mode if self.higher_is_better is None else own)
        passed = gap <= self.max_gap + _ROUNDING
        (on_train, on_val), (width, limit) = figures(train, val), figures(gap, self.max_gap)
        return self.result(
            passed=passed,
            reason=f"{metric} is {on_train} on train and {on_val} on val, a gap of {width}, "
            f"{'within' if passed else 'above'} {limit}",
        )


def _not_negative(value: float, argument: str) -> float:
    size = bound(value, argument)
    if size < 0:
        raise UsageError(f"{argument} is {value}, not 0 or more", hint="give a size, not a sign")
    return size
