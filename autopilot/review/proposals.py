"""Proposals: review branches, one commit for each kept epoch on top of the branch they are for.

`refs/heads/autopilot-review/<slug>` is made from the experiment alone, and made again when that has
got further or its target branch has moved. What a person committed there is never replaced.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from autopilot.core.records.message import (
    EPOCH,
    EXPERIMENT,
    ONTO,
    SOURCE,
    review_message,
    trailer,
    trailer_number,
)
from autopilot.errors import ExperimentError, RepositoryError
from autopilot.git import commits, objects, refs
from autopilot.git.branches import BRANCHES, Branch, checked_out_at, find_branch
from autopilot.git.commands import run_git
from autopilot.git.commits import Commit
from autopilot.git.merging import count_in
from autopilot.git.repository import Repository
from autopilot.tracking.changes import Change, Changes, Conflict, Merged, put, target_branch
from autopilot.tracking.layout import Layout
from autopilot.tracking.notebook import Notebook


@dataclass(frozen=True, slots=True)
class Proposal:
    """A review branch as it is.

    Args:
        slug: The experiment.
        branch: The review branch.
        onto: The branch that it is for.
        base: The commit of that branch that it stands on.
        commits: Its commits, oldest first, with the epochs that they are; 0 is what the experiment
            started from.
        epochs: The same for the epochs alone.
        known: What of the experiment the target branch has already.
        was: What the review branch was before; None if there was none.
    """

    slug: str
    branch: Branch
    onto: Branch
    base: str
    commits: tuple[tuple[int, str], ...]
    known: Merged
    was: str | None = None

    @property
    def epochs(self) -> list[int]:
        """The epochs that it consists of."""
        return [number for number, _ in self.commits if number]

    @property
    def done(self) -> str:
        """What making it came to: "created", "updated" or "unchanged"."""
        if self.was is None:
            return "created"
        return "unchanged" if self.was == self.branch.tip else "updated"


def propose(notebook: Notebook, onto: str | None = None) -> Proposal:
    """Builds the review branch, or brings it up to date. The user's checkout stays as it is.

    Args:
        notebook: The experiment.
        onto: The branch that the changes are for. None: the one that the review branch was built
            for; of a new one, the branch that the experiment started from.

    Raises:
        ExperimentError: there is nothing to propose; the changes conflict with the branch, and it
            names the epoch and the files; or somebody else committed on the review branch. Nothing
            is written then.
        RefMovedError: somebody moved the review branch meanwhile.
    """
    repo, layout, changes = notebook.repo, notebook.layout, Changes(notebook)
    old = refs.read_ref(repo, layout.review)
    existing = built_commits(changes, old) if old else []
    branch = target_branch(notebook, onto or _built_for(existing))
    known = changes.merged_into(branch.tip)
    picks = _picked(changes, branch, known)
    made: list[tuple[int, str]] = []
    parent = branch.tip
    there = {(commit.parents, commit.tree, commit.message): commit.id for commit in existing}
    for change, tree in picks:
        text = _message(notebook, change, branch.short)
        parent = there.get(((parent,), tree, text)) or commits.commit(
            repo, tree=tree, parents=[parent], message=text
        )
        made.append((change.number, parent))
    set_review(repo, layout.review, parent, old, f"autopilot: propose {notebook.slug}")
    made_branch = Branch(layout.review.removeprefix(BRANCHES), layout.review, parent)
    return Proposal(notebook.slug, made_branch, branch, branch.tip, tuple(made), known, old)


def proposal_of(notebook: Notebook) -> Proposal:
    """The proposal that there is; in a fresh clone, the remote's.

    Raises:
        ExperimentError: there is none, or somebody else committed on it.
    """
    found = find_branch(notebook.repo, notebook.layout.review.removeprefix(BRANCHES))
    if found is None:
        raise ExperimentError(
            f"there is no proposal of {notebook.slug}",
            hint=f"autopilot propose create {notebook.slug}",
        )
    return read_proposal(Changes(notebook), found)


def read_proposal(changes: Changes, review: Branch) -> Proposal:
    """A review branch as a proposal.

    Raises:
        ExperimentError: somebody else committed on it.
    """
    notebook = changes.notebook
    built = built_commits(changes, review.tip)
    onto = target_branch(notebook, _built_for(built))
    # A target that grew by an earlier proposal has commits of that form too.
    new = built[count_in(changes.repo, [commit.id for commit in built], onto.tip) :] or built
    made = tuple((trailer_number(c.message, EPOCH) or 0, c.id) for c in new)
    known = changes.merged_into(onto.tip)
    return Proposal(notebook.slug, review, onto, new[0].parents[0], made, known, review.tip)


def _picked(changes: Changes, branch: Branch, known: Merged) -> list[tuple[Change, str]]:
    """The changes that the branch does not have, with the trees that they make on top of it."""
    notebook, repo = changes.notebook, changes.repo
    found: list[tuple[Change, str]] = []
    tree = objects.tree_of(repo, branch.tip)
    for change in changes.between(branch.tip, known.epoch):
        put_on = put(repo, tree, change)
        if isinstance(put_on, Conflict):
            raise ExperimentError(
                f"{put_on.of(notebook.slug, branch.name)}; nothing was written",
                hint=f"see both sides: git diff {branch.name}...{notebook.layout.branch_name} -- "
                f"{shlex.quote(put_on.paths[0])}; then merge by hand, or run anew from "
                f"{branch.name}",
            )
        if put_on != tree:
            found.append((change, put_on))
        tree = put_on
    if not found:
        raise _nothing(changes, branch, known)
    return found


def _nothing(changes: Changes, branch: Branch, known: Merged) -> ExperimentError:
    notebook = changes.notebook
    if not changes.kept:
        return ExperimentError(
            f"there is nothing to propose: no epoch of {notebook.slug} was kept",
            hint=f"autopilot report {notebook.slug} --md says why",
        )
    newest = f"epoch {known.epoch}" if known.epoch is not None else "its changes"
    return ExperimentError(
        f"there is nothing to propose: {branch.name} has {newest} of {notebook.slug} already",
        hint=f"autopilot resume {notebook.slug} goes on with it",
    )


def _message(notebook: Notebook, change: Change, onto: str) -> str:
    slug, epoch = notebook.slug, change.epoch
    if epoch is None:
        source = notebook.manifest.forked_from.replace("@", ", epoch ")
        what = f"what it was forked from: {source}" if source else "what was not committed before"
        return review_message(slug, 0, change.source, onto, what=what)
    steps = [record for _, record in notebook.steps(epoch.number)]
    why = [s.rationale or "\n".join(dict.fromkeys(s.gradients.values())) for s in steps]
    return review_message(
        slug,
        epoch.number,
        change.source,
        onto,
        what=epoch.summary or epoch.strategy,
        why=list(dict.fromkeys(why)),
        scores=change.scores,
        strategy=epoch.strategy,
    )


def built_commits(changes: Changes, tip: str) -> list[Commit]:
    """The commits of a review branch, oldest first.

    Raises:
        ExperimentError: one of them is not as it was built.
    """
    repo, notebook = changes.repo, changes.notebook
    found: list[Commit] = []
    top = commits.read_commit(repo, tip)
    for commit in commits.first_parent_log(repo, tip):
        mine = trailer(commit.message, EXPERIMENT) == notebook.slug
        if len(commit.parents) != 1 or not mine or not trailer(commit.message, SOURCE):
            break
        found.insert(0, commit)
    if not found:
        raise edited(notebook.layout, top)
    base = found[0].parents[0]
    made = {change.source: change for change in changes.between(base)}
    for commit in found:
        change = made.get(trailer(commit.message, SOURCE) or "")
        onto = trailer(commit.message, ONTO)
        text = _message(notebook, change, onto) if change and onto else ""
        if change is None or commit.message != text:
            raise edited(notebook.layout, commit)
        if put(repo, commit.parents[0], change) != commit.tree:
            raise edited(notebook.layout, commit)
    if not _is_elsewhere(repo, base, notebook.layout.review):
        raise edited(notebook.layout, commits.read_commit(repo, base))
    return found


def _is_elsewhere(repo: Repository, commit: str, review: str) -> bool:
    """Whether another branch, here or on a remote, has a commit."""
    listed = run_git(
        ["for-each-ref", "--format=%(refname)", "--contains", commit, BRANCHES, "refs/remotes/"],
        cwd=repo.workdir,
    ).stdout.decode("utf-8", "replace")
    own = "/" + review.removeprefix(BRANCHES)
    return any(name != review and not name.endswith(own) for name in listed.splitlines())


def _built_for(existing: Sequence[Commit]) -> str | None:
    return trailer(existing[-1].message, ONTO) if existing else None


def edited(layout: Layout, commit: Commit) -> ExperimentError:
    """The error that names a commit of a review branch that is not as it was built."""
    name = layout.review.removeprefix(BRANCHES)
    subject = commit.message.partition("\n")[0]
    return ExperimentError(
        f"{name} has a commit that was made or changed by hand: {commit.id[:7]} ({subject})",
        hint=f"keep it under another name, then again: git branch -m {name} {name}-edited",
    )


def set_review(repo: Repository, ref: str, new: str, old: str | None, log: str) -> None:
    """Creates or moves a review branch by compare-and-swap; never one that is checked out."""
    if old == new:
        return
    if old is None:
        refs.check_free(repo, ref)
        refs.create_ref(repo, ref, new, log)
        return
    refuse_checked_out(repo, ref)
    refs.update_ref(repo, ref, new, old, log)


def refuse_checked_out(repo: Repository, ref: str) -> None:
    """Refuses a branch that is checked out in some worktree."""
    place = checked_out_at(repo, ref)
    if place is not None:
        raise RepositoryError(
            f"{ref.removeprefix(BRANCHES)} is checked out in {place}",
            hint="git switch another branch there, then again",
        )
