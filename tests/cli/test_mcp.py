"""`autopilot mcp`, driven by the client of the same package, over real pipes."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import yaml
from mcp import ClientSession
from mcp.client.stdio import StdioServerParameters, stdio_client
from server import Received, Reply, say, use_tool
from typer.main import get_command
from waiting import calls, wait_for

from autopilot.cli.main import AutoPilotCLI
from autopilot.cli.tools import TOOLS
from tests.cli.conftest import COMMAND as PROGRAM

if TYPE_CHECKING:
    from tests.cli.conftest import Place
    from tests.conftest import Serve

COMMAND = (*PROGRAM, "mcp")
CLAUDE = os.environ.get("AUTOPILOT_TEST_CLAUDE", "")


class Host:
    """An agent's host."""

    def __init__(self, session: ClientSession) -> None:
        self.session, self.progress = session, list[tuple[float, str]]()
        self.heard = ""

    async def call(self, tool: str, **arguments: Any) -> Any:
        """The answer of a tool that must succeed."""
        done = await self.session.call_tool(tool, arguments, progress_callback=self._note)
        assert not done.is_error, done.content
        (content,) = done.content
        self.heard += f"{content.text}\n{done.structured_content}\n"
        return done.structured_content or content.text

    async def refused(self, tool: str, **arguments: Any) -> str:
        """The error of a tool that must not."""
        done = await self.session.call_tool(tool, arguments)
        assert done.is_error, done
        (content,) = done.content
        assert content.text.startswith("error: ") and len(content.text.splitlines()) == 2
        return content.text

    async def _note(self, number: float, _total: float | None, text: str | None) -> None:
        self.progress.append((number, text or ""))


@asynccontextmanager
async def hosted(place: Place) -> AsyncIterator[Host]:
    """A host that has started the server in a repository."""
    program, *arguments = COMMAND
    server = StdioServerParameters(
        command=program, args=arguments, env=dict(os.environ), cwd=place.top
    )
    async with stdio_client(server) as streams, ClientSession(*streams) as session:
        await session.initialize()
        yield Host(session)


# Each val item has words that an agent must not see; one is quoted by an error.
SECRET = """
    def val_dataloader(self):
        rows = [{"id": f"i{at}", "at": at, "words": "CANARY"} for at in range(1, 6)]
        return DataLoader(rows, self.size)

    def score(self, item):
        words = item.metadata.get("words", "")
        if words and item.metadata["at"] == 5:
            raise ValueError(f"cannot do {words}")
        passed = int(self.x.read_text()) > item.metadata["at"]
        said = f"raise it {words}".strip()
        return Datum(success=passed, feedback=said, metadata={"answer": words})
"""


