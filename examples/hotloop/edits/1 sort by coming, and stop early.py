"""Who met whom: visitors of a building, by when they came and went."""

from __future__ import annotations

Visit = tuple[int, int]
"""Minute of coming, and of going, in which the visitor is no longer there."""


def contacts(visits: list[Visit]) -> int:
    """How many pairs of visitors were there at the same time.

    >>> contacts([(0, 60), (30, 90), (60, 120)])
    2
    """
    count = 0
    visits = sorted(visits)
    for number, (_, went) in enumerate(visits):
        for other_came, _ in visits[number + 1 :]:
            if other_came >= went:
                break
            count += 1
    return count
