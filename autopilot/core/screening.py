"""Candidates that are rejected before all of val is paid for: by a screen, or in a race.

Both only ever reject. What is kept was measured on all val items and passed the policy, so no more
candidates are kept by chance with them than without.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from random import Random
from statistics import median
from typing import Any

from autopilot.core.comparison import Monitored, compare, keyed, paired
from autopilot.core.evaluation import Evaluator
from autopilot.core.figures import figures, gained
from autopilot.core.graph import no_grad
from autopilot.core.items import Batch
from autopilot.core.noise import DefaultPolicy
from autopilot.core.policy import Policy
from autopilot.core.progress import Position
from autopilot.core.records.history import KnownState
from autopilot.core.run import Run
from autopilot.core.setup_checks import item_count
from autopilot.core.statistics import bootstrap_test
from autopilot.core.types import Cost, Datum, digest
from autopilot.errors import UsageError
from autopilot.text import some

_BLOCKS = 10
# A candidate that is as good as the best is stopped in 5 of 100 races: divided by the looks.
_LIMIT = 0.05 / (_BLOCKS - 1)
_DRAWS = 2_000

# Batches with their results.
Given = Sequence[tuple[Datum, Datum]]
# The number of its batch, its place there, the item, and its result.
_Place = tuple[int, int, Datum, Datum]


@dataclass(frozen=True, slots=True)
class CheapGates:
    """Hurdles of a candidate before all of val is measured.

    Args:
        screen: The number of train items on which it has to be better than the state that it was
            made from; if it is not, val is not measured. 0: val is measured in any case.
        race: Whether the measurement of val ends where it cannot reach the best any more.
    """

    screen: int = 0
    race: bool = False

    def check(
        self,
        policy: Policy,
        monitored: Monitored,
        loaders: Mapping[str, Any],
        steps: int | None,
        repeat: int,
    ) -> None:
        """Refuses what they do not go with, before anything is measured.

        Args:
            loaders: Split to its loader.
            steps: Batches between two optimizer steps; None: an epoch has one step.
            repeat: How often each val item is measured.

        Raises:
            UsageError: it names what that is.
        """
        train, val, kind, why = loaders["train"], loaders["val"], type(policy), ""
        whole = f"compares items, and {monitored.name} is of a whole split"
        if self.screen:
            items, hint = item_count(train), "leave --screen out"
            if train is None or val is None:
                why = "needs a train split to screen on, and a val split to save"
            elif self.screen < 0 or (items is not None and items < self.screen):
                why, hint = f"is no number of the {items} items of the train split", "ask for fewer"
            elif items is None and isinstance(train, Sized) and len(train) == 1:
                why = "measures some items, and a command measures all of the train split"
            elif steps is not None:
                why = "compares with the state before the step, and an epoch has several of them"
            elif monitored.owner is not None:
                why = whole
            if why:
                raise UsageError(f"--screen {self.screen} {why}", hint=hint)
        if self.race:
            is_own = kind.judge not in (Policy.judge, DefaultPolicy.judge)
            if val is None or (isinstance(val, Sized) and len(val) < 2):
                why = "ends between batches of val, which has no two"
            elif repeat > 1:
                why = f"does not go with --repeat {repeat}: means are known at the end"
            elif monitored.owner is not None:
                why = whole
            elif is_own or kind.improved is not Policy.improved:
                why = f"does not go with {kind.__name__}, which may keep what is no improvement"
            if why:
                raise UsageError(f"--race {why}", hint="leave --race out")

    def screened(
        self, run: Run, evaluator: Evaluator, given: Given, mode: str
    ) -> KnownState | None:
        """Measures train items in the state after the step; rejects it if it is no better there.

        Items that failed come first; a quarter are items that passed, where there are as many, so
        that a state that mends one and breaks others does not pass.

        Args:
            given: The batches of the train split with their results before the step.

        Returns:
            The rejection; None if val is to be measured.
        """
        if not self.screen or not given:
            return None  # for a merge, train is not measured
        experiment, epoch, count = evaluator.experiment, run.epoch, self.screen
        monitored = experiment.monitored
        assert monitored is not None, "the Trainer sets it"
        failed, passed = _sorted(monitored, given, mode)
        some_passed = min(len(passed), max(count // 4, count - len(failed)))
        chance = Random(f"{evaluator.seed} screen {epoch}")
        chosen = chance.sample(failed, min(len(failed), count - some_passed))
        chosen = sorted([*chosen, *chance.sample(passed, some_passed)], key=itemgetter(0, 1))
        after, at = list[Datum](), Position("train", epoch)
        with no_grad():
            for number, batch, _ in evaluator.ahead(_batches(given, chosen), at):
                after += evaluator.run(replace(at, number=number), batch).leaves()
        run.meter.add(Cost(evaluations=len(after)))
        # A service that did not answer says nothing of the state, nor does one result of a batch.
        both = zip(chosen, after, strict=True) if len(after) == len(chosen) else ()
        pairs = [(place[3], item) for place, item in both if item.unmeasured is None]
        found = compare(monitored, [x for _, x in pairs], [x for x, _ in pairs])
        if found is None or not (found.shared or found.lost or found.fresh):
            run.note(f"not screened: no train item has {monitored.name}")
            return None
        gain = 0.0
        if found.other is not None and found.value is not None:
            gain = gained(found.other, found.value, mode)
        if not found.lost and (gain > 0 or (gain == 0 and found.fresh)):
            return None
        said = f"{monitored.name} {' -> '.join(figures(found.other, found.value))} is no better"
        if found.lost:
            said = f"no {monitored.name} any more: {some(found.lost)}"
        which = f"{len(chosen)} train items ({len(chosen) - some_passed} that failed)"
        reason = f"screened on {which}: {said}; val was not measured"
        run.meter.add(Cost(saved=len(experiment.best_items)))
        return KnownState(None, {}, "screened", (reason,))

    def race_of(self, run: Run, seed: int, mode: str) -> Race | None:
        """The race of an epoch's val split; None where all of it is measured."""
        experiment = run.experiment
        if not self.race or run.epoch == 0 or experiment.repeat > 1:
            return None
        assert experiment.monitored is not None, "the Trainer sets it"
        return Race(experiment.best_items, experiment.monitored, mode, seed, run.epoch)


