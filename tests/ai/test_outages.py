"""Whole runs in which the service is down for a while: they wait, or end to be resumed exactly."""

from __future__ import annotations

import itertools
import json
import signal
import stat
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from runs import (
    WHOLE,
    autopilot,
    commit_target,
    in_terminal,
    notes,
    role_of,
    script,
    start,
    subjects,
)
from server import Received, Reply, fail

from autopilot.git.commands import run_git

RUN = ("run", "answerer.py", "-e", "a", "--max-epochs", "2", "-H", "retries=0")
DOWN = "claude-haiku-4-5: the service answered 529: down for now"


@pytest.fixture
def top(repository) -> Path:
    """A repository with the target whose calls have every role."""
    return commit_target(repository.workdir)


class Service:
    """The script of the target; `down` is what it answers instead, from a request on.

    Args:
        after: The number of requests, of a role if that is given, that are answered before.
        role: Whose requests; everybody's if empty.
        times: How often it is down.
    """

    def __init__(self, after: int, reply: Reply, role: str = "", times: float = 1) -> None:
        self.after, self.reply, self.role, self.left = after, reply, role, times
        self.seen = itertools.count()
        self.answered: Counter[str] = Counter()

    def __call__(self, request: Received) -> Reply:
        if self.role in ("", role_of(request)) and next(self.seen) >= self.after and self.left > 0:
            self.left -= 1
            return self.reply
        self.answered[keys_of(request)] += 1
        return script(request)


def keys_of(request: Received) -> str:
    return json.dumps(request.body, sort_keys=True)


def judged(top: Path) -> list[tuple[Any, ...]]:
    """What was judged, without times and costs."""
    return [(r["id"], r["metrics"], r["verdict"], r.get("tree")) for r in notes(top, "metrics")]


BASELINE = [("0-val", 0.0, "baseline"), ("1-train", 0.0, "kept"), ("1-val", 0.25, "kept")]
EXPECTED = [*BASELINE, ("2-train", 0.25, "kept"), ("2-val", 0.5, "kept")]


def accuracies(top: Path) -> list[tuple[Any, ...]]:
    return sorted((name, values["accuracy"], verdict) for name, values, verdict, _ in judged(top))


PLACES = [(2, "module"), (9, "module"), (2, "judge"), (0, "collator"), (1, "optimizer")]


