"""Commands that work with models outside of experiments: datasets that are made, and judged."""

from __future__ import annotations

from autopilot.cli import generate, judge
from autopilot.cli.commands import Commands, Group

COMMANDS: Commands = {
    "generate": Group("Make a dataset, slot by slot.", generate.COMMANDS),
    "judge": Group("Judge a dataset, item by item.", judge.COMMANDS),
}
