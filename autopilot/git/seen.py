"""What was read once of objects that never change, for processes that are forked later.

A supervising process reads what was added since its last look; each of its children has it then,
however long the experiment is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Seen(dict[str, T]):
    """Object ids to what was made of the objects; it grows only in the body of `looking`."""

    def get_or(self, oid: str, make: Callable[[], T]) -> T:
        """What was made of an object, made now if it is new."""
        found = self.get(oid)
        if found is None:
            found = make()
            if _looks:
                self[oid] = found
        return found


_looks: list[bool] = []


@contextmanager
def looking() -> Iterator[None]:
    """What the body reads is kept for good."""
    _looks.append(True)
    try:
        yield
    finally:
        _looks.pop()
