"""Gates on the epoch alone: a bar that a metric or the cost has to meet, or a function's word.

A metric that was not measured fails its gate, and so does NaN: no evidence is not good news.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, overload

from autopilot.core.figures import apart, figure, figures
from autopilot.core.numbers import bound, truth
from autopilot.core.policy import EpochView, Gate, measured
from autopilot.core.signatures import check_awaited, check_function
from autopilot.core.types import GateResult, Metrics
from autopilot.errors import UsageError

LIMIT = "a gate's limit"


class BoundGate(Gate):
    """A gate on one metric of one split: what MinGate, MaxGate and RangeGate share.

    Args:
        metric: The name of the metric.
        split: Where it is measured.
        required: An optional gate only warns.
    """

    def __init__(self, metric: str, split: str, *, required: bool) -> None:
        super().__init__(required=required)
        self.metric = metric
        self.split = split

    @property
    def name(self) -> str:
        """The class with its condition, so that two gates of a kind can be told apart."""
        return f"{type(self).__name__}({self._condition()})"

    def reads(self) -> Sequence[tuple[str, str | None]]:
        return [(self.split, self.metric)]

    def check(self, view: EpochView) -> GateResult:
        """Holds the metric against the bar."""
        value = measured(view.metrics, self.split, self.metric)
        if isinstance(value, str):
            return self.result(passed=False, reason=value)
        return self._held_against(value)

    def shortfall(self, metrics: Metrics) -> str:
        """Why these metrics miss the bar; empty when they meet it or lack the metric."""
        value = measured(metrics, self.split, self.metric)
        result = None if isinstance(value, str) else self._held_against(value)
        return "" if result is None or result.passed else result.reason

    def _held_against(self, value: float) -> GateResult:
        passed, verdict = self._compare(value)
        return self.result(passed=passed, reason=f"{self.split} {self.metric} {verdict}")

    @abstractmethod
    def _condition(self) -> str: ...

    @abstractmethod
    def _compare(self, value: float) -> tuple[bool, str]: ...


class MinGate(BoundGate):
    """A metric has to reach a threshold; the threshold itself passes.

    Args:
        metric: The name of the metric.
        threshold: The lowest value that passes.
        split: Where it is measured.
        required: An optional gate only warns.

    Raises:
        UsageError: the threshold is NaN.

    >>> view = EpochView(1, {"val": {"recall": 0.61}}, {}, {}, monitor="recall")
    >>> MinGate("recall", 0.7).check(view).reason
    'val recall 0.610 is below 0.700'
    """

    def __init__(
        self, metric: str, threshold: float, split: str = "val", *, required: bool = True
    ) -> None:
        super().__init__(metric, split, required=required)
        self.threshold = bound(threshold, LIMIT)

    def _condition(self) -> str:
        return f"{self.split} {self.metric} >= {self.threshold:g}"

    def _compare(self, value: float) -> tuple[bool, str]:
        here, bar = apart(value, self.threshold)
        passed = value >= self.threshold
        return passed, f"{here} is {'at least' if passed else 'below'} {bar}"


class MaxGate(BoundGate):
    """A metric has to stay within a threshold; the threshold itself passes.

    Args:
        metric: The name of the metric.
        threshold: The highest value that passes.
        split: Where it is measured.
        required: An optional gate only warns.

    Raises:
        UsageError: the threshold is NaN.

    >>> view = EpochView(1, {"val": {"latency_s": 2.5}}, {}, {}, monitor="accuracy")
    >>> MaxGate("latency_s", 2.0).check(view).reason
    'val latency_s 2.500 is above 2.000'
    """

    def __init__(
        self, metric: str, threshold: float, split: str = "val", *, required: bool = True
    ) -> None:
        super().__init__(metric, split, required=required)
        self.threshold = bound(threshold, LIMIT)

    def _condition(self) -> str:
        return f"{self.split} {self.metric} <= {self.threshold:g}"

    def _compare(self, value: float) -> tuple[bool, str]:
        here, bar = apart(value, self.threshold)
        passed = value <= self.threshold
        return passed, f"{here} is {'at most' if passed else 'above'} {bar}"


class RangeGate(BoundGate):
    """A metric has to stay between two values; both ends pass.

    Args:
        metric: The name of the metric.
        low: The lowest value that passes.
        high: The highest value that passes.
        split: Where it is measured.
        required: An optional gate only warns.

    Raises:
        UsageError: an end is NaN, or the low one lies above the high one.

    >>> view = EpochView(1, {"val": {"words": 12.0}}, {}, {}, monitor="accuracy")
    >>> RangeGate("words", 20, 80).check(view).reason
    'val words 12.000 is below 20.000'
    """

    def __init__(
        self, metric: str, low: float, high: float, split: str = "val", *, required: bool = True
    ) -> None:
        super().__init__(metric, split, required=required)
        self.low, self.high = bound(low, LIMIT), bound(high, LIMIT)
        if low > high:
            raise UsageError(
                f"RangeGate({metric!r}) has low {low:g} above high {high:g}",
                hint="give the lower end first",
            )

    def _condition(self) -> str:
        return f"{self.low:g} <= {self.split} {self.metric} <= {self.high:g}"

    def _compare(self, value: float) -> tuple[bool, str]:
        if value < self.low:
            here, bar = apart(value, self.low)
            return False, f"{here} is below {bar}"
        if value > self.high:
            here, bar = apart(value, self.high)
            return False, f"{here} is above {bar}"
        here, low, high = figures(value, self.low, self.high)
        return True, f"{here} is between {low} and {high}"


Answer = bool | tuple[bool, str]


class CustomGate(Gate):
    """A condition of the user's own, on the epoch or on one metric.

    `CustomGate(function)` gives the function the EpochView; `CustomGate("recall", function)` the
    metric's value, a float, and fails where it was not measured. The function returns whether the
    condition holds, a bool, or that and a sentence. What it raises fails the gate and becomes the
    reason.

    Args:
        metric: The name of a metric; left out, the function comes first.
        function: The condition.
        name: How the gate is called in reasons; the function's own name by default.
        split: Where the metric is measured, "val" by default.
        required: An optional gate only warns.

    Raises:
        UsageError: there is no function, or it is async.

    >>> view = EpochView(1, {"val": {"words": 30}}, {}, {}, monitor="f1")
    >>> def short(view):
    ...     return view.metrics["val"]["words"] < 50, "answers stay under 50 words"
    >>> CustomGate(short).check(view).passed
    True
    >>> def is_brief(words):
    ...     return words < 20
    >>> CustomGate("words", is_brief).check(view).reason
    'val words 30.000: is_brief fails'
    """

    @overload
    def __init__(
        self, metric: Callable[[EpochView], Answer], *, name: str = "", required: bool = True
    ) -> None: ...

    @overload
    def __init__(
        self,
        metric: str,
        function: Callable[[float], Answer],
        *,
        name: str = "",
        split: str = "val",
        required: bool = True,
    ) -> None: ...

    def __init__(
        self,
        metric: str | Callable[[EpochView], Answer],
        function: Callable[[float], Answer] | None = None,
        *,
        name: str = "",
        split: str = "val",
        required: bool = True,
    ) -> None:
        super().__init__(required=required)
        self.metric = metric if isinstance(metric, str) else None
        self.function: Any = metric if self.metric is None else function
        self.split = split
        if not callable(self.function) or (self.metric is None and function is not None):
            raise UsageError(
                f"CustomGate({metric!r}, {function!r}) has no condition",
                hint="CustomGate(function), or CustomGate('accuracy', function)",
            )
        self._name = name or getattr(self.function, "__name__", type(self.function).__name__)
        given = "view" if self.metric is None else "value"
        check_function(self.function, f"CustomGate: {self._name}", [given], UsageError)

    @property
    def name(self) -> str:
        """The name that was given, or the function's."""
        return self._name

    def reads(self) -> Sequence[tuple[str, str | None]]:
        return [] if self.metric is None else [(self.split, self.metric)]

    def check(self, view: EpochView) -> GateResult:
        """Asks the function."""
        given: EpochView | float = view
        subject = self.name
        if self.metric is not None:
            value = measured(view.metrics, self.split, self.metric)
            if isinstance(value, str):
                return self.result(passed=False, reason=value)
            given, subject = value, f"{self.split} {self.metric} {figure(value)}: {self.name}"
        try:
            outcome: object = self.function(given)
            check_awaited(outcome, self.name)
            answer, reason = outcome if isinstance(outcome, tuple) else (outcome, "")
            passed = truth(answer)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - the user's code; its failure is the reason
            what = f"{type(error).__name__}: {error}".removesuffix(": ")
            return self.result(passed=False, reason=f"{subject} raised {what}")
        if passed is None:
            return self.result(passed=False, reason=f"{subject} returned None, no verdict")
        return self.result(
            passed=passed, reason=str(reason) or f"{subject} {'holds' if passed else 'fails'}"
        )


