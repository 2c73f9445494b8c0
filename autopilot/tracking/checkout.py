"""The parameters in the user's own checkout: compared with an experiment's states, and set to one.

Never moves HEAD, never touches the index, writes no file outside the parameters.
"""

from __future__ import annotations

from functools import cached_property

from autopilot.errors import LockHeldError, ParameterError
from autopilot.git import objects
from autopilot.git.objects import Entry
from autopilot.git.workfiles import WorkFiles
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.places import entries_at, files_at, known_places
from autopilot.tracking.snapshots import State, keep_snapshot, snapshots


class Checkout:
    """The user's working files, as far as they are an experiment's parameters.

    Args:
        notebook: The experiment; its repository is the checkout.

    Raises:
        ParameterError: nothing is known of its parameters.
    """

    def __init__(self, notebook: Notebook) -> None:
        self.notebook, self.repo = notebook, notebook.repo
        self.places = known_places(notebook.manifest, notebook.slug)
        self._files = WorkFiles(self.repo, self.repo.workdir)

    @cached_property
    def present(self) -> dict[str, Entry]:
        """The parameters' files as they are now; their contents are stored as blobs."""
        known = self._head | self.entries(self.notebook.tip)
        names = files_at(self.repo, self.places, known)
        found = self._files.hash(names, write=True)
        return {name: entry for name, entry in found.items() if entry is not None}

    @cached_property
    def _head(self) -> dict[str, Entry]:
        return self.entries(self.repo.head_commit())

    def entries(self, commit: str) -> dict[str, Entry]:
        """The parameters' files in a commit."""
        return entries_at(self.repo, objects.tree_of(self.repo, commit), self.places)

    def tree(self, commit: str) -> str:
        """A commit's tree with the parameters as they are in the checkout now."""
        before = self.entries(commit)
        changes: dict[str, Entry | None] = dict.fromkeys(before.keys() - self.present.keys())
        changes |= {name: e for name, e in self.present.items() if before.get(name) != e}
        return objects.write_tree(self.repo, objects.tree_of(self.repo, commit), changes)

    def differs_from(self, commit: str) -> list[str]:
        """The parameters' files that are not as in a commit."""
        wanted = self.entries(commit)
        names = wanted.keys() | self.present.keys()
        return sorted(name for name in names if wanted.get(name) != self.present.get(name))

    def is_at(self) -> list[State]:
        """The states whose content the checkout has now, oldest epoch first, then snapshots."""
        present = self.tree(self.notebook.tip)
        epochs = [(e.number, self.notebook.after(e.number)) for e in self.notebook.epochs]
        # All of an experiment's trees are equal outside of the parameters.
        found = [
            State(commit, f"epoch {number}", number)
            for number, commit in epochs
            if objects.tree_of(self.repo, commit) == present
        ]
        kept = [commit for commit in snapshots(self.notebook) if self._same(commit.id)]
        return found + [State(commit.id, f"snapshot {commit.id[:7]}") for commit in kept]

    def _same(self, commit: str) -> bool:
        return not self.differs_from(commit)

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
            ParameterError: it would overwrite what is kept nowhere.
            LockHeldError: a run is working in this checkout.
        """
        self._refuse_running()
        changed = self.differs_from(commit)
        lost = [name for name in self.unsaved() if name in changed]
        if lost and not force:
            more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
            raise ParameterError(
                f"{lost[0]} has changes that are not committed{more}",
                hint="commit them, or --force: they are kept in a snapshot then",
            )
        kept = self.snapshot("before a checkout")[0] if lost else ""
        wanted = self.entries(commit)
        self._files.restore({name: wanted.get(name) for name in changed})
        del self.present
        return changed, kept

    def _refuse_running(self) -> None:
        status = self.notebook.status
        if status.state == "running" and self.notebook.manifest.in_place:
            raise LockHeldError(
                f"{self.notebook.slug} is running in place: {status.detail}",
                hint="wait until it has ended, or stop it with Ctrl-C: it can be resumed",
            )
