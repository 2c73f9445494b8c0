"""Numbers and choices in a configuration file, as a parameter."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from autopilot.core.parameter import PathParameter, merge_lines
from autopilot.errors import ParameterError, UsageError
from autopilot.tuning import literals
from autopilot.tuning.constants import in_python, python_literals
from autopilot.tuning.literals import Literal, MalformedError, line_of, spelled_path
from autopilot.tuning.spaces import Choice, Range, Space, Value, holds, key_parts, parse_tune, same

_MARK = "\ufeff"


@dataclass(frozen=True, slots=True)
class _Format:
    """How a kind of file is read, and how a text is written into it."""

    name: str
    read: Callable[[str], list[Literal]]
    quote: Callable[[str, str], str]
    is_typed: bool = True
    bools: str = "true false"


_INI = _Format("INI", literals.ini_literals, lambda text, _: text, is_typed=False)
_YAML = _Format("YAML", literals.yaml_literals, literals.in_yaml)
_FORMATS = {
    ".json": _Format(
        "JSON", literals.json_literals, lambda text, _: json.dumps(text, ensure_ascii=False)
    ),
    ".toml": _Format("TOML", literals.toml_literals, literals.in_toml),
    ".yaml": _YAML,
    ".yml": _YAML,
    ".py": _Format("Python", python_literals, in_python, bools="True False"),
    **dict.fromkeys((".ini", ".cfg", ".conf", ".properties", ".env"), _INI),
}


class ConfigParameter(PathParameter):
    """Keys of a configuration file, or constants of a Python file, each with its space.

    The file is JSON, TOML, YAML, INI, lines of NAME=VALUE (.env), or Python, by its name. Only the
    literals of these keys are ever replaced: comments, order and formatting stay, to the byte.

    Args:
        path: The file, relative to the working directory.
        spaces: Key to Range or Choice. Parts of a key have dots between them, an item of a list is
            its index, a part that has dots itself is quoted.
        requires_grad, description: As of Parameter.

    Raises:
        ParameterError: the file or a key is missing, defined twice or computed; a value is outside
            of its space; a condition names no key.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "config.toml"
    >>> _ = file.write_text("[cache]  # in entries\\nsize = 16\\n")
    >>> config = ConfigParameter(file, {"cache.size": Range(16, 4096, log=True)})
    >>> config.set({"cache.size": 64})
    >>> config.values(), config.read_text()
    ({'cache.size': 64}, '[cache]  # in entries\\nsize = 64\\n')
    """

    def __init__(
        self,
        path: str | Path,
        spaces: Mapping[str, Space],
        *,
        requires_grad: bool = True,
        description: str = "",
    ) -> None:
        super().__init__(path, requires_grad=requires_grad, description=description)
        here = Path(os.path.realpath(Path.cwd()))
        if Path(path).is_absolute() and self.source.is_relative_to(here):
            self.label = self.source.relative_to(here).as_posix()
        self._format = self._find_format()
        self.spaces = self._in_order(spaces)
        self.check()
        text = self._text()
        for key, space in self.spaces.items():
            ends = space.options if isinstance(space, Choice) else (space.low, space.last)
            for value in ends:
                self._with(text, {key: value})

    def check(self) -> None:
        """Refuses a file whose keys cannot be read, or have values outside of their spaces.

        Raises:
            ParameterError: it names the line.
        """
        text = self._text()
        for key, value in self._read(text).items():
            self._check(key, value, text)

    def present(self) -> dict[str, Value]:
        """The value of every key, as the file has it now.

        Raises:
            ParameterError: a key cannot be read.
        """
        return self._read(self._text())

    def values(self) -> Mapping[str, Value]:
        """The values of the keys whose conditions hold; none if the file cannot be read."""
        try:
            return self.active(self.present())
        except ParameterError:
            return {}  # an agent has broken the file: the evaluation says so

    def active(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Those of the values whose conditions hold."""
        found: dict[str, Value] = {}
        for key, space in self.spaces.items():
            if key in values and holds(space, found):
                found[key] = values[key]
        return found

    def set(self, values: Mapping[str, Value]) -> None:
        """Replaces the literals of these keys.

        Raises:
            ParameterError: a key is unknown or cannot be replaced, or a value is outside of its
                space.
        """
        text = self._text()
        for key, value in values.items():
            self._check(key, value)
        self.write_text(self._with(text, values))

    def merged_text(self, base: str, ours: str, theirs: str) -> str | None:
        with contextlib.suppress(ParameterError):  # key by key; apart from the keys, line by line
            old, own, other = (self._read(text) for text in (base, ours, theirs))
            rest = merge_lines(*(self._with(text, old) for text in (base, ours, theirs)))
            new = {key: value for key, value in other.items() if not same(value, old[key])}
            is_clean = all(same(own[key], old[key]) or same(own[key], new[key]) for key in new)
            return self._with(rest, own | new) if rest is not None and is_clean else None
        return None

    def render(self) -> str:
        """Each key with its value and space, then the file."""
        values = self.values()
        lines = [f"{key} = {values.get(key, '-')}  ({s})" for key, s in self.spaces.items()]
        return "\n".join([*lines, super().render()])

    def _find_format(self) -> _Format:
        name = self.source.name
        if not self.is_file or self.source.is_symlink():
            kind = "a symbolic link" if self.source.is_symlink() else "a folder"
            raise ParameterError(
                f"{self.label} is {kind}, and keys are in a file",
                hint=f"name the file: {os.path.relpath(os.path.realpath(self.source))}"
                if self.source.is_symlink()
                else "name a file in it",
            )
        if name.startswith(".env"):
            return _INI
        suffix = self.source.suffix.lower()
        if suffix not in _FORMATS:
            raise ParameterError(
                f"{self.label}: files of the kind {suffix or name} cannot be tuned",
                hint=f"one of: {' '.join(_FORMATS)}; or let the program read the number from one",
            )
        return _FORMATS[suffix]

    def _in_order(self, spaces: Mapping[str, Space]) -> dict[str, Space]:
        """The spaces, a key that a condition names before those that have the condition."""
        if not spaces:
            raise ParameterError(
                f"there are no keys for {self.label}",
                hint=f'name one: ConfigParameter("{self.label}", {{"size": Range(1, 9)}})',
            )
        for key, space in spaces.items():
            if not isinstance(space, Range | Choice):
                raise ParameterError(
                    f"{self.label}: the space of {key} is {space!r}",
                    hint="give it a Range(low, high) or a Choice([...])",
                )
            for other, wanted in (space.when or {}).items():
                if other not in spaces:
                    raise ParameterError(
                        f"{self.label}: {key} depends on {other}, which is not tuned in this file",
                        hint="tune it too, or leave the condition out",
                    )
                for value in wanted if isinstance(wanted, list | tuple) else [wanted]:
                    if not spaces[other].contains(value):
                        raise ParameterError(
                            f"{self.label}: {key} depends on {other} being {value!r}, which is "
                            f"none of {spaces[other]}",
                            hint="correct the condition, or the values",
                        )
        graph = TopologicalSorter({key: space.when or () for key, space in spaces.items()})
        try:
            return {key: spaces[key] for key in graph.static_order()}
        except CycleError as error:
            names = ", ".join(key for key in spaces if key in error.args[1])
            raise ParameterError(
                f"{self.label}: {names} depend on one another",
                hint="leave one of the conditions out",
            ) from error

    def _text(self) -> str:
        try:
            return self.read_text()
        except UnicodeDecodeError as error:
            raise ParameterError(
                f"{self.label} is not UTF-8: {error.reason} at byte {error.start}",
                hint="store it as UTF-8",
            ) from error

    def _literals(self, text: str) -> list[Literal]:
        """All literals of a text, whose places do not count a byte order mark."""
        name = self._format.name
        try:
            return _parsed(self._format.read, text.removeprefix(_MARK))
        except MalformedError as error:
            at = f":{error.line}" if error.line else ""
            raise ParameterError(
                f"{self.label}{at} is no {name}: {error.message}", hint="correct the file"
            ) from error
        except ImportError as error:
            raise ParameterError(
                f"{error.name} is not installed, which reads {name} files",
                hint="pip install 'autopilot[optuna]'",
            ) from error

    def _found(self, text: str) -> dict[str, Literal]:
        """Key to its literal.

        Raises:
            ParameterError: a key is missing, or defined more than once.
        """
        everything = self._literals(text)
        found = {}
        for key in self.spaces:
            path = tuple(key_parts(key))
            # A dot in a name need not be quoted where that is clear.
            those = [each for each in everything if each.path == path] or [
                each for each in everything if ".".join(each.path) == ".".join(path)
            ]
            if not those:
                raise self._missing(key, path, everything)
            if len(those) > 1:
                lines = ", ".join(str(line_of(text, each.start)) for each in those)
                raise ParameterError(
                    f"{self.label}: {key} is defined {len(those)} times (lines {lines})",
                    hint="leave one definition: a search could not tell which of them counts",
                )
            found[key] = those[0]
        return found

    def _missing(
        self, key: str, path: tuple[str, ...], everything: Sequence[Literal]
    ) -> ParameterError:
        known = {spelled_path(each.path): each.path for each in everything}
        below = [name for name, other in known.items() if other[: len(path)] == path]
        if below:
            return ParameterError(
                f"{self.label}: {key} is no value: it has keys of its own",
                hint=f"name one of them: {', '.join(below[:5])}",
            )
        near = difflib.get_close_matches(key, known, 3)
        near += [name for name, other in known.items() if other[-1:] == path[-1:]]
        hint = f"did you mean {' or '.join(dict.fromkeys(near))}?" if near else ""
        return ParameterError(
            f"{self.label} has no key {key}",
            hint=hint
            or f"its keys: {', '.join([*known][:8]) or 'none'}{', ...' * (len(known) > 8)}",
        )

    def _read(self, text: str) -> dict[str, Value]:
        values = {}
        for key, literal in self._found(text).items():
            space, value = self.spaces[key], literal.value
            if value is None:
                example = space.low if isinstance(space, Range) else space.options[0]
                raise ParameterError(
                    f"{self._at(text, literal)}: {key} is {literal.problem}, and only a number, "
                    "text or bool can be replaced",
                    hint=f"write a literal there, such as {example}, and compute from it where "
                    "it is used",
                )
            is_text = isinstance(value, str) and not self._format.is_typed
            values[key] = literals.meant(str(value), space) if is_text else value
        return values

    def _check(self, key: str, value: Value, text: str | None = None) -> None:
        """Refuses a value that its key cannot have; of the file as it is, if there is a text."""
        space = self.spaces.get(key)
        if space is None:
            raise ParameterError(
                f"{self.label}: {key} is not tuned", hint=f"one of: {', '.join(self.spaces)}"
            )
        if space.contains(value):
            return
        place = self.label if text is None else self._at(text, self._found(text)[key])
        if isinstance(space, Range) and isinstance(value, bool | str):
            raise ParameterError(
                f"{place}: {key} is {value!r}, and {space} is a range of numbers",
                hint="tune a number, or name the values: a|b|c, Choice([...])",
            )
        if isinstance(space, Range) and space.low <= value <= space.high:  # type: ignore[operator]
            why = "whole numbers" if space.step is None else f"steps of {space.step}"
            raise ParameterError(
                f"{place}: {key} is {value}, and {space} has {why} only",
                hint="let the range have it: :float (ends with a point), or another step",
            )
        hint = "change it, or its range: a search starts from the present value"
        word = "outside of" if isinstance(space, Range) else "none of"
        raise ParameterError(f"{place}: {key} is {value!r}, {word} {space}", hint=hint)

    def _with(self, text: str, values: Mapping[str, Value]) -> str:
        """The text with other values.

        Raises:
            ParameterError: a value would not be read as it is.
        """
        found, changed = self._found(text), text
        mark = len(text) - len(text.removeprefix(_MARK))
        for key in sorted(values, key=lambda key: -found[key].start):
            start, end = found[key].start + mark, found[key].end + mark
            value, space = values[key], self.spaces[key]
            if isinstance(space, Range):
                value = int(value) if space.is_int else float(value)
            new = literals.written(value, text[start:end], self._format.quote, self._format.bools)
            changed = changed[:start] + new + changed[end:]
        read: dict[str, Value] = {}
        with contextlib.suppress(ParameterError):
            read = self._read(changed)
        for key, value in values.items():
            if key not in read or not same(read[key], value):
                raise ParameterError(
                    f"{self.label}: {key} cannot be {value!r} in a file of this kind",
                    hint="choose another value",
                )
        return changed

    def _at(self, text: str, literal: Literal) -> str:
        return f"{self.label}:{line_of(text, literal.start)}"

    def __repr__(self) -> str:
        spaces = ", ".join(f"{key!r}: {space}" for key, space in self.spaces.items())
        return f"ConfigParameter({self.label!r}, {{{spaces}}})"


