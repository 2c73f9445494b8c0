"""Upkeep of a repository: litter of runs, experiments to be deleted.

Litter is worktrees, stale locks and progress files that no run needs any more. `find_litter` only
looks, `clear` removes. What a process is using, or a run can be resumed from, is no litter.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from autopilot.core.records.message import EXPERIMENT, trailer
from autopilot.core.records.record import Event
from autopilot.errors import (
    AutopilotError,
    ExperimentError,
    LockHeldError,
    RepositoryError,
    translated_as,
)
from autopilot.files import STAGING, rests_in
from autopilot.git import refs
from autopilot.git.commands import run_git
from autopilot.git.commits import is_ancestor, read_commit
from autopilot.git.locks import ExclusiveLock, clear_stale_locks, stale_locks
from autopilot.git.objects import has_object
from autopilot.git.refs import delete_refs, refuse_checked_out
from autopilot.git.repository import Repository
from autopilot.git.worktrees import remove_folder, remove_worktree, worktree_path
from autopilot.tracking.checkout import half_written
from autopilot.tracking.journal import Journal
from autopilot.tracking.layout import (
    PLACE_LOCK,
    Layout,
    experiments,
    held,
    is_experiment,
    state_of_tag,
)
from autopilot.tracking.loggers import tracker_runs
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.outputs import (
    WrittenPath,
    find_outputs,
    keep_outputs,
    kept_outputs,
    unknown_outputs,
)
from autopilot.tracking.parameters import manifest_paths

Kind = Literal["worktree", "ref lock", "journal", "half-written file"]
_STAGED_S = 3600.0
# An experiment in one of these states can be resumed; its worktree saves a checkout then.
RESUMABLE = ("created", "running", "waiting", "interrupted", "crashed", "killed")


@dataclass(frozen=True, slots=True)
class Litter:
    """Something that can be removed.

    Args:
        kind: "journal" is a progress file whose epoch is recorded since.
        slug: The experiment that it belongs to; "" if to none.
        keep: What its run was asked to keep of it.
    """

    kind: Kind
    path: Path
    why: str
    slug: str = ""
    outputs: tuple[WrittenPath, ...] = ()
    keep: tuple[str, ...] = ()


def find_litter(repo: Repository) -> list[Litter]:
    """Lists everything that can be removed and is not in use."""
    states = states_of(repo)
    found = [*_worktrees(repo, states), *_left_by_kills(repo, states)]
    return [*found, *_progress_files(repo, states), *_half_made(repo)]


def clear(repo: Repository, litter: Litter) -> Litter | None:
    """Removes it, and moves what its run was to keep; None if a process uses it now: it stays."""
    what, hint = f"cannot remove {litter.path}", "remove it by hand"
    with contextlib.suppress(LockHeldError), translated_as(RepositoryError, what, hint):
        if litter.kind == "worktree":
            with _lock_of(repo, litter.path) or contextlib.nullcontext():
                if litter.keep:
                    manifest = Notebook(repo, litter.slug).manifest
                    outputs = keep_outputs(litter.path, repo, manifest, litter.keep)
                    litter = replace(litter, outputs=tuple(outputs))
                remove_worktree(repo, litter.path)
            return litter
        with held(repo, litter.slug) if litter.slug else contextlib.nullcontext():
            if litter.kind != "ref lock":  # that went when the name was held
                litter.path.unlink(missing_ok=True)
        return litter
    return None


def states_of(repo: Repository) -> dict[str, str]:
    """Slug to the state of each experiment; "unreadable" of one whose state is not known."""
    found = {}
    for slug in experiments(repo):
        try:
            notebook = Notebook(repo, slug)
            notebook.need(Event)
            found[slug] = notebook.status.state
        except AutopilotError:
            found[slug] = "unreadable"
    return found


def linked_worktrees(repo: Repository) -> dict[str, Path]:
    """Name to folder of the worktrees that autopilot made for this repository."""
    root = worktree_path(repo, "x").parent
    listed = os.fsdecode(run_git(["worktree", "list", "--porcelain"], cwd=repo.workdir).stdout)
    lines = (line.partition(" ") for line in listed.splitlines())
    folders = [Path(path) for word, _, path in lines if word == "worktree"]
    return {f.relative_to(root).as_posix(): f for f in folders if f.is_relative_to(root)}


def _worktrees(repo: Repository, states: dict[str, str]) -> Iterator[Litter]:
    for name, folder in sorted(linked_worktrees(repo).items()):
        slug = name.partition("@")[0]  # that of a candidate is beside its experiment's
        state = states.get(slug)
        lock = _lock_of(repo, folder)
        is_kept = state in (*RESUMABLE, "unreadable")
        if lock is not None and (is_kept or lock.holder() is not None):
            continue
        why = f"{name} is {state}" if state else f"there is no experiment {name}"
        if name.startswith("."):
            why = "a measurement was killed"
        if not folder.exists():
            why = "its folder is gone, git still lists it"
        outputs, keep = _outputs(repo, slug, folder), ()
        with contextlib.suppress(AutopilotError):
            if state and outputs:
                notebook = Notebook(repo, slug)
                for options in (notebook.manifest.options, *(e.options for e in notebook.events)):
                    keep = tuple(options.get("keep") or keep)
        yield Litter("worktree", folder, why, slug if state else "", outputs, keep)


def _outputs(repo: Repository, slug: str, worktree: Path) -> tuple[WrittenPath, ...]:
    with contextlib.suppress(AutopilotError):
        if worktree.exists():
            return tuple(find_outputs(worktree, repo, Notebook(repo, slug).manifest))
    return tuple(unknown_outputs(repo, worktree))


def _left_by_kills(repo: Repository, states: dict[str, str]) -> Iterator[Litter]:
    """Locks on refs, and files that are half written beside parameters."""
    found, left = dict[Path, Litter](), "left by a process that was killed"
    for slug in states:
        layout = Layout(slug)
        if ExclusiveLock(layout.lock(repo)).holder() is None:
            for path in stale_locks(repo, layout.locked()):
                found[path] = Litter("ref lock", path, left, slug)
            for path in _beside(repo, slug):
                found[path] = Litter("half-written file", path, f"half of a file, {left}", slug)
    yield from found.values()


def _progress_files(repo: Repository, states: dict[str, str]) -> Iterator[Litter]:
    folder = repo.common_dir / "autopilot"
    kinds = (".progress.jsonl", ".said.jsonl", ".derived", ".index")
    for path in sorted(path for kind in kinds for path in folder.rglob(f"*{kind}")):
        name = path.relative_to(folder).as_posix()
        slug = next(name.removesuffix(kind) for kind in kinds if name.endswith(kind))
        state = states.get(slug)
        if state and name.endswith(".index"):
            continue  # readers use it, however the experiment ended
        # Deeper down is what runs were asked to keep.
        if state not in (*RESUMABLE, "unreadable") and slug.count("/") < 2:
            why = f"{slug} is {state}" if state else f"there is no experiment {slug}"
            yield Litter("journal", path, why, slug)


def _half_made(repo: Repository) -> Iterator[Litter]:
    """Files that kills left half written where a checkout's are made, of any experiment or none."""
    for folder in (repo.common_dir, *sorted(repo.common_dir.glob("worktrees/*"))):
        for path in rests_in(folder / STAGING, below=False):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.lstat().st_mtime > _STAGED_S:
                    why = "half of a file, left by a process that was killed"
                    yield Litter("half-written file", path, why)


