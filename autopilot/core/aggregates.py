"""Metrics that make one number of a number each item has; import them from `core.metrics`.

A sum, a mean and a quantile come out the same in whatever order the numbers went in. A number that
is not finite makes the whole metric NaN. What an error without a number is left out of, the loop
evens out: it compares two states on the items that have a number in both, and a state in which an
item lacks the number that it had is not better.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from itertools import accumulate

from autopilot.core.metric import Metric
from autopilot.core.numbers import bound, number
from autopilot.core.types import Datum
from autopilot.errors import MetricError


class _NumberMetric(Metric, ABC):
    """A number made of one named number of each item.

    Args:
        name: The key in an item's `metrics`.
        failed: What an item that is an error counts as where it has no finite number, such as 0.0
            for a score or the timeout for a duration: the worst that an item can have, or errors
            would be an improvement. By default it is left out.
        higher_is_better: The direction, where there is one.
    """

    count: int
    finite: bool

    def __init__(
        self, name: str, *, failed: float | None = None, higher_is_better: bool | None = None
    ) -> None:
        super().__init__()
        self.name = name
        self.failed = None if failed is None else bound(failed, f"{type(self).__name__}: failed")
        self.higher_is_better = higher_is_better
        self.add_state("count", 0)
        self.add_state("finite", True)
        self._declare()

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
    def _declare(self) -> None:
        """Adds the states."""

    @abstractmethod
    def _take(self, value: float) -> None:
        """Takes in a finite number."""

    @abstractmethod
    def _value(self) -> float:
        """The value over one number at least."""


class Sum(_NumberMetric):
    """The sum of `metrics[name]`, exact before it is rounded once.

    Args:
        name: The key in an item's `metrics`.
        failed: What an error without that number counts as; left out by default.
        higher_is_better: The direction, where there is one.

    >>> tokens = Sum("tokens", higher_is_better=False)
    >>> tokens.update(Datum(items=[Datum(metrics={"tokens": 120}), Datum(metrics={"tokens": 80})]))
    >>> tokens.compute()
    200.0
    """

    total: Fraction

    def _declare(self) -> None:
        # Floats are fractions: adding them as such makes the sum independent of the order.
        self.add_state("total", Fraction(0))

    def _take(self, value: float) -> None:
        self.total += Fraction(value)

    def _value(self) -> float:
        try:
            return float(self.total)
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
        return float(self.total / self.count)


class Min(_NumberMetric):
    """The smallest `metrics[name]`; arguments as in Sum.

    >>> lowest = Min("score")
    >>> lowest.update(Datum(items=[Datum(metrics={"score": s}) for s in (0.8, 0.3)]))
    >>> lowest.compute()
    0.3
    """

    lowest: float

    def _declare(self) -> None:
        self.add_state("lowest", math.inf)

    def _take(self, value: float) -> None:
        self.lowest = min(self.lowest, value)

    def _value(self) -> float:
        return self.lowest


class Max(_NumberMetric):
    """The largest `metrics[name]`; arguments as in Sum.

    >>> highest = Max("score")
    >>> highest.update(Datum(items=[Datum(metrics={"score": s}) for s in (0.8, 0.3)]))
    >>> highest.compute()
    0.8
    """

    highest: float

    def _declare(self) -> None:
        self.add_state("highest", -math.inf)

    def _take(self, value: float) -> None:
        self.highest = max(self.highest, value)

    def _value(self) -> float:
        return self.highest


class Quantile(_NumberMetric):
    """A quantile of `metrics[name]`.

    By default exact, interpolated between neighbours (as NumPy's "linear"), and every number is
    kept. For long streams, `relative_error` keeps counts in logarithmic buckets instead: DDSketch
    (Masson, Rim and Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error
    guarantees", VLDB 2019). The value is then within that share of the number at rank
    floor(q * (n - 1)), for every input and in any order. At 0.01 a bucket spans 2%: about 1,100
    buckets cover a microsecond to an hour, 71,000 a sign all floats there are; n plays no part.
    Numbers closer to zero than 2.3e-308 count as zero.

    Args:
        name: The key in an item's `metrics`.
        q: Which quantile, 0 to 1; 0.5 is the median.
        relative_error: None for exact; else between 0 and 1, such as 0.01.
        failed: What an error without that number counts as; left out by default.
        higher_is_better: The direction, where there is one.

    Raises:
        MetricError: q or relative_error out of range.

    >>> median = Quantile("words", 0.5)
    >>> median.update(Datum(items=[Datum(metrics={"words": n}) for n in (10, 40, 20, 30)]))
    >>> median.compute()
    25.0
    """

    values: list[float]
    buckets: Counter[tuple[int, int]]

    def __init__(
        self,
        name: str,
        q: float,
        *,
        relative_error: float | None = None,
        failed: float | None = None,
        higher_is_better: bool | None = None,
    ) -> None:
        super().__init__(name, failed=failed, higher_is_better=higher_is_better)
        if not 0 <= q <= 1:
            raise MetricError(f"quantile {q} is not between 0 and 1", hint="0.5 is the median")
        if relative_error is not None and not 0 < relative_error < 1:
            raise MetricError(
                f"a relative error of {relative_error} is not between 0 and 1", hint="use 0.01"
            )
        self.q, self.relative_error = q, relative_error
        # One bucket ends at (1 + e) / (1 - e) times where it begins.
        self._width = 2 * math.atanh(relative_error) if relative_error else 0.0

    def _declare(self) -> None:
        self.add_state("values", [])
        self.add_state("buckets", Counter())

    def _take(self, value: float) -> None:
        if self.relative_error is None:
            self.values.append(value)
        elif abs(value) < sys.float_info.min:
            self.buckets[0, 0] += 1
        else:
            sign = 1 if value > 0 else -1
            # Times the sign, so that sorted buckets are in the order of their numbers.
            self.buckets[sign, sign * math.ceil(math.log(abs(value)) / self._width)] += 1

    def _value(self) -> float:
        position = self.q * (self.count - 1)
        rank = math.floor(position)
        if self.relative_error is not None:
            return self._estimate(rank)
        ordered = sorted(self.values)
        low, high = ordered[rank], ordered[min(rank + 1, self.count - 1)]
        share = position - rank
        return min(max(low * (1 - share) + high * share, low), high)

    def _estimate(self, rank: int) -> float:
        buckets = sorted(self.buckets.items())
        passed = accumulate(count for _, count in buckets)
        (sign, signed_index), _ = next(
            bucket for bucket, seen in zip(buckets, passed, strict=True) if seen > rank
        )
        # The point of the bucket whose distance to both ends is the same share of them.
        exponent = sign * signed_index * self._width - math.log((1 + math.exp(self._width)) / 2)
        return sign * math.exp(min(exponent, math.log(sys.float_info.max)))


class Latency(Quantile):
    """A high quantile of how long an item took, in seconds; lower is better, and it is noisy.

    Args:
        name: The key in an item's `metrics`.
        q: Which quantile, 0 to 1.
        relative_error: As in Quantile: bounded memory for long streams.
        failed: What an error without a time counts as, such as the timeout.

    >>> latency = Latency()
    >>> latency.update(Datum(items=[Datum(metrics={"latency_s": s / 100}) for s in range(101)]))
    >>> latency.compute()
    0.95
    """

    noisy = True

    def __init__(
        self,
        name: str = "latency_s",
        q: float = 0.95,
        *,
        relative_error: float | None = None,
        failed: float | None = None,
    ) -> None:
        super().__init__(
            name, q, relative_error=relative_error, failed=failed, higher_is_better=False
        )


def missing_key(
    metric: Metric, item: Datum, key: str, where: str, there: Mapping[str, object]
) -> MetricError:
    """The error of an item that lacks a key and did not fail."""
    has = ", ".join(map(str, there)) or "nothing"
    return MetricError(
        f"{type(metric).__name__}: item {item.id} has no {key!r} in its {where}",
        hint=f"there is {has}; an item that could not be answered needs an error_message",
    )