# The same few states are read several times an epoch, and YAML takes 0.5 ms a line.
@lru_cache(maxsize=16)
def _parsed(read: Callable[[str], list[Literal]], text: str) -> list[Literal]:
    return read(text)


def config_parameters(tunes: Sequence[str]) -> list[ConfigParameter]:
    """The parameters of several `--tune`, one for each file.

    Raises:
        UsageError: one is malformed, or two name one key.
        ParameterError: a file or a key cannot be tuned.
    """
    spaces: dict[str, dict[str, Space]] = {}
    for text in tunes:
        file, key, space = parse_tune(text)
        own = spaces.setdefault(os.path.normpath(file), {})
        if any(key_parts(key) == key_parts(other) for other in own):
            raise UsageError(
                f"two --tune name {file}:{key}", hint="leave one of them out, or join their values"
            )
        own[key] = space
    return [ConfigParameter(file, own) for file, own in spaces.items()]


def numbers_in(name: str, text: str) -> dict[str, int | float]:
    """The numbers of a configuration or Python file by their keys; none where it cannot be read.

    Args:
        name: The file's, whose ending tells its form.
    """
    form = _FORMATS.get(Path(name).suffix.lower())
    try:
        found = form.read(text.removeprefix(_MARK)) if form is not None else []
    except (MalformedError, ImportError):
        return {}
    numbers: dict[str, int | float] = {}
    for literal in found:
        value = literal.value
        if isinstance(value, str) and form is not None and not form.is_typed:
            # As a share or a count it would be: "3" is both text and number there.
            value = literals.meant(value, Range(0, 1))
        if isinstance(value, int | float) and not isinstance(value, bool):
            numbers[spelled_path(literal.path)] = value
    return numbers
