"""Text that may cross every border: storable, valid in strict JSON, without secrets.

Models and users' code cut emoji in half, and write NUL. A character that a border (git, UTF-8, a
program's arguments) cannot carry is replaced by U+FFFD or, in JSON, written as its escape.

The values of secret-looking environment variables are hidden in notes, commits, progress files and
errors, and in the replies of models and programs before anything uses them: a reply that echoes a
key leaves it in no result, edit or record. Text that only looks like a key may be a user's data,
so it is hidden in errors alone.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

V = TypeVar("V")

REPLACEMENT = "\ufffd"
HIDDEN = "[hidden]"
_HALF = re.compile("[\ud800-\udfff]")
# Terminals take them for commands or line breaks, show text in another order, or do not show them.
# JSON allows all that follow the space as they are.
_STEERING = (
    "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"
)
_CONTROL = re.compile(f"[{_STEERING}]")
_UNSEEN = re.compile(f"[\0-\x08\x0b-\x1f{_STEERING}]")  # neither tab nor line break
# A word's end says it: OPENAI_API_KEY, DB_PASSWORD2; not GIT_AUTHOR_NAME, MAX_TOKENS, KEY_FILE.
_SECRET_NAME = re.compile(
    r"(?!.*(FILE|PATH|DIR|SOCK|URL)$)(?!(MAX|NUM)_).*(KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|"
    r"CREDENTIAL|COOKIE|BEARER|AUTH|AUTHORIZATION|HEADER)S?\d*(_|$)",
    re.IGNORECASE,
)
_KEY = re.compile(
    r"\b(?:sk|pk|rk|ghp|gho|xox[abp])[-_](?=[\w-]*\d)[\w-]{16,}|\bBearer\s+(?=\S*\d)[\w.~+/=-]{8,}"
)
# A password in an address: postgres://user:password@host.
_IN_ADDRESS = re.compile(r"://[^/\s:@]*:([^/\s@]+)@")
_SHORTEST = 8
_LONG_LINE = 16


def whole(text: str) -> str:
    """A text that UTF-8 can store: halves of one surrogate pair are joined, others replaced.

    >>> whole("\\ud83d\\ude00 \\ud83d") == "\\U0001f600 \\ufffd"
    True
    """
    if _is_storable(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def clean(value: V) -> V:
    """A text, or JSON-like value, that git messages, arguments and prompts take: also no NUL."""
    return _each_text(value, lambda text: whole(text).replace("\0", REPLACEMENT))


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


def redact(text: str) -> str:
    """A text for people: without secrets of the environment and without what looks like a key.

    >>> redact("x-api-key: sk-ant-api03-abcdefghijklmnop")
    'x-api-key: [hidden]'
    """
    return _KEY.sub(HIDDEN, hide(text))


def hide(value: V) -> V:
    """A text, or JSON-like value, without the values of secret environment variables."""
    secrets = _secrets()

    def without(text: str) -> str:
        for secret in secrets:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        return text

    return _each_text(value, without) if secrets else value


def printable(name: str) -> str:
    """A file's name on one line, whatever an agent called it."""
    escaped = (c if c.isprintable() else repr(c)[1:-1] for c in name)
    return "".join(escaped).encode("utf-8", "backslashreplace").decode()


def visible(text: str, *, in_json: bool = False) -> str:
    """A text with escapes for characters that steer a terminal or reorder what it shows.

    Args:
        in_json: The text is JSON; the texts in it get the escapes.

    >>> print(visible("kept \\u202edetcejer\\x1b[2J"))
    kept \\u202edetcejer\\x1b[2J
    """
    return _UNSEEN.sub(lambda found: "\\" * in_json + ascii(found[0])[1:-1], text)


def is_secret(name: str, value: str) -> bool:
    """Whether an environment variable holds a secret: by its name, or a password in an address."""
    return any(True for _ in _parts(name, value))


def leaked(text: str) -> str:
    """The environment variable whose secret stands in a text; "" if there is none."""
    return next((name for secret, name in _secrets().items() if secret in text), "")


def align(
    columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()
) -> list[str]:
    """A table's lines, two spaces between columns, nothing at a line's end.

    >>> align(["epoch", "verdict"], [["0", "baseline"], ["10", "kept"]], right=["epoch"])
    ['epoch  verdict', '    0  baseline', '   10  kept']
    """
    grid = [list(columns), *[list(row) for row in rows]]
    spans = [[display_width(cell) for cell in row] for row in grid]
    widths = [max(column) for column in zip(*spans, strict=True)]
    lines = []
    for row, taken in zip(grid, spans, strict=True):
        line = []
        for i, cell in enumerate(row):
            space = " " * (widths[i] - taken[i])
            line.append(space + cell if columns[i] in right else cell + space)
        lines.append("  ".join(line).rstrip())
    return lines


def labelled(facts: Mapping[str, str], gap: int = 2) -> list[str]:
    """A line for each fact that has a text, the texts below one another.

    >>> labelled({"seed": "3", "idea": "", "metric": "f1"})
    ['seed    3', 'metric  f1']
    """
    wide = max(map(len, facts)) + gap
    return [f"{name:<{wide}}{shorten(text, 1000)}" for name, text in facts.items() if text]


def display_width(text: str) -> int:
    """The columns that a text takes in a terminal, with the escapes that it is shown with.

    >>> display_width("grün"), display_width("規則"), display_width("a\\u202e")
    (4, 4, 7)
    """
    if text.isascii() and text.isprintable():
        return len(text)
    return sum(map(_columns, text))


def shorten(text: str, width: int | None) -> str:
    """A text on one line, in so many columns; None leaves its length as it is.

    >>> shorten("split the broad\\nrules", 12), shorten("規則規則", 7), shorten("a\\nb", None)
    ('split the...', '規則...', 'a b')
    """
    line = " ".join(text.split())
    if width is None or display_width(line) <= width:
        return line
    return fitting(line, max(width - 3, 0)).rstrip() + "..."


