"""A generation's plan and its checkpoint: the items that were made and rejected, one line each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from autopilot.ai.datasets.worklist import BudgetLine, Origin, Worklist
from autopilot.data.dataset import write_jsonl
from autopilot.data.loader import permutation

Weights = Mapping[str, float] | Sequence[str]


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for one item.

    Args:
        number: From 0.
        split: The split of the item. Fixed when the slots are planned, so that a slot which is
            filled later moves no other item to another split.
    """

    number: int
    values: Mapping[str, str]
    split: str


def plan_slots(
    count: int, variables: Mapping[str, Mapping[str, float]], splits: Mapping[str, float], seed: int
) -> list[Slot]:
    """Slots in which each value is as frequent as its weight says, in every split.

    Args:
        variables: Name to value to weight.
        seed: Decides which slot has which values and split.

    >>> slots = plan_slots(8, {"tone": {"kind": 3, "curt": 1}}, {"train": 1, "val": 1}, seed=0)
    >>> sorted(slot.values["tone"] for slot in slots if slot.split == "val")
    ['curt', 'kind', 'kind', 'kind']
    """
    chosen: list[dict[str, str]] = [{} for _ in range(count)]
    for name, weights in variables.items():
        values = [v for v, n in _apportion(weights, count).items() for _ in range(n)]
        # A generator of its own for each variable: a further variable leaves the others' values.
        order = permutation(count, f"{seed}/{name}")
        for values_of_slot, index in zip(chosen, order, strict=True):
            values_of_slot[name] = values[index]
    pairs = zip(chosen, _deal(chosen, splits, seed), strict=True)
    return [Slot(number, values, split) for number, (values, split) in enumerate(pairs)]


def check_weights(name: str, given: Weights) -> dict[str, float]:
    """Value to weight; values without weights are equally frequent.

    Raises:
        ValueError: there is none above 0.
    """
    weights = dict(given) if isinstance(given, Mapping) else dict.fromkeys(given, 1.0)
    usable = weights and all(w >= 0 and math.isfinite(w) for w in weights.values())
    if not usable or sum(weights.values()) <= 0:
        raise ValueError(f"the variable {name!r} needs values with weights above 0, got {given!r}")
    return {str(value): float(weight) for value, weight in weights.items()}


def _deal(chosen: Sequence[Mapping[str, str]], splits: Mapping[str, float], seed: int) -> list[str]:
    """A split for each slot: iterative stratification (Sechidis, Tsoumakas and Vlahavas, 2011).

    The rarest value is dealt first, each of its slots to the split that lacks the slot's values
    most, in proportion to its share; a split that is full gets no more.
    """
    room = _apportion(splits, len(chosen))
    total = sum(splits.values())
    left = dict.fromkeys(permutation(len(chosen), f"{seed}/splits"))
    counts = Counter(pair for values in chosen for pair in values.items())
    wanted = {
        split: Counter({pair: n * share / total for pair, n in counts.items()})
        for split, share in splits.items()
    }
    dealt = [""] * len(chosen)
    while left:
        rarest = min(
            Counter(pair for index in left for pair in chosen[index].items()).items(),
            key=lambda item: (item[1], item[0]),
            default=(None, 0),
        )[0]
        for index in list(left):
            if rarest is not None and rarest not in chosen[index].items():
                continue
            pairs = list(chosen[index].items())
            dealt[index] = max(
                (split for split in splits if room[split] > 0),
                key=lambda split: (
                    wanted[split][rarest] / splits[split] if rarest else 0.0,
                    sum(wanted[split][pair] for pair in pairs) / splits[split],
                    room[split] / splits[split],
                ),
            )
            room[dealt[index]] -= 1
            wanted[dealt[index]].subtract(pairs)
            del left[index]
    return dealt


def _apportion(weights: Mapping[str, float], count: int) -> dict[str, int]:
    """Value to number of places by its weight, rounded by the largest remainders."""
    total = sum(weights.values())
    shares = {value: count * weight / total for value, weight in weights.items()}
    whole = {value: math.floor(share) for value, share in shares.items()}
    missing = count - sum(whole.values())
    for value in sorted(shares, key=lambda value: whole[value] - shares[value])[:missing]:
        whole[value] += 1
    return whole


