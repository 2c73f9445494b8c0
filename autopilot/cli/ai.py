"""Commands that work with models outside of experiments: datasets that are made, and judged."""

from __future__ import annotations

from autopilot.cli import generate, judge
from autopilot.cli.context import CommandGroup, Commands

COMMANDS: Commands = {
    "generate": CommandGroup("Make a dataset, slot by slot.", generate.COMMANDS),
    "judge": CommandGroup("Judge a dataset, item by item.", judge.COMMANDS),
}
