"""The store in git: a branch of steps and rollbacks, tags of kept epochs, notes of records.

The order of writes makes a kill at any point harmless: objects, then notes, then the branch by
compare-and-swap, which is the commit point, then the tag, then files. It never moves HEAD, never
touches the index, and writes no file outside the parameters.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from autopilot.core.parameter import Parameter
from autopilot.core.records import message
from autopilot.core.records.index import Index
from autopilot.core.records.learnt import BLOCK_AFTER
from autopilot.core.records.record import (
    LAST_EPOCH,
    Event,
    LlmRecord,
    Manifest,
    ProgressNote,
    Record,
)
from autopilot.core.store import R, Revision
from autopilot.errors import ExperimentError, ParameterError
from autopilot.files import REGULAR, FileState, replace_file
from autopilot.git import commits, objects, refs
from autopilot.git.commits import is_ancestor
from autopilot.git.locks import ExclusiveLock, clear_stale_locks
from autopilot.git.objects import Entry
from autopilot.git.packing import wait_for_prune
from autopilot.git.repository import Repository
from autopilot.tracking.candidates import CandidateLines
from autopilot.tracking.checkout import Checkout, drop_bytecode, half_written, keep_snapshot
from autopilot.tracking.epochs import read_index
from autopilot.tracking.holding import decide, fork, merge, take_in
from autopilot.tracking.journal import Journal, ProgressFile
from autopilot.tracking.layout import KINDS, Layout, epoch_of_tag, hold
from autopilot.tracking.notebook import Notebook, Status
from autopilot.tracking.parameters import (
    EVERYTHING,
    ParameterFiles,
    check_clean,
    check_tracked,
    edits,
)

_REOPEN_AFTER = 50


class GitStore(CandidateLines):
    """An experiment in a git repository.

    Args:
        path: A folder in the worktree whose files are the parameters, or its repository.
        in_place: Whether that worktree is the user's own: nothing is overwritten there that git
            does not have.
        include_dirty: Take uncommitted content of the parameters into the start commit.
        lock: The experiment's lock, if the caller holds it already.
        is_guest: Another process holds the experiment: only lines of candidates are written.

    Raises:
        SlugError: the slug is malformed.
        RepositoryError: there is no repository, or one that cannot be used.
    """

    def __init__(
        self,
        slug: str,
        path: str | Path | Repository = ".",
        *,
        in_place: bool = True,
        include_dirty: bool = False,
        lock: ExclusiveLock | None = None,
        is_guest: bool = False,
    ) -> None:
        self.slug, self.layout, self.is_guest = slug, Layout(slug), is_guest
        self.repo = path if isinstance(path, Repository) else Repository.discover(Path(path))
        self.journal = Journal(self.repo, self.layout, is_strict=True)
        self.in_place = self.is_shared = in_place
        self.rescued: list[str] = []
        self._include_dirty = include_dirty
        self._lock = lock or ExclusiveLock(self.layout.lock(self.repo))
        self.files = ParameterFiles(self.repo)
        self._cleared = count(1)
        self._seen: dict[str, Entry] = {}
        self._staged: tuple[str, dict[str, Entry]] = ("", {})
        self.progress_file = ProgressFile(self.layout.progress(self.repo))
        self._index: Index | None = None
        self._others, self._places = {}, {}

    # --- opening -------------------------------------------------------------------------------

    def bind(self, parameters: Sequence[Parameter]) -> None:
        self.files.bind(parameters)

    def exists(self) -> bool:
        return refs.read_ref(self.repo, self.layout.branch) is not None

    def begin(self, manifest: Manifest) -> str:
        base = self.repo.head_commit()
        base_tree = objects.tree_of(self.repo, base)
        check_tracked(self.repo, base_tree, self.files.scopes)
        check_clean(self.repo, self.files.scopes, include_dirty=self._include_dirty)
        self._take_hold()
        try:
            self.layout.check_free(self.repo)
            self.layout.clear_half_start(self.repo)
            commits.check_signing(self.repo, base)
            self._tip_tree = base_tree
            self.files.known = self.files.entries(base_tree)
            tree = self.state()
            manifest = replace(
                manifest,
                slug=self.slug,
                base=base,
                base_branch=manifest.base_branch or self.repo.head_name(),
                parameters={s.parameter.name or s.path: s.path for s in self.files.scopes},
                patterns={
                    s.parameter.name or s.path: s.pattern
                    for s in self.files.scopes
                    if s.pattern != EVERYTHING
                },
            )
            text = message.start_message(manifest)
            start = commits.commit(self.repo, tree=tree, parents=[base], message=text)
            self.journal.write(start, [manifest])
            refs.create_ref(self.repo, self.layout.branch, start, "autopilot: start")
            self._start = start
        except BaseException:
            self.close()
            raise
        self._move_to(start, tree, self._staged[1])
        self.clear_progress()
        self.forget_candidates(LAST_EPOCH)  # of an experiment of that name that is gone
        return start

    def reopen(self) -> None:
        self._take_hold()
        try:
            tip = refs.read_ref(self.repo, self.layout.branch)
            if tip is None:
                raise ExperimentError(
                    f"there is no experiment {self.slug}", hint="see: autopilot status"
                )
            self._refuse_checked_out()
            self._tip, self._tip_tree = tip, objects.tree_of(self.repo, tip)
            start, branch = self.journal.start(), self.layout.branch_name
            self._start = start or ""
            # The index was made from the branch down to its first commit: no need to walk there.
            known = start is None or self.index().start == start
            if start is not None and not known and not is_ancestor(self.repo, start, tip):
                raise ExperimentError(
                    f"the branch {branch} was moved: it does not have the start commit {start[:7]}",
                    hint=f"see where it was: git reflog {branch}; "
                    f"then: git branch -f {branch} COMMIT",
                )
            self.files.known = self.files.entries(self._tip_tree)
            if self.in_place:
                for path in half_written(self.repo, self.files.scopes):
                    path.unlink(missing_ok=True)
                self._refuse_edits()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.progress_file.close()
        self._start = ""
        self._lock.release()

    def abandon(self) -> None:
        """Removes an experiment that has nothing but its start commit, as if never begun."""
        for kind in KINDS:
            ref = self.layout.notes(kind)
            oid = refs.read_ref(self.repo, ref)
            if oid is not None:
                refs.delete_ref(self.repo, ref, oid)
        refs.delete_ref(self.repo, self.layout.branch, self._tip)
        self.clear_progress()
        self.close()
        here = self.layout
        for place in (here.progress, here.derived, here.index, here.said):
            place(self.repo).unlink(missing_ok=True)

    # --- the line of revisions -----------------------------------------------------------------

    @property
    def tip(self) -> str:
        return self._tip or refs.read_ref(self.repo, self.layout.branch) or ""

    def state(self) -> str:
        wait_for_prune(self.repo)
        present = self.files.present(write=True)
        changes = edits(self.files.entries(self._tip_tree), present)
        # The files that git would check out are evaluated: with its line ends and filters.
        self.files.work.settle([name for name, entry in changes.items() if entry is not None])
        drop_bytecode(self.repo, changes)
        tree = objects.write_tree(self.repo, self._tip_tree, changes) if changes else self._tip_tree
        self._staged = (tree, present)
        self.files.known, self._seen = present, {}
        return tree

    def commit(
        self, state: str, message: str, records: Sequence[Record], beside: Sequence[str] = ()
    ) -> str:
        return self._append(state, message, records, self._staged[1], beside)

    def rollback(self, revision: str, message: str) -> str:
        wait_for_prune(self.repo)
        tree = objects.tree_of(self.repo, revision)
        wanted = self.files.entries(tree)
        appended = self._append(tree, message, (), wanted)
        # As `edited` saw them: an edit by hand since then is found before the next step.
        self._replace(self._seen or self.files.present(write=False), wanted)
        return appended

    def restore(self, revision: str) -> None:
        self.place(objects.tree_of(self.repo, revision))

    def place(self, state: str) -> None:
        wanted = self.files.entries(state)
        present = self.files.present(write=self.in_place)
        if self.in_place:
            self._rescue(present)
        self._replace(present, wanted)

    def edited(self) -> list[str]:
        self._seen = self.files.present(write=False)
        return sorted(edits(self.files.known, self._seen))

    def log(self) -> list[Revision]:
        return list(self.newest())

    @property
    def start(self) -> str:
        return self._start or self.journal.start() or super().start

    def newest(self) -> Iterator[Revision]:
        base = "".join(commits.read_commit(self.repo, self.start).parents[:1])
        line = commits.first_parent_log(self.repo, self.tip, stop=base)
        return (Revision(commit.id, commit.tree, commit.message) for commit in line)

    def index(self, block_after: int = BLOCK_AFTER) -> Index:
        self._index = read_index(self.repo, self.journal, self.tip, self._index, block_after)
        return self._index

    def untagged(self, kept: Iterable[int]) -> list[int]:
        there = refs.names_in(self.repo, self.layout.tags)
        return [number for number in kept if message.epoch_tag(number) not in there]

    def diff(self, old: str | int, new: str | int) -> str:
        return objects.diff_text(self.repo, self.revision(old), self.revision(new))

    # --- records and tags ----------------------------------------------------------------------

    def records(self, kind: type[R]) -> list[tuple[str, R]]:
        found = self.journal.read(kind, self.journal.line(self.tip))
        return sorted(found, key=lambda pair: (pair[1].epoch, pair[1].id))

    def records_on(self, revision: str, kind: type[R]) -> list[R]:
        return self.journal.read_on(revision, kind)

    def tag(self, epoch: int, revision: str, message: str) -> None:
        commits.create_tag(self.repo, self.layout.tag_name(epoch), revision, message)

    def tags(self) -> dict[int, str]:
        found = {}
        for name in refs.list_refs(self.repo, self.layout.tags):
            number = epoch_of_tag(name)
            tag = commits.read_tag(self.repo, name.removeprefix("refs/tags/"))
            if tag is not None and number is not None:
                found[number] = tag.commit
        return found

    # --- by hand, between the runs of an experiment --------------------------------------------

    def snapshot(self, note: str = "") -> str:
        """Keeps the parameters as they are in the checkout now; returns the snapshot's commit."""
        return Checkout(Notebook(self.repo, self.slug)).snapshot(note)[0]

    def branch(self, slug: str, epoch: int | None = None) -> GitStore:
        """Begins a new experiment from the state of an epoch, the best if not given."""
        notebook = Notebook(self.repo, self.slug)
        fork(notebook, notebook.find("best" if epoch is None else str(epoch)).number, slug)
        return GitStore(slug, self.repo.workdir, in_place=self.in_place)

    def merge(self, other: GitStore, slug: str) -> GitStore | None:
        """A new experiment from both best states, merged by git; None if the other adds nothing."""
        ours, theirs = (Notebook(self.repo, store.slug) for store in (self, other))
        is_new = merge(ours, theirs, slug) is not None
        return GitStore(slug, self.repo.workdir, in_place=self.in_place) if is_new else None

    def status(self) -> Status:
        """Where the experiment stands."""
        return Notebook(self.repo, self.slug).status

    def promote(self, epoch: int | None = None, reason: str = "", reviewer: str = "") -> Event:
        """Writes down that an epoch, the best if not given, is to be taken over."""
        named = "best" if epoch is None else str(epoch)
        texts = {"reason": reason, "reviewer": reviewer}
        return decide(self.repo, self.slug, "promote", epoch=named, **texts)

    # --- progress: results of the epoch that is going on, in the git directory -------------------

    def note_progress(self, progress: ProgressNote) -> None:
        self.progress_file.write(progress)

    def note_call(self, call: LlmRecord) -> None:
        self.progress_file.write(call)

    def progress(self) -> list[ProgressNote]:
        return self.progress_file.read(ProgressNote)

    def calls(self) -> list[LlmRecord]:
        return self.progress_file.read(LlmRecord)

    def clear_progress(self) -> None:
        self.progress_file.clear()
        if not next(self._cleared) % _REOPEN_AFTER:
            # Opens its packs anew: those that are gone, and what each caches, would stay for good.
            self.repo.pygit.free()

    def hear(self) -> Sequence[Event]:
        return take_in(self.repo, self.journal) if self._lock.held else ()

    def keep_derived(self, content: bytes) -> None:
        path = self.layout.derived(self.repo)
        replace_file(path.parent, path.name, FileState(REGULAR, content))

    def derived(self) -> bytes:
        with contextlib.suppress(OSError):
            return self.layout.derived(self.repo).read_bytes()
        return b""

    # --- inside --------------------------------------------------------------------------------

    def _replace(self, present: Mapping[str, Entry], wanted: dict[str, Entry]) -> None:
        self.files.replace(present, wanted)
        drop_bytecode(self.repo, edits(present, wanted))
        self._seen = {}

    def _take_hold(self) -> None:
        if self.is_guest:
            return
        if not self._lock.held:
            hold(self._lock, self.slug)
        clear_stale_locks(self.repo, self.layout.locked())

    def refuse_gap(self, judged: Collection[int]) -> None:
        for gap in sorted({*range(max(judged, default=0))} - {*judged})[:1]:
            Notebook(self.repo, self.slug).epoch(gap)  # raises the error that names its note

    def _refuse_edits(self) -> None:
        """Refuses an in-place resume that would overwrite an edit by hand: content not in git.

        After a kill in the middle of an optimizer step, it may be that step's: then it is rescued.
        """
        unknown = self._unknown(self.files.present(write=False))
        progress = self.progress() if unknown else []
        if unknown and not (progress and progress[-1].stepping > 0):
            raise ParameterError(
                f"{min(unknown)} was edited by hand; the edit is kept",
                hint="commit it or git stash it, then resume",
            )

    def _rescue(self, present: Mapping[str, Entry]) -> None:
        """Keeps content that is about to be overwritten in the user's checkout, unless git has it.

        An interrupted or failed step left it, or the user wrote it meanwhile: the two cannot be
        told apart.
        """
        unknown = self._unknown(present)
        if unknown:
            tree = objects.write_tree(self.repo, self._tip_tree, unknown)
            note = "before a step was undone"
            kept, is_new = keep_snapshot(self.repo, self.layout, self._tip, tree, note)
            if is_new:
                self.rescued.append(kept)

    def _unknown(self, present: Mapping[str, Entry]) -> dict[str, Entry]:
        """The files that were changed, and whose content neither the experiment nor HEAD has."""
        known = self.files.known
        new = {name: entry for name, entry in present.items() if known.get(name) != entry}
        if not new:
            return new
        unsaved = Checkout(Notebook(self.repo, self.slug)).unsaved(new)
        return {name: new[name] for name in unsaved}
