"""Proposals: review branches, one commit for each kept epoch on top of the branch they are for.

`refs/heads/autopilot-review/<slug>` is made from the experiment alone, and made again when the
experiment has got further or its target branch has moved. Commits that a person made there are
never replaced.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from autopilot.core.records import message
from autopilot.errors import ExperimentError, RepositoryError
from autopilot.git import commits, objects, refs
from autopilot.git.commands import run_git
from autopilot.git.commits import Commit, count_in
from autopilot.git.locks import clear_stale_locks
from autopilot.git.refs import BRANCHES, Branch, find_branch, refuse_checked_out
from autopilot.git.repository import Repository
from autopilot.review import changes
from autopilot.tracking.layout import Layout, experiments
from autopilot.tracking.notebook import Notebook

SWITCH = "git switch another branch there, then again"


@dataclass(frozen=True, slots=True)
class Proposal:
    """A review branch as it is.

    Args:
        base: The commit of that branch that it stands on.
        commits: Epoch and commit of each of its commits, oldest first; epoch 0 is the content that
            the experiment started from.
        was: The review branch's tip before; None if there was none.
    """

    slug: str
    branch: Branch
    onto: Branch
    base: str
    commits: tuple[tuple[int, str], ...]
    merged: changes.MergedEpoch
    was: str | None = None

    @property
    def epochs(self) -> list[int]:
        """The epochs that it consists of."""
        return [number for number, _ in self.commits if number]

    @property
    def done(self) -> str:
        """How making it ended: "created", "updated" or "unchanged"."""
        if self.was is None:
            return "created"
        return "unchanged" if self.was == self.branch.tip else "updated"


@dataclass(frozen=True, slots=True)
class Standing:
    """How a proposal stands.

    Args:
        state: "open", "merged", "reverted", "outdated", "conflicts", "edited" or "unreadable".
    """

    slug: str
    branch: Branch
    state: str
    onto: str = ""
    epochs: tuple[int, ...] = ()
    detail: str = ""


def propose(notebook: Notebook, onto: str | None = None) -> Proposal:
    """Builds the review branch, or brings it up to date. The user's checkout stays as it is.

    Args:
        onto: The branch that the changes are for. None: the one that the review branch was built
            for; of a new one, the branch that the experiment started from.

    Raises:
        ExperimentError: there is nothing to propose; the changes conflict with the branch, and it
            names the epoch and the files; or the review branch has commits by hand. Nothing
            is written then.
        RefMovedError: another process moved the review branch meanwhile.
    """
    repo, layout, history = notebook.repo, notebook.layout, changes.ParameterHistory(notebook)
    old = refs.read_ref(repo, layout.review)
    existing = built_commits(history, old) if old else []
    branch = changes.target_branch(notebook, onto or _built_for(existing))
    merged = history.merged_into(branch.tip)
    stack = _stack(history, branch, merged)
    if isinstance(stack, changes.Conflict):
        raise ExperimentError(
            f"{stack.of(notebook.slug, branch.name)}; nothing was written",
            hint=f"see both sides: git diff {branch.name}...{layout.branch_name} -- "
            f"{shlex.quote(stack.paths[0])}; then merge by hand, or run anew from {branch.name}",
        )
    if not stack and not history.kept:
        raise ExperimentError(
            f"there is nothing to propose: no epoch of {notebook.slug} was kept",
            hint=f"autopilot report {notebook.slug} --md says why",
        )
    if not stack:
        newest = f"epoch {merged.epoch}" if merged.epoch is not None else "its changes"
        raise ExperimentError(
            f"there is nothing to propose: {branch.name} has {newest} of {notebook.slug} already",
            hint=f"autopilot resume {notebook.slug} goes on with it",
        )
    made: list[tuple[int, str]] = []
    parent = branch.tip
    # Commits that are there already keep their ids: the same proposal made twice is unchanged.
    there = {(commit.parents, commit.tree, commit.message): commit.id for commit in existing}
    for change, tree in stack:
        text = _message(notebook, change, branch.short)
        parent = there.get(((parent,), tree, text)) or commits.commit(
            repo, tree=tree, parents=[parent], message=text
        )
        made.append((change.number, parent))
    set_review(repo, layout.review, parent, old, f"autopilot: propose {notebook.slug}")
    review = Branch(layout.review_name, layout.review, parent)
    return Proposal(notebook.slug, review, branch, branch.tip, tuple(made), merged, old)


def proposal_of(notebook: Notebook) -> Proposal:
    """The proposal that there is; in a fresh clone, the remote's.

    Raises:
        ExperimentError: there is none, or it has commits by hand.
    """
    found = find_branch(notebook.repo, notebook.layout.review_name)
    if found is None:
        raise ExperimentError(
            f"there is no proposal of {notebook.slug}",
            hint=f"autopilot propose create {notebook.slug}",
        )
    return _read(changes.ParameterHistory(notebook), found)


def standings(repo: Repository, project: str | None = None) -> list[Standing]:
    """How the proposals stand, by the names of their experiments."""
    found = []
    for slug in experiments(repo, project):
        branch = Branch(Layout(slug).review_name, Layout(slug).review, "")
        try:
            there = find_branch(repo, branch.name)
            if there is not None:
                branch = there
                found.append(_standing(Notebook(repo, slug), branch))
        except (ExperimentError, RepositoryError) as error:
            found.append(Standing(slug, branch, "unreadable", detail=error.message))
    return found


def _standing(notebook: Notebook, branch: Branch) -> Standing:
    history = changes.ParameterHistory(notebook)
    try:
        proposal = _read(history, branch)
    except ExperimentError as error:
        return Standing(notebook.slug, branch, "edited", detail=error.message)
    onto, epochs, merged = proposal.onto, proposal.epochs, proposal.merged
    state, detail = "open", ""
    newest = history.kept[-1].number if history.kept else 0
    last = max(epochs, default=0)
    if merged.reverted:
        state, detail = "reverted", f"{onto.name} took it back"
    elif merged.epoch is not None and merged.epoch >= newest:
        state, detail = "merged", f"{onto.name} has epoch {merged.epoch}"
    elif newest > last:
        newer = sum(epoch.number > last for epoch in history.kept)
        state, detail = "outdated", f"{newer} newer kept, up to epoch {newest}"
    else:
        stack = _stack(history, onto, merged)
        if isinstance(stack, changes.Conflict):
            state, detail = "conflicts", stack.of(notebook.slug, onto.name)
    return Standing(notebook.slug, branch, state, onto.name, tuple(epochs), detail)


def _read(history: changes.ParameterHistory, review: Branch) -> Proposal:
    built = built_commits(history, review.tip)
    onto = changes.target_branch(history.notebook, _built_for(built))
    # A target that grew by an earlier proposal has commits of that form too.
    new = built[count_in(history.repo, [commit.id for commit in built], onto.tip) :] or built
    made = tuple((message.trailer_number(c.message, message.EPOCH) or 0, c.id) for c in new)
    merged, slug = history.merged_into(onto.tip), history.notebook.slug
    return Proposal(slug, review, onto, new[0].parents[0], made, merged, review.tip)


def _stack(
    history: changes.ParameterHistory, branch: Branch, merged: changes.MergedEpoch
) -> list[tuple[changes.ParameterChange, str]] | changes.Conflict:
    """The changes that a branch lacks, with the trees that they make on top of it."""
    found: list[tuple[changes.ParameterChange, str]] = []
    tree = objects.tree_of(history.repo, branch.tip)
    for change in history.changes(branch.tip, merged.epoch):
        changed = changes.apply_change(history.repo, tree, change)
        if isinstance(changed, changes.Conflict):
            return changed
        if changed != tree:
            found.append((change, changed))
        tree = changed
    return found


def _message(notebook: Notebook, change: changes.ParameterChange, onto: str) -> str:
    slug, epoch = notebook.slug, change.epoch
    if epoch is None:
        source = notebook.manifest.forked_from.replace("@", ", epoch ")
        what = f"what it was forked from: {source}" if source else "what was not committed before"
        return message.review_message(slug, 0, change.source, onto, what=what)
    steps = [record for _, record in notebook.steps(epoch.number)]
    why = [s.rationale or "\n".join(dict.fromkeys(s.gradients.values())) for s in steps]
    return message.review_message(
        slug,
        epoch.number,
        change.source,
        onto,
        what=epoch.record.summary or epoch.record.strategy,
        why=list(dict.fromkeys(why)),
        scores=change.scores,
        strategy=epoch.record.strategy,
    )


def built_commits(history: changes.ParameterHistory, tip: str) -> list[Commit]:
    """The commits of a review branch, oldest first.

    Raises:
        ExperimentError: one of them is not as it was built.
    """
    repo, notebook = history.repo, history.notebook
    found: list[Commit] = []
    top = commits.read_commit(repo, tip)
    for commit in commits.first_parent_log(repo, tip):
        mine = message.trailer(commit.message, message.EXPERIMENT) == notebook.slug
        if (
            len(commit.parents) != 1
            or not mine
            or not message.trailer(commit.message, message.SOURCE)
        ):
            break
        found.insert(0, commit)
    if not found:
        raise edited(notebook.layout, top)
    base = found[0].parents[0]
    made = {change.source: change for change in history.changes(base)}
    for commit in found:
        change = made.get(message.trailer(commit.message, message.SOURCE) or "")
        onto = message.trailer(commit.message, message.ONTO)
        text = _message(notebook, change, onto) if change and onto else ""
        as_built = change and changes.apply_change(repo, commit.parents[0], change) == commit.tree
        if commit.message != text or not as_built:
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
    return message.trailer(existing[-1].message, message.ONTO) if existing else None


def edited(layout: Layout, commit: Commit) -> ExperimentError:
    """The error that names a commit of a review branch that is not as it was built."""
    name = layout.review_name
    subject = commit.message.partition("\n")[0]
    return ExperimentError(
        f"{name} has a commit that was made or changed by hand: {commit.id[:7]} ({subject})",
        hint=f"keep it under another name, then again: git branch -m {name} {name}-edited",
    )


def set_review(repo: Repository, ref: str, new: str, old: str | None, log: str) -> None:
    """Creates or moves a review branch by compare-and-swap; never one that is checked out."""
    if old == new:
        return
    clear_stale_locks(repo, [ref])
    if old is None:
        refs.check_free(repo, ref)
        refs.create_ref(repo, ref, new, log)
        return
    refuse_checked_out(repo, ref, SWITCH)
    refs.update_ref(repo, ref, new, old, log)
