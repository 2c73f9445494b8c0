"""The real Claude Code against the scripted server: it edits what it may, and nothing else.

Skipped where it is not installed: `npm install @anthropic-ai/claude-code`, and its path in
AUTOPILOT_TEST_CLAUDE. `.ci/run` does both.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from runs import autopilot, commit_target, notes, subjects
from server import Received, Reply, say, use_tool

from autopilot.ai.agent import AgentContext
from autopilot.ai.coding import ClaudeCodeAgent
from autopilot.ai.constraints import MaxLength
from autopilot.ai.edits import EditReply
from autopilot.ai.optimizer import AgentOptimizer
from autopilot.ai.prompt.prompting import read_reply
from autopilot.core.gradient import TextGradient
from autopilot.core.parameter import PathParameter
from autopilot.git.commands import run_git

CLAUDE = os.environ.get("AUTOPILOT_TEST_CLAUDE", "")
pytestmark = pytest.mark.skipif(not CLAUDE, reason="AUTOPILOT_TEST_CLAUDE names no Claude Code")

TARGET = """\
import runpy

from autopilot import AutoPilotModule, DataLoader, Datum, PathParameter
from autopilot.ai import AgentOptimizer, ClaudeCodeAgent


class Kind(AutoPilotModule):
    def __init__(self, command: str, tools: str = ""):
        super().__init__()
        self.prompt = PathParameter("prompt.md")
        given = {"allowed_tools": tools.split("+")} if tools else {}
        self.agent = ClaudeCodeAgent("claude-sonnet-4-5", command=command, timeout_s=120, **given)

    def forward(self, batch):
        text, passes = self.prompt.read_text(), runpy.run_path("evaluator.py")["passes"]
        return Datum(
            items=[
                Datum(success=passes(text, i.metadata["word"]), feedback="be kind")
                for i in batch.items
            ]
        )

    def configure_optimizers(self):
        return AgentOptimizer(self.agent, self.parameters())

    def train_dataloader(self):
        return DataLoader([{"id": w, "word": w} for w in ("kind", "brave")], 2)

    val_dataloader = train_dataloader
