"""Ids of a split's items: each names one item, or an item's results would be another's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from autopilot.core.types import Datum, digest
from autopilot.errors import DataError

_HINT = "give each item an id of its own, or leave the id out: the content names an item then"


def check_ids(loader: Any, split: str) -> None:
    """Looks for items that share an id of their own, where the items are in memory.

    Reads the lists of a loader's dataset and of a list of batches; consumes nothing. Items without
    an id are named by their content: those may occur twice.

    Raises:
        DataError: two items share one; it names the id and the rows, counted from 0.
    """
    # A DataLoader says what its items are; other loaders may make other items of their rows.
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
        self._seen: Counter[str] = Counter()

    def distinct(self, batch: Datum) -> Datum:
        """The batch, with ids that no item before it has.

        Raises:
            DataError: an item's own id was there before.
        """
        if self.split == "train":
            return batch
        items = [self._distinct(item) for item in batch.leaves()]
        if all(new is old for new, old in zip(items, batch.leaves(), strict=True)):
            return batch
        # A copy: the dataset may hold the items themselves.
        return replace(batch, items=items) if batch.items else items[0]

    def _distinct(self, item: Datum) -> Datum:
        self._seen[item.id] += 1
        count = self._seen[item.id]
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
