"""A repository with a target, and a process that is put back after a session ran in it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from autopilot.git.commands import run_git
from autopilot.git.repository import Repository

# The level is 1 of 3: item n passes from level n on, and each step raises the level by one.
TARGET = """\
from autopilot import AutoPilotModule, DataLoader, Datum, Optimizer, PathParameter, Step

ITEMS = [{"id": f"i{at}", "at": at} for at in (1, 2, 3)]


class Raise(Optimizer):
    def step(self):
        level = self.parameters[0]
        level.write_text(f"{int(level.read_text()) + 1}\\n")
        return Step("raise the level", "up", "too few items pass")


class Levels(AutoPilotModule):
    def __init__(self, size: int = 3):
        super().__init__()
        self.level = PathParameter("level.txt")
        self.size = size

    def forward(self, batch):
        level = int(self.level.read_text())
        return Datum(items=[Datum(success=level >= x.metadata["at"]) for x in batch.items])

    def configure_optimizers(self):
        return Raise(self.parameters())

    def train_dataloader(self):
        return DataLoader(ITEMS, self.size)

    val_dataloader = test_dataloader = train_dataloader
"""


@pytest.fixture
def target(repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """The repository with `levels.py` and `level.txt`; the process's own state comes back."""
    (repository.workdir / "levels.py").write_text(TARGET)
    (repository.workdir / "level.txt").write_text("1\n")
    run_git(["add", "--all"], cwd=repository.workdir)
    run_git(["commit", "--quiet", "--message=levels"], cwd=repository.workdir)
    monkeypatch.chdir(repository.workdir)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.delitem(sys.modules, "levels", raising=False)
    return Repository.discover(repository.workdir)
