"""What runs leave behind that nobody needs any more: worktrees, stale locks, journals.

`find_litter` only looks; `clear` removes what was found. What a run that can be resumed needs, and
what a process is using, is no litter.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autopilot.core.records.history import History
from autopilot.core.records.message import tag_message
from autopilot.core.records.record import MetricsRecord
from autopilot.errors import AutopilotError, LockHeldError, RepositoryError
from autopilot.git import refs
from autopilot.git.commands import run_git
from autopilot.git.locks import ExclusiveLock
from autopilot.git.repository import Repository
from autopilot.git.worktrees import remove_worktree, worktree_path
from autopilot.tracking.git_store import GitStore
from autopilot.tracking.holding import held, stopped
from autopilot.tracking.layout import Layout, experiments
from autopilot.tracking.notebook import Notebook

Kind = Literal["worktree", "ref lock", "journal"]
# An experiment in one of these states is gone on with; its worktree spares a checkout.
RESUMABLE = ("created", "running", "interrupted", "crashed", "killed")


@dataclass(frozen=True, slots=True)
class Litter:
    """Something that can be removed.

    Args:
        kind: "worktree", "ref lock" or "journal" (of an epoch that is recorded since).
        path: The folder or file.
        why: Why nobody needs it.
        slug: The experiment that it belongs to; "" if to none.
    """

    kind: Kind
    path: Path
    why: str
    slug: str = ""


def find_litter(repo: Repository) -> list[Litter]:
    """All that can be removed, nothing of what is in use."""
    states = states_of(repo)
    return [*_worktrees(repo, states), *_ref_locks(repo, states), *_journals(repo, states)]


def clear(repo: Repository, litter: Litter) -> bool:
    """Removes it.

    Returns:
        False if somebody has begun to use it meanwhile: then it stays.

    Raises:
        RepositoryError: it cannot be removed.
    """
    try:
        if litter.kind == "worktree":
            lock = _lock_of(repo, litter.path)
            with contextlib.nullcontext() if lock is None else lock:
                remove_worktree(repo, litter.path)
        elif litter.kind == "ref lock":
            with held(repo, litter.slug):
                refs.clear_stale_locks(repo, Layout(litter.slug).namespaces())
        else:
            with held(repo, litter.slug):
                litter.path.unlink(missing_ok=True)
    except LockHeldError:
        return False
    except OSError as error:
        raise RepositoryError(
            f"cannot remove {litter.path}: {error.strerror}", hint="remove it by hand"
        ) from error
    return True


def missing_tags(repo: Repository, slug: str) -> list[int]:
    """The kept epochs of an experiment whose tags are gone: deleted by hand, or not fetched."""
    layout = Layout(slug)
    tags = refs.list_refs(repo, layout.tags)
    kept = (epoch.number for epoch in Notebook(repo, slug).epochs if epoch.verdict != "rejected")
    return [number for number in kept if f"refs/tags/{layout.tag_name(number)}" not in tags]


def make_tags(repo: Repository, slug: str, epochs: Sequence[int]) -> None:
    """Makes tags again from the records.

    Raises:
        LockHeldError: the experiment is running.
    """
    with stopped(repo, slug):
        store, history = GitStore(slug, repo.workdir), History()
        history.load_history(store.records(MetricsRecord))
        for epoch in epochs:
            text = tag_message(slug, history.record_of(epoch), history.metrics[epoch])
            store.tag(epoch, history.revision_of(epoch), text)


def states_of(repo: Repository) -> dict[str, str]:
    """Slug to the state of each experiment; "unreadable" of one whose notes are missing."""
    found = {}
    for slug in experiments(repo):
        try:
            found[slug] = Notebook(repo, slug).status.state
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
        state = states.get(name)
        lock = _lock_of(repo, folder)
        if lock is not None and (state in RESUMABLE or lock.holder() is not None):
            continue
        why = f"{name} is {state}" if state else f"there is no experiment {name}"
        if name.startswith("."):
            why = "a measurement was killed"
        if not folder.exists():
            why = "its folder is gone, git still lists it"
        yield Litter("worktree", folder, why, name if state else "")


def _ref_locks(repo: Repository, states: dict[str, str]) -> Iterator[Litter]:
    for slug in states:
        layout = Layout(slug)
        if ExclusiveLock(layout.lock(repo)).holder() is not None:
            continue
        for prefix in layout.namespaces():
            place = repo.common_dir / prefix
            for lock in (place.with_name(f"{place.name}.lock"), *sorted(place.rglob("*.lock"))):
                if lock.is_file():
                    yield Litter("ref lock", lock, "left by a process that was killed", slug)


def _journals(repo: Repository, states: dict[str, str]) -> Iterator[Litter]:
    folder = repo.common_dir / "autopilot"
    for path in sorted(folder.rglob("*.progress.jsonl")):
        slug = path.relative_to(folder).as_posix().removesuffix(".progress.jsonl")
        state = states.get(slug)
        if state not in (*RESUMABLE, "unreadable"):
            why = f"{slug} is {state}" if state else f"there is no experiment {slug}"
            yield Litter("journal", path, why, slug)


def _lock_of(repo: Repository, folder: Path) -> ExclusiveLock | None:
    """What a process holds that works in a worktree, a run or a measurement; None if it is gone."""
    if not folder.exists():
        return None
    if folder.name.startswith("."):
        return ExclusiveLock(repo.common_dir / "autopilot" / f"{folder.name}.lock")
    git_dir = Path((folder / ".git").read_text().removeprefix("gitdir: ").strip())
    return ExclusiveLock(git_dir / "autopilot" / ".place.lock")
