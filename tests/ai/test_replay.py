"""Replays of runs with models and agents: everything is answered from the notes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from answering import TARGET, script  # beside the server
from checkouts import commit_all
from runs import NO_SOCKETS, autopilot
from server import MessagesServer, Received, Reply, say_json

from autopilot.ai.model.recording import request_key
from autopilot.git.commands import run_git


@pytest.fixture
def top(repository) -> Path:
    """A repository."""
    return repository.workdir


def commit(top: Path, **files: str) -> None:
    """Writes and commits files; "_" in a name stands for "."."""
    for name, content in files.items():
        (top / name.replace("_", ".")).write_text(content)
    commit_all(top, "target")


def replayed(top: Path, *options: str, **environment: str) -> dict[str, Any]:
    """What `replay --json` says, whatever it came to."""
    done = autopilot(top, "replay", "a", "--json", *options, **environment)
    document: dict[str, Any] = json.loads(done.stdout or "{}")
    assert done.returncode == (0 if document.get("same") else 1), done.stderr
    return document


def states(document: dict[str, Any]) -> list[tuple[int, float, float | None]]:
    return [(e["epoch"], e["recorded"], e["replayed"]) for e in document["epochs"]]


def drop_note(top: Path, at: str, role: str) -> None:
    """Takes the recorded calls of a role off a commit."""
    ref = "--ref=autopilot/a/llm"
    lines = run_git(["notes", ref, "show", at], cwd=top).stdout.decode().splitlines()
    kept = [line for line in lines if line and json.loads(line)["role"] != role]
    assert len(kept) < len([line for line in lines if line])
    run_git(["notes", ref, "add", "-f", "-m", "\n".join(kept) or "none", at], cwd=top)


def test_a_model_an_agent_and_judges_are_answered_from_the_notes(
    top: Path, serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(script)
    commit(top, answerer_py=TARGET, prompt_md="be brief\n")
    # What is left of the budget is told to the agent: neither the time that a replay takes nor
    # what a resume raised changes its question.
    options = ("--max-epochs", "2", "--budget-tokens", "20000", "--budget-seconds", "20")
    assert autopilot(top, "run", "answerer.py", "-e", "a", *options).returncode == 0
    options = ("--max-epochs", "3", "--budget-tokens", "100000", "--budget-seconds", "3000")
    assert autopilot(top, "resume", "a", *options).returncode == 0
    count = server.count
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    monkeypatch.delenv("ANTHROPIC_BASE_URL")

    full = replayed(top, "--level", "full")
    assert full["differences"] == []
    assert states(full) == [(0, 0.0, 0.0), (1, 0.25, 0.25), (2, 0.5, 0.5), (3, 0.75, 0.75)]

    drop_note(top, "autopilot/a", "module")
    found = replayed(top, "--epochs", "2,3")
    assert states(found) == [(2, 0.5, 0.5), (3, 0.75, None)]
    (lacking,) = found["differences"]
    assert (lacking["epoch"], lacking["what"]) == (3, "model reply")
    assert "a model call is not recorded; the nearest one (epoch " in lacking["why"]
    assert server.count == count


def test_an_agent_is_told_the_lessons_of_earlier_experiments(
    top: Path, serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(script)
    commit(top, answerer_py=TARGET, prompt_md="be brief\n")

    def asked(*options: str) -> list[str]:
        before = server.count
        done = autopilot(top, "run", "answerer.py", *options, "--max-epochs", "1")
        assert done.returncode == 0, done.stderr
        return [request_key(each.body) for each in server.requests[before:]]

    first = asked("-e", "a")
    known = ("memory", "record", "cut rules", "failed", "-e", "a", "--reason", "audits need them")
    assert autopilot(top, *known).returncode == 0
    assert set(asked("-e", "alone", "--memory-from", "none")) == set(first)
    before = server.count
    assert asked("-e", "b", "--strategies", "bandit", "--memory-from", "a") != first
    prompts = [r.body["messages"][0]["content"] for r in server.requests[before:]]
    prompt = next(text for text in prompts if "## Now" in text)
    told = "- in the earlier experiment a, epoch 1, add rule: add rule 1 (accuracy "
    assert f"{told}0.000 -> 0.250)\n" in prompt
    assert "noted by the user in a: cut rules (failed): audits need them\n" in prompt
    assert 'change of the strategy "add rule": it was kept in 1 of 1 epoch.' in prompt
    # The prompt is asked again of what the new experiment has recorded alone.
    assert autopilot(top, "experiment", "delete", "a", "--yes").returncode == 0
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    done = autopilot(top, "replay", "b", "--level", "full")
    assert done.returncode == 0, done.stdout + done.stderr


AGENT = """\
import json
import sys
from pathlib import Path