@pytest.mark.parametrize("places", [PLACES[::2], PLACES[1::2]], ids=str)
def test_outages_that_end_change_nothing(
    top: Path, serve, places: Sequence[tuple[int, str]]
) -> None:
    """One after the other in a run; what follows at once would be one outage."""
    services = [Service(after, fail(529, "down for now"), role) for after, role in places]
    answered: Counter[str] = Counter()

    def script_with_outages(request: Received) -> Reply:
        for service in services:
            if (reply := service(request)).status == 529:
                return reply
        answered[keys_of(request)] += 1
        return script(request)

    serve(script_with_outages)
    done = autopilot(top, *RUN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not any(service.left for service in services) and max(answered.values()) == 1
    assert subjects(top) == WHOLE[:3] and accuracies(top) == EXPECTED
    said = (
        f"       waiting for an answer: {DOWN} (up to 30 min)\n       it answers again, after 1 s\n"
    )
    assert done.stdout.count(said) == len(places), done.stdout
    # It is no part of what is written down.
    assert not any("529" in str(r.get("reasons")) for r in notes(top, "metrics"))


@pytest.mark.parametrize(("after", "role"), PLACES)
def test_an_outage_that_stays_ends_the_run_which_resumes_exactly(
    top: Path, serve, after: int, role: str
) -> None:
    service = Service(after, fail(529, "down for now"), role, times=99)
    serve(service)
    done = autopilot(top, *RUN, "--max-wait", "0")
    assert done.returncode == 1
    assert done.stderr == (
        f"error: no answer: {DOWN}\n  hint: wait until it answers; then: autopilot resume a\n"
    )
    assert "failed" not in done.stdout
    known = accuracies(top)
    assert known == [each for each in EXPECTED if each in known]
    status = autopilot(top, "status", "a")
    assert "interrupted" in status.stdout and "no answer" in status.stdout
    service.left = 0
    # The time to wait is the run's own.
    (manifest,) = [r for r in notes(top, "experiment") if r["id"] == "manifest"]
    assert manifest["options"]["max_wait"] == 0
    done = autopilot(top, "resume", "a")
    assert done.returncode == 0, done.stdout + done.stderr
    assert subjects(top) == WHOLE[:3] and accuracies(top) == EXPECTED
    assert max(service.answered.values()) == 1
    done = autopilot(top, "replay", "a")
    assert done.returncode == 0, done.stdout


FINAL = [
    (6, fail(400, "Your credit balance is too low to access the Anthropic API."), "add credit"),
    (0, fail(403, "not for you"), "this key may not use the model"),
    (9, fail(404, "model: nope"), "is the model's name right?"),
]


@pytest.mark.parametrize(("after", "reply", "hint"), FINAL)
def test_what_no_waiting_mends_ends_the_run_at_once(
    top: Path, serve, after: int, reply: Reply, hint: str
) -> None:
    service = Service(after, reply, times=99)
    server = serve(service)
    done = autopilot(top, *RUN)
    assert done.returncode == 1 and server.count <= after + 2
    assert f"the service answered {reply.status}: {reply.message}" in done.stderr
    assert hint in done.stderr and done.stderr.endswith("; then: autopilot resume a\n")
    assert "failed" not in done.stdout and "waiting" not in done.stdout
    service.left = 0
    done = autopilot(top, "resume", "a")
    assert done.returncode == 0, done.stdout + done.stderr
    assert subjects(top) == WHOLE[:3] and accuracies(top) == EXPECTED
    assert max(service.answered.values()) == 1


CLAUDE = """\
from autopilot import AutoPilotModule, DataLoader, Datum, PathParameter
from autopilot.ai import AgentOptimizer, ClaudeCodeAgent


class Writer(AutoPilotModule):
    def __init__(self):
        super().__init__()
        self.prompt = PathParameter("prompt.md")

    def forward(self, batch):
        good = "better" in self.prompt.read_text()
        return Datum(items=[Datum(success=good, feedback="be better") for _ in batch.items])

    def configure_optimizers(self):
        agent = ClaudeCodeAgent(command="./.claude/stub")
        return AgentOptimizer(agent, self.parameters())

    def train_dataloader(self):
        return DataLoader([{"id": "a"}], 1)

    val_dataloader = train_dataloader
"""
REPLY = '{"type": "result", "result": "%s", "is_error": %s, "api_error_status": %s}'
SAID = '{\\\\"strategy\\\\": \\\\"s\\\\", \\\\"summary\\\\": \\\\"be better\\\\"}'


def write_claude(path: Path, body: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\ncat >/dev/null\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_a_program_that_is_missing_ends_the_run_at_once(repository, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "claude"
    top = commit_target(repository.workdir, CLAUDE.replace("./.claude/stub", str(program)))
    done = autopilot(top, "run", "answerer.py", "-e", "a", "--max-epochs", "1")
    assert done.returncode == 1
    assert f"error: the program {program} is not installed\n  hint: npm install -g" in done.stderr
    assert done.stderr.endswith("; then: autopilot resume a\n")
    assert [name for name, *_ in accuracies(top)] == ["0-val"]
    write_claude(program, f"echo better >> prompt.md; echo '{REPLY % (SAID, 'false', 'null')}'")
    done = autopilot(top, "resume", "a")
    assert done.returncode == 0, done.stdout + done.stderr
    assert subjects(top) == [WHOLE[0], "autopilot(a): epoch 1: be better"]


def test_a_program_that_says_that_its_service_is_down_is_waited_for(
    repository, tmp_path: Path
) -> None:
    program, mark = tmp_path / "bin" / "claude", tmp_path / "asked"
    top = commit_target(repository.workdir, CLAUDE.replace("./.claude/stub", str(program)))
    well = f"echo better >> prompt.md; echo '{REPLY % (SAID, 'false', 'null')}'"
    down = f"echo half >> prompt.md; echo '{REPLY % ('Overloaded', 'true', '529')}'"
    write_claude(program, f"if [ -e {mark} ]; then {well}; else touch {mark}; {down}; fi")
    done = autopilot(top, "run", "answerer.py", "-e", "a", "--max-epochs", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "waiting for an answer: claude: the service answered 529: Overloaded" in done.stdout
    shown = run_git(["show", "autopilot/a:prompt.md"], cwd=top).stdout.decode()
    assert shown == "be brief\nbetter\n"
    assert subjects(top) == [WHOLE[0], "autopilot(a): epoch 1: be better"]


def test_ctrl_c_and_a_budget_of_time_end_the_waiting(top: Path, serve) -> None:
    service = Service(6, fail(529, "down for now"), times=999)
    serve(service)
    done = autopilot(top, *RUN, "--budget-seconds", "2")
    assert done.returncode == 130 and "time budget: 2 s spent" in done.stdout
    process = start(top, "resume", "a", "--budget-seconds", "100")
    deadline, seen = time.monotonic() + 30, service.left
    while service.left == seen and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    out, _ = process.communicate()
    assert process.returncode == 130 and time.monotonic() - began < 60
    assert "interrupted in epoch 1" in out and "go on: autopilot resume a" in out
    service.left = 0
    assert autopilot(top, "resume", "a", "--budget-seconds", "100").returncode == 0
    assert subjects(top) == WHOLE[:3] and accuracies(top) == EXPECTED


def test_it_is_shown_on_a_terminal(top: Path, serve) -> None:
    serve(Service(6, fail(529, "down for now")))
    seen = in_terminal(top, *RUN, "--max-wait", "120")
    assert f"waiting for an answer: {DOWN} (next try in 1 s, up to 2 min)" in seen
    assert "it answers again, after 1 s" in seen


def test_an_outage_is_no_difference_and_no_score(top: Path, serve) -> None:
    service = Service(0, fail(529, "down for now"), times=0)
    server = serve(service)
    assert autopilot(top, *RUN).returncode == 0
    assert autopilot(top, "propose", "create", "a").returncode == 0
    service.left = 999
    answer = f"no answer: {DOWN}"
    for command, said in {
        "replay a --live": f"error: {answer}",
        "propose verify a --live": f"error: {answer}",
        "optimize validate -e a --live": f"error: {answer}",
        "optimize preflight answerer.py": f"failed   evaluation: {answer}",
    }.items():
        asked = server.count
        done = autopilot(top, *command.split())
        assert done.returncode == 1, done
        assert said in done.stdout + done.stderr, done
        assert ": wait until it answers" in done.stdout + done.stderr, done
        assert "does not replay" not in done.stdout and server.count > asked
