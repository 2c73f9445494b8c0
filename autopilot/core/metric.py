"""Metrics: numbers over a whole split, gathered batch by batch.

The contract is torchmetrics': `add_state`, `update`, `compute`, `reset`, with `update` taking the
Datum that a step returned.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from autopilot.core.types import Datum, Outcome
from autopilot.errors import MetricError

M = TypeVar("M", bound="Metric | MetricCollection")


class Metric:
    """A number over a split. Subclasses declare their state and how it grows.

    Attributes:
        higher_is_better: True, False, or None where neither is stated.

    >>> class Words(Metric):
    ...     higher_is_better = False
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.add_state("total", 0)
    ...     def update(self, data):
    ...         self.total += sum(len(item.metadata["text"].split()) for item in data.leaves())
    ...     def compute(self):
    ...         return float(self.total)
    >>> words = Words()
    >>> words.update(Datum(metadata={"text": "to be or not"}))
    >>> words.compute()
    4.0
    """

    higher_is_better: bool | None = None

    def __init__(self) -> None:
        self._defaults: dict[str, Any] = {}

    def add_state(self, name: str, default: Any) -> None:
        """Declares a state: an attribute that `reset` puts back to its default."""
        if not name.isidentifier():
            raise MetricError(
                f"{name!r} cannot be a state's name", hint="use a valid attribute name"
            )
        self._defaults[name] = copy.deepcopy(default)
        setattr(self, name, copy.deepcopy(default))

    def update(self, data: Datum) -> None:
        """Takes in what a step returned: a batch's Datum with its items, or a single item."""
        raise NotImplementedError(f"{type(self).__name__} defines no update(data)")

    def compute(self) -> float:
        """The value over all that was taken in since the last reset."""
        raise NotImplementedError(f"{type(self).__name__} defines no compute()")

    def reset(self) -> None:
        """Forgets everything."""
        for name, default in self._defaults.items():
            setattr(self, name, copy.deepcopy(default))

    def has_value(self, item: Datum) -> bool:
        """Whether an item contributes: two states are compared on the items that do in both."""
        return item.outcome not in ("error", "unmeasured")

    def directions(self, name: str) -> dict[str, bool | None]:
        """Names to whether higher is better, of the values that `compute` gives under a name."""
        return {name: self.higher_is_better}

    def forward(self, data: Datum) -> float:
        """The value on this Datum alone; it is taken in as well."""
        alone = self.clone()
        alone.reset()
        alone.update(data)
        self.update(data)
        return alone.compute()

    __call__ = forward

    def clone(self: M) -> M:
        """An independent copy, with what was taken in so far."""
        return copy.deepcopy(self)

    def __add__(self, other: Metric | MetricCollection) -> MetricCollection:
        return MetricCollection([self]) + other

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class MetricCollection:
    """Several metrics under their names.

    Args:
        metrics: Metrics by name, or a list whose names are the class names in lower case.
        more: Further metrics, named so too.
        prefix: Put before every name.
        postfix: Put after every name.

    Raises:
        MetricError: two metrics of the same name.
    """

    def __init__(
        self,
        metrics: Metric | Mapping[str, Metric] | Iterable[Metric],
        *more: Metric,
        prefix: str = "",
        postfix: str = "",
    ) -> None:
        self.prefix, self.postfix = prefix, postfix
        self._metrics: dict[str, Metric] = {}
        self.add_metrics(metrics, *more)

    def add_metrics(
        self, metrics: Metric | Mapping[str, Metric] | Iterable[Metric], *more: Metric
    ) -> None:
        """Adds metrics, as the constructor takes them.

        Raises:
            MetricError: two metrics of the same name, or something that is none.
        """
        if isinstance(metrics, Mapping):
            for name, metric in metrics.items():
                self._add(name, metric)
            metrics = ()
        for metric in (metrics, *more) if isinstance(metrics, Metric) else (*metrics, *more):
            self._add(type(metric).__name__.lower(), metric)

    def _add(self, name: str, metric: Metric) -> None:
        if not isinstance(metric, Metric):
            raise MetricError(
                f"{name} is a {type(metric).__name__}, not a Metric",
                hint="pass Metric objects, or a mapping from name to Metric",
            )
        if name in self._metrics:
            raise MetricError(
                f"two metrics are named {name!r}",
                hint="name them: MetricCollection({'first': ..., 'second': ...})",
            )
        self._metrics[name] = metric

    def items(self) -> Iterator[tuple[str, Metric]]:
        """Full name and metric."""
        for name, metric in self._metrics.items():
            yield f"{self.prefix}{name}{self.postfix}", metric

    def update(self, data: Datum) -> None:
        """Updates every metric."""
        for metric in self._metrics.values():
            metric.update(data)

    def compute(self) -> dict[str, float]:
        """Every metric's value by full name."""
        return {name: metric.compute() for name, metric in self.items()}

    def reset(self) -> None:
        """Resets every metric."""
        for metric in self._metrics.values():
            metric.reset()

    def forward(self, data: Datum) -> dict[str, float]:
        """Every metric's value on this Datum alone; it is taken in as well."""
        return {name: metric.forward(data) for name, metric in self.items()}

    __call__ = forward

    def directions(self, name: str = "") -> dict[str, bool | None]:
        """Full names to whether higher is better."""
        return {full: metric.higher_is_better for full, metric in self.items()}

    def clone(self, prefix: str | None = None, postfix: str | None = None) -> MetricCollection:
        """An independent copy, with its state, under another prefix or postfix if given."""
        return MetricCollection(
            {name: metric.clone() for name, metric in self._metrics.items()},
            prefix=self.prefix if prefix is None else prefix,
            postfix=self.postfix if postfix is None else postfix,
        )

    def __add__(self, other: Metric | MetricCollection) -> MetricCollection:
        combined = MetricCollection(dict(self.items()))
        right = other if isinstance(other, MetricCollection) else MetricCollection([other])
        for name, metric in right.items():
            combined._add(name, metric)
        return combined

    def keys(self) -> Iterator[str]:
        """Full names."""
        return (name for name, _ in self.items())

    def values(self) -> Iterator[Metric]:
        """The metrics."""
        return iter(self._metrics.values())

    def __iter__(self) -> Iterator[str]:
        return self.keys()

    def __contains__(self, name: object) -> bool:
        return any(name == known for known in self.keys())

    def __len__(self) -> int:
        return len(self._metrics)

    def __getitem__(self, name: str) -> Metric:
        return dict(self.items())[name]

    def __repr__(self) -> str:
        return f"MetricCollection({', '.join(name for name, _ in self.items())})"


