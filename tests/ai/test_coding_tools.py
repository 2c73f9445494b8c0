"""Presets of coding tools, each against a program that behaves as the tool's documentation says."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from checkouts import commit_all
from runs import autopilot, notes, subjects

from autopilot.ai.agent import AgentContext, AgentResult
from autopilot.ai.coding_tools import AiderAgent, CodexAgent, GeminiAgent
from autopilot.core.parameter import PathParameter
from autopilot.errors import (
    AgentError,
    AgentNotFoundError,
    AgentReplyError,
    KeyRefusedError,
    NoCreditError,
    UsageError,
)

# Arguments are read as strictly as the tools do; HOW says what happens.
HEAD = """#!{python}
import argparse, json, os, pathlib, sys
how = os.environ.get("HOW", "")
home = pathlib.Path(os.environ["TOOL_HOME"])
def edit(path):
    path = pathlib.Path(path)
    path.write_text(path.read_text() + "better\\n")
def asked(prompt, given):
    seen = json.loads((home / "seen.json").read_text()) if (home / "seen.json").exists() else []
    seen.append({{"prompt": prompt, "given": given, "folder": os.getcwd()}})
    (home / "seen.json").write_text(json.dumps(seen))
SAID = 'Done. {{"strategy": "add", "summary": "add a line"}}'
"""
# `codex exec --help`, docs/exec.md, and the output of codex 0.171.
CODEX = """
parser = argparse.ArgumentParser()
parser.add_argument("--json", action="store_true", required=True)
parser.add_argument("--color", choices=["always", "never", "auto"])
parser.add_argument("--sandbox", choices=["read-only", "workspace-write", "danger-full-access"])
parser.add_argument("--skip-git-repo-check", action="store_true")
parser.add_argument("-m", "--model")
parser.add_argument("-c", "--config", action="append")
parser.add_argument("rest", nargs="+")
assert sys.argv[1] == "exec"
given = vars(parser.parse_args(sys.argv[2:]))
*resume, prompt = given["rest"]
assert prompt == "-" and (not resume or resume[0] == "resume")
def say(kind, **more): print(json.dumps({"type": kind, **more}))
threads = home / "threads.json"
known = json.loads(threads.read_text()) if threads.exists() else {}
if resume and resume[1] not in known:
    sys.exit(f"Error: thread/resume failed: no rollout found for thread id {resume[1]}\\n\\n"
             "Stack backtrace:\\n   0: <unknown>")
asked(sys.stdin.read(), given)
thread = resume[1] if resume else f"thread-{len(known)}"
print("WARNING: it reads on", file=sys.stderr)
say("thread.started", thread_id=thread)
say("item.completed", item={"id": "i0", "type": "error", "message": "unknown model metadata"})
say("turn.started")
say("error", message="Reconnecting... 1/5")
if how == "fail":
    say("turn.failed", error={"message": "You've hit your usage limit."})
    sys.exit(1)
if how != "idle" and given["sandbox"] == "workspace-write":
    edit("prompt.md")
    say("item.completed", item={"id": "i1", "type": "file_change", "changes": []})
say("item.completed", item={"id": "i2", "type": "agent_message", "text": "I begin."})
say("item.completed", item={"id": "i3", "type": "agent_message", "text": SAID})
known[thread] = known.get(thread, 0) + 1
threads.write_text(json.dumps(known))
say("turn.completed", usage={"input_tokens": 100 * known[thread], "cached_input_tokens": 40,
    "output_tokens": 20 * known[thread], "reasoning_output_tokens": 5})
"""
# `gemini --help`, docs/cli/headless.md, docs/cli/session-management.md, and the output of 0.61.
GEMINI = """
parser = argparse.ArgumentParser()
parser.add_argument("-o", "--output-format", choices=["text", "json", "stream-json"])
parser.add_argument("--approval-mode", choices=["default", "auto_edit", "yolo", "plan"])
parser.add_argument("--skip-trust", action="store_true")
parser.add_argument("-m", "--model")
parser.add_argument("-r", "--resume")
parser.add_argument("--include-directories")
given = vars(parser.parse_args())
assert given["output_format"] == "json"
print("Ripgrep is not available. Falling back to GrepTool.", file=sys.stderr)
def say(file, **more): print(json.dumps({"session_id": session, **more}, indent=2), file=file)
session = given["resume"] or "session-1"
if not given["skip_trust"] or how == "fail":
    say(sys.stderr, error={"type": "Error", "message": "API key not valid.", "code": 400})
    sys.exit(144)
