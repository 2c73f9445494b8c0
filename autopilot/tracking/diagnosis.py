"""Recorded results by item and by module: which always fail, which broke, and when.

Read from the `traces` and `gradients` notes. An item that an epoch did not evaluate is not one
that failed: it has no result there. Epochs whose state was measured before have none at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from autopilot.core.figures import gained
from autopilot.core.records.record import StepRecord, TraceRecord
from autopilot.core.types import Datum, Outcome
from autopilot.tracking.notebook import Notebook

NOT_PASSED: frozenset[Outcome] = frozenset({"failed", "error"})
WHOLE_SYSTEM = "(whole system)"
_FLIPS = 3


@dataclass(frozen=True, slots=True)
class ItemHistory:
    """An item over the epochs.

    Args:
        outcomes: Epoch to outcome; an epoch that did not evaluate it is not there.
    """

    id: str
    outcomes: Mapping[int, Outcome]

    @property
    def passed(self) -> int:
        """In how many epochs it passed."""
        return sum(outcome == "passed" for outcome in self.outcomes.values())

    @property
    def failing(self) -> int:
        """In how many epochs it failed, by an error or a bad answer."""
        return sum(outcome in NOT_PASSED for outcome in self.outcomes.values())

    @property
    def flips(self) -> int:
        """How often it changed between passing and failing."""
        went = [self.outcomes[epoch] for epoch in sorted(self.outcomes)]
        passes = [o == "passed" for o in went if o == "passed" or o in NOT_PASSED]
        return sum(before != after for before, after in pairwise(passes))


@dataclass(frozen=True, slots=True)
class ItemChanges:
    """An epoch's effect on the items, against the best state before it.

    Args:
        strategy: The optimizer's name for the change, or its summary.
        fixed: The ids that pass now.
        broken: The ids that passed before.
        better: The ids of graded items whose value improved.
        worse: The ids of those whose value got worse.
    """

    epoch: int
    verdict: str
    strategy: str
    fixed: tuple[str, ...]
    broken: tuple[str, ...]
    better: tuple[str, ...] = ()
    worse: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings on one split.

    Args:
        items: All that were evaluated in any epoch, the most often failing first.
        always_failing: Ids that failed and never passed.
        unscored: Ids that nothing scored in any epoch, by success or by the monitored metric.
        graded: Ids that have a value of the monitored metric, and neither passed nor failed.
        flaky: Ids that changed three times or more between passing and failing.
        fixed: Ids that fail at the baseline and pass at the best epoch.
        regressed: Ids that pass at the baseline and not at the best epoch.
        nodes: Module to epoch to how many lines of feedback its parameters got.
    """

    split: str
    items: tuple[ItemHistory, ...]
    always_failing: tuple[str, ...]
    never_measured: tuple[str, ...]
    unscored: tuple[str, ...]
    graded: tuple[str, ...]
    flaky: tuple[str, ...]
    fixed: tuple[str, ...]
    regressed: tuple[str, ...]
    changes: tuple[ItemChanges, ...]
    nodes: Mapping[str, Mapping[int, int]] = field(default_factory=dict)