def _sorted(monitored: Monitored, given: Given, mode: str) -> tuple[list[_Place], list[_Place]]:
    """The train items that failed, and those that passed; of graded ones, the worse half failed."""
    places = [
        (number, at, item, result)
        for number, (batch, data) in enumerate(given)
        # One result of a whole batch is of no item.
        if len(batch) == len(data)
        for at, (item, result) in enumerate(zip(batch.leaves(), data.leaves(), strict=True))
        if monitored.of_item(result) is not None or result.outcome == "error"
    ]
    values = [monitored.of_item(p[3]) for p in places if p[3].outcome == "unscored"]
    middle = median(value for value in values if value is not None) if values else 0.0

    def has_failed(result: Datum) -> bool:
        value = monitored.of_item(result)
        if result.outcome != "unscored" or value is None:
            return result.outcome != "passed"
        return gained(middle, value, mode) < 0

    failed = [place for place in places if has_failed(place[3])]
    return failed, [place for place in places if not has_failed(place[3])]


def _batches(given: Given, chosen: Sequence[_Place]) -> list[Batch]:
    """The chosen items in batches no larger than those they come from, numbered behind these."""
    made, most = list[Datum](), max((len(batch) for batch, _ in given), default=1)
    for number, places in groupby(chosen, key=itemgetter(0)):
        batch, items = given[number][0], [item for _, _, item, _ in places]
        last = made[-1] if made else Datum()
        if not batch.items:
            made.append(batch)
        elif last.items and last.metadata == batch.metadata and len(last) + len(items) <= most:
            last.items += items
        else:
            made.append(replace(batch, items=items))
    for batch in made:
        batch.id = digest([item.id for item in batch.leaves()]) if batch.items else batch.id
    return [(len(given) + n, batch, n == len(made) - 1) for n, batch in enumerate(made)]