def computed(name: str, metric: Metric | MetricCollection) -> dict[str, float]:
    """What a metric comes to, under its names."""
    if isinstance(metric, MetricCollection):
        return metric.compute()
    return {name: metric.compute()}


class ItemMean:
    """What the loop measures on every split without being asked.

    "accuracy" is passed / (passed + failed + error), where any item passed or failed, or all are
    errors; each name in an item's `metrics` is averaged over the items that have it.

    Attributes:
        items: How many items were taken in.
        outcomes: How many of them came to what.
        errors: The error messages.
    """

    def __init__(self) -> None:
        self.items = 0
        self.outcomes: Counter[Outcome] = Counter()
        self.errors: list[str] = []
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def update(self, data: Datum) -> None:
        """Takes in what a step returned."""
        for item in data.leaves():
            self.items += 1
            self.outcomes[item.outcome] += 1
            if item.error_message is not None:
                self.errors.append(item.error_message)
            for name, value in item.metrics.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
                self._counts[name] = self._counts.get(name, 0) + 1
        if data.items:
            for name, value in data.metrics.items():
                self._sums[name] = self._sums.get(name, 0.0) + value * len(data.items)
                self._counts[name] = self._counts.get(name, 0) + len(data.items)

    def compute(self) -> dict[str, float]:
        """Name to mean; empty when there were no items."""
        if not self.items:
            return {}
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        passed, errors = self.outcomes["passed"], self.outcomes["error"]
        judged = passed + self.outcomes["failed"]
        if judged or errors == self.items:
            return {"accuracy": passed / (judged + errors), **means}
        return means
