"""Who met whom: visitors of a building, by when they came and went."""

from __future__ import annotations

from bisect import bisect_right

Visit = tuple[int, int]
"""Minute of coming, and of going, in which the visitor is no longer there."""


def contacts(visits: list[Visit]) -> int:
    """How many pairs of visitors were there at the same time.

    >>> contacts([(0, 60), (30, 90), (60, 120)])
    2
    """
    goings = sorted(went for _, went in visits)
    comings = sorted(came for came, _ in visits)
    # Who came meets all who came before and have not gone.
    return sum(number - bisect_right(goings, came) for number, came in enumerate(comings))
