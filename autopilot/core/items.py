"""Items of splits: their distinct ids, copies of their payloads, and leaks between splits.

An item that stands in more than one split makes a score say less than it seems to.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from autopilot.core.types import Datum, as_datum, bare_copy, digest
from autopilot.errors import DataError, EmptySplitError, UsageError

V = TypeVar("V")
Batch = tuple[int, Datum, bool]
"""Number, items, and whether it is the last one."""

_FIXED = frozenset({str, int, float, bool, type(None), bytes, complex})
_PLAIN = len(fields(Datum))
_SHOWN = 6
_LIMIT = 100_000
_HINT = "give each item an id of its own, or leave the id out: the content names an item then"


def check_ids(loader: Any, split: str) -> None:
    """Looks for items that share an id of their own, where the items are in memory.

    Reads the lists of a loader's dataset and of a list of batches; consumes nothing. Items without
    an id are named by their content: those may occur twice.

    Raises:
        DataError: two items share one; it names the id and the rows, counted from 0.
    """
    # Only a DataLoader has `rows`: other loaders may make other items of their dataset's rows.
    rows = loader.rows if hasattr(loader, "rows") else loader
    if not isinstance(rows, list | tuple):
        return
    seen: dict[str, int] = {}
    for row, item in enumerate(_items(rows) if rows is loader else rows):
        own = _own_id(item)
        if own is not None and seen.setdefault(own, row) != row:
            raise DataError(
                f"items {seen[own]} and {row} of the {split} split share the id {own!r}", hint=_HINT
            )


class SplitIds:
    """The ids of one pass over a split, as its batches come.

    Items of equal content, which have no id of their own, get the ids `x`, `x-2`, `x-3`: since they
    are equal, it does not matter which of them is which, so any order of the batches will do.
    The train split is let through: its items are not compared, and it may be endless.
    """

    def __init__(self, split: str) -> None:
        self.split = split
        self._seen: dict[str, int] = {}

    def distinct(self, batch: Datum) -> Datum:
        """The batch, with ids that no item before it has.

        Raises:
            DataError: an item's own id was there before.
        """
        if self.split == "train":
            return batch
        once = dict.fromkeys([item.id for item in batch.leaves()], 1)
        if len(once) == len(batch) and self._seen.keys().isdisjoint(once):
            self._seen |= once
            return batch
        items = [self._distinct(item) for item in batch.leaves()]
        # A copy: the dataset may hold the items themselves.
        return replace(batch, items=items) if batch.items else items[0]

    def _distinct(self, item: Datum) -> Datum:
        count = self._seen[item.id] = self._seen.get(item.id, 0) + 1
        if count == 1:
            return item
        if item.id not in (digest(item.metadata), digest(item.metadata.get("value"))):
            raise DataError(
                f"{count} items of the {self.split} split share the id {item.id!r}", hint=_HINT
            )
        return replace(item, id=f"{item.id}-{count}")


def _items(batches: Sequence[Any]) -> Iterator[Any]:
    for batch in batches:
        if isinstance(batch, Datum):
            yield from batch.leaves()
        elif isinstance(batch, list | tuple):
            yield from batch
        else:
            yield batch


def _own_id(item: object) -> str | None:
    if isinstance(item, Datum):
        return item.id
    if isinstance(item, Mapping):
        own = item.get("id")
    else:
        own = getattr(item, "id", None) if hasattr(item, "model_dump") else None
    return None if own is None else str(own)


def copied(value: V) -> V:
    """A copy at every depth, for items as JSON has them many times faster than `copy.deepcopy`.

    What stands in several places is one copy in all of them. What cannot be copied, such as an
    open file, a lock or a client, stays itself, and so does the graph of a Datum.

    >>> item = Datum(metadata={"tags": ["a"]}, id="t7")
    >>> copied(item).metadata["tags"].append("b")
    >>> item.metadata, copied(item) == item
    ({'tags': ['a']}, True)
    """
    try:
        return _copied(value, {})  # type: ignore[no-any-return]  # as it came in
    except RecursionError:
        return value


def is_flat(value: Mapping[str, Any]) -> bool:
    """Whether a plain copy is one at every depth, as of most payloads: looked at in C alone."""
    return _FIXED.issuperset(map(type, value.values()))


def _copied(value: Any, known: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in _FIXED:
        return value
    key = id(value)
    twin = known.get(key)
    if twin is not None:
        return twin
    if kind is dict:
        known[key] = twin = value.copy()
        if not _FIXED.issuperset(map(type, value.values())):  # as `is_flat`, without a call
            for name, item in value.items():
                if type(item) not in _FIXED:
                    twin[name] = _copied(item, known)
        return twin
    if kind is list:
        known[key] = twin = value.copy()
        if not _FIXED.issuperset(map(type, value)):
            twin[:] = [item if type(item) in _FIXED else _copied(item, known) for item in value]
        return twin
    if kind is tuple:
        return tuple([_copied(item, known) for item in value])
    if kind is Datum and len(value.__dict__) == _PLAIN:
        # Without a `__dict__`, which the copy may never need. Most items have neither metrics nor
        # items of their own: no call for those. Only a dict or list is asked whether it is empty.
        known[key] = twin = bare_copy(value)
        part: Any = value.metrics
        twin.metrics = {} if type(part) is dict and not part else _copied(part, known)
        twin.metadata = _copied(value.metadata, known)
        part = value.items
        twin.items = [] if type(part) is list and not part else _copied(part, known)
        return twin
    if isinstance(value, Datum):
        known[key] = twin = object.__new__(kind)
        for name, part in value.__dict__.items():
            own = part if name == "grad_fn" else _copied(part, known)
            object.__setattr__(twin, name, own)
        return twin
    try:
        twin = copy.deepcopy(value)
    except Exception:  # noqa: BLE001  # a lock, a client, an open file: the user's own objects
        twin = value
    known[key] = twin
    return twin


class FreshBatches(Iterator[Datum]):
    """Batches that nothing else holds, at any depth: a loop needs no copies of them."""

    def __init__(self, made: Iterator[Datum]) -> None:
        self._made = made

    def __next__(self) -> Datum:
        return next(self._made)


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One place of an item."""

    split: str
    index: int
    id: str

    def __str__(self) -> str:
        return f"{self.split}[{self.index}] (id {self.id})"


