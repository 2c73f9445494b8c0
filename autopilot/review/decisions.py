"""Decisions on experiments: promote or reject, written down among the events."""

from __future__ import annotations

from dataclasses import replace

from autopilot.core.records.record import Event
from autopilot.git.repository import Repository
from autopilot.tracking.holding import stopped
from autopilot.tracking.journal import Journal
from autopilot.tracking.notebook import Notebook


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
        return record(notebook, decision, notebook.find(epoch).number, reason, reviewer)


def record(
    notebook: Notebook,
    decision: str,
    epoch: int,
    reason: str,
    reviewer: str,
    *,
    into: str = "",
    merge: str = "",
) -> Event:
    """Writes a decision down, of an experiment that the caller holds.

    Args:
        notebook: The experiment.
        decision: "promote" or "reject".
        epoch: The epoch's number.
        reason: See decide.
        reviewer: See decide.
        into: The branch that took it over.
        merge: The commit with which it did.
    """
    who = reviewer or notebook.repo.identity().name
    event = Event.decided(decision, reason, who, epoch, notebook.after(epoch))
    event = replace(event, into=into, merge=merge).stamped()
    Journal(notebook.repo, notebook.layout).write(notebook.start, [event])
    return event
