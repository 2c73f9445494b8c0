"""Edits that go back to the agent in a real run: killed in the middle, resumed, and replayed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from runs import autopilot, commit_target, notes, role_of, subjects
from server import Received, Reply, edit, say_json

TARGET = """\
import os
import signal

from autopilot import (
    AgentOptimizer, AnthropicAgent, AutoPilotModule, CommandAgent, DataLoader, Datum, MaxLength,
    Model, PathParameter,
)

checked = []


def kill(parameter):
    checked.append(parameter.read_text())
    if os.environ.get("KILL") and len(checked) == 2:
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


class Prompted(AutoPilotModule):
    def __init__(self):
        super().__init__()
        self.prompt = PathParameter("prompt.md")

    def forward(self, batch):
        count = self.prompt.read_text().count("please")
        items = [Datum(success=count >= item.metadata["n"]) for item in batch.items]
        return Datum(items=[Datum(success=i.success, feedback="be polite") for i in items])

    def configure_optimizers(self):
        return AgentOptimizer(AGENT, self.parameters(), constraints=[MaxLength(30), kill])

    def val_dataloader(self):
        return DataLoader([{"n": n} for n in range(1, 4)], batch_size=3)
"""
PROGRAM = """\
import os
import pathlib
import sys

prompt, file = sys.stdin.read(), pathlib.Path("prompt.md")
asked = pathlib.Path(os.environ["ASKED"])
(asked / str(len(list(asked.iterdir())))).write_text(prompt)
vain = "does not count" not in prompt or file.read_text().count("please")
file.write_text(file.read_text() + "please" + " and so on" * 9 * vain + "\\n")
print("Done.")
"""


@pytest.fixture
def top(repository) -> Path:
    """A repository."""
    return repository.workdir


def run_killed_and_resumed(top: Path, agent: str) -> None:
    """An epoch in whose second attempt the run is killed, and a second one that is in vain."""
    commit_target(top, TARGET.replace("AGENT", agent))
    options = ("run", "answerer.py", "-e", "a", "--max-epochs", "2")
    assert autopilot(top, *options, KILL="1").returncode == -9
    done = autopilot(top, "resume", "a")
    assert done.returncode == 0, done.stderr


def replayed(top: Path) -> bool:
    done = autopilot(top, "replay", "a", "--level", "full", "--json")
    return bool(json.loads(done.stdout)["same"])


def test_a_program_reads_the_files_that_it_edits_and_what_it_tried(
    top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, program = tmp_path / "asked", tmp_path / "program.py"
    asked.mkdir()
    program.write_text(PROGRAM)
    monkeypatch.setenv("ASKED", str(asked))
    run_killed_and_resumed(top, f"CommandAgent([{sys.executable!r}, {str(program)!r}])")

    prompts = [path.read_text() for path in sorted(asked.iterdir(), key=lambda p: int(p.name))]
    # Two before the kill, the same two after it, and three in vain.
    assert len(prompts) == 7 and prompts[:2] == prompts[2:4]
    first, second = prompts[:2]
    told, account = second[: len(first.rstrip())], second[len(first.rstrip()) :]
    assert told == first.rstrip() and "=== prompt.md\nbe brief\n" in told
    assert "+please and so on" in account and "more than allowed." in account
    assert subjects(top)[1:] == [
        "autopilot(a): epoch 1: edit prompt.md: +1 -0 lines",
        "autopilot(a): rollback to epoch 1",
    ]
    made, vain = notes(top, "gradients")
    assert "strategy" not in made
    assert (vain["changed"], vain["summary"]) == (False, "nothing new")
    assert "it breaks a rule. prompt.md: it has 113 characters" in vain["rationale"]
    assert "unnamed" not in json.dumps([*notes(top, "memory"), *notes(top, "metrics")])
    program.unlink()
    assert replayed(top)


def test_a_conversation_goes_on_after_a_kill_and_nothing_is_asked_twice(
    top: Path, serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(request: Received) -> Reply:
        assert role_of(request) == "optimizer"
        messages, text = request.body["messages"], request.last_text()
        if len(messages) % 4 == 1:
            good = "please\n" if "does not count" in text else "please" + " and so on" * 9
            in_vain = "- epoch 1" in messages[0]["content"]
            return edit("create", path="prompt.md", file_text="x" * 99 if in_vain else good)
        return say_json({"strategy": "ask", "summary": f"ask, try {len(messages) // 4 + 1}"})

    server = serve(script)
    run_killed_and_resumed(top, 'AnthropicAgent(Model("claude-haiku-4-5", max_tokens=100))')
    # Two requests an attempt: two attempts in epoch 1, three in epoch 2.
    assert server.count == 10
    lengths = [len(request.body["messages"]) for request in server.requests]
    assert lengths == [1, 3, 5, 7, 1, 3, 5, 7, 9, 11]
    made, vain = notes(top, "gradients")
    assert (made["strategy"], made["summary"]) == ("ask", "ask, try 2")
    assert (vain["changed"], vain["summary"]) == (False, "nothing new: ask, try 3")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    assert replayed(top)
