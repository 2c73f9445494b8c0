"""The contract of a metric: a number over a whole split, gathered batch by batch.

It is torchmetrics': declare states, `update` them, `compute` the value. Ready-made ones stand in
`core/metrics.py`, what a metric inherits and
MetricCollection in `core/collection.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from autopilot.core.collection import Accumulator, MetricCollection
from autopilot.core.types import Datum

__all__ = ["Metric", "MetricCollection"]


class Metric(Accumulator):
    """A number over a split, or several by name. Subclasses declare their state and how it grows.

    Inherited: `add_state(name, default)` declares an attribute, `reset()` puts all of them back,
    `clone()` copies, `metric(data)` computes one batch's value, `a + b` makes a MetricCollection.

    A copy of a metric (the loop measures each split on one) has copies of the declared states and
    of the metrics inside it; every other attribute is shared, so a metric may hold a client, a
    lock, a file or a generator.

    Attributes:
        higher_is_better: True, False, or None where nothing is stated; where `compute` returns a
            dict, one for all of its keys or a dict by key.
        noisy: Whether two measurements of the same state differ, as with times: a replay compares
            it only within a tolerance that it is given.

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

    higher_is_better: bool | Mapping[str, bool | None] | None = None
    noisy: bool = False

    def update(self, data: Datum) -> None:
        """Takes in a step's result: a batch's Datum with its items, or a single item."""
        raise NotImplementedError(f"{type(self).__name__} defines no update(data)")

    def compute(self) -> float | Mapping[str, float]:
        """The value over everything since the last reset.

        Returns:
            Something that converts to a float, or a dict of such by name: key "recall" of the
            metric "acc" is the metric "acc_recall".
        """
        raise NotImplementedError(f"{type(self).__name__} defines no compute()")

    def has_value(self, item: Datum) -> bool:
        """Whether an item contributes to the value.

        Two states are compared on the items that have a value in both, and a state in which an item
        lacks the value that it had in the best state is not better. So a metric may leave items out
        only where this says so.
        """
        return item.outcome not in ("error", "unmeasured")

    def __add__(self, other: Accumulator | MetricCollection) -> MetricCollection:
        return MetricCollection([self]) + other
