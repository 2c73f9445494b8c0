"""The index of an experiment: a few facts on each epoch, so that none has to be read for them."""

from __future__ import annotations

import json
import re
import zlib
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple, TypeVar, overload

from autopilot.core.records.learnt import BLOCK_AFTER, Learnt, short
from autopilot.core.records.ledger import Spent
from autopilot.core.records.record import Lesson, LlmRecord, MetricsRecord, Record, StepRecord

T = TypeVar("T")
_VERSION = 9
_BLOCK = 64
_STARTS = re.compile(b"^|\n").finditer
# The classes of records that it is made from.
INDEXED: tuple[type[Record], ...] = (MetricsRecord, StepRecord, Lesson, LlmRecord)


class Rows(Sequence[T]):
    """Rows in the order of their keys, which tell them apart.

    Args:
        make: Makes a row of its JSON.
        plain: What becomes a row's JSON.
        key: A row's key.
        raw: Rows as they were encoded, a line each.
    """

    def __init__(
        self,
        make: Callable[[Any], T],
        plain: Callable[[T], Any],
        key: Callable[[T], Any],
        raw: bytes = b"",
    ) -> None:
        self._make, self._plain, self._key = make, plain, key
        self._begin(raw)

    def _begin(self, raw: bytes) -> None:
        # Where its lines begin is looked for only where one of them is asked for.
        self._raw, self._starts = raw, array("Q")
        self._known, self._new = (raw.count(b"\n") + 1 if raw else 0), list[bytes]()
        # Of a long run, most of what was added is deflated, to a fifth of what objects take.
        self._deflated, self._inflated = list[bytes](), (-1, list[bytes]())

    def __len__(self) -> int:
        return self._known + _BLOCK * len(self._deflated) + len(self._new)

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> list[T]: ...
    def __getitem__(self, place: int | slice) -> T | list[T]:
        if isinstance(place, slice):
            return [self[each] for each in range(len(self))[place]]
        place = range(len(self))[place]
        if place == self._known - 1:
            return self._parsed(self._raw[self._raw.rfind(b"\n") + 1 :])
        if place < self._known:
            # Threads share it: each takes what is whole, whoever made it.
            self._starts = self._starts or array("Q", map(re.Match.end, _STARTS(self._raw)))
            begin, end = self._starts[place : place + 2]
            return self._parsed(self._raw[begin:end])
        block, at = divmod(place - self._known, _BLOCK)
        if block == len(self._deflated):
            return self._parsed(self._new[at])
        known, lines = self._inflated
        if block != known:
            lines = zlib.decompress(self._deflated[block]).split(b"\n")
            self._inflated = block, lines
        return self._parsed(lines[at])

    def __iter__(self) -> Iterator[T]:
        return map(self._make, json.loads(b"[%b]" % self.encode().replace(b"\n", b",")))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def _parsed(self, line: bytes) -> T:
        return self._make(json.loads(line))

    def with_text(self, text: str) -> list[T]:
        """The rows that have a text among their values."""
        sought, found = json.dumps(text).encode(), list[T]()
        for part in self._parts():
            at = part.find(sought)
            while at >= 0:  # where no line follows, -1 % (n + 1) is n: the part's end
                begin, end = part.rfind(b"\n", 0, at) + 1, part.find(b"\n", at) % (len(part) + 1)
                found.append(self._parsed(part[begin:end]))
                at = part.find(sought, end)
        return found

    def place(self, key: Any) -> int:
        """Where the row with a key is, or would be."""
        return bisect_left(self, key, key=self._key)

    def insert(self, row: T) -> int | None:
        """Puts a row into its place, and returns that; None where its key is known."""
        count, key = len(self), self._key(row)
        place = self.place(key) if count and self._key(self[-1]) >= key else count
        if place == count:
            self.append(row)
            return place
        if self._key(self[place]) == key:
            return None
        lines = self.encode().split(b"\n")
        lines.insert(place, self._line(row))
        self._begin(b"\n".join(lines))
        return place

    def append(self, row: T) -> None:
        """Puts a row behind all others."""
        self._new.append(self._line(row))
        if len(self._new) == _BLOCK:
            self._deflated.append(zlib.compress(b"\n".join(self._new), 1))
            self._new = []

    def _line(self, row: T) -> bytes:
        return json.dumps(self._plain(row), separators=(",", ":")).encode()

    def copy(self) -> Rows[T]:
        """Rows of their own, to be added to."""
        made = Rows(self._make, self._plain, self._key, self.encode())
        if made._raw is self._raw:  # nothing was added
            made._starts = self._starts
        return made

    def encode(self) -> bytes:
        """All rows, a line each."""
        return b"\n".join(self._parts())

    def _parts(self) -> Iterator[bytes]:
        yield from [self._raw] * bool(self._raw)
        yield from map(zlib.decompress, self._deflated)
        yield from [b"\n".join(self._new)] * bool(self._new)


