"""Gates on the epoch alone, and the policy that puts gates before progress.

A gate sets a limit to a metric or to the cost, or asks a function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from autopilot.core.comparison import EpochView, measured
from autopilot.core.figures import bound, figure, figures, truth
from autopilot.core.gate import Gate
from autopilot.core.policy import Decision, Policy, objections
from autopilot.core.signatures import check_awaited, check_function
from autopilot.core.types import GateResult, Metrics, Verdict
from autopilot.errors import UsageError

LIMIT = "a gate's limit"


class BoundGate(Gate):
    """A gate on one metric of one split, with a lowest or a highest value that passes, or both.

    Raises:
        UsageError: a limit is NaN.
    """

    def __init__(
        self, metric: str, split: str, low: float | None, high: float | None, *, required: bool
    ) -> None:
        super().__init__(required=required)
        self.metric, self.split = metric, split
        self.low, self.high = (None if x is None else bound(x, LIMIT) for x in (low, high))

    @property
    def name(self) -> str:
        """The class with its condition, so that two gates of a kind have different names."""
        kind, quantity = type(self).__name__, f"{self.split} {self.metric}"
        if self.low is None:
            return f"{kind}({quantity} <= {self.high:g})"
        if self.high is None:
            return f"{kind}({quantity} >= {self.low:g})"
        return f"{kind}({self.low:g} <= {quantity} <= {self.high:g})"

    def reads(self) -> Sequence[tuple[str, str | None]]:
        return [(self.split, self.metric)]

    def describe(self) -> str:
        quantity = f"{self.split} {self.metric}"
        low, high = figures(self.low, self.high)
        if self.low is None:
            return f"{quantity} is at most {high}"
        return f"{quantity} is at least {low}" + ("" if self.high is None else f", at most {high}")

    def check(self, view: EpochView) -> GateResult:
        """Compares the metric with the limits."""
        value = measured(view.metrics, self.split, self.metric)
        if isinstance(value, str):
            return self.result(passed=False, reason=value)
        passed, verdict = self._compare(value)
        return self.result(passed=passed, reason=f"{self.split} {self.metric} {verdict}")

    def shortfall(self, metrics: Metrics) -> str:
        """Why these metrics miss the bar; empty when they meet it or lack the metric."""
        value = measured(metrics, self.split, self.metric)
        passed, verdict = (True, "") if isinstance(value, str) else self._compare(value)
        return "" if passed else f"{self.split} {self.metric} {verdict}"

    def _compare(self, value: float) -> tuple[bool, str]:
        if self.low is not None and value < self.low:
            here, low = figures(value, self.low)
            return False, f"{here} is below {low}"
        if self.high is not None and value > self.high:
            here, high = figures(value, self.high)
            return False, f"{here} is above {high}"
        here, low, high = figures(value, self.low, self.high)
        if self.low is None:
            return True, f"{here} is at most {high}"
        if self.high is None:
            return True, f"{here} is at least {low}"
        return True, f"{here} is between {low} and {high}"


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
        super().__init__(metric, split, threshold, None, required=required)
        self.threshold = self.low


class MaxGate(BoundGate):
    """A metric has to stay within a threshold; the threshold itself passes.

    Args:
        metric: As in MinGate, like all but the threshold.
        threshold: The highest value that passes.

    Raises:
        UsageError: the threshold is NaN.

    >>> view = EpochView(1, {"val": {"latency_s": 2.5}}, {}, {}, monitor="accuracy")
    >>> MaxGate("latency_s", 2.0).check(view).reason
    'val latency_s 2.500 is above 2.000'
    """

    def __init__(
        self, metric: str, threshold: float, split: str = "val", *, required: bool = True
    ) -> None:
        super().__init__(metric, split, None, threshold, required=required)
        self.threshold = self.high


class RangeGate(BoundGate):
    """A metric has to stay between two values; both ends pass.

    Args:
        metric: As in MinGate, like all but the two ends.
        low: The lowest value that passes.
        high: The highest value that passes.

    Raises:
        UsageError: an end is NaN, or the low one lies above the high one.

    >>> view = EpochView(1, {"val": {"words": 12.0}}, {}, {}, monitor="accuracy")
    >>> RangeGate("words", 20, 80).check(view).reason
    'val words 12.000 is below 20.000'
    """

    def __init__(
        self, metric: str, low: float, high: float, split: str = "val", *, required: bool = True
    ) -> None:
        super().__init__(metric, split, low, high, required=required)
        if low > high:
            raise UsageError(
                f"RangeGate({metric!r}) has low {low:g} above high {high:g}",
                hint="give the lower end first",
            )


Answer = bool | tuple[bool, str]


class CustomGate(Gate):
    """A condition of the user's own, on the epoch or on one metric.

    `CustomGate(function)` gives the function the EpochView; `CustomGate("recall", function)` the
    metric's value, a float, and fails where it was not measured. The function returns a bool, or a
    bool and a sentence. An exception fails the gate and becomes the reason.

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

    def __repr__(self) -> str:
        shown = [self.name] if self.metric is None else [repr(self.metric), self.name]
        shown += [f"split={self.split!r}"] if self.split != "val" else []
        shown += [] if self.required else ["required=False"]
        return f"CustomGate({', '.join(shown)})"

    def reads(self) -> Sequence[tuple[str, str | None]]:
        return [] if self.metric is None else [(self.split, self.metric)]

    def check(self, view: EpochView) -> GateResult:
        """Calls the function."""
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
            raise  # Ctrl-C is for the run, not for the gate
        except BaseException as error:  # noqa: BLE001 - the user's code; its failure is the reason
            problem = f"{type(error).__name__}: {error}".removesuffix(": ")
            return self.result(passed=False, reason=f"{subject} raised {problem}")
        if passed is None:
            return self.result(passed=False, reason=f"{subject} returned None, no verdict")
        return self.result(
            passed=passed, reason=str(reason) or f"{subject} {'holds' if passed else 'fails'}"
        )


