"""How proposals stand: open, merged, outdated, in conflict with the branch they are for."""

from __future__ import annotations

from dataclasses import dataclass

from autopilot.errors import ExperimentError, RepositoryError
from autopilot.git import objects
from autopilot.git.branches import BRANCHES, Branch, find_branch
from autopilot.git.repository import Repository
from autopilot.review.proposals import read_proposal
from autopilot.tracking.changes import Changes, Conflict, Merged, put
from autopilot.tracking.layout import Layout, experiments
from autopilot.tracking.notebook import Notebook


@dataclass(frozen=True, slots=True)
class Standing:
    """How a proposal stands.

    Args:
        slug: The experiment.
        branch: Its review branch.
        state: "open", "merged", "reverted", "outdated", "conflicts", "edited" or "unreadable".
        onto: The branch that it is for.
        epochs: The epochs in it.
        detail: What makes it so, in one sentence.
    """

    slug: str
    branch: Branch
    state: str
    onto: str = ""
    epochs: tuple[int, ...] = ()
    detail: str = ""


def standings(repo: Repository, project: str | None = None) -> list[Standing]:
    """How the proposals stand, by the names of their experiments.

    Args:
        repo: The repository.
        project: Only experiments of this project.
    """
    found = []
    for slug in experiments(repo):
        branch = find_branch(repo, Layout(slug).review.removeprefix(BRANCHES))
        if branch is None or (project and not slug.startswith(f"{project}/")):
            continue
        try:
            found.append(_standing(Notebook(repo, slug), branch))
        except (ExperimentError, RepositoryError) as error:
            found.append(Standing(slug, branch, "unreadable", detail=error.message))
    return found


def _standing(notebook: Notebook, branch: Branch) -> Standing:
    changes = Changes(notebook)
    try:
        proposal = read_proposal(changes, branch)
    except ExperimentError as error:
        return Standing(notebook.slug, branch, "edited", detail=error.message)
    onto, epochs, known = proposal.onto, proposal.epochs, proposal.known
    state, detail = "open", ""
    newest = changes.kept[-1].number if changes.kept else 0
    last = max(epochs, default=0)
    if known.reverted:
        state, detail = "reverted", f"{onto.name} took it back"
    elif known.epoch is not None and known.epoch >= newest:
        state, detail = "merged", f"{onto.name} has epoch {known.epoch}"
    elif newest > last:
        newer = sum(epoch.number > last for epoch in changes.kept)
        state, detail = "outdated", f"{newer} newer kept, up to epoch {newest}"
    else:
        conflict = _conflict(changes, onto, known)
        if conflict is not None:
            state, detail = "conflicts", conflict.of(notebook.slug, onto.name)
    return Standing(notebook.slug, branch, state, onto.name, tuple(epochs), detail)


def _conflict(changes: Changes, onto: Branch, known: Merged) -> Conflict | None:
    tree = objects.tree_of(changes.repo, onto.tip)
    for change in changes.between(onto.tip, known.epoch):
        put_on = put(changes.repo, tree, change)
        if isinstance(put_on, Conflict):
            return put_on
        tree = put_on
    return None