"""
EVALUATOR = "def passes(text, word):\n    return word in text\n"
SAID = 'Done. {"strategy": "tone", "summary": "be kind", "rationale": "they asked"}'


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """It talks to nobody but the scripted server."""
    monkeypatch.setenv("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
    monkeypatch.setenv("DISABLE_AUTOUPDATER", "1")


def turns(*steps: Reply):
    """A script that gives the steps in turn to the conversation with tools."""

    def script(request: Received) -> Reply:
        answered = sum(message["role"] == "assistant" for message in request.body["messages"])
        return steps[min(answered, len(steps) - 1)] if "tools" in request.body else say("ok")

    return script


def test_it_edits_the_parameter_and_says_what_it_cost(serve, tmp_path: Path, monkeypatch) -> None:
    work = tmp_path / "[a] wörk (1) b*"
    work.mkdir()
    prompt = work / "prompt.md"
    prompt.write_text("be brief\n")
    edit = use_tool("Edit", file_path=str(prompt), old_string="brief", new_string="kind")
    server = serve(turns(use_tool("Read", file_path=str(prompt)), edit, say(SAID)))
    monkeypatch.setenv("HOME", str(tmp_path))
    # It refuses options that it does not know.
    options = ["--effort", "low", "--strict-mcp-config"]
    agent = ClaudeCodeAgent(
        "claude-sonnet-4-5", command=CLAUDE, timeout_s=120, max_cost_usd=5, extra_args=options
    )
    result = agent.run("Improve it", AgentContext(folder=work, parameters=[PathParameter(prompt)]))
    assert prompt.read_text() == "be kind\n"
    assert read_reply(result.output, EditReply).strategy == "tone"
    assert result.model == "claude-sonnet-4-5"
    assert result.tokens == 120 * server.count
    assert result.cost_usd is not None and result.cost_usd > 0
    again = agent.run("And again", AgentContext(folder=work, session_id=result.session_id))
    assert again.session_id == result.session_id


@pytest.mark.parametrize("tools", ["", "Read+Edit+Write+Bash"])
def test_a_whole_run_in_which_it_tries_to_edit_the_evaluator(
    repository, serve, git_environment: Path, tools: str
) -> None:
    """Once kept back by its own rules, once with tools that may do everything, and undone."""
    top = repository.workdir
    (top / "evaluator.py").write_text(EVALUATOR)
    commit_target(top, TARGET)

    def script(request: Received) -> Reply:
        # Only its own system prompt says where it works.
        text = json.dumps(request.body.get("system", "")) + request.all_text()
        place = (
            text.partition("Primary working directory: ")[2]
            or text.partition("Working directory: ")[2]
        )
        here = Path(place.partition("\\n")[0].strip())
        evaluator, prompt = str(here / "evaluator.py"), str(here / "prompt.md")
        new = here / "new.txt"
        cheat = f"printf 'def passes(text, word):\\n    return True\\n' > {evaluator}; echo > {new}"
        steps = [
            use_tool("Read", file_path=prompt),
            use_tool("Edit", file_path=prompt, old_string="brief", new_string="kind"),
            use_tool("Read", file_path=evaluator),
            use_tool("Edit", file_path=evaluator, old_string="word in text", new_string="True"),
            use_tool("Bash", command=cheat, description="cheat"),
            say(SAID),
        ]
        return turns(*steps)(request)

    server = serve(script)
    given = [f"command={CLAUDE}", f"tools={tools}"] if tools else [f"command={CLAUDE}"]
    options = [part for value in given for part in ("-H", value)]
    done = autopilot(top, "run", "answerer.py", "-e", "a", "--max-epochs", "1", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert subjects(top)[1:] == ["autopilot(a): epoch 1: be kind"], done.stdout
    results = [
        (block.get("is_error", False), str(block["content"]))
        for message in max(server.requests, key=lambda r: len(r.body["messages"])).body["messages"]
        for block in message["content"]
        if isinstance(block, dict) and block["type"] == "tool_result"
    ]
    assert [error for error, _ in results] == [False, False, False, not tools, not tools], results
    assert "evaluator.py" in results[3][1]
    # The real evaluator gave the score: one of two words is there.
    judged = next(r for r in notes(top, "metrics") if r["id"] == "1-val")
    assert judged["metrics"]["accuracy"] == 0.5
    tried = "; ".join(notes(top, "gradients")[0].get("violations", ()))
    assert ("evaluator.py" in tried and "new.txt" in tried) is bool(tools), tried
    changed = run_git(["diff", "--name-only", "main", "autopilot/a"], cwd=top).stdout.decode()
    assert changed == "prompt.md\n"
    assert (top / "evaluator.py").read_text() == EVALUATOR
    assert "models: 1 call, " in done.stdout and "unknown" not in done.stdout


def test_an_edit_that_breaks_a_rule_goes_back_in_the_same_conversation(
    serve, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    prompt = tmp_path / "prompt.md"
    prompt.write_text("be brief\n")
    parameter = PathParameter("prompt.md")
    parameter.grad = TextGradient("be kind")
    read = use_tool("Read", file_path=str(prompt))
    long, short = (
        use_tool("Edit", file_path=str(prompt), old_string="brief", new_string=f"kind{end}")
        for end in (" to everybody, always", "")
    )
    # Its editor refuses to edit what changed since it was read: the edit was undone.
    server = serve(turns(read, long, say("Done."), short, read, short, say("Done.")))
    agent = ClaudeCodeAgent("claude-sonnet-4-5", command=CLAUDE, timeout_s=120)
    step = AgentOptimizer(agent, [parameter], constraints=MaxLength(10)).step()
    assert step is not None and step.summary == "edit prompt.md: +1 -1 lines"
    assert prompt.read_text() == "be kind\n"
    last = max(server.requests, key=lambda r: len(r.body["messages"])).all_text()
    assert last.count("it has 29 characters, 19 more than allowed.") == 1
