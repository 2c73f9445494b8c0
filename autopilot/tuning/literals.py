"""The literals of a configuration file: each key's value, and where it stands in the text.

A file is changed by replacing one literal in its text, so that everything else stays as it is, to
the byte. The libraries of a format are used to read it, never to write it.
"""

from __future__ import annotations

import contextlib
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from autopilot.errors import ParameterError, UsageError
from autopilot.tuning.spaces import Space, Value, number_of

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Literal:
    """A value in a text.

    Args:
        path: The parts of its key; an item of a list is its index.
        start: Where it begins in the text.
        end: Where it ends.
        value: The value; None where `problem` says why it cannot be replaced.
        problem: As it follows "it is": "computed", "a date".
    """

    path: Path
    start: int
    end: int
    value: Value | None = None
    problem: str = ""


class MalformedError(ParameterError):
    """A file that is not of its format; `line` is 0 where it is not known."""

    def __init__(self, why: str, line: int = 0) -> None:
        super().__init__(why)
        self.line = line


def value_or_problem(value: object) -> tuple[Value | None, str]:
    """A value that can be replaced by another one, or a word about one that cannot."""
    if isinstance(value, bool | int | float | str):
        return value, ""
    return None, "null" if value is None else f"a {type(value).__name__}"


# --- JSON ----------------------------------------------------------------------------------------

_SPACE = re.compile(r"[ \t\r\n]*")


def json_literals(text: str) -> list[Literal]:
    """The literals of a JSON text.

    Raises:
        MalformedError: it is none.
    """
    decoder, found = json.JSONDecoder(), list[Literal]()

    def walk(path: Path, at: int) -> int:
        """Takes the literals of the value there; returns the place behind it."""
        if text[at] not in "{[":
            value, end = decoder.raw_decode(text, at)
            found.append(Literal(path, at, end, *value_or_problem(value)))
            return end
        is_object, index, at = text[at] == "{", 0, _after(text, at + 1)
        while text[at] not in "}]":
            key = str(index)
            if is_object:
                key, at = decoder.raw_decode(text, at)
                at = _after(text, _after(text, at) + 1)  # the colon
            at = _after(text, walk((*path, key), at))
            index, at = index + 1, _after(text, at + 1) if text[at] == "," else at
        return at + 1

    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise MalformedError(error.msg, error.lineno) from error
    walk((), _after(text, 0))
    return found


def _after(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


# --- TOML ----------------------------------------------------------------------------------------


def toml_literals(text: str) -> list[Literal]:
    """The literals of a TOML text.

    Raises:
        MalformedError: it is none.
        ImportError: tomlkit is not installed.
    """
    import tomlkit
    from tomlkit.container import Container
    from tomlkit.items import AbstractTable, AoT, Array

    values: list[tuple[Path, Any]] = []

    def mark(item: Any, path: Path) -> None:
        """Puts a NUL, which no TOML has, before and behind each literal as tomlkit writes it."""
        if isinstance(item, AbstractTable):
            item = item.value
        if isinstance(item, Container):
            for key, each in item.body:
                if key is not None:  # else it is a comment or space
                    mark(each, (*path, key.key))
        elif isinstance(item, AoT | Array):
            for index, inner in enumerate(item.value):
                mark(inner, (*path, str(index)))
        else:
            literal = item.as_string()
            item.as_string = lambda: f"\0{literal}\0"
            values.append((path, item.unwrap()))

    try:
        tomllib.loads(text)  # tomlkit takes some texts that are no TOML
        document = tomlkit.parse(text)
    except ValueError as error:
        line = re.search(r"at line (\d+)", str(error))
        why = re.sub(r" \(?at (line|end) .*$", "", str(error))
        raise MalformedError(why, int(line[1]) if line else 0) from error
    mark(document, ())
    parts, found, at = document.as_string().split("\0"), list[Literal](), 0
    if "".join(parts) != text:
        raise MalformedError("the tables of one array are not one behind the other")
    for (path, value), before, literal in zip(values, parts[::2], parts[1::2], strict=False):
        start = at + len(before)
        at = start + len(literal)
        found.append(Literal(path, start, at, *value_or_problem(value)))
    return found


# --- INI, and lines of NAME=VALUE ----------------------------------------------------------------

_SECTION = re.compile(r"[ \t]*\[([^\]\r\n]+)\]")
_LINE = re.compile(r"[ \t]*(?:export[ \t]+)?([^\s#;=:\[][^=:\r\n]*?)[ \t]*[=:][ \t]*")
# A comment behind a value has a space before it: "#fff" is a color.
_COMMENT = re.compile(r"[ \t]+[#;].*|[ \t]+$")
_QUOTED = re.compile(r"(\"[^\"]*\"|'[^']*')(?=[ \t]*(?:[#;]|$))")


def ini_literals(text: str) -> list[Literal]:
    """The literals of an INI file, or of one with lines of NAME=VALUE; all values are texts."""
    found: list[Literal] = []
    section: Path = ()
    at = 0
    for line in re.split(r"(?<=\n)|(?<=\r)(?!\n)", text):
        begin, at = at, at + len(line)
        if header := _SECTION.match(line):
            section = tuple(header[1].strip().split("."))
        elif name := _LINE.match(line):
            rest = line[name.end() :].rstrip("\r\n")
            quoted = _QUOTED.match(rest)
            value = quoted[0] if quoted else _COMMENT.sub("", rest)
            start = begin + name.end()
            inner = value[1:-1] if quoted else value
            start += bool(quoted)
            found.append(Literal((*section, name[1]), start, start + len(inner), inner))
    return found


# --- YAML ----------------------------------------------------------------------------------------

_YAML_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F]+|0o[0-7]+")
# Digits with a zero in front are 8 in older versions of YAML and 10 in newer ones: a text.
_YAML_FLOAT = re.compile(
    r"[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)"
)
_YAML_NULL = ("", "~", "null", "Null", "NULL")
_YAML_BOOL = dict.fromkeys(("true", "True", "TRUE"), True) | dict.fromkeys(
    ("false", "False", "FALSE"), False
)
_PROPERTIES = re.compile(r"(?:[&!]\S*[ \t]+)+")


