"""An index of an experiment's judged epochs: reading one of them does not read the others.

It is derived from the branch and its notes, and holds the tips that it was made from. Where they
have moved, what was added is read; where more than that has changed, or the file is damaged, it is
made anew. It lies in the git folder; nothing is lost with it, and where it cannot be written, each
reader makes its own.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass, field, fields
from functools import cached_property
from operator import itemgetter
from typing import Any, NamedTuple

from autopilot.core.records.record import Lesson, MetricsRecord, Record, StepRecord
from autopilot.errors import AutopilotError
from autopilot.files import REGULAR, FileState, replace_file
from autopilot.git import objects, refs
from autopilot.git.commands import Seen
from autopilot.git.commits import first_parent_log
from autopilot.git.repository import Repository
from autopilot.tracking.journal import Journal

_VERSION = 2
_BRANCH = "branch"
_READ: tuple[type[Record], ...] = (MetricsRecord, StepRecord, Lesson)
_LESSON = {each.name: each.default for each in fields(Lesson)}
_seen = Seen["Index"]()


class Judged(NamedTuple):
    """An epoch in the index.

    Args:
        commit: The commit with its records.
        tree: The state that was measured.
        is_open: Whether the state counts as new when it comes again: some of its items could not
            be measured, or a person refused it.
        is_repeated: Whether its values are those of an earlier epoch.
    """

    number: int
    commit: str
    tree: str
    is_open: bool
    is_repeated: bool


class Point(NamedTuple):
    """An epoch on a curve.

    Args:
        value: Its metric; None, NaN, infinity: a gap.
        best: The best until then.
        kept: Whether it was not rejected.
        strategy: The strategies of its steps.
        evaluations: How many it took.
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
        tips: "branch" and the kinds of notes to the commits that it was made from.
        length: How many commits the branch has, from the start commit on.
        outcomes: Outcome to number of epochs, the baseline not counted.
        wishes: Id of a person's word to the epoch whose optimizer read it.
        inputs: Repository path to the first blob id of what evaluations read.
    """

    tips: dict[str, str]
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

    def place(self, number: int) -> int:
        """Where an epoch is among all, or would be."""
        return bisect_left(self.epochs, number, key=itemgetter(0))

    def has(self, number: int) -> bool:
        """Whether an epoch is judged."""
        place = self.place(number)
        return place < len(self.epochs) and self.epochs[place].number == number

    def take(self, records: Iterable[tuple[str, Record]]) -> None:
        """Takes in records, with the commits that they are on; known ones change nothing."""
        outcomes, wishes = Counter(self.outcomes), dict(self.wishes)
        epochs = {epoch.number: epoch for epoch in self.epochs}
        points = {point.epoch: point for point in self.points}
        lessons = {(lesson.epoch, lesson.id): lesson for lesson in self.lessons}
        for commit, record in sorted(records, key=lambda pair: (pair[1].epoch, pair[1].id)):
            if isinstance(record, Lesson):
                lessons.setdefault((record.epoch, record.id), record)
            elif isinstance(record, StepRecord):
                wishes |= dict.fromkeys(record.wishes, record.epoch)
            elif isinstance(record, MetricsRecord):
                self.inputs = {**record.inputs, **self.inputs}
                if record.split == "val" and record.epoch not in epochs:
                    is_open = bool(record.unmeasured) or record.is_refused
                    state = record.tree, is_open, record.reused is not None
                    epochs[record.epoch] = Judged(record.epoch, commit, *state)
                    points[record.epoch] = Point.of(record)
                    outcomes[record.outcome] += record.epoch > 0
        self.outcomes, self.wishes = outcomes, wishes
        self.epochs = [epochs[number] for number in sorted(epochs)]
        self.points = [points[number] for number in sorted(points)]
        self.lessons = [lessons[key] for key in sorted(lessons)]

    def encode(self) -> bytes:
        """The file's content: a checksum, and four lines of JSON."""
        head = {"v": _VERSION, "tips": self.tips, "length": self.length, "wishes": self.wishes}
        rest: list[Any] = [head | {"outcomes": self.outcomes, "inputs": self.inputs}, self.epochs]
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


def read_index(repo: Repository, journal: Journal, tip: str) -> Index:
    """The index of an experiment's branch as it is now, brought up to date.

    Args:
        tip: Where the branch ends.

    Raises:
        RecordError: the manifest's note is not here.
    """
    layout = journal.layout
    path, tips = layout.index(repo), {_BRANCH: tip}
    for kind in _READ:
        if (oid := refs.read_ref(repo, layout.notes(kind.kind))) is not None:
            tips[kind.kind] = oid
    # Threads share the one in memory: it is added to in a copy.
    found = copy(seen := _seen.get(str(path)))
    if found is None:
        with contextlib.suppress(OSError):
            found = Index.decode(path.read_bytes())
    if found is None or found.tips != tips:
        is_longer = False
        if found is not None:
            # What it was made from may be gone; then it is made anew.
            with contextlib.suppress(AutopilotError):
                is_longer = _extend(found, repo, journal, tips)
        if found is None or not is_longer:
            line = journal.line(tip)
            found = Index({}, len(line))
            found.take(pair for kind in _READ for pair in journal.read(kind, line))
        found.tips = tips
        # Lines that cannot be read are named by each reader, who has to meet them for that.
        is_whole = not any(named.startswith(layout.notes("")) for named in repo.damaged)
        # Who looks again and again writes it once.
        if seen is None and is_whole and refs.read_ref(repo, layout.branch) == tip:
            with contextlib.suppress(AutopilotError, OSError):
                replace_file(path.parent, path.name, FileState(REGULAR, found.encode()))
    return _seen.keep(str(path), found)


def _extend(index: Index, repo: Repository, journal: Journal, tips: dict[str, str]) -> bool:
    """Takes in what was added; False where more than that has changed, or may have."""
    new = set[str]()
    for commit in first_parent_log(repo, tips[_BRANCH]):
        if commit.id == index.tips[_BRANCH]:
            break
        new.add(commit.id)
    else:
        return False
    known, added = {epoch.commit for epoch in index.epochs}, list[tuple[str, Record]]()
    for kind in _READ:
        before, now = index.tips.get(kind.kind), tips.get(kind.kind)
        if before == now:
            continue
        if before is None or now is None:
            return False
        trees = (objects.tree_of(repo, each) for each in (before, now))
        changed = set[str]()
        for path, (old, note) in objects.diff_trees(repo, *trees).items():
            annotated = path.replace("/", "")
            if annotated not in new:
                if annotated not in known or old is None or note is None:
                    return False
                contents = [objects.read_blob(repo, each.oid) for each in (note, old)]
                if not contents[0].startswith(contents[1]):
                    return False
            changed.add(annotated)
        added += [(c, record) for c in changed for record in journal.read_on(c, kind)]
    index.length += len(new)
    index.take(added)
    return True


def _short(lesson: Lesson) -> dict[str, Any]:
    pairs = ((name, getattr(lesson, name)) for name in _LESSON)
    return {name: value for name, value in pairs if value != _LESSON[name]}
