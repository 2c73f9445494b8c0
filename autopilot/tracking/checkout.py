"""The parameters in the user's own checkout: compared with states, kept as snapshots, and set.

A snapshot is a commit on top of the experiment's tip under `refs/autopilot/<slug>/snapshots/`, so
that git keeps it. Nothing here moves HEAD or a branch, touches the index, or writes a file outside
the parameters.
"""

from __future__ import annotations

import importlib.util
import marshal
import os
import struct
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from autopilot.core.records.message import plain_message
from autopilot.core.records.record import ProgressNote
from autopilot.errors import ExperimentError, LockHeldError, ParameterError, RepositoryError
from autopilot.files import rests_in
from autopilot.git import commits, objects, refs
from autopilot.git.repository import Repository
from autopilot.git.workfiles import WorkFiles
from autopilot.tracking.attribution import named
from autopilot.tracking.journal import ProgressFile
from autopilot.tracking.layout import Layout
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.parameters import (
    ParameterPath,
    Scope,
    edits,
    entries_at,
    known_paths,
    present_at,
    with_entries,
)


@dataclass(frozen=True, slots=True)
class ParameterState:
    """A state of the parameters that git holds.

    Args:
        title: "epoch 3", "snapshot 1f2e3d4", "start".
        epoch: The judged epoch; None for a snapshot.
    """

    commit: str
    title: str
    epoch: int | None = None


class Checkout:
    """The user's working files, as far as they are an experiment's parameters."""

    def __init__(self, notebook: Notebook) -> None:
        self.notebook, self.repo = notebook, notebook.repo
        self.places = known_paths(notebook.manifest, notebook.slug)
        self._files = WorkFiles(self.repo, self.repo.workdir)

    @cached_property
    def present(self) -> dict[str, objects.Entry]:
        """The parameters' files as they are now; their contents are stored as blobs."""
        known = self.entries(self.repo.head_commit()) | self.entries(self.notebook.tip)
        return present_at(self._files, self.places, known, write=True)

    def entries(self, commit: str) -> dict[str, objects.Entry]:
        """The parameters' files in a commit."""
        return entries_at(self.repo, commit, self.places)

    def tree(self, commit: str) -> str:
        """A commit's tree with the parameters as they are in the checkout now."""
        return with_entries(self.repo, commit, self.places, self.present)

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
        for of in [epoch.record for epoch in notebook.epochs if present in epoch.record.beside]:
            title = f"candidate {of.trees.index(present) + 1} of epoch {of.epoch}"
            found.append(ParameterState(of.beside[present], title, of.epoch))
        every = snapshots(self.repo, notebook.layout)
        kept = [c for c in every if not self.differs_from(c.id)]
        return found + [ParameterState(c.id, f"snapshot {c.id[:7]}") for c in kept]

    def unsaved(self, present: Mapping[str, objects.Entry] | None = None) -> list[str]:
        """The parameters' files with content that neither HEAD nor the experiment has.

        Args:
            present: Those to look at; all that there are now if not given.
        """
        present = self.present if present is None else present
        head = self.entries(self.repo.head_commit())
        kept = [*self.notebook.commits, *snapshots(self.repo, self.notebook.layout)]
        trees = dict.fromkeys(commit.tree for commit in kept)
        return sorted(
            name
            for name, entry in present.items()
            if head.get(name) != entry
            and not any(objects.entry_at(self.repo, tree, name) == entry for tree in trees)
        )

    def snapshot(self, note: str = "") -> tuple[str, bool]:
        """Keeps the parameters as they are now; returns the commit, and whether it is new."""
        notebook = self.notebook
        tree = self.tree(notebook.tip)
        return keep_snapshot(self.repo, notebook.layout, notebook.tip, tree, note)

    def set_to(self, commit: str, *, force: bool = False) -> tuple[list[str], str]:
        """Writes a commit's content of the parameters into the checkout, exactly.

        Args:
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


def snapshots(repo: Repository, layout: Layout) -> list[commits.Commit]:
    """The experiment's snapshots, oldest first."""
    read = []
    for oid in refs.list_refs(repo, layout.snapshots).values():
        try:
            read.append(commits.read_commit(repo, oid))
        except RepositoryError as error:
            repo.damaged.setdefault(error.message, error)
    return sorted(read, key=lambda commit: (commit.time_s, commit.id))


def keep_snapshot(
    repo: Repository, layout: Layout, tip: str, tree: str, note: str = ""
) -> tuple[str, bool]:
    """Keeps a tree as a snapshot, unless one has it; returns the commit, and whether it is new."""
    for known in snapshots(repo, layout):
        if known.tree == tree:
            return known.id, False
    text = plain_message(layout.slug, f"snapshot of {repo.workdir.name}", note)
    made = commits.commit(repo, tree=tree, parents=[tip], message=text)
    refs.create_ref(repo, f"{layout.snapshots}/{made[:10]}", made, "autopilot: snapshot")
    return made, True


