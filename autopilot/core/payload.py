"""Copies of what items hold: a module may do with them what it likes."""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import Any, TypeVar

from autopilot.core.types import Datum

V = TypeVar("V")

_FIXED = frozenset({str, int, float, bool, type(None), bytes, complex})
# Of a Datum without attributes of the user's own, only these fields hold what could be changed.
_HOLDERS = ("metrics", "metadata", "items")
_PLAIN = len(fields(Datum))
_EMPTY = frozenset({dict, list})


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
