"""What a generation is to make: slots, each with a value of every variable and a split."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autopilot.data.split import permutation

Weights = Mapping[str, float] | Sequence[str]


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for one item.

    Args:
        number: From 0.
        values: Variable to value.
        split: Where the item goes; known beforehand, so that a slot which is filled later moves no
            other item from one split to another.
    """

    number: int
    values: Mapping[str, str]
    split: str


def plan_slots(
    count: int,
    variables: Mapping[str, Mapping[str, float]],
    splits: Mapping[str, float],
    seed: int,
) -> list[Slot]:
    """Every value as often as its weight says, and in each split as often as in the whole.

    Args:
        count: Slots.
        variables: Name to value to weight.
        splits: Name to share.
        seed: Decides which slot has which values, and goes where.

    >>> slots = plan_slots(8, {"tone": {"kind": 3, "curt": 1}}, {"train": 1, "val": 1}, seed=0)
    >>> sorted(slot.values["tone"] for slot in slots if slot.split == "val")
    ['curt', 'kind', 'kind', 'kind']
    """
    chosen: list[dict[str, str]] = [{} for _ in range(count)]
    for name, weights in variables.items():
        values = [v for v, n in _apportion(weights, count).items() for _ in range(n)]
        draw = random.Random(f"{seed}/{name}").random
        order = sorted(range(count), key=[draw() for _ in range(count)].__getitem__)
        for values_of_slot, index in zip(chosen, order, strict=True):
            values_of_slot[name] = values[index]
    dealt = _deal(chosen, splits, seed)
    pairs = zip(chosen, dealt, strict=True)
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
    """How often each value comes by its share, rounded by the largest remainders."""
    total = sum(weights.values())
    shares = {value: count * weight / total for value, weight in weights.items()}
    whole = {value: math.floor(share) for value, share in shares.items()}
    missing = count - sum(whole.values())
    for value in sorted(shares, key=lambda value: whole[value] - shares[value])[:missing]:
        whole[value] += 1
    return whole
