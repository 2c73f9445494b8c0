"""Waits for another process, and targets that wait in the middle of what they evaluate."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.cli.conftest import Place

# Its `evaluate` writes a number down, and waits at 3 as long as there is a file `wait`.
_HEAD = """\
import pathlib, time
from autopilot import AutoPilotModule, DataLoader, Datum, PathParameter

BESIDE = pathlib.Path({beside!r})


def evaluate(at):
    with open(BESIDE / "calls", "a") as calls:
        calls.write(f"{{at}} ")
    while at == 3 and (BESIDE / "wait").exists():
        (BESIDE / "ready").touch()
        time.sleep(0.01)


"""
# Val items alone, and a folder of rules.
RULES = (
    _HEAD
    + """\
class Rules(AutoPilotModule):
    def __init__(self):
        super().__init__()
        self.rules = PathParameter("rules")

    def forward(self, batch):
        at = batch.items[0].metadata["at"]
        evaluate(at)
        return Datum(items=[Datum(success=int(self.rules.read_text("x.txt")) > at)])

    def val_dataloader(self):
        return DataLoader([{{"id": f"i{{at}}", "at": at}} for at in range(1, 6)], 1)
"""
)
# Evaluates train items; val has words that no agent may see.
TAUGHT = (
    _HEAD
    + """\
class Numbers(AutoPilotModule):
    "Counts up to a number."

    objective = "Count further."

    def __init__(self):
        super().__init__()
        self.x = PathParameter("x.txt", description="how far it counts")

    def forward(self, batch):
        return Datum(items=[self.answer(**item.metadata) for item in batch.items])

    def answer(self, question, expected, **_):
        passed = int(self.x.read_text()) >= expected
        return Datum(success=passed, feedback="" if passed else f"too low for {{question}}")

    def training_step(self, batch):
        evaluate(batch.items[0].metadata["expected"])
        return self(batch)

    def train_dataloader(self):
        rows = [{{"question": f"how far {{n}}?", "expected": n}} for n in (2, 3, 4)]
        return DataLoader(rows, 1)

    def val_dataloader(self):
        rows = [("canary one", 3), ("canary two", 4)]
        return DataLoader([{{"id": f"v{{n}}", "question": q, "expected": n}} for q, n in rows], 2)
"""
)


def calls(place: Place) -> str:
    """The items that were evaluated since this was last asked."""
    file = place.top.parent / "calls"
    text = file.read_text() if file.exists() else ""
    file.unlink(missing_ok=True)
    return text.strip()


def wait_for(condition: Callable[[], object], what: str = "") -> None:
    """Waits until something holds, which is soon; `what` is for the error."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