def yaml_literals(text: str) -> list[Literal]:
    """The literals of a YAML text; types are those of YAML 1.2.

    Raises:
        MalformedError: it is none, or several documents.
        ImportError: ruamel.yaml is not installed.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError
    from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

    seen: set[int] = set()

    def walk(node: Any, path: Path) -> Iterator[Literal]:
        start, end = node.start_mark.index, node.end_mark.index
        if id(node) in seen:
            # The same node again: an alias of what was found at its anchor.
            yield Literal(path, start, end, problem="an alias of another value")
        elif isinstance(node, MappingNode):
            for key, value in node.value:
                if isinstance(key, ScalarNode):
                    yield from walk(value, (*path, str(key.value)))
        elif isinstance(node, SequenceNode):
            for index, value in enumerate(node.value):
                yield from walk(value, (*path, str(index)))
        else:
            tags = _PROPERTIES.match(text, start, end)
            start = tags.end() if tags else start
            is_tagged = tags is not None and "!" in tags[0]
            problem = (
                "a tagged value" if is_tagged else "a block of text" * (node.style in ("|", ">"))
            )
            value = node.value if node.style else _yaml_value(node.value)
            found = (None, problem) if problem else value_or_problem(value)
            yield Literal(path, start, end, *found)
        seen.add(id(node))

    try:
        root = YAML(typ="rt", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise MalformedError(str(error.problem), mark.line + 1 if mark else 0) from error
    except YAMLError as error:
        raise MalformedError(str(error).partition("\n")[0]) from error
    return [] if root is None else list(walk(root, ()))


def _yaml_value(plain: str) -> Value | None:
    if plain in _YAML_NULL:
        return None
    if plain in _YAML_BOOL:
        return _YAML_BOOL[plain]
    if _YAML_INT.fullmatch(plain):
        return int(plain.replace("_", ""), 0)
    return float(plain) if _YAML_FLOAT.fullmatch(plain) else plain


# --- writing -------------------------------------------------------------------------------------

_BOOLS = ("true false", "True False", "TRUE FALSE", "yes no", "Yes No", "on off", "On Off")
_UNPRINTABLE = re.compile("[^ -~\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_PLAIN = re.compile(r"[A-Za-z_](?:[\w./-]|:(?=\S)| (?=[\w./-]))*", re.ASCII)


def written(value: Value, old: str, quote: Callable[[str, str], str], bools: str) -> str:
    """A value as it stands in the place of an old literal: quoted, or spelled, as that was.

    Args:
        quote: Writes a text in the style of an old literal.
        bools: How true and false are spelled where the old literal is neither.
    """
    if isinstance(value, bool):
        pair = next((p for p in _BOOLS if old in p.split()), bools).split()
        return pair[0] if value else pair[1]
    if isinstance(value, str):
        return quote(value, old)
    # With a point, since older versions of YAML read 1e-05 as a text.
    return re.sub(r"^(-?\d+)e", r"\1.0e", repr(value))


def in_toml(text: str, old: str) -> str:
    """A text as TOML has it, in single quotes if the old one was."""
    is_simple = old.startswith("'") and "'" not in text and not _UNPRINTABLE.search(text)
    return f"'{text}'" if is_simple else _escaped(text)


def in_yaml(text: str, old: str) -> str:
    """A text as YAML has it, without quotes if the old one was and that is safe."""
    # Older versions of YAML read these words as bools.
    is_word = _yaml_value(text) == text and text.lower() not in ("y", "n", "yes", "no", "on", "off")
    if old[:1] not in ("'", '"') and is_word and _PLAIN.fullmatch(text):
        return text
    if old.startswith("'") and not _UNPRINTABLE.search(text):
        return "'" + text.replace("'", "''") + "'"
    return _escaped(text)


def _escaped(text: str) -> str:
    quoted = json.dumps(text, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)


def meant(text: str, space: Space) -> Value:
    """The value of a text in a file without types: the one that the space has, if it has one."""
    readings: list[Value] = [text]
    if text.lower() in ("true", "yes", "on", "false", "no", "off"):
        readings.append(text.lower() in ("true", "yes", "on"))
    with contextlib.suppress(UsageError):
        readings.append(number_of(text))
    return next(filter(space.contains, readings), readings[-1])


def line_of(text: str, place: int) -> int:
    """The number of the line that a place is in, from 1 on."""
    return len(re.findall(r"\r\n|\r|\n", text[:place])) + 1


def spelled_path(path: Path) -> str:
    """A path as it is written in an option: parts with dots are quoted."""
    quoted = (json.dumps(part, ensure_ascii=False) for part in path)
    return ".".join(q if set(p) & set(".=:'\"") else p for p, q in zip(path, quoted, strict=True))
