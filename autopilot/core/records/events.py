"""Events: what happened to an experiment as a whole, and what a person decided on it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal

from autopilot.core.records.record import Event
from autopilot.errors import UsageError

Decide = Literal["promote", "reject"]


def stamped(event: Event) -> Event:
    """An event of now, under a name of its own."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return replace(event, id=f"{event.name}-{time.time_ns()}", time=now)


def time_of(event: Event) -> int:
    """By what events are put in order."""
    number = event.id.rpartition("-")[2]
    return int(number) if number.isdigit() else 0


def decision_event(decision: str, reason: str, reviewer: str, epoch: int, revision: str) -> Event:
    """A decision as an event.

    Raises:
        UsageError: it is neither "promote" nor "reject".
    """
    if decision not in ("promote", "reject"):
        raise UsageError(f"{decision!r} is no decision", hint='decide "promote" or "reject"')
    return Event(
        epoch=epoch,
        name="decided",
        detail=reason,
        decision=decision,
        reviewer=reviewer,
        revision=revision,
    )


def decision_among(events: Sequence[Event]) -> Event | None:
    """The decision that holds: the latest."""
    decided = [event for event in events if event.name == "decided"]
    return decided[-1] if decided else None
