"""Memory: what was tried, how it went, and what must not be tried again.

Everything that memory knows follows from its lessons, in order: a resumed run that reads the same
lessons knows the same. A strategy that fails `block_after` times in a row is blocked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autopilot.core.record import Lesson, Outcome
from autopilot.core.store import Store

FAILURES: frozenset[Outcome] = frozenset({"rejected", "repeated", "failed", "unchanged"})


@dataclass(frozen=True, slots=True)
class Trend:
    """Where the monitored metric is going.

    Args:
        direction: "improving", "flat" or "unknown" (no kept epoch yet).
        rate: Mean gain of an epoch, kept or not.
        kept: Share of epochs that were kept, 0 to 1.
    """

    direction: str
    rate: float
    kept: float


@dataclass(frozen=True, slots=True)
class MemoryContext:
    """What an optimizer should know now.

    Args:
        tried: Strategy to the number of epochs that used it.
        failures: The latest failed lessons, newest first.
        blocked: Strategy to the reason why it must not be used.
        trend: Where the metric is going.
    """

    tried: dict[str, int]
    failures: tuple[Lesson, ...]
    blocked: dict[str, str]
    trend: Trend

    def render(self) -> str:
        """The context as text, for a person or a model."""
        tried = ", ".join(f"{name} ({n}x)" for name, n in self.tried.items()) or "nothing"
        lines = [f"tried: {tried}"]
        lines += [f"failed: {x.strategy}: {x.summary} ({x.reason})" for x in self.failures]
        lines += [f"blocked: {name}: {why}" for name, why in self.blocked.items()]
        return "\n".join(lines)


class Memory:
    """Lessons, kept as records of a store. To keep them elsewhere, override `keep` and `kept`.

    Args:
        block_after: Failures in a row after which a strategy is blocked.
        store: Where lessons are kept; without one, an experiment gives it its own.

    Attributes:
        lessons: What it knows, oldest first.
        store: See above; None: lessons last as long as this object.

    >>> memory = Memory(block_after=2)
    >>> for epoch in (1, 2):
    ...     memory.learn(Lesson(epoch=epoch, strategy="guess", outcome="rejected"))
    >>> memory.blocked()
    {'guess': 'failed 2 times in a row'}
    """

    def __init__(self, block_after: int = 3, *, store: Store | None = None) -> None:
        if block_after < 1:
            raise ValueError(f"block_after must be at least 1, not {block_after}")
        self.block_after = block_after
        self.store = store
        self.lessons: list[Lesson] = []
        self._in_a_row: Counter[str] = Counter()
        self._blocked: dict[str, str] = {}

    def learn(self, lesson: Lesson) -> None:
        """Takes a lesson in, and keeps it."""
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
        self._in_a_row.clear()
        self._blocked.clear()
        for lesson in lessons:
            self._take_in(lesson)

    def _take_in(self, lesson: Lesson) -> None:
        self.lessons.append(lesson)
        for name in lesson.strategies():
            self._count(name, lesson)

    def _count(self, name: str, lesson: Lesson) -> None:
        if lesson.outcome == "blocked":
            self._blocked[name] = lesson.reason or "blocked by hand"
        elif lesson.outcome in ("unblocked", "kept"):
            self._in_a_row[name] = 0
            self._blocked.pop(name, None)
        elif lesson.outcome in FAILURES:
            self._in_a_row[name] += 1
            if self._in_a_row[name] >= self.block_after:
                self._blocked[name] = f"failed {self._in_a_row[name]} times in a row"

    def recall(
        self,
        *,
        strategy: str | None = None,
        outcome: Outcome | None = None,
        category: str | None = None,
        node: str | None = None,
        epochs: range | None = None,
        experiment: str | None = None,
        limit: int | None = None,
    ) -> list[Lesson]:
        """The lessons that fit every given filter, newest first."""
        wanted = {
            "outcome": outcome,
            "category": category,
            "node": node,
            "experiment": experiment,
        }
        filters = [(name, value) for name, value in wanted.items() if value is not None]
        found: list[Lesson] = []
        for lesson in reversed(self.lessons):
            if limit is not None and len(found) >= limit:
                break
            if epochs is not None and lesson.epoch not in epochs:
                continue
            if strategy is not None and strategy not in lesson.strategies():
                continue
            if all(getattr(lesson, name) == value for name, value in filters):
                found.append(lesson)
        return found

    def block_strategy(self, name: str, reason: str = "") -> None:
        """Blocks a strategy by hand."""
        epoch = self.lessons[-1].epoch if self.lessons else 0
        self._decide(name, "blocked", reason, epoch)

    def unblock(self, name: str) -> None:
        """Allows a strategy again and forgets its failures in a row."""
        epoch = self.lessons[-1].epoch if self.lessons else 0
        self._decide(name, "unblocked", "", epoch)

    def _decide(self, name: str, outcome: Outcome, reason: str, epoch: int) -> None:
        # Sorts behind the epoch's own lesson and behind earlier decisions.
        self.learn(
            Lesson(
                epoch=epoch,
                id=f"{epoch}.{len(self.lessons):08d}-{outcome}",
                strategy=name,
                outcome=outcome,
                reason=reason,
            )
        )

    def blocked(self) -> dict[str, str]:
        """Blocked strategy to reason."""
        return dict(self._blocked)

    def trends(self, window: int = 10) -> Trend:
        """Where the metric is going, over the latest epochs."""
        recent = [
            lesson for lesson in self.lessons if lesson.outcome not in ("blocked", "unblocked")
        ]
        recent = recent[-window:]
        if not recent:
            return Trend("unknown", 0.0, 0.0)
        gains = [x.delta or 0.0 for x in recent if x.outcome == "kept"]
        rate = sum(gains) / len(recent)
        return Trend("improving" if gains else "flat", rate, len(gains) / len(recent))

    def context(self, limit: int = 5) -> MemoryContext:
        """What an optimizer should know now.

        Args:
            limit: How many failures at most.
        """
        tried = Counter(
            strategy
            for lesson in self.lessons
            if lesson.outcome not in ("blocked", "unblocked")
            for strategy in lesson.strategies()
        )
        failures: list[Lesson] = []
        for lesson in reversed(self.lessons):
            if len(failures) >= limit:
                break
            if lesson.outcome in FAILURES:
                failures.append(lesson)
        return MemoryContext(dict(tried), tuple(failures), self.blocked(), self.trends())