class Race:
    """The measurement of val, batch after batch, until the state cannot reach the best any more.

    The batches come in an order of chance, each with the chance that it has in any other order. At
    nine moments the items so far are compared with their results in the best state, by the test
    that the policy uses. It stops where the gain is below 0 by more than chance explains, corrected
    for the number of looks; or where it would not be above 0 if all other items passed.

    Args:
        best: The val results of the best state.

    Attributes:
        stopped: The rejection, once it is stopped.
        saved: How many items were not measured.
    """

    def __init__(
        self, best: Sequence[Datum], monitored: Monitored, mode: str, seed: int, epoch: int
    ) -> None:
        self._best, self._monitored, self._mode = best, monitored, mode
        self._seed, self._epoch = seed, epoch
        self._results, self._looks, self._size = dict[int, Datum](), 0, 0
        self.stopped: KnownState | None = None
        self.saved = 0

    def order(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches in the order of the race; the last one of each block is said to be the last.

        So none of the next block is evaluated ahead of the look.
        """
        several, count = list(batches), 0
        self._size = sum(len(batch) for _, batch, _ in several)
        Random(f"{self._seed} race {self._epoch}").shuffle(several)
        for index, batch, _ in several:
            before, count = count, count + len(batch)
            if self.stopped is None:
                yield index, batch, self._block(count) > self._block(before)

    def _block(self, count: int) -> int:
        return _BLOCKS * count // self._size

    def add(self, index: int, data: Datum) -> None:
        """Takes in a batch's result, and stops where the best cannot be reached."""
        self._results[index] = data
        items = [item for each in self._results.values() for item in each.leaves()]
        looks = self._block(len(items))
        if self._looks < looks < _BLOCKS:
            self._looks = looks
            why = self._hopeless(items)
            if why:
                left = self._size - len(items)
                reason = f"stopped at {len(items)} of {self._size} val items: {why}"
                self.stopped, self.saved = KnownState(None, {}, "raced", (reason,)), left

    def results(self) -> Iterator[Datum]:
        """The results in the order of the split."""
        return (self._results[index] for index in sorted(self._results))

    def _hopeless(self, items: Sequence[Datum]) -> str:
        """Why the best cannot be reached; "" if it can."""
        monitored, pairs = self._monitored, paired(self._monitored, items, self._best)
        before, after = ([monitored.of_item(pair[side]) for pair in pairs] for side in (0, 1))
        gains = [
            gained(a, b, self._mode)
            for a, b in zip(before, after, strict=True)
            if a is not None and b is not None
        ]
        if not gains or not all(map(math.isfinite, gains)):
            return ""
        values = figures(*(monitored.over([pair[side] for pair in pairs]) for side in (0, 1)))
        said = f"{monitored.name} {' -> '.join(values)} over them"
        gain = math.fsum(gains)
        if gain + self._room(items) <= 0:
            return f"{said}; if all others passed, it would be no better than the best"
        if gain >= 0:
            return ""
        chance = Random(f"{self._seed} race {self._epoch} {self._looks}")
        if (p_value := bootstrap_test([-gain for gain in gains], _DRAWS, chance)) > _LIMIT:
            return ""
        return f"{said}; that it reaches the best has p {p_value:.2g}, within {_LIMIT:.2g}"

    def _room(self, items: Sequence[Datum]) -> float:
        """By how much all other items can gain at most; infinite where that is not known."""
        if self._monitored.name != "accuracy" or self._mode != "max":
            return math.inf
        known = keyed(items)
        others = [item for key, item in keyed(self._best).items() if key not in known]
        values = [self._monitored.of_item(item) for item in others]
        own = any("accuracy" in item.metrics for item in (*items, *self._best))
        # An item that had no value may have one now, which is an improvement in itself.
        if own or any(value is None for value in values) or len(self._best) != self._size:
            return math.inf
        return math.fsum(1 - value for value in values if value is not None)
