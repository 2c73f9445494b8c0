"""A repository with a finished experiment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import autopilot
from autopilot.git.commands import run_git
from autopilot.git.repository import Repository
from autopilot.tracking.notebook import Notebook

# Item n passes from level n on; each step raises the level by one, from 1 to 3 of 4.
TARGET = """\
import random

from autopilot import AutoPilotModule, DataLoader, Datum, Optimizer, PathParameter, Step

ITEMS = [{"id": f"i{at}", "at": at} for at in (1, 2, 3, 4)]


class Raise(Optimizer):
    def step(self):
        level = self.parameters[0]
        level.write_text(f"{int(level.read_text()) + 1}\\n")
        return Step("raise the level", "up", "too few items pass")


class Levels(AutoPilotModule):
    def __init__(self):
        super().__init__()
        self.level = PathParameter("level.txt")

    def forward(self, batch):
        level = int(self.level.read_text())
        return Datum(
            metrics={"chance": random.random()},
            items=[Datum(success=level >= x.metadata["at"]) for x in batch.items],
        )

    def configure_optimizers(self):
        return Raise(self.parameters())

    def train_dataloader(self):
        return DataLoader(ITEMS, 4)

    val_dataloader = test_dataloader = train_dataloader
"""


@pytest.fixture
def finished(
    repository: Repository, git_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> Notebook:
    """The experiment `levels`: the baseline passes 1 of 4 items, epochs 1 and 2 pass 2 and 3."""
    monkeypatch.setenv("PYTHONPATH", str(Path(autopilot.__file__).parents[1]))
    top = repository.workdir
    (top / "levels.py").write_text(TARGET)
    (top / "level.txt").write_text("1\n")
    run_git(["add", "--all"], cwd=top)
    run_git(["commit", "--quiet", "--message=levels"], cwd=top)
    command = [sys.executable, "-P", "-m", "autopilot", "run", "levels.py", "-e", "levels"]
    subprocess.run(
        [*command, "--max-epochs", "2"], cwd=top, check=True, capture_output=True, env=os.environ
    )
    return Notebook(Repository.discover(top), "levels")
