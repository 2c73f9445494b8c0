"""Leakage: items that stand in more than one split, so that a score says less than it seems to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any

from autopilot.core.types import as_datum, digest
from autopilot.errors import UsageError

_SHOWN = 6
_LIMIT = 100_000


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One place of an item.

    Args:
        split: The split's name.
        index: Its position there, counted from 0.
        id: The item's id.
    """

    split: str
    index: int
    id: str

    def __str__(self) -> str:
        return f"{self.split}[{self.index}] (id {self.id})"


@dataclass(frozen=True, slots=True)
class Leak:
    """One content that stands in several splits: a score on it measures memory, not skill.

    Args:
        places: Where it stands, the first split first.

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
                f"split {name!r} can be walked through only once",
                hint="give a dataset or a list",
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
        elif loader is not None:
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
