"""The DataLoader, splits and the DataModule: a dataset in batches, in an order that repeats.

The order follows from seed and epoch alone: the same in every process, on every Python.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from fractions import Fraction
from itertools import islice
from typing import Any, Generic, TypeVar, cast

from autopilot.core.items import FreshBatches, copied, is_flat
from autopilot.core.types import Datum, as_datum, digest
from autopilot.data.dataset import Indexable, Subset, check_indexable, is_indexable
from autopilot.errors import DataError, UsageError

T = TypeVar("T")


def default_collate(items: Sequence[object]) -> Datum:
    """A batch: a Datum whose `items` are the items as Datums, with an id that follows from theirs.

    Items are copied at every depth, so that what a module writes into a batch does not stay in the
    dataset.

    >>> default_collate([{"id": "a"}, {"id": "b"}]).items[1].id
    'b'
    """
    data = [as_datum(item, index) for index, item in enumerate(items)]
    # What was made of a mapping or a value is no item of the dataset: but its payload is, in depth.
    rest = [n for n, each in enumerate(data) if each is items[n] or not is_flat(each.metadata)]
    held = copied([data[n] if data[n] is items[n] else data[n].metadata for n in rest])
    for index, own in zip(rest, held, strict=True):
        if isinstance(own, Datum):
            data[index] = own
        else:
            data[index].metadata = own
    return Datum(items=data, id=digest([datum.id for datum in data]))


class DataLoader(Generic[T]):
    """Batches of a dataset; each `iter()` is one pass.

    The order of a shuffled pass follows from the seed and the epoch alone, in every process. A
    Trainer sets the epoch with `set_epoch`; without it, the n-th pass has the order of epoch n - 1.

    Ids are the items' own, or digests of their content. No two items of a split may share an id of
    their own; of items of equal content, the second in a pass over val or test gets the first's id
    with `-2` behind it, and so on.

    Args:
        dataset: A Dataset or any sequence; or an IterableDataset, which is never held in memory.
        batch_size: Items in a batch; the last one may be smaller.
        shuffle: Another order every epoch.
        seed: Of the shuffle; None takes what `set_epoch` passes, which is the run's.
        drop_last: Leaves out a last batch that is not full.
        collate_fn: Makes a batch of a list of items; the default is `default_collate`.
        sampler: The indices of a pass, in their order. If it has `set_epoch`, that is called with
            the epoch's number, and so is the dataset's.

    Raises:
        UsageError: arguments that cannot be, or cannot be together.

    >>> loader = DataLoader(["a", "b", "c"], batch_size=2)
    >>> len(loader), [[item.metadata["value"] for item in batch.items] for batch in loader]
    (2, [['a', 'b'], ['c']])
    """

    def __init__(
        self,
        dataset: Indexable[T] | Iterable[T],
        batch_size: int = 1,
        shuffle: bool = False,
        *,
        seed: int | None = None,
        drop_last: bool = False,
        collate_fn: Callable[[list[T]], Any] | None = None,
        sampler: Iterable[int] | None = None,
    ) -> None:
        self._indexable = is_indexable(dataset)
        _check_dataset(dataset, indexable=self._indexable)
        _check_order(shuffle=shuffle, sampler=sampler, indexable=self._indexable)
        if not isinstance(batch_size, int) or batch_size < 1:
            raise UsageError(
                f"batch_size={batch_size!r}: a batch has at least one item",
                hint="pass a whole number from 1 up",
            )
        self.dataset, self.batch_size, self.drop_last = dataset, batch_size, drop_last
        self.shuffle, self.seed, self.sampler = shuffle, seed, sampler
        self.collate_fn: Callable[[list[T]], Any] = collate_fn or default_collate
        self.epoch, self._run_seed, self._is_epoch_set = 0, 0, False

    @property
    def rows(self) -> list[T] | tuple[T, ...] | None:
        """The dataset's items, where they are in memory and each becomes one item of a batch.

        None where a `collate_fn` or a sampler of the user's may make something else of them.
        """
        held = getattr(self.dataset, "items", self.dataset)
        plain = self.collate_fn is default_collate and self.sampler is None
        return held if plain and isinstance(held, list | tuple) else None

    def set_epoch(self, epoch: int, seed: int | None = None) -> None:
        """Sets the order of the passes that start from now on; until then, epoch 0 and seed 0.

        The seed is the run's: the loader's own wins over it, and None leaves it as it was.
        """
        self.epoch, self._is_epoch_set = epoch, True
        if seed is not None:
            self._run_seed = seed
        for part in (self.sampler, self.dataset):
            if callable(listener := getattr(part, "set_epoch", None)):
                listener(epoch)

    def __iter__(self) -> Iterator[Any]:
        # The order is fixed here and not at the first batch: set_epoch may come in between.
        batches = self._batches(self._pass())
        if self.collate_fn is default_collate:
            batches = FreshBatches(batches)
        if not self._is_epoch_set:
            self.epoch += 1
        return batches

    def __len__(self) -> int:
        """The number of batches.

        Raises:
            TypeError: the dataset, or the sampler, does not know its length.
        """
        source = self.dataset if self.sampler is None else self.sampler
        if not isinstance(source, Sized):
            raise TypeError(f"a DataLoader over a {type(source).__name__} has no length")
        full, rest = divmod(len(source), self.batch_size)
        return full if self.drop_last or not rest else full + 1

    def _pass(self) -> Iterator[T]:
        if not self._indexable:
            return iter(cast(Iterable[T], self.dataset))
        dataset = cast(Indexable[T], self.dataset)
        order = range(len(dataset)) if self.sampler is None else self.sampler
        if self.shuffle:
            seed = self._run_seed if self.seed is None else self.seed
            order = permutation(len(dataset), f"shuffle {seed} epoch {self.epoch}")
        return (dataset[index] for index in order)

    def _batches(self, items: Iterator[T]) -> Iterator[Any]:
        while batch := list(islice(items, self.batch_size)):
            if len(batch) == self.batch_size or not self.drop_last:
                yield self.collate_fn(batch)


def _check_dataset(dataset: object, *, indexable: bool) -> None:
    if isinstance(dataset, (str, bytes)):
        raise UsageError(
            f"{dataset!r} is no dataset",
            hint="read the file first: ListDataset.from_jsonl(path) or StreamingDataset(path)",
        )
    if isinstance(dataset, Iterator):
        raise UsageError(
            f"a {type(dataset).__name__} can be walked through only once, and epochs are many",
            hint="pass a list of its items, or an IterableDataset that starts again",
        )
    if not indexable and (hasattr(dataset, "__getitem__") or not isinstance(dataset, Iterable)):
        raise UsageError(
            f"{type(dataset).__name__} is no dataset: it has no items by index",
            hint="pass a Dataset, a list or an IterableDataset",
        )


def _check_order(*, shuffle: bool, sampler: Iterable[int] | None, indexable: bool) -> None:
    if shuffle and sampler is not None:
        raise UsageError("shuffle and sampler both choose the order", hint="pass one of the two")
    if not indexable and (shuffle or sampler is not None):
        raise UsageError(
            f"{'shuffle' if shuffle else 'sampler'} needs items by index; an iterable has none",
            hint="shuffle the file once, or read it into memory with ListDataset.from_jsonl(path)",
        )
    if isinstance(sampler, Iterator):
        raise UsageError(
            f"sampler is a {type(sampler).__name__}, which gives its indices only once",
            hint="pass a list of indices, or an object whose __iter__ starts again",
        )


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
        lengths: Numbers of items that add up to the dataset's, or fractions that add up to 1. A
            fraction's share is off by less than one item: in a tiny dataset it may be none.
        seed: Of the random order.

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
    """Splits a dataset at random with the same proportion of every class in each split.

    A split's share of a class is off by less than one item; classes that are too small for their
    share take turns, so that the splits as a whole keep their sizes.

    Args:
        dataset: A Dataset or a sequence.
        fractions: The splits' shares; they add up to 1.
        key: The name of the field with an item's class, or a function from item to class.
        seed: Of the random order.

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
    split_of: dict[int, int] = {}
    sizes = _apportion(map(len, classes.values()), shares)
    for members, class_sizes in zip(classes.values(), sizes, strict=True):
        splits = (split for split, size in enumerate(class_sizes) for _ in range(size))
        split_of |= zip(members, splits, strict=True)
    # In the order of the permutation: a split must not be sorted by class.
    return [
        Subset(dataset, [index for index in order if split_of[index] == split])
        for split in range(len(shares))
    ]


