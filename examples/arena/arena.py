"""The balance of a small game, as numbers in a file that a search proposes.

`autopilot run examples/arena/arena.py` improves units.toml by itself.
"""

from __future__ import annotations

import random
import tomllib
from itertools import combinations
from pathlib import Path
from typing import Any

from duel import Unit, duel

from autopilot.core.metric import Metric
from autopilot.core.module import AutoPilotModule
from autopilot.core.optimizer import Optimizer
from autopilot.core.types import Datum
from autopilot.data import DataLoader
from autopilot.tuning.parameter import ConfigParameter
from autopilot.tuning.search import SearchOptimizer
from autopilot.tuning.spaces import Range

HERE = Path(__file__).parent
UNITS = ("knight", "archer", "mage", "rogue")
SPACES = {
    "knight.damage": Range(60, 400, log=True),
    "archer.damage": Range(50, 300, log=True),
    "mage.damage": Range(120, 750, log=True),
    "rogue.damage": Range(40, 280, log=True),
}
DUELS = 400
TOLERANCE = 0.1  # of a win rate, to either side of a half
WANTED_S = 15.0  # what a duel should take
LENGTH_WEIGHT = 0.5


class Imbalance(Metric):
    """How far the game is from what is wanted, as one number: 0 is perfect, lower is better.

    The win rate of the worst match-up counts, not the mean: players find it, and play nothing else.
    To it comes how much too long or too short a duel is, as a share of what is wanted, by a weight.
    """

    higher_is_better = False
    off: list[float]
    seconds: list[float]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("off", list)
        self.add_state("seconds", list)

    def update(self, data: Datum) -> None:
        """Takes in match-ups."""
        for item in filter(self.has_value, data.leaves()):
            self.off.append(item.metrics["off"])
            self.seconds.append(item.metrics["seconds"])

    def compute(self) -> float:
        """The worst match-up, and the length."""
        length = sum(self.seconds) / len(self.seconds)
        return max(self.off) + LENGTH_WEIGHT * abs(length - WANTED_S) / WANTED_S


class Arena(AutoPilotModule):
    """Lets all pairs of units fight, many times each.

    An item is a match-up; it passes if the weaker side wins often enough.

    Args:
        units: The file of their stats, whose numbers are what gets optimized.
    """

    monitor = "imbalance"

    def __init__(self, units: Path = HERE / "units.toml") -> None:
        super().__init__()
        self.units = ConfigParameter(units, SPACES)
        self.imbalance = Imbalance()

    def forward(self, batch: Datum) -> Datum:
        """How each match-up of the batch goes."""
        stats = tomllib.loads(self.units.read_text())
        units = {name: Unit(**values) for name, values in stats.items()}
        return Datum(items=[self._meet(units, match) for match in batch.leaves()])

    def _meet(self, units: dict[str, Unit], match: Datum) -> Datum:
        one, two, chance = (match.metadata[key] for key in ("one", "two", "chance"))
        # Chance of its own for each match-up: what one unit's number is changes no other match-up.
        generator = random.Random(f"{chance}: {one}, {two}")
        results = [duel(units[one], units[two], generator) for _ in range(DUELS)]
        wins = sum(result for result, _ in results) / DUELS
        seconds = sum(time for _, time in results) / DUELS
        off = abs(wins - 0.5)
        return Datum(
            id=match.id,
            success=off <= TOLERANCE,
            metrics={"off": off, "seconds": seconds},
            feedback=None if off <= TOLERANCE else f"{one} wins {wins:.0%} against {two}",
        )

    def configure_optimizers(self) -> Optimizer:
        return SearchOptimizer([self.units], sampler="cmaes")

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        return DataLoader(_matches("val"), batch_size=6)

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        return DataLoader(_matches("test"), batch_size=6)


def _matches(chance: str) -> list[dict[str, Any]]:
    """All pairs of units; the splits differ in their chance alone."""
    pairs = combinations(UNITS, 2)
    return [{"id": f"{a}-{b}", "one": a, "two": b, "chance": chance} for a, b in pairs]
