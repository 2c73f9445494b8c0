"""`autopilot mcp`: the commands of `try` and of reading as tools of an agent's host, over stdio.

A tool is a command of `autopilot` in a process of its own: its locks, its supervision and its
safety in a kill are the command's. Arguments are the options of that command, by the same names.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from typer.models import OptionInfo

from autopilot import __version__
from autopilot.cli.arguments import NAME_OPTION, Arguments
from autopilot.cli.context import Context
from autopilot.cli.memory import query
from autopilot.cli.output import DONE, PROGRESS
from autopilot.cli.reading import log, report, show
from autopilot.cli.trying import done, edit, start, status
from autopilot.engine.target import parse_target
from autopilot.errors import AutopilotError, UsageError
from autopilot.text import as_json, flag
from autopilot.tracking.layout import Layout

if TYPE_CHECKING:
    import mcp_types
    from anyio.abc import ByteReceiveStream, Process
    from mcp.server.context import ServerRequestContext

_LIMITS = (
    *("budget_evaluations", "budget_seconds", "budget_tokens", "budget_usd", "budget_calls"),
    *("max_wait", "item_timeout", "memory"),
)
# What would execute a command line, or take a path, is for a person at the command line.
_START = (
    *("target", "hparams", "seed", "idea", "hypothesis", "in_place", "include_dirty", "monitor"),
    *("mode", "failed_value", "jobs", "num_workers", "measure_noise", "repeat", "fresh"),
)
_BEAT_S, _STOP_S, _END_S = 5.0, 60.0, 10.0
_COMMAND = sys.executable, "-P", "-m", "autopilot"


@dataclass(frozen=True, slots=True)
class Tool:
    """A command as a tool of a host.

    Args:
        words: The command, as it is typed.
        function: Its function, whose options are the tool's arguments.
        takes: The arguments beside the experiment's name.
        needs: The one that must be given; "" if none.
        changes: Whether it measures or changes something: such calls are made in turn.
        left_out: Parts of the answer that have the content of val items.
    """

    name: str
    words: tuple[str, ...]
    function: Callable[..., int | None]
    help: str
    takes: tuple[str, ...] = ()
    needs: str = ""
    changes: bool = False
    left_out: tuple[str, ...] = ()

    def options(self) -> dict[str, tuple[Any, Any, list[str]]]:
        """The arguments: the type of each, its details, and the option's names; none of a word."""
        found = {}
        for parameter in Arguments(self.function).parameters:
            kind, details = get_args(parameter.annotation)
            own = parameter.name.removeprefix("option_").removeprefix("word_")
            names = [
                n for n in (details.default, *(details.param_decls or ())) if isinstance(n, str)
            ]
            names = names or [flag(own)] if isinstance(details, OptionInfo) else []
            long = next((n.partition("/")[0] for n in names if n.startswith("--")), own)
            key = long.removeprefix("--").replace("-", "_")
            key = "experiment" if key == "slug" else key
            if key == "experiment" or key in (*self.takes, self.needs):
                found[key] = kind, details, sorted(names, key=len, reverse=True)
        return found

    def model(self) -> type[BaseModel]:
        """The arguments as a class that checks them."""
        fields: dict[str, Any] = {}
        for key, (kind, details, _) in self.options().items():
            kind = next((each for each in get_args(kind) if each is not type(None)), kind)
            if isinstance(kind, type) and issubclass(kind, Enum):
                kind = Literal[tuple(each.value for each in kind)]
            limits = {"ge": details.min} if details.min is not None else {}
            default = ... if key == self.needs else None
            text = "The experiment; the newest if not given."
            text = text if details is NAME_OPTION else details.help
            field = Field(default, description=text, **limits)
            fields[key] = dict[str, Any] if key == "hparams" else kind, field
        config = ConfigDict(extra="forbid")
        return cast("type[BaseModel]", create_model(self.name, __config__=config, **fields))

    def schema(self) -> dict[str, Any]:
        """The arguments as JSON schema."""
        made = self.model().model_json_schema()
        del made["title"]
        for each in made.get("properties", {}).values():
            each.pop("title", None)
            if each.get("default", ...) is None:
                del each["default"]
        return made

    def command(self, arguments: Mapping[str, Any], top: Path, folder: Path) -> list[str]:
        """The words of a call.

        Each value is one word with its option, or stands behind `--`: none becomes an option.

        Args:
            top: The repository; nothing outside of it may be named.
            folder: Where the server works.

        Raises:
            AutopilotError: an argument that there is not, or a value that it cannot have.
        """
        options, model = self.options(), self.model()
        for key in arguments:
            if key not in options:
                raise UsageError(
                    f"{self.name} has no argument {key!r}", hint=f"it has: {', '.join(options)}"
                )
        try:
            given = model.model_validate_json(json.dumps(arguments), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the arguments"
            raise UsageError(
                f"{self.name}: {where}: {first['msg']}", hint="see its schema"
            ) from error
        if any("\0" in text for text in _texts(arguments)):
            raise UsageError(f"{self.name}: a text has a zero byte", hint="leave it out")
        values = given.model_dump(mode="json", exclude_unset=True)
        if "experiment" in values:
            Layout(values["experiment"])  # refuses what cannot be a name
        words, last = [*self.words, "--json"], list[str]()
        for key, value in values.items():
            names = options[key][2]
            if key == "hparams":
                for name, own in value.items():
                    for text in _texts(own):
                        _check_path(text, top, folder)
                    words.append(f"-H{name}={own if isinstance(own, str) else json.dumps(own)}")
            elif not names:
                if key == "target":
                    _check_target(value, top, folder)
                last = ["--", value]
            elif isinstance(value, bool):
                name, _, no = names[0].partition("/")
                words += [name] if value else [no] if no else []
            else:
                words.append(f"{names[0]}={value}")
        return words + last


TOOLS = {
    tool.name: tool
    for tool in (
        Tool(
            "start",
            ("try", "start"),
            start,
            "Begin an experiment on TARGET whose steps are your edits: measures the baseline, and "
            "answers in which folder (path) to edit which files (parameters). With the name of one "
            "that was begun and no target, that one is made ready again.",
            (*_START, *_LIMITS),
            changes=True,
        ),
        Tool(
            "status",
            ("try", "status"),
            status,
            "Where the experiment stands: best, what was tried, what is left of the budget, and "
            "what is edited and not measured.",
        ),
        Tool(
            "try",
            ("try",),
            edit,
            "Measure what you edited, as an epoch: a better state is kept, any other is taken back "
            "out of the files. Answers the verdict, why, and the ids of items fixed and broken.",
            _LIMITS,
            needs="message",
            changes=True,
        ),
        Tool(
            "undo",
            ("try", "--undo"),
            edit,
            "Take back what is edited and not measured; without that, the last kept edit.",
            changes=True,
        ),
        Tool(
            "done",
            ("try", "done"),
            done,
            "End the experiment: scores the test split on baseline and best. The last call.",
            changes=True,
        ),
        Tool(
            "log", ("log",), log, "The epochs with scores and verdicts.", ("max_count", "reverse")
        ),
        Tool(
            "show",
            ("show",),
            show,
            "One epoch: its change, reason, scores, verdict, and the outcome of each val item.",
            ("epoch",),
            left_out=("failed_items",),
        ),
        Tool(
            "report",
            ("report",),
            report,
            "Write the experiment as an HTML page into the git folder; with md, answer a summary "
            "in Markdown instead.",
            ("md",),
            left_out=("items",),
        ),
        Tool(
            "memory",
            ("memory", "query"),
            query,
            "Lessons: what was tried in this or in all experiments, how it went, and why.",
            ("all", "strategy", "outcome", "category", "node", "epochs", "max_count"),
        ),
    )
}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield name
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def _check_target(text: str, top: Path, folder: Path) -> None:
    """Refuses a target that no file of the repository defines: it would be imported."""
    target, places = parse_target(text), list[Path]()
    if target.path is not None:
        places = [folder / target.path]
    else:
        parts = str(target.module).split(".")
        for base in (folder, folder / "src", top, top / "src"):
            stem = base.joinpath(*parts)
            places += [place for place in (stem.with_suffix(".py"), stem) if place.exists()][:1]
    if not places or not places[0].resolve().is_relative_to(top):
        raise UsageError(f"target {text!r} is not in {top}", hint="name a file of the repository")


def _check_path(text: str, top: Path, folder: Path) -> None:
    """Refuses a text that is a path out of the repository."""
    place = Path(text.removeprefix("file://"))
    is_path = place.is_absolute() or ".." in place.parts or text.startswith("~")
    if is_path and not (text[:1] != "~" and (folder / place).resolve().is_relative_to(top)):
        raise UsageError(f"{text} is not in {top}", hint="name a path of the repository")


def serve(context: Context) -> int:
    """Serve the commands of `try`, log, show, report and memory to an agent's host, by MCP.

    It speaks the Model Context Protocol on stdin and stdout, for the repository of the folder that
    it is started in. Needs pip install 'autopilot[mcp]'.

    \\b
    claude mcp add autopilot -- autopilot mcp
    """
    folder = context.folder.resolve()
    top = context.repository().workdir.resolve()
    try:
        import anyio
        import mcp_types as types
        from mcp.server.lowlevel import Server
        from mcp.server.stdio import stdio_server
        from mcp.shared.exceptions import MCPError
    except ImportError as error:
        raise UsageError(
            "autopilot mcp takes the package mcp", hint="pip install 'autopilot[mcp]'"
        ) from error
    project = ["--project", context.project] if context.project else []
    changing = anyio.Lock()

    async def list_tools(_: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(
            tools=[
                types.Tool(
                    name=tool.name,
                    description=tool.help,
                    input_schema=tool.schema(),
                    annotations=types.ToolAnnotations(
                        read_only_hint=not tool.changes, open_world_hint=False
                    ),
                )
                for tool in TOOLS.values()
            ]
        )

    async def call_tool(
        ctx: ServerRequestContext, params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        tool = TOOLS.get(params.name)
        if tool is None:
            known = ", ".join(TOOLS)
            raise MCPError(types.INVALID_PARAMS, f"no tool {params.name!r}; there are: {known}")
        try:
            words = tool.command(params.arguments or {}, top, folder)
        except AutopilotError as error:
            return _answer(tool, 2, {"error": error.message, "hint": error.hint})
        call = Call([*_COMMAND, *project, *words], folder, ctx.session.report_progress)
        if not tool.changes:
            return _answer(tool, *await call.run())
        async with changing:
            return _answer(tool, *await call.run())

    server = Server(
        "autopilot",
        version=__version__,
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )

    async def main() -> None:
        async with anyio.create_task_group() as group:

            async def end_by_signal() -> None:
                with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals:
                    async for _ in signals:
                        group.cancel_scope.cancel()

            group.start_soon(end_by_signal)
            async with stdio_server() as (reader, writer):
                await server.run(reader, writer, server.create_initialization_options())
            group.cancel_scope.cancel()

    anyio.run(main)
    return DONE


INSTRUCTIONS = (
    "Improve a system step by step, each edit measured: start, then edit the files that it names, "
    "try with a message that says what you changed, and again; undo takes back; done ends. A "
    "rejected edit is out of the files already. `autopilot skill` prints the whole procedure."
)


def _answer(tool: Tool, code: int, document: dict[str, Any]) -> mcp_types.CallToolResult:
    import mcp_types as types

    document = {name: value for name, value in document.items() if name not in tool.left_out}
    text = document.get("markdown") or as_json(document, indent=2)
    if "error" in document:
        text = "\n  hint: ".join(filter(None, (f"error: {document['error']}", document["hint"])))
    return types.CallToolResult(
        content=[types.TextContent(text=text)],
        structured_content=document,
        is_error=code != DONE,
    )


class Call:
    """A command in a process of its own.

    Args:
        report: Takes the lines that it prints on stderr, with their number, as its progress.
    """

    def __init__(
        self, command: list[str], folder: Path, report: Callable[[float, None, str], Any]
    ) -> None:
        self._command, self._folder, self._report = command, folder, report
        self._lines, self._began_s = list[str](), time.monotonic()
        self._told = 0

    async def run(self) -> tuple[int, dict[str, Any]]:
        """Its exit code, and the document that it prints.

        Cancelled, it is interrupted as by Ctrl-C, and waited for: what it was doing is resumable.
        """
        import anyio

        environment = os.environ | {PROGRESS: "1", "NO_COLOR": "1"}
        try:
            process = await anyio.open_process(
                self._command, stdin=subprocess.DEVNULL, cwd=self._folder, env=environment
            )
        except (OSError, ValueError) as error:  # an argument that is too long, or no text
            return 1, {"error": f"the command cannot be started: {error}", "hint": ""}
        assert process.stdout and process.stderr, "both are pipes"
        out = bytearray()
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._beat)
                group.start_soon(self._follow, process.stderr)
                async for part in process.stdout:
                    out += part
                await process.wait()
                group.cancel_scope.cancel()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await _interrupt(process)
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await process.aclose()
        code = process.returncode or DONE
        try:
            return code, dict(json.loads(out))
        except ValueError:
            last = " ".join(self._lines[-3:])
            why = last.removeprefix("error: ") or f"it ended with exit code {code}"
            return code or 1, {"error": why, "hint": ""}

    async def _follow(self, stream: ByteReceiveStream) -> None:
        async for line in _lines(stream):
            self._lines = [*self._lines[-20:], line]
            await self._tell(line)

    async def _beat(self) -> None:
        """Says that it goes on, where it has printed nothing for a while: hosts may wait less."""
        import anyio

        while True:
            told = self._told
            await anyio.sleep(_BEAT_S)
            if told == self._told:
                last = f"{self._lines[-1]}; " if self._lines else ""
                await self._tell(f"{last}{time.monotonic() - self._began_s:.0f} s")

    async def _tell(self, text: str) -> None:
        self._told += 1
        await self._report(self._told, None, text)


async def _lines(stream: ByteReceiveStream) -> AsyncIterator[str]:
    rest = b""
    async for part in stream:
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            if text := line.decode(errors="replace").strip():
                yield text


async def _interrupt(process: Process) -> None:
    """Ends a command as Ctrl-C does; a second one, then a kill, where it does not."""
    import anyio

    async def drain(stream: ByteReceiveStream | None) -> None:
        async for _ in stream or ():  # type: ignore[union-attr]  # never None
            pass

    for number, patience_s in ((signal.SIGINT, _STOP_S), (signal.SIGINT, _END_S)):
        if process.returncode is not None:
            return
        process.send_signal(number)
        with anyio.move_on_after(patience_s):
            async with anyio.create_task_group() as group:
                group.start_soon(drain, process.stdout)
                group.start_soon(drain, process.stderr)
                await process.wait()
                group.cancel_scope.cancel()
    if process.returncode is None:
        process.kill()