def cut_middle(text: str, limit: int) -> str:
    """A text, or its beginning and its end with how much is missing in between.

    >>> cut_middle("a" * 60 + "b" * 60, 60)
    'aaaaaaaaaaaaaaaaaaaaaaa [... 86 characters ...] bbbbbbbbbbb'
    """
    if len(text) <= limit:
        return text
    room = max(limit - len(f" [... {len(text)} characters ...] "), 0)
    head, tail = room - room // 3, room // 3
    left = len(text) - room
    return f"{text[:head]} [... {left} characters ...] {text[len(text) - tail :]}"


def flag(name: str) -> str:
    """The option of a field: `--max-epochs` of `max_epochs`."""
    return f"--{name.replace('_', '-')}"


def plain_letters(text: str) -> str:
    """A text in lower case, without accents: for names that must be ASCII.

    >>> plain_letters("Größe")
    'grosse'
    """
    letters = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def fitting(line: str, width: int) -> str:
    """As much of a line's beginning as fits into so many columns."""
    if line.isascii() and line.isprintable():
        return line[:width]
    taken = 0
    for place, character in enumerate(line):
        taken += _columns(character)
        if taken > width:
            return line[:place]
    return line


def _columns(character: str) -> int:
    if _UNSEEN.match(character):
        return len(visible(character))
    wide = unicodedata.east_asian_width(character) in "WF"
    return 1 + wide - (unicodedata.combining(character) > 0)


def jsonable(value: Any) -> Any:
    """A value as strict JSON has it: dataclasses as objects, NaN and infinity as strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value) if isinstance(value, Path) else repr(value)


def every(count: int, noun: str) -> str:
    """All of several things, or the only one.

    >>> every(3, "val item"), every(1, "val item")
    ('all 3 val items', 'the val item')
    """
    return f"the {noun}" if count == 1 else f"all {count} {noun}s"


def some(names: Sequence[str], most: int = 3, joint: str = " and") -> str:
    """A few of some names, the others as a number.

    >>> some(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = f"{joint} {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def counted(number: int, noun: str) -> str:
    """A number and what it counts.

    >>> counted(1, "epoch"), counted(2, "epoch")
    ('1 epoch', '2 epochs')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def pairs(values: Mapping[str, Any]) -> str:
    """Names and values on a line; a name that is its own value is said once."""
    return ", ".join(f"{name}={value}" if name != value else name for name, value in values.items())


def iso(time_s: int) -> str:
    """A time as programs read it, UTC."""
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="seconds")


def git_date(time_s: float) -> str:
    """A time as git shows it, in the local time zone."""
    local = time.localtime(time_s)
    return time.strftime(f"%a %b {local.tm_mday} %H:%M:%S %Y %z", local)


def ago(seconds: float) -> str:
    """How long ago, as git says it."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length or (unit == "minute" and seconds >= length):
            return f"{counted(int(seconds // length), unit)} ago"
    return f"{counted(max(int(seconds), 0), 'second')} ago"


def _each_text(value: V, change: Callable[[str], str]) -> V:
    """The value with every text in it changed, at any depth, keys included."""

    def changed(value: Any) -> Any:
        if isinstance(value, str):
            return change(value)
        if isinstance(value, Mapping):
            return {changed(key): changed(item) for key, item in value.items()}
        if isinstance(value, list):
            return [changed(item) for item in value]
        return tuple(map(changed, value)) if isinstance(value, tuple) else value

    return changed(value)  # type: ignore[no-any-return]  # the same kind comes back


_seen: tuple[dict[object, object], dict[str, str]] = ({}, {})
_given: dict[str, str] = {}


def keep_secret(value: str, name: str) -> None:
    """Hides a secret that is in no environment variable, from now on.

    Args:
        name: Names it where it would have leaked.
    """
    global _seen
    if len(value) >= _SHORTEST and value not in _given:
        _given.update(dict.fromkeys(_written(value), name))
        _seen = ({}, {})


def _secrets() -> dict[str, str]:
    """Secret to the name of its variable, the longest first."""
    global _seen  # reading all variables each time would take as long as much of a model's call
    # Comparing the raw bytes is one call in C; `os.environ` decodes each variable it is asked for.
    environment: dict[object, object] = getattr(os.environ, "_data", None) or dict(os.environ)
    if environment != _seen[0]:
        found = {
            secret: name
            for name, value in os.environ.items()
            for part in _parts(name, value)
            if len(part) >= _SHORTEST
            for secret in _written(part)
        } | _given
        # A secret that contains another one is replaced before its part.
        longest_first = dict(sorted(found.items(), key=lambda pair: -len(pair[0])))
        _seen = environment.copy(), longest_first
    return _seen[1]


def _parts(name: str, value: str) -> Iterator[str]:
    """The secrets in a variable: its value, long lines of it, values of headers, passwords."""
    if "://" in value:
        yield from _IN_ADDRESS.findall(value)
    if not _SECRET_NAME.match(name):
        return
    yield value
    for line in value.splitlines():
        if len(line) >= _LONG_LINE:
            yield line
        if "HEADER" in name.upper():
            yield line.partition(":")[2].strip()


@cache
def _written(part: str) -> set[str]:
    """As it is, as JSON has it, and as JSON has that inside JSON."""
    forms = {part}
    for _ in range(2):
        for ascii_only in (False, True):
            forms |= {json.dumps(form, ensure_ascii=ascii_only)[1:-1] for form in forms}
    return forms


def _escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass").hex(" ", 2).split()
    return "".join(f"\\u{unit}" for unit in units)


def _is_storable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