asked(sys.stdin.read(), given)
if how != "idle" and given["approval_mode"] == "auto_edit":
    edit("prompt.md")
tokens = {"input": 60, "prompt": 100, "candidates": 20, "total": 130, "cached": 40,
    "thoughts": 10, "tool": 0}
say(sys.stdout, response=SAID, stats={"models": {"gemini-2.5-pro": {"api": {}, "tokens": tokens}}})
"""
# docs/scripting.md, docs/config/options.md, and the usage report of aider 0.86.
AIDER = """
parser = argparse.ArgumentParser()
for name in ("git", "auto-commits", "stream", "pretty", "fancy-input", "suggest-shell-commands",
             "check-update", "show-release-notes", "detect-urls"):
    parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=True)
parser.add_argument("--yes-always", action="store_true")
parser.add_argument("--chat-history-file", default=".aider.chat.history.md")
parser.add_argument("--input-history-file", default=".aider.input.history")
parser.add_argument("--map-tokens", type=int, default=1024)
parser.add_argument("--model")
parser.add_argument("--edit-format")
parser.add_argument("--file", action="append", default=[])
parser.add_argument("--message-file", required=True)
given = vars(parser.parse_args())
prompt = pathlib.Path(given["message_file"]).read_text()
asked(prompt, given)
for name in ("chat_history_file", "input_history_file"):
    with open(given[name], "a") as file:
        file.write(prompt)
assert not given["git"] and not given["map_tokens"]
print("Aider v0.86.2\\nModel: gpt-4o with diff edit format\\nGit repo: none\\n")
if how == "fail":
    print("litellm.AuthenticationError: AuthenticationError: OpenAIException - bad key")
    print("The API provider is not able to authenticate you. Check your API key.")
    sys.exit(0)
if how != "idle":
    for path in given["file"]:
        edit(path)
print(SAID)
priced = " Cost: $0.01 message, $0.01 session." if given["model"] else ""
print("\\nTokens: 2.5k sent, 300 received." + priced)
if how == "reflects":
    print("Tokens: 1.2k sent, 3k cache write, 1k cache hit, 20 received.")
    print("Cost: $0.0050 message, $0.02 session.")
"""
PROGRAMS = {"codex": CODEX, "gemini": GEMINI, "aider": AIDER}
AGENTS = {"codex": CodexAgent, "gemini": GeminiAgent, "aider": AiderAgent}
Ask = Callable[..., AgentResult]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts the tools in front of PATH; they write down what they are asked."""
    place = tmp_path / "tools"
    place.mkdir()
    for name, body in PROGRAMS.items():
        program = place / name
        program.write_text(HEAD.format(python=sys.executable) + body)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TOOL_HOME", str(place))
    return place


