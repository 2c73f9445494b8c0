"""Model calls of items in processes of their own: recorded, budgeted and replayed as in one."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from runs import TARGET, WHOLE, autopilot, commit_target, keys, notes, role_of, script, start
from runs import subjects as subjects_of
from server import Received, Reply, say
from waiting import wait_for

from autopilot.core.records.record import LlmRecord, MetricsRecord
from autopilot.tracking.git_store import GitStore

RUN = ("run", "answerer.py", "-e", "a", "--jobs", "3", "--max-epochs")


@pytest.fixture
def top(repository) -> Path:
    """A repository with the target."""
    return commit_target(repository.workdir)


def test_every_call_is_recorded_and_answers_a_replay(top: Path, serve, monkeypatch) -> None:
    server = serve(script)
    done = autopilot(top, *RUN, "2")
    assert done.returncode == 0, done.stderr
    assert subjects_of(top) == WHOLE[:3]
    # As in one process: see test_runs.
    roles = {"module": 12, "judge": 5, "collator": 2, "optimizer": 4}
    assert Counter(map(role_of, server.requests)) == roles
    assert max(Counter(keys(server)).values()) == 1
    store = GitStore("a", top)
    kept = [record for _, record in store.records(LlmRecord)]
    assert Counter(record.role for record in kept) == roles
    spent = [r for _, r in store.records(MetricsRecord) if r.split == "val"][-1].spent
    assert spent.tokens == 120 * server.count
    assert f"models: {server.count} calls, {120 * server.count} tokens, $" in done.stdout

    count = server.count
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    monkeypatch.delenv("ANTHROPIC_BASE_URL")
    for options in ((), ("--level", "full")):
        done = autopilot(top, "replay", "a", "--json", *options)
        assert json.loads(done.stdout)["same"], done.stdout
    assert server.count == count


def test_equal_calls_side_by_side_are_made_once(top: Path, serve) -> None:
    # By way of an agent of one's own, whose calls are counted once.
    same = TARGET.replace(
        'self.model.complete(f"question {number}", system=self.prompt.read_text())',
        "self.own.run('the question', AgentContext(system=self.prompt.read_text()))",
    )
    made = "FunctionAgent(lambda text, context: self.model.complete(text, system=context.system))"
    same = same.replace(
        "        self.val = val\n", f"        self.val = val\n        self.own = {made}\n"
    )
    same = same.replace("AgentOptimizer, Anth", "AgentContext, AgentOptimizer, FunctionAgent, Anth")
    assert "AgentContext(" in same and "self.own =" in same
    (top / "answerer.py").write_text(same)
    commit_target(top, same)

    def slow(request: Received) -> Reply:
        return say("bad").slowly(0.3) if role_of(request) == "module" else script(request)

    server = serve(slow)
    done = autopilot(top, *RUN, "1")
    assert done.returncode == 0, done.stderr
    asked = [request for request in server.requests if role_of(request) == "module"]
    # One for each state.
    assert len(asked) == 2
    kept = [record for _, record in GitStore("a", top).records(LlmRecord)]
    assert sum(record.cost.tokens for record in kept) == 120 * server.count


def test_a_budget_holds_over_all_processes(top: Path, serve) -> None:
    server = serve(script)
    done = autopilot(top, *RUN, "1", "--budget-calls", "6")
    assert done.returncode in (0, 130), done.stderr
    assert server.count == 6
    done = autopilot(top, "resume", "a", "--budget-calls", "100", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert subjects_of(top) == WHOLE[:2]
    assert max(Counter(keys(server)).values()) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_answer_is_paid_twice(top: Path, serve, number: int) -> None:
    def slow(request: Received) -> Reply:
        late = role_of(request) == "module" and request.last_text().endswith("2")
        return script(request).slowly(1.5 if late else 0)

    server = serve(slow)
    process = start(top, *RUN, "1")
    wait_for(lambda: len(server.requests) >= 4)
    time.sleep(0.4)
    process.send_signal(number)
    process.communicate()
    done = autopilot(top, "resume", "a", "--jobs", "2")

    assert done.returncode == 0, done.stderr
    assert subjects_of(top) == WHOLE[:2]
    often = Counter(keys(server))
    # A kill loses the call that is going on; Ctrl-C waits for it.
    assert sum(often.values()) - len(often) == (1 if number == signal.SIGKILL else 0)
    assert len(notes(top, "llm")) == len(often)
