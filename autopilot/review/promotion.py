"""Promotion: an epoch's state taken over into a branch, after its gates; the decision on record.

Only the parameters' changes get in. The user's working tree stays as it is, unless it has that
branch checked out: then its index and files come along, and it must be clean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autopilot.core.records.message import one_line, promotion_message
from autopilot.core.records.record import Event
from autopilot.errors import ExperimentError
from autopilot.git import commits
from autopilot.git.branches import advance
from autopilot.git.repository import Repository
from autopilot.review.decisions import record
from autopilot.review.promotion_plan import Gate, Method, Plan, planned
from autopilot.tracking.holding import stopped
from autopilot.tracking.notebook import Notebook


@dataclass(frozen=True, slots=True)
class Promotion:
    """What a promotion did.

    Args:
        plan: What was planned.
        commit: The branch's commit with the epoch.
        event: The decision as it was written down; None if it was on record already.
        updated: The folder of the worktree whose files came along; "" if there is none.
    """

    plan: Plan
    commit: str
    event: Event | None
    updated: str = ""


def promote(
    repo: Repository,
    slug: str,
    into: str | None = None,
    epoch: str = "best",
    method: Method = "squash",
    *,
    more: Sequence[Gate] = (),
    reason: str = "",
    reviewer: str = "",
) -> Promotion:
    """Takes an epoch over into a branch, and writes the decision down.

    A branch that has it already is left alone; a decision that a kill kept from being written is
    written then.

    Args:
        repo: The repository.
        slug: The experiment; it must not be running.
        into: See plan.
        epoch: See plan.
        method: See plan.
        more: See plan.
        reason: Why, in one sentence.
        reviewer: Who decided; whoever git says the author is, if not given.

    Raises:
        ExperimentError: a gate is not passed; nothing was changed.
        LockHeldError: it is running.
        RefMovedError: the branch was moved meanwhile.
    """
    with stopped(repo, slug) as notebook:
        found = planned(notebook, into, epoch, method, more)
        number = found.epoch.number
        for gate in found.failed:
            raise ExperimentError(
                f"epoch {number} of {slug} is not taken over into {found.onto.name}: {gate.detail}",
                hint=gate.hint,
            )
        place, made = None, found.known.commit
        if not found.is_done:
            made = _made(notebook, found, reason, reviewer or repo.identity().name)
            log = f"autopilot: promote epoch {number} of {slug}"
            place = advance(repo, found.onto.ref, made, found.onto.tip, log)
        if any(event.merge == made for event in notebook.events):
            return Promotion(found, made, None)
        event = record(
            notebook, "promote", number, reason, reviewer, into=found.onto.name, merge=made
        )
    return Promotion(found, made, event, str(place or ""))


def _made(notebook: Notebook, found: Plan, reason: str, reviewer: str) -> str:
    """The commit that the branch is moved to."""
    if found.method == "ff-only":
        return found.commit
    since = found.known.epoch or 0
    kept = [
        f"epoch {epoch.number}: {one_line(epoch.summary or epoch.strategy)}"
        for epoch in notebook.epochs
        if epoch.verdict == "kept" and since < epoch.number <= found.epoch.number
    ]
    is_merge = found.method == "no-ff"
    text = promotion_message(
        found.slug,
        found.epoch.number,
        found.commit,
        found.onto.short,
        verb="merge" if is_merge else "take over",
        score=found.score,
        changes=kept,
        reason=reason,
        reviewer=reviewer,
    )
    parents = [found.onto.tip, *([found.commit] if is_merge else [])]
    return commits.commit(notebook.repo, tree=found.tree, parents=parents, message=text)