class Judged(NamedTuple):
    """An epoch in the index, and on a curve.

    Args:
        value: Its metric; None, NaN, infinity: a gap.
        best: The best until then.
        is_kept: Whether it has a tag; the baseline has one.
        strategy: The strategies of its steps.
        evaluations: How many it took.
        noise: How many of those measured the noise.
        is_open: Whether the state counts as new when it comes again: some of its items were not
            measured, or a person refused it.
        is_repeated: Whether its values are those of an earlier epoch.
        revision: Where its records are.
        tree: The state that was measured.
        stay: The numbers of candidates that stay beside the best one.
        known: How many of its items had results before, or were not measured since it was rejected.
        trees: The states that its other candidates measured, by their order; "" where one did not.
    """

    number: int
    value: float | None
    best: float | None = None
    is_kept: bool = False
    strategy: str = ""
    evaluations: int = 0
    noise: int = 0
    is_open: bool = False
    is_repeated: bool = False
    revision: str = ""
    tree: str = ""
    stay: Sequence[int] = ()
    known: int = 0
    trees: Sequence[str] = ()

    @property
    def counted(self) -> int:
        """How many evaluations all of it would take, without those that measured the noise."""
        return self.evaluations + self.known - self.noise

    @classmethod
    def of(cls, record: MetricsRecord, revision: str = "") -> Judged:
        """The facts in an epoch's val record."""
        return cls(
            record.epoch,
            record.metrics.get(record.monitor),
            record.best,
            is_kept=record.verdict != "rejected",
            strategy=record.strategy,
            evaluations=record.cost.evaluations,
            noise=record.noise.evaluations if record.noise else 0,
            is_open=bool(record.unmeasured) or record.is_refused or record.is_stopped,
            is_repeated=record.reused is not None,
            revision=revision,
            tree=record.tree,
            stay=list(record.stay),
            known=record.cost.known + record.cost.saved,
            trees=list(record.trees),
        )


_EPOCHS = partial(Rows[Judged], lambda row: Judged(*row), tuple, attrgetter("number"))
_LESSONS = partial(Rows[Lesson], lambda row: Lesson(**row), short, attrgetter("epoch", "id"))
_CALLS = partial(Rows[tuple[str, str]], tuple, list, itemgetter(0))


