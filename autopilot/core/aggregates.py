"""Metrics that make one number of a number each item has; import them from `core.metrics`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from autopilot.core.figures import bound, number
from autopilot.core.metric import Metric
from autopilot.core.types import Datum
from autopilot.errors import MetricError


class _NumberMetric(Metric, ABC):
    """A number made of one named number of each item; a number that is not finite makes it NaN.

    The loop evens out which errors are left out: it compares two states on the items that have a
    number in both, and a state in which an item lacks the number that it had is not better.
    """

    first: Any = math.nan
    count: int
    finite: bool
    taken: Any

    def __init__(
        self, name: str, *, failed: float | None = None, higher_is_better: bool | None = None
    ) -> None:
        super().__init__()
        self.name = name
        self.failed = None if failed is None else bound(failed, f"{type(self).__name__}: failed")
        self.higher_is_better = higher_is_better
        for state, default in (("count", 0), ("finite", True), ("taken", self.first)):
            self.add_state(state, default)

    def update(self, data: Datum) -> None:
        """Takes in each item's number."""
        for item in data.leaves():
            value = self._number_of(item)
            if value is None:
                continue
            self.count += 1
            if math.isfinite(value):
                self._take(value)
            else:
                self.finite = False

    def has_value(self, item: Datum) -> bool:
        """Whether the item has a finite number, or is an error that counts as `failed`."""
        if item.outcome not in ("error", "unmeasured") and self.name not in item.metrics:
            return False
        value = self._number_of(item)
        return value is not None and math.isfinite(value)

    def _number_of(self, item: Datum) -> float | None:
        outcome, value = item.outcome, item.metrics.get(self.name)
        if outcome == "unmeasured":
            return None
        # Before the check of the key: an error may have raised before it had any number.
        if value is None and outcome == "error":
            return self.failed
        if self.name not in item.metrics:
            raise missing_key(self, item, self.name, "metrics", item.metrics)
        try:
            given = number(value)
        except ValueError as error:
            raise MetricError(
                f"{type(self).__name__}: item {item.id} holds no number as {self.name!r} in its "
                f"metrics: {error}",
                hint="keep numbers in a Datum's metrics, anything else in its metadata",
            ) from error
        return self.failed if outcome == "error" and not math.isfinite(given) else given

    def compute(self) -> float:
        """The value; NaN without items or with a number among them that is not finite."""
        return self._value() if self.count and self.finite else math.nan

    @abstractmethod
    def _take(self, value: float) -> None: ...

    def _value(self) -> float:
        return float(self.taken)


class Sum(_NumberMetric):
    """The sum of `metrics[name]`, exact before it is rounded once.

    Args:
        name: The key in an item's `metrics`.
        failed: The number of an item that is an error and has no finite number, such as 0.0 for a
            score or the timeout for a duration: the worst that an item can have, or errors would
            be an improvement. By default such items are left out.
        higher_is_better: The direction, where there is one.

    >>> tokens = Sum("tokens", higher_is_better=False)
    >>> tokens.update(Datum(items=[Datum(metrics={"tokens": 120}), Datum(metrics={"tokens": 80})]))
    >>> tokens.compute()
    200.0
    """

    # Floats are fractions: adding them as such makes the sum independent of the order.
    first = Fraction(0)

    def _take(self, value: float) -> None:
        self.taken += Fraction(value)

    def _value(self) -> float:
        try:
            return float(self.taken)
        except OverflowError:
            return math.nan


class Mean(Sum):
    """The mean of `metrics[name]`; arguments as in Sum.

    >>> mean = Mean("score", failed=0.0, higher_is_better=True)
    >>> mean.update(Datum(metrics={"score": 0.8}))
    >>> mean.update(Datum(error_message="timed out"))
    >>> mean.compute()
    0.4
    """

    def _value(self) -> float:
        return float(self.taken / self.count)


class Min(_NumberMetric):
    """The smallest `metrics[name]`; arguments as in Sum.

    >>> lowest = Min("score")
    >>> lowest.update(Datum(items=[Datum(metrics={"score": s}) for s in (0.8, 0.3)]))
    >>> lowest.compute()
    0.3
    """

    first = math.inf

    def _take(self, value: float) -> None:
        self.taken = min(self.taken, value)


class Max(_NumberMetric):
    """The largest `metrics[name]`; arguments as in Sum.

    >>> highest = Max("score")
    >>> highest.update(Datum(items=[Datum(metrics={"score": s}) for s in (0.8, 0.3)]))
    >>> highest.compute()
    0.8
    """

    first = -math.inf

    def _take(self, value: float) -> None:
        self.taken = max(self.taken, value)


class Quantile(_NumberMetric):
    """A quantile of `metrics[name]`, interpolated between neighbours as NumPy's "linear".

    Every number is kept.

    Args:
        name: The key in an item's `metrics`.
        q: Which quantile, 0 to 1; 0.5 is the median.
        failed: As in Sum, like `higher_is_better`.

    Raises:
        MetricError: q is out of range.

    >>> median = Quantile("words", 0.5)
    >>> median.update(Datum(items=[Datum(metrics={"words": n}) for n in (10, 40, 20, 30)]))
    >>> median.compute()
    25.0
    """

    first = list

    def __init__(
        self,
        name: str,
        q: float,
        *,
        failed: float | None = None,
        higher_is_better: bool | None = None,
    ) -> None:
        super().__init__(name, failed=failed, higher_is_better=higher_is_better)
        if not 0 <= q <= 1:
            raise MetricError(f"quantile {q} is not between 0 and 1", hint="0.5 is the median")
        self.q = q

    def _take(self, value: float) -> None:
        self.taken.append(value)

    def _value(self) -> float:
        position = self.q * (self.count - 1)
        rank, ordered = math.floor(position), sorted(self.taken)
        low, high = ordered[rank], ordered[min(rank + 1, self.count - 1)]
        share = position - rank
        # Rounding must not push the value out of the two numbers that it lies between.
        return float(min(max(low * (1 - share) + high * share, low), high))


class Latency(Quantile):
    """A high quantile of how long an item took, in seconds; lower is better, and it is noisy.

    Args:
        name: The key in an item's `metrics`.
        q: Which quantile, 0 to 1.
        failed: The seconds of an error without a time, such as the timeout.

    >>> latency = Latency()
    >>> latency.update(Datum(items=[Datum(metrics={"latency_s": s / 100}) for s in range(101)]))
    >>> latency.compute()
    0.95
    """

    noisy = True

    def __init__(
        self, name: str = "latency_s", q: float = 0.95, *, failed: float | None = None
    ) -> None:
        super().__init__(name, q, failed=failed, higher_is_better=False)


def missing_key(
    metric: Metric, item: Datum, key: str, where: str, present: Mapping[str, object]
) -> MetricError:
    """The error of an item that lacks a key and did not fail."""
    has = ", ".join(map(str, present)) or "nothing"
    return MetricError(
        f"{type(metric).__name__}: item {item.id} has no {key!r} in its {where}",
        hint=f"there is {has}; an item that could not be answered needs an error_message",
    )
