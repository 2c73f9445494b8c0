"""A metric's value and change as text: the one home of digits and directions."""

from __future__ import annotations

import math
from itertools import pairwise

from autopilot.core.direction import direction_words

# Beyond that, two numbers differ by the noise of binary fractions only.
_MORE_DIGITS = 12
_NOISE = 1e-12
_SMALL = 0.1
# Below, three decimals would leave one digit, and three digits that count are shown.
_TINY = 0.01


def figure(value: float | None) -> str:
    """A metric's value: three decimals, none from 10,000 on, three digits that count below 0.01.

    >>> figure(0.5833), figure(0.00454), figure(1e-07), figure(12345.6), figure(None)
    ('0.583', '0.00454', '1e-07', '12346', '-')
    """
    return _text(value, 0)


def figures(*values: float | None) -> tuple[str, ...]:
    """Values that are read side by side, with as many digits as it takes to tell them apart.

    >>> figures(0.00012, 0.00013), figures(1234567.891, 1234567.892, None)
    (('0.00012', '0.00013'), ('1234567.891', '1234567.892', '-'))
    >>> figures(0.05941, 0.0583), figures(0.5833, 0.5917)
    (('0.0594', '0.0583'), ('0.583', '0.592'))
    """
    distinct = sorted({v for v in values if v is not None and math.isfinite(v)})
    steps = [after - before for before, after in pairwise(distinct)]
    # Among small numbers, three decimals would leave one digit of the difference.
    small = distinct and _TINY <= max(map(abs, distinct)) < _SMALL
    least = min(max(-math.floor(math.log10(min(steps))) - 2, 0), 4) if small and steps else 0
    for more in range(least, _MORE_DIGITS):
        if len({_text(value, more) for value in distinct}) == len(distinct):
            return tuple(_text(value, more) for value in values)
    return tuple(map(figure, values))


def apart(first: float, second: float) -> tuple[str, str]:
    """Two numbers as text, with three decimals or as many as it takes to tell them apart.

    >>> apart(0.6, 0.7), apart(0.69996, 0.7)
    (('0.600', '0.700'), ('0.69996', '0.70000'))
    """
    one, other = figures(first, second)
    return one, other


def signed(change: float | None, of: float | None = None) -> str:
    """A change with its sign; "" where there is none to tell.

    Args:
        change: It; what is only the noise of binary fractions is no change.
        of: The value that changed, which says how large noise is; 1 unless given.

    >>> signed(0.134), signed(-0.00001), signed(None), signed(0.7 - 0.5 - 0.2)
    ('+0.134', '-1e-05', '', '+0.000')
    >>> signed(-0.00116, of=0.0594)
    '-0.00116'
    """
    if change is None or math.isnan(change):
        return ""
    # Of a value near zero, a change is as small as the value.
    scale = 1.0 if of is None else max(abs(of), abs(change))
    shown = 0.0 if abs(change) < _NOISE * scale else change
    small = of is not None and abs(of) < _SMALL and 0 < abs(shown) < _SMALL / 10
    text = f"{shown:.3g}" if small else _text(shown, 0)
    return text if shown < 0 else f"+{text}"


def lower_note(mode: str) -> str:
    """What is put behind a metric's name or values where fewer is better, and else nothing.

    >>> lower_note("min"), lower_note("max")
    (' (lower is better)', '')
    """
    return f" ({direction_words(mode)})" if mode == "min" else ""


def _text(value: float | None, more: int) -> str:
    if value is None:
        return "-"
    size = abs(value)
    if not math.isfinite(value):
        return str(value)
    if not value:
        return "0.000"
    if size < _TINY or size >= 1e15:
        return f"{value:.{3 + more}g}"
    return f"{value:.{(0 if size >= 10_000 else 3) + more}f}"