def _beside(repo: Repository, slug: str) -> list[Path]:
    """The half-written files beside an experiment's parameters, unless a run works there."""
    if ExclusiveLock(repo.git_dir / PLACE_LOCK).holder() is None:
        with contextlib.suppress(AutopilotError):
            manifest = Journal(repo, Layout(slug)).beginning()[1]
            return half_written(repo, manifest_paths(manifest))
    return []


def _lock_of(repo: Repository, folder: Path) -> ExclusiveLock | None:
    """The lock of a run or a measurement that works in a worktree; None if that is gone."""
    if folder.name.startswith("."):
        lock = ExclusiveLock(repo.common_dir / "autopilot" / f"{folder.name}.lock")
        return lock if folder.exists() else None
    if not (folder / ".git").is_file():
        return None  # or half of its removal is done
    git_dir = Path((folder / ".git").read_text().removeprefix("gitdir: ").strip())
    return ExclusiveLock(git_dir / PLACE_LOCK)


# --- deleting an experiment --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Removal:
    """Everything that belongs to one experiment alone, to be removed.

    Args:
        review: Its review branch, and that for taking it back, where they are.
        candidates: Those of the epoch in which a run was interrupted.
        worktree: The folder that an interrupted run left; None where there is none.
        beside: The folders of its candidates.
        others: Branches and tags of such names that no run made: they stay.
    """

    slug: str
    branch: dict[str, str]
    review: dict[str, str]
    tags: dict[str, str]
    notes: dict[str, str]
    snapshots: dict[str, str]
    candidates: dict[str, str]
    progress: Path | None
    worktree: Path | None
    beside: tuple[Path, ...]
    report: Path | None
    trackers: tuple[Path, ...] = ()
    outputs: tuple[WrittenPath, ...] = ()
    kept: tuple[WrittenPath, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def refs(self) -> dict[str, str]:
        """All refs with the objects that they point at."""
        notes = self.notes | self.snapshots | self.candidates
        return self.branch | self.review | self.tags | notes


def plan_removal(repo: Repository, slug: str) -> Removal:
    """Lists everything that `remove` would remove; also if the branch was deleted by hand.

    Raises:
        ExperimentError: there is no such experiment, or only a branch that no run made.
        LockHeldError: it is running.
        RepositoryError: its branch is checked out somewhere.
    """
    if not _plan(repo, slug).refs:
        _ = Notebook(repo, slug).start  # raises: there is none
    with held(repo, slug):
        found = _plan(repo, slug)
        places = [found.worktree] * (found.worktree is not None) + [*found.beside]
        outputs = [each for place in places if place for each in _outputs(repo, slug, place)]
        return replace(found, outputs=tuple(outputs))


def remove(repo: Repository, removal: Removal) -> None:
    """Removes an experiment; the commits stay in git's store until it collects garbage.

    The refs go last, all at once: until then the experiment is whole.

    Raises:
        ExperimentError: it was changed since it was looked at.
        LockHeldError: it is running.
    """
    layout = Layout(removal.slug)
    with held(repo, removal.slug):
        if _plan(repo, removal.slug).refs != removal.refs:
            raise ExperimentError(
                f"{removal.slug} was changed meanwhile; nothing was removed",
                hint="look at it again: autopilot experiment show " + removal.slug,
            )
        clear_stale_locks(repo, [*removal.review])  # that of a revert has another experiment's name
        # Else a lock that is somebody's own would leave it by halves.
        delete_refs(repo, removal.refs, check=True)
        for place in (removal.worktree, *removal.beside):
            if place is not None:
                remove_worktree(repo, place)
        local = layout.request, layout.derived, layout.index, layout.trying, layout.said
        own = (removal.progress, removal.report, *_beside(repo, removal.slug))
        for file in (*own, *(place(repo) for place in local)):
            if file is not None:
                file.unlink(missing_ok=True)
        for folder in (*removal.trackers, layout.beside(repo)):
            remove_folder(folder)
        if removal.kept:
            remove_folder(layout.kept(repo))
        with contextlib.suppress(OSError):  # a project's experiments are beside it
            layout.kept(repo).parent.rmdir()
        delete_refs(repo, removal.refs)


def _plan(repo: Repository, slug: str) -> Removal:
    layout = Layout(slug)
    tip = refs.read_ref(repo, layout.branch)
    branch = {layout.branch: tip} if tip and _is_of_run(repo, layout, tip) else {}
    # If there is an experiment of that name, it is its own review branch.
    revert = [layout.revert.review] * (refs.read_ref(repo, layout.revert.branch) is None)
    named = (layout.review, *revert)
    reviews = {name: oid for name in named if (oid := refs.read_ref(repo, name))}
    found = _directly_below(repo, layout.tags.rstrip("/"))
    tags, review = (
        {n: oid for n, oid in named.items() if _experiment_at(repo, oid) == slug}
        for named in ({n: oid for n, oid in found.items() if state_of_tag(n)}, reviews)
    )
    for name in (*branch, *review):
        refuse_checked_out(repo, name, "git switch another branch there, then delete it")
    others = [layout.branch] * (tip is not None and not branch)
    others += [name for name in (*reviews, *found) if name not in review and name not in tags]
    snapshots = _directly_below(repo, layout.snapshots)
    # What was fetched to be looked at, when that was killed.
    snapshots |= refs.list_refs(repo, f"{layout.incoming}/refs")
    progress, report = layout.progress(repo), layout.report(repo)
    start = None
    with contextlib.suppress(ExperimentError):
        start = Journal(repo, layout).start()
    worktree = worktree_path(repo, slug)
    return Removal(
        slug=slug,
        branch=branch,
        review=review,
        tags=tags,
        notes=_directly_below(repo, layout.notes("").rstrip("/")),
        snapshots=snapshots,
        candidates=refs.list_refs(repo, layout.candidates),
        progress=progress if progress.is_file() else None,
        worktree=worktree if (worktree / ".git").is_file() else None,
        beside=tuple(layout.worktrees_beside(repo)),
        report=report if report.is_file() else None,
        trackers=tuple(tracker_runs(repo, start)) if start else (),
        kept=tuple(kept_outputs(repo, slug)),
        others=tuple(others),
    )


def _is_of_run(repo: Repository, layout: Layout, tip: str) -> bool:
    """Whether a branch is the one that the notes are about, or says that it is without any."""
    with contextlib.suppress(ExperimentError):
        if start := Journal(repo, layout).start():
            return has_object(repo, start) and is_ancestor(repo, start, tip)
    return is_experiment(repo, layout.slug, tip)


def _experiment_at(repo: Repository, commit: str) -> str | None:
    with contextlib.suppress(RepositoryError):  # a tag of something else
        return trailer(read_commit(repo, commit).message, EXPERIMENT)
    return None


def _directly_below(repo: Repository, folder: str) -> dict[str, str]:
    # An experiment `a` must not take the refs of the project `a` with it.
    found = refs.list_refs(repo, folder)
    return {name: oid for name, oid in found.items() if name.rpartition("/")[0] == folder}
