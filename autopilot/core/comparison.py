"""Comparing two states on the same items: those that have a value of the metric in both.

A candidate that fails on the hard items must not look better than one that answers them. So the
value of a state is computed anew over the items that have a value in both states, and items that
lost theirs are named.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import compress

from autopilot.core.collection import Accumulator, ByName, compute_all, directions_of, find_metric
from autopilot.core.figures import gained
from autopilot.core.metric import Metric
from autopilot.core.types import Cost, Datum, Metrics, Noise
from autopilot.errors import MetricError

Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Monitored:
    """The metric that decides, and how it is computed from items.

    Args:
        name: Its name among the split's metrics.
        owner: The module's metric that computes it, with the key in its dict or ""; None where it
            is the accuracy or the mean of a metric of the items.
    """

    name: str
    owner: tuple[Accumulator, str] | None = None

    def has_value(self, item: Datum) -> bool:
        """Whether an item contributes a value."""
        if self.owner is not None:
            return self.owner[0].has_value(item)
        return self.of_item(item) is not None

    def of_item(self, item: Datum) -> float | None:
        """The value of one item by itself; None where it has none, or the metric is of a whole."""
        if self.owner is not None or item.unmeasured is not None:
            return None
        value = item.metrics.get(self.name)
        if value is not None or self.name != "accuracy":
            return value
        return _SHARES.get(item.outcome)

    def over(self, items: Sequence[Datum]) -> float | None:
        """The value over items that all have one; None where it cannot be computed from them."""
        if not items:
            return None
        if self.owner is None:
            values = [value for value in map(self.of_item, items) if value is not None]
            return math.fsum(values) / len(values) if len(values) == len(items) else None
        metric, key = self.owner
        # On a copy: the loop may still be measuring with the metric itself.
        alone = metric.clone()
        alone.reset()
        try:
            alone.update(Datum(items=list(items)))
            return compute_all({"own": alone}).get(f"own_{key}" if key else "own")
        except MetricError:
            # The recorded part of an item need not hold all that the metric reads.
            return None


_SHARES = {"passed": 1.0, "failed": 0.0, "error": 0.0}
# Any metric of the user's: every item has a value that is no error.
_RESULT = Monitored("", (Metric(), ""))


@dataclass(frozen=True, slots=True)
class Comparison:
    """A state beside another one, on the items that have a value in both.

    Args:
        value: The state's value over these items; None where it was not computed.
        other: The other state's.
        shared: How many they are.
        lost: Ids of the items that have a value in the other state alone.
        fresh: Ids of the items that have a value in this state alone.
    """

    value: float | None = None
    other: float | None = None
    shared: int = 0
    lost: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()


Compared = tuple[Sequence[Datum], Sequence[Datum], Comparison | None]


def compare(
    monitored: Monitored,
    items: Sequence[Datum],
    others: Sequence[Datum],
    *,
    are_splits: bool = False,
) -> Comparison | None:
    """Compares the items of two states; None where one of them recorded none.

    Args:
        are_splits: They are all items of a split: where none lacks a value in one state alone, the
            split's own metrics are over the same items, and no value is computed anew.
    """
    if not items or not others:
        return None
    sides = items, others
    flags = [list(map(monitored.has_value, side)) for side in sides]
    if not any(map(any, flags)):
        # The metric is of whole batches: the batch of an item that raised has no value.
        flags = [list(map(_RESULT.has_value, side)) for side in sides]
    ids = [[item.id for item in side] for side in sides]
    if are_splits and ids[0] == ids[1] and flags[0] == flags[1]:
        return Comparison(shared=sum(flags[0]))
    has, had = (dict(compress(keyed(s).items(), f)) for s, f in zip(sides, flags, strict=True))
    if are_splits and has.keys() == had.keys():
        return Comparison(shared=len(has))
    shared = [item for key, item in has.items() if key in had]
    return Comparison(
        monitored.over(shared),
        monitored.over([had[key] for key in has if key in had]),
        len(shared),
        tuple(key[0] for key in had if key not in has),
        tuple(key[0] for key in has if key not in had),
    )


def keyed(items: Sequence[Datum]) -> dict[Key, Datum]:
    """The items by id and occurrence: a dataset may hold the same row, hence the same id, twice."""
    found: dict[Key, Datum] = {(item.id, 0): item for item in items}
    if len(found) == len(items):
        return found
    seen: Counter[str] = Counter()
    found.clear()
    for item in items:
        # Equal rows are equal items: matched in their order, whichever is which.
        found[item.id, seen[item.id]] = item
        seen[item.id] += 1
    return found


def paired(
    monitored: Monitored, items: Sequence[Datum], others: Sequence[Datum]
) -> list[tuple[Datum, Datum]]:
    """Each item that has a value in both states: its result in the other state, and in this one."""
    now, before = keyed(items), keyed(others)
    pairs = [(before[key], item) for key, item in now.items() if key in before]
    return [pair for pair in pairs if all(map(monitored.has_value, pair))]


def monitored(name: str, metrics: ByName) -> Monitored:
    """The metric of that name among a module's own, or else a metric of the items."""
    return Monitored(name, find_metric(name, metrics))


def metric_modes(metrics: ByName, *names: str) -> dict[str, str]:
    """Name to mode, "max" or "min", of the metrics that state one, also those in collections.

    The given names may be keys of a metric that states one direction for all of its keys.
    """
    stated = directions_of(metrics)
    for name in names:
        if found := find_metric(name, metrics):
            stated[name] = found[0].direction(found[1])
    return {name: "max" if up else "min" for name, up in stated.items() if up is not None}


