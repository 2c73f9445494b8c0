"""Promotion: an epoch's state taken over into a branch, after its gates; the decision on record.

Only the parameters' changes get in. The user's working tree stays as it is, unless it has that
branch checked out: then its index and files come along, and it must be clean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from autopilot.core.records.message import Score, one_line, promotion_message
from autopilot.core.records.record import Event
from autopilot.errors import ExperimentError
from autopilot.git import commits, objects
from autopilot.git.refs import Branch, advance, checked_out_at, obstacle
from autopilot.git.repository import Repository
from autopilot.review import changes
from autopilot.tracking.attribution import lineage, named
from autopilot.tracking.epochs import Epoch
from autopilot.tracking.holding import record_decision, stopped
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.parameters import outside

Method = Literal["squash", "no-ff", "ff-only"]
"""One commit; a merge commit; the branch moved to the experiment's own commit."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """A gate of a promotion: what must hold before an epoch is taken over."""

    name: str
    passed: bool
    detail: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class PromotionPlan:
    """The changes and the gates of a promotion.

    Args:
        commit: The experiment's commit with its state.
        score: The monitored val metric, against the baseline.
        test: The epoch's test metrics; empty where they were not measured.
        tree: The branch's new tree; "" if it cannot be made.
        counts: Lines by file that the branch would gain and lose.
    """

    slug: str
    epoch: Epoch
    commit: str
    onto: Branch
    method: Method
    score: Score
    test: Mapping[str, float]
    tree: str
    counts: Mapping[str, objects.LineCounts]
    gates: tuple[Requirement, ...]
    merged: changes.MergedEpoch

    @property
    def is_done(self) -> bool:
        """Whether the branch has the epoch already."""
        return self.merged.epoch == self.epoch.number

    @property
    def failed(self) -> list[Requirement]:
        """The gates that are closed."""
        return [gate for gate in self.gates if not gate.passed]


@dataclass(frozen=True, slots=True)
class Promoted:
    """The result of a promotion.

    Args:
        commit: The branch's commit with the epoch.
        event: The decision as it was written down; None if it was on record already.
        updated: The folder of the worktree whose files came along; "" if there is none.
    """

    plan: PromotionPlan
    commit: str
    event: Event | None
    updated: str = ""


def plan(
    notebook: Notebook,
    into: str | None = None,
    epoch: str = "best",
    method: Method = "squash",
    more: Sequence[Requirement] = (),
    *,
    held: bool = False,
) -> PromotionPlan:
    """Plans a promotion and checks its gates. Moves nothing.

    Args:
        into: A branch; None: the one that the experiment started from.
        epoch: A number, "best", "last", a tag or a commit.
        held: The caller holds the experiment's lock, so that no run of it is going on.
    """
    history, chosen = changes.ParameterHistory(notebook), named(notebook, epoch)
    onto = changes.target_branch(notebook, into)
    merged = history.merged_into(onto.tip)
    tree, gate = _merge_gate(history, onto, chosen, method, merged)
    gates = [*_standing_gates(notebook, chosen, onto), *more, gate]
    if tree and onto.is_local and merged.epoch != chosen.number:
        gates.append(_checkout_gate(notebook.repo, onto, tree))
    if not held:
        status = notebook.status
        detail = status.detail if status.state == "running" else "no run is in progress"
        hint = "wait until it has ended, or stop it with Ctrl-C"
        gates.append(Requirement("running", status.state != "running", detail, hint))
    return PromotionPlan(
        notebook.slug,
        chosen,
        notebook.after(chosen.number),
        onto,
        method,
        history.scores(notebook.epoch(0), chosen)[0],
        notebook.test_metrics(chosen.number),
        tree,
        objects.diff_stat(notebook.repo, onto.tip, tree or onto.tip),
        tuple(gates),
        merged,
    )


def promote(
    repo: Repository,
    slug: str,
    into: str | None = None,
    epoch: str = "best",
    method: Method = "squash",
    *,
    more: Sequence[Requirement] = (),
    reason: str = "",
    reviewer: str = "",
) -> Promoted:
    """Takes an epoch over into a branch, and writes the decision down.

    A branch that has it already is left alone; a decision that a kill kept from being written is
    written then. `into` to `more` are those of `plan`.

    Args:
        slug: The experiment; it must not be running.
        reviewer: Who decided; the author by git's configuration, if not given.

    Raises:
        ExperimentError: a gate is not passed; nothing was changed.
        LockHeldError: it is running.
        RefMovedError: the branch was moved meanwhile.
    """
    with stopped(repo, slug) as notebook:
        found = plan(notebook, into, epoch, method, more, held=True)
        number = found.epoch.number
        for gate in found.failed:
            raise ExperimentError(
                f"epoch {number} of {slug} is not taken over into {found.onto.name}: {gate.detail}",
                hint=gate.hint,
            )
        place, made = None, found.merged.commit
        if not found.is_done:
            made = found.commit
            if method != "ff-only":
                made = _commit(notebook, found, reason, reviewer or repo.identity().name)
            log = f"autopilot: promote epoch {number} of {slug}"
            place = advance(repo, found.onto.ref, made, found.onto.tip, log)
        event = None
        # The decision comes after the branch: a kill in between is completed by the next call.
        if not any(event.merge == made for event in notebook.events):
            event = record_decision(
                notebook, "promote", number, reason, reviewer, into=found.onto.name, merge=made
            )
    return Promoted(found, made, event, str(place or ""))


