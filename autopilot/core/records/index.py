"""The index of an experiment: a few facts on each epoch, so that none has to be read for them."""

from __future__ import annotations

import json
import zlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from functools import cached_property
from operator import itemgetter
from typing import Any, NamedTuple

from autopilot.core.records.record import Lesson, MetricsRecord, Record, StepRecord

_VERSION = 4
_LESSON = {each.name: each.default for each in fields(Lesson)}
# The classes of records that it is made from.
INDEXED: tuple[type[Record], ...] = (MetricsRecord, StepRecord, Lesson)


class Judged(NamedTuple):
    """An epoch in the index.

    Args:
        revision: Where its records are.
        tree: The state that was measured.
        is_open: Whether the state counts as new when it comes again: some of its items could not
            be measured, or a person refused it.
        is_repeated: Whether its values are those of an earlier epoch.
        is_kept: Whether it has a tag; the baseline has one.
        evaluations: How many it took, without those that measured the noise.
    """

    number: int
    revision: str
    tree: str
    is_open: bool
    is_repeated: bool
    is_kept: bool
    evaluations: int

    @classmethod
    def of(cls, record: MetricsRecord, revision: str) -> Judged:
        """The facts in an epoch's val record."""
        noise = record.noise.evaluations if record.noise else 0
        return cls(
            record.epoch,
            revision,
            record.tree,
            is_open=bool(record.unmeasured) or record.is_refused,
            is_repeated=record.reused is not None,
            is_kept=record.verdict != "rejected",
            evaluations=record.cost.evaluations - noise,
        )


class Point(NamedTuple):
    """An epoch on a curve.

    Args:
        value: Its metric; None, NaN, infinity: a gap.
        best: The best until then.
        kept: Whether it was not rejected.
    """

    epoch: int
    value: float | None
    best: float | None = None
    kept: bool = False
    strategy: str = ""
    evaluations: int = 0

    @classmethod
    def of(cls, record: MetricsRecord) -> Point:
        """The point of a val record."""
        value, is_kept = record.metrics.get(record.monitor), record.verdict != "rejected"
        more = record.strategy, record.cost.evaluations
        return cls(record.epoch, value, record.best, is_kept, *more)


@dataclass
class Index:
    """The facts on an experiment that no epoch has to be read for.

    Args:
        tips: In git, "branch" and the kinds of notes to the commits that it was made from.
        start: In git, the first commit.
        length: In git, how many commits the branch has, from the start commit on.
        outcomes: Outcome to number of epochs, the baseline not counted.
        wishes: Id of a person's word to the epoch whose optimizer read it.
        inputs: Repository path to the first blob id of what evaluations read.
    """

    tips: dict[str, str] = field(default_factory=dict)
    start: str = ""
    length: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    wishes: dict[str, int] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    # The rest is long: it is parsed when it is asked for.
    lines: tuple[bytes, bytes, bytes] = (b"[]", b"[]", b"[]")

    @cached_property
    def epochs(self) -> list[Judged]:
        """All judged epochs, oldest first."""
        return [Judged(*row) for row in json.loads(self.lines[0])]

    @cached_property
    def lessons(self) -> list[Lesson]:
        """All lessons, in the order in which they were learnt."""
        return [Lesson(**known) for known in json.loads(self.lines[1])]

    @cached_property
    def points(self) -> list[Point]:
        """The epochs on a curve, oldest first."""
        return [Point(*row) for row in json.loads(self.lines[2])]

    def parse(self) -> None:
        """Parses what is long, for processes that are forked from this one."""
        _ = self.epochs, self.lessons

    def place(self, number: int) -> int:
        """Where an epoch is among all, or would be."""
        return bisect_left(self.epochs, number, key=itemgetter(0))

    def has(self, number: int) -> bool:
        """Whether an epoch is judged."""
        place = self.place(number)
        return place < len(self.epochs) and self.epochs[place].number == number

    def take(self, records: Iterable[tuple[str, Record]]) -> Index:
        """Takes in records, with the revisions that they are on; known ones change nothing."""
        outcomes, wishes = Counter(self.outcomes), dict(self.wishes)
        epochs = {epoch.number: epoch for epoch in self.epochs}
        points = {point.epoch: point for point in self.points}
        lessons = {(lesson.epoch, lesson.id): lesson for lesson in self.lessons}
        for revision, record in sorted(records, key=lambda pair: (pair[1].epoch, pair[1].id)):
            if isinstance(record, Lesson):
                lessons.setdefault((record.epoch, record.id), record)
            elif isinstance(record, StepRecord):
                wishes |= dict.fromkeys(record.wishes, record.epoch)
            elif isinstance(record, MetricsRecord):
                self.inputs = {**record.inputs, **self.inputs}
                if record.split == "val" and record.epoch not in epochs:
                    epochs[record.epoch] = Judged.of(record, revision)
                    points[record.epoch] = Point.of(record)
                    outcomes[record.outcome] += record.epoch > 0
        self.outcomes, self.wishes = outcomes, wishes
        self.epochs = [epochs[number] for number in sorted(epochs)]
        self.points = [points[number] for number in sorted(points)]
        self.lessons = [lessons[key] for key in sorted(lessons)]
        return self

    def encode(self) -> bytes:
        """The file's content: a checksum, and four lines of JSON."""
        names = ("tips", "start", "length", "wishes", "outcomes", "inputs")
        head = {"v": _VERSION} | {name: getattr(self, name) for name in names}
        rest: list[Any] = [head, self.epochs]
        rest += [[_short(lesson) for lesson in self.lessons], self.points]
        lines = [json.dumps(each, separators=(",", ":")) for each in rest]
        body = "\n".join(lines).encode()
        return b"%08x\n" % zlib.crc32(body) + body

    @classmethod
    def decode(cls, content: bytes) -> Index | None:
        """The index in a file; None where that is damaged, or of another version."""
        checksum, _, body = content.partition(b"\n")
        if checksum != b"%08x" % zlib.crc32(body):
            return None
        head, *lines = body.split(b"\n")
        known = json.loads(head)
        if known.pop("v") != _VERSION:
            return None
        known["outcomes"] = Counter(known["outcomes"])
        return cls(**known, lines=(lines[0], lines[1], lines[2]))


def _short(lesson: Lesson) -> dict[str, Any]:
    pairs = ((name, getattr(lesson, name)) for name in _LESSON)
    return {name: value for name, value in pairs if value != _LESSON[name]}
