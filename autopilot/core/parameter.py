"""Parameters: what may be edited."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Self, TypeVar

from autopilot.core.gradient import Gradient
from autopilot.errors import MissingSourceError, ParameterError
from autopilot.files import (
    SYMLINK,
    FileState,
    glob_regex,
    list_files,
    path_inside,
    read_file,
    remove_file,
    replace_file,
)
from autopilot.text import whole

V = TypeVar("V")


class Parameter:
    """A value that an optimizer may change, with the feedback on it.

    A subclass that is a `@dataclass` holds its fields instead of `data`.

    Args:
        data: The value.
        requires_grad: Whether backward fills `grad`.
        description: Its purpose, in a sentence; agents that edit it read that.

    Raises:
        ParameterError: a dataclass that is frozen, or that has a field of the parameter's own.

    >>> threshold = Parameter(0.5)
    >>> before = threshold.snapshot()
    >>> threshold.data = 0.9
    >>> threshold.restore(before)
    >>> threshold.render()
    '0.5'
    """

    data: Any
    requires_grad: bool
    grad: Gradient | None
    name: str
    description: str

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # A dataclass would compare by value, but two parameters of one value are two.
        if "__eq__" not in vars(cls):
            cls.__eq__ = object.__eq__  # type: ignore[method-assign]
            cls.__hash__ = object.__hash__  # type: ignore[method-assign]

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self:
        parameter = super().__new__(cls)
        # Not in __init__: the one that a dataclass generates calls no other.
        vars(parameter).update(data=None, requires_grad=True, grad=None, name="", description="")
        if _fields(cls):
            _check_fields(cls)
        return parameter

    def __init__(
        self, data: Any = None, *, requires_grad: bool = True, description: str = ""
    ) -> None:
        self.data, self.requires_grad, self.description = data, requires_grad, description

    def accumulate_grad(self, gradient: Gradient) -> None:
        """Adds feedback to `grad`."""
        self.grad = gradient if self.grad is None else self.grad.accumulate(gradient)

    def render(self) -> str:
        """The value as text, for a person or a model."""
        return repr(self) if _fields(self) else str(self.data)

    def values(self) -> Mapping[str, bool | int | float | str]:
        """Its numbers and choices by name, which records and tables show; none in most kinds."""
        return {}

    def snapshot(self) -> Any:
        """The present state, independent of later changes: of a dataclass, field name to value."""
        names = _fields(self)
        return copy.deepcopy({n: getattr(self, n) for n in names} if names else self.data)

    def restore(self, snapshot: Any) -> None:
        """Puts a state back exactly."""
        if names := _fields(self):
            for name in names:
                setattr(self, name, copy.deepcopy(snapshot[name]))
            return
        self.data = copy.deepcopy(snapshot)

    def merged_text(self, base: str, ours: str, theirs: str) -> str | None:
        """The text with what each of two changed since a common one; None where they conflict."""
        return merge_lines(base, ours, theirs)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.data!r})"


def merge_lines(base: str, ours: str, theirs: str) -> str | None:
    """The text with the lines that each of two changed; None where they conflict or touch.

    >>> merge_lines("a\\nb\\nc\\n", "A\\nb\\nc\\n", "a\\nb\\nC\\n")
    'A\\nb\\nC\\n'
    >>> merge_lines("a\\nb\\n", "A\\nb\\n", "a\\nB\\n") is None
    True
    """
    lines, edits = base.splitlines(keepends=True), list[set[tuple[int, int, tuple[str, ...]]]]()
    for new in (ours.splitlines(keepends=True), theirs.splitlines(keepends=True)):
        codes = difflib.SequenceMatcher(None, lines, new, autojunk=False).get_opcodes()
        edits.append({(a, b, tuple(new[c:d])) for tag, a, b, c, d in codes if tag != "equal"})
    for one, other in product(*edits):
        if one != other and one[0] <= other[1] and other[0] <= one[1]:
            return None
    for start, end, changed in sorted(edits[0] | edits[1], reverse=True):
        lines[start:end] = changed
    return "".join(lines)


def values_of(parameters: Iterable[Parameter]) -> dict[str, bool | int | float | str]:
    """The numbers and choices of several parameters.

    A name that several of them have is preceded by that of its parameter: `prompt.toml:size`.
    """
    parameters = list(parameters)
    return _named(parameters, [p.values() for p in parameters])


def spaces_of(parameters: Iterable[Parameter]) -> dict[str, str]:
    """The spaces of these numbers and choices as text, by the same names, where they have one."""
    parameters = list(parameters)
    return _named(parameters, [{n: str(s) for n, s in _spaces(p).items()} for p in parameters])


def _spaces(parameter: Parameter) -> Mapping[str, object]:
    spaces = getattr(parameter, "spaces", {})
    return spaces if isinstance(spaces, Mapping) else {}


def _named(parameters: Sequence[Parameter], each: Sequence[Mapping[str, V]]) -> dict[str, V]:
    # A name is the same in every state: those also count whose conditions do not hold in this one.
    pairs = list(zip(parameters, each, strict=True))
    count = Counter(name for p, own in pairs for name in {*own, *_spaces(p)})
    return {
        name if count[name] == 1 else f"{getattr(p, 'label', p.name)}:{name}": value
        for p, own in pairs
        for name, value in own.items()
    }


def _fields(owner: object) -> list[str]:
    """The names of a dataclass's fields; none of any other class."""
    if not dataclasses.is_dataclass(owner):
        return []
    return [field.name for field in dataclasses.fields(owner)]