prompt = sys.stdin.read()
Path("asked.log").open("a").write("asked\\n") if Path("asked.log").exists() else None
x = Path("x.txt")
value = int(x.read_text())
if value == 2 and "Your edit" not in prompt:
    print("I thought about it")
elif value == 3:
    sys.exit("out of order")
else:
    x.write_text(f"{value + 1}\\n")
    print(json.dumps({"strategy": "up", "summary": f"write {value + 1}", "rationale": "more"}))
"""
COMMANDED = """\
import sys

from autopilot import AutoPilotModule, DataLoader, Datum, PathParameter
from autopilot.ai import AgentOptimizer, CommandAgent


class Scale(AutoPilotModule):
    def __init__(self):
        super().__init__()
        self.x = PathParameter("x.txt")

    def forward(self, batch):
        return Datum(items=[self.score(item) for item in batch.items])

    def score(self, item):
        passed = int(self.x.read_text()) > item.metadata["at"]
        return Datum(success=passed, feedback="raise it")

    def configure_optimizers(self):
        return AgentOptimizer(CommandAgent([sys.executable, "AGENT"]), self.parameters())

    def train_dataloader(self):
        return DataLoader([{"id": f"i{n}", "at": n} for n in range(1, 5)], 2)

    val_dataloader = train_dataloader
"""


@pytest.fixture
def commanded(top: Path) -> Path:
    """An experiment of two kept epochs and a failed one, by an agent that is gone since."""
    agent = top.parent / "agent.py"
    agent.write_text(AGENT)
    commit(top, scale_py=COMMANDED.replace("AGENT", str(agent)), x_txt="1\n")
    done = autopilot(top, "run", "scale.py", "-e", "a", "--max-epochs", "3")
    assert done.returncode == 0, done.stderr
    assert [line.split()[4] for line in done.stdout.splitlines()[-15:] if " kept " in line]
    agent.unlink()
    return top


def test_a_second_measurement_asks_the_model_anew_and_replays_offline(
    top: Path, serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(script)
    commit(top, answerer_py=TARGET, prompt_md="be brief\n")
    run = ("run", "answerer.py", "--max-epochs", "1")
    plain = autopilot(top, *run, "-e", "plain")
    assert "val: noise not measured: the evaluation calls a model (--measure-noise)" in plain.stdout
    first = len(server.requests)
    done = autopilot(top, *run, "-e", "a", "--measure-noise")
    assert "val: two measurements agree" in done.stdout, done.stderr
    notes = run_git(["notes", "--ref=autopilot/a/llm", "list"], cwd=top).stdout.split()
    calls = [
        json.loads(line)
        for blob in notes[::2]
        for line in run_git(["cat-file", "blob", blob.decode()], cwd=top).stdout.splitlines()
        if line
    ]
    again = [call for call in calls if call["id"].endswith("-r1")]
    assert again
    assert {call["id"].removesuffix("-r1") for call in again} < {call["id"] for call in calls}
    assert len(server.requests) == 2 * first + len(again)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    assert replayed(top)["same"]
    assert replayed(top, "--level", "full")["same"]


def test_an_agent_that_cannot_be_asked_again_is_stood_in_for(commanded: Path) -> None:
    found = replayed(commanded, "--level", "full")
    assert found["differences"] == []
    assert states(found) == [(0, 0.0, 0.0), (1, 0.25, 0.25), (2, 0.5, 0.5), (3, 0.5, 0.5)]


def test_an_agent_that_would_be_asked_something_else_is_not_stood_in_for(commanded: Path) -> None:
    text = run_git(["notes", "--ref=autopilot/a/llm", "show", "autopilot/a~1"], cwd=commanded)
    lines = text.stdout.decode().replace("raise it", "lower it").splitlines()
    records = [json.loads(line) for line in lines if line]
    for record in records:
        record["request"] = {"prompt": "something else"}
    note = "\n".join(map(json.dumps, records))
    run_git(
        ["notes", "--ref=autopilot/a/llm", "add", "-f", "-m", note, "autopilot/a~1"], cwd=commanded
    )
    (found,) = replayed(commanded, "--level", "full")["differences"]
    assert found["what"] == "model reply"
    assert "prompt: recorded 'something else'" in found["why"]


OWN = """\
import json
import os
import urllib.request

from pydantic import BaseModel

from autopilot import AutoPilotModule, DataLoader, Datum, PathParameter, Rule, RuleOptimizer
from autopilot.ai import (
    Agent, AgentCollator, AgentOptimizer, AgentResult, FunctionAgent, Judge, JudgeLoss, LLMStep
)


class Verdict(BaseModel):
    score: float
    feedback: str