@pytest.fixture
def work(tmp_path: Path) -> AgentContext:
    """A folder with an editable file."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "prompt.md").write_text("good\n")
    parameter = PathParameter(folder / "prompt.md")
    return AgentContext(folder=folder, parameters=[parameter], system="stable")


def seen(home: Path) -> list[Mapping[str, Any]]:
    """What the tools were asked."""
    return json.loads((home / "seen.json").read_text())


@pytest.mark.parametrize("name", AGENTS)
def test_it_edits_in_its_folder_and_its_output_is_understood(
    home: Path, work: AgentContext, name: str
) -> None:
    result = AGENTS[name]("some-model").run("improve it", work)
    assert (work.folder / "prompt.md").read_text() == "good\nbetter\n"
    assert os.listdir(work.folder) == ["prompt.md"]
    # Without the lines of the program's own, one of which would be the summary.
    assert result.output.startswith('Done. {"strategy": "add", "summary": "add a line"}')
    (call,) = seen(home)
    assert call["prompt"] == "stable\n\nimprove it" and call["folder"] == str(work.folder)
    assert call["given"]["model"] == "some-model" == result.model
    known = {"codex": (100, 20, None), "gemini": (100, 30, None), "aider": (2500, 300, 0.01)}
    assert (result.input_tokens, result.output_tokens, result.cost_usd) == known[name]


@pytest.mark.parametrize("name", ["codex", "gemini"])
def test_a_conversation_goes_on_and_is_counted_by_the_turn(
    home: Path, work: AgentContext, name: str
) -> None:
    agent = AGENTS[name]()
    first = agent.run("improve it", work)
    context = AgentContext(folder=work.folder, session_id=first.session_id)
    again = agent.run("and say why", context)
    assert first.session_id == again.session_id != ""
    # Codex's count is that of the whole conversation.
    assert (again.input_tokens, again.output_tokens) == (first.input_tokens, first.output_tokens)
    call = seen(home)[1]["given"]
    assert (call.get("resume") or call["rest"][1]) == first.session_id
    # It may edit nothing now.
    assert call.get("approval_mode", call.get("sandbox")) in ("default", "read-only")


def test_aiders_reports_are_added_up(
    home: Path, work: AgentContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOW", "reflects")
    result = AiderAgent("gpt-4o").run("improve it", work)
    assert (result.input_tokens, result.output_tokens, result.cost_usd) == (3700, 320, 0.02)


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("codex", NoCreditError, "codex ended with code 1: You've hit your usage limit."),
        ("gemini", KeyRefusedError, "gemini ended with code 144: API key not valid."),
        ("aider", KeyRefusedError, "aider ended with code 0: litellm.AuthenticationError: Authen"),
    ],
)
def test_a_failure_says_what_the_program_said(
    home: Path, work: AgentContext, monkeypatch: pytest.MonkeyPatch, name: str, kind: Any, said: str
) -> None:
    monkeypatch.setenv("HOW", "fail")
    # No credit and no key end a run: they are no failed edits.
    with pytest.raises(kind, match=said) as caught:
        AGENTS[name]().run("improve it", work)
    assert caught.value.hint


def test_a_thread_that_is_gone_and_an_output_of_another_kind(
    home: Path, work: AgentContext
) -> None:
    with pytest.raises(AgentError, match=r"no rollout found for thread id gone$"):
        CodexAgent().run("x", AgentContext(folder=work.folder, session_id="gone"))
    for agent in (CodexAgent(command="true"), GeminiAgent(command="true")):
        with pytest.raises(AgentReplyError, match="something other than"):
            agent.run("x", work)
    with pytest.raises(AgentNotFoundError) as caught:
        CodexAgent(command="no-such-codex").run("x", work)
    assert "npm install -g @openai/codex" in caught.value.hint


def test_further_options_reach_the_program_and_its_own_are_refused(
    home: Path, work: AgentContext
) -> None:
    CodexAgent(extra_args=["-c", "model_reasoning_effort=high"]).run("x", work)
    GeminiAgent(extra_args=["--include-directories", "docs", "--approval-mode=yolo"]).run("x", work)
    AiderAgent(extra_args=["--edit-format", "diff"]).run("x", work)
    calls = [call["given"] for call in seen(home)]
    assert calls[0]["config"] == ["model_reasoning_effort=high"]
    assert (calls[1]["include_directories"], calls[1]["approval_mode"]) == ("docs", "yolo")
    assert calls[2]["edit_format"] == "diff"
    for kind, given, said in (
        (CodexAgent, "--json", "CodexAgent sets --json itself"),
        (GeminiAgent, "--output-format=text", "GeminiAgent sets --output-format itself"),
        (AiderAgent, "--model", "AiderAgent sets --model itself"),
    ):
        with pytest.raises(UsageError, match=said):
            kind(extra_args=[given])


@pytest.mark.parametrize("name", AGENTS)
def test_the_command_line_knows_it_by_name(repository, home: Path, name: str) -> None:
    top = repository.workdir
    (top / "prompt.md").write_text("good\n")
    (top / "bench.sh").write_text("echo METRIC lines=$(wc -l < prompt.md)\n")
    commit_all(top, "target")
    task = ("--edit", "prompt.md", "--eval", "sh bench.sh", "--metric", "lines", "--mode", "max")
    options = ("-e", "a", "--max-epochs", "1", "--agent", name, "--model", "some-model")
    done = autopilot(top, "run", *task, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert subjects(top)[1:] == ["autopilot(a): epoch 1: add a line"], done.stdout
    (call,) = notes(top, "llm")
    assert (call["role"], call["model"]) == ("optimizer", "some-model")
    (asked,) = seen(home)
    assert asked["given"]["model"] == "some-model"
    assert not notes(top, "gradients")[0].get("violations")
