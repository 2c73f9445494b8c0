"""Memory: what was tried, how it went, and what must not be tried again.

Everything that memory knows follows from its lessons, in order: a resumed run that reads the same
lessons knows the same. The counts of a step's context are kept up lesson by lesson, so that a long
run does not read all of them each epoch; `recall` scans them.

A strategy is blocked when it does nothing (it changes nothing, or raises) `block_after` times in a
row. One that gives new states is tried ten times as often: a few misses in a row say little about
what succeeds now and then. Where none of n tries succeeded, the rate of success is below 3/n with
95% confidence (the rule of three: Hanley and Lippman-Hand, "If nothing goes wrong, is everything
all right?", JAMA 1983), so by default it is blocked at a rate below one in ten. A state that was
measured before counts neither way: it shows nothing new of the strategy.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Protocol, get_args

from autopilot.core.figures import better_by
from autopilot.core.records.record import EpochOutcome, Lesson, MetricsRecord
from autopilot.core.store import Store
from autopilot.core.types import Datum
from autopilot.errors import UsageError

BLOCK_AFTER = 3
_TRIES = 10
# "repeated" is none: it shows nothing new of the strategy.
FAILURES: frozenset[EpochOutcome] = frozenset({"rejected", "failed", "unchanged"})
DECISIONS: frozenset[EpochOutcome] = frozenset({"blocked", "unblocked"})
# They say nothing of how good a state is: a person refused it before it was measured.
UNJUDGED: frozenset[EpochOutcome] = DECISIONS | {"refused"}


@dataclass(frozen=True, slots=True)
class FailureCount:
    """How often a strategy failed on something.

    Args:
        category: The subject of the feedback, "" where unknown.
        latest: The newest of these lessons.
    """

    strategy: str
    category: str
    count: int
    latest: Lesson

    def render(self) -> str:
        """The strategy, what it failed on, and how often."""
        about = f" on {self.category}" if self.category else ""
        return f"{self.strategy or 'unnamed'}{about} ({self.count}x)"


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

    @property
    def stalled(self) -> int:
        """How many epochs the metric has not moved; 0 where it does."""
        return self.epochs if self.direction == "flat" else 0

    def projection(self, epochs: int) -> float | None:
        """The best value in so many epochs, drawn on as a straight line; None where unknown.

        It knows neither the end of the metric's range nor that gains get smaller.

        >>> Trend("improving", 0.02, 0.5, 10, best=0.7).projection(5)
        0.8
        """
        if self.best is None:
            return None
        return round(better_by(self.best, self.rate * epochs, self.mode), 12)

    def render(self) -> str:
        """The trend in words, for a person or a model."""
        over = "the last epoch" if self.epochs == 1 else f"the last {self.epochs} epochs"
        if self.direction == "flat":
            return f"flat, no gain in {over}"
        return f"{self.direction}, {self.rate:+.4g} an epoch over {over}, {self.kept:.0%} kept"


@dataclass(frozen=True, slots=True)
class MemoryContext:
    """The knowledge of memory that an optimizer gets before a step.

    Args:
        tried: Strategy to the number of epochs that used it.
        failures: The latest failed lessons, newest first.
        blocked: Strategy to the reason why it must not be used.
        trend: Where the metric is going.
        top_failures: The most frequent failures, by strategy and category.
        untried: Strategies of the optimizer that were neither tried nor blocked.
    """

    tried: dict[str, int]
    failures: tuple[Lesson, ...]
    blocked: dict[str, str]
    trend: Trend
    top_failures: tuple[FailureCount, ...] = ()
    untried: tuple[str, ...] = ()

    def render(self) -> str:
        """The context as text, for a person or a model."""
        tried = ", ".join(f"{name} ({n}x)" for name, n in self.tried.items()) or "nothing"
        lines = [f"tried: {tried}"]
        if self.untried:
            lines.append(f"not tried yet: {', '.join(self.untried)}")
        for lesson in self.failures:
            what = lesson.summary or lesson.outcome
            why = f" ({lesson.reason})" if lesson.reason else ""
            lines.append(f"failed: {lesson.strategy or 'unnamed'}: {what}{why}")
        often = [failure.render() for failure in self.top_failures if failure.count > 1]
        if often:
            lines.append(f"fails most: {', '.join(often)}")
        if self.trend.direction != "unknown":
            lines.append(f"trend: {self.trend.render()}")
        lines += [f"blocked: {name}: {why}" for name, why in self.blocked.items()]
        return "\n".join(lines)


class Past(Protocol):
    """The judged epochs of an experiment, as they are recorded."""

    def judged(self) -> Sequence[MetricsRecord]:
        """Their val records, oldest first."""

    def val_of(self, epoch: int) -> tuple[Mapping[str, float], list[Datum]]:
        """The val metrics of an epoch, and its results, one Datum an item."""

    def change(self, epoch: int) -> str:
        """The unified diff of an epoch against the state that it started from."""


class Memory:
    """Lessons, kept as records of a store. To keep them elsewhere, override `keep` and `kept`.

    Args:
        block_after: Times in a row that a strategy does nothing after which it is blocked; one that
            gives new states after ten times as many tries without success. 0: never.
        store: Where lessons are kept; without one, an experiment gives it its own.

    Attributes:
        lessons: All lessons, oldest first.
        store: See above; None: lessons last as long as this object.

    >>> memory = Memory(block_after=2)
    >>> for epoch in (1, 2):
    ...     memory.learn(Lesson(epoch=epoch, strategy="guess", outcome="unchanged"))
    >>> memory.blocked()
    {'guess': 'did nothing 2 times in a row'}
    """

    def __init__(self, block_after: int = BLOCK_AFTER, *, store: Store | None = None) -> None:
        if block_after < 0:
            raise ValueError(f"block_after must be 0 or more, not {block_after}")
        self.block_after = block_after
        self.store = store
        self.lessons: list[Lesson] = []
        self._start_over()

    def _start_over(self) -> None:
        self.lessons.clear()
        self._tried: Counter[str] = Counter()
        # Since a strategy last succeeded: its failures, and how many in a row did nothing.
        self._failures: Counter[str] = Counter()
        self._idle: Counter[str] = Counter()
        self._blocked: dict[str, str] = {}
        self._failed: list[Lesson] = []
        self._failed_on: dict[tuple[str, str], FailureCount] = {}
        self._best: float | None = None
        self._mode = "max"

    def learn(self, lesson: Lesson) -> None:
        """Takes a lesson in, and keeps it.

        Raises:
            UsageError: its outcome is unknown, or its numbers are not finite.
        """
        if lesson.outcome not in get_args(EpochOutcome):
            raise UsageError(
                f"{lesson.outcome!r} is no outcome",
                hint=f"one of: {', '.join(get_args(EpochOutcome))}",
            )
        for name in ("delta", "value"):
            number = getattr(lesson, name)
            if number is not None and not math.isfinite(number):
                raise UsageError(f"a lesson's {name} is {number}", hint="leave it out: None")
        # First on disk: a lesson that counts here but is lost there would change a resumed run.
        self.keep(lesson)
        self._take_in(lesson)

    def keep(self, lesson: Lesson) -> None:
        """Makes a lesson last, on the store's newest revision; called before it counts."""
        if self.store is not None:
            self.store.annotate(self.store.tip, [lesson])

    def kept(self) -> Sequence[Lesson]:
        """The lessons that were made to last, in the order in which they were learnt."""
        if self.store is None:
            return list(self.lessons)
        return self.store.index().lessons

    def load(self, lessons: Iterable[Lesson]) -> None:
        """Starts over from lessons that were kept earlier, in order."""
        lessons = list(lessons)  # they may be this memory's own list, which is cleared
        self._start_over()
        for lesson in lessons:
            self._take_in(lesson)

    def reconsider(self, block_after: int) -> None:
        """Decides on what was learnt so far with another `block_after`."""
        self.block_after = block_after
        self.load(self.lessons)

    def _take_in(self, lesson: Lesson) -> None:
        self.lessons.append(lesson)
        strategies = lesson.strategies()
        for name in strategies:
            self._count(name, lesson)
        best = _best_after(lesson)
        if best is not None:
            self._best, self._mode = best, lesson.mode
        if lesson.outcome in DECISIONS:
            return
        self._tried.update(strategies)
        if lesson.outcome in FAILURES or lesson.outcome == "refused":
            self._failed.append(lesson)
        if lesson.outcome in FAILURES:
            for key in product(strategies or [""], lesson.categories() or [""]):
                before = self._failed_on.get(key)
                count = before.count + 1 if before else 1
                self._failed_on[key] = FailureCount(*key, count, lesson)

    def _count(self, name: str, lesson: Lesson) -> None:
        if lesson.outcome == "blocked":
            self._blocked[name] = lesson.reason or "blocked by hand"
        elif lesson.outcome in ("unblocked", "kept"):
            self._idle[name] = self._failures[name] = 0
            self._blocked.pop(name, None)
        elif lesson.outcome in FAILURES:
            self._failures[name] += 1
            self._idle[name] = 0 if lesson.outcome == "rejected" else self._idle[name] + 1
            if not self.block_after:
                return
            idle, tries = self._idle[name], self._failures[name]
            if idle >= self.block_after:
                self._blocked[name] = f"did nothing{f' {idle} times in a row' if idle > 1 else ''}"
            elif tries >= _TRIES * self.block_after:
                self._blocked[name] = f"none of its last {tries} tries was kept"

    def recall(
        self,
        *,
        strategy: str | None = None,
        outcome: EpochOutcome | None = None,
        category: str | None = None,
        node: str | None = None,
        epochs: range | tuple[int, int] | None = None,
        experiment: str | None = None,
        limit: int | None = None,
    ) -> list[Lesson]:
        """The lessons that fit every given filter, newest first.

        Args:
            strategy: One that was used, alone or with others.
            outcome: How it went.
            category: The subject of the feedback.
            node: The module that got feedback.
            epochs: Numbers of epochs, or the first and the last of them; across experiments each
                has its own.
            experiment: The slug it was learnt in.
            limit: How many at most.
        """
        if isinstance(epochs, tuple):
            epochs = range(epochs[0], epochs[1] + 1)
        found = (
            lesson
            for lesson in reversed(self.lessons)
            if (strategy is None or strategy in lesson.strategies())
            and (outcome is None or lesson.outcome == outcome)
            and (category is None or category in lesson.categories())
            and (node is None or node in lesson.nodes())
            and (epochs is None or lesson.epoch in epochs)
            and (experiment is None or lesson.experiment == experiment)
        )
        return list(islice(found, limit))

    def record(
        self,
        strategy: str,
        outcome: EpochOutcome,
        *,
        summary: str = "",
        reason: str = "",
        category: str = "",
        node: str = "",
    ) -> Lesson:
        """Learns a person's knowledge, as a lesson by hand of the latest epoch.

        It counts like an epoch's own lesson, except for trends.
        """
        epoch = self.lessons[-1].epoch if self.lessons else 0
        lesson = Lesson(
            epoch=epoch,
            # Sorts behind the epoch's own lesson and behind earlier ones by hand.
            id=f"{epoch}.{len(self.lessons):08d}-{outcome}",
            strategy=strategy,
            outcome=outcome,
            summary=summary,
            reason=reason,
            category=category,
            node=node,
            by_hand=True,
        )
        self.learn(lesson)
        return lesson

    def block_strategy(self, name: str, reason: str = "") -> None:
        """Blocks a strategy by hand."""
        self.record(name, "blocked", reason=reason)

    def unblock(self, name: str) -> None:
        """Allows a strategy again and forgets how it failed."""
        self.record(name, "unblocked")

    unblock_strategy = unblock

    def blocked(self) -> dict[str, str]:
        """Blocked strategy to reason."""
        return dict(self._blocked)

    def trends(self, window: int = 10) -> Trend:
        """Where the metric is going over the latest epochs, lessons by hand not counted.

        The rate is what the best value gained over the window, divided by its number of epochs.
        """
        judged = (x for x in reversed(self.lessons) if x.outcome not in UNJUDGED and not x.by_hand)
        recent = list(islice(judged, window))
        if not recent:
            return Trend("unknown", 0.0, 0.0)
        gains = [lesson.delta or 0.0 for lesson in recent if lesson.outcome == "kept"]
        rate = sum(gains) / len(recent)
        direction = "improving" if rate > 0 else "worsening" if rate < 0 else "flat"
        kept = len(gains) / len(recent)
        return Trend(direction, rate, kept, len(recent), self._best, self._mode)

    def context(self, limit: int = 5, strategies: Iterable[str] = ()) -> MemoryContext:
        """The knowledge that an optimizer gets before a step.

        Args:
            limit: How many failures at most.
            strategies: The strategies of the optimizer; those never tried are named.
        """
        tried, blocked = self._tried, self.blocked()
        often = sorted(self._failed_on.values(), key=lambda f: (-f.count, -f.latest.epoch))
        return MemoryContext(
            tried=dict(tried),
            failures=tuple(self._failed[: -limit - 1 : -1]),
            blocked=blocked,
            trend=self.trends(),
            top_failures=tuple(often[:limit]),
            untried=tuple(s for s in strategies if s not in tried and s not in blocked),
        )


def _best_after(lesson: Lesson) -> float | None:
    """The best value after an epoch, None where its lesson does not tell."""
    if lesson.value is None or lesson.by_hand:
        return None
    if lesson.outcome == "kept":
        return lesson.value
    if lesson.delta is None:
        return None
    return round(better_by(lesson.value, -lesson.delta, lesson.mode), 12)
