"""The parameters in the user's own checkout: compared with states, kept as snapshots, and set.

A snapshot is a commit on top of the experiment's tip under `refs/autopilot/<slug>/snapshots/`, so
that git keeps it. Nothing here moves HEAD or a branch, touches the index, or writes a file outside
the parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from autopilot.core.records.message import plain_message
from autopilot.errors import ExperimentError, LockHeldError, ParameterError
from autopilot.git import commits, objects, refs
from autopilot.git.commits import Commit
from autopilot.git.objects import Entry
from autopilot.git.repository import Repository
from autopilot.git.workfiles import WorkFiles
from autopilot.tracking.layout import Layout
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.parameters import edits, entries_at, files_at, known_paths, with_entries


@dataclass(frozen=True, slots=True)
class ParameterState:
    """A state of the parameters that git holds.

    Args:
        commit: A commit with it.
        title: "epoch 3", "snapshot 1f2e3d4", "start".
        epoch: The judged epoch; None for a snapshot.
    """

    commit: str
    title: str
    epoch: int | None = None


class Checkout:
    """The user's working files, as far as they are an experiment's parameters.

    Args:
        notebook: The experiment; its repository is the checkout.

    Raises:
        ParameterError: nothing is known of its parameters.
    """

    def __init__(self, notebook: Notebook) -> None:
        self.notebook, self.repo = notebook, notebook.repo
        self.places = known_paths(notebook.manifest, notebook.slug)
        self._files = WorkFiles(self.repo, self.repo.workdir)

    @cached_property
    def present(self) -> dict[str, Entry]:
        """The parameters' files as they are now; their contents are stored as blobs."""
        known = self.entries(self.repo.head_commit()) | self.entries(self.notebook.tip)
        names = files_at(self.repo, self.places, known)
        found = self._files.hash(names, write=True)
        return {name: entry for name, entry in found.items() if entry is not None}

    def entries(self, commit: str) -> dict[str, Entry]:
        """The parameters' files in a commit."""
        return entries_at(self.repo, objects.tree_of(self.repo, commit), self.places)

    def tree(self, commit: str) -> str:
        """A commit's tree with the parameters as they are in the checkout now."""
        tree = objects.tree_of(self.repo, commit)
        return with_entries(self.repo, tree, self.places, self.present)

    def differs_from(self, commit: str) -> list[str]:
        """The parameters' files that are not as in a commit."""
        return sorted(edits(self.present, self.entries(commit)))

    def is_at(self) -> list[ParameterState]:
        """The states whose content the checkout has now, oldest epoch first, then snapshots."""
        present, notebook = self.tree(self.notebook.tip), self.notebook
        # All of an experiment's trees are equal outside of the parameters.
        found = [
            ParameterState(commit, f"epoch {number}", number)
            for number, commit in ((e.number, notebook.after(e.number)) for e in notebook.epochs)
            if objects.tree_of(self.repo, commit) == present
        ]
        kept = [c for c in snapshots(notebook) if not self.differs_from(c.id)]
        return found + [ParameterState(c.id, f"snapshot {c.id[:7]}") for c in kept]

    def unsaved(self) -> list[str]:
        """The parameters' files with content that neither HEAD nor the experiment has."""
        changed = [n for n in self.differs_from(self.repo.head_commit()) if n in self.present]
        kept = [*self.notebook.commits, *snapshots(self.notebook)]
        trees = dict.fromkeys(commit.tree for commit in kept)
        return [
            name
            for name in changed
            if not any(
                objects.entry_at(self.repo, tree, name) == self.present[name] for tree in trees
            )
        ]

    def snapshot(self, note: str = "") -> tuple[str, bool]:
        """Keeps the parameters as they are now.

        Returns:
            The commit, and whether it is new.
        """
        notebook = self.notebook
        tree = self.tree(notebook.tip)
        return keep_snapshot(self.repo, notebook.layout, notebook.tip, tree, note)

    def set_to(self, commit: str, *, force: bool = False) -> tuple[list[str], str]:
        """Writes a commit's content of the parameters into the checkout, exactly.

        Args:
            commit: One of the experiment.
            force: Overwrite content that is kept nowhere; it is kept in a snapshot first.

        Returns:
            The files that were changed, and the snapshot's commit, "" if none was needed.

        Raises:
            ParameterError: it would overwrite content that is kept nowhere.
            LockHeldError: a run is working in this checkout.
        """
        status = self.notebook.status
        if status.state == "running" and self.notebook.manifest.in_place:
            raise LockHeldError(
                f"{self.notebook.slug} is running in place: {status.detail}",
                hint="wait until it has ended, or stop it with Ctrl-C: it can be resumed",
            )
        changed = self.differs_from(commit)
        lost = [name for name in self.unsaved() if name in changed]
        if lost and not force:
            more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
            raise ParameterError(
                f"{lost[0]} has changes that are not committed{more}",
                hint="commit them, or --force: they are kept in a snapshot then",
            )
        kept = self.snapshot("before a checkout")[0] if lost else ""
        self._files.restore(edits(self.present, self.entries(commit)))
        del self.present
        return changed, kept


def snapshots(notebook: Notebook) -> list[Commit]:
    """The experiment's snapshots, oldest first."""
    return _snapshots(notebook.repo, notebook.layout)


def _snapshots(repo: Repository, layout: Layout) -> list[Commit]:
    found = refs.list_refs(repo, layout.snapshots)
    read = [commits.read_commit(repo, oid) for oid in found.values()]
    return sorted(read, key=lambda commit: (commit.time_s, commit.id))


def keep_snapshot(
    repo: Repository, layout: Layout, tip: str, tree: str, note: str = ""
) -> tuple[str, bool]:
    """Keeps a tree as a snapshot; one that is kept already is not kept twice.

    Args:
        note: Why, in words.

    Returns:
        The commit, and whether it is new.
    """
    for known in _snapshots(repo, layout):
        if known.tree == tree:
            return known.id, False
    text = plain_message(layout.slug, f"snapshot of {repo.workdir.name}", note)
    made = commits.commit(repo, tree=tree, parents=[tip], message=text)
    refs.create_ref(repo, f"{layout.snapshots}/{made[:10]}", made, "autopilot: snapshot")
    return made, True


def find_state(notebook: Notebook, name: str) -> ParameterState:
    """The state that a user means: a snapshot's id, or a name of an epoch.

    Raises:
        ExperimentError: it names neither.
    """
    if name in ("best", "baseline") and notebook.last is None:
        return ParameterState(notebook.start, "start")
    kept = snapshots(notebook)
    by_id = [commit for commit in kept if commit.id.startswith(name)]
    if len(name) >= 4 and len(by_id) == 1:
        return ParameterState(by_id[0].id, f"snapshot {by_id[0].id[:7]}")
    try:
        epoch = notebook.find(name).number
    except ExperimentError as error:
        if kept and not name.isdigit():
            raise ExperimentError(
                error.message, hint=f"{error.hint}; or a snapshot: autopilot store log"
            ) from error
        raise
    return ParameterState(notebook.after(epoch), f"epoch {epoch}", epoch)
