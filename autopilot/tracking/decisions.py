"""Decisions on experiments: promote or reject, written down among the events."""

from __future__ import annotations

from autopilot.core.events import decision_event, stamped
from autopilot.core.record import Event
from autopilot.git.repository import Repository
from autopilot.tracking.holding import stopped
from autopilot.tracking.journal import Journal


def decide(
    repo: Repository,
    slug: str,
    decision: str,
    *,
    epoch: str = "best",
    reason: str = "",
    reviewer: str = "",
) -> Event:
    """Writes a decision on an epoch down; moves no branch and no file.

    Args:
        repo: The repository.
        slug: The experiment; it must not be running.
        decision: "promote" or "reject".
        epoch: What names an epoch.
        reason: Why, in one sentence.
        reviewer: Who decided; whoever git says the author is, if not given.

    Raises:
        ExperimentError: there is no such experiment or epoch.
        LockHeldError: it is running.
    """
    with stopped(repo, slug) as notebook:
        found = notebook.find(epoch)
        commit = notebook.after(found.number)
        who = reviewer or repo.identity().name
        event = stamped(decision_event(decision, reason, who, found.number, commit))
        Journal(repo, notebook.layout).write(notebook.start, [event])
    return event
