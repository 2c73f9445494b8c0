"""A target that gets better with every step: `levels.py` raises the number in `level.txt`."""

from __future__ import annotations

from checkouts import commit_all

from autopilot.git.repository import Repository

# Item n passes from level n on, and each step raises the level by one.
LEVELS = """\
import random

from autopilot import AutoPilotModule, DataLoader, Datum, Optimizer, PathParameter, Step

ITEMS = [{"id": f"i{at}", "at": at} for at in (1, 2, 3, 4)]


class Raise(Optimizer):
    def step(self):
        level = self.parameters[0]
        level.write_text(f"{int(level.read_text()) + 1}\\n")
        return Step("raise the level", "up", "too few items pass")


class Levels(AutoPilotModule):
    def __init__(self, size: int = 4):
        super().__init__()
        self.level = PathParameter("level.txt")
        self.size = size

    def forward(self, batch):
        level = int(self.level.read_text())
        return Datum(
            metrics={"chance": random.random()},
            items=[Datum(success=level >= x.metadata["at"]) for x in batch.items],
        )

    def configure_optimizers(self):
        return Raise(self.parameters())

    def train_dataloader(self):
        return DataLoader(ITEMS, self.size)

    val_dataloader = test_dataloader = train_dataloader
"""


def commit_levels(repository: Repository, level: int = 1) -> Repository:
    """Commits the target; returns the repository as it is now."""
    (repository.workdir / "levels.py").write_text(LEVELS)
    (repository.workdir / "level.txt").write_text(f"{level}\n")
    return Repository.discover(commit_all(repository.workdir, "levels"))
