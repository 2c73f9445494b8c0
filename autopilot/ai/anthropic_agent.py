"""A model of any provider as an agent that edits files: it needs a key and no program."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autopilot.ai.agent import Agent, AgentContext, AgentResult, Tool
from autopilot.ai.model.base import ChatModel
from autopilot.ai.model.litellm_model import LiteLLMModel
from autopilot.ai.model.model import Model
from autopilot.ai.model.reply import Message
from autopilot.core.parameter import PathParameter
from autopilot.core.run import tried
from autopilot.errors import AgentError, AutopilotError, UsageError

_SESSIONS = 32
_EDITOR = "str_replace_based_edit_tool"  # the name that the API gives its own


class ModelAgent(Agent):
    """Edits the parameters' files with a text editor tool, and may get further tools.

    Conversations last as long as this object; the latest 32 can be continued.

    Args:
        model: A model of any provider, or its name in LiteLLM: "openai/gpt-5".
        tools: Tools beside the text editor.
        system: Instructions in front of the context's own.
        max_turns: The largest number of replies in one run.

    >>> ModelAgent("openai/gpt-5").model
    LiteLLMModel('openai/gpt-5')
    """

    asks_recorded = True

    def __init__(
        self,
        model: ChatModel | str | None,
        *,
        tools: Sequence[Tool] = (),
        system: str = "",
        max_turns: int = 50,
    ) -> None:
        if not model:
            raise UsageError(
                "an agent of LiteLLM needs a model", hint="name it: --model PROVIDER/MODEL"
            )
        self.model = LiteLLMModel(model) if isinstance(model, str) else model
        self.tools = tuple(tools)
        self.system = system
        self.max_turns = max_turns
        self._lock = threading.Lock()
        self._sessions: dict[str, list[Message]] = {}

    def _run(self, prompt: str, context: AgentContext) -> AgentResult:
        editor = [TextEditor(context.parameters, context.folder)] if context.parameters else []
        with self._lock:
            before = self._sessions.get(context.session_id, [])
        result, messages = self.model.use_tools(
            [*before, {"role": "user", "content": prompt}],
            [*editor, *self.tools],
            system="\n\n".join(part for part in (self.system, context.system) if part),
            role=context.role,
            schema=context.schema,
            max_turns=self.max_turns,
        )
        session = context.session_id or uuid.uuid4().hex
        with self._lock:
            # Taken out first: the dict's order is that of the latest use, and its head is dropped.
            self._sessions.pop(session, None)
            self._sessions[session] = messages
            while len(self._sessions) > _SESSIONS:
                del self._sessions[next(iter(self._sessions))]
        return replace(result, session_id=session)


class AnthropicAgent(ModelAgent):
    """A ModelAgent whose model is Claude, by Anthropic's client.

    Args:
        model: A Model, or a model's name.
        more: See `ModelAgent`.

    >>> AnthropicAgent("claude-haiku-4-5").model
    Model('claude-haiku-4-5')
    """

    def __init__(self, model: ChatModel | str | None = None, **more: Any) -> None:
        if model is None or isinstance(model, str):
            model = Model(model) if model else Model()
        super().__init__(model, **more)


class TextEditor(Tool):
    """The API's text editor, on the files of parameters only.

    Paths are relative to the folder, or absolute. Symbolic links, `..` and files of no parameter
    are refused.

    Args:
        parameters: The files that may be read and edited.
        folder: The folder of relative paths.

    Attributes:
        refused: The paths outside of the parameters that the model asked for.

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
        return {"type": "text_editor_20250728", "name": _EDITOR}

    def function(self) -> Mapping[str, Any]:
        fields = {
            "command": {
                "type": "string",
                "enum": ["view", "create", "str_replace", "insert"],
                "description": "view: shows a file, or names the files below a folder. create: "
                "writes a whole file. str_replace: replaces a text that occurs once. insert: "
                "inserts lines after a line.",
            },
            "path": {"type": "string", "description": "The file, relative to the folder."},
            "view_range": {
                "type": "array",
                "items": {"type": "integer"},
                "description": "view: the first and last line; -1 is the end.",
            },
            "file_text": {"type": "string", "description": "create: the whole content."},
            "old_str": {"type": "string", "description": "str_replace: the text to replace."},
            "new_str": {"type": "string", "description": "str_replace: the text in its place."},
            "insert_line": {"type": "integer", "description": "insert: 0 is the beginning."},
            "insert_text": {"type": "string", "description": "insert: the lines."},
        }
        return {
            "name": _EDITOR,
            "description": "Views and edits the files that may be edited.",
            "input_schema": {
                "type": "object",
                "properties": fields,
                "required": ["command", "path"],
            },
        }

    def use(self, arguments: Mapping[str, Any]) -> str:
        commands = {
            "view": self.view,
            "create": self.create,
            "str_replace": self.replace,
            "insert": self.insert,
        }
        name = str(arguments.get("command"))
        if name not in commands:
            raise AgentError(
                f"there is no command {name!r}", hint=f"use one of: {', '.join(commands)}"
            )
        return commands[name](arguments)

    def view(self, arguments: Mapping[str, Any]) -> str:
        """A file with line numbers, or the names of the files below a folder."""
        path = _text(arguments, "path")
        absolute = self._absolute(path)
        below = [name for name in self.names() if self._absolute(name).is_relative_to(absolute)]
        if absolute.is_dir() and below:
            return "\n".join(below)
        parameter, name = self._find(path)
        lines = _read(parameter, name).splitlines()
        first, last = 1, len(lines)
        given = arguments.get("view_range")
        if isinstance(given, list | tuple) and len(given) == 2:
            # The API's -1 is the end of the file.
            end = last if int(given[1]) == -1 else int(given[1])
            first, last = max(int(given[0]), first), min(end, last)
        return "\n".join(f"{n}\t{lines[n - 1]}" for n in range(first, last + 1))

    def create(self, arguments: Mapping[str, Any]) -> str:
        """Writes a whole file."""
        path, text = _text(arguments, "path"), _text(arguments, "file_text")
        parameter, name = self._find(path)
        parameter.write_text(text, name)
        return f"{path}: written"

    def replace(self, arguments: Mapping[str, Any]) -> str:
        """Replaces a text that occurs once in a file."""
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
        """Inserts lines after a line; 0: at the beginning."""
        path = _text(arguments, "path")
        added = str(arguments.get("insert_text", arguments.get("new_str", "")))
        parameter, name = self._find(path)
        lines = _read(parameter, name).splitlines(keepends=True)
        after = arguments.get("insert_line")
        if not isinstance(after, int) or not 0 <= after <= len(lines):
            raise AgentError(
                f"there is no line {after!r} in {path}", hint=f"insert_line is 0 to {len(lines)}"
            )
        # The last line of a file may lack its newline.
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
            root = parameter.root
            if not absolute.is_relative_to(root) or ".." in Path(path).parts:
                continue
            name = absolute.relative_to(root)
            # A link, or a file below a linked folder, may lead out of the parameter.
            linked = any(root.joinpath(p).is_symlink() for p in (name, *name.parents[:-1]))
            if parameter.matches(name.as_posix()) and not linked:
                return parameter, name.as_posix()
        self.refused.append(path)
        tried(f"asked for {path!r}, which is no parameter: refused")
        raise AgentError(
            f"{path} may not be read or edited", hint=f"these may: {', '.join(self.names()[:20])}"
        )


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
