"""Whole runs of the command line over the scripted server: recorded, killed, out of budget."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from runs import (
    NO_SOCKETS,
    WHOLE,
    autopilot,
    commit_target,
    in_terminal,
    keys,
    notes,
    role_of,
    script,
    start,
    subjects,
)
from server import Received, Reply, fail
from waiting import wait_for

from autopilot.ai.model.recording import request_key
from autopilot.core.records.record import Lesson, LlmRecord, MetricsRecord
from autopilot.git.commands import run_git
from autopilot.tracking.git_store import GitStore

RUN = ("run", "answerer.py", "-e", "a", "--max-epochs")
ROLES = {"module", "judge", "collator", "optimizer"}
REPLAY = """\
import sys; sys.path.insert(0, ".")
from answerer import Answerer
from autopilot import Trainer
from autopilot.ai import StoreRecorder, use_recorder
from autopilot.tracking.git_store import GitStore
with use_recorder(StoreRecorder(GitStore("a"), "replay")):
    print(Trainer().validate(Answerer()).metrics["val"]["accuracy"])
"""


@pytest.fixture
def top(repository) -> Path:
    """A repository with the target."""
    return commit_target(repository.workdir)


@pytest.fixture
def no_sockets(tmp_path: Path) -> Path:
    """A PYTHONPATH of programs that open no connection; who tries leaves the file `tried`."""
    folder = tmp_path / "no-sockets"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(NO_SOCKETS)
    return folder


def spent(top: Path) -> MetricsRecord:
    return [r for _, r in GitStore("a", top).records(MetricsRecord) if r.split == "val"][-1]


def test_every_call_of_a_whole_run_is_recorded_and_answers_a_replay(
    top: Path, serve, no_sockets: Path
) -> None:
    server = serve(script)
    done = autopilot(top, *RUN, "4")
    assert done.returncode == 0, done.stderr
    assert subjects(top) == WHOLE
    asked = Counter(keys(server))
    assert max(asked.values()) == 1
    store = GitStore("a", top)
    kept = [record for _, record in store.records(LlmRecord)]
    assert {record.id for record in kept} == set(asked)
    roles = Counter(record.role for record in kept)
    # Per state 4 answers, which train and val share; what is wrong is judged, of two and more a
    # summary is made; each of the agent's steps takes two turns.
    assert roles == Counter(map(role_of, server.requests))
    assert roles == {"module": 20, "judge": 7, "collator": 3, "optimizer": 8}
    cost = spent(top).spent
    assert cost.tokens == 120 * server.count
    assert cost.cost_usd == pytest.approx(sum(record.cost.cost_usd for record in kept))
    assert not store.calls()
    assert f"models: {server.count} calls, {120 * server.count} tokens, $" in done.stdout
    assert "  collator: 3 calls, 360 tokens, $" in done.stdout

    # What the agent said is the commit's trailer and the memory's key.
    trailers = run_git(["log", "-1", "--format=%(trailers)", "autopilot/a"], cwd=top).stdout
    assert b"Autopilot-Strategy: add rule" in trailers
    assert {lesson.strategy for _, lesson in store.records(Lesson)} == {"add rule"}
    # Instructions and tools are the same in each step, stand first, and are marked to be cached.
    turns = [r.body for r in server.requests if role_of(r) == "optimizer"]
    stable = [json.dumps([body["tools"], body["system"]]) for body in turns]
    assert len(set(stable)) == 1 and '"cache_control": {"type": "ephemeral"}' in stable[0]
    assert turns[0]["cache_control"] == {"type": "ephemeral"}
    second = turns[2]["messages"][0]["content"]
    order = ["What you may edit", "## Score", "## Items that fail", "## What worked", "## Now"]
    assert sorted(order, key=second.index) == order
    assert autopilot(top, "show", "2", "--prompt").stdout == f"{second}\n"

    # The notes alone answer a replay, and nothing else does.
    run_git(["checkout", "--quiet", "autopilot/a"], cwd=top)
    program = [sys.executable, "-c", REPLAY]
    environment = {**os.environ, "PYTHONPATH": str(no_sockets)}
    done = subprocess.run(program, cwd=top, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "1.0", done.stderr
    (top / "prompt.md").write_text("be long\n")
    done = subprocess.run(program, cwd=top, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "ReplayMissError: a model call is not recorded; the nearest one" in done.stderr
    assert "system.0.text: recorded 'be brief" in done.stderr and "now 'be long" in done.stderr
    assert not (no_sockets / "tried").exists()


KILLS = [
    ("module", 2),
    ("judge", 3),
    ("collator", 1),
    ("optimizer", 2),
    ("module", 6),
]


def test_what_was_paid_before_kills_in_each_role_is_not_paid_again(top: Path, serve) -> None:
    answered: list[str] = []
    roles: Counter[str] = Counter()
    left = list(KILLS)

    def killing(request: Received) -> Reply:
        role = role_of(request)
        if left and (role, roles[role] + 1) == left[0]:
            del left[0]
            os.kill(process.pid, signal.SIGKILL)
            time.sleep(0.3)  # until its child is gone too
            return fail(500)
        roles[role] += 1
        answered.append(request_key(request.body))
        return script(request)

    serve(killing)
    for number in range(len(KILLS)):
        process = start(top, *(("resume", "a") if number else (*RUN, "2")))
        said = process.communicate()
        assert process.returncode == -signal.SIGKILL, said
        assert len(left) == len(KILLS) - number - 1
    done = autopilot(top, "resume", "a")
    assert done.returncode == 0, done.stderr
    assert subjects(top) == WHOLE[:3]
    assert max(Counter(answered).values()) == 1
    assert roles == {"module": 12, "judge": 5, "collator": 2, "optimizer": 4}
    assert spent(top).spent.tokens == 120 * len(answered)


def test_ctrl_c_waits_for_what_is_paid_and_says_so(top: Path, serve) -> None:
    def interrupting(request: Received) -> Reply:
        if server.count == 6:
            os.kill(process.pid, signal.SIGINT)
            return script(request).slowly(1.5)
        return script(request)

    server = serve(interrupting)
    process = start(top, *RUN, "2")
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert "stopping once the calls are answered that are paid" in err
    done = autopilot(top, "resume", "a")
    assert done.returncode == 0, done.stderr
    assert "stopping" not in done.stderr
    assert max(Counter(keys(server)).values()) == 1
    assert subjects(top) == WHOLE[:3]


def test_a_resume_answers_from_the_record_and_opens_no_socket(
    top: Path, serve, no_sockets: Path
) -> None:
    server = serve(script)
    run = (*RUN, "1", "-H", "val=false")
    killed = autopilot(top, *run, KILL_IN_STEP="yes")
    assert killed.returncode == -signal.SIGKILL
    assert {role_of(request) for request in server.requests} == ROLES
    count = server.count
    # Without the results of batches too: only the calls' own records can answer.
    journal = top / ".git" / "autopilot" / "a.progress.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    calls = [line for line in lines if json.loads(line)["kind"] == "llm"]
    assert len(calls) == count
    journal.write_text("".join(calls))
    done = autopilot(top, "resume", "a", PYTHONPATH=str(no_sockets))
    assert done.returncode == 0, done.stdout + done.stderr
    assert subjects(top) == WHOLE[:2]
    assert server.count == count
    assert not (no_sockets / "tried").exists()
    assert {record["role"] for record in notes(top, "llm")} == ROLES


def test_a_budget_ends_the_run_is_shown_live_and_a_larger_one_goes_on(top: Path, serve) -> None:
    """The budget ends in the middle of a step: what the agent is told of it stays the same."""
    roles = (("module", 480), ("judge", 480), ("collator", 120), ("optimizer", 240))
    live = ["calls left", *(f"{role}: {tokens} tokens" for role, tokens in roles)]
    screen = bytearray()

    def seen_first(request: Received) -> Reply:
        """After the first step, the next item has no answer before all of that was shown."""
        reply = script(request)
        is_due = server.count > 11
        return reply.after(lambda: wait_for(is_shown, "the live line")) if is_due else reply

    def is_shown() -> bool:
        return all(text.encode() in screen for text in live)

    server = serve(seen_first)
    assert "call budget: 14 of 14 made" in in_terminal(
        top, *RUN, "2", "--budget-calls", "14", seen=screen
    )
    assert server.count == 14
    again = autopilot(top, "resume", "a")
    assert server.count == 14, again.stdout
    done = autopilot(top, "resume", "a", "--budget-calls", "1000")
    assert done.returncode == 0, done.stderr
    assert subjects(top) == WHOLE[:3]
    # Each step took its two turns and no more.
    assert Counter(map(role_of, server.requests))["optimizer"] == 4
    assert max(Counter(keys(server)).values()) == 1


def test_a_model_without_a_price_needs_one_under_a_budget_of_dollars(top: Path, serve) -> None:
    server = serve(script)
    own = ("run", "answerer.py", "--max-epochs", "1", "-H", "name=somebody-else", "--budget-usd")
    done = autopilot(top, *own, "0.5", "-e", "a", "--price", "somebody-else=1000/1000")
    assert done.returncode == 130
    assert "dollar budget: $" in done.stdout
    assert 0.12 * server.count <= 0.5
    done = autopilot(top, "resume", "a", "--budget-usd", "100")
    assert done.returncode == 0, done.stderr
    # The price that it was started with holds: 120 tokens are 12 cents.
    count = server.count
    assert f"models: {count} calls, {120 * count} tokens, ${0.12 * count:.4g}\n" in done.stdout
    assert spent(top).spent.cost_usd == pytest.approx(0.12 * count)

    # Without one, a budget of dollars could not be held: no call is made.
    done = autopilot(top, *own, "0.5", "-e", "b")
    assert done.returncode == 1 and server.count == count
    assert "the price of somebody-else is unknown, and there is a budget of $0.5" in done.stderr
    assert "--price somebody-else=INPUT/OUTPUT" in done.stderr
    done = autopilot(top, *own[:-1], "-e", "c")
    assert done.returncode == 0, done.stderr
    assert f"models: {count} calls, {120 * count} tokens, at unknown cost\n" in done.stdout
    wrong = autopilot(top, *own, "1", "--price", "somebody-else=cheap")
    assert wrong.returncode == 2 and "is no price" in wrong.stderr
