"""Text that every border can carry: git, UTF-8, a program's arguments, readers of strict JSON.

Models and users' code cut emoji in half, and write NUL. What a border cannot carry is replaced by
U+FFFD, or, in JSON, written as the escape that it has there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar

V = TypeVar("V")

REPLACEMENT = "\ufffd"
_HALF = re.compile("[\ud800-\udfff]")
# JSON allows them as they are; terminals take some for commands, editors others for line breaks.
_CONTROL = re.compile("[\x7f-\x9f\u2028\u2029]")


def whole(text: str) -> str:
    """A text that UTF-8 can store: halves of one surrogate pair are joined, others replaced.

    >>> whole("\\ud83d\\ude00 \\ud83d") == "\\U0001f600 \\ufffd"
    True
    """
    if _is_storable(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def clean(value: V) -> V:
    """A text, or what JSON carries, as git messages, arguments and prompts take it: `whole`, and
    without NUL.
    """
    return _cleaned(value)  # type: ignore[no-any-return]  # as it came in


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return whole(value).replace("\0", REPLACEMENT)
    if isinstance(value, Mapping):
        return {_cleaned(key): _cleaned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_cleaned(item) for item in value)
    return value


def as_json(
    value: Any, *, indent: int | None = None, compact: bool = False, allow_nan: bool = False
) -> str:
    """JSON that UTF-8 can store and a terminal can show: odd characters are escaped, so they last.

    Raises:
        ValueError: NaN or infinity, of which JSON has none, and which are not allowed.
        TypeError: something else that JSON does not have.

    >>> as_json({"é": "\\ud83d"})
    '{"é": "\\\\ud83d"}'
    """
    separators = (",", ":") if compact else None
    text = json.dumps(
        value, ensure_ascii=False, allow_nan=allow_nan, indent=indent, separators=separators
    )
    if text.isascii() and "\x7f" not in text:
        return text
    text = _CONTROL.sub(_escape, text)
    return text if _is_storable(text) else _HALF.sub(_escape, text)


def finite(value: Any) -> Any:
    """What JSON carries, with NaN and infinity as words: strict JSON has no such numbers."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _is_storable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