def _commit(notebook: Notebook, found: PromotionPlan, reason: str, reviewer: str) -> str:
    """The commit that the branch is moved to."""
    since = found.merged.epoch or 0
    kept = [
        f"epoch {epoch.number}: {one_line(epoch.record.summary or epoch.record.strategy)}"
        for epoch in lineage(notebook, found.epoch)
        if epoch.number > since
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


def _standing_gates(notebook: Notebook, epoch: Epoch, onto: Branch) -> Iterator[Requirement]:
    """The verdict, the decisions of people, and whether the branch can be moved at all."""
    number, slug = epoch.number, notebook.slug
    why = f": {'; '.join(epoch.record.reasons)}" if epoch.record.reasons else ""
    detail = f"the policy {epoch.verdict} it{why}"
    if number == 0:
        detail = "it is the baseline: nothing was changed"
    hint = f"choose a kept one: autopilot log {slug}"
    yield Requirement("verdict", epoch.verdict == "kept", detail, hint)
    decided = [e for e in notebook.events if e.name == "decided" and e.epoch == number]
    if decided and decided[-1].decision == "reject":
        event = decided[-1]
        why = f": {event.detail}" if event.detail else ""
        by = f" by {event.reviewer}" if event.reviewer else ""
        hint = f"the latest decision holds: autopilot experiment decide {slug} promote"
        hint += f" --epoch {number}"
        yield Requirement("decision", False, f"it was rejected by hand{by}{why}", hint)
    else:
        yield Requirement("decision", True, "it was not rejected by hand")
    if not onto.is_local:
        hint = f"git branch {onto.short} {onto.name}, then --into {onto.short}"
        yield Requirement("branch", False, f"{onto.name} is a remote's branch", hint)


def _merge_gate(
    history: changes.ParameterHistory,
    onto: Branch,
    epoch: Epoch,
    method: Method,
    merged: changes.MergedEpoch,
) -> tuple[str, Requirement]:
    """The branch's new tree, and whether it can be made; the tree is "" if not."""

    def closed(detail: str, hint: str) -> tuple[str, Requirement]:
        return "", Requirement("merge", False, detail, hint)

    def conflicting(conflict: changes.Conflict) -> tuple[str, Requirement]:
        sides = f"{onto.name}...{notebook.layout.branch_name} -- '{conflict.paths[0]}'"
        return closed(conflict.of(notebook.slug, onto.name), f"see both sides: git diff {sides}")

    notebook, repo = history.notebook, history.repo
    commit, now = notebook.after(epoch.number), objects.tree_of(repo, onto.tip)
    if merged.epoch == epoch.number:
        detail = f"{onto.name} has it already, by {merged.commit[:7]}"
        return now, Requirement("merge", True, detail)
    if merged.epoch is not None and merged.epoch > epoch.number:
        hint = f"autopilot propose revert {notebook.slug} takes it back"
        return closed(f"{onto.name} has epoch {merged.epoch} already", hint)
    if method == "squash":
        whole = history.whole(onto.tip, epoch.number, merged.epoch)
        tree = changes.apply_change(repo, onto.tip, whole)
        if isinstance(tree, changes.Conflict):
            return conflicting(tree)
        if tree == now:
            detail = f"{onto.name} has the same content already"
            return tree, Requirement("merge", False, detail, "there is nothing to take over")
        once = f"; {onto.name} took it back once, by {merged.commit[:7]}" if merged.reverted else ""
        return tree, Requirement("merge", True, f"no conflict; one commit{once}")
    base = commits.merge_base(repo, onto.tip, commit)
    if method == "ff-only" and base != onto.tip:
        detail = f"{onto.name} has commits that {notebook.layout.branch_name} has not"
        return closed(detail, "take it over with --squash or --no-ff")
    hint = "take it over with --squash"
    if base is None:
        return closed(f"{onto.name} has no commit in common with it", hint)
    if base == commit:
        return closed(f"{onto.name} has {commit[:7]} in its history", hint)
    others = outside(repo, history.places, base, commit)
    if others:
        detail = f"it would bring changes along that are none of the parameters' ({others[0]})"
        return closed(detail, hint)
    joined = commits.merge_trees(repo, base, onto.tip, commit)
    if joined.conflicts:
        return conflicting(changes.Conflict(epoch.number, joined.conflicts))
    how = "fast-forward" if method == "ff-only" else "no conflict; a merge commit"
    return joined.tree, Requirement("merge", True, how)


def _checkout_gate(repo: Repository, onto: Branch, tree: str) -> Requirement:
    found = obstacle(repo, onto.ref, tree)
    if found is not None:
        return Requirement("checkout", False, *found)
    place = checked_out_at(repo, onto.ref)
    if place is None:
        return Requirement("checkout", True, f"{onto.name} is checked out nowhere")
    detail = f"{onto.name} is checked out in {place}; its files come along"
    return Requirement("checkout", True, detail)
