"""A metric over epochs, drawn as a line in the terminal: braille dots, two by four a character."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeGuard

# The bit of each dot of a braille character, by row from the top and column.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_KEPT, _BEST, _LINE = "●", "─", "⠒"


@dataclass(frozen=True, slots=True)
class Point:
    """An epoch: its number, metric (None, NaN, infinity: a gap), the best so far, if kept."""

    epoch: int
    value: float | None
    best: float | None = None
    kept: bool = False


def chart(points: Sequence[Point], name: str, *, width: int = 72, height: int = 10) -> list[str]:
    """A chart's lines: the metric as dots, the best so far as a line, kept epochs as circles.

    Args:
        points: One an epoch, oldest first; more than there are columns share them.
        name: The metric.
        width: Columns of the whole chart.
        height: Lines of the drawing; axis, labels and legend come below it.

    >>> print(chart([Point(0, 0.5, 0.5, True)], "f1", width=20, height=1)[0])
    0.500 ┤●
    """
    seen = [v for p in points for v in (p.value, p.best) if _finite(v)]
    if not seen:
        return [f"{name} has no finite value yet"]
    low, high = min(seen), max(seen)
    marks = {0: high, height // 2: (low + high) / 2, height - 1: low} if high > low else {}
    labels = {r: _label(v, high - low) for r, v in (marks or {height // 2: low}).items()}
    margin = max(len(label) for label in labels.values())
    columns = max(width - margin - 2, 10)
    stretch = (2 * columns - 1) / max(len(points) - 1, 1)

    def x(index: int) -> int:
        return round(index * stretch)

    def y(value: float) -> int:
        """Dots from the top."""
        share = (high - value) / (high - low) if high > low else 0.5
        return round(share * (4 * height - 1))

    dots = [[0] * columns for _ in range(height)]
    cells = [[" "] * columns for _ in range(height)]
    for i, point in enumerate(points):
        if _finite(point.value):
            before = points[i - 1].value if i else None
            start = (x(i - 1), y(before)) if _finite(before) else (x(i), y(point.value))
            for across, down in _line(start, (x(i), y(point.value))):
                dots[down // 4][across // 2] |= _DOTS[down % 4][across % 2]
        if _finite(point.best):
            until = x(i + 1) // 2 if i + 1 < len(points) else x(i) // 2 + 1
            for column in range(x(i) // 2, until):
                cells[y(point.best) // 4][column] = _BEST
    for row in range(height):
        drawn = zip(dots[row], cells[row], strict=True)
        cells[row] = [chr(0x2800 + bits) if bits else cell for bits, cell in drawn]
    for i, point in enumerate(points):
        if point.kept and _finite(point.value):
            cells[y(point.value) // 4][x(i) // 2] = _KEPT
    lines = [
        f"{labels.get(row, ''):>{margin}} {'┤' if row in labels else '│'}{''.join(cells[row])}"
        for row in range(height)
    ]
    first, last = f"epoch {points[0].epoch}", str(points[-1].epoch) if len(points) > 1 else ""
    legend = f"{_LINE * 2} {name}   {_BEST * 2} best so far   {_KEPT} kept"
    below = (f"└{'─' * columns}", f" {first}{last:>{columns - len(first)}}", f" {legend}")
    return [line.rstrip() for line in (*lines, *(f"{'':{margin}} {line}" for line in below))]


def _line(start: tuple[int, int], end: tuple[int, int]) -> Iterator[tuple[int, int]]:
    across, down = end[0] - start[0], end[1] - start[1]
    steps = max(abs(across), abs(down), 1)
    for step in range(steps + 1):
        yield start[0] + round(across * step / steps), start[1] + round(down * step / steps)


def _label(value: float, span: float) -> str:
    """Enough decimals to tell the labels of an axis apart."""
    if abs(value) >= 1e10 or 0 < span < 1e-9:
        return f"{value:.3e}"
    return f"{value:.{min(max(2 - math.floor(math.log10(span or 0.1)), 0), 12)}f}"


def _finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
