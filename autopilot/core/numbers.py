"""Numbers at the border: what user code calls a number becomes a float here, once."""

from __future__ import annotations

import math
import numbers

from autopilot.errors import UsageError


def number(value: object) -> float:
    """A number of the user's as a float: numpy scalars, Decimal, Fraction, bool, one-item tensors.

    NaN and infinity pass: whether they may stand somewhere is decided there.

    Raises:
        ValueError: it is none; the message says what it is, as in "None, not a number".

    >>> from decimal import Decimal
    >>> number(Decimal("0.5")), number(True)
    (0.5, 1.0)
    >>> number("0.5")
    Traceback (most recent call last):
    ValueError: the text '0.5', not a number
    """
    if type(value) is float:
        return value
    if isinstance(value, str | bytes | bytearray):
        raise ValueError(f"the text {value[:40]!r}, not a number")
    convert = getattr(value, "__float__", None)
    # A type that is given instead of its instance has the method too.
    is_complex = isinstance(value, numbers.Complex) and not isinstance(value, numbers.Real)
    if convert is None or isinstance(value, type) or is_complex:
        what = "None" if value is None else f"a {type(value).__name__}"
        raise ValueError(f"{what}, not a number")
    try:
        return float(convert())
    except OverflowError:
        return math.copysign(math.inf, 1 if value > 0 else -1)  # type: ignore[operator]  # an int
    except (TypeError, ValueError) as error:
        raise ValueError(f"a {type(value).__name__} that is not one number: {error}") from error


def bound(value: object, what: str) -> float:
    """A number of a setting, such as a limit, that values are compared with.

    Raises:
        UsageError: it is none, or NaN: nothing is above or below it.

    >>> from fractions import Fraction
    >>> bound(Fraction(1, 2), "a gate's limit")
    0.5
    """
    try:
        found = number(value)
    except ValueError as error:
        raise UsageError(f"{what} is {error}", hint="give a number") from error
    if math.isnan(found):
        raise UsageError(f"{what} is NaN", hint="give a number")
    return found


def truth(value: object) -> bool | None:
    """A `success` of the user's: a bool, a numpy bool, or None where nobody said.

    Raises:
        ValueError: it is something else, such as a score or a word.

    >>> truth(None), truth(True)
    (None, True)
    """
    if value is None or isinstance(value, bool):
        return value
    if type(value).__name__ in ("bool_", "bool") and type(value).__module__ == "numpy":
        return bool(value)
    raise ValueError(f"{value!r:.60}, neither True, False nor None")
