"""A target whose calls have every role, and the command line that runs it over the scripted server;
a run that only counts and records calls.

The target's score rises with each epoch, from 0 to 4 of 4: item n passes where the prompt has
rule n.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from checkouts import commit_all
from forks import Process, fork
from server import MessagesServer, Received, Reply, edit, say, say_json

from autopilot.ai.model.recording import request_key
from autopilot.core.experiment import Experiment
from autopilot.core.parameter import Parameter
from autopilot.core.records.ledger import Ledger, Limits
from autopilot.core.records.record import Manifest
from autopilot.core.run import Run
from autopilot.core.store import InMemoryStore
from autopilot.git.commands import run_git

TARGET = """\
import os
import signal

from pydantic import BaseModel

from autopilot import AutoPilotModule, DataLoader, Datum, PathParameter
from autopilot.ai import (
    AgentCollator, AgentOptimizer, AnthropicAgent, Judge, JudgeLoss, LLMStep, Model
)


class Verdict(BaseModel):
    success: bool
    score: float
    feedback: str


class Optimizer(AgentOptimizer):
    def step(self):
        done = super().step()
        if os.environ.get("KILL_IN_STEP"):
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        return done


class Answerer(AutoPilotModule):
    def __init__(
        self,
        name: str = "claude-haiku-4-5",
        val: bool = True,
        timeout: float = 60.0,
        retries: int = 5,
    ):
        super().__init__()
        self.prompt = PathParameter("prompt.md")
        self.val = val
        self.model = Model(name, max_tokens=100, timeout_s=timeout, max_retries=retries)

    def forward(self, batch):
        return Datum(items=[self.answer(item) for item in batch.items])

    def answer(self, item):
        number = item.metadata["number"]
        said = self.model.complete(f"question {number}", system=self.prompt.read_text()).output
        passed = said == f"good {number}"
        return Datum(metadata={"said": said}, success=passed, feedback="add a rule")

    def configure_loss(self):
        step = LLMStep("verdict", "Q: {number} A: {said}", Verdict)
        judge = Judge([step], model=self.model, num_workers=1)
        return JudgeLoss(judge, AgentCollator(self.model))

    def configure_optimizers(self):
        return Optimizer(AnthropicAgent(self.model), self.parameters())

    def train_dataloader(self):
        return DataLoader([{"id": f"i{n}", "number": n} for n in range(1, 5)], 4)

    def val_dataloader(self):
        return self.train_dataloader() if self.val else None
"""
COMMAND = (sys.executable, "-P", "-m", "autopilot")
WHOLE = ["autopilot(a): start answerer.py"] + [
    f"autopilot(a): epoch {n}: add rule {n}" for n in range(1, 5)
]
# No module but a stub may be imported from it: it stands in front of everything.
NO_SOCKETS = """\
import pathlib, socket
def refuse(*arguments):
    pathlib.Path(__file__).with_name("tried").write_text("yes")
    raise OSError("no sockets here")
socket.socket.connect = socket.socket.connect_ex = socket.create_connection = refuse
"""


def make_run(**limits: float) -> Run:
    """A run in memory, for calls."""
    store = InMemoryStore()
    store.bind([Parameter("x")])
    store.begin(Manifest(slug="s"))
    return Run(Experiment(store), Ledger(Limits(**limits)))


def role_of(request: Received) -> str:
    """Who asks."""
    if "tools" in request.body:
        return "optimizer"
    form = request.body.get("output_config", {}).get("format", {}).get("schema", {})
    fields = form.get("properties", {})
    return "judge" if "success" in fields else "collator" if fields else "module"


def script(request: Received) -> Reply:
    """The module answers well where its prompt has the rule; the agent adds one rule a step."""
    body, text = request.body, request.last_text()
    role = role_of(request)
    if role == "optimizer":
        known = max([0, *map(int, re.findall(r"rule-(\d)", body["messages"][0]["content"]))])
        if len(body["messages"]) == 1:
            return edit("insert", path="prompt.md", insert_line=1, insert_text=f"rule-{known + 1}")
        return say_json({"strategy": "add rule", "summary": f"add rule {known + 1}"})
    if role == "collator":
        return say_json({"findings": [{"direction": "add the rules", "attribution": "rules"}]})
    if role == "judge":
        good = "good" in text
        return say_json({"success": good, "score": float(good), "feedback": "add a rule"})
    number = text.split()[-1]
    return say(f"good {number}" if f"rule-{number}" in body["system"][0]["text"] else "bad")


def commit_target(top: Path, target: str = TARGET) -> Path:
    """Puts a target into a repository."""
    (top / "answerer.py").write_text(target)
    (top / "prompt.md").write_text("be brief\n")
    return commit_all(top, "target")


def start(top: Path, *arguments: str, **environment: str) -> Process:
    """Starts the command line."""
    return fork(arguments, cwd=top, env=_environment(environment), client=True)


def autopilot(top: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line to its end; as a program of its own where it needs a PYTHONPATH."""
    if "PYTHONPATH" in environment:
        return subprocess.run(
            [*COMMAND, *arguments],
            cwd=top,
            env=_environment(environment),
            capture_output=True,
            text=True,
            timeout=120,
        )
    process = start(top, *arguments, **environment)
    out, err = process.communicate()
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def in_terminal(top: Path, *arguments: str, seen: bytearray | None = None) -> str:
    """What a person at a terminal sees of a command; `seen` has it as it comes."""
    ours, theirs = pty.openpty()
    environment = _environment({"TERM": "xterm", "COLUMNS": "250", "LINES": "50"})
    seen = bytearray() if seen is None else seen

    def read() -> None:
        # Linux says EIO, others end the file, when the last program has closed the terminal.
        with contextlib.suppress(OSError):
            while part := os.read(ours, 65536):
                seen.extend(part)

    reader = threading.Thread(target=read)
    reader.start()
    tty = os.ttyname(theirs)
    fork(arguments, cwd=top, env=environment, terminal=tty, client=True).communicate()
    os.close(theirs)
    reader.join()
    os.close(ours)
    return seen.decode()


def keys(server: MessagesServer) -> list[str]:
    """The names of the requests that the server got."""
    return [request_key(request.body) for request in server.requests]


def subjects(top: Path) -> list[str]:
    """The experiment's commits, oldest first."""
    log = run_git(["log", "--reverse", "--format=%s", "main..autopilot/a"], cwd=top)
    return log.stdout.decode().splitlines()


def notes(top: Path, kind: str) -> list[dict[str, Any]]:
    """The experiment's records of a kind."""
    options = ["log", "--reverse", f"--notes=refs/notes/autopilot/a/{kind}", "--format=%N"]
    text = run_git([*options, "main..autopilot/a"], cwd=top).stdout.decode()
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """The test's environment; compiled modules are kept, which halves the time of a command."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return kept | dict(more)