def test_a_whole_experiment(place: Place) -> None:
    place.change("counter.py", ("    val_dataloader = test", f"{SECRET}\n    test"))
    (place.top.parent / "counter.py").write_text("raise SystemExit('outside')")
    (place.top / "link.py").symlink_to(place.top.parent / "counter.py")

    async def drive() -> None:
        async with hosted(place) as host:
            listed = (await host.session.list_tools()).tools
            assert [tool.name for tool in listed if not tool.annotations.read_only_hint] == [
                *("start", "context", "try", "undo", "done")
            ]
            # Nothing outside is reachable, and no value becomes an option.
            for target in ("../counter.py", "link.py", "os:system", str(place.top.parent / "x.py")):
                assert f"{target!r} is not in {place.top}" in await host.refused(
                    "start", target=target
                )
            assert "-C/: no such file" in await host.refused("start", target="-C/")
            outside = {"size": ["/etc/passwd"]}
            assert "/etc/passwd is not in" in await host.refused(
                "start", target="counter.py", hparams=outside
            )
            unknown = await host.refused("start", target="counter.py", folder="/")
            assert "start has no argument 'folder'" in unknown and "it has: target, " in unknown
            assert "message: Field required" in await host.refused("try")
            assert "a valid integer" in await host.refused("log", max_count="3")
            assert "cannot be an experiment's name" in await host.refused("log", experiment="--all")

            began = await host.call(
                "start", target="counter.py", experiment="one", measure_noise=False
            )
            assert (began["best"], began["parameters"]) == (0.0, ["x.txt"])
            assert "epoch 0 val: 2 of 5 items" in [text for _, text in host.progress]
            numbers = [number for number, _ in host.progress]
            assert numbers == sorted(set(numbers))
            desk = Path(began["path"], "x.txt")
            desk.write_text("3\n")
            told = await host.call("context")
            assert "raise it (5 items)" in told and f"x.txt in {began['path']}" in told
            kept = await host.call("try", message="--undo: set it to 3")
            assert (kept["verdict"], kept["after"], kept["fixed"]) == ("kept", 0.4, ["i1", "i2"])
            desk.write_text("2\n")
            rejected = await host.call("try", message="lower it", budget_evaluations=40)
            assert (rejected["verdict"], rejected["broken"]) == ("rejected", ["i2"])
            assert desk.read_text() == "3\n"
            desk.write_text("9\n")
            assert (await host.call("status"))["edited"] == ["x.txt"]
            assert (await host.call("undo"))["taken_back"] == ["x.txt"]
            assert desk.read_text() == "3\n"

            assert [each["verdict"] for each in (await host.call("log"))["log"]] == [
                *("baseline", "kept", "rejected")
            ]
            shown = await host.call("show", epoch="2")
            assert shown["summary"] == "lower it" and "failed_items" not in shown
            assert shown["failure_kinds"][0]["type"] == "ValueError"
            # Text alone: hosts would show a model the JSON instead.
            assert "| rejected | lower it |" in await host.call("report", md=True)
            page = Path((await host.call("report"))["path"])
            assert page.is_relative_to(place.top / ".git") and page.is_file()
            lessons = (await host.call("memory", outcome="rejected"))["lessons"]
            assert [lesson["summary"] for lesson in lessons] == ["lower it"]
            assert (await host.call("done"))["test"]
            assert "CANARY" not in f"{host.heard} {host.progress}"

    with place.untouched():
        anyio.run(drive)
    assert place.verdicts("one") == ["baseline", "kept", "rejected"]
    place.check_sound()


def test_a_call_that_is_cancelled_and_a_server_that_is_ended_lose_nothing(rules: Place) -> None:
    wait, ready = (rules.top.parent / name for name in ("wait", "ready"))

    async def cancel() -> None:
        async with hosted(rules) as host:
            await host.call("start", target="rules.py", experiment="one", in_place=True)
            calls(rules)
            rules.write("rules/x.txt", "4\n")
            wait.touch()
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: host.call("try", message="to 4"))
                while not ready.exists():
                    await anyio.sleep(0.01)
                group.cancel_scope.cancel()

    anyio.run(cancel)
    assert rules.read("rules/x.txt") == "4\n"
    ready.unlink()
    server = subprocess.Popen(COMMAND, cwd=rules.top, stdin=-1, stdout=-1, text=True)
    client = {"protocolVersion": "2025-06-18", "capabilities": {}}
    client |= {"clientInfo": {"name": "a host", "version": "1"}}
    call = {"name": "try", "arguments": {"message": "to 4"}}
    assert server.stdin and server.stdout
    for request in (
        {"id": 1, "method": "initialize", "params": client},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/call", "params": call},
        # It waits for its turn, and is never to have it.
        {"id": 3, "method": "tools/call", "params": {"name": "undo", "arguments": {}}},
    ):
        server.stdin.write(json.dumps({"jsonrpc": "2.0", **request}) + "\n")
        server.stdin.flush()
    wait_for(ready.exists)
    server.send_signal(signal.SIGTERM)
    said = server.stdout.read()
    assert server.wait(timeout=60) == 128 + signal.SIGTERM
    server.stdin.close()
    server.stdout.close()
    # Nothing but messages is on stdout.
    answers = {each.get("id"): each for each in map(json.loads, said.splitlines())}
    answer = answers[2]["result"]
    assert answer["isError"] and answer["structuredContent"]["why"] == "interrupted in epoch 1"
    wait.unlink()
    kept = rules.run("try", "-m", "to 4", "--json").document
    assert (kept["verdict"], kept["after"]) == ("kept", 0.6)
    # What was measured before was not measured again.
    assert calls(rules) == "1 2 3 3 3 4 5"
    assert rules.verdicts("one") == ["baseline", "kept"]


def test_without_the_package_it_says_how_to_get_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mcp.server.lowlevel", None)
    refused = place.call("mcp", code=2)
    assert "autopilot mcp takes the package mcp" in refused.error
    assert "pip install 'autopilot[mcp]'" in refused.hint