class CostGate(Gate):
    """What an epoch may cost. It judges the epoch that is over; a budget stops the run.

    Args:
        max_usd: Dollars.
        max_tokens: Model tokens, read and written.
        max_evaluations: Items that went through the module.
        max_seconds: Wall clock.
        required: An optional gate only warns.

    Raises:
        UsageError: no limit is given.

    >>> from autopilot.core.types import Cost
    >>> view = EpochView(1, {}, {}, {}, monitor="f1", cost=Cost(cost_usd=1.25))
    >>> CostGate(max_usd=1).check(view).reason
    'the epoch took 1.25 dollars, more than 1'
    """

    def __init__(
        self,
        max_usd: float | None = None,
        max_tokens: int | None = None,
        max_evaluations: int | None = None,
        max_seconds: float | None = None,
        *,
        required: bool = True,
    ) -> None:
        super().__init__(required=required)
        given = {
            "dollars": max_usd,
            "tokens": max_tokens,
            "evaluations": max_evaluations,
            "seconds": max_seconds,
        }
        self.limits = {
            unit: bound(limit, LIMIT) for unit, limit in given.items() if limit is not None
        }
        if not self.limits:
            raise UsageError("CostGate has no limit", hint="give one, such as max_usd=1.0")

    def check(self, view: EpochView) -> GateResult:
        """Holds the epoch's cost against every limit."""
        cost = view.cost
        spent = {
            "dollars": cost.cost_usd,
            "tokens": cost.tokens,
            "evaluations": cost.evaluations,
            "seconds": cost.seconds,
        }
        over = [unit for unit, limit in self.limits.items() if not spent[unit] <= limit]
        said = [
            f"{spent[unit]:,.10g} {unit}, {'more than' if over else 'within'} {limit:,.10g}"
            for unit, limit in self.limits.items()
            if unit in over or not over
        ]
        return self.result(passed=not over, reason=f"the epoch took {' and '.join(said)}")


class NoViolations(Gate):
    """The optimizer kept to the parameters: it tried nothing anywhere else.

    Args:
        required: An optional gate only warns.

    >>> view = EpochView(1, {}, {}, {}, "f1", violations=["changed evaluator.py: put back"])
    >>> NoViolations().check(view).reason
    'outside of the parameters: changed evaluator.py: put back'
    """

    def check(self, view: EpochView) -> GateResult:
        """Looks at what was tried."""
        tried = "; ".join(view.violations) or "nothing"
        return self.result(passed=not view.violations, reason=f"outside of the parameters: {tried}")
