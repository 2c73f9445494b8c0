"""The values that a number or a choice may take, and how they are written on the command line."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from decimal import Decimal

from autopilot.errors import UsageError

Value = bool | int | float | str
Condition = Mapping[str, Value | Sequence[Value]]


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`, both included; whole ones where both ends are ints.

    Args:
        low: The smallest value.
        high: The largest.
        log: Search on a logarithmic scale; the ends are above 0.
        step: Only `low`, `low + step`, ...; not on a logarithmic scale.
        when: Searched only while other keys of its file have these values, or one of them.

    Raises:
        UsageError: no value, or only one, is between the ends.

    >>> Range(16, 4096, log=True).contains(64), Range(0.1, 0.6).contains(0.7)
    (True, False)
    """

    low: float
    high: float
    _: KW_ONLY
    log: bool = False
    step: float | None = None
    when: Condition | None = None

    def __post_init__(self) -> None:
        ends = (self.low, self.high, *(() if self.step is None else (self.step,)))
        if not all(map(_is_number, ends)) or not all(map(math.isfinite, ends)):
            raise UsageError(
                f"{self} has an end that is no number", hint="write two numbers: Range(0.1, 0.6)"
            )
        if self.low >= self.high:
            raise UsageError(
                f"{self} is empty: its low end is not below its high end",
                hint="write the smaller number first",
            )
        if self.log and (self.low <= 0 or self.step is not None):
            why = "has a step" if self.step is not None else f"begins at {self.low}"
            raise UsageError(
                f"{self} is on a logarithmic scale and {why}",
                hint="begin above 0, and leave the step out; or leave log out",
            )
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise UsageError(
                f"{self} has a step of {self.step}", hint="write one above 0 that fits into it"
            )
        if self.step is not None and self.is_int and not isinstance(self.step, int):
            raise UsageError(
                f"{self} has whole numbers, and a step of {self.step}",
                hint="write its ends with a point, or a whole step",
            )

    @property
    def is_int(self) -> bool:
        """Whether it has whole numbers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def last(self) -> float:
        """The largest value; below `high` where that is not a number of steps from `low`."""
        if self.step is None:
            return self.high
        # As decimals: 0.1 + 5 * 0.1 is not 0.6 in binary fractions.
        low, high, step = (Decimal(str(n)) for n in (self.low, self.high, self.step))
        last = low + (high - low) // step * step
        return int(last) if self.is_int else float(last)

    def contains(self, value: object) -> bool:
        """Whether a value is one of it."""
        if not _is_number(value) or not self.low <= value <= self.last:  # type: ignore[operator]
            return False
        if self.is_int and not isinstance(value, int):
            return False
        steps = 0 if self.step is None else (value - self.low) / self.step  # type: ignore[operator]
        return abs(steps - round(steps)) < 1e-8

    def points(self) -> list[float]:
        """All its values.

        Raises:
            UsageError: they cannot be counted.
        """
        if self.step is None and not self.is_int:
            raise UsageError(
                f"{self} has no step, so it cannot be laid out as a grid",
                hint="add one: :step=0.1, or step=0.1 in a Range; or use another sampler",
            )
        step = Decimal(1 if self.step is None else str(self.step))
        low = Decimal(str(self.low))
        count = int((Decimal(str(self.last)) - low) / step) + 1
        kind = int if self.is_int else float
        return [kind(low + number * step) for number in range(count)]

    def __str__(self) -> str:
        """As it is written on the command line, without its condition."""
        step = "" if self.step is None else f":step={self.step}"
        return f"{self.low}..{self.high}{':log' * self.log}{step}"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several values: texts, numbers or bools, without an order.

    Args:
        options: At least two, all different.
        when: Searched only while other keys of its file have these values, or one of them.

    Raises:
        UsageError: they are fewer, or cannot be told apart.

    >>> Choice(["O0", "O2"]).contains("O2")
    True
    """

    options: Sequence[Value]
    _: KW_ONLY
    when: Condition | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(self.options))
        odd = [o for o in self.options if not (isinstance(o, str | bool) or _is_number(o))]
        if odd or any(isinstance(o, float) and not math.isfinite(o) for o in self.options):
            raise UsageError(
                f"Choice({list(self.options)}) has what is no text, number or bool",
                hint='write plain values: Choice(["lru", "lfu"])',
            )
        # True equals 1, and a search could not tell which of them it had tried.
        if len(set(self.options)) < len(self.options) or len(self.options) < 2:
            raise UsageError(
                f"Choice({list(self.options)}) needs two values or more, all different",
                hint='write each of them once: Choice(["lru", "lfu"])',
            )

    def contains(self, value: object) -> bool:
        """Whether a value is one of it."""
        return any(same(value, option) for option in self.options)

    def points(self) -> list[Value]:
        """All its values."""
        return list(self.options)

    def __str__(self) -> str:
        """As it is written on the command line, without its condition."""
        return "|".join(map(_spelled, self.options))


