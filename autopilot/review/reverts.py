"""Taking a proposal back: its branch before it was merged, its changes afterwards."""

from __future__ import annotations

from autopilot.core.records.message import REVERTS, revert_message, trailer
from autopilot.errors import ExperimentError
from autopilot.git import commits, objects, refs
from autopilot.git.branches import BRANCHES, Branch
from autopilot.review.proposals import built_commits, edited, refuse_checked_out, set_review
from autopilot.tracking.changes import Change, Changes, Conflict, put
from autopilot.tracking.layout import Layout
from autopilot.tracking.notebook import Notebook


def withdraw(notebook: Notebook) -> str:
    """Deletes the review branch; returns the commit that it was at.

    Raises:
        ExperimentError: there is none, or somebody else committed on it.
        RepositoryError: it is checked out somewhere.
    """
    layout = notebook.layout
    tip = refs.read_ref(notebook.repo, layout.review)
    if tip is None:
        raise ExperimentError(
            f"there is no proposal of {notebook.slug} here",
            hint="`autopilot propose list` shows those that there are",
        )
    built_commits(Changes(notebook), tip)
    refuse_checked_out(notebook.repo, layout.review)
    refs.delete_ref(notebook.repo, layout.review, tip)
    return tip


def take_back(notebook: Notebook, onto: Branch, epoch: int, reason: str = "") -> Branch:
    """Builds a branch that takes what was merged back out: one commit on top of the target branch.

    Only the parameters change, to what they were before the experiment; what was changed in them
    since stays.

    Args:
        notebook: The experiment.
        onto: The branch that has it.
        epoch: The newest epoch that it has.
        reason: Why; written into the commit.

    Raises:
        ExperimentError: it cannot be taken back without conflict; it names the files.
    """
    repo, changes = notebook.repo, Changes(notebook)
    layout = Layout(notebook.slug).revert
    whole = changes.whole(onto.tip, epoch)
    back = Change(whole.epoch, whole.source, whole.after, whole.before)
    tree = put(repo, onto.tip, back)
    if isinstance(tree, Conflict):
        raise ExperimentError(
            f"taking epoch {epoch} of {notebook.slug} back conflicts with {onto.name} in "
            f"{', '.join(tree.paths)}; nothing was written",
            hint=f"{onto.name} changed the same lines since: edit them by hand",
        )
    if tree == objects.tree_of(repo, onto.tip):
        raise ExperimentError(
            f"{onto.name} has nothing left of {notebook.slug}", hint="there is nothing to take back"
        )
    text = revert_message(notebook.slug, epoch, onto.short, reason)
    old = refs.read_ref(repo, layout.review)
    if old is not None:
        there = commits.read_commit(repo, old)
        if (there.parents, there.tree, there.message) == ((onto.tip,), tree, text):
            return Branch(layout.review.removeprefix(BRANCHES), layout.review, old)
        if not trailer(there.message, REVERTS):
            raise edited(layout, there)
    made = commits.commit(repo, tree=tree, parents=[onto.tip], message=text)
    set_review(repo, layout.review, made, old, f"autopilot: take {notebook.slug} back")
    return Branch(layout.review.removeprefix(BRANCHES), layout.review, made)
