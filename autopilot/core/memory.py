"""Memory: what was tried, how it went, and what must not be tried again.

Everything that memory knows follows from its lessons, in order: a resumed run that reads the same
lessons knows the same.

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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from autopilot.core.records.lessons import FAILURES, FailureCount, LessonIndex, Trend, trend_of
from autopilot.core.records.record import Lesson, Outcome
from autopilot.core.store import Store
from autopilot.errors import UsageError

__all__ = ["FAILURES", "Memory", "MemoryContext", "Trend"]

BLOCK_AFTER = 3
_TRIES = 10


@dataclass(frozen=True, slots=True)
class MemoryContext:
    """What an optimizer should know now.

    Args:
        tried: Strategy to the number of epochs that used it.
        failures: The latest failed lessons, newest first.
        blocked: Strategy to the reason why it must not be used.
        trend: Where the metric is going.
        top_failures: What failed most often, by strategy and category.
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
        often = [failure for failure in self.top_failures if failure.count > 1]
        if often:
            lines.append(f"fails most: {', '.join(_often(failure) for failure in often)}")
        if self.trend.direction != "unknown":
            lines.append(f"trend: {_trend(self.trend)}")
        lines += [f"blocked: {name}: {why}" for name, why in self.blocked.items()]
        return "\n".join(lines)


def _often(failure: FailureCount) -> str:
    about = f" on {failure.category}" if failure.category else ""
    return f"{failure.strategy or 'unnamed'}{about} ({failure.count}x)"


def _trend(trend: Trend) -> str:
    over = "the last epoch" if trend.epochs == 1 else f"the last {trend.epochs} epochs"
    if trend.direction == "flat":
        return f"flat, no gain in {over}"
    return f"{trend.direction}, {trend.rate:+.4g} an epoch over {over}, {trend.kept:.0%} kept"


class Memory:
    """Lessons, kept as records of a store. To keep them elsewhere, override `keep` and `kept`.

    Args:
        block_after: Times in a row that a strategy does nothing after which it is blocked; one that
            gives new states after ten times as many tries without success. 0: never.
        store: Where lessons are kept; without one, an experiment gives it its own.

    Attributes:
        lessons: What it knows, oldest first.
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
        self._index = LessonIndex()
        self._idle: Counter[str] = Counter()
        self._tries: Counter[str] = Counter()
        self._blocked: dict[str, str] = {}

    def learn(self, lesson: Lesson) -> None:
        """Takes a lesson in, and keeps it.

        Raises:
            UsageError: its outcome is none, or its numbers are not finite.
        """
        _check(lesson)
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
        return [lesson for _, lesson in self.store.records(Lesson)]

    def load(self, lessons: Iterable[Lesson]) -> None:
        """Starts over from lessons that were kept earlier, in order."""
        lessons = list(lessons)
        self.lessons.clear()
        self._index = LessonIndex()
        self._idle.clear()
        self._tries.clear()
        self._blocked.clear()
        for lesson in lessons:
            self._take_in(lesson)

    def reconsider(self, block_after: int) -> None:
        """Decides on what was learnt so far with another `block_after`."""
        self.block_after = block_after
        self.load(self.lessons)

    def _take_in(self, lesson: Lesson) -> None:
        self.lessons.append(lesson)
        self._index.add(lesson)
        for name in lesson.strategies():
            self._count(name, lesson)

    def _count(self, name: str, lesson: Lesson) -> None:
        if lesson.outcome == "blocked":
            self._blocked[name] = lesson.reason or "blocked by hand"
        elif lesson.outcome in ("unblocked", "kept"):
            self._idle[name] = self._tries[name] = 0
            self._blocked.pop(name, None)
        elif lesson.outcome in FAILURES:
            self._tries[name] += 1
            self._idle[name] = 0 if lesson.outcome == "rejected" else self._idle[name] + 1
            if not self.block_after:
                return
            idle, tries = self._idle[name], self._tries[name]
            if idle >= self.block_after:
                self._blocked[name] = f"did nothing{f' {idle} times in a row' if idle > 1 else ''}"
            elif tries >= _TRIES * self.block_after:
                self._blocked[name] = f"none of its last {tries} tries was kept"

    def recall(
        self,
        *,
        strategy: str | None = None,
        outcome: Outcome | None = None,
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
            category: What it was about.
            node: The module that it was about.
            epochs: Numbers of epochs, or the first and the last of them; across experiments each
                has its own.
            experiment: The slug it was learnt in.
            limit: How many at most.
        """
        named = {
            "strategy": strategy,
            "outcome": outcome,
            "category": category,
            "node": node,
            "experiment": experiment,
        }
        wanted = {name: value for name, value in named.items() if value is not None}
        if isinstance(epochs, tuple):
            epochs = range(epochs[0], epochs[1] + 1)
        found: list[Lesson] = []
        for place in self._index.find(wanted):
            if limit is not None and len(found) >= limit:
                break
            if epochs is None or self.lessons[place].epoch in epochs:
                found.append(self.lessons[place])
        return found

    def record(
        self,
        strategy: str,
        outcome: Outcome,
        *,
        summary: str = "",
        reason: str = "",
        category: str = "",
        node: str = "",
    ) -> Lesson:
        """Learns something that no epoch of this experiment showed: what a person knows.

        It counts like an epoch's lesson, but for trends. It belongs to the latest epoch.
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
        """Where the metric is going, over the latest epochs.

        The rate is what the best value gained over the window, divided by the number of its
        epochs; the projection draws it on as a straight line.
        """
        return trend_of(self.lessons, self._index, window)

    def context(self, limit: int = 5, strategies: Iterable[str] = ()) -> MemoryContext:
        """What an optimizer should know now.

        Args:
            limit: How many failures at most.
            strategies: What the optimizer can do; those it never did are named.
        """
        tried, blocked, failed = self._index.tried, self.blocked(), self._index.failed
        return MemoryContext(
            tried=dict(tried),
            failures=tuple(self.lessons[place] for place in failed[: -limit - 1 : -1]),
            blocked=blocked,
            trend=self.trends(),
            top_failures=self._index.top_failures(limit),
            untried=tuple(s for s in strategies if s not in tried and s not in blocked),
        )


def _check(lesson: Lesson) -> None:
    if lesson.outcome not in get_args(Outcome):
        raise UsageError(
            f"{lesson.outcome!r} is no outcome", hint=f"one of: {', '.join(get_args(Outcome))}"
        )
    for name in ("delta", "value"):
        number = getattr(lesson, name)
        if number is not None and not math.isfinite(number):
            raise UsageError(f"a lesson's {name} is {number}", hint="leave it out: None")
