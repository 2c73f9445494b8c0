"""A command that is run once, by hand so to speak: before a run is made of it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from autopilot.command.reading import last_lines, read_output
from autopilot.command.shell import Ran, run_shell
from autopilot.errors import UsageError


@dataclass(frozen=True, slots=True)
class Numbers:
    """The metrics that a command printed.

    Args:
        metrics: By name, with the accuracy of its items; empty where its exit code alone decides.
        has_accuracy: Whether it printed items with a success.
    """

    command: str
    metrics: Mapping[str, float]
    has_accuracy: bool = False


def run_once(command: str, folder: Path, timeout_s: float) -> Ran:
    """Runs a command by the shell in a folder, as a run would."""
    # Not in a worktree: bytecode would stay with the user's files.
    variables = {"AUTOPILOT_SPLIT": "val", "AUTOPILOT_SEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    with contextlib.chdir(folder):
        return run_shell(command, variables, timeout_s)


def measure_once(
    command: str, folder: Path, timeout_s: float, *, may_fail: bool = False
) -> Numbers:
    """Runs a command in a folder, and reads its metrics.

    Args:
        may_fail: Its exit code is a result: it is a test suite.

    Raises:
        UsageError: it fails, or prints no metric.
    """
    ran = run_once(command, folder, timeout_s)
    if may_fail and not ran.finished.ended_by and not ran.is_missing:
        return Numbers(command, {})
    if ran.problem():
        raise UsageError(
            f"{ran.name} {ran.explained()}", hint="name a command that ends with 0 in this folder"
        )
    printed = read_output(ran.finished.stdout, None)
    metrics = {name: value for item in printed.items for name, value in item.metrics.items()}
    metrics |= printed.metrics
    outcomes = [item.outcome for item in printed.items if item.outcome != "unscored"]
    if outcomes:
        metrics = {"accuracy": outcomes.count("passed") / len(outcomes), **metrics}
    if not metrics:
        raise UsageError(
            f"{ran.name} printed no metric: {last_lines(ran.finished.stdout)}",
            hint="let it print a line such as METRIC seconds=1.5, or a JSON object at the end",
        )
    return Numbers(command, metrics, bool(outcomes))
