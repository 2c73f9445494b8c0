"""The items of a report: which passed in which epoch, and why those that failed did."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from autopilot.core.records.record import TraceRecord
from autopilot.core.types import OUTCOMES, Datum, Outcome
from autopilot.report.diffs import clipped

NOT_EVALUATED = "."
CODES: dict[Outcome, str] = dict(zip(OUTCOMES, "pfeun", strict=True))
_PASSED, _NOT_PASSED = CODES["passed"], CODES["failed"] + CODES["error"]
# The most telling first, where not all are shown.
_RANK: dict[Outcome, int] = {"error": 0, "failed": 1, "unmeasured": 2, "unscored": 3}
ITEMS_AT_MOST = 20_000
CELLS_AT_MOST = 6_000_000
FAILURES_AN_EPOCH = 20
_TEXT = 600


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that did not pass.

    Args:
        id: The item's.
        text: Its error, why it was not measured, or the feedback on it.
        outcome: What it came to.
    """

    id: str
    text: str
    outcome: Outcome


@dataclass
class Results:
    """The results of one split, items x epochs.

    Attributes:
        split: "train", "val" or "test".
        ids: The items, in the order in which they were first met.
        rows: Epoch to a character an item, as CODES has them, "." for one that was not evaluated;
            what a row is too short for was not evaluated.
        failures: Epoch to its first failures: errors, then what failed, then what has no score.
        left_out: Results that are missing since the table is large enough.
    """

    split: str
    ids: list[str] = field(default_factory=list)
    rows: dict[int, str] = field(default_factory=dict)
    failures: dict[int, tuple[Failure, ...]] = field(default_factory=dict)
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
        self.failures[trace.epoch] = tuple(map(_failure, failures[:FAILURES_AN_EPOCH]))

    def counts(self, epoch: int) -> dict[Outcome, int]:
        """How many items of an epoch came to what."""
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

    def _place(self, name: str) -> int | None:
        place = self._places.get(name)
        if place is None and len(self.ids) < ITEMS_AT_MOST:
            place = self._places[name] = len(self.ids)
            self.ids.append(name)
        return place


def _failure(item: Datum) -> Failure:
    text = item.unmeasured or item.error_message or item.feedback or ""
    return Failure(item.id, clipped(text, _TEXT), item.outcome)
