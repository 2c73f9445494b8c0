"""The items of a report: which passed in which epoch, and why those that failed did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autopilot.core.record import TraceRecord
from autopilot.tracking.report_diffs import clipped

NOT_EVALUATED, PASSED, FAILED, BROKE = ".", "p", "f", "e"
ITEMS_AT_MOST = 20_000
CELLS_AT_MOST = 6_000_000
FAILURES_AN_EPOCH = 20
_TEXT = 600


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that failed.

    Args:
        id: The item's.
        text: Its error, or the feedback on it.
        broke: Whether the system failed rather than answered badly.
    """

    id: str
    text: str
    broke: bool


@dataclass
class Results:
    """The results of one split, items x epochs.

    Attributes:
        split: "train", "val" or "test".
        ids: The items, in the order in which they were first met.
        rows: Epoch to a character an item: "p" passed, "f" failed, "e" failed with an error, "."
            not evaluated; what a row is too short for was not evaluated.
        failures: Epoch to its first failures.
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
        failures: list[Failure] = []
        seen: Counter[str] = Counter()
        for item in trace.items:
            name = str(item["id"])
            seen[name] += 1
            # The same item twice in a split is two rows.
            place = self._place(name if seen[name] == 1 else f"{name} ({seen[name]})")
            outcome = _outcome(item)
            if outcome != PASSED and len(failures) < FAILURES_AN_EPOCH:
                failures.append(_failure(name, item))
            if place is None or self._cells >= CELLS_AT_MOST:
                self.left_out += 1
                continue
            row += NOT_EVALUATED.encode() * (place + 1 - len(row))
            row[place] = ord(outcome)
            self._cells += 1
        self.rows[trace.epoch] = row.decode()
        self.failures[trace.epoch] = tuple(failures)

    def count(self, epoch: int, outcomes: str) -> int:
        """How many items of an epoch came out so."""
        row = self.rows.get(epoch, "")
        return sum(row.count(outcome) for outcome in outcomes)

    def turned(self, before: int, after: int) -> tuple[list[str], list[str]]:
        """The items that were fixed from one epoch to another, and those that were broken."""
        fixed, broken = [], []
        pairs = zip(self.ids, self.rows.get(before, ""), self.rows.get(after, ""), strict=False)
        for name, was, now in pairs:
            if NOT_EVALUATED in (was, now):
                continue
            if was != PASSED and now == PASSED:
                fixed.append(name)
            elif was == PASSED and now != PASSED:
                broken.append(name)
        return fixed, broken

    def _place(self, name: str) -> int | None:
        place = self._places.get(name)
        if place is None and len(self.ids) < ITEMS_AT_MOST:
            place = self._places[name] = len(self.ids)
            self.ids.append(name)
        return place


def _outcome(item: Mapping[str, Any]) -> str:
    if item.get("success", True):
        return PASSED
    return BROKE if item.get("error_message") else FAILED


def _failure(name: str, item: Mapping[str, Any]) -> Failure:
    error = item.get("error_message")
    return Failure(name, clipped(str(error or item.get("feedback") or ""), _TEXT), bool(error))
