"""Whole runs of the command line over the scripted server: killed, resumed, out of budget."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from answering import TARGET, script  # beside the server
from server import KEY, MessagesServer, Received, Reply, fail

from autopilot.ai.recording import request_key
from autopilot.core.record import LlmRecord, MetricsRecord
from autopilot.git.commands import run_git
from autopilot.tracking.git_store import GitStore

COMMAND = (sys.executable, "-P", "-m", "autopilot")


@pytest.fixture
def top(repository, serve) -> Path:
    """A repository with a target whose score rises with each epoch, from 0 to 4 of 4."""
    top = repository.workdir
    (top / "answerer.py").write_text(TARGET)
    (top / "prompt.md").write_text("be brief\n")
    run_git(["add", "--all"], cwd=top)
    run_git(["commit", "--quiet", "--message=target"], cwd=top)
    return top


def autopilot(top: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=top, capture_output=True, text=True, timeout=120
    )


def keys(server: MessagesServer) -> list[str]:
    return [request_key(request.body) for request in server.requests]


def subjects(top: Path) -> list[str]:
    log = subprocess.run(
        ["git", "log", "--format=%s", "main..autopilot/a"], cwd=top, capture_output=True, text=True
    )
    return log.stdout.splitlines()[::-1]


WHOLE = ["autopilot(a): start answerer.py"] + [
    f"autopilot(a): epoch {n}: add rule {n}" for n in range(1, 5)
]
RUN = ("run", "answerer.py", "-e", "a", "--max-epochs", "4")


def test_a_whole_run_is_recorded_and_leaks_no_key(top: Path, serve) -> None:
    server = serve(script)
    done = autopilot(top, *RUN)
    assert done.returncode == 0, done.stderr
    assert subjects(top) == WHOLE
    asked = Counter(keys(server))
    assert max(asked.values()) == 1
    store = GitStore("a", top)
    kept = [record for _, record in store.records(LlmRecord)]
    assert {record.id for record in kept} == set(asked)
    roles = Counter(record.role for record in kept)
    # Per state 4 answers, of which train and val share all; 1 to 4 are wrong and are judged.
    assert roles["module"] == 20
    assert roles["optimizer"] == 8
    assert roles["judge"] > 4
    spent = [r for _, r in store.records(MetricsRecord) if r.split == "val"][-1].spent
    assert spent.tokens == 120 * server.count
    assert spent.cost_usd == pytest.approx(sum(record.cost.cost_usd for record in kept))
    assert not store.calls()

    objects = subprocess.run(
        ["git", "cat-file", "--batch-all-objects", "--batch"], cwd=top, capture_output=True
    ).stdout
    assert b"add rule 4" in objects
    assert KEY.encode() not in objects
    for path in (top / ".git").rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()
    assert KEY not in done.stdout + done.stderr


@pytest.mark.parametrize("at", [2, 6, 9, 10, 13, 24])
def test_what_was_paid_before_a_kill_is_not_paid_again(top: Path, serve, at: int) -> None:
    answered: list[str] = []

    def killing(request: Received) -> Reply:
        if len(server.requests) == at:
            os.kill(process.pid, signal.SIGKILL)
            return fail(500)
        answered.append(request_key(request.body))
        return script(request)

    server = serve(killing)
    process = subprocess.Popen(
        [*COMMAND, *RUN], cwd=top, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    assert process.wait(timeout=120) == -signal.SIGKILL
    done = autopilot(top, "resume", "a")
    assert done.returncode == 0, done.stderr
    assert subjects(top) == WHOLE
    # A request beside the killed one was answered to nobody: all others were asked once.
    assert sum(count - 1 for count in Counter(answered).values()) <= 1
    spent = [r for _, r in GitStore("a", top).records(MetricsRecord) if r.split == "val"][-1].spent
    assert spent.tokens == 120 * len(set(answered))


def test_a_budget_ends_the_run_and_a_larger_one_goes_on(top: Path, serve) -> None:
    server = serve(script)
    first = autopilot(top, *RUN, "--budget-tokens", "2500")
    assert "token budget" in first.stdout + first.stderr
    assert 120 * server.count <= 2500
    stopped = server.count
    assert stopped > 4
    again = autopilot(top, "resume", "a")
    assert server.count == stopped, again.stdout
    done = autopilot(top, "resume", "a", "--budget-tokens", "1000000")
    assert done.returncode == 0, done.stderr
    assert subjects(top) == WHOLE
    assert max(Counter(keys(server)).values()) == 1


def test_an_agent_that_fails_costs_its_epoch_not_the_run(top: Path, serve) -> None:
    failed: list[str] = []

    def failing(request: Received) -> Reply:
        if "tools" in request.body and len(failed) < 1:
            failed.append("once")
            return fail(400)
        return script(request)

    serve(failing)
    done = autopilot(top, "run", "answerer.py", "-e", "a", "--max-epochs", "2")
    assert done.returncode == 0, done.stderr
    assert subjects(top) == [
        WHOLE[0],
        "autopilot(a): rollback to epoch 0",
        "autopilot(a): epoch 2: add rule 1",
    ]


def test_the_notes_alone_answer_a_replay(top: Path, serve, monkeypatch) -> None:
    server = serve(script)
    assert autopilot(top, *RUN).returncode == 0
    count = server.count
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.chdir(top)
    run_git(["checkout", "--quiet", "autopilot/a"], cwd=top)
    program = (
        "import sys; sys.path.insert(0, '.')\n"
        "from answerer import Answerer\n"
        "from autopilot import Trainer\n"
        "from autopilot.ai import StoreRecorder, use_recorder\n"
        "from autopilot.tracking.git_store import GitStore\n"
        "with use_recorder(StoreRecorder(GitStore('a'), 'replay')):\n"
        "    print(Trainer().validate(Answerer()).metrics['val']['accuracy'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=top, capture_output=True, text=True)
    assert done.stdout.strip() == "1.0", done.stderr
    assert server.count == count
