"""Agents that are programs: recorded, answered from the record, within the budget, awaited."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel
from runs import make_run
from server import say

from autopilot.ai.agent import AgentContext
from autopilot.ai.anthropic_agent import AnthropicAgent
from autopilot.ai.coding import ClaudeCodeAgent, CommandAgent
from autopilot.ai.judge import Judge
from autopilot.ai.model.model import Model
from autopilot.ai.model.recording import StoreRecorder, use_recorder
from autopilot.ai.steps import LLMStep
from autopilot.core.parameter import PathParameter
from autopilot.core.run import running
from autopilot.core.types import Datum
from autopilot.errors import AgentError, AgentTimeoutError, BudgetExceededError, ReplayMissError

# A coding tool that keeps a count of its calls, and answers with the last line of its prompt.
COUNTING = """\
import json, pathlib, sys
prompt, log = sys.stdin.read(), pathlib.Path(sys.argv[1])
log.write_text(json.dumps([*(json.loads(log.read_text()) if log.exists() else []), sys.argv[2:]]))
print(json.dumps({"result": prompt.splitlines()[-1], "session_id": "s", "total_cost_usd": 0.25}))
"""


class Claude(ClaudeCodeAgent):
    """Claude Code's arguments, given to another program."""

    def __init__(self, log: Path, **more: float) -> None:
        super().__init__("opus", **more)  # type: ignore[arg-type]  # numbers alone
        self.log = log

    def command_line(self, context: AgentContext) -> list[str]:
        given = super().command_line(context)
        return [sys.executable, "-c", COUNTING, str(self.log), *given]

    @property
    def calls(self) -> list[list[str]]:
        """The arguments of its calls."""
        return json.loads(self.log.read_text()) if self.log.exists() else []


def test_a_program_that_edits_nothing_is_asked_once_and_answers_a_replay(tmp_path: Path) -> None:
    run, agent = make_run(), Claude(tmp_path / "log")
    with running(run):
        first, again = agent.run("one"), agent.run("one")
        other = agent.run("one", AgentContext(system="shout"))
    assert (first.output, again) == ("one", first)
    assert len(agent.calls) == 2 and other.output == "one"
    assert run.ledger.total().calls == 2
    assert [call.cost.cost_usd for call in run.experiment.store.calls()] == [0.25, 0.25]
    with use_recorder(StoreRecorder(run.experiment.store, "replay")):
        assert agent.run("one") == first
        with pytest.raises(ReplayMissError, match="prompt: recorded 'one', now 'two'"):
            agent.run("two")
    assert len(agent.calls) == 2


def test_a_judge_that_is_a_program_is_not_paid_twice(tmp_path: Path) -> None:
    class Verdict(BaseModel):
        success: bool

    answer = [sys.executable, "-c", "import sys; open(sys.argv[1], 'a').write('x'); print(%r)"]
    answer[2] %= '{"success": true}'
    agent = CommandAgent([*answer, str(tmp_path / "log")])
    judge = Judge([LLMStep("verdict", "{q}", Verdict)], model=agent, num_workers=4)
    run = make_run()
    with running(run):
        for _ in range(2):
            judged = judge.judge_all([(Datum(metadata={"q": n}), None) for n in range(3)])
    assert all(judgement.success for judgement in judged)
    assert (tmp_path / "log").read_text() == "xxx"
    assert run.ledger.by_role()["judge"].calls == 3


def test_an_edit_is_never_answered_from_the_record(tmp_path: Path) -> None:
    (tmp_path / "p.md").write_text("x")
    context = AgentContext(folder=tmp_path, parameters=[PathParameter(tmp_path / "p.md")])
    run, agent = make_run(), Claude(tmp_path / "log")
    with running(run):
        agent.run("edit", context)
        agent.run("edit", context)
    assert len(agent.calls) == 2
    replay = use_recorder(StoreRecorder(run.experiment.store, "replay"))
    with replay, pytest.raises(ReplayMissError):
        agent.run("edit", context)
    assert len(agent.calls) == 2


def test_claude_code_is_told_what_is_left_and_ends_with_the_budget(tmp_path: Path) -> None:
    run, agent = make_run(cost_usd=0.6), Claude(tmp_path / "log")
    with running(run):
        agent.run("one")
        agent.run("two")
        Claude(tmp_path / "log", max_cost_usd=0.05).run("three")
        with pytest.raises(BudgetExceededError, match=r"dollar budget: \$0.75 of \$0.6 spent"):
            agent.run("four")
    given = [dict(itertools.pairwise(call)) for call in agent.calls]
    assert [call["--max-budget-usd"] for call in given] == ["0.6000", "0.3500", "0.0500"]
    assert "--max-budget-usd" not in ClaudeCodeAgent().command_line(AgentContext())


def test_a_call_that_fails_after_its_start_counts_and_answers_nothing(tmp_path: Path) -> None:
    run = make_run()
    slow = CommandAgent([sys.executable, "-c", "import time; time.sleep(9)"], timeout_s=0.2)
    wrong = CommandAgent([sys.executable, "-c", "import sys; sys.exit('no')"])
    with running(run):
        for agent, error in ((slow, AgentTimeoutError), (wrong, AgentError), (wrong, AgentError)):
            with pytest.raises(error):
                agent.run("x")
    total = run.ledger.total()
    assert (total.calls, total.unpriced) == (3, 3)
    # As a resumed run counts them.
    lost = run.experiment.store.calls()
    assert [record.priced for record in lost] == [False] * 3
    assert all(record.reply["lost"] for record in lost)


def test_a_program_of_unknown_cost_under_a_dollar_budget_is_said(tmp_path: Path) -> None:
    run = make_run(cost_usd=1)
    with running(run):
        CommandAgent(["cat"]).run("x")
    assert run.notes == ["the price of cat is unknown: its calls do not count in dollars"]


def test_agents_are_awaited_side_by_side(serve) -> None:
    server = serve([say("done").slowly(0.2)])
    agent = AnthropicAgent(Model("claude-haiku-4-5"))
    run = make_run()

    async def several() -> list[str]:
        found = await asyncio.gather(*(agent.arun(f"question {n}") for n in range(4)))
        return [result.output for result in found]

    with running(run):
        assert asyncio.run(several()) == ["done"] * 4
    assert server.most_at_once > 1
    assert run.ledger.by_role()["agent"].calls == 4
