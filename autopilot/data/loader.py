"""The DataLoader: a dataset in batches, in an order that a resumed run finds again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import replace
from typing import Any, Generic, TypeVar, cast

from autopilot.core.types import Datum, as_datum, digest
from autopilot.data.dataset import Indexable, is_indexable
from autopilot.data.split import permutation
from autopilot.errors import UsageError

T = TypeVar("T")


def default_collate(items: Sequence[object]) -> Datum:
    """A batch: a Datum whose `items` are the items as Datums, with an id that follows from theirs.

    An item that is a Datum is copied, so that what a module writes into a batch does not stay in
    the dataset.

    >>> default_collate([{"id": "a"}, {"id": "b"}]).items[1].id
    'b'
    """
    data = [as_datum(item, index) for index, item in enumerate(items)]
    copies = [replace(datum, metadata=dict(datum.metadata)) for datum in data]
    return Datum(items=copies, id=digest([datum.id for datum in copies]))


class DataLoader(Generic[T]):
    """Batches of a dataset; each `iter()` is one pass.

    The order of a shuffled pass follows from the seed and the epoch alone: the same epoch has the
    same order, in every process. `set_epoch` says which epoch it is; a Trainer calls it. Without
    it, as in a loop by hand, the passes count: the n-th has the order of epoch n - 1.

    Ids are the items' own, or digests of their content. No two items of a split may have the same
    id of their own. Of items of equal content, the second in a pass over val or test gets the id
    of the first with `-2` behind it, and so on.

    Args:
        dataset: A Dataset or any sequence; or an IterableDataset, which is never held in memory.
        batch_size: Items in a batch; the last one may be smaller.
        shuffle: Another order every epoch.
        seed: Of the shuffle; None takes what `set_epoch` passes, which is the run's.
        drop_last: Leaves out a last batch that is not full.
        collate_fn: Makes a batch of a list of items; the default is `default_collate`.
        sampler: The indices of a pass, in their order. One that has `set_epoch` is told the epoch,
            as is a dataset that has it.

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
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.collate_fn: Callable[[list[T]], Any] = collate_fn or default_collate
        self.sampler = sampler
        self.epoch = 0
        self._run_seed = 0
        self._is_told = False

    @property
    def rows(self) -> list[T] | tuple[T, ...] | None:
        """The dataset's items, where they are in memory and each becomes one item of a batch.

        None where a `collate_fn` or a sampler of the user's may make something else of them.
        """
        held = getattr(self.dataset, "items", self.dataset)
        plain = self.collate_fn is default_collate and self.sampler is None
        return held if plain and isinstance(held, list | tuple) else None

    def set_epoch(self, epoch: int, seed: int | None = None) -> None:
        """Chooses the order of the passes that start from now on; before, it is epoch 0, seed 0.

        Args:
            epoch: The epoch's number.
            seed: The run's; the loader's own wins over it, and None leaves it as it was.
        """
        self.epoch, self._is_told = epoch, True
        if seed is not None:
            self._run_seed = seed
        for part in (self.sampler, self.dataset):
            listener = getattr(part, "set_epoch", None)
            if callable(listener):
                listener(epoch)

    def __iter__(self) -> Iterator[Any]:
        # The order is settled here and not at the first batch: set_epoch may come in between.
        batches = self._batches(self._pass())
        if not self._is_told:
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
        order: Iterable[int] = range(len(dataset))
        if self.sampler is not None:
            order = self.sampler
        elif self.shuffle:
            seed = self._run_seed if self.seed is None else self.seed
            order = permutation(len(dataset), f"shuffle {seed} epoch {self.epoch}")
        return (dataset[index] for index in order)

    def _batches(self, items: Iterator[T]) -> Iterator[Any]:
        batch: list[T] = []
        for item in items:
            batch.append(item)
            if len(batch) == self.batch_size:
                yield self.collate_fn(batch)
                batch = []
        if batch and not self.drop_last:
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