def test_the_skill_names_only_what_there_is(place: Place) -> None:
    text = place.call("skill").out
    head, body = text.split("---\n", 2)[1:]
    known = yaml.safe_load(head)
    assert known.keys() == {"name", "description"}
    assert re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", known["name"])
    assert 0 < len(known["description"]) <= 1024 and len(body.splitlines()) < 500
    assert place.call("skill", "--json").document == {"skill": text}

    root = get_command(AutoPilotCLI().app())
    commands, options = [], set[str]()
    for quoted in re.findall("`([^`]+)`", body):
        first, *words = shlex.split(quoted)
        options |= {word for word in (first, *words) if word.startswith("-")}
        if first == "autopilot" and words:
            commands.append(quoted)
            command: Any = root
            for word in words:
                if word.startswith("-"):
                    assert any(word in each.opts for each in command.params), quoted
                    break
                found = command.get_command(None, word) if hasattr(command, "commands") else None
                assert found or word.isupper(), quoted
                command = found or command
    assert len(commands) > 15
    every = {opt for name in ("try", "start") for opt in options_of(root, name)} | {"--json"}
    assert options - {"-"} <= every
    rows = dict(re.findall(r"^\| (\w+) \| `([^`]+)` \|", body, re.MULTILINE))
    assert {name: row.split()[1] for name, row in rows.items()} == {
        name: tool.words[0] for name, tool in TOOLS.items()
    }


def options_of(root: Any, name: str) -> list[str]:
    """The options of `autopilot try`, or of a command below it."""
    tried = root.get_command(None, "try")
    command = tried if name == "try" else tried.commands[name]
    return [opt for parameter in command.params for opt in parameter.opts]


@pytest.mark.skipif(not CLAUDE, reason="AUTOPILOT_TEST_CLAUDE names no Claude Code")
def test_claude_code_is_a_host(
    place: Place, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real one, with the scripted model: it edits in the folder that it works in."""
    monkeypatch.setenv("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
    monkeypatch.setenv("DISABLE_AUTOUPDATER", "1")
    x = str(place.top / "x.txt")
    steps = [
        use_tool("mcp__autopilot__start", target="counter.py", experiment="one", in_place=True),
        use_tool("Read", file_path=x),
        use_tool("Edit", file_path=x, old_string="1", new_string="3"),
        use_tool("mcp__autopilot__try", message="x: set it to 3"),
        use_tool("mcp__autopilot__show", epoch="1", folder="/"),
        use_tool("mcp__autopilot__done"),
        say("It passes two items more."),
    ]

    def script(request: Received) -> Reply:
        if "tools" not in request.body:
            return say("ok")
        if not any(tool["name"].startswith("mcp__autopilot") for tool in request.body["tools"]):
            return use_tool("WaitForMcpServers")
        said = [
            x for m in request.body["messages"] if m["role"] == "assistant" for x in m["content"]
        ]
        done = sum(x.get("name", "WaitForMcpServers") != "WaitForMcpServers" for x in said)
        return steps[min(done, len(steps) - 1)]

    server = serve(script)
    settings = tmp_path / "mcp.json"
    command, *arguments = COMMAND
    servers = {"autopilot": {"command": command, "args": arguments}}
    settings.write_text(json.dumps({"mcpServers": servers}))
    options = ["--print", "Improve it", "--model", "claude-sonnet-4-5", "--strict-mcp-config"]
    options += ["--mcp-config", str(settings), "--allowedTools", "mcp__autopilot,Read,Edit"]
    told = subprocess.run(
        [CLAUDE, *options],
        cwd=place.top,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    results = [
        str(block["content"])
        for message in max(server.requests, key=lambda r: len(r.body["messages"])).body["messages"]
        for block in message["content"]
        if isinstance(block, dict) and block["type"] == "tool_result"
    ][-6:]
    assert '"baseline":0,' in results[0], results
    assert '"verdict":"kept"' in results[3]
    assert "show has no argument 'folder'" in results[4]
    assert place.verdicts("one") == ["baseline", "kept"]
    assert "test 0.000 -> 0.400" in place.call("report", "one", "--md").out
    assert place.read("x.txt") == "3\n"
