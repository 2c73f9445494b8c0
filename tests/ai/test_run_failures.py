"""Whole runs in which agents, judges and the service fail: what fails costs itself, not the run."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import pytest
from runs import WHOLE, autopilot, commit_target, notes, role_of, script, subjects
from server import Received, Reply, fail, say

from autopilot.ai.model.recording import request_key
from autopilot.git.commands import run_git

AGENTS = """\
import json
import sys

from autopilot import AutoPilotModule, DataLoader, Datum, PathParameter
from autopilot.ai import Agent, AgentOptimizer, AnthropicAgent, ClaudeCodeAgent, CommandAgent, Model
from autopilot.core.run import current_run


def program(code):
    return [sys.executable, "-c", "import json, os, subprocess, sys, time\\n" + code]


class Claude(ClaudeCodeAgent):
    def __init__(self, code):
        super().__init__(timeout_s=2)
        self.code = code

    def command_line(self, context, cost_usd=0.0):
        return program(self.code)


SAID = {"strategy": "be better", "summary": "be better"}
AGENTS = [
    Claude("sys.exit('you are not logged in')"),
    Claude("print('Hello!')"),
    Claude("print(json.dumps({'result': 'No.', 'stop_reason': 'refusal', 'total_cost_usd': 0.5}))"),
    Claude(
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\\n"
        "open(os.environ['CHILD'], 'w').write(str(child.pid))\\n"
        "time.sleep(60)"
    ),
    CommandAgent(program("open('prompt.md', 'a').write('half'); sys.exit('out of memory')")),
    AnthropicAgent(Model("claude-haiku-4-5")),
    CommandAgent(program(f"open('prompt.md', 'a').write('better'); print({json.dumps(SAID)!r})")),
]


class InTurn(Agent):
    asks_recorded = True

    def run(self, prompt, context=None):
        return AGENTS[current_run().epoch - 1].run(prompt, context)


class Writer(AutoPilotModule):
    def __init__(self):
        super().__init__()
        self.prompt = PathParameter("prompt.md")

    def forward(self, batch):
        good = self.prompt.read_text().endswith("better")
        return Datum(items=[Datum(success=good, feedback="be better") for _ in batch.items])

    def configure_optimizers(self):
        return AgentOptimizer(InTurn(), self.parameters())

    def train_dataloader(self):
        return DataLoader([{"id": "a"}, {"id": "b"}], 2)

    val_dataloader = train_dataloader
