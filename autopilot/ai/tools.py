"""Tools that a model may use, and the text editor on the parameters' files."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autopilot.core.parameter import PathParameter
from autopilot.core.run import tried
from autopilot.errors import AgentError, AutopilotError


class Tool(ABC):
    """Something that a model may use. Errors of autopilot are told to the model; others end it."""

    @abstractmethod
    def definition(self) -> Mapping[str, Any]:
        """The tool as the Messages API takes it: name, description and input_schema, or a type."""

    @abstractmethod
    def use(self, arguments: Mapping[str, Any]) -> str:
        """Does it, and says what came of it.

        Raises:
            AutopilotError: it cannot be done; message and hint are told to the model.
        """


class TextEditor(Tool):
    """The API's text editor, on the files of parameters and nothing else.

    Paths are relative to the folder, or absolute. Symbolic links, `..` and what belongs to no
    parameter are refused.

    Args:
        parameters: What may be read and edited.
        folder: What relative paths are relative to.

    Attributes:
        refused: The paths outside of the parameters that were asked for.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "prompt.md").write_text("be brief\\n")
    >>> editor = TextEditor([PathParameter(folder / "prompt.md")], folder)
    >>> editor.use({"command": "str_replace", "path": "prompt.md", "old_str": "brief",
    ...             "new_str": "kind"})
    'prompt.md: replaced'
    >>> (folder / "prompt.md").read_text()
    'be kind\\n'
    """

    def __init__(self, parameters: Sequence[PathParameter], folder: Path | None = None) -> None:
        self.parameters = list(parameters)
        self.folder = Path(os.path.abspath(folder or Path.cwd()))
        self.refused: list[str] = []

    def definition(self) -> Mapping[str, Any]:
        return {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"}

    def use(self, arguments: Mapping[str, Any]) -> str:
        commands = {
            "view": self.view,
            "create": self.create,
            "str_replace": self.replace,
            "insert": self.insert,
        }
        command = commands.get(str(arguments.get("command")))
        if command is None:
            raise AgentError(
                f"there is no command {arguments.get('command')!r}",
                hint=f"use one of: {', '.join(commands)}",
            )
        return command(arguments)

    def view(self, arguments: Mapping[str, Any]) -> str:
        """A file with line numbers, or the names of the files below a folder."""
        path = _text(arguments, "path")
        absolute = self._absolute(path)
        below = [name for name in self.names() if self._absolute(name).is_relative_to(absolute)]
        if absolute.is_dir() and below:
            return "\n".join(below)
        parameter, name = self._find(path)
        lines = _read(parameter, name).splitlines()
        first, last = _range(arguments.get("view_range"), len(lines))
        return "\n".join(f"{n}\t{lines[n - 1]}" for n in range(first, last + 1))

    def create(self, arguments: Mapping[str, Any]) -> str:
        """Writes a whole file."""
        path, text = _text(arguments, "path"), _text(arguments, "file_text")
        parameter, name = self._find(path)
        parameter.write_text(text, name)
        return f"{path}: written"

    def replace(self, arguments: Mapping[str, Any]) -> str:
        """Replaces a text that stands in a file once."""
        path, old = _text(arguments, "path"), _text(arguments, "old_str")
        parameter, name = self._find(path)
        text = _read(parameter, name)
        count = text.count(old) if old else 0
        if count != 1:
            raise AgentError(
                f"old_str stands {count} times in {path}", hint="give a text that stands there once"
            )
        parameter.write_text(text.replace(old, str(arguments.get("new_str") or "")), name)
        return f"{path}: replaced"

    def insert(self, arguments: Mapping[str, Any]) -> str:
        """Puts lines behind a line; 0: at the beginning."""
        path = _text(arguments, "path")
        added = str(arguments.get("insert_text", arguments.get("new_str", "")))
        parameter, name = self._find(path)
        lines = _read(parameter, name).splitlines(keepends=True)
        after = arguments.get("insert_line")
        if not isinstance(after, int) or not 0 <= after <= len(lines):
            raise AgentError(
                f"there is no line {after!r} in {path}", hint=f"insert_line is 0 to {len(lines)}"
            )
        if after and not lines[after - 1].endswith("\n"):
            lines[after - 1] += "\n"
        if not added.endswith("\n"):
            added += "\n"
        parameter.write_text("".join([*lines[:after], added, *lines[after:]]), name)
        return f"{path}: inserted"

    def names(self) -> list[str]:
        """The editable files that exist, relative to the folder."""
        return [
            os.path.relpath(p.root / n, self.folder) for p in self.parameters for n in p.files()
        ]

    def _absolute(self, path: str) -> Path:
        return Path(os.path.normpath(self.folder / path))

    def _find(self, path: str) -> tuple[PathParameter, str]:
        absolute = self._absolute(path)
        for parameter in self.parameters:
            if not absolute.is_relative_to(parameter.root) or ".." in Path(path).parts:
                continue
            name = absolute.relative_to(parameter.root).as_posix()
            if parameter.matches(name) and not _through_link(parameter.root, name):
                return parameter, name
        self.refused.append(path)
        tried(f"asked for {path!r}, which is no parameter: refused")
        raise AgentError(
            f"{path} may not be read or edited", hint=f"these may: {', '.join(self.names()[:20])}"
        )


def _through_link(root: Path, name: str) -> bool:
    parts = Path(name).parts
    return any((root.joinpath(*parts[: n + 1])).is_symlink() for n in range(len(parts)))


def _read(parameter: PathParameter, name: str) -> str:
    try:
        return parameter.read_text(name)
    except UnicodeDecodeError as error:
        raise AgentError(f"{name} is no text", hint="leave it as it is") from error
    except AutopilotError as error:
        raise AgentError(
            f"there is no file {name}", hint="create it, or view the folder"
        ) from error


def _text(arguments: Mapping[str, Any], name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str):
        raise AgentError(f"{name} is missing", hint=f"{name} is a text")
    return value


def _range(given: object, count: int) -> tuple[int, int]:
    if not isinstance(given, list | tuple) or len(given) != 2:
        return 1, count
    first, last = int(given[0]), int(given[1])
    return max(first, 1), count if last == -1 else min(last, count)