@dataclass(frozen=True, slots=True)
class Leak:
    """One content that stands in several splits: a score on it measures memory, not skill.

    >>> Leak((Occurrence("train", 3, "t7"), Occurrence("val", 0, "v1"))).describe()
    'the same content in train and val: train[3] (id t7), val[0] (id v1)'
    """

    places: tuple[Occurrence, ...]

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits, each once."""
        return tuple(dict.fromkeys(place.split for place in self.places))

    def describe(self) -> str:
        """One line that names the splits and the items."""
        shown = ", ".join(" ".join(str(place).split()) for place in self.places[:_SHOWN])
        more = len(self.places) - _SHOWN
        rest = f" and {more} more" if more > 0 else ""
        return f"the same content in {' and '.join(self.splits)}: {shown}{rest}"


def find_leakage(splits: Mapping[str, Iterable[object]]) -> list[Leak]:
    """The contents that stand in more than one split, compared without their ids.

    An item's content is its metadata as a Datum; an item that has none is left out.

    Reads every split once, and twice if there is a leak. Holds no item, only a digest of each:
    120 MB for a million lines of a StreamingDataset. In loaders, the items of batches count.

    Args:
        splits: Name to dataset, such as "train", "val", "test".

    Returns:
        One Leak per content, in the order of their first places.

    Raises:
        UsageError: a split can be walked through only once.

    >>> train = [{"id": "t1", "text": "hello"}, {"id": "t2", "text": "bye"}]
    >>> val = [{"id": "v1", "text": "bye"}]
    >>> [leak.describe() for leak in find_leakage({"train": train, "val": val})]
    ['the same content in train and val: train[1] (id t2), val[0] (id v1)']
    """
    _check_splits(splits)
    # One bit a split: small integers are shared, so an entry costs its digest and its slot.
    owners: dict[bytes, int] = {}
    for bit, name in enumerate(splits):
        for content, _ in _contents(name, splits[name]):
            owners[content] = owners.get(content, 0) | 1 << bit
    return _places(splits, {content for content, bits in owners.items() if bits & (bits - 1)})


def find_duplicates(splits: Mapping[str, Iterable[object]]) -> list[Leak]:
    """The contents that stand more than once in one split: they count more than the others.

    Compared and read as in `find_leakage`.

    >>> twice = [{"id": "t1", "text": "bye"}, {"id": "t2", "text": "bye"}]
    >>> [found.describe() for found in find_duplicates({"train": twice})]
    ['the same content in train: train[0] (id t1), train[1] (id t2)']
    """
    _check_splits(splits)
    found: list[Leak] = []
    for name, items in splits.items():
        once, more = set[bytes](), set[bytes]()
        for content, _ in _contents(name, items):
            (more if content in once else once).add(content)
        found += _places({name: items}, more)
    return found


def _check_splits(splits: Mapping[str, Iterable[object]]) -> None:
    for name, items in splits.items():
        if isinstance(items, Iterator):
            raise UsageError(
                f"split {name!r} can be walked through only once", hint="give a dataset or a list"
            )


def _places(splits: Mapping[str, Iterable[object]], wanted: set[bytes]) -> list[Leak]:
    found: defaultdict[bytes, list[Occurrence]] = defaultdict(list)
    for name, items in splits.items() if wanted else ():
        for content, place in _contents(name, items):
            if content in wanted:
                found[content].append(place)
    return [Leak(tuple(places)) for places in found.values()]


def _contents(split: str, items: Iterable[object]) -> Iterator[tuple[bytes, Occurrence]]:
    data = (datum for index, item in enumerate(items) for datum in as_datum(item, index).leaves())
    for index, datum in enumerate(data):
        content = {name: value for name, value in datum.metadata.items() if name != "id"}
        if content:
            yield bytes.fromhex(digest(content, length=32)), Occurrence(split, index, datum.id)


def leakage_notes(loaders: Mapping[str, Iterable[Any] | None]) -> list[str]:
    """Notes on the splits before a run: leaks, and splits that were not compared.

    Compares lists and the datasets of loaders, up to 100,000 items. A stream is not read.

    Args:
        loaders: Split to its loader, None where there is no such split.
    """
    sized: dict[str, Any] = {}
    streams = []
    for name, loader in loaders.items():
        dataset = getattr(loader, "dataset", loader)
        if isinstance(dataset, Sized) and isinstance(dataset, Iterable):
            sized[name] = dataset
        elif dataset is not None:
            streams.append(name)
    if len(sized) + len(streams) < 2:
        return []
    if sum(len(dataset) for dataset in sized.values()) > _LIMIT:
        return [f"leakage was not looked for: there are over {_LIMIT:,} items (find_leakage does)"]
    notes = []
    if leaks := find_leakage(sized):
        count = "1 item stands" if len(leaks) == 1 else f"{len(leaks)} items stand"
        notes.append(f"leakage: {count} in several splits; {leaks[0].describe()}")
    if streams:
        named = " and ".join(streams)
        notes.append(f"leakage was not looked for in {named}: streams (find_leakage reads them)")
    return notes


def batches(loader: Iterable[Any], split: str, epoch: int, seed: int) -> Iterator[Batch]:
    """Number, batch, and whether it is the last; one batch ahead, for loaders of unknown length.

    Raises:
        EmptySplitError: there is none; an empty split must not look as if it was measured.
        DataError: two items of val or test share an id of their own.
    """
    set_epoch = getattr(loader, "set_epoch", None)
    if set_epoch is not None:
        set_epoch(epoch, seed)
    iterator = iter(loader)
    held = next(iterator, None)
    if held is None:
        raise EmptySplitError(
            f"the {split} split gives no batches in epoch {epoch}",
            hint="a generator gives them once: pass a list, a DataLoader, or what can be iterated "
            "again",
        )
    index, ids, is_fresh = 0, SplitIds(split), isinstance(iterator, FreshBatches)
    while held is not None:
        following = next(iterator, None)
        # An endless dataset or a list: its items are the same in the next epoch.
        batch = as_batch(held) if is_fresh else copied(as_batch(held))
        yield index, ids.distinct(batch), following is None
        held, index = following, index + 1


def as_batch(batch: object) -> Datum:
    """A loader's batch as a Datum: a list becomes its items, anything else a single item."""
    if isinstance(batch, Datum):
        return batch
    several = batch if isinstance(batch, list | tuple) else [batch]
    items = [as_datum(item, index) for index, item in enumerate(several)]
    return Datum(items=items, id=digest([item.id for item in items]))


def singles_of(batch: Datum) -> list[Datum]:
    """The items of a batch, each as a batch of one."""
    if len(batch.items) <= 1:
        return [batch]
    return [Datum(items=[item], metadata=dict(batch.metadata)) for item in batch.items]