"""
WRONG = [
    "claude ended with code 1: you are not logged in (try it by hand",
    "claude answered with something other than JSON: Hello! (update it",
    "claude refused: No. (look at what the prompt and the items ask for)",
    "did not answer within 2 s and was ended (give it more time",
    "ended with code 1: out of memory (run it by hand in the same folder)",
    "claude-haiku-4-5: the service answered 400: prompt is too long (look at the Model",
]


def test_each_failure_of_an_agent_is_its_epochs_and_the_run_goes_on(
    repository, serve, tmp_path: Path
) -> None:
    top = commit_target(repository.workdir, AGENTS)
    serve([fail(400, "prompt is too long")])
    child = tmp_path / "child"
    done = autopilot(top, "run", "answerer.py", "-e", "a", "--max-epochs", "7", CHILD=str(child))
    assert done.returncode == 0, done.stdout + done.stderr
    assert subjects(top) == [
        WHOLE[0],
        *["autopilot(a): rollback to epoch 0"] * 6,
        "autopilot(a): epoch 7: be better",
    ]
    judged = {r["epoch"]: r for r in notes(top, "metrics") if r["split"] == "val"}
    assert [judged[n].get("outcome", "kept") for n in range(1, 8)] == ["failed"] * 6 + ["kept"]
    lines = done.stdout.splitlines()
    for epoch, wrong in enumerate(WRONG, start=1):
        (place,) = [n for n, line in enumerate(lines) if line.startswith(f"    {epoch}  ")]
        # As in the log: there is no step that could be looked at.
        assert lines[place].endswith(" -       (failed)")
        # What is wrong and what to do, below the epoch's line and in its record.
        assert wrong in lines[place + 1]
        assert wrong in judged[epoch]["reasons"][0]
    # What was paid counts, whatever came of it: calls of unknown price, and the half dollar.
    calls = notes(top, "llm")
    assert Counter(call["epoch"] for call in calls) == {1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 7: 1}
    assert "$0.5 and unknown dollars for 5 calls" in done.stdout
    assert _ended(int(child.read_text()))
    assert run_git(["status", "--porcelain"], cwd=top).stdout == b""


@pytest.fixture
def top(repository) -> Path:
    """A repository with the target whose calls have every role."""
    return commit_target(repository.workdir)


FAULTS = [
    fail(429),
    fail(500),
    fail(529),
    say("a long answer " * 50).cut(900),
    say("late").slowly(30),
    say('{"neither": "fits"}'),
]


def test_a_service_that_stumbles_changes_nothing_and_no_answer_is_paid_twice(
    top: Path, serve
) -> None:
    """Every call meets a fault first: 429, 500, 529, a stream cut, a reply too slow or wrong."""
    answered: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    faults: Counter[str] = Counter()

    def stumbling(request: Received) -> Reply:
        key, role = request_key(request.body), role_of(request)
        seen[key] += 1
        structured = role in ("judge", "collator")
        if seen[key] == 1 and len(request.body["messages"]) < 3:
            kind = faults.total() % (len(FAULTS) if structured else len(FAULTS) - 1)
            # A wait for a time-out takes a second: two are enough.
            kind = 3 if kind == 4 and faults["4"] > 1 else kind
            faults[str(kind)] += 1
            return FAULTS[kind]
        answered[key] += 1
        return script(request)

    serve(stumbling)
    done = autopilot(top, "run", "answerer.py", "-e", "a", "--max-epochs", "2", "-H", "timeout=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(faults) == set("012345")
    assert subjects(top) == WHOLE[:3]
    assert max(answered.values()) == 1
    kept = [call for call in notes(top, "llm") if "lost" not in call["reply"]]
    assert len(kept) == len({call["id"] for call in kept}) == answered.total() + faults["5"]
    # Attempts that broke off may have been charged: they count, as a guess.
    lost = [call for call in notes(top, "llm") if "lost" in call["reply"]]
    assert len(lost) == faults["3"] + faults["4"]
    assert f"unknown dollars for {len(lost)} calls" in done.stdout


def test_what_stays_broken_fails_its_item_alone_and_is_said(top: Path, serve) -> None:
    def broken(request: Received) -> Reply:
        role, text = role_of(request), request.last_text()
        if role == "module" and text.endswith("4"):
            return fail(400, "prompt is too long")
        if role == "judge" and "<data-number-" in text and "\n2\n" in text:
            return fail(413)
        return fail(422) if role == "collator" else script(request)

    serve(broken)
    done = autopilot(top, "run", "answerer.py", "-e", "a", "--max-epochs", "1", "-H", "retries=0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert subjects(top) == WHOLE[:2]
    judged = next(r for r in notes(top, "metrics") if r["id"] == "1-val")
    assert judged["metrics"]["accuracy"] == 0.25
    said = "; ".join(judged["reasons"])
    for text in (
        "1 of 3 items could not be judged: claude-haiku-4-5: the service answered 413",
        "feedback was taken as it is, not summed up: claude-haiku-4-5: the service answered 422",
    ):
        assert text in done.stdout and text in said
    items = next(r for r in notes(top, "traces") if r["epoch"] == 1)["items"]
    errors = [item.get("error_message") or "" for item in items]
    assert ["answered 400" in error for error in errors] == [False, False, False, True]


def test_a_judge_that_cannot_be_asked_costs_the_epoch_not_the_run(top: Path, serve) -> None:
    def down(request: Received) -> Reply:
        first = not any("rule-" in r.all_text() for r in server.requests)
        if role_of(request) == "judge" and first and server.count < 12:
            return fail(413)
        return script(request)

    server = serve(down)
    done = autopilot(top, "run", "answerer.py", "-e", "a", "--max-epochs", "2", "-H", "retries=0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert subjects(top) == [
        WHOLE[0],
        "autopilot(a): rollback to epoch 0",
        "autopilot(a): epoch 2: add rule 1",
    ]
    assert "none of 4 items could be judged: claude-haiku-4-5: the service answered 413" in (
        done.stdout
    )
    assert "optimizer" not in {call["role"] for call in notes(top, "llm") if call["epoch"] == 1}


def _ended(pid: int) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False
