"""The states of a search as they are recorded: those that candidates start from, and the frontier.

They are made of records alone. So a run, a resumed run, a replay and a reader that never loads the
target have the same states, in the same order, with the same scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from autopilot.core.comparison import Key, Monitored, averaged, keyed
from autopilot.core.figures import direction_words, gained, plain_name, sounds_like_cost
from autopilot.core.records.index import Judged
from autopilot.core.records.message import epoch_tag
from autopilot.core.records.record import MetricsRecord
from autopilot.core.selection import Pool, State
from autopilot.core.types import Datum
from autopilot.core.writing import Read, recorded_passes
from autopilot.errors import UsageError

Results = tuple[Mapping[str, float], Sequence[Datum]]
Names = Sequence[str]


def val_record_on(read: Read, revision: str, epoch: int, number: int = 0) -> MetricsRecord | None:
    """The val record of an epoch, or of one of its candidates; None where there is none."""
    found = (r for r in read(revision, MetricsRecord) if (r.split, r.epoch) == ("val", epoch))
    return next((r for r in found if r.is_candidate == bool(number)), None)


def measured_on(read: Read, revision: str, epoch: int, number: int) -> tuple[str, Results] | None:
    """A state's revision, val metrics and results, by the revision of its epoch's records.

    Args:
        number: Of one of several candidates its number; 0: the state of the epoch.
    """
    record = val_record_on(read, revision, epoch)
    if record is not None and number:
        revision = record.revisions[number - 1]
        record = val_record_on(read, revision, epoch, number) if revision else None
    if record is None:
        return None
    return revision, (record.metrics, items_of(read, revision, record))


def items_of(read: Read, revision: str, record: MetricsRecord) -> list[Datum]:
    """The val results of a state, one Datum an item."""
    return averaged(recorded_passes(read, revision, "val", record.epoch)[: record.repeat])


def named_objectives(given: Sequence[str]) -> dict[str, str | None]:
    """Objectives as a user gives them: name to direction, None where that is not said.

    Raises:
        UsageError: one is given twice, or its direction is neither min nor max.

    >>> named_objectives(["f1", "seconds:min"])
    {'f1': None, 'seconds': 'min'}
    """
    found = dict[str, str | None]()
    for text in given:
        name, colon, mode = text.rpartition(":")
        name = plain_name(name if colon else mode)
        if not name or (colon and mode not in ("min", "max")):
            raise UsageError(
                f"--objective {text}: {mode!r} is no direction"
                if name
                else "--objective has no name",
                hint="give a val metric, or METRIC:min, or METRIC:max",
            )
        if name in found:
            raise UsageError(f"the objective {name!r} is given twice", hint="leave one out")
        found[name] = mode if colon else None
    return found


def directed(
    objectives: Mapping[str, str | None], monitor: str, mode: str, metrics: Mapping[str, str]
) -> dict[str, str]:
    """Objectives with their directions.

    Args:
        monitor: The metric that decides, whose direction is `mode`.
        metrics: Name to direction, of the metrics that state one.

    Raises:
        UsageError: the monitored metric is to go the other way, or a name sounds like a cost and
            nothing states a direction.
    """
    found = dict[str, str]()
    for name, asked in objectives.items():
        if name == monitor and asked not in (None, mode):
            raise UsageError(
                f"--objective {name}:{asked}, and {name!r} decides: {direction_words(mode)}",
                hint=f"leave out the direction, or the objective; --mode {asked} turns both",
            )
        stated = mode if name == monitor else asked or metrics.get(name)
        if stated is None and sounds_like_cost(name):
            raise UsageError(
                f"it is not stated whether a higher or a lower {name!r} is better",
                hint=f"give --objective {name}:min, or {name}:max",
            )
        found[name] = stated or "max"
    return found


@dataclass(frozen=True, slots=True)
class RankedState:
    """A state beside all others.

    Args:
        objectives: Name to value; None where it has none.
        items: How many items no other state is better at.
        is_undominated: Whether no other state is at least as good everywhere, and better somewhere.
    """

    state: State
    value: float | None
    objectives: Mapping[str, float | None]
    items: int
    is_undominated: bool


class RecordedStates:
    """The states that candidates may start from.

    A state has a score for each val item, by the monitored metric; where that is one of the whole
    split, by whether the item passed. The objectives follow, each of which counts as an item does.

    Args:
        epochs: All judged epochs, the baseline first.
        read: Gives the records of a class on a revision.
        reads_scores: Whether scores are asked for: they are read from records.
        reads_trials: Whether it is asked how often each state was started from.
        before: Of a run that is repeated: gives what was recorded of a state, by epoch and number,
            which no noise has changed.

    Attributes:
        pool: All states.
        objectives: Name to "max" or "min".
        items: How many items the states are compared on.
    """

    def __init__(
        self,
        epochs: Iterable[Judged],
        read: Read,
        *,
        reads_scores: bool = True,
        reads_trials: bool = True,
        before: Callable[[int, int], Results | None] | None = None,
    ) -> None:
        self.pool, self._reads_scores, self._reads_trials = Pool(), reads_scores, reads_trials
        self._before, self._best, self.items = before, 0, 0
        self._metrics: dict[str, Mapping[str, float]] = {}
        best = list[str]()
        self.monitor, self.mode = "accuracy", "max"
        self.objectives, self._keys = dict[str, str](), list[Key]()
        for row in epochs:
            if not (row.is_kept or row.stay or reads_scores or reads_trials):
                continue
            record = val_record_on(read, row.revision, row.number)
            if record is None:
                continue
            if not self.pool.states:
                self._begin(record, items_of(read, row.revision, record) if reads_scores else [])
            # A state that an earlier epoch measured is that one's.
            for number in (0, *row.stay) if row.is_kept and record.reused is None else row.stay:
                own, revision = record, row.revision
                if number:
                    revision = record.revisions[number - 1]
                    own = val_record_on(read, revision, row.number, number) or record
                items = items_of(read, revision, own) if reads_scores else []
                self.add(row.number, number, (own.metrics, items), revision, own.parents or best)
            if row.number > 0:
                self.count(record)
            if row.is_kept:
                best = [epoch_tag(row.number if record.reused is None else record.reused)]
                self.pool.tip = best[0]

    def _begin(self, baseline: MetricsRecord, items: Sequence[Datum]) -> None:
        self.monitor, self.mode = baseline.monitor, baseline.mode
        self.objectives, self._keys = dict(baseline.objectives), list(keyed(items))
        self.items = len(self._keys)
        self._monitored, self._item_mode = Monitored(self.monitor), self.mode
        if self.monitor != "accuracy" and all(
            self._monitored.of_item(item) is None for item in items
        ):
            self._monitored, self._item_mode = Monitored("accuracy"), "max"

    @property
    def places(self) -> int:
        """How many items and objectives the states are compared on; 0: no results are recorded."""
        return self.items + len(self.objectives)

    def add(self, epoch: int, number: int, results: Results, at: str, parents: Names) -> None:
        """Takes in a state: of a kept epoch, or of a candidate that stays beside it."""
        self.pool.add(self.state(epoch, number, results, at, parents))

    def count(self, epoch: MetricsRecord) -> None:
        """Counts an epoch's candidates for the states that they started from.

        Epochs are counted in their order: the one candidate of an epoch started at the best state.
        """
        if epoch.merged_with:
            self.pool.merged.add(frozenset((epoch.origins[0], epoch.merged_with)))
        if self._reads_trials:
            for number, origin in enumerate(epoch.origins, 1):
                self.pool.count(origin, gained=number in epoch.better)
            if not epoch.origins and (tip := self.pool.states.get(epoch_tag(self._best))):
                value = _score(epoch.metrics.get(self.monitor), self.mode)
                self.pool.count(tip.name, gained=value > tip.value)
        self._best = epoch.best_epoch

    def state(self, epoch: int, number: int, given: Results, at: str, made: Names = ()) -> State:
        """A state with its scores, by its revision and the names of those it was made from."""
        recorded = self._before(epoch, number) if self._before is not None else None
        metrics, items = recorded or given
        name, scores = epoch_tag(epoch, number), list[float]()
        self._metrics[name] = metrics
        if self._reads_scores:
            found, of_item = keyed(items), self._monitored.of_item
            values = (of_item(found[key]) if key in found else None for key in self._keys)
            scores += (_score(value, self._item_mode) for value in values)
            scores += (_score(metrics.get(each), mode) for each, mode in self.objectives.items())
        value = _score(metrics.get(self.monitor), self.mode)
        return State(name, value, tuple(scores), -epoch, 0, 0, at, epoch, tuple(made))

    def ranked(self) -> list[RankedState]:
        """All states, the best one first."""
        undominated = {state.name for state in self.pool.frontier.states}
        states = self.pool.ranked()
        most = [max(c) for c in zip(*(s.scores[: self.items] for s in states), strict=True)]
        return [
            RankedState(
                state,
                self._metrics[state.name].get(self.monitor),
                {name: self._metrics[state.name].get(name) for name in self.objectives},
                sum(a == b > -math.inf for a, b in zip(state.scores, most, strict=False)),
                state.name in undominated,
            )
            for state in states
        ]

    def undominated(self) -> list[RankedState]:
        """Those that no other state is as good as everywhere, the best one first."""
        return [each for each in self.ranked() if each.is_undominated]


def _score(value: float | None, mode: str) -> float:
    """A value as a score, higher is better; -inf where there is none."""
    score = -math.inf if value is None else gained(0.0, value, mode)
    return score if math.isfinite(score) else -math.inf