_UNITS = ("dollars", "tokens", "evaluations", "seconds")


class CostGate(Gate):
    """Limits the cost of an epoch. It judges the finished epoch; a budget stops the run.

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
        self.max_usd, self.max_tokens = max_usd, max_tokens
        self.max_evaluations, self.max_seconds = max_evaluations, max_seconds
        limits = zip(_UNITS, (max_usd, max_tokens, max_evaluations, max_seconds), strict=True)
        self.limits = {unit: bound(limit, LIMIT) for unit, limit in limits if limit is not None}
        if not self.limits:
            raise UsageError("CostGate has no limit", hint="give one, such as max_usd=1.0")

    def check(self, view: EpochView) -> GateResult:
        """Compares the epoch's cost with every limit."""
        cost = view.cost
        amounts = (cost.cost_usd, cost.tokens, cost.evaluations, cost.seconds)
        spent = dict(zip(_UNITS, amounts, strict=True))
        # Asked this way round, a NaN is over the limit.
        over = [unit for unit, limit in self.limits.items() if not spent[unit] <= limit]
        parts = [
            f"{spent[unit]:,.10g} {unit}, {'more than' if over else 'within'} {limit:,.10g}"
            for unit, limit in self.limits.items()
            if unit in over or not over
        ]
        return self.result(passed=not over, reason=f"the epoch took {' and '.join(parts)}")


class NoViolations(Gate):
    """The optimizer kept to the parameters: it tried nothing anywhere else.

    >>> view = EpochView(1, {}, {}, {}, "f1", violations=["changed evaluator.py: put back"])
    >>> NoViolations().check(view).reason
    'outside of the parameters: changed evaluator.py: put back'
    """

    def check(self, view: EpochView) -> GateResult:
        """Judges the optimizer's attempts."""
        tried = "; ".join(view.violations) or "nothing"
        return self.result(passed=not view.violations, reason=f"outside of the parameters: {tried}")


class NoMemorizing(Gate):
    """The edit writes no train or val items into the parameters.

    Without this gate, an epoch that does is judged as any other, with a warning among its reasons.
    Copies are found whatever their case and spacing: an input of 16 letters and digits or more, of
    8 or more with its expected output beside it, an expected output of 24 or more, and of longer
    texts any part of 80. What several items have in common is no item's own, and what the
    parameters held before does not count. The reason names the items by their ids alone.

    >>> view = EpochView(1, {}, {}, {}, "f1", memorized="the edit has the input of train item t7")
    >>> NoMemorizing().check(view).reason
    'the edit has the input of train item t7'
    """

    def check(self, view: EpochView) -> GateResult:
        """Judges the edit."""
        reason = view.memorized or "the edit has no items"
        return self.result(passed=not view.memorized, reason=reason)


class QualityFirstPolicy(Policy):
    """Quality before progress: an improvement counts only once every required gate passes.

    1. A required gate fails: rejected, for the gates' reasons, whatever the monitored metric is.
    2. All pass, and the best epoch's recorded metrics miss a required MinGate, MaxGate or
       RangeGate: kept if the monitored metric is a number, and the new best.
    3. Otherwise: kept if the monitored val metric improved.

    So a state that meets the bar is never replaced by one that misses it. The plain Policy asks for
    improvement and gates at once: from a best that misses the bar but scores high, it cannot step
    down to one that meets it. (Point 2 is feasibility before objective, after Deb, "An efficient
    constraint handling method for genetic algorithms", 2000.)

    Args:
        gates: The quality bar.

    >>> from autopilot.policy import MinGate
    >>> policy = QualityFirstPolicy([MinGate("recall", 0.7)])
    >>> best = {"val": {"f1": 0.80, "recall": 0.60}}
    >>> policy.judge(EpochView(1, {"val": {"f1": 0.75, "recall": 0.72}}, {}, best, "f1")).explain()
    'the first epoch that passes every gate (the best so far: val recall 0.600 is below 0.700)'
    >>> policy.judge(EpochView(1, {"val": {"f1": 0.90, "recall": 0.65}}, {}, best, "f1")).explain()
    'val recall 0.650 is below 0.700'
    """

    def judge(self, view: EpochView) -> Decision:
        """The verdict on an epoch; its first reason is the decisive one."""
        results = tuple(gate.check(view) for gate in self.gates)
        failed, warned = objections(results)
        if failed:
            return Decision("rejected", failed + warned, results)
        # Only these gates: a CustomGate may cost money to ask, and none of the others sets a bar.
        bars = [gate for gate in self.gates if isinstance(gate, BoundGate) and gate.required]
        shortfall = "; ".join(filter(None, (bar.shortfall(view.best) for bar in bars)))
        if shortfall and view.value is not None and math.isfinite(view.value):
            reason = f"the first epoch that passes every gate (the best so far: {shortfall})"
            return Decision("kept", (reason, *warned), results)
        improvement = self.improved(view)
        verdict: Verdict = "kept" if improvement.passed or not improvement.required else "rejected"
        return Decision(verdict, (improvement.reason, *warned), (*results, improvement))
