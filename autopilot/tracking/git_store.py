"""The store in git: a branch of steps and rollbacks, tags of kept epochs, notes of records.

The order of writes makes a kill at any point harmless: objects, then notes, then the branch by
compare-and-swap, which is the commit point, then the tag, then files. It never moves HEAD, never
touches the index, and writes no file outside the parameters.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from autopilot.core.parameter import Parameter
from autopilot.core.records import message
from autopilot.core.records.record import Event, LlmRecord, Manifest, ProgressNote, Record
from autopilot.core.store import R, Revision, Store
from autopilot.errors import (
    ExperimentError,
    GitCommandError,
    LockHeldError,
    ParameterError,
    RecordError,
    RepositoryError,
)
from autopilot.git import commits, objects, refs
from autopilot.git.branches import checked_out_at
from autopilot.git.locks import ExclusiveLock
from autopilot.git.merging import is_ancestor
from autopilot.git.objects import Entry
from autopilot.git.repository import Repository
from autopilot.git.workfiles import WorkFiles
from autopilot.review.decisions import decide
from autopilot.tracking.checkout import Checkout
from autopilot.tracking.forks import fork, merge
from autopilot.tracking.journal import Journal, decode, encode
from autopilot.tracking.layout import KINDS, Layout
from autopilot.tracking.notebook import Notebook, Status
from autopilot.tracking.places import EVERYTHING
from autopilot.tracking.scope import Scope, check_clean, check_tracked, scope_of
from autopilot.tracking.snapshots import keep_snapshot

_RECENT = 6
_INSTANT_S = 0.05
_TREES = 8


class GitStore(Store):
    """An experiment in a git repository.

    Args:
        slug: The experiment's name.
        path: A folder in the worktree whose files are the parameters.
        in_place: Whether that worktree is the user's own: nothing is overwritten there that git
            does not have.
        include_dirty: Take uncommitted content of the parameters into the start commit.
        lock: The experiment's lock, if the caller holds it already.

    Raises:
        SlugError: the slug is malformed.
        RepositoryError: there is no repository, or one that cannot be used.
    """

    def __init__(
        self,
        slug: str,
        path: str | Path = ".",
        *,
        in_place: bool = True,
        include_dirty: bool = False,
        lock: ExclusiveLock | None = None,
    ) -> None:
        self.layout = Layout(slug)
        self.slug = slug
        self.repo = Repository.discover(Path(path))
        self.journal = Journal(self.repo, self.layout)
        self.in_place = self.is_shared = in_place
        self.rescued: list[str] = []
        self._include_dirty = include_dirty
        self._lock = lock or ExclusiveLock(self.layout.lock(self.repo))
        self._files = WorkFiles(self.repo, self.repo.workdir)
        self._scopes: list[Scope] = []
        self._tip = ""
        self._tip_tree = ""
        self._known: dict[str, Entry] = {}
        self._seen: tuple[float, dict[str, Entry]] = (0.0, {})
        self._staged: tuple[str, dict[str, Entry]] = ("", {})
        self._entries: dict[str, dict[str, Entry]] = {}
        self._ignored: dict[str, bool] = {}
        self._progress: BinaryIO | None = None
        self._held: list[bytes] | None = None
        self._noting = threading.Lock()

    # --- opening -------------------------------------------------------------------------------

    def bind(self, parameters: Sequence[Parameter]) -> None:
        self._scopes = [scope_of(self.repo, parameter) for parameter in parameters]
        for scope in self._scopes:
            scope.parameter.ignores = self._ignores(scope)

    def exists(self) -> bool:
        return refs.read_ref(self.repo, self.layout.branch) is not None

    def begin(self, manifest: Manifest) -> str:
        base = self.repo.head_commit()
        base_tree = objects.tree_of(self.repo, base)
        check_tracked(self.repo, base_tree, self._scopes)
        if not self._include_dirty:
            check_clean(self.repo, self._scopes)
        self._take_hold()
        try:
            if self.exists():
                raise ExperimentError(
                    f"the experiment {self.slug} exists already",
                    hint=f"autopilot resume {self.slug}, or choose another name with -e",
                )
            self._clear_half_start()
            commits.check_signing(self.repo, base)
            self._tip_tree = base_tree
            self._known = self._entries_of(base_tree)
            tree = self.state()
            manifest = replace(
                manifest,
                slug=self.slug,
                base=base,
                base_branch=manifest.base_branch or self.repo.head_name(),
                parameters={s.parameter.name or s.path: s.path for s in self._scopes},
                patterns={
                    s.parameter.name or s.path: s.parameter.pattern
                    for s in self._scopes
                    if not s.parameter.is_file and s.parameter.pattern != EVERYTHING
                },
            )
            text = message.start_message(manifest)
            start = commits.commit(self.repo, tree=tree, parents=[base], message=text)
            self.journal.write(start, [manifest])
            refs.create_ref(self.repo, self.layout.branch, start, "autopilot: start")
        except BaseException:
            self.close()
            raise
        self._move_to(start, tree, self._staged[1])
        self.clear_progress()
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
            self._refuse_moved()
            self._known = self._entries_of(self._tip_tree)
            if self.in_place:
                self._refuse_edits()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._close_progress()
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
        self.layout.progress(self.repo).unlink(missing_ok=True)

    # --- the line of revisions -----------------------------------------------------------------

    @property
    def tip(self) -> str:
        return self._tip or refs.read_ref(self.repo, self.layout.branch) or ""

    def state(self) -> str:
        present = self._present(write=True)
        changes = _changes(self._entries_of(self._tip_tree), present)
        # What git would check out is what is evaluated: line ends and filters included.
        self._files.settle([name for name, entry in changes.items() if entry is not None])
        tree = objects.write_tree(self.repo, self._tip_tree, changes) if changes else self._tip_tree
        self._staged = (tree, present)
        self._known, self._seen = present, (0.0, {})
        return tree

    def commit(self, state: str, message: str, records: Sequence[Record]) -> str:
        return self._append(state, message, records, self._staged[1])

    def rollback(self, revision: str, message: str) -> str:
        tree = objects.tree_of(self.repo, revision)
        wanted = self._entries_of(tree)
        appended = self._append(tree, message, (), wanted)
        self._replace(self._just_seen(), wanted)
        return appended

    def restore(self, revision: str) -> None:
        wanted = self._entries_of(objects.tree_of(self.repo, revision))
        present = self._present(write=self.in_place)
        if self.in_place:
            self._rescue(present)
        self._replace(present, wanted)

    def edited(self) -> list[str]:
        present = self._present(write=False)
        self._seen = (time.monotonic(), present)
        return sorted(_changes(self._known, present))

    def log(self) -> list[Revision]:
        base = self._base()
        found = commits.first_parent_log(self.repo, self.tip, stop=base)
        return [Revision(commit.id, commit.tree, commit.message) for commit in found]

    def diff(self, old: str | int, new: str | int) -> str:
        trees = [objects.tree_of(self.repo, self.revision(named)) for named in (old, new)]
        return objects.diff_text(self.repo, trees[0], trees[1])

    # --- records and tags ----------------------------------------------------------------------

    def annotate(self, revision: str, records: Sequence[Record]) -> None:
        self.journal.write(revision, records)

    def records(self, kind: type[R]) -> list[tuple[str, R]]:
        line = {revision.id for revision in self.log()}
        found = [pair for pair in self.journal.read(kind) if pair[0] in line]
        return sorted(found, key=lambda pair: (pair[1].epoch, pair[1].id))

    def tag(self, epoch: int, revision: str, message: str) -> None:
        commits.create_tag(self.repo, self.layout.tag_name(epoch), revision, message)

    def tags(self) -> dict[int, str]:
        names = refs.list_refs(self.repo, self.layout.tags)
        found = {}
        for name in names:
            tag = commits.read_tag(self.repo, name.removeprefix("refs/tags/"))
            number = name.rpartition("epoch-")[2]
            if tag is not None and number.isdigit():
                found[int(number)] = tag.commit
        return found

    # --- what a person does with an experiment; nobody may be running it -----------------------

    def snapshot(self, note: str = "") -> str:
        """Keeps the parameters as they are in the checkout now; returns the snapshot's commit."""
        return Checkout(Notebook(self.repo, self.slug)).snapshot(note)[0]

    def branch(self, slug: str, epoch: int | None = None) -> GitStore:
        """Begins a new experiment from the state of an epoch, the best if not given.

        Raises:
            ExperimentError: the name is taken, or there is no such epoch.
        """
        notebook = Notebook(self.repo, self.slug)
        number = notebook.find("best" if epoch is None else str(epoch)).number
        return self._other(fork(notebook, number, slug).slug)

    def merge(self, other: GitStore, slug: str) -> GitStore | None:
        """Begins a new experiment from this one's and another's best states, merged by git.

        Returns:
            The new one; None if this one has already all that the other has.

        Raises:
            ExperimentError: they conflict, and it names the files. Nothing is written then.
        """
        notebooks = [Notebook(self.repo, store.slug) for store in (self, other)]
        made = merge(notebooks[0], notebooks[1], slug)
        return None if made is None else self._other(made.slug)

    def status(self) -> Status:
        """Where the experiment stands."""
        return Notebook(self.repo, self.slug).status

    def promote(self, epoch: int | None = None, reason: str = "", reviewer: str = "") -> Event:
        """Writes down that an epoch, the best if not given, is to be taken over."""
        named = "best" if epoch is None else str(epoch)
        return decide(
            self.repo, self.slug, "promote", epoch=named, reason=reason, reviewer=reviewer
        )

    def _other(self, slug: str) -> GitStore:
        return GitStore(slug, self.repo.workdir, in_place=self.in_place)

    # --- progress: results of the epoch that is going on, in the git directory -------------------

    def note_progress(self, progress: ProgressNote) -> None:
        self._note(progress)

    def note_call(self, call: LlmRecord) -> None:
        self._note(call)

    def progress(self) -> list[ProgressNote]:
        return [record for record in self._noted() if isinstance(record, ProgressNote)]

    def calls(self) -> list[LlmRecord]:
        return [record for record in self._noted() if isinstance(record, LlmRecord)]

    def _note(self, record: Record) -> None:
        try:
            with self._noting:
                if self._progress is None:
                    self._progress = self._open_progress()
                line = encode(record)
                self._progress.write(line)
                self._progress.flush()
                if self._held is not None:
                    self._held.append(line)
        except OSError as error:
            raise _cannot_write(self.layout.progress(self.repo), error) from error

    def hold_progress(self) -> None:
        """From here on, somebody who is not trusted may write: what is noted is kept in memory."""
        with self._noting:
            if self._progress is None:
                self._progress = self._open_progress()
            self._progress.flush()
            self._held = [self.layout.progress(self.repo).read_bytes()]

    def release_progress(self) -> bool:
        """Nobody else writes any more; returns whether somebody did, which is undone."""
        path = self.layout.progress(self.repo)
        with self._noting:
            content, self._held = b"".join(self._held or []), None
            with contextlib.suppress(OSError):
                if path.read_bytes() == content:
                    return False
            self._close_progress()
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            except OSError as error:
                raise _cannot_write(path, error) from error
            return True

    def _noted(self) -> list[Record]:
        try:
            content = self.layout.progress(self.repo).read_bytes()
        except FileNotFoundError:
            return []
        found: list[Record] = []
        for line in content.split(b"\n"):
            # A kill may have cut a line short: then its batch is evaluated again.
            with contextlib.suppress(RecordError):
                found += decode(line, "progress")
        return found

    def clear_progress(self) -> None:
        self._close_progress()
        path = self.layout.progress(self.repo)
        try:
            if path.exists():
                path.write_bytes(b"")
        except OSError as error:
            raise _cannot_write(path, error) from error

    def _close_progress(self) -> None:
        if self._progress is not None:
            # What a full disk did not take was refused when it was written.
            with contextlib.suppress(OSError):
                self._progress.close()
            self._progress = None

    def _open_progress(self) -> BinaryIO:
        file = self.layout.progress(self.repo).open("a+b")
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            if file.read(1) != b"\n":
                # The line that a kill cut short ends here, so that it spoils no other.
                file.write(b"\n")
        return file

    # --- inside --------------------------------------------------------------------------------

    def _replace(self, present: Mapping[str, Entry], wanted: dict[str, Entry]) -> None:
        self._files.restore(_changes(present, wanted))
        self._known, self._seen = wanted, (0.0, {})

    def _just_seen(self) -> dict[str, Entry]:
        """The files as `edited` saw them an instant ago, else as they are now.

        An edit by hand that comes in between is not overwritten unseen, but found before the next
        step.
        """
        seen_s, present = self._seen
        recent = time.monotonic() - seen_s < _INSTANT_S
        return present if present and recent else self._present(write=False)

    def _append(
        self, tree: str, text: str, records: Sequence[Record], entries: Mapping[str, Entry]
    ) -> str:
        self._refuse_checked_out()
        made = commits.commit(self.repo, tree=tree, parents=[self._tip], message=text)
        self.journal.write(made, records)
        subject = text.partition("\n")[0]
        refs.update_ref(self.repo, self.layout.branch, made, self._tip, subject)
        self._move_to(made, tree, entries)
        return made

    def _move_to(self, commit: str, tree: str, entries: Mapping[str, Entry]) -> None:
        self._tip, self._tip_tree = commit, tree
        self._entries.pop(tree, None)
        self._remember(tree, dict(entries))

    def _present(self, *, write: bool) -> dict[str, Entry]:
        present: dict[str, Entry] = {}
        for scope in self._scopes:
            if scope.parameter.is_file:
                found = self._files.hash(scope.files(), write=write)
                present |= {name: entry for name, entry in found.items() if entry is not None}
            else:
                accepts = self._accepts(scope)
                present |= self._files.hash_below(scope.prefix, accepts, write=write)
        return present

    def _accepts(self, scope: Scope) -> Callable[[str], bool]:
        # A known file is one of this scope or of another: neither pattern nor git is asked again.
        return lambda name: name in self._known or scope.covers(name)

    def _entries_of(self, tree: str) -> dict[str, Entry]:
        known = self._entries.pop(tree, None)
        if known is None:
            known = {}
            for scope in self._scopes:
                known |= scope.entries(self.repo, tree)
        self._remember(tree, known)
        return known

    def _remember(self, tree: str, entries: dict[str, Entry]) -> None:
        """Keeps a tree's files; what was not asked for the longest is dropped."""
        self._entries[tree] = entries
        while len(self._entries) > _TREES:
            del self._entries[next(iter(self._entries))]

    def _ignores(self, scope: Scope) -> Callable[[str], bool]:
        def ignores(name: str) -> bool:
            full = scope.prefix + name
            if full in self._known:
                return False
            if full not in self._ignored:
                self._ignored[full] = self.repo.is_ignored(full)
            return self._ignored[full]

        return ignores

    def _refuse_moved(self) -> None:
        starts = [commit for commit, _ in self.journal.read(Manifest)]
        if starts and not is_ancestor(self.repo, starts[0], self.tip):
            branch = self.layout.branch.removeprefix("refs/heads/")
            raise ExperimentError(
                f"the branch {branch} was moved: it does not have the start commit {starts[0][:7]}",
                hint=f"see where it was: git reflog {branch}; then: git branch -f {branch} COMMIT",
            )

    def _base(self) -> str | None:
        for commit, _ in self.journal.read(Manifest):
            parents = commits.read_commit(self.repo, commit).parents
            return parents[0] if parents else None
        raise RecordError(
            f"the experiment {self.slug} has no manifest note",
            hint=f"fetch its notes: autopilot fetch {self.slug}",
        )

    def _take_hold(self) -> None:
        if not self._lock.held:
            hold(self._lock, self.slug)
        refs.clear_stale_locks(self.repo, self.layout.namespaces())

    def _clear_half_start(self) -> None:
        """Removes the manifest note of a start that was killed before its branch was there."""
        self.layout.check_free(self.repo)
        ref = self.layout.notes("experiment")
        oid = refs.read_ref(self.repo, ref)
        if oid is not None:
            refs.delete_ref(self.repo, ref, oid)

    def _refuse_checked_out(self) -> None:
        where = checked_out_at(self.repo, self.layout.branch)
        if where is not None:
            raise RepositoryError(
                f"the branch {self.layout.branch_name} is checked out in {where}",
                hint="it is never moved under your feet: git switch another branch there, "
                f"then autopilot resume {self.slug}",
            )

    def _refuse_edits(self) -> None:
        """Before an in-place resume overwrites files: what is not in git yet is an edit by hand.

        Unless a kill in the middle of an optimizer step explains it: then it is rescued.
        """
        unknown = self._unknown(self._present(write=False))
        progress = self.progress() if unknown else []
        if unknown and not (progress and progress[-1].stepping > 0):
            raise ParameterError(
                f"{min(unknown)} was edited by hand; the edit is kept",
                hint="commit it or git stash it, then resume",
            )

    def _rescue(self, present: Mapping[str, Entry]) -> None:
        """Keeps what is about to be overwritten in the user's checkout, unless git has it.

        It is what a step left that was interrupted or failed, and perhaps what the user wrote
        meanwhile: nobody can tell the two apart.
        """
        unknown = self._unknown(present)
        if unknown:
            tree = objects.write_tree(self.repo, self._tip_tree, unknown)
            note = "before a step was undone"
            kept, is_new = keep_snapshot(self.repo, self.layout, self._tip, tree, note)
            if is_new:
                self.rescued.append(kept)

    def _unknown(self, present: Mapping[str, Entry]) -> dict[str, Entry]:
        """The files whose content neither the latest commits nor HEAD have."""
        new = {name: entry for name, entry in present.items() if self._known.get(name) != entry}
        if not new:
            return new
        recent = itertools.islice(commits.first_parent_log(self.repo, self._tip), _RECENT)
        trees = [commit.tree for commit in recent]
        trees.append(objects.tree_of(self.repo, self.repo.head_commit()))
        # A kill while the baseline was scored on the test split leaves its state.
        baseline = commits.read_tag(self.repo, self.layout.tag_name(0))
        if baseline is not None:
            trees.append(objects.tree_of(self.repo, baseline.commit))
        safe = [self._entries_of(tree) for tree in trees]
        return {
            name: entry
            for name, entry in new.items()
            if not any(entries.get(name) == entry for entries in safe)
        }


def hold(lock: ExclusiveLock, slug: str) -> None:
    """Takes an experiment's lock.

    Raises:
        LockHeldError: somebody else is running it; it says who.
    """
    try:
        lock.acquire()
    except LockHeldError as error:
        raise LockHeldError(
            f"the experiment {slug} is running already: {error.message}",
            hint="wait for it, or start another one with -e",
        ) from error


def _changes(before: Mapping[str, Entry], after: Mapping[str, Entry]) -> dict[str, Entry | None]:
    """What makes some files into others: an entry for each that differs, None removes one."""
    changes: dict[str, Entry | None] = {}
    for name, entry in after.items():
        known = before.get(name)
        if known is not entry and known != entry:
            changes[name] = entry
    return changes | {name: None for name in before if name not in after}


def _cannot_write(path: Path, error: OSError) -> GitCommandError:
    return GitCommandError(
        f"cannot write {path}: {error.strerror}",
        hint="make room or give write permission, then resume",
    )
