"""An agent that can only improve by what its prompt shows does so on every way to an agent.

`brain.think` is the agent. Its first edit fixes the failing items that it sees and breaks others,
so it is taken back; the second is possible only by the diff and the ids of what broke.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import anyio
import brain
import pytest
from checkouts import commit_all
from server import Received, Reply, edit, say, say_json, use_tool

from autopilot import CommandAgent, FunctionAgent, Trainer
from autopilot.ai import AnthropicAgent, ClaudeCodeAgent, Model
from autopilot.core.experiment import Experiment
from autopilot.git.repository import Repository
from tests.cli.test_mcp import hosted

CLAUDE = os.environ.get("AUTOPILOT_TEST_CLAUDE", "")
NAME = "claude-sonnet-4-5"
TARGET = """\
from autopilot import AutoPilotModule, DataLoader, Datum, PathParameter
from autopilot.ai import AgentOptimizer

TRAIN = {
    "t-1": ("late parcel", "shipping"),
    "t-2": ("broken screen", "repair"),
    "t-3": ("pay money", "billing"),
}
VAL = {
    "billing-7": ("late money", "billing"),
    "billing-8": ("late money again", "billing"),
    "billing-9": ("broken money box", "billing"),
    "shipping-1": ("late van", "shipping"),
    "repair-1": ("broken lid", "repair"),
}


class Labels(AutoPilotModule):
    def __init__(self, agent=None):
        super().__init__()
        self.rules, self.agent = PathParameter("rules.txt"), agent

    def forward(self, batch):
        lines = self.rules.read_text().splitlines()
        return Datum(items=[self.label(item.metadata, lines) for item in batch.items])

    def label(self, asked, lines):
        pairs = [line.split(": ") for line in lines if line]
        label = next((name for word, name in pairs if word in asked["text"]), "none")
        return Datum(success=label == asked["expected"], metadata={"label": label})

    def configure_optimizers(self):
        return AgentOptimizer(self.agent, self.parameters())

    def train_dataloader(self):
        return DataLoader([{"id": i, "text": t, "expected": e} for i, (t, e) in TRAIN.items()], 3)

    def val_dataloader(self):
        return DataLoader([{"id": i, "text": t, "expected": e} for i, (t, e) in VAL.items()], 5)
"""
RULES = Path("rules.txt")
DONE = {"strategy": "rules", "summary": "order the rules"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
    monkeypatch.setenv("DISABLE_AUTOUPDATER", "1")
    Path("labels.py").write_text(TARGET)
    RULES.write_text("money: billing\n")
    return folder


def improved(agent) -> list[tuple[str, float]]:
    """Verdict and val accuracy of two epochs and the baseline."""
    module = runpy.run_path("labels.py")["Labels"](agent)
    experiment = Experiment()
    Trainer(experiment=experiment).fit(module, max_epochs=2)
    return [(record.verdict, record.metrics["accuracy"]) for record in experiment.history]


REACHED = [("baseline", 0.6), ("rejected", 0.4), ("kept", 1.0)]


def prompt_of(request: Received) -> str:
    """The first message, whichever form it has."""
    content = request.body["messages"][0]["content"]
    return content if isinstance(content, str) else "\n".join(b.get("text", "") for b in content)


def by_function(_serve, cut: str = ""):
    def answer(prompt: str) -> str:
        assert "late van" not in prompt and "broken lid" not in prompt
        prompt = prompt.replace(brain.section(prompt, cut), "\n") if cut else prompt
        RULES.write_text(brain.think(prompt, RULES.read_text()))
        return "order the rules"

    return FunctionAgent(answer)


def by_command(_serve):
    return CommandAgent([sys.executable, brain.__file__])


def by_model(serve):
    def script(request: Received) -> Reply:
        if len(request.body["messages"]) > 1:
            return say_json(DONE)
        text = brain.think(prompt_of(request), RULES.read_text())
        return edit("create", path="rules.txt", file_text=text)

    serve(script)
    return AnthropicAgent(Model(NAME, max_tokens=200))


def by_claude_code(serve):
    def script(request: Received) -> Reply:
        messages = request.body["messages"]
        if "tools" not in request.body:
            return say("ok")
        turn = sum(message["role"] == "assistant" for message in messages)
        path = str(RULES.absolute())
        if turn == 0:
            return use_tool("Read", file_path=path)
        if turn == 1:
            text = brain.think(prompt_of(request), RULES.read_text())
            return use_tool("Write", file_path=path, content=text)
        return say(json.dumps(DONE))

    serve(script)
    return ClaudeCodeAgent(NAME, command=CLAUDE, timeout_s=120)


@pytest.mark.parametrize(
    "route",
    [
        by_function,
        by_command,
        by_model,
        pytest.param(
            by_claude_code,
            marks=pytest.mark.skipif(not CLAUDE, reason="AUTOPILOT_TEST_CLAUDE names none"),
        ),
    ],
)
def test_an_agent_that_uses_what_the_prompt_shows_reaches_the_target(route, serve) -> None:
    assert improved(route(serve)) == REACHED


@pytest.mark.parametrize("cut", [brain.FAILING, brain.FAILED])
def test_without_what_the_prompt_shows_it_does_not(cut) -> None:
    assert max(value for _, value in improved(by_function(None, cut))) == 0.6


def test_a_host_of_the_server_reaches_the_target(repository: Repository, here: Path) -> None:
    top = repository.workdir
    for name in ("labels.py", "rules.txt"):
        shutil.copy(here / name, top)
    commit_all(top, "target")

    async def drive() -> list[tuple[str, float]]:
        found = []
        async with hosted(SimpleNamespace(top=top)) as host:
            began = await host.call("start", target="labels.py", measure_noise=False)
            desk = Path(began["path"], "rules.txt")
            for _ in range(2):
                told = (await host.session.call_tool("context", {})).content[0].text
                assert "late van" not in told
                desk.write_text(brain.think(told, desk.read_text()))
                tried = await host.call("try", message="order the rules")
                found.append((tried["verdict"], tried["after"]))
        return found

    assert anyio.run(drive) == REACHED[1:]