def _fractions(fractions: Sequence[float], count: int) -> list[Fraction]:
    # Stated as what is valid, so that nan is refused too.
    if not (all(0 <= share <= 1 for share in fractions) and abs(sum(fractions) - 1) <= 1e-6):
        raise UsageError(
            f"{list(fractions)} cannot split a dataset of {count} items",
            hint="give fractions that add up to 1; random_split also takes numbers of items that "
            f"add up to {count}",
        )
    # 0.1 is no binary number: as the decimal that was meant, a tenth of 30 items is exactly 3.
    exact = [Fraction(share).limit_denominator(10**6) for share in fractions]
    return [share / sum(exact) for share in exact]


def _apportion(counts: Iterable[int], shares: Sequence[Fraction]) -> Iterator[list[int]]:
    """For each count its parts: each part is its share, rounded down or up.

    The items left over go to the splits that are furthest behind their share of everything so far:
    a hundred classes of one item must not all go to the largest split.
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


class DataModule:
    """The data of an experiment in one place; override the splits that it has.

    The trainer calls `prepare_data`, `setup`, the loaders it needs and, in any case, `teardown`,
    in this order. None in place of a loader: there is no such split.

    >>> class Tickets(DataModule):
    ...     def setup(self, stage: str) -> None:
    ...         self.items = ["refund", "login"]
    ...     def train_dataloader(self) -> Iterable[Any]:
    ...         return DataLoader(self.items, batch_size=2, shuffle=True)
    >>> tickets = Tickets()
    >>> tickets.setup("fit")
    >>> len(tickets.train_dataloader()), tickets.val_dataloader()
    (1, None)
    """

    def prepare_data(self) -> None:
        """Brings the data to this machine: downloads, converts. Keeps nothing on `self`."""

    def setup(self, stage: str) -> None:
        """Makes the datasets; the stage is "fit", "validate" or "test"."""

    def train_dataloader(self) -> Iterable[Any] | None:
        """The batches to learn from."""
        return None

    def val_dataloader(self) -> Iterable[Any] | None:
        """The batches that decide whether an epoch is kept."""
        return None

    def test_dataloader(self) -> Iterable[Any] | None:
        """The batches that are scored once, at the end."""
        return None

    def teardown(self, stage: str) -> None:
        """Cleans up after `setup`, also when the stage failed."""
