"""Finding and counting lessons: what memory keeps beside the lessons themselves.

Everything here follows from the lessons in their order, and is kept up as they come: neither
looking something up nor the context of a step reads all that was ever learnt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from autopilot.core.records.record import Lesson, Outcome

# "repeated" is none: it shows nothing new of the strategy.
FAILURES: frozenset[Outcome] = frozenset({"rejected", "failed", "unchanged"})
DECISIONS: frozenset[Outcome] = frozenset({"blocked", "unblocked"})


@dataclass(frozen=True, slots=True)
class FailureCount:
    """How often a strategy failed on something.

    Args:
        strategy: The strategy.
        category: What it was about, "" where nothing is known of that.
        count: How often.
        latest: The newest of these lessons.
    """

    strategy: str
    category: str
    count: int
    latest: Lesson


@dataclass(frozen=True, slots=True)
class Trend:
    """Where the monitored metric is going.

    Args:
        direction: "improving", "worsening", "flat" or "unknown" (no epoch was judged yet).
        rate: Mean gain of an epoch, kept or not; positive is better, whatever the metric's mode.
        kept: Share of epochs that were kept, 0 to 1.
        epochs: How many epochs that was measured over.
        best: The monitored metric's best value so far; None where unknown.
        mode: "max" or "min".
    """

    direction: str
    rate: float
    kept: float
    epochs: int = 0
    best: float | None = None
    mode: str = "max"

    def projection(self, epochs: int) -> float | None:
        """What the best value would be in so many epochs, if it went on at this rate.

        A straight line: it knows neither the end of the metric's range nor that gains get smaller.
        None where the best value is unknown.

        >>> Trend("improving", 0.02, 0.5, 10, best=0.7).projection(5)
        0.8
        """
        if self.best is None:
            return None
        change = self.rate * epochs
        return round(self.best + (change if self.mode == "max" else -change), 12)


class LessonIndex:
    """The places of lessons by what they are about, and counts of what was tried and what failed.

    Attributes:
        tried: Strategy to the number of epochs that used it.
        failed: The places of all failed lessons, oldest first.
        best: The monitored metric's best value, as far as lessons tell; None where they do not.
        mode: "max" or "min".
    """

    def __init__(self) -> None:
        self.tried: Counter[str] = Counter()
        self.failed: list[int] = []
        self.best: float | None = None
        self.mode = "max"
        self._size = 0
        self._places: dict[tuple[str, str], list[int]] = {}
        self._failures: dict[tuple[str, str], FailureCount] = {}

    def add(self, lesson: Lesson) -> None:
        """Takes in the next lesson."""
        place, self._size = self._size, self._size + 1
        for key in _keys(lesson):
            self._places.setdefault(key, []).append(place)
        best = _best_after(lesson)
        if best is not None:
            self.best, self.mode = best, lesson.mode
        if lesson.outcome in DECISIONS:
            return
        self.tried.update(lesson.strategies())
        if lesson.outcome in FAILURES:
            self.failed.append(place)
            self._count_failure(lesson)

    def find(self, wanted: Mapping[str, str]) -> Iterator[int]:
        """The places of lessons that have all of these, newest first.

        Args:
            wanted: "strategy", "outcome", "category", "node" or "experiment" to the name sought.
        """
        if not wanted:
            return reversed(range(self._size))
        places = sorted((self._places.get(key, []) for key in wanted.items()), key=len)
        shortest, others = places[0], [set(more) for more in places[1:]]
        return (p for p in reversed(shortest) if all(p in other for other in others))

    def top_failures(self, limit: int) -> tuple[FailureCount, ...]:
        """What failed most often, the most frequent first; of equals the latest first."""
        ranked = sorted(self._failures.values(), key=lambda f: (-f.count, -f.latest.epoch))
        return tuple(ranked[:limit])

    def _count_failure(self, lesson: Lesson) -> None:
        for strategy in lesson.strategies() or [""]:
            for category in lesson.categories() or [""]:
                key = (strategy, category)
                before = self._failures.get(key)
                count = before.count if before else 0
                self._failures[key] = FailureCount(strategy, category, count + 1, lesson)


def trend_of(lessons: Sequence[Lesson], index: LessonIndex, window: int) -> Trend:
    """The trend over the latest epochs; lessons that were written by hand are none.

    Args:
        lessons: Oldest first.
        index: The index of all of them.
        window: How many epochs are looked at.
    """
    judged = (x for x in reversed(lessons) if x.outcome not in DECISIONS and not x.by_hand)
    recent = [lesson for _, lesson in zip(range(window), judged, strict=False)]
    if not recent:
        return Trend("unknown", 0.0, 0.0)
    gains = [lesson.delta or 0.0 for lesson in recent if lesson.outcome == "kept"]
    rate = sum(gains) / len(recent)
    direction = "improving" if rate > 0 else "worsening" if rate < 0 else "flat"
    kept = len(gains) / len(recent)
    return Trend(direction, rate, kept, len(recent), index.best, index.mode)


def _best_after(lesson: Lesson) -> float | None:
    """The best value after an epoch, None where its lesson does not tell."""
    if lesson.value is None or lesson.by_hand:
        return None
    if lesson.outcome == "kept":
        return lesson.value
    if lesson.delta is None:
        return None
    change = lesson.delta if lesson.mode == "max" else -lesson.delta
    return round(lesson.value - change, 12)


def _keys(lesson: Lesson) -> Iterator[tuple[str, str]]:
    yield "outcome", lesson.outcome
    yield "experiment", lesson.experiment
    for name in dict.fromkeys(lesson.strategies()):
        yield "strategy", name
    for name in dict.fromkeys(lesson.categories()):
        yield "category", name
    for name in dict.fromkeys(lesson.nodes()):
        yield "node", name
