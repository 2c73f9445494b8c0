"""Counts that follow from lessons in their order: kept up lesson by lesson, so none is read again.

A strategy is blocked when it does nothing (it changes nothing, or raises) `block_after` times in a
row. One that gives new states is tried ten times as often: a few misses in a row say little about
what succeeds now and then. Where none of n tries succeeded, the rate of success is below 3/n with
95% confidence (the rule of three: Hanley and Lippman-Hand, "If nothing goes wrong, is everything
all right?", JAMA 1983), so by default it is blocked at a rate below one in ten. A state that was
measured before counts neither way: it shows nothing new of the strategy.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from itertools import product
from typing import Any, Self

from autopilot.core.figures import better_by
from autopilot.core.records.record import EpochOutcome, Lesson

BLOCK_AFTER = 3
# As many lessons are at hand as anything but a search asks for.
NEWEST = 20
_TRIES = 10
# "repeated" is none: it shows nothing new of the strategy.
NO_BETTER: frozenset[EpochOutcome] = frozenset({"rejected", "screened", "raced"})
FAILURES: frozenset[EpochOutcome] = NO_BETTER | {"failed", "unchanged"}
DECISIONS: frozenset[EpochOutcome] = frozenset({"blocked", "unblocked"})
# They say nothing of how good a state is: a person refused it before it was measured.
UNJUDGED: frozenset[EpochOutcome] = DECISIONS | {"refused"}
_LESSON = {each.name: each.default for each in fields(Lesson)}


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


@dataclass
class Learnt:
    """See the module.

    Args:
        tried: Strategy to the number of epochs that used it.
        gains: Strategy to the number of these that were kept.
        failures: Strategy to its failures since it last succeeded.
        idle: How many of them in a row did nothing.
        blocked: Blocked strategy to reason.
        failed: The newest lessons of what failed or was refused, oldest first.
        judged: The newest lessons of epochs that were judged, oldest first.
        by_hand: Lessons by hand that are no decisions.
        failed_on: Strategy and category to the failures.
        best: The monitored metric's best value; None where unknown.
    """

    block_after: int = BLOCK_AFTER
    tried: Counter[str] = field(default_factory=Counter)
    gains: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    idle: Counter[str] = field(default_factory=Counter)
    blocked: dict[str, str] = field(default_factory=dict)
    failed: deque[Lesson] = field(default_factory=lambda: deque(maxlen=NEWEST))
    judged: deque[Lesson] = field(default_factory=lambda: deque(maxlen=NEWEST))
    by_hand: list[Lesson] = field(default_factory=list)
    failed_on: dict[tuple[str, str], FailureCount] = field(default_factory=dict)
    best: float | None = None
    mode: str = "max"

    def take(self, lessons: Iterable[Lesson]) -> Self:
        """Takes lessons in, in their order."""
        for lesson in lessons:
            strategies = lesson.strategies()
            for name in strategies:
                self._count(name, lesson)
            best = _best_after(lesson)
            if best is not None:
                self.best, self.mode = best, lesson.mode
            if lesson.outcome in DECISIONS:
                continue
            self.tried.update(strategies)
            if lesson.by_hand:
                self.by_hand.append(lesson)
            elif lesson.outcome not in UNJUDGED:
                self.judged.append(lesson)
            if lesson.outcome in FAILURES or lesson.outcome == "refused":
                self.failed.append(lesson)
            if lesson.outcome in FAILURES:
                for key in product(strategies or [""], lesson.categories() or [""]):
                    before = self.failed_on.get(key)
                    count = before.count + 1 if before else 1
                    self.failed_on[key] = FailureCount(*key, count, lesson)
        return self

    def _count(self, name: str, lesson: Lesson) -> None:
        if lesson.outcome == "blocked":
            self.blocked[name] = lesson.reason or "blocked by hand"
        elif lesson.outcome in ("unblocked", "kept"):
            self.gains[name] += lesson.outcome == "kept"
            self.idle[name] = self.failures[name] = 0
            self.blocked.pop(name, None)
        elif lesson.outcome in FAILURES:
            self.failures[name] += 1
            self.idle[name] = 0 if lesson.outcome in NO_BETTER else self.idle[name] + 1
            if not self.block_after:
                return
            idle, tries = self.idle[name], self.failures[name]
            if idle >= self.block_after:
                self.blocked[name] = f"did nothing{f' {idle} times in a row' if idle > 1 else ''}"
            elif tries >= _TRIES * self.block_after:
                self.blocked[name] = f"none of its last {tries} tries was kept"

    def plain(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        lists = {name: list(map(short, getattr(self, name))) for name in _LISTS}
        counts = [
            [f.strategy, f.category, f.count, short(f.latest)] for f in self.failed_on.values()
        ]
        return vars(self) | lists | {"failed_on": counts}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Learnt:
        """Made of the result of `plain`."""
        made = cls(**{name: value for name, value in plain.items() if name not in _MADE})
        for name in _COUNTERS:
            getattr(made, name).update(plain[name])
        for name in _LISTS:
            getattr(made, name).extend(Lesson(**each) for each in plain[name])
        for strategy, category, count, latest in plain["failed_on"]:
            failure = FailureCount(strategy, category, count, Lesson(**latest))
            made.failed_on[strategy, category] = failure
        return made


_COUNTERS, _LISTS = ("tried", "gains", "failures", "idle"), ("failed", "judged", "by_hand")
_MADE = (*_COUNTERS, *_LISTS, "failed_on")


def short(lesson: Lesson) -> dict[str, Any]:
    """A lesson as JSON has it."""
    pairs = ((name, getattr(lesson, name)) for name in _LESSON)
    return {name: value for name, value in pairs if value != _LESSON[name]}


def _best_after(lesson: Lesson) -> float | None:
    """The best value after an epoch, None where its lesson does not tell."""
    if lesson.value is None or lesson.by_hand:
        return None
    if lesson.outcome == "kept":
        return lesson.value
    if lesson.delta is None:
        return None
    return round(better_by(lesson.value, -lesson.delta, lesson.mode), 12)
