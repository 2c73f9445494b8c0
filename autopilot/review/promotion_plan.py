"""What taking an epoch over into a branch would change, and the gates before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from autopilot.core.records.message import Score
from autopilot.git import objects
from autopilot.git.branches import Branch, checked_out_at, obstacle
from autopilot.git.merging import merge_base, merge_trees
from autopilot.git.objects import LineCounts
from autopilot.git.repository import Repository
from autopilot.tracking.changes import Changes, Conflict, Merged, put, target_branch
from autopilot.tracking.notebook import Epoch, Notebook

Method = Literal["squash", "no-ff", "ff-only"]
"""One commit; a merge commit; the branch moved to the experiment's own commit."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Something that must be so before an epoch is taken over.

    Args:
        name: One word.
        passed: Whether it is.
        detail: How it is, in one sentence.
        hint: What to do if it is not.
    """

    name: str
    passed: bool
    detail: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a promotion would do.

    Args:
        slug: The experiment.
        epoch: The epoch.
        commit: The experiment's commit with its state.
        onto: The branch that takes it over.
        method: How.
        score: The monitored val metric, against the baseline.
        test: The epoch's test metrics; empty where they were not measured.
        tree: What the branch would hold; "" if that cannot be told.
        counts: Lines by file that the branch would gain and lose.
        gates: What must be so.
        known: What of the experiment the branch has already.
    """

    slug: str
    epoch: Epoch
    commit: str
    onto: Branch
    method: Method
    score: Score
    test: Mapping[str, float]
    tree: str
    counts: Mapping[str, LineCounts]
    gates: tuple[Gate, ...]
    known: Merged

    @property
    def is_done(self) -> bool:
        """Whether the branch has the epoch already."""
        return self.known.epoch == self.epoch.number

    @property
    def failed(self) -> list[Gate]:
        """The gates that it does not pass."""
        return [gate for gate in self.gates if not gate.passed]


def plan(
    notebook: Notebook,
    into: str | None = None,
    epoch: str = "best",
    method: Method = "squash",
    more: Sequence[Gate] = (),
) -> Plan:
    """Looks at what a promotion would change, and at its gates. Moves nothing.

    Args:
        notebook: The experiment.
        into: A branch; None: the one that the experiment started from.
        epoch: What names an epoch.
        method: How.
        more: What else must be so.

    Raises:
        ExperimentError: there is no such epoch or branch.
    """
    found = planned(notebook, into, epoch, method, more)
    status = notebook.status
    detail = status.detail if status.state == "running" else "nobody is running it"
    hint = "wait until it has ended, or stop it with Ctrl-C"
    gate = Gate("running", status.state != "running", detail, hint)
    return replace(found, gates=(*found.gates, gate))


def planned(
    notebook: Notebook, into: str | None, name: str, method: Method, more: Sequence[Gate]
) -> Plan:
    """The plan of somebody who holds the experiment."""
    changes, epoch = Changes(notebook), notebook.find(name)
    onto = target_branch(notebook, into)
    known = changes.merged_into(onto.tip)
    commit = notebook.after(epoch.number)
    tree, gate = _merged(changes, onto, epoch, method, known)
    is_done = known.epoch == epoch.number
    gates = [*_standing(notebook, epoch, onto), *more, gate]
    if tree and onto.is_local and not is_done:
        gates.append(_checkout(notebook.repo, onto, tree))
    before = objects.tree_of(notebook.repo, onto.tip)
    return Plan(
        notebook.slug,
        epoch,
        commit,
        onto,
        method,
        changes.scores(notebook.epoch(0), epoch)[0],
        notebook.test_metrics(epoch.number),
        tree,
        objects.diff_stat(notebook.repo, before, tree or before),
        tuple(gates),
        known,
    )


