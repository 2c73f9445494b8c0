"""Objects that never change, kept once they are read, for processes that are forked later.

A supervising process reads what was added since its last look; each of its children has it then,
however long the experiment is. What may change, as a repository's place and configuration, is kept
with a stamp, and read anew where that differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Seen(dict[str, T]):
    """Object ids to what was made of the objects; it grows only in the body of `looking`."""

    def get_or(self, oid: str, make: Callable[[], T]) -> T:
        """The value that was made of an object, made now if it is new."""
        found = self.get(oid)
        return self.keep(oid, make()) if found is None else found

    def keep(self, oid: str, value: T) -> T:
        """Keeps a value in the body of `looking`, in the place of an earlier one; returns it."""
        if _looks:
            self[oid] = value
        return value


_looks: list[bool] = []


@contextmanager
def looking() -> Iterator[None]:
    """Keeps for good the objects that the body reads."""
    _looks.append(True)
    try:
        yield
    finally:
        _looks.pop()
