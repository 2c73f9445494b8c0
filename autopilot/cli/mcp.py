"""`autopilot mcp`: the commands of `try` and of reading for an agent's host, over stdio.

Each call of a tool is a command of `autopilot` in a process of its own: its locks, its supervision
and its safety in a kill are the command's.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopilot import __version__
from autopilot.cli.context import Context
from autopilot.cli.output import DONE, FAILED, FOR_AGENT, INTERRUPTED, PROGRESS, USAGE
from autopilot.cli.tools import INSTRUCTIONS, TOOLS
from autopilot.errors import AutopilotError, UsageError
from autopilot.text import as_json

if TYPE_CHECKING:
    import mcp_types
    from anyio import Event
    from anyio.abc import ByteReceiveStream, Process
    from mcp.server.context import ServerRequestContext

_BEAT_S, _STOP_S = 5.0, 60.0
_COMMAND = sys.executable, "-P", "-m", "autopilot"


def serve(context: Context) -> int:
    """Serve `try`, and what there is to read, to an agent's host by MCP.

    It speaks the Model Context Protocol on stdin and stdout, for the repository of the folder that
    it is started in. Needs pip install 'autopilot[mcp]'.

    \b
    autopilot mcp
    claude mcp add autopilot -- autopilot mcp
    """
    folder = context.folder.resolve()
    top = context.repository().workdir.resolve()
    try:
        import anyio
        import anyio.to_thread
        import mcp_types as types
        from mcp.server.lowlevel import Server
        from mcp.server.stdio import stdio_server
        from mcp.shared.exceptions import MCPError
    except ImportError as error:
        raise UsageError(
            "autopilot mcp takes the package mcp", hint="pip install 'autopilot[mcp]'"
        ) from error
    project = ["--project", context.project] if context.project else []
    changing, ending, running = anyio.Lock(), anyio.Event(), set[ToolProcess]()

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
            return _answer(USAGE, {"error": error.message, "hint": error.hint})
        command, report = [*_COMMAND, *project, *words], ctx.session.report_progress
        call = ToolProcess(command, folder, report, ending)
        running.add(call)
        try:
            async with changing if tool.changes else contextlib.nullcontext():
                return _answer(*await call.run())
        finally:
            running.discard(call)

    server = Server(
        "autopilot",
        version=__version__,
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )

    async def end_by_signal() -> None:
        ends = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
        threads = anyio.to_thread.current_default_thread_limiter()
        with anyio.open_signal_receiver(*ends) as signals:
            async for number in signals:
                ending.set()
                for call in running:
                    call.interrupt()
                with anyio.move_on_after(_STOP_S):
                    # Until the answers are written, by a thread beside the one that reads stdin.
                    while running or threads.borrowed_tokens > 1:
                        await anyio.sleep(0.01)
                        await anyio.wait_all_tasks_blocked()
                # Not by a return: a thread waits for the next line of stdin.
                os._exit(128 + number)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(end_by_signal)
            async with stdio_server() as (reader, writer):
                await server.run(reader, writer, server.create_initialization_options())
            group.cancel_scope.cancel()

    anyio.run(main)
    return DONE


def _answer(code: int, document: dict[str, Any]) -> mcp_types.CallToolResult:
    import mcp_types as types

    text = document.get("markdown") or as_json(document, indent=2)
    if "error" in document:
        text = "\n  hint: ".join(filter(None, (f"error: {document['error']}", document["hint"])))
    return types.CallToolResult(
        content=[types.TextContent(text=text)],
        # Hosts show a model this rather than the text, where there is both.
        structured_content=None if "markdown" in document else document,
        is_error=code != DONE,
    )


class ToolProcess:
    """A command in a process of its own.

    Args:
        report: Takes its progress: a number that grows, and a line.
        ending: No command begins any more.
    """

    def __init__(
        self,
        command: list[str],
        folder: Path,
        report: Callable[[float, None, str], Any],
        ending: Event,
    ) -> None:
        self._command, self._folder, self._report = command, folder, report
        self._ending = ending
        self._lines, self._began_s = deque[str](maxlen=3), time.monotonic()
        self._told, self._last = 0, ""
        self._process: Process | None = None

    async def run(self) -> tuple[int, dict[str, Any]]:
        """Its exit code, and the document that it prints.

        Cancelled, it is interrupted as by Ctrl-C, and waited for: what it was doing is resumable.
        """
        import anyio

        if self._ending.is_set():  # while it waited for its turn
            return INTERRUPTED, {"error": "interrupted before it began", "hint": ""}
        environment = os.environ | {PROGRESS: "1", FOR_AGENT: "1", "NO_COLOR": "1"}
        try:
            process = await anyio.open_process(
                self._command, stdin=subprocess.DEVNULL, cwd=self._folder, env=environment
            )
        except (OSError, ValueError) as error:  # an argument that is too long, or no text
            return FAILED, {"error": f"the command cannot be started: {error}", "hint": ""}
        self._process = process
        if self._ending.is_set():
            self.interrupt()
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
            last = " ".join(self._lines)
            why = last.removeprefix("error: ") or f"it ended with exit code {code}"
            return code or FAILED, {"error": why, "hint": ""}

    def interrupt(self) -> None:
        """Ends it as Ctrl-C does."""
        with contextlib.suppress(ProcessLookupError):
            if self._process is not None:
                self._process.send_signal(signal.SIGINT)

    async def _follow(self, stream: ByteReceiveStream) -> None:
        rest = b""
        async for part in stream:
            *whole, rest = (rest + part).split(b"\n")
            for line in filter(None, (each.decode(errors="replace").strip() for each in whole)):
                self._lines.append(line)
                # Others may quote a val item, which an agent must not see.
                if line.startswith(("epoch ", "waiting for ")):
                    self._last = f"{line}; "
                    await self._tell(line)

    async def _beat(self) -> None:
        """Says that it goes on, where it has printed nothing for a while: hosts may wait less."""
        import anyio

        while True:
            told = self._told
            await anyio.sleep(_BEAT_S)
            if told == self._told:
                await self._tell(f"{self._last}{time.monotonic() - self._began_s:.0f} s")

    async def _tell(self, text: str) -> None:
        self._told += 1
        await self._report(self._told, None, text)


async def _interrupt(process: Process) -> None:
    """Ends a command as Ctrl-C does; kills it where it does not."""
    import anyio

    async def drain(stream: ByteReceiveStream | None) -> None:
        async for _ in stream or ():  # type: ignore[union-attr]  # never None
            pass

    if process.returncode is None:
        process.send_signal(signal.SIGINT)
        with anyio.move_on_after(_STOP_S):
            async with anyio.create_task_group() as group:
                group.start_soon(drain, process.stdout)
                group.start_soon(drain, process.stderr)
                await process.wait()
                group.cancel_scope.cancel()
        if process.returncode is None:
            process.kill()
