"""Commands that run experiments: run, resume."""

from __future__ import annotations

from autopilot.cli.context import Context


def run(context: Context, target: str) -> None:
    """Optimize a target."""


def resume(context: Context, slug: str) -> None:
    """Go on with an experiment."""
