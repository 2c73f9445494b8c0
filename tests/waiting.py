"""A target that says what it evaluates, and waits in the middle of it for as long as it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.cli.conftest import Place

# Writes down what it evaluates, and waits at item i3 as long as there is a file `wait`.
RULES = """\
import os, pathlib, time
from autopilot import AutoPilotModule, DataLoader, Datum, PathParameter

BESIDE = pathlib.Path({beside!r})


class Rules(AutoPilotModule):
    def __init__(self):
        super().__init__()
        self.rules = PathParameter("rules")

    def forward(self, batch):
        at = batch.items[0].metadata["at"]
        with open(BESIDE / "calls", "a") as calls:
            calls.write(f"{{at}} ")
        while at == 3 and (BESIDE / "wait").exists():
            (BESIDE / "ready").touch()
            time.sleep(0.01)
        return Datum(items=[Datum(success=int(self.rules.read_text("x.txt")) > at)])

    def val_dataloader(self):
        return DataLoader([{{"id": f"i{{at}}", "at": at}} for at in range(1, 6)], 1)
"""


def calls(place: Place) -> str:
    """The items that were evaluated since this was last asked."""
    file = place.top.parent / "calls"
    text = file.read_text() if file.exists() else ""
    file.unlink(missing_ok=True)
    return text.strip()