def check_out(
    repo: Repository, places: Sequence[ParameterPath], tree: str, tip: str, *, in_place: bool
) -> None:
    """Writes the parameters' files of a state, before anything imports them.

    In the user's own checkout only over those of the experiment's newest state: what somebody wrote
    there meanwhile is left for the store, which refuses or keeps it.
    """
    work, wanted = WorkFiles(repo, repo.workdir), entries_at(repo, tree, places)
    present = present_at(work, places, wanted, write=False)
    if not in_place or not edits(entries_at(repo, tip, places), present):
        work.restore(edits(present, wanted))
    drop_bytecode(repo, {**present, **wanted})


def half_written(repo: Repository, places: Iterable[ParameterPath | Scope]) -> list[Path]:
    """The half-written files that killed processes left beside and in the parameters."""
    roots = dict.fromkeys(repo.workdir / place.path for place in places)
    folders = [(root, True) if root.is_dir() else (root.parent, False) for root in roots]
    return [path for folder, below in folders for path in rests_in(folder, below=below)]


def drop_bytecode(repo: Repository, names: Iterable[str]) -> list[str]:
    """Makes sure that no bytecode of another state is taken for that of source files.

    Python trusts it by its source's size and second, which another state may have too. Bytecode
    that git tracks stays: its source gets another second. Returns the sources whose bytecode was
    trusted and is of another source.

    Raises:
        ParameterError: git tracks bytecode that Python never compares with its source.
    """
    sources = defaultdict[Path, dict[str, str]](dict)
    for name in names:
        if name.endswith(".py"):
            folder = Path(importlib.util.cache_from_source(repo.workdir / name)).parent
            sources[folder][Path(name).stem] = name
    stale, trusted = dict[str, None](), defaultdict[str, set[int]](set)
    for folder, known in sources.items():
        for cached in folder.iterdir() if folder.is_dir() else ():
            name = known.get(cached.name.partition(".")[0], "")
            source = repo.workdir / name
            if not name or cached.suffix != ".pyc" or not source.is_file():
                continue
            content, status = cached.read_bytes(), source.stat()
            flags, second, size = struct.unpack("<3I", content[4:16].ljust(12, b"\0"))
            is_same_size = size == status.st_size & 0xFFFFFFFF
            is_trusted = flags == 1 or (is_same_size and second == int(status.st_mtime))
            if is_trusted and not _is_bytecode_of(content, source):
                stale[name] = None
            if not _is_tracked(repo, cached):
                cached.unlink(missing_ok=True)
            elif flags == 1:
                raise ParameterError(
                    f"git tracks bytecode of {name} that Python never compares with its source",
                    hint=f"git rm --cached {os.path.relpath(cached, repo.workdir)}, and commit",
                )
            elif flags == 0 and is_same_size:
                trusted[name].add(second)
    for name, seconds in trusted.items():
        second = before = int((repo.workdir / name).stat().st_mtime)
        while second in seconds:
            second += 1
        if second != before:
            os.utime(repo.workdir / name, (second, second))
    return list(stale)


def _is_bytecode_of(content: bytes, source: Path) -> bool:
    if content[:4] != importlib.util.MAGIC_NUMBER:
        return True  # of no interest to this interpreter
    try:
        code: object = compile(source.read_bytes(), str(source), "exec", dont_inherit=True)
        return bool(marshal.loads(content[16:]) == code)
    except (ValueError, SyntaxError, EOFError, TypeError):
        return False


def _is_tracked(repo: Repository, path: Path) -> bool:
    name, head = os.path.relpath(path, repo.workdir), repo.head_commit()
    return not name.startswith("..") and objects.entry_at(repo, head, name) is not None


def undo_killed_step(repo: Repository, slug: str, places: Sequence[ParameterPath]) -> str:
    """Puts the newest state in place of what a step had written when it was killed.

    Those files are kept as a snapshot, since somebody may have edited them meanwhile. Returns its
    commit; "" if nothing had to be kept.

    Args:
        slug: The experiment; it must be held.
    """
    layout = Layout(slug)
    steps = [note.stepping for note in ProgressFile(layout.progress(repo)).read(ProgressNote)]
    tip = refs.read_ref(repo, layout.branch)
    if tip is None or not steps or steps[-1] <= 0:
        return ""
    work, wanted = WorkFiles(repo, repo.workdir), entries_at(repo, tip, places)
    present = present_at(work, places, wanted, write=True)
    if present == wanted:
        return ""
    left = objects.write_tree(repo, tip, edits(wanted, present))
    kept, is_new = keep_snapshot(repo, layout, tip, left, "before a step was undone")
    work.restore(edits(present, wanted))
    return kept if is_new else ""


def find_state(notebook: Notebook, name: str) -> ParameterState:
    """The state that a user means: a snapshot's id, or a name of an epoch.

    Raises:
        ExperimentError: it names neither.
    """
    if name in ("best", "baseline") and notebook.last is None:
        return ParameterState(notebook.start, "start")
    kept = snapshots(notebook.repo, notebook.layout)
    by_id = [commit for commit in kept if commit.id.startswith(name)]
    if len(name) >= 4 and len(by_id) == 1:
        return ParameterState(by_id[0].id, f"snapshot {by_id[0].id[:7]}")
    try:
        epoch = named(notebook, name)
    except ExperimentError as error:
        if kept and not name.isdigit():
            error.hint += "; or a snapshot: autopilot store log"
        raise
    return ParameterState(notebook.after(epoch.number), epoch.title, epoch.number)