Space = Range | Choice


def same(one: object, other: object) -> bool:
    """Whether two values are equal and of one kind: 1 equals 1.0, and not True."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def holds(space: Space, values: Mapping[str, object]) -> bool:
    """Whether a key is searched while the others of its file have these values."""
    for key, wanted in (space.when or {}).items():
        allowed = wanted if isinstance(wanted, list | tuple) else [wanted]
        if not any(same(values.get(key), value) for value in allowed):
            return False
    return True


def parse_tune(text: str) -> tuple[str, str, Space]:
    """Reads what `--tune` takes: FILE:KEY=LOW..HIGH or FILE:KEY=A|B|C, and modifiers after ":".

    Modifiers are `log`, `step=8`, `int`, `float` and `if KEY=VALUE`. A part of a key that has dots
    is quoted, and so is an option that is to be a text although it looks like a number.

    Returns:
        The file, the key, and the space.

    Raises:
        UsageError: it is malformed; the message says where.

    >>> parse_tune("config.toml:cache.size=16..4096:log")
    ('config.toml', 'cache.size', Range(low=16, high=4096, log=True, step=None, when=None))
    >>> parse_tune("flags.json:opt=O0|O1")[2]
    Choice(options=('O0', 'O1'), when=None)
    """
    file, colon, rest = text.partition(":")
    key, equals, space = _cut(rest, "=")
    if not (file.strip() and colon and key.strip() and equals and space.strip()):
        raise UsageError(
            f"--tune {text!r} is not FILE:KEY=VALUES",
            hint="write: --tune 'config.toml:cache.size=16..4096:log' or 'flags.json:opt=O0|O1'",
        )
    try:
        return file.strip(), key.strip(), _space(space.strip())
    except UsageError as error:
        raise UsageError(f"--tune {text!r}: {error.message}", hint=error.hint) from None


def key_parts(key: str) -> list[str]:
    """The parts of a dotted key; a quoted part may have dots.

    Raises:
        UsageError: a part is empty, or a quote is not closed.

    >>> key_parts('paths."a.b".0')
    ['paths', 'a.b', '0']
    """
    parts = [_unquoted(part.strip()) for part in _split(key, ".")]
    if not all(parts):
        raise UsageError(
            f"{key!r} is no key", hint="write its parts with dots between them: cache.size"
        )
    return parts


# A modifier after the values; those of a choice are cut off only where they are one of these.
_MODIFIER = re.compile(r":\s*(log|int|float|step\s*=[^:]*|if\s[^:]*)\s*$")
_RANGE = re.compile(r"\s*([-+]?[\d_.]+(?:[eE][-+]?\d+)?)\s*\.\.\s*([-+]?[\d_.]+(?:[eE][-+]?\d+)?)")


def _space(text: str) -> Space:
    modifiers: dict[str, str] = {}
    when: dict[str, Value | Sequence[Value]] = {}
    while found := _MODIFIER.search(text):
        text, modifier = text[: found.start()], found[1].strip()
        if modifier.startswith("if"):
            key, equals, value = _cut(modifier[2:], "=")
            if not equals or not value.strip():
                raise UsageError(f"{modifier!r} is no condition", hint="write: if cache.kind=lru")
            options = [_value(option) for option in _split(value, "|")]
            when[key.strip()] = options if len(options) > 1 else options[0]
        else:
            name, _, value = modifier.partition("=")
            modifiers[name.strip()] = value.strip()
    limits = _RANGE.match(text)
    if limits is None:
        options = [_value(option) for option in _split(text, "|")]
        if len(options) < 2 or "log" in modifiers or "step" in modifiers:
            raise UsageError(
                f"{text!r} is neither a range nor a choice",
                hint="write two numbers, 16..4096, or several values, lru|lfu",
            )
        if modifiers and any(isinstance(option, str | bool) for option in options):
            raise UsageError(f"{text!r} has more than numbers", hint="leave :int and :float out")
        if "float" in modifiers:
            options = [float(option) for option in options]
        return Choice(options, when=when or None)
    if rest := text[limits.end() :].strip():
        raise UsageError(
            f"{rest!r} after {limits[0].strip()!r} is no modifier",
            hint="use :log, :step=8, :int, :float or :if KEY=VALUE",
        )
    ends = [number_of(limits[1]), number_of(limits[2])]
    step = number_of(modifiers["step"]) if "step" in modifiers else None
    if "float" in modifiers or isinstance(step, float):
        ends = [float(end) for end in ends]
    if "int" in modifiers:
        if any(end != int(end) for end in ends):
            raise UsageError(f"{limits[0]!r} has no whole numbers as ends", hint="leave :int out")
        ends = [int(end) for end in ends]
    return Range(*ends, log="log" in modifiers, step=step, when=when or None)


def number_of(text: str) -> float:
    """The whole number, or else the number, that a text is.

    Raises:
        UsageError: it is none.
    """
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    raise UsageError(f"{text!r} is no number", hint="write 16, 0.5 or 1e-5")


def _value(text: str) -> Value:
    """An option as it is meant: a quoted text, a bool, a number, or else the text itself."""
    text = text.strip()
    if text[:1] in ("'", '"'):
        return _unquoted(text)
    if text in ("true", "True", "false", "False"):
        return text in ("true", "True")
    try:
        number = number_of(text)
    except UsageError:
        return text
    return number if math.isfinite(number) else text


def _spelled(value: Value) -> str:
    """The text that is read as this value."""
    text = ("false", "true")[value] if isinstance(value, bool) else str(value)
    is_plain = not (set(text) & set("|=:'\"") or _RANGE.match(text)) and text == text.strip()
    return text if is_plain and same(_value(text), value) else json.dumps(text, ensure_ascii=False)


def _unquoted(text: str) -> str:
    if text[:1] not in ("'", '"'):
        return text
    if len(text) < 2 or text[-1] != text[0]:
        raise UsageError(f"{text} has no quote at its end", hint="close it")
    return str(json.loads(text)) if text[0] == '"' else text[1:-1]


def _split(text: str, mark: str) -> list[str]:
    parts, found = [], mark
    while found:
        part, found, text = _cut(text, mark)
        parts.append(part)
    return parts


def _cut(text: str, mark: str) -> tuple[str, str, str]:
    """As str.partition, at the first mark that is not in quotes."""
    quote = ""
    for place, letter in enumerate(text):
        # A quote begins a part; inside one, as in "don't", it is a letter like others.
        if not quote and letter in "'\"" and (text[:place].rstrip() or ".")[-1] in ".|=":
            quote = letter
        elif letter == quote:
            before = text[:place]  # of two backslashes, the first escapes the second
            is_escaped = (len(before) - len(before.rstrip("\\"))) % 2 and quote == '"'
            quote = quote if is_escaped else ""
        elif letter == mark and not quote:
            return text[:place], mark, text[place + 1 :]
    return text, "", ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