@dataclass
class Index:
    """The facts on an experiment that no epoch has to be read for.

    Args:
        tips: In git, "branch" and the kinds of notes to the commits that it was made from.
        start: In git, the first commit.
        length: In git, how many commits the branch has, from the start commit on.
        outcomes: Outcome to number of epochs, the baseline not counted.
        tallies: Strategy to how many epochs used it, and how many of those were kept; without
            epochs that a person refused.
        wishes: Id of a person's word to the epoch whose optimizer read it.
        inputs: Repository path to the first blob id of what evaluations read.
        kept: The bits of kept epochs.
        most_evaluations: The most that an epoch took, without those that measured the noise.
        spent: Role to the cost of its model calls.
        epochs: All judged epochs.
        lessons: All lessons, by epoch.
        calls: The ids of all model calls, each with the revision that it is on.
    """

    tips: dict[str, str] = field(default_factory=dict)
    start: str = ""
    length: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    tallies: dict[str, list[int]] = field(default_factory=dict)
    wishes: dict[str, int] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    kept: int = 0
    most_evaluations: int = 0
    spent: dict[str, Spent] = field(default_factory=dict)
    epochs: Rows[Judged] = field(default_factory=_EPOCHS)
    lessons: Rows[Lesson] = field(default_factory=_LESSONS)
    calls: Rows[tuple[str, str]] = field(default_factory=_CALLS)
    # Rule of blocking to the counts of the lessons under it, as JSON.
    _learnt: dict[str, dict[str, Any]] = field(default_factory=dict)

    def learnt(self, block_after: int) -> Learnt:
        """The counts of the lessons, where a strategy is blocked after so many times."""
        known = self._learnt.get(str(block_after))
        return Learnt.of(known) if known else Learnt(block_after).take(self.lessons)

    def has(self, number: int) -> bool:
        """Whether an epoch is judged."""
        place = self.epochs.place(number)
        return place < len(self.epochs) and self.epochs[place].number == number

    def add_rule(self, block_after: int) -> bool:
        """Keeps the counts under another rule, too; False if it does already."""
        if str(block_after) in self._learnt or not self.lessons:
            return False
        self._learnt = {**self._learnt, str(block_after): self.learnt(block_after).plain()}
        return True

    def take(self, records: Iterable[tuple[str, Record]]) -> Index:
        """Takes in records, with the revisions that they are on; known ones change nothing."""
        self.outcomes, self.wishes = Counter(self.outcomes), dict(self.wishes)
        self.spent, self.inputs = dict(self.spent), dict(self.inputs)
        self.tallies = dict(self.tallies)
        self.epochs, self.lessons = self.epochs.copy(), self.lessons.copy()
        lessons, before = list[Lesson](), self.calls
        calls = dict[tuple[str, str], LlmRecord]()
        facts = ((at, _without_texts(record)) for at, record in records)
        for at, record in sorted(facts, key=lambda pair: (pair[1].epoch, pair[1].id)):
            if isinstance(record, Lesson):
                lessons.append(record)
            elif isinstance(record, StepRecord):
                self.wishes |= dict.fromkeys(record.wishes, record.epoch)
            elif isinstance(record, LlmRecord):
                calls[record.id, at] = record
            elif isinstance(record, MetricsRecord):
                self.inputs = {**record.inputs, **self.inputs}
                if record.split == "val" and not record.is_candidate:
                    self._take_epoch(Judged.of(record, at), record)
        self.calls = before.copy()
        for call, paid in calls.items():
            if call not in before.with_text(call[0]):
                self.calls.append(call)
                cost = Spent.of(paid.cost, known=paid.priced)
                self.spent[paid.role] = self.spent.get(paid.role, Spent()) + cost
        self._take_lessons(lessons)
        return self

    def _take_epoch(self, judged: Judged, record: MetricsRecord) -> None:
        if self.epochs.insert(judged) is not None:
            self.outcomes[record.outcome] += judged.number > 0
            self.kept |= judged.is_kept << judged.number
            self.most_evaluations = max(self.most_evaluations, judged.counted)
            for name in record.strategies() if judged.number and not record.is_refused else ():
                used, kept = self.tallies.get(name, (0, 0))
                self.tallies[name] = [used + 1, kept + judged.is_kept]

    def _take_lessons(self, lessons: Iterable[Lesson]) -> None:
        new, is_behind = list[Lesson](), True
        for lesson in lessons:
            place = self.lessons.insert(lesson)
            is_behind &= place in (None, len(self.lessons) - 1)
            new += [lesson] * (place is not None)
        if new:
            known = {str(BLOCK_AFTER): None, **self._learnt}
            self._learnt = {
                rule: (
                    Learnt.of(plain).take(new)
                    if plain and is_behind
                    else Learnt(int(rule)).take(self.lessons)
                ).plain()
                for rule, plain in known.items()
            }

    def encode(self) -> bytes:
        """The file's content: a checksum, a line of JSON, and the lines of its rows."""
        head: dict[str, Any] = {"v": _VERSION, **{name: getattr(self, name) for name in _PLAIN}}
        head["kept"], head["learnt"] = f"{self.kept:x}", self._learnt
        head["spent"] = {role: astuple(spent) for role, spent in self.spent.items()}
        rows = [each.encode() for each in (self.epochs, self.lessons, self.calls)]
        head["sizes"] = [len(each) for each in rows]
        body = b"".join([json.dumps(head, separators=(",", ":")).encode(), b"\n", *rows])
        return b"%08x\n" % zlib.crc32(body) + body

    @classmethod
    def decode(cls, content: bytes) -> Index | None:
        """The index in a file; None where that is damaged, or of another version.

        Raises:
            ValueError, TypeError, LookupError: it is a file of another form.
        """
        end = content.find(b"\n", 9)
        if content[:9] != b"%08x\n" % zlib.crc32(memoryview(content)[9:]):
            return None
        head = json.loads(content[9:end])
        if head["v"] != _VERSION:
            return None
        made, rows = cls(**{name: head[name] for name in _PLAIN}), list[bytes]()
        for size in head["sizes"]:
            rows.append(content[end + 1 : (end := end + size) + 1])
        made.outcomes, made.kept = Counter(made.outcomes), int(head["kept"], 16)
        made.spent = {role: Spent(*spent) for role, spent in head["spent"].items()}
        made.epochs, made.lessons, made.calls = _EPOCHS(rows[0]), _LESSONS(rows[1]), _CALLS(rows[2])
        made._learnt = head["learnt"]
        return made


def numbers_of(bits: int) -> list[int]:
    """The numbers of the bits that are set.

    >>> numbers_of(0b1101)
    [0, 2, 3]
    """
    return [number for number, bit in enumerate(reversed(f"{bits:b}")) if bit == "1"]


_PLAIN = ("tips", "start", "length", "wishes", "outcomes", "tallies", "inputs", "most_evaluations")


def _without_texts(record: Record) -> Record:
    """A record as far as it is used here: the texts of all model calls are long."""
    if isinstance(record, LlmRecord):
        return replace(record, request={}, reply={}, prompt="")
    return record
