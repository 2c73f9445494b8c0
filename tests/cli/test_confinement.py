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
        agent = CommandAgent(shlex.split(os.environ["AGENT"]), timeout_s=float(os.environ.get("TIMEOUT", 30)))
        return AgentOptimizer(agent, self.parameters(), max_retries=0)

    def configure_policy(self):
        return Policy([NoViolations()]) if self.strict else None

    def train_dataloader(self):
        return DataLoader([{"id": str(n)} for n in range(1, 5)], 4)

    val_dataloader = train_dataloader
"""
AGENT = """\
import hashlib, json, os, pathlib, shutil, signal, subprocess, sys, time
count = pathlib.Path({log!r})
count.open("a").write("x")
step, repo = len(count.read_text()), pathlib.Path({repo!r})
def sh(line, check=False):
    return subprocess.run(line, shell=True, check=check, capture_output=True, text=True).stdout
def edit():
    with open("prompt.md", "a") as file:
        file.write("!")
def look():
    found = {{}}
    for here, folders, files in os.walk("."):
        for name in folders + files:
            path = pathlib.Path(here, name)
            if name.endswith(".md") or "/.git" in f"/{{path}}/".replace("/.gitignore/", ""):
                continue
            mode = oct(path.lstat().st_mode)
            what = os.readlink(path) if path.is_symlink() else ""
            if path.is_file():
                what += hashlib.sha1(path.read_bytes()).hexdigest() + str(path.stat().st_mtime_ns)
            found[str(path)] = mode + " " + what
    with open(f"{{count}}.seen", "a") as file:
        print(json.dumps(found), file=file)
look()
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

    def run(self, body: str, *options: str, epochs: int = 1, **environment: str) -> Done:
        limits = ("--max-epochs", str(epochs))
        return self.place.autopilot(
            "run", "prompt.py", "-e", "a", *limits, *options, AGENT=self.write(body), **environment
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

    def seen(self) -> list[dict[str, str]]:
        """All but the parameters as each step found it."""
        lines = Path(f"{self.log}.seen").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def scores(self) -> list[float]:
        return [record["metrics"]["accuracy"] for record in self.place.judged("a")]


@pytest.fixture
def attack(place: Place, tmp_path: Path) -> Attack:
    return Attack(place, tmp_path)


def test_an_honest_agent_has_no_violations(attack: Attack) -> None:
    with attack.place.untouched():
        done = attack.run("edit(); step == 1 and os.rename('rules/a.md', 'rules/b.md')", epochs=2)
    assert done.code == 0, done
    assert attack.violations() == [] == attack.violations(2)
    assert attack.scores() == [0, 0.25, 0.5]
    files = attack.place.git("ls-tree", "-r", "--name-only", "autopilot/a", "rules")
    assert files == "rules/b.md"
    assert "Autopilot-Violations" not in attack.place.git("log", "autopilot/a")


def test_the_worktree_is_put_back(attack: Attack, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    body = f"""
edit()
if step == 1:
    sh("sed -i 's/>= needed/>= 0/' checks/evaluator.py")
    pathlib.Path("cases.json").write_text("{{}}")
    os.chmod("tool.sh", 0o644)
    os.remove("checks/__init__.py")
    os.symlink({str(tmp_path / "elsewhere")!r}, "checks/__init__.py")
    pathlib.Path("json.py").write_text("def load(file): return {{}}")
    pathlib.Path("new folder/ö").mkdir(parents=True)
    pathlib.Path("new folder/ö/x y.txt").write_text("x")
    pathlib.Path("new folder/ö/line\\nbreak").write_text("x")
    os.mkdir("empty")
    os.mkfifo("rules/pipe.md")
    # What git is told to ignore is put back all the same, and told.
    with open(".gitignore", "a") as file:
        file.write("sneaky*")
    pathlib.Path("sneaky.py").write_text("x")
    # Caches are, too, and nobody is told.
    pathlib.Path("agent.log").write_text("x")
    os.makedirs("checks/__pycache__")
    pathlib.Path("checks/__pycache__/evaluator.cpython-311.pyc").write_text("poison")
    sh("git init rules/sub; touch rules/sub/a.md")
    # Hides from whoever lists files, and locks a folder.
    pathlib.Path("rules/.autopilot-tmp-x.md").write_text("x")
    os.mkdir("locked"); pathlib.Path("locked/x").write_text("x"); os.chmod("locked", 0)
if step == 2:
    # Only touched, or written again as it was.
    os.utime("cases.json"); shutil.copy("tool.sh", "t"); os.replace("t", "tool.sh")
if step == 3:
    shutil.rmtree("checks"); os.symlink("/etc", "checks"); os.remove("tool.sh"); os.mkdir("tool.sh")
    pathlib.Path("tool.sh/x").write_text("x"); os.chmod("rules", 0o500)
"""
    with attack.place.untouched():
        done = attack.run(body, "-H", "strict=true", epochs=4)
    assert done.code == 0, done
    first, *others = attack.seen()
    assert first["tool.sh"].startswith("0o100755 ")
    for seen in others:
        assert seen == first | {"rules/sub": first["rules"]} if seen is not others[-1] else True
    assert sorted(x for x in attack.violations(1) if "rules/sub" not in x) == [
        "changed .gitignore: put back",
        "changed cases.json: put back",
        "changed checks/evaluator.py: put back",
        "changed the mode of tool.sh: put back",
        "made empty/ (0 files): removed",
        "made json.py: removed",
        "made locked/ (1 file): removed",
        "made new folder/ (2 files): removed",
        "made rules/.autopilot-tmp-x.md: removed",
        "made rules/pipe.md: removed",
        "made sneaky.py: removed",
        f"replaced checks/__init__.py by a link to {tmp_path}/elsewhere: put back",
    ]
    assert [x for x in attack.violations(1) if "rules/sub/.git/" in x]
    assert attack.violations(2) == []
    assert attack.violations(3) == []
    assert attack.scores() == [0, 0.25, 0.25]
