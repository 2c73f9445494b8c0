"""Deleting an experiment: first what that would remove, then the removal of exactly that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autopilot.errors import ExperimentError, RepositoryError
from autopilot.git import refs
from autopilot.git.branches import checked_out_at
from autopilot.git.repository import Repository
from autopilot.git.transactions import delete_refs
from autopilot.git.worktrees import remove_worktree, worktree_path
from autopilot.tracking.holding import held
from autopilot.tracking.layout import Layout
from autopilot.tracking.notebook import Notebook


@dataclass(frozen=True, slots=True)
class Removal:
    """What belongs to an experiment and nothing else.

    Args:
        slug: Its name.
        branch: Its branch and what it points at.
        review: Its review branch, and that for taking it back, where they are.
        tags: Those of its kept epochs.
        notes: Its notes refs.
        snapshots: Snapshots of the user's checkout.
        progress: The journal of an unfinished epoch; None where there is none.
        worktree: The folder that an interrupted run left; None where there is none.
        report: Its page in the git directory; None where there is none.
    """

    slug: str
    branch: dict[str, str]
    review: dict[str, str]
    tags: dict[str, str]
    notes: dict[str, str]
    snapshots: dict[str, str]
    progress: Path | None
    worktree: Path | None
    report: Path | None

    @property
    def refs(self) -> dict[str, str]:
        """All refs, with what they point at."""
        return self.branch | self.review | self.tags | self.notes | self.snapshots


def plan_removal(repo: Repository, slug: str) -> Removal:
    """What `remove` would remove; also of one whose branch was deleted by hand.

    Raises:
        ExperimentError: there is no such experiment.
        LockHeldError: it is running.
        RepositoryError: its branch is checked out somewhere.
    """
    found = _plan(repo, slug)
    if not found.refs:
        Notebook(repo, slug)  # which says that there is none
    with held(repo, slug):
        return _plan(repo, slug)


def remove(repo: Repository, removal: Removal) -> None:
    """Removes an experiment; the commits stay in git's store until it collects garbage.

    The refs go last, all at once: until then the experiment is whole.

    Raises:
        ExperimentError: it was changed since it was looked at.
        LockHeldError: it is running.
    """
    with held(repo, removal.slug):
        if _plan(repo, removal.slug).refs != removal.refs:
            raise ExperimentError(
                f"{removal.slug} was changed meanwhile; nothing was removed",
                hint="look at it again: autopilot experiment show " + removal.slug,
            )
        if removal.worktree is not None:
            remove_worktree(repo, removal.worktree)
        for file in (removal.progress, removal.report):
            if file is not None:
                file.unlink(missing_ok=True)
        Layout(removal.slug).request(repo).unlink(missing_ok=True)
        delete_refs(repo, removal.refs)


def _plan(repo: Repository, slug: str) -> Removal:
    layout = Layout(slug)
    reviews = _exactly(repo, layout.review)
    if _exactly(repo, layout.revert.branch) == {}:
        # Else it is the review branch of an experiment of that name.
        reviews |= _exactly(repo, layout.revert.review)
    for branch in (layout.branch, *reviews):
        where = checked_out_at(repo, branch)
        if where is not None:
            raise RepositoryError(
                f"the branch {branch.removeprefix('refs/heads/')} is checked out in {where}",
                hint="git switch another branch there, then delete it",
            )
    progress, report = layout.progress(repo), layout.report(repo)
    worktree = worktree_path(repo, slug)
    return Removal(
        slug=slug,
        branch=_exactly(repo, layout.branch),
        review=reviews,
        tags=_directly_below(repo, layout.tags.rstrip("/")),
        notes=_directly_below(repo, layout.notes("").rstrip("/")),
        snapshots=_directly_below(repo, layout.snapshots),
        progress=progress if progress.is_file() else None,
        worktree=worktree if (worktree / ".git").is_file() else None,
        report=report if report.is_file() else None,
    )


def _exactly(repo: Repository, name: str) -> dict[str, str]:
    oid = refs.read_ref(repo, name)
    return {} if oid is None else {name: oid}


def _directly_below(repo: Repository, folder: str) -> dict[str, str]:
    # An experiment `a` must not take the refs of the project `a` with it.
    found = refs.list_refs(repo, folder)
    return {name: oid for name, oid in found.items() if name.rpartition("/")[0] == folder}