def _check_fields(kind: type[Any]) -> None:
    """Refuses a dataclass that cannot be a parameter."""
    if issubclass(kind, PathParameter):
        raise ParameterError(
            f"{kind.__name__} is a dataclass, whose __init__ leaves out that of PathParameter",
            hint="take @dataclass away, and write: def __init__(self): super().__init__('a.txt')",
        )
    if kind.__dataclass_params__.frozen:
        raise ParameterError(
            f"{kind.__name__} is a frozen dataclass, and a parameter has to change",
            hint="leave frozen=True out",
        )
    for name in _fields(kind):
        if name in ("requires_grad", "grad", "name"):
            raise ParameterError(
                f"{kind.__name__}.{name} is a field, and every parameter's own attribute",
                hint="give the field another name",
            )


class PathParameter(Parameter):
    """The files below `source` (a folder, or one file) that match, and that git does not ignore.

    Without git every matching file counts; a store in git sets `ignores`.

    Args:
        source: A file or a folder, relative to the working directory at construction.
        pattern: A glob on the path below source: `**` crosses folders. Globs of files that do not
            belong to it follow after ":!", as in "**/*.py:!vendor/**".
        requires_grad: Whether backward fills `grad`.
        description: As of Parameter.

    Raises:
        ParameterError: the source does not exist.
    """

    def __init__(
        self,
        source: str | Path,
        pattern: str = "**/*",
        *,
        requires_grad: bool = True,
        description: str = "",
    ) -> None:
        super().__init__(requires_grad=requires_grad, description=description)
        self.source = Path(os.path.abspath(source))
        self.pattern = pattern
        self.label = str(source)
        self.ignores: Callable[[str], bool] = lambda _name: False
        is_there = os.path.lexists(self.source)  # pathlib raises for a name that is too long
        self.is_file = is_there and not self.source.is_dir()
        self._place = os.path.realpath(self.root)
        if not is_there:
            raise MissingSourceError(
                f"the parameter {self.label} is neither a file nor a folder",
                hint=f"create it, or correct the path (looked in {Path.cwd()})",
                path=str(self.source),
            )

    @property
    def root(self) -> Path:
        """The folder that file names are relative to."""
        return self.source.parent if self.is_file else self.source

    def matches(self, name: str) -> bool:
        """Whether a path below root belongs to the parameter."""
        if self.is_file:
            return name == self.source.name
        return glob_regex(self.pattern).fullmatch(name) is not None and not self.ignores(name)

    def files(self) -> list[str]:
        """The paths below root of all files of the parameter that exist, sorted."""
        if self.is_file:
            there = self.source.is_symlink() or self.source.is_file()
            return [self.source.name] if there else []
        if not self.source.is_dir() or self._leads_elsewhere():
            return []
        return [n for n in list_files(self.source, self.pattern) if not self.ignores(n)]

    def read_text(self, name: str | None = None) -> str:
        """A file's text (UTF-8, newlines as they are); without a name, the only file's.

        Raises:
            ParameterError: there is no such file, or several and no name.
        """
        return self._path(name).read_bytes().decode("utf-8")

    def write_text(self, text: str, name: str | None = None) -> None:
        """Replaces a file's text (UTF-8, newlines as given), or creates it.

        Half of a surrogate pair, which UTF-8 cannot store, becomes U+FFFD.

        Raises:
            ParameterError: the file is a symbolic link, which stays; or it cannot be written.
        """
        path = self._path(name, must_exist=False)
        if path.is_symlink():
            raise ParameterError(
                f"{path.name!r} of the parameter {self.label} is a symbolic link",
                hint=f"change the file that it points to: {os.readlink(path)}",
            )
        content = whole(text).encode()
        mode = read_file(path).mode if path.is_file() else 0o100644
        replace_file(self.root, path.relative_to(self.root).as_posix(), FileState(mode, content))

    def render(self) -> str:
        """Each file's name and text; binary files and links are named only."""
        files = self.snapshot().items()
        return "\n".join(f"=== {name}\n{_as_text(state)}" for name, state in files)

    def snapshot(self) -> Mapping[str, FileState]:
        """The state of every file, by path below root."""
        return {name: read_file(self.root / name) for name in self.files()}

    def restore(self, snapshot: Mapping[str, FileState]) -> None:
        """Writes every file of the snapshot back and removes those that it lacks.

        Raises:
            ParameterError: its folder was replaced by a link; nothing is written behind it.
        """
        if self._leads_elsewhere():
            raise ParameterError(
                f"the folder of the parameter {self.label} leads to {os.path.realpath(self.root)}",
                hint="it was replaced by a symbolic link: put the folder back",
            )
        # Removed first: a new file may stand where the snapshot has a folder.
        for name in self.files():
            if name not in snapshot:
                remove_file(self.root, name)
        for name, state in snapshot.items():
            path = self.root / name
            if not (path.is_symlink() or path.is_file()) or read_file(path) != state:
                replace_file(self.root, name, state)

    def _leads_elsewhere(self) -> bool:
        """Whether the folder, or one above it, was replaced by a symbolic link."""
        return os.path.realpath(self.root) != self._place

    def _path(self, name: str | None, *, must_exist: bool = True) -> Path:
        if name is None:
            names = [self.source.name] if self.is_file else self.files()
            if len(names) != 1:
                raise ParameterError(
                    f"the parameter {self.label} has {len(names)} files",
                    hint="say which: read_text('name')",
                )
            name = names[0]
        if not self.matches(name):
            raise ParameterError(
                f"{name!r} is not part of the parameter {self.label}",
                hint=f"use a path below {self.root} that matches {self.pattern!r}",
            )
        path = path_inside(self.root, name)
        if must_exist and not path.is_file():
            raise ParameterError(
                f"the parameter {self.label} has no file {name!r}",
                hint="look at parameter.files() first",
            )
        return path

    def __repr__(self) -> str:
        pattern = "" if self.is_file or self.pattern == "**/*" else f", {self.pattern!r}"
        return f"PathParameter({self.label!r}{pattern})"


def _as_text(state: FileState) -> str:
    if state.mode == SYMLINK:
        return f"(a symbolic link to {state.content.decode('utf-8', 'replace')})"
    if b"\0" in state.content:
        return f"(binary, {len(state.content)} bytes)"
    return state.content.decode("utf-8", "replace")
