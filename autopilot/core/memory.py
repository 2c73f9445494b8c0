"""Memory: what was tried, how it went, and what must not be tried again.

Everything that memory knows follows from its lessons, in order: a resumed run that reads the same
lessons knows the same. The counts of a step's context are kept up lesson by lesson (`Learnt`), so
that a long run does not read all of them each epoch; `recall` scans them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Protocol, get_args

from autopilot.core.figures import better_by
from autopilot.core.records.index import Index, Rows
from autopilot.core.records.learnt import (
    BLOCK_AFTER,
    DECISIONS,
    FAILURES,
    NEWEST,
    UNJUDGED,
    FailureCount,
    Learnt,
)
from autopilot.core.records.record import EpochOutcome, Lesson, MetricsRecord, Taken
from autopilot.core.selection import Pool, State
from autopilot.core.store import Store
from autopilot.core.types import Datum
from autopilot.errors import UsageError


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
        taken: The lessons of earlier experiments; they are counted in none of the others.
    """

    tried: dict[str, int]
    failures: tuple[Lesson, ...]
    blocked: dict[str, str]
    trend: Trend
    top_failures: tuple[FailureCount, ...] = ()
    untried: tuple[str, ...] = ()
    taken: Sequence[Taken] = ()

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
        for source in self.taken:
            counts = islice(source.tries.items(), 8)
            kept = (f"{name} ({gains} of {tries} kept)" for name, (tries, gains) in counts)
            lines.append(f"tried in {source.experiment}: {', '.join(kept)}")
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
        taken: The lessons of earlier experiments that this one began with. `recall`, `context` and
            `arms` know them; they block no strategy, and count in no trend.

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
        self.lessons: list[Lesson] | Rows[Lesson] = Index().lessons
        self.taken: Sequence[Taken] = ()
        self._learnt = Learnt(block_after)

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
        self.lessons.append(lesson)
        self._learnt.take([lesson])

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
        self.lessons = list(lessons)
        self._learnt = Learnt(self.block_after).take(self.lessons)

    def reload(self, last: int) -> None:
        """Starts over from what was kept, without reading each lesson where the store has an index.

        Args:
            last: The newest judged epoch: the lesson of a later one is learned again. Decisions by
                hand stand.
        """
        kept = self.kept()
        if self.store is None or not isinstance(kept, Rows) or (kept and kept[-1].epoch > last):
            self.load(x for x in kept if x.epoch <= last or x.outcome in DECISIONS)
        else:
            index = self.store.index(self.block_after)
            self.lessons, self._learnt = kept.copy(), index.learnt(self.block_after)

    def reconsider(self, block_after: int) -> None:
        """Decides on what was learnt so far with another `block_after`."""
        self.block_after = block_after
        self._learnt = Learnt(block_after).take(self.lessons)

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
        """The lessons that fit every given filter, newest first, those of others behind its own.

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
            for lesson in chain(
                reversed(self.lessons), *(reversed(each.named()) for each in self.taken)
            )
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
        return dict(self._learnt.blocked)

    def trends(self, window: int = 10) -> Trend:
        """Where the metric is going over the latest epochs, lessons by hand not counted.

        The rate is what the best value gained over the window, divided by its number of epochs.
        """
        known = self._learnt.judged if window <= NEWEST else self.lessons
        judged = (x for x in reversed(known) if x.outcome not in UNJUDGED and not x.by_hand)
        recent = list(islice(judged, window))
        if not recent:
            return Trend("unknown", 0.0, 0.0)
        gains = [lesson.delta or 0.0 for lesson in recent if lesson.outcome == "kept"]
        rate = sum(gains) / len(recent)
        direction = "improving" if rate > 0 else "worsening" if rate < 0 else "flat"
        kept = len(gains) / len(recent)
        return Trend(direction, rate, kept, len(recent), self._learnt.best, self._learnt.mode)

    def context(self, limit: int = 5, strategies: Iterable[str] = ()) -> MemoryContext:
        """The knowledge that an optimizer gets before a step.

        Args:
            limit: How many failures at most.
            strategies: The strategies of the optimizer; those never tried are named.
        """
        learnt, tried, blocked = self._learnt, self._learnt.tried, self.blocked()
        often = sorted(learnt.failed_on.values(), key=lambda f: (-f.count, -f.latest.epoch))
        known = learnt.failed if limit <= NEWEST else self.lessons
        failed = (x for x in reversed(known) if x.outcome in FAILURES or x.outcome == "refused")
        return MemoryContext(
            tried=dict(tried),
            failures=tuple(islice(failed, limit)),
            blocked=blocked,
            trend=self.trends(),
            top_failures=tuple(often[:limit]),
            untried=tuple(s for s in strategies if s not in tried and s not in blocked),
            taken=self.taken,
        )

    def arms(self, strategies: Iterable[str] = ()) -> Pool:
        """The strategies to choose among, each with how often it was tried and kept so far.

        Their value is the share of gains, drawn towards a half where there were few tries. Blocked
        ones are left out.

        Args:
            strategies: Those of the optimizer. Where it states none, those that were tried count,
                and "" is one that was not: it counts as tried with each first use.
        """
        tries, gains = Counter(self._learnt.tried), Counter(self._learnt.gains)
        for source in self.taken:
            tries.update({name: tried for name, (tried, _) in source.tries.items()})
            gains.update({name: gained for name, (_, gained) in source.tries.items()})
        counts = {name: (tries[name], gains[name]) for name in strategies or tries}
        if not strategies:
            counts[""] = len(tries), sum(gains[name] > 0 for name in tries)
        return Pool(
            State(name, (gained + 1) / (tried + 2), age=-number, tries=tried, gains=gained)
            for number, (name, (tried, gained)) in enumerate(counts.items())
            if name not in self._learnt.blocked
        )

    def by_hand(self) -> Sequence[Lesson]:
        """The lessons that people recorded, their decisions left out."""
        return self._learnt.by_hand