def missing(metrics: Metrics, split: str, metric: str) -> str:
    """The sentence that names a metric that was not measured, and those that were.

    >>> missing({"val": {"f1": 0.8, "accuracy": 0.9}}, "val", "recall")
    'val recall was not measured; val has accuracy, f1'
    """
    there = ", ".join(sorted(metrics.get(split, {}))) or "no metrics"
    return f"{split} {metric} was not measured; {split} has {there}"


def measured(metrics: Metrics, split: str, metric: str) -> float | str:
    """The metric, or the sentence why it is missing or NaN."""
    value = metrics.get(split, {}).get(metric)
    if value is None:
        return missing(metrics, split, metric)
    return f"{split} {metric} is NaN" if math.isnan(value) else value


def nothing_to_compare(metric: str) -> str:
    """The reason of a comparison before there is a best value."""
    return f"there is no best val {metric} to compare with yet"


@dataclass(frozen=True, slots=True)
class EpochView:
    """An epoch for its policy: its measurements beside those of the baseline and the best.

    Args:
        metrics: Split to metric name to value; val is of the state after the step.
        baseline: The same for epoch 0.
        best: The same for the best epoch.
        monitor: The name of the val metric that decides.
        mode: "max" or "min".
        items: The val results, one Datum an item.
        best_items: The best epoch's val results; empty where they were not recorded.
        violations: Changes that the optimizer tried beside the parameters, a sentence each.
        monitored: How the monitored metric is computed from items.
        noise: How a second measurement of the baseline differed.
        memorized: Which items the edit writes down, in a sentence; "" if none.
        candidates: How many the epoch measured on val: of each, chance may make a gain.
    """

    epoch: int
    metrics: Metrics
    baseline: Metrics
    best: Metrics
    monitor: str
    mode: str = "max"
    items: Sequence[Datum] = ()
    best_items: Sequence[Datum] = ()
    cost: Cost = field(default_factory=Cost)
    violations: Sequence[str] = ()
    monitored: Monitored | None = None
    noise: Noise | None = None
    memorized: str = ""
    candidates: int = 1
    # Of all views of an epoch: its items, which may be many, are compared once.
    compared: list[Compared] = field(default_factory=list, repr=False, compare=False)

    @property
    def comparison(self) -> Comparison | None:
        """The val items beside the best epoch's; None where one of them recorded none."""
        for items, best_items, found in self.compared:
            if items is self.items and best_items is self.best_items:
                return found
        decides = self.monitored or Monitored(self.monitor)
        found = compare(decides, self.items, self.best_items, are_splits=True)
        self.compared.append((self.items, self.best_items, found))
        return found

    @property
    def value(self) -> float | None:
        """The monitored val metric, None where it is missing."""
        return self.metrics.get("val", {}).get(self.monitor)

    @property
    def best_value(self) -> float | None:
        """The monitored val metric of the best epoch, None where it is missing or not finite."""
        value = self.best.get("val", {}).get(self.monitor)
        return value if value is not None and math.isfinite(value) else None

    def values(self) -> tuple[float, float] | None:
        """The monitored val metric of the best and of this epoch, over the same items.

        None where one of them is missing or not finite.
        """
        if self.value is None or self.best_value is None or not math.isfinite(self.value):
            return None
        found = self.comparison
        if found is None or found.value is None or found.other is None:
            return self.best_value, self.value
        differ = found.fresh or found.lost
        return (found.other, found.value) if differ else (self.best_value, self.value)

    def gain(self) -> float | None:
        """By how much the epoch is better than the best; positive is better in either mode.

        Both are taken over the items that have a value in both. None where one of them is missing
        or not finite.
        """
        values = self.values()
        return None if values is None else gained(*values, self.mode)


# The worst outcome of an item's measurements is the item's.
_WORST_FIRST = ("unmeasured", "error", "unscored", "failed", "passed")


def mean_items(passes: Sequence[Sequence[Datum]]) -> list[Datum]:
    """The items that are compared, of several measurements of a split.

    Of one item that was measured several times, the measurements are the items: their ids are `x`,
    `x-2`, `x-3`. Of more items, see `averaged`.

    >>> [item.id for item in mean_items([[Datum(id="bench")], [Datum(id="bench")]])]
    ['bench', 'bench-2']
    """
    if len(passes) < 2 or any(len(items) != 1 for items in passes):
        return averaged(passes)
    first, *others = (items[0] for items in passes)
    return [first, *(replace(x, id=f"{first.id}-{n}") for n, x in enumerate(others, 2))]


def averaged(passes: Sequence[Sequence[Datum]]) -> list[Datum]:
    """The items of several measurements as one Datum an item, in the order of the first.

    Its metrics are the means; the share of passes is the metric "accuracy", where an item has none
    of that name. An item that failed with an error, or could not be measured, in one of them did so
    here, and has no metric that it lacks in one of them: what is missing must not flatter a mean.

    >>> averaged([[Datum(id="a", success=True)], [Datum(id="a", success=False)]])[0].metrics
    {'accuracy': 0.5}
    """
    if len(passes) < 2:
        return [item for items in passes for item in items]
    grouped: dict[Key, list[Datum]] = {}
    for items in passes:
        for key, item in keyed(items).items():
            grouped.setdefault(key, []).append(item)
    return [_mean(items) for items in grouped.values()]


def _mean(items: Sequence[Datum]) -> Datum:
    worst = min(items, key=lambda item: _WORST_FIRST.index(item.outcome))
    mean = copy.copy(worst)
    mean.metrics = {
        name: sum(item.metrics[name] for item in items) / len(items)
        for name in items[0].metrics
        if all(name in item.metrics for item in items)
    }
    if all(item.outcome in ("passed", "failed") for item in items):
        passed = sum(item.outcome == "passed" for item in items)
        mean.metrics.setdefault("accuracy", passed / len(items))
    return mean
