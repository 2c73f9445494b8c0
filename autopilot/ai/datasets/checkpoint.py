"""The checkpoint of a data generation: what was planned, made and rejected, one line each.

Lines are only appended, at once, so that a kill loses nothing that was paid. Model calls are in a
file beside it, and answer a resumed generation.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from autopilot.ai.datasets.lines import Budget, Lines, Origin
from autopilot.ai.datasets.planning import Slot, plan_slots
from autopilot.data.jsonl import write_jsonl
from autopilot.errors import DataError

LINES = "checkpoint.jsonl"
CALLS = "calls.jsonl"


class Plan(BaseModel):
    """What is to be made; the first line."""

    kind: Literal["plan"] = "plan"
    count: int
    seed: int
    variables: dict[str, dict[str, float]]
    splits: dict[str, float]
    origin: Origin = Field(default_factory=Origin)

    def slots(self) -> list[Slot]:
        """The places for items."""
        return plan_slots(self.count, self.variables, self.splits, self.seed)


class Made(BaseModel):
    """An item that was taken in, as the steps came to it."""

    kind: Literal["made"] = "made"
    slot: int
    item: dict[str, Any]


class Rejected(BaseModel):
    """An item that was not: a duplicate, or one that the validation refused."""

    kind: Literal["rejected"] = "rejected"
    slot: int
    attempt: int
    reason: str
    duplicate: bool = False


class Failed(BaseModel):
    """A slot that no attempt filled; a resumed generation tries it again.

    Args:
        slot: Its number.
        reason: Why.
        ask_anew: An answer could not be used: what is recorded of it answers nothing any more.
    """

    kind: Literal["failed"] = "failed"
    slot: int
    reason: str
    ask_anew: bool = False


Line = Plan | Budget | Made | Rejected | Failed


class Checkpoint:
    """The lines of a folder, in memory and on disk. May be appended to from several threads.

    Args:
        folder: Where the files are; it is made when the first line is written.

    Attributes:
        plan: What is to be made; None where nothing was begun.
        budget: What it may cost.
        made: Slot to its item.
        failed: Slot to why no attempt filled it.
        rejected: Items that were not taken in, in their order.
        asked_anew: Slot to how often it failed for an answer that could not be used.

    Raises:
        DataError: a line cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan: Plan | None = None
        self.budget = Budget()
        self.made: dict[int, Made] = {}
        self.failed: dict[int, Failed] = {}
        self.rejected: list[Rejected] = []
        self.asked_anew: Counter[int] = Counter()
        self._lock = threading.Lock()
        kinds = Annotated[Line, Field(discriminator="kind")]
        self.lines: Lines[Line] = Lines(folder / LINES, kinds)
        for line in self.lines.read():
            self._take_in(line)

    @classmethod
    def existing(cls, folder: str | Path) -> tuple[Checkpoint, Plan]:
        """The checkpoint of a generation that was begun, and its plan.

        Raises:
            DataError: there is none.
        """
        checkpoint = cls(Path(folder))
        if checkpoint.plan is None:
            raise DataError(f"{folder} holds no generation", hint="run it first")
        return checkpoint, checkpoint.plan

    @property
    def calls(self) -> Path:
        """Where the model calls are kept."""
        return self.folder / CALLS

    @contextlib.contextmanager
    def begun(self) -> Iterator[None]:
        """What the body begins is held; where it ends with nothing paid, nothing is left of it."""
        existed = self.folder.exists()
        try:
            with self.lines.held():
                yield
        except BaseException:
            if not (self.made or self.failed or self.rejected or self.calls.exists()):
                self.lines.path.unlink(missing_ok=True)
                if not existed:
                    self.folder.rmdir()
            raise

    def append(self, line: Line) -> None:
        """Writes a line, and counts it."""
        with self._lock:
            self.lines.append(line)
            self._take_in(line)

    def attempts(self, slot: int) -> tuple[int, str]:
        """How many items were made for a slot in vain, and why the last of them was rejected."""
        with self._lock:
            reasons = [line.reason for line in self.rejected if line.slot == slot]
        return len(reasons), reasons[-1] if reasons else ""

    def write_splits(self) -> None:
        """One file for each split: items with an id and their slot's values, in its order."""
        if self.plan is None:
            return
        for split in self.plan.splits:
            write_jsonl(
                self.folder / f"{split}.jsonl",
                [
                    {"id": f"{slot.number:05d}", **slot.values, **self.made[slot.number].item}
                    for slot in self.plan.slots()
                    if slot.split == split and slot.number in self.made
                ],
            )

    def distribution(self) -> Distribution:
        """How what was made compares with what was planned."""
        slots = self.plan.slots() if self.plan is not None else []
        counts: dict[str, dict[str, dict[str, Share]]] = {}
        splits = dict.fromkeys(self.plan.splits if self.plan is not None else (), Share(0, 0))
        for name, weights in (self.plan.variables if self.plan is not None else {}).items():
            counts[name] = {value: dict.fromkeys(splits, Share(0, 0)) for value in weights}
        for slot in slots:
            one = Share(1, int(slot.number in self.made))
            splits[slot.split] += one
            for name, value in slot.values.items():
                counts[name][value][slot.split] += one
        reasons = Counter(line.reason for line in self.rejected)
        reasons.update(line.reason for line in self.failed.values())
        return Distribution(
            planned=len(slots),
            made=len(self.made),
            failed=len(self.failed),
            duplicates=sum(line.duplicate for line in self.rejected),
            refused=sum(not line.duplicate for line in self.rejected),
            splits=splits,
            variables=counts,
            reasons=dict(reasons.most_common()),
        )

    def _take_in(self, line: Line) -> None:
        if isinstance(line, Plan):
            self.plan = line
        elif isinstance(line, Budget):
            self.budget = line
        elif isinstance(line, Made):
            self.made[line.slot] = line
            self.failed.pop(line.slot, None)
        elif isinstance(line, Failed):
            self.failed[line.slot] = line
            self.asked_anew[line.slot] += line.ask_anew
        else:
            self.rejected.append(line)


@dataclass(frozen=True, slots=True)
class Share:
    """Items of one kind.

    Args:
        planned: That were asked for.
        made: That are there.
    """

    planned: int
    made: int

    def __add__(self, other: Share) -> Share:
        return Share(self.planned + other.planned, self.made + other.made)


@dataclass(frozen=True, slots=True)
class Distribution:
    """How what was made compares with what was planned.

    Args:
        planned: Items that were asked for.
        made: Items that are there.
        failed: Slots that no attempt filled.
        duplicates: Items that were rejected since they were there already.
        refused: Items that the validation refused.
        splits: Split to its items.
        variables: Variable to value to split to items.
        reasons: Why items were rejected and slots failed, with how often; most frequent first.
    """

    planned: int
    made: int
    failed: int
    duplicates: int
    refused: int
    splits: Mapping[str, Share]
    variables: Mapping[str, Mapping[str, Mapping[str, Share]]]
    reasons: Mapping[str, int]

    def render(self) -> str:
        """One line, for a person."""
        parts = [f"{self.made} of {self.planned} items made"]
        for number, one, several in (
            (self.failed, "slot failed", "slots failed"),
            (self.duplicates, "duplicate rejected", "duplicates rejected"),
            (self.refused, "invalid item rejected", "invalid items rejected"),
        ):
            parts += [f"{number} {one if number == 1 else several}"] if number else []
        return ", ".join(parts)
