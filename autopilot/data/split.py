"""Splits: train, val and test from one dataset, and whether they share items.

Who goes where follows from the seed alone: the same in every process, on every Python.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import TypeVar

from autopilot.core.types import as_datum
from autopilot.data.dataset import Indexable, Subset, check_indexable
from autopilot.errors import DataError, UsageError

T = TypeVar("T")


def permutation(count: int, seed: str) -> list[int]:
    """The numbers below count in an order that follows from the seed alone."""
    # Of `random`, only random() promises the same numbers on every later Python; shuffle does not.
    draw = random.Random(seed).random
    keys = [draw() for _ in range(count)]
    return sorted(range(count), key=keys.__getitem__)


def random_split(dataset: Indexable[T], lengths: Sequence[float], seed: int = 0) -> list[Subset[T]]:
    """Splits a dataset at random: no item is in two splits, and each is in one.

    Args:
        dataset: A Dataset or a sequence.
        lengths: Numbers of items that add up to the dataset's, or fractions that add up to 1;
            a fraction's share is rounded so that it is off by less than one item, which may be
            no item at all in a tiny dataset.
        seed: Decides who goes where.

    Returns:
        One Subset per length, each in random order.

    Raises:
        UsageError: the lengths do not add up, or the dataset has no index.

    >>> train, val = random_split(range(10), [0.8, 0.2], seed=1)
    >>> len(train), len(val), sorted([*train, *val]) == list(range(10))
    (8, 2, True)
    """
    check_indexable(dataset, "random_split")
    count = len(dataset)
    if sum(lengths) == count and all(isinstance(n, int) and n >= 0 for n in lengths):
        sizes = [int(n) for n in lengths]
    else:
        sizes = next(_apportion([count], _fractions(lengths, count)))
    order = iter(permutation(count, f"split {seed}"))
    return [Subset(dataset, [next(order) for _ in range(size)]) for size in sizes]


def stratified_split(
    dataset: Indexable[T],
    fractions: Sequence[float],
    key: str | Callable[[T], object],
    seed: int = 0,
) -> list[Subset[T]]:
    """Splits a dataset at random such that each split has every class in the same proportion.

    A split's share of a class is off by less than one item; where classes are too small for
    their share, they take turns, so that the splits as a whole keep their sizes.

    Args:
        dataset: A Dataset or a sequence.
        fractions: The splits' shares; they add up to 1.
        key: The name of the field that holds an item's class, or a function that tells it.
        seed: Decides who goes where.

    Returns:
        One Subset per fraction, each in random order.

    Raises:
        UsageError: the fractions do not add up, or the dataset has no index.
        DataError: an item has no such field, or a class that is not hashable.

    >>> spam = [{"text": str(n), "spam": n % 4 == 0} for n in range(20)]
    >>> train, val = stratified_split(spam, [0.6, 0.4], key="spam")
    >>> [sum(item["spam"] for item in split) for split in (train, val)], len(val)
    ([3, 2], 8)
    """
    check_indexable(dataset, "stratified_split")
    count = len(dataset)
    shares = _fractions(fractions, count)
    order = permutation(count, f"split {seed}")
    classes: dict[object, list[int]] = {}
    for index in order:
        classes.setdefault(_class_of(dataset[index], key, index), []).append(index)
    split_of = [0] * count
    sizes = _apportion([len(members) for members in classes.values()], shares)
    for members, class_sizes in zip(classes.values(), sizes, strict=True):
        rest = iter(members)
        for split, size in enumerate(class_sizes):
            for _ in range(size):
                split_of[next(rest)] = split
    return [
        Subset(dataset, [index for index in order if split_of[index] == split])
        for split in range(len(shares))
    ]


def _fractions(fractions: Sequence[float], count: int) -> list[Fraction]:
    # Asked for what is right, so that nan is refused too.
    valid = all(0 <= share <= 1 for share in fractions) and abs(sum(fractions) - 1) <= 1e-6
    if not valid:
        raise UsageError(
            f"{list(fractions)} cannot split a dataset of {count} items",
            hint="give fractions that add up to 1; random_split also takes numbers of items that "
            f"add up to {count}",
        )
    exact = [Fraction(share).limit_denominator(10**6) for share in fractions]
    return [share / sum(exact) for share in exact]


def _apportion(counts: Iterable[int], shares: Sequence[Fraction]) -> Iterator[list[int]]:
    """For each count its parts: each part is its share, rounded down or up.

    The items left over by rounding down go to the splits that are furthest behind their share of
    everything so far; without that, a hundred classes of one item would all go to the largest.
    """
    behind = [Fraction(0)] * len(shares)
    for count in counts:
        wanted = [count * share for share in shares]
        parts = [int(part) for part in wanted]
        behind = [debt + part - got for debt, part, got in zip(behind, wanted, parts, strict=True)]
        uneven = [split for split, part in enumerate(wanted) if part.denominator > 1]
        uneven.sort(key=lambda split: behind[split], reverse=True)
        for split in uneven[: count - sum(parts)]:
            parts[split] += 1
            behind[split] -= 1
        yield parts


def _class_of(item: T, key: str | Callable[[T], object], index: int) -> object:
    if callable(key):
        found = key(item)
    else:
        fields = as_datum(item, index).metadata
        if key not in fields:
            raise DataError(
                f"item {index} has no field {key!r}; it has {', '.join(map(str, fields))}",
                hint="name a field that every item has, or pass a function as key",
            )
        found = fields[key]
    try:
        hash(found)
    except TypeError as error:
        raise DataError(
            f"the class of item {index} is a {type(found).__name__}, which cannot be grouped by",
            hint="pass a key that gives a string, a number or a tuple",
        ) from error
    return found
