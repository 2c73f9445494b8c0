"""Ready-made metrics, after torchmetrics' contract: labels compared, successes counted.

All of them share these rules:

- They read each item of `data.leaves()`. An item without the key raises a MetricError that names
  item and key.
- An item that is an error is wrong, whatever else it holds; each metric says what that means for
  it. An item that was not measured does not count. An unscored item does not count for the metrics
  of `success`, which are PassRate and Accuracy without keys.
- Nothing to compute gives NaN, which passes no gate.
- The order of items and how they were batched never change the value.

Those of numbers (Mean, Sum, Min, Max, Quantile, Latency) are written in `aggregates.py`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Hashable
from typing import Literal

from autopilot.core.aggregates import Latency, Max, Mean, Min, Quantile, Sum, missing_key
from autopilot.core.metric import Metric
from autopilot.core.types import Datum
from autopilot.errors import MetricError

__all__ = ["Accuracy", "FBeta", "PassRate", "Precision", "Recall"]
__all__ += ["Latency", "Max", "Mean", "Min", "Quantile", "Sum"]

Average = Literal["binary", "macro", "micro"]


class PassRate(Metric):
    """The share of scored items that passed, 0 to 1; an error did not.

    >>> rate = PassRate()
    >>> rate.update(Datum(items=[Datum(success=True), Datum(success=False)]))
    >>> rate.compute()
    0.5
    """

    higher_is_better = True
    right: int
    items: int

    def __init__(self) -> None:
        super().__init__()
        self.add_state("right", 0)
        self.add_state("items", 0)

    def update(self, data: Datum) -> None:
        """Counts the items."""
        for item in filter(self.has_value, data.leaves()):
            self.items += 1
            self.right += item.outcome != "error" and self._is_right(item)

    def has_value(self, item: Datum) -> bool:
        """Whether the item counts: it was measured and scored."""
        return item.outcome not in ("unmeasured", "unscored")

    def compute(self) -> float:
        """The share; NaN without items."""
        return self.right / self.items if self.items else math.nan

    def _is_right(self, item: Datum) -> bool:
        return item.outcome == "passed"


class Accuracy(PassRate):
    """The share of items whose prediction equals their target, 0 to 1.

    Without arguments it is the share of scored items that passed. Naming one key or both compares
    `metadata[prediction]` with `metadata[target]` instead, and the other key has its own name.

    Args:
        prediction: The key of the prediction in an item's metadata; "prediction" by default.
        target: The key of the target; "target" by default.

    >>> accuracy = Accuracy("label", "expected")
    >>> accuracy.update(Datum(metadata={"label": "spam", "expected": "spam"}))
    >>> accuracy.update(Datum(metadata={"label": "spam", "expected": "ham"}))
    >>> accuracy.compute()
    0.5
    """

    def __init__(self, prediction: str | None = None, target: str | None = None) -> None:
        super().__init__()
        self.by_success = prediction is None and target is None
        self.prediction, self.target = prediction, target

    def has_value(self, item: Datum) -> bool:
        """Whether the item counts: it was measured and, without keys, scored."""
        return super().has_value(item) or (not self.by_success and item.outcome == "unscored")

    def _is_right(self, item: Datum) -> bool:
        if self.by_success:
            return super()._is_right(item)
        prediction = "prediction" if self.prediction is None else self.prediction
        target = "target" if self.target is None else self.target
        return bool(_metadata(self, item, prediction) == _metadata(self, item, target))


class _LabelMetric(Metric, ABC):
    """Hits, false alarms and misses by label; subclasses make a ratio of the three."""

    higher_is_better = True
    hits: Counter[Hashable]
    false_alarms: Counter[Hashable]
    misses: Counter[Hashable]
    adrift: int

    def __init__(
        self,
        prediction: str = "prediction",
        target: str = "target",
        *,
        positive: Hashable = True,
        average: Average = "binary",
    ) -> None:
        super().__init__()
        if average not in ("binary", "macro", "micro"):
            raise MetricError(
                f"there is no average {average!r}", hint="use 'binary', 'macro' or 'micro'"
            )
        self.prediction, self.target = prediction, target
        self.positive, self.average = positive, average
        for state in ("hits", "false_alarms", "misses"):
            self.add_state(state, Counter)
        # Errors without a target: a mean over labels counts each as a miss of every label.
        self.add_state("adrift", 0)

    def update(self, data: Datum) -> None:
        """Counts the items."""
        for item in data.leaves():
            if item.outcome == "unmeasured":
                continue
            if item.outcome == "error":
                self._count_failed(item)
                continue
            prediction, target = self._label(item, self.prediction), self._label(item, self.target)
            if prediction == target:
                self.hits[target] += 1
            else:
                self.false_alarms[prediction] += 1
                self.misses[target] += 1

    def has_value(self, item: Datum) -> bool:
        """Whether the item was measured: an error is a wrong prediction.

        For "macro" an error has no value: without the item's target or prediction, a label may go
        from the mean, or lose its false alarm, and the mean may rise.
        """
        return item.outcome not in ("unmeasured", *(("error",) if self.average == "macro" else ()))

    def _count_failed(self, item: Datum) -> None:
        known = self.target in item.metadata
        target = self._label(item, self.target) if known else None
        if self.average == "binary":
            self.misses[self.positive] += not known or target == self.positive
            self.false_alarms[self.positive] += not known or target != self.positive
        elif self.average == "micro":
            self.misses[target] += 1
            self.false_alarms[target] += 1
        elif known:
            self.misses[target] += 1
        else:
            self.adrift += 1

    def compute(self) -> float:
        """The value; NaN without items."""
        labels = self.hits.keys() | self.false_alarms.keys() | self.misses.keys()
        if not labels:
            return 0.0 if self.adrift else math.nan
        if self.average == "micro":
            return self._ratio(self.hits.total(), self.false_alarms.total(), self.misses.total())
        if self.average == "binary":
            labels = {self.positive}
        ratios = [
            self._ratio(self.hits[each], self.false_alarms[each], self.misses[each] + self.adrift)
            for each in labels
        ]
        return math.fsum(ratios) / len(ratios)

    def _label(self, item: Datum, key: str) -> Hashable:
        label = _metadata(self, item, key)
        if not isinstance(label, Hashable):
            raise MetricError(
                f"item {item.id} has a {type(label).__name__} as {key!r}, which is no label",
                hint="use a string, a number or a bool",
            )
        return label

    @abstractmethod
    def _ratio(self, hits: int, false_alarms: int, misses: int) -> float: ...


class Precision(_LabelMetric):
    """The share of predictions of a label that are right, 0 to 1.

    As in scikit-learn, "binary" counts one label, "macro" is the plain mean over all labels seen as
    target or prediction, and "micro" counts all items as one; 0 out of 0 is 0.

    An error is a wrong prediction: for "binary" the other side of its target (both a miss and
    a false alarm when the target is missing too), for "micro" a miss and a false alarm, for "macro"
    a miss of its target, or of every label when that is missing.

    Args:
        prediction: The key of the prediction in an item's metadata.
        target: The key of the target in an item's metadata.
        positive: The label that "binary" counts.
        average: "binary", "macro" or "micro".

    Raises:
        MetricError: an average that does not exist.

    >>> precision = Precision(positive="spam")
    >>> for prediction, target in [("spam", "spam"), ("spam", "ham"), ("ham", "ham")]:
    ...     precision.update(Datum(metadata={"prediction": prediction, "target": target}))
    >>> precision.compute()
    0.5
    """

    def _ratio(self, hits: int, false_alarms: int, misses: int) -> float:
        return _share(hits, hits + false_alarms)


class Recall(_LabelMetric):
    """The share of a label's items that are found, 0 to 1; arguments and rules as in Precision.

    >>> recall = Recall(average="macro")
    >>> for prediction, target in [("a", "a"), ("a", "b"), ("b", "b"), ("c", "c")]:
    ...     recall.update(Datum(metadata={"prediction": prediction, "target": target}))
    >>> round(recall.compute(), 3)
    0.833
    """

    def _ratio(self, hits: int, false_alarms: int, misses: int) -> float:
        return _share(hits, hits + misses)


class FBeta(_LabelMetric):
    """The weighted harmonic mean of precision and recall, 0 to 1; rules as in Precision.

    Args:
        beta: The weight of recall as a multiple of precision's; 1 gives F1.
        prediction: As in Precision, like all that follow.

    Raises:
        MetricError: an average that does not exist, or a beta that is not above 0.

    >>> f1 = FBeta()
    >>> for prediction, target in [(True, True), (True, False), (False, False)]:
    ...     f1.update(Datum(metadata={"prediction": prediction, "target": target}))
    >>> round(f1.compute(), 3)
    0.667
    """

    def __init__(
        self,
        beta: float = 1.0,
        prediction: str = "prediction",
        target: str = "target",
        *,
        positive: Hashable = True,
        average: Average = "binary",
    ) -> None:
        super().__init__(prediction, target, positive=positive, average=average)
        if not 0 < beta < math.inf:
            raise MetricError(f"a beta of {beta} is not above 0", hint="1 weighs both alike")
        self.beta = beta

    def _ratio(self, hits: int, false_alarms: int, misses: int) -> float:
        weight = self.beta**2
        return _share((1 + weight) * hits, (1 + weight) * hits + weight * misses + false_alarms)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _metadata(metric: Metric, item: Datum, key: str) -> object:
    """The item's own payload under a key."""
    if key not in item.metadata:
        raise missing_key(metric, item, key, "metadata", item.metadata)
    return _as_tuples(item.metadata[key])


def _as_tuples(value: object) -> object:
    # A tuple that was recorded comes back from JSON as a list: it is the same label.
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value
