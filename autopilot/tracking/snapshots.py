"""Snapshots: the parameters' content in the user's own checkout, kept as commits.

A snapshot is a commit on top of the experiment's tip under `refs/autopilot/<slug>/snapshots/`, so
that git keeps it; no branch moves.
"""

from __future__ import annotations

from dataclasses import dataclass

from autopilot.core.records.message import plain_message
from autopilot.errors import ExperimentError
from autopilot.git import commits, objects, refs
from autopilot.git.commits import Commit
from autopilot.git.repository import Repository
from autopilot.tracking.layout import Layout
from autopilot.tracking.notebook import Notebook


@dataclass(frozen=True, slots=True)
class State:
    """A state of the parameters that git holds.

    Args:
        commit: A commit with it.
        title: What a person calls it: "epoch 3", "snapshot 1f2e3d4".
        epoch: The judged epoch that it is; None for a snapshot.
    """

    commit: str
    title: str
    epoch: int | None = None


def snapshots(notebook: Notebook) -> list[Commit]:
    """The experiment's snapshots, oldest first."""
    return _kept(notebook.repo, notebook.layout)


def keep_snapshot(
    repo: Repository, layout: Layout, tip: str, tree: str, note: str = ""
) -> tuple[str, bool]:
    """Keeps a tree as a snapshot; one that is kept already is not kept twice.

    Args:
        repo: The repository.
        layout: The experiment's.
        tip: The experiment's tip.
        tree: What to keep.
        note: Why, in words.

    Returns:
        The commit, and whether it is new.
    """
    for known in _kept(repo, layout):
        if known.tree == tree:
            return known.id, False
    text = plain_message(layout.slug, f"snapshot of {repo.workdir.name}", note)
    made = commits.commit(repo, tree=tree, parents=[tip], message=text)
    refs.create_ref(repo, f"{layout.snapshots}/{made[:10]}", made, "autopilot: snapshot")
    return made, True


def _kept(repo: Repository, layout: Layout) -> list[Commit]:
    found = refs.list_refs(repo, layout.snapshots)
    read = [commits.read_commit(repo, oid) for oid in found.values()]
    return sorted(read, key=lambda commit: (commit.time_s, commit.id))


def find_state(notebook: Notebook, name: str) -> State:
    """The state that a user means: a snapshot's id, or what names an epoch.

    Raises:
        ExperimentError: it names neither.
    """
    if name in ("best", "baseline") and notebook.last is None:
        return State(notebook.start, "start")
    by_id = [commit for commit in snapshots(notebook) if commit.id.startswith(name)]
    if len(name) >= 4 and len(by_id) == 1:
        return State(by_id[0].id, f"snapshot {by_id[0].id[:7]}")
    try:
        epoch = notebook.find(name).number
    except ExperimentError as error:
        if snapshots(notebook) and not name.isdigit():
            raise ExperimentError(
                error.message, hint=f"{error.hint}; or a snapshot: autopilot store log"
            ) from error
        raise
    return State(notebook.after(epoch), f"epoch {epoch}", epoch)


def best_state(notebook: Notebook) -> State:
    """The best epoch's state; where the experiment starts, if none was judged yet."""
    return find_state(notebook, "best")


def tree_of(notebook: Notebook, state: State) -> str:
    """The tree of a state."""
    return objects.tree_of(notebook.repo, state.commit)