def fetch(prompt, context):
    body = {"model": "own", "max_tokens": 9, "system": [{"type": "text", "text": context.role}]}
    body["messages"] = [{"role": "user", "content": prompt}]
    address = os.environ["OWN_URL"] + "/v1/messages"
    asked = urllib.request.Request(address, json.dumps(body).encode())
    with urllib.request.urlopen(asked) as answered:
        said = json.load(answered)
    return AgentResult(said["content"][0]["text"], input_tokens=7, cost_usd=0.01, model="own")


class Editor(Agent):
    def run(self, prompt, context=None):
        said = fetch(prompt, context)
        with context.files[0].open("a") as file:
            file.write("better\\n")
        return said


def retitle(prompt, context):
    for file in (context.files[0], context.files[0].with_name("prompt.md")):
        with file.open("a") as opened:
            opened.write("better title\\n")
    return AgentResult('{"strategy": "retitle"}', cost_usd=0.0)


def expand(prompt, context):
    with context.files[0].open("a") as opened:
        opened.write("more\\n")
    return AgentResult('{"strategy": "expand"}', cost_usd=0.0)


class Sign(Rule):
    name = "sign"

    def apply(self, parameter, gradient):
        parameter.write_text(parameter.read_text() + "signed\\n")
        return "sign"


class Writer(AutoPilotModule):
    monitor, mode = "score", "max"

    def __init__(self):
        super().__init__()
        self.prompt = PathParameter("prompt.md")
        self.title, self.end = PathParameter("title.md"), PathParameter("end.md")

    def forward(self, batch):
        lines = self.prompt.read_text().count("better")
        return Datum(items=[Datum(metadata={"said": f"{i.id} {lines}"}) for i in batch.items])

    def configure_loss(self):
        judge = Judge([LLMStep("verdict", "judge {said}", Verdict)], model=FunctionAgent(fetch))
        return JudgeLoss(judge, AgentCollator(FunctionAgent(fetch)))

    def configure_optimizers(self):
        titles = AgentOptimizer(FunctionAgent(retitle), [self.title])
        editor = AgentOptimizer(Editor(), [self.prompt])
        again = AgentOptimizer(FunctionAgent(expand), [self.title])
        return [titles, again, editor, RuleOptimizer([self.end], [Sign()])]

    def train_dataloader(self):
        return DataLoader([{"id": "a"}, {"id": "b"}], 2)

    val_dataloader = train_dataloader
"""


def own_service(request: Received) -> Reply:
    """Answers an agent of the user's own, by its role."""
    role, text = request.body["system"][0]["text"], request.last_text()
    if role == "judge":
        lines = text.partition("\n")[2].split()[1]
        return say_json({"score": int(lines) / 4, "feedback": "add better"})
    if role == "collator":
        return say_json({"findings": [{"direction": "add better"}]})
    return say_json({"strategy": "add", "summary": "add a line"})


def test_agents_of_the_users_own_are_recorded_and_a_replay_opens_no_socket(
    top: Path, tmp_path: Path
) -> None:
    commit(top, writer_py=OWN, prompt_md="be brief\n", title_md="hi\n", end_md="bye\n")
    with MessagesServer(own_service) as server:
        url = server.url
        options = ("--max-epochs", "2", "--budget-usd", "1")
        done = autopilot(top, "run", "writer.py", "-e", "a", *options, OWN_URL=url)
        assert done.returncode == 0, done.stdout + done.stderr
        roles = Counter(request.body["system"][0]["text"] for request in server.requests)
        # Both splits have the same items: an equal question is asked once.
        assert roles == {"judge": 6, "collator": 2, "optimizer": 2}
        assert "models: 14 calls, 70 tokens, $0.1" in done.stdout
        assert "unknown" not in done.stdout
        # A resumed run pays only for what is new.
        more = autopilot(top, "resume", "a", "--max-epochs", "3", OWN_URL=url)
        assert more.returncode == 0, more.stdout + more.stderr
        assert server.count == 10 + 4
    place = tmp_path / "first"
    place.mkdir()
    (place / "sitecustomize.py").write_text(NO_SOCKETS)
    for level in ("metrics", "full"):
        found = replayed(top, "--level", level, OWN_URL=url, PYTHONPATH=str(place))
        assert found["differences"] == []
        assert states(found) == [(n, n / 4, n / 4) for n in range(4)]
    assert not (place / "tried").exists()
    # Three agents and a rule make a step; none of them edits what is another one's.
    assert "kept: retitle + expand + add + sign (3x)" in more.stdout
    prompt = run_git(["show", "autopilot/a:prompt.md"], cwd=top).stdout
    assert prompt == b"be brief\n" + b"better\n" * 3
