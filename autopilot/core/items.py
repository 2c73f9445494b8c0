"""The items of a split: their ids, which must be distinct, and copies of their payloads."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

from autopilot.core.types import Datum, digest
from autopilot.errors import DataError

V = TypeVar("V")

_FIXED = frozenset({str, int, float, bool, type(None), bytes, complex})
# Of a Datum without attributes of the user's own, only these fields hold what could be changed.
_HOLDERS = ("metrics", "metadata", "items")
_PLAIN = len(fields(Datum))
_EMPTY = frozenset({dict, list})
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


def _copied(value: Any, known: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in _FIXED:
        return value
    twin = known.get(id(value))
    if twin is not None:
        return twin
    if kind is dict:
        known[id(value)] = twin = value.copy()
        # Most are flat: looked at by C code alone.
        if not _FIXED.issuperset(map(type, value.values())):
            for key, item in value.items():
                if type(item) not in _FIXED:
                    twin[key] = _copied(item, known)
        return twin
    if kind is list:
        known[id(value)] = twin = value.copy()
        if not _FIXED.issuperset(map(type, value)):
            twin[:] = [item if type(item) in _FIXED else _copied(item, known) for item in value]
        return twin
    if kind is tuple:
        return tuple([_copied(item, known) for item in value])
    if isinstance(value, Datum):
        known[id(value)] = twin = object.__new__(kind)
        held = twin.__dict__
        held.update(vars(value))
        for name in _HOLDERS if kind is Datum and len(held) == _PLAIN else list(held):
            part = held[name]
            if type(part) in _FIXED or name == "grad_fn":
                continue
            # Most items have neither metrics nor items of their own: no call for those. Only of a
            # dict or list it is asked whether it is empty: an array has no answer to that.
            is_empty = type(part) in _EMPTY and not part
            held[name] = type(part)() if is_empty else _copied(part, known)
        return twin
    try:
        twin = copy.deepcopy(value)
    except Exception:  # noqa: BLE001  # a lock, a client, an open file: the user's own objects
        twin = value
    known[id(value)] = twin
    return twin
