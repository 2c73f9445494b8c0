"""The real Claude Code against the scripted server: it edits what it may, and nothing else.

Skipped where it is not installed: `npm install @anthropic-ai/claude-code`, and its path in
AUTOPILOT_TEST_CLAUDE.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from server import Received, Reply, say, use_tool

from autopilot.ai.agent import AgentContext
from autopilot.ai.coding import ClaudeCodeAgent
from autopilot.ai.optimizer import EditReply
from autopilot.ai.prompting import read_reply
from autopilot.core.parameter import PathParameter

CLAUDE = os.environ.get("AUTOPILOT_TEST_CLAUDE", "")
pytestmark = pytest.mark.skipif(not CLAUDE, reason="AUTOPILOT_TEST_CLAUDE names no Claude Code")


def test_it_edits_the_parameter_and_not_the_evaluator(serve, tmp_path: Path, monkeypatch) -> None:
    work = tmp_path / "work"
    work.mkdir()
    prompt, evaluator = work / "prompt.md", work / "evaluator.py"
    prompt.write_text("be brief\n")
    evaluator.write_text("score = 0\n")
    turns = [
        use_tool("Read", file_path=str(prompt)),
        use_tool("Edit", file_path=str(prompt), old_string="brief", new_string="kind"),
        use_tool("Read", file_path=str(evaluator)),
        use_tool("Edit", file_path=str(evaluator), old_string="0", new_string="1"),
        use_tool("Write", file_path=str(tmp_path / "outside.txt"), content="x"),
        say('Done. {"strategy": "tone", "summary": "be kind"}'),
    ]

    def script(request: Received) -> Reply:
        answered = sum(message["role"] == "assistant" for message in request.body["messages"])
        return turns[min(answered, len(turns) - 1)] if "tools" in request.body else say("ok")

    server = serve(script)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
    monkeypatch.setenv("DISABLE_AUTOUPDATER", "1")
    agent = ClaudeCodeAgent(model="claude-sonnet-4-5", command=CLAUDE, timeout_s=120)
    parameters = [PathParameter(prompt)]
    result = agent.run("Improve it", AgentContext(folder=work, parameters=parameters))
    assert prompt.read_text() == "be kind\n"
    assert evaluator.read_text() == "score = 0\n"
    assert not (tmp_path / "outside.txt").exists()
    assert read_reply(result.output, EditReply).strategy == "tone"
    assert result.model == "claude-sonnet-4-5"
    assert result.tokens == 120 * server.count
    assert result.cost_usd is not None and result.cost_usd > 0
    again = agent.run("And again", AgentContext(folder=work, session_id=result.session_id))
    assert again.session_id == result.session_id