class GenerationPlan(BaseModel):
    """The items that a generation is to make; the first line."""

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
    """An item that was accepted, as the steps returned it."""

    kind: Literal["made"] = "made"
    slot: int
    item: dict[str, Any]


class Rejected(BaseModel):
    """An item that was not accepted: a duplicate, or refused by the validation."""

    kind: Literal["rejected"] = "rejected"
    slot: int
    attempt: int
    reason: str
    duplicate: bool = False


class Failed(BaseModel):
    """A slot that no attempt filled; see `worklist.Failure`."""

    kind: Literal["failed"] = "failed"
    slot: int
    reason: str
    ask_anew: bool = False


Line = Annotated[
    GenerationPlan | BudgetLine | Made | Rejected | Failed, Field(discriminator="kind")
]


class Checkpoint(Worklist[GenerationPlan, Made, Failed]):
    """The worklist of a data generation; its keys are the slots' numbers.

    Args:
        folder: The folder of the files; it is made when the first line is written.

    Attributes:
        rejected: Items that were not accepted, in order.
    """

    noun = "a generation"
    begin_hint = "run it first"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rejected: list[Rejected] = []
        path, calls = folder / "checkpoint.jsonl", folder / "calls.jsonl"
        super().__init__(path, calls, Line, GenerationPlan, Made, Failed, "slot")

    @property
    def place(self) -> Path:
        return self.folder

    def attempts(self, slot: int) -> tuple[int, str]:
        """The number of rejected items of a slot, and why the last of them was rejected."""
        with self._lock:
            reasons = [line.reason for line in self.rejected if line.slot == slot]
        return len(reasons), reasons[-1] if reasons else ""

    def write_splits(self) -> None:
        """Writes a file for each split: items with an id and their slot's values, in slot order."""
        plan = self.first_line()
        for split in plan.splits:
            write_jsonl(
                self.folder / f"{split}.jsonl",
                [
                    {"id": f"{slot.number:05d}", **slot.values, **self.done[slot.number].item}
                    for slot in plan.slots()
                    if slot.split == split and slot.number in self.done
                ],
            )

    def distribution(self) -> Distribution:
        """How the items that were made compare with the plan."""
        plan = self.first_line()
        slots, splits = plan.slots(), dict.fromkeys(plan.splits, Share(0, 0))
        variables = {
            name: {value: dict.fromkeys(splits, Share(0, 0)) for value in weights}
            for name, weights in plan.variables.items()
        }
        for slot in slots:
            one = Share(1, int(slot.number in self.done))
            splits[slot.split] += one
            for name, value in slot.values.items():
                variables[name][value][slot.split] += one
        reasons = Counter(line.reason for line in self.rejected)
        reasons.update(line.reason for line in self.failed.values())
        duplicates = sum(line.duplicate for line in self.rejected)
        return Distribution(
            planned=len(slots),
            made=len(self.done),
            failed=len(self.failed),
            duplicates=duplicates,
            refused=len(self.rejected) - duplicates,
            splits=splits,
            variables=variables,
            reasons=dict(reasons.most_common()),
        )

    def _take_in(self, line: Any) -> None:
        super()._take_in(line)
        if isinstance(line, Rejected):
            self.rejected.append(line)


@dataclass(frozen=True, slots=True)
class Share:
    """Counts of items of one kind."""

    planned: int
    made: int

    def __add__(self, other: Share) -> Share:
        return Share(self.planned + other.planned, self.made + other.made)


@dataclass(frozen=True, slots=True)
class Distribution:
    """How the items that were made compare with the plan.

    Args:
        planned: Number of slots.
        made: Items that were accepted.
        failed: Slots that no attempt filled.
        refused: Items that the validation refused.
        variables: Variable to value to split to items.
        reasons: Why items were rejected and slots failed, with counts; most frequent first.
    """

    planned: int
    made: int
    failed: int
    duplicates: int
    refused: int
    splits: Mapping[str, Share]
    variables: Mapping[str, Mapping[str, Mapping[str, Share]]]
    reasons: Mapping[str, int]

    @property
    def missing(self) -> int:
        """Slots without an item."""
        return self.planned - self.made

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