def _standing(notebook: Notebook, epoch: Epoch, onto: Branch) -> Iterator[Gate]:
    """What is on record of the epoch, and whether the branch can be moved at all."""
    number, slug = epoch.number, notebook.slug
    why = f": {'; '.join(epoch.reasons)}" if epoch.reasons else ""
    hint = f"choose a kept one: autopilot log {slug}"
    if number == 0:
        yield Gate("verdict", False, "it is the baseline: nothing was changed", hint)
    else:
        yield Gate("verdict", epoch.verdict == "kept", f"the policy {epoch.verdict} it{why}", hint)
    decided = [event for event in notebook.events if event.name == "decided"]
    about = [event for event in decided if event.epoch == number]
    if about and about[-1].decision == "reject":
        event = about[-1]
        why = f": {event.detail}" if event.detail else ""
        by = f" by {event.reviewer}" if event.reviewer else ""
        hint = f"the latest decision holds: autopilot experiment decide {slug} promote"
        hint += f" --epoch {number}"
        yield Gate("decision", False, f"it was rejected by hand{by}{why}", hint)
    else:
        yield Gate("decision", True, "nobody rejected it")
    if not onto.is_local:
        hint = f"git branch {onto.short} {onto.name}, then --into {onto.short}"
        yield Gate("branch", False, f"{onto.name} is a remote's branch", hint)


def _merged(
    changes: Changes, onto: Branch, epoch: Epoch, method: Method, known: Merged
) -> tuple[str, Gate]:
    """What the branch would hold, and whether it can be made so."""
    notebook, repo = changes.notebook, changes.repo
    commit, now = notebook.after(epoch.number), objects.tree_of(repo, onto.tip)
    if known.epoch == epoch.number:
        return now, Gate("merge", True, f"{onto.name} has it already, by {known.commit[:7]}")
    if known.epoch is not None and known.epoch > epoch.number:
        hint = f"autopilot propose revert {notebook.slug} takes it back"
        return "", Gate("merge", False, f"{onto.name} has epoch {known.epoch} already", hint)
    if method == "squash":
        tree = put(repo, onto.tip, changes.whole(onto.tip, epoch.number, known.epoch))
        if isinstance(tree, Conflict):
            detail = tree.of(notebook.slug, onto.name)
            return "", Gate("merge", False, detail, _by_hand(notebook, onto, tree.paths[0]))
        if tree == now:
            hint = "there is nothing to take over"
            return tree, Gate("merge", False, f"{onto.name} has the same content already", hint)
        before = f"; {onto.name} took it back once, by {known.commit[:7]}" if known.reverted else ""
        return tree, Gate("merge", True, f"no conflict; one commit{before}")
    base = merge_base(repo, onto.tip, commit)
    if method == "ff-only" and base != onto.tip:
        hint = "take it over with --squash or --no-ff"
        detail = f"{onto.name} has commits that {notebook.layout.branch_name} has not"
        return "", Gate("merge", False, detail, hint)
    if base is None or base == commit:
        hint = "take it over with --squash"
        why = f"has {commit[:7]} in its history" if base else "has no commit in common with it"
        return "", Gate("merge", False, f"{onto.name} {why}", hint)
    others = changes.outside(base, commit)
    if others:
        detail = f"it would bring changes along that are none of the parameters' ({others[0]})"
        return "", Gate("merge", False, detail, "take it over with --squash")
    merged = merge_trees(repo, base, onto.tip, commit)
    if merged.conflicts:
        detail = Conflict(epoch.number, merged.conflicts).of(notebook.slug, onto.name)
        return "", Gate("merge", False, detail, _by_hand(notebook, onto, merged.conflicts[0]))
    how = "fast-forward" if method == "ff-only" else "no conflict; a merge commit"
    return merged.tree, Gate("merge", True, how)


def _by_hand(notebook: Notebook, onto: Branch, path: str) -> str:
    return f"see both sides: git diff {onto.name}...{notebook.layout.branch_name} -- '{path}'"


def _checkout(repo: Repository, onto: Branch, tree: str) -> Gate:
    found = obstacle(repo, onto.ref, tree)
    if found is not None:
        return Gate("checkout", False, *found)
    place = checked_out_at(repo, onto.ref)
    if place is None:
        return Gate("checkout", True, f"{onto.name} is checked out nowhere")
    return Gate("checkout", True, f"{onto.name} is checked out in {place}; its files come along")
