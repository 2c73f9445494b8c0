"""The long parts of a report: diffs and items, within limits, and packed for the page."""

from __future__ import annotations

import base64
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from autopilot.core.records.record import TraceRecord
from autopilot.core.types import OUTCOMES, Datum, Outcome
from autopilot.git import objects
from autopilot.git.objects import Entry, FilePatch, Hunk, file_patch
from autopilot.git.repository import Repository
from autopilot.text import jsonable, visible, whole

FILES_A_CHANGE = 200
LINES_A_FILE = 4_000
LINES_IN_ALL = 300_000
LINE_LENGTH = 2_000
NOT_EVALUATED = "."
CODES: dict[Outcome, str] = dict(zip(OUTCOMES, "pfeun", strict=True))
_PASSED, _NOT_PASSED = CODES["passed"], CODES["failed"] + CODES["error"]
# The most telling first, where not all are shown.
_RANK: dict[Outcome, int] = {"error": 0, "failed": 1, "unmeasured": 2, "unscored": 3}
ITEMS_AT_MOST = 20_000
CELLS_AT_MOST = 6_000_000
FAILURES_AN_EPOCH = 20
_TEXT = 600
_PART_CHARACTERS = 250_000


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file that differs between two states.

    Args:
        status: "added", "removed", "changed", or "mode" where only its mode differs.
        patch: The place of its patch among the report's; None where it was left out.
        added: Lines that came; 0 where the patch was left out.
        mode: "100644 -> 100755" where it differs.
    """

    path: str
    status: str
    patch: int | None
    added: int = 0
    removed: int = 0
    mode: str = ""


@dataclass(frozen=True, slots=True)
class Changes:
    """The files that differ between two states.

    Args:
        files: In the order of their paths, the first 200.
        left_out: The number of files beyond those.
    """

    files: tuple[FileChange, ...] = ()
    left_out: int = 0


class DiffPool:
    """Patches of files, each kept once; what limits leave out is counted.

    Attributes:
        patches: The patches; `FileChange.patch` is a place in it.
        files_left_out: File changes without their lines, since the report has enough.
        lines_left_out: Lines at the end of long patches.
        long_lines: Lines that were cut.
    """

    def __init__(self, repo: Repository) -> None:
        self.patches: list[FilePatch] = []
        self.files_left_out = self.lines_left_out = self.long_lines = 0
        self._repo = repo
        self._known: dict[tuple[str, str], int] = {}
        self._trees: dict[tuple[str, str], Changes] = {}
        self._lines = 0

    def between(self, old: str, new: str) -> Changes:
        """The changes from one tree to another."""
        known = self._trees.get((old, new))
        if known is None:
            found = sorted(objects.diff_trees(self._repo, old, new).items())
            files = tuple(self._file(path, *sides) for path, sides in found[:FILES_A_CHANGE])
            known = self._trees[old, new] = Changes(files, max(0, len(found) - FILES_A_CHANGE))
        return known

    def _file(self, path: str, old: Entry | None, new: Entry | None) -> FileChange:
        status = "added" if old is None else "removed" if new is None else "changed"
        mode = f"{old.mode:o} -> {new.mode:o}" if old and new and old.mode != new.mode else ""
        if old and new and old.oid == new.oid:
            return FileChange(path, "mode", None, mode=mode)
        place = self._place(old, new)
        if place is None:
            self.files_left_out += 1
            return FileChange(path, status, None, mode=mode)
        patch = self.patches[place]
        return FileChange(path, status, place, patch.added, patch.removed, mode)

    def _place(self, old: Entry | None, new: Entry | None) -> int | None:
        key = (old.oid if old else "", new.oid if new else "")
        place = self._known.get(key)
        if place is None and self._lines < LINES_IN_ALL:
            patch = self._clipped(file_patch(self._repo, old, new, LINES_A_FILE))
            place = self._known[key] = len(self.patches)
            self.patches.append(patch)
            self._lines += sum(len(hunk.lines) for hunk in patch.hunks)
            self.lines_left_out += patch.left_out
        return place

    def _clipped(self, patch: FilePatch) -> FilePatch:
        if all(len(line) <= LINE_LENGTH for hunk in patch.hunks for line in hunk.lines):
            return patch
        hunks = []
        for hunk in patch.hunks:
            self.long_lines += sum(len(line) > LINE_LENGTH for line in hunk.lines)
            lines = tuple(clipped(line, LINE_LENGTH) for line in hunk.lines)
            hunks.append(Hunk(hunk.old_start, hunk.new_start, lines))
        return replace(patch, hunks=tuple(hunks))


def clipped(text: str, length: int) -> str:
    """A text that says how much of it is missing.

    >>> clipped("abcdef", 4), clipped("abcd", 4)
    ('abcd... [2 characters more]', 'abcd')
    """
    more = len(text) - length
    return text if more <= 0 else f"{text[:length]}... [{more} characters more]"


class FailedItem(NamedTuple):
    """An item that did not pass; text is its error, why it was not measured, or its feedback."""

    id: str
    text: str
    outcome: Outcome


@dataclass
class Results:
    """The results of one split, items x epochs.

    Attributes:
        ids: The items, in the order in which they were first met.
        rows: Epoch to a character an item, as CODES has them, "." for one that was not evaluated;
            what a row is too short for was not evaluated.
        failures: Epoch to its first failures: errors, then what failed, then what has no score.
        left_out: Results that are missing since the table is large enough.
    """

    split: str
    ids: list[str] = field(default_factory=list)
    rows: dict[int, str] = field(default_factory=dict)
    failures: dict[int, tuple[FailedItem, ...]] = field(default_factory=dict)
    left_out: int = 0
    _places: dict[str, int] = field(default_factory=dict)
    _cells: int = 0

    def add(self, trace: TraceRecord) -> None:
        """Takes in the results of an epoch."""
        row = bytearray(NOT_EVALUATED.encode() * len(self.ids))
        failures: list[Datum] = []
        seen: Counter[str] = Counter()
        for item in trace.data():
            name = item.id
            seen[name] += 1
            # The same item twice in a split is two rows.
            place = self._place(name if seen[name] == 1 else f"{name} ({seen[name]})")
            if item.outcome != "passed":
                failures.append(item)
            if place is None or self._cells >= CELLS_AT_MOST:
                self.left_out += 1
                continue
            row += NOT_EVALUATED.encode() * (place + 1 - len(row))
            row[place] = ord(CODES[item.outcome])
            self._cells += 1
        self.rows[trace.epoch] = row.decode()
        failures.sort(key=lambda item: _RANK[item.outcome])
        self.failures[trace.epoch] = tuple(
            FailedItem(
                item.id,
                clipped(item.unmeasured or item.error_message or item.feedback or "", _TEXT),
                item.outcome,
            )
            for item in failures[:FAILURES_AN_EPOCH]
        )

    def counts(self, epoch: int) -> dict[Outcome, int]:
        """The number of items of an epoch by outcome."""
        row = self.rows.get(epoch, "")
        return {outcome: row.count(code) for outcome, code in CODES.items()}

    def turned(self, before: int, after: int) -> tuple[list[str], list[str]]:
        """The items that were fixed from one epoch to another, and those that were broken."""
        fixed, broken = [], []
        pairs = zip(self.ids, self.rows.get(before, ""), self.rows.get(after, ""), strict=False)
        for name, was, now in pairs:
            if was in _NOT_PASSED and now == _PASSED:
                fixed.append(name)
            elif was == _PASSED and now in _NOT_PASSED:
                broken.append(name)
        return fixed, broken

    def document(self) -> dict[str, Any]:
        """The results for the page, packed."""
        return {
            "split": self.split,
            "codes": {code: outcome for outcome, code in CODES.items()},
            "epochs": list(self.rows),
            "ids": packed([self.ids]),
            "rows": packed(self.rows.values()),
        }

    def _place(self, name: str) -> int | None:
        place = self._places.get(name)
        if place is None and len(self.ids) < ITEMS_AT_MOST:
            place = self._places[name] = len(self.ids)
            self.ids.append(name)
        return place


def dumped(value: Any) -> str:
    """JSON in few characters; what UTF-8 cannot store is replaced, what steers is escaped."""
    try:
        text = _ENCODER.encode(value)
    except ValueError:  # NaN and infinity, which are rare, become words.
        text = _ENCODER.encode(jsonable(value))
    return whole(visible(text, in_json=True))


_ENCODER = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=jsonable
)


def patches(pool: DiffPool) -> dict[str, Any]:
    """The patches of all changes, packed: (binary, lines left out, hunks)."""
    return packed(
        [p.binary, p.left_out, [[h.old_start, h.new_start, h.lines] for h in p.hunks]]
        for p in pool.patches
    )


def packed(rows: Iterable[Any]) -> dict[str, Any]:
    """Rows in deflated parts, as base64, with the number of each part's first row."""
    starts, parts, group, size, count = [0], [], list[str](), 0, 0
    text, last = "", None
    for row in rows:
        text, last = text if row is last else dumped(row), row
        if group and size + len(text) > _PART_CHARACTERS:
            parts.append(_deflated(group))
            starts.append(count)
            group, size = [], 0
        group.append(text)
        size, count = size + len(text), count + 1
    parts.append(_deflated(group))
    return {"starts": starts, "parts": parts}


def _deflated(group: Sequence[str]) -> str:
    squeeze = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    text = f"[{','.join(group)}]".encode()
    return base64.b64encode(squeeze.compress(text) + squeeze.flush()).decode()