class Traces:
    """The recorded results of an experiment."""

    def __init__(self, notebook: Notebook, split: str = "val") -> None:
        self.notebook, self.split = notebook, split

    @cached_property
    def results(self) -> dict[int, dict[str, Datum]]:
        """Epoch to item id to its result; epochs without are left out."""
        found = {
            trace.epoch: {item.id: item for item in trace.data()}
            for _, trace in self.notebook.records(TraceRecord)
            if trace.split == self.split and trace.items and not trace.repeat
        }
        return dict(sorted(found.items()))

    @cached_property
    def items(self) -> list[ItemHistory]:
        """All items, the most often failing first; of equals, in the order of the dataset."""
        outcomes: dict[str, dict[int, Outcome]] = {}
        for epoch, items in self.results.items():
            for name, item in items.items():
                outcomes.setdefault(name, {})[epoch] = item.outcome
        found = [ItemHistory(name, by_epoch) for name, by_epoch in outcomes.items()]
        # Items without a score come after those that fail.
        return sorted(found, key=lambda item: (-item.failing, item.passed - len(item.outcomes)))

    def nodes(self) -> dict[str, dict[int, int]]:
        """Module to epoch to how many lines of feedback the parameters that are its own got."""
        found: dict[str, dict[int, int]] = {}
        for _, step in self.notebook.records(StepRecord):
            for parameter, text in step.gradients.items():
                node = parameter.rpartition(".")[0] or WHOLE_SYSTEM
                row = found.setdefault(node, {})
                row[step.epoch] = row.get(step.epoch, 0) + len(text.splitlines())
        return {node: dict(sorted(row.items())) for node, row in sorted(found.items())}

    def diagnosis(self) -> Diagnosis:
        """All of it together."""
        best = self.notebook.best
        first, last = (self.results.get(n, {}) for n in (0, best.number if best else 0))
        fixed, broken = turned(first, last)
        monitor = self.notebook.monitor[0]
        every = [item for items in self.results.values() for item in items.values()]
        graded = {item.id for item in every if is_graded(item, monitor)}
        unscored = [x.id for x in self.items if _only(x, "unscored")]
        return Diagnosis(
            split=self.split,
            items=tuple(self.items),
            always_failing=tuple(x.id for x in self.items if x.failing and not x.passed),
            never_measured=tuple(x.id for x in self.items if _only(x, "unmeasured")),
            unscored=tuple(name for name in unscored if name not in graded),
            graded=tuple(name for name in unscored if name in graded),
            flaky=tuple(item.id for item in self.items if item.flips >= _FLIPS),
            fixed=fixed,
            regressed=broken,
            changes=tuple(self._changes()),
            nodes=self.nodes(),
        )

    def _changes(self) -> list[ItemChanges]:
        found = []
        for before, epoch in pairwise(self.notebook.epochs):
            # Each epoch starts from the best one: a rejected one was rolled back.
            old, new = self.results.get(before.record.best_epoch), self.results.get(epoch.number)
            if old is None or new is None:
                continue
            fixed, broken = turned(old, new)
            strategy = epoch.record.strategy or epoch.record.summary
            moved = moved_values(old, new, *self.notebook.monitor)
            found.append(ItemChanges(epoch.number, epoch.verdict, strategy, fixed, broken, *moved))
        return found


def _only(item: ItemHistory, outcome: Outcome) -> bool:
    return all(each == outcome for each in item.outcomes.values())


def turned(
    old: Mapping[str, Datum], new: Mapping[str, Datum]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The ids that failed and pass now, and those that passed and fail now.

    An item that was not measured or scored in one of the two is neither.
    """
    pairs = {name: (old[name].outcome, new[name].outcome) for name in old if name in new}
    fixed = tuple(x for x, (was, now) in pairs.items() if was in NOT_PASSED and now == "passed")
    return fixed, tuple(
        x for x, (was, now) in pairs.items() if was == "passed" and now in NOT_PASSED
    )


def is_graded(item: Datum, monitor: str) -> bool:
    """Whether an item neither passed nor failed, but has a value of the metric that decides."""
    return item.outcome == "unscored" and monitor in item.metrics


def moved_values(
    old: Mapping[str, Datum], new: Mapping[str, Datum], monitor: str, mode: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The ids of graded items whose value is better now, and of those whose value is worse."""
    gains = {
        name: gained(old[name].metrics[monitor], item.metrics[monitor], mode)
        for name, item in new.items()
        if is_graded(item, monitor) and name in old and is_graded(old[name], monitor)
    }
    better = tuple(name for name, gain in gains.items() if gain > 0)
    return better, tuple(name for name, gain in gains.items() if gain < 0)
