"""Both code samples of the document that the project was created from run as they stand there.

The test supplies MyModule, MyJudge, the loader, what the second sample elides, and a `claude`.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from autopilot.ai.judge import Judge
from autopilot.core.experiment import Experiment
from autopilot.core.module import Module
from autopilot.core.parameter import PathParameter
from autopilot.core.records.record import LlmRecord
from autopilot.core.types import Datum
from autopilot.data import DataLoader, ListDataset
from autopilot.git.commands import run_git
from autopilot.policy import Improvement, Policy
from autopilot.tracking.git_store import GitStore

MANUAL = """\
from autopilot.ai.coding import ClaudeCodeAgent
from autopilot.ai.gradient import ConcatCollator
from autopilot.ai.loss import JudgeLoss
from autopilot.ai.optimizer import AgentOptimizer
from autopilot.core.module import Module

module = MyModule()
loss = JudgeLoss(judge=MyJudge(), collator=ConcatCollator())
optimizer = AgentOptimizer(agent=ClaudeCodeAgent(), parameters=module.parameters())

module.train()
for epoch in range(5):
  for batch in train_loader:
    data = module(batch)
    loss(data, batch)
  loss.backward()       # structured feedback fills param.grad
  optimizer.step()      # optimizer applies improvements (e.g. edits code)
  optimizer.zero_grad()
"""

TRAINED = """\
from autopilot.ai.coding import ClaudeCodeAgent
from autopilot.ai.optimizer import AgentOptimizer
from autopilot.core.module import AutoPilotModule
from autopilot.core.trainer import Trainer

class MyModule(AutoPilotModule):
  def training_step(self, batch):
    return self.forward(batch)

  def configure_optimizers(self):
    return AgentOptimizer(agent=ClaudeCodeAgent(), parameters=self.parameters())

trainer = Trainer(callbacks=[...], policy=my_policy, experiment=my_experiment)
trainer.fit(module, train_dataloaders=loader, max_epochs=10)
"""

# A coding tool that reads the feedback and writes the words that are asked for, one a call.
CLAUDE = """#!{python}
import json, pathlib, re, sys
prompt = sys.stdin.read()
words = pathlib.Path("words.txt")
known = words.read_text().split()
wanted = [w for w in re.findall(r"add the word (\\w+)", prompt) if w not in known]
if wanted:
    words.write_text("\\n".join([*known, wanted[0]]) + "\\n")
what = "add " + (wanted or ["nothing"])[0]
reply = {{"strategy": "add words", "summary": what, "rationale": "r"}}
with open({log!r}, "a") as log:
    log.write(json.dumps(reply["summary"]) + "\\n")
print(json.dumps({{"result": "Done.\\n" + json.dumps(reply), "session_id": "s",
    "total_cost_usd": 0.01, "usage": {{"input_tokens": 100, "output_tokens": 10}}}}))
"""
WORDS = ("blue", "green", "red")  # in the order in which feedback is rendered


def answer(words: PathParameter, batch: Datum) -> Datum:
    known = words.read_text().split()
    items = []
    for item in batch.items:
        word = item.metadata["word"]
        told = None if word in known else f"add the word {word}"
        items.append(Datum(metadata={"known": known}, success=word in known, feedback=told))
    return Datum(items=items)


class MyJudge(Judge):
    """Knows the truth that the items' targets hold."""

    def judge(self, item: Datum, target: Datum | None = None):
        assert target is not None
        assert set(item.metadata["known"]) <= {"black", *WORDS}
        return super().judge(item, target)


@pytest.fixture
def calls(repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the fake `claude` writes what it was asked, in a repository with `words.txt`."""
    top = repository.workdir
    (top / "words.txt").write_text("black\n")
    run_git(["add", "words.txt"], cwd=top)
    run_git(["commit", "--quiet", "--message=words"], cwd=top)
    monkeypatch.chdir(top)
    log, program = tmp_path / "calls", tmp_path / "bin" / "claude"
    program.parent.mkdir()
    program.write_text(CLAUDE.format(python=sys.executable, log=str(log)))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return log


def test_the_manual_loop(calls: Path) -> None:
    class MyModule(Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = PathParameter("words.txt")

        def forward(self, batch: Datum) -> Datum:
            return answer(self.words, batch)

    scope = {"MyModule": MyModule, "MyJudge": MyJudge, "train_loader": loader()}
    exec(compile(MANUAL, "manual", "exec"), scope)
    assert Path("words.txt").read_text().split() == ["black", *WORDS]
    # With nothing left to say there is nobody to ask.
    assert done(calls) == [f"add {word}" for word in WORDS]


def test_the_trainer(calls: Path) -> None:
    store = GitStore("words", Path.cwd())
    experiment = Experiment(store)

    class Words:
        """What the sample leaves out of its module."""

        def __init__(self) -> None:
            super().__init__()
            self.words = PathParameter("words.txt")

        def forward(self, batch: Datum) -> Datum:
            return answer(self.words, batch)

        def val_dataloader(self) -> DataLoader:
            return loader()

    given = {"my_policy": Policy([Improvement()]), "my_experiment": experiment, "loader": loader()}
    scope: dict[str, Any] = {**given}
    defined, fitted = TRAINED.split("trainer = ")
    exec(compile(defined, "defined", "exec"), scope)
    scope["module"] = type("Module", (Words, scope["MyModule"]), {})()
    exec(compile(f"trainer = {fitted}", "fitted", "exec"), scope)

    assert Path("words.txt").read_text().split() == ["black", *WORDS]
    assert done(calls) == [f"add {word}" for word in WORDS]
    subjects = [revision.message.splitlines()[0] for revision in store.log()][::-1]
    assert subjects[:4] == [
        "autopilot(words): start library run",
        *[f"autopilot(words): epoch {n}: add {w}" for n, w in enumerate(WORDS, start=1)],
    ]
    result = scope["trainer"].result()
    assert (result.best, result.best_epoch, result.kept) == (1.0, 3, 3)
    assert (result.cost.tokens, result.cost.cost_usd) == (330, pytest.approx(0.03))
    calls_kept = [call for _, call in store.records(LlmRecord)]
    assert [(call.epoch, call.role, call.step) for call in calls_kept] == [
        (n, "optimizer", 1) for n in (1, 2, 3)
    ]


def loader() -> DataLoader:
    return DataLoader(ListDataset([{"id": word, "word": word} for word in WORDS]), batch_size=2)


def done(calls: Path) -> list[str]:
    return [json.loads(line) for line in calls.read_text().splitlines()]
