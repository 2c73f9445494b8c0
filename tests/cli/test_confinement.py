"""Agents that do more than they may: whole runs with a hostile program in the place of one."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Done, Place

# Passes an item more with each "!" in prompt.md; who passes is for evaluator.py and cases.json.
TARGET = """\
import json
import os
import shlex

from autopilot import (
    AgentOptimizer, AutoPilotModule, CommandAgent, DataLoader, Datum, NoViolations, PathParameter,
    Policy,
)
from checks.evaluator import passes


class Prompt(AutoPilotModule):
    def __init__(self, strict: bool = False):
        super().__init__()
        self.prompt = PathParameter("prompt.md")
        self.rules = PathParameter("rules", "**/*.md")
        self.strict = strict

    def forward(self, batch):
        text = self.prompt.read_text()
        with open("cases.json") as file:
            needed = json.load(file)
        extra = int(open("data/extra.txt").read()) if os.path.exists("data/extra.txt") else 0
        return Datum(items=[
            Datum(success=passes(text, needed[item.id] + extra), feedback="louder")
            for item in batch.items
        ])

    def configure_optimizers(self):
        agent = CommandAgent(shlex.split(os.environ["AGENT"]), timeout_s=20)
        return AgentOptimizer(agent, self.parameters(), max_retries=0)

    def configure_policy(self):
        return Policy([NoViolations()]) if self.strict else None

    def train_dataloader(self):
        return DataLoader([{"id": str(n)} for n in range(1, 5)], 4)

    val_dataloader = train_dataloader
"""
AGENT = """\
import json, os, pathlib, shutil, signal, subprocess, sys, time
count = pathlib.Path({log!r})
count.open("a").write("x")
step, repo = len(count.read_text()), pathlib.Path({repo!r})
def sh(line, check=False):
    return subprocess.run(line, shell=True, check=check, capture_output=True, text=True).stdout
def edit():
    with open("prompt.md", "a") as file:
        file.write("!")
{body}
print(json.dumps(dict(strategy=f"louder {{step}}", summary=f"be louder {{step}}", rationale="it helps")))
"""


@pytest.fixture
def place(place: Place) -> Place:
    place.write("prompt.md", "hello\n")
    place.write("rules/a.md", "a\n")
    place.write("checks/__init__.py", "")
    place.write("checks/evaluator.py", "def passes(text, needed):\n    return text.count('!') >= needed\n")
    place.write("cases.json", json.dumps({str(n): n for n in range(1, 5)}))
    place.write("tool.sh", "echo tool\n").chmod(0o755)
    place.write(".gitignore", "data/\n*.log\n__pycache__/\n")
    place.write("prompt.py", TARGET)
    place.commit("target")
    return place


class Attack:
    """A run with an agent of a test's own."""

    def __init__(self, place: Place, tmp_path: Path) -> None:
        self.place, self.log, self.script = place, tmp_path / "calls", tmp_path / "agent.py"

    def write(self, body: str) -> str:
        self.script.write_text(AGENT.format(log=str(self.log), repo=str(self.place.top), body=body))
        return shlex.join([sys.executable, "-B", str(self.script)])

    def run(self, body: str, *options: str, epochs: int = 2) -> Done:
        agent = self.write(body)
        return self.place.autopilot(
            "run", "prompt.py", "-e", "a", "--max-epochs", str(epochs), *options, AGENT=agent
        )

    def resume(self, body: str) -> Done:
        return self.place.autopilot("resume", "a", AGENT=self.write(body))

    def violations(self, epoch: int = 1) -> list[str]:
        return [
            sentence
            for record in self.place.notes("a", "gradients")
            if record["epoch"] == epoch
            for sentence in record.get("violations", [])
        ]

    def scores(self) -> list[float]:
        return [record["metrics"]["accuracy"] for record in self.place.judged("a")]


@pytest.fixture
def attack(place: Place, tmp_path: Path) -> Attack:
    return Attack(place, tmp_path)


def test_an_honest_agent_has_no_violations(attack: Attack) -> None:
    with attack.place.untouched():
        done = attack.run("edit(); open('rules/b.md', 'w').write('b'); os.remove('rules/a.md')")
    assert done.code == 0, done
    assert attack.violations() == [] == attack.violations(2)
    assert attack.scores() == [0, 0.25, 0.5]
    files = attack.place.git("ls-tree", "-r", "--name-only", "autopilot/a", "rules")
    assert files == "rules/b.md"
    assert "Autopilot-Violations" not in attack.place.git("log", "autopilot/a")
