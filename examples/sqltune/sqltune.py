"""Indexes and queries of a SQLite database, improved by what the query planner says.

`autopilot run examples/sqltune/sqltune.py` improves the files in sql/ by itself.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plans import PlanLoss
from shop import PLACE_ORDER, digest_rows, make_database, orders
from strategies import INDEXES, all_strategies, file_of

from autopilot.core.loss import Loss
from autopilot.core.metrics import Sum
from autopilot.core.module import AutoPilotModule
from autopilot.core.optimizer import Optimizer
from autopilot.core.parameter import PathParameter
from autopilot.core.rules import RuleOptimizer
from autopilot.core.types import Datum
from autopilot.data import DataLoader, ListDataset

HERE = Path(__file__).parent
EVERY = 10


class SqlTune(AutoPilotModule):
    """Runs a shop's queries and writes on the indexes and by the query texts in a folder.

    The cost of a call is how many steps SQLite's virtual machine took, in thousands: the same each
    time, on every machine. Milliseconds stand beside it.

    Args:
        sql: The folder: indexes.sql, and queries/NAME.sql. It is what gets optimized.
    """

    monitor = "kilosteps"
    mode = "min"

    def __init__(self, sql: Path = HERE / "sql") -> None:
        super().__init__()
        self.sql = PathParameter(sql, "**/*.sql")
        self.ms = Milliseconds()
        self._shop: sqlite3.Connection | None = None
        self._indexed: tuple[str, sqlite3.Connection] | None = None

    def forward(self, batch: Datum) -> Datum:
        """The results of a batch of calls."""
        database = self._database(self.sql.read_text(INDEXES))
        return Datum(items=[self._call(database, call) for call in batch.leaves()])

    def _call(self, database: sqlite3.Connection, call: Datum) -> Datum:
        if "first" in call.metadata:
            rows = list(orders(call.metadata["first"], call.metadata["count"]))
            _, metrics = measure(database, lambda: database.executemany(PLACE_ORDER, rows))
            database.rollback()
            return self._result(call, metrics, ["INSERT"])
        query, arguments = call.metadata["query"], call.metadata["arguments"]
        text = self.sql.read_text(file_of(query))
        try:
            plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {text}", arguments)]
            rows, metrics = measure(database, lambda: database.execute(text, arguments).fetchall())
        except sqlite3.Error as error:
            return Datum(id=call.id, error_message=f"{query}: {error}")
        if digest_rows(rows) != call.metadata["rows"]:
            # No cost makes up for this: an epoch in which a call lost its value is rejected.
            return Datum(id=call.id, error_message=f"{query} does not return the rows it should")
        return self._result(call, metrics, plan, query=query, text=text)

    def _result(
        self, call: Datum, metrics: dict[str, float], plan: list[str], **more: str
    ) -> Datum:
        slow = [line for line in plan if line.startswith("SCAN") or "TEMP B-TREE" in line]
        # Only the loss asks for plans, and val results are kept in git: so, not in eval mode.
        metadata = {"plan": plan, **more} if self.training else {}
        said = "; ".join(slow) or None
        return Datum(id=call.id, success=True, metrics=metrics, metadata=metadata, feedback=said)

    def _database(self, indexes: str) -> sqlite3.Connection:
        """A copy of the shop with its indexes, made anew whenever they change."""
        if self._shop is None:
            self._shop = make_database()
        if self._indexed is None or self._indexed[0] != indexes:
            if self._indexed is not None:
                self._indexed[1].close()
            # Without SQLite's cache of statements: one that is used twice counts on.
            database = sqlite3.connect(":memory:", cached_statements=0)
            self._shop.backup(database)
            database.executescript(indexes)
            self._indexed = (indexes, database)
        return self._indexed[1]

    def configure_loss(self) -> Loss:
        return PlanLoss()

    def configure_optimizers(self) -> Optimizer:
        return RuleOptimizer(self.parameters(), all_strategies())

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        return DataLoader(_calls("train"), batch_size=27)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        return DataLoader(_calls("val"), batch_size=27)

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        return DataLoader(_calls("test"), batch_size=27)


class Milliseconds(Sum):
    """The time of all calls together, which differs each time: a replay does not compare it."""

    noisy = True

    def __init__(self) -> None:
        super().__init__("ms", higher_is_better=False)


def measure(
    database: sqlite3.Connection, action: Callable[[], Any]
) -> tuple[Any, dict[str, float]]:
    """Runs an action; returns its result, with its steps and its milliseconds."""
    steps, started = 0, time.perf_counter()

    def count() -> None:
        nonlocal steps
        steps += EVERY

    database.set_progress_handler(count, EVERY)
    try:
        result = action()
    finally:
        database.set_progress_handler(None, 0)
    return result, {"kilosteps": steps / 1000, "ms": 1000 * (time.perf_counter() - started)}


def _calls(split: str) -> ListDataset[dict[str, Any]]:
    return ListDataset.from_jsonl(HERE / "data" / f"{split}.jsonl")
