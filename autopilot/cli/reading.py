"""Commands that read experiments: log, show, diff, status."""

from __future__ import annotations

from autopilot.cli.context import Context


def log(context: Context, slug: str | None = None) -> None:
    """Show the epochs of an experiment."""


def show(context: Context, epoch: int) -> None:
    """Show one epoch."""


def diff(context: Context) -> None:
    """Show what changed."""


def status(context: Context) -> None:
    """Show all experiments."""
