"""The checkpoint of a data generation: what was planned, made and rejected, one line each.

Lines are only appended, at once, so that a kill loses nothing that was paid. Model calls are in a
file beside it, and answer a resumed generation.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from autopilot.ai.recording import LocalRecorder
from autopilot.errors import DataError

LINES = "checkpoint.jsonl"
CALLS = "calls.jsonl"


class Plan(BaseModel):
    """What is to be made; the first line."""

    kind: Literal["plan"] = "plan"
    count: int
    seed: int
    variables: dict[str, dict[str, float]]


class Made(BaseModel):
    """An item that was taken in."""

    kind: Literal["made"] = "made"
    slot: int
    values: dict[str, str]
    item: dict[str, Any]


class Rejected(BaseModel):
    """An item that was not: a duplicate, or one that the validation refused."""

    kind: Literal["rejected"] = "rejected"
    slot: int
    attempt: int
    reason: str
    duplicate: bool = False


class Failed(BaseModel):
    """A slot that no attempt filled."""

    kind: Literal["failed"] = "failed"
    slot: int
    values: dict[str, str]
    reason: str


Line = Annotated[Plan | Made | Rejected | Failed, Field(discriminator="kind")]
_LINE: TypeAdapter[Plan | Made | Rejected | Failed] = TypeAdapter(Line)


class Checkpoint:
    """The lines of a folder, in memory and on disk. May be appended to from several threads.

    Args:
        folder: Where the files are; it is made if it is missing.

    Raises:
        DataError: a line cannot be read; a last line that a kill cut short is left out.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan: Plan | None = None
        self.made: dict[int, Made] = {}
        self.failed: dict[int, Failed] = {}
        self.rejected: list[Rejected] = []
        self._lock = threading.Lock()
        for line in _read(folder / LINES):
            self._take_in(line)

    def append(self, line: Plan | Made | Rejected | Failed) -> None:
        """Writes a line, and counts it."""
        with self._lock:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / LINES).open("a+b") as file:
                end = file.seek(0, 2)
                if end and (file.seek(end - 1), file.read(1))[1] != b"\n":
                    file.write(b"\n")
                file.write(line.model_dump_json().encode() + b"\n")
            self._take_in(line)

    def recorder(self) -> LocalRecorder:
        """Where the model calls are kept."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return LocalRecorder(self.folder / CALLS)

    def attempts(self, slot: int) -> int:
        """How many items were made for a slot in vain."""
        return sum(line.slot == slot for line in self.rejected)

    def _take_in(self, line: Plan | Made | Rejected | Failed) -> None:
        if isinstance(line, Plan):
            self.plan = line
        elif isinstance(line, Made):
            self.made[line.slot] = line
            self.failed.pop(line.slot, None)
        elif isinstance(line, Failed):
            self.failed[line.slot] = line
        else:
            self.rejected.append(line)


def _read(path: Path) -> Iterator[Plan | Made | Rejected | Failed]:
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield _LINE.validate_json(line)
        except ValidationError as error:
            # A line that a kill cut short stands for something that was not finished.
            if not line.rstrip().endswith(b"}"):
                continue
            raise DataError(
                f"{path} line {number} cannot be read",
                hint="it was edited, or a newer version wrote it",
            ) from error


@dataclass(frozen=True)
class Distribution:
    """How what was made compares with what was planned.

    Args:
        planned: Items that were asked for.
        made: Items that are there.
        failed: Slots that no attempt filled.
        duplicates: Items that were rejected since they were there already.
        refused: Items that the validation refused.
        variables: Variable to value to (planned, made).
        splits: Split to its number of items.
    """

    planned: int
    made: int
    failed: int
    duplicates: int
    refused: int
    variables: Mapping[str, Mapping[str, tuple[int, int]]]
    splits: Mapping[str, int] = field(default_factory=dict)

    def render(self) -> str:
        """As text, for a person."""
        lines = [
            f"{self.made} of {self.planned} made, {self.failed} slots failed, "
            f"{self.duplicates} duplicates and {self.refused} invalid items rejected"
        ]
        if self.splits:
            lines.append(", ".join(f"{name} {count}" for name, count in self.splits.items()))
        for name, values in self.variables.items():
            lines.append(f"{name}:")
            lines += [f"  {v}: {made} of {planned}" for v, (planned, made) in values.items()]
        return "\n".join(lines)


def distribution(
    checkpoint: Checkpoint, slots: list[dict[str, str]], splits: Mapping[str, int]
) -> Distribution:
    """The report on a checkpoint.

    Args:
        checkpoint: What was made.
        slots: What was planned: variable to value, for each slot.
        splits: Split to its number of items.
    """
    made = [line.values for line in checkpoint.made.values()]
    names = list(slots[0]) if slots else []
    variables = {}
    for name in names:
        wanted = Counter(slot[name] for slot in slots)
        there = Counter(values[name] for values in made)
        variables[name] = {value: (count, there[value]) for value, count in wanted.items()}
    duplicates = sum(line.duplicate for line in checkpoint.rejected)
    return Distribution(
        planned=len(slots),
        made=len(made),
        failed=len(checkpoint.failed),
        duplicates=duplicates,
        refused=len(checkpoint.rejected) - duplicates,
        variables=variables,
        splits=dict(splits),
    )
