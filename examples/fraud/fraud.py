"""Thresholds of a rule engine that flags cases, on a real table.

`autopilot run examples/fraud/fraud.py` improves rules.toml by itself.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from feedback import BETA, CaseLoss
from rulebook import RuleBook
from strategies import all_strategies

from autopilot.core.loss import Loss
from autopilot.core.metrics import FBeta, Precision, Recall
from autopilot.core.module import AutoPilotModule
from autopilot.core.optimizer import Optimizer
from autopilot.core.parameter import PathParameter
from autopilot.core.rules import RuleOptimizer
from autopilot.core.types import Datum
from autopilot.data import DataLoader, ListDataset

HERE = Path(__file__).parent
SPLITS = ("train", "val", "test")


class RuleEngine(AutoPilotModule):
    """Flags cases by the thresholds in a file.

    Args:
        rules: The file, which is what gets optimized.
    """

    monitor = "f2"

    def __init__(self, rules: Path = HERE / "rules.toml") -> None:
        super().__init__()
        self.rules = PathParameter(rules)
        self.f2 = FBeta(BETA)
        self.precision = Precision()
        self.recall = Recall()

    def forward(self, batch: Datum) -> Datum:
        """Which cases of the batch are flagged."""
        book = RuleBook.parse(self.rules.read_text())
        return Datum(items=[self._answer(book, case) for case in batch.leaves()])

    def _answer(self, book: RuleBook, case: Datum) -> Datum:
        flagged, target = book.flags(case.metadata["values"]), case.metadata["target"]
        return Datum(
            id=case.id,
            success=flagged == target,
            metadata={"prediction": flagged, "target": target},
            feedback=None if flagged == target else "missed" if target else "false alarm",
        )

    def configure_loss(self) -> Loss:
        return CaseLoss()

    def configure_optimizers(self) -> Optimizer:
        return RuleOptimizer(self.parameters(), all_strategies())

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        return DataLoader(_cases("train"), batch_size=64)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        return DataLoader(_cases("val"), batch_size=64)

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        return DataLoader(_cases("test"), batch_size=64)


def _cases(split: str) -> ListDataset[dict[str, Any]]:
    """A third of the table: its rows in turn go to train, val and test."""
    with (HERE / "data" / "cases.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[SPLITS.index(split) :: len(SPLITS)]
    cases = [(row.pop("case"), row.pop("malignant") == "1", row) for row in rows]
    return ListDataset(
        [
            {"id": name, "target": target, "values": {k: float(v) for k, v in row.items()}}
            for name, target, row in cases
        ]
    )
