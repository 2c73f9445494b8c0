"""The lines of an epoch's candidates in git, beside the experiment branch.

Each is a ref of its own while the epoch goes on, with a progress file of its own; the commit that
ends the epoch has their last commits as further parents, and the refs go.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from autopilot.core.records.message import epoch_number
from autopilot.core.records.record import LlmRecord, ProgressNote, Record
from autopilot.core.store import Side, Store
from autopilot.git import commits, objects, refs
from autopilot.git.objects import Entry
from autopilot.git.packing import wait_for_prune
from autopilot.git.refs import refuse_checked_out
from autopilot.git.repository import Repository
from autopilot.tracking.journal import Journal, ProgressFile
from autopilot.tracking.layout import Layout
from autopilot.tracking.parameters import ParameterFiles


class CandidateLines(Store):
    """The part of a store in git that has lines beside the experiment's own.

    Attributes:
        repo: The repository, seen from the checkout that is worked in.
        layout: The names of the line that the store is on.
        progress_file: The progress of the line.
        files: The parameters' files.
        journal: The notes.
    """

    repo: Repository
    layout: Layout
    progress_file: ProgressFile
    files: ParameterFiles
    journal: Journal
    _tip = _tip_tree = _staged_on = _start = ""
    _others: dict[str, tuple[tuple[int, ...], Sequence[Record]]]
    _places: dict[str, Path]
    _held_back: list[tuple[str, Record]] | None = None

    def annotate(self, revision: str, records: Sequence[Record]) -> None:
        self.annotate_all([(revision, record) for record in records])

    def annotate_all(self, noted: Sequence[tuple[str, Record]]) -> None:
        """Adds records to their revisions, those of a kind at once."""
        if self._held_back is not None:
            self._held_back += noted
            return
        if not noted:
            return
        wait_for_prune(self.repo)
        self.journal.write_all(noted)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        held: list[tuple[str, Record]] = []
        self._held_back = held
        try:
            yield
        finally:
            self._held_back = None
        self.annotate_all(held)

    def enter(self, side: Side | None) -> None:
        self.progress_file.close()
        self.side, self.layout = side, Layout(self.slug, side.name if side else "")
        place = self._place_of(side)
        place.parent.mkdir(parents=True, exist_ok=True)
        self.progress_file = ProgressFile(place)
        tip = refs.read_ref(self.repo, self.layout.branch)
        if tip is None:
            assert side is not None, "the experiment has begun"
            tip = side.base
            refs.create_ref(self.repo, self.layout.branch, tip, f"autopilot: {side.name}")
        self._tip, self._tip_tree = tip, objects.tree_of(self.repo, tip)

    def _place_of(self, side: Side | None) -> Path:
        """The progress file of a candidate, or the experiment's own."""
        name = side.name if side else ""
        if name not in self._places:
            self._places[name] = Layout(self.slug, name).progress(self.repo)
        return self._places[name]

    def stage(self, revision: str, beside: Sequence[str], message: str) -> str:
        self._staged_on, tree = self._tip, objects.tree_of(self.repo, revision)
        parents = [self._tip, *dict.fromkeys(beside)]
        self._tip = commits.commit(self.repo, tree=tree, parents=parents, message=message)
        self._tip_tree = tree
        return self._tip

    def combine(self, side: Side) -> tuple[str, bool]:
        sides = side.ancestor, side.base, side.theirs
        merged = commits.merge_trees(self.repo, *sides, self._merged)
        is_new = merged.tree not in [objects.tree_of(self.repo, each) for each in sides]
        return (merged.tree if is_new else ""), bool(merged.conflicts)

    def _merged(self, path: str, texts: Sequence[bytes]) -> bytes | None:
        """A file whose lines conflict, merged as its parameter can."""
        owners = (each.parameter for each in self.files.scopes if each.covers(path))
        with contextlib.suppress(UnicodeDecodeError):
            base, ours, theirs = (text.decode() for text in texts)
            merged = next(owners).merged_text(base, ours, theirs)
            return None if merged is None else merged.encode()
        return None

    def publish(self) -> None:
        self._refuse_checked_out()
        branch, subject = self.layout.branch, f"autopilot: {self._tip[:7]}"
        refs.update_ref(self.repo, branch, self._tip, self._staged_on, subject)
        self.restore(self._tip)

    def forget_candidates(self, last: int) -> None:
        lines = f"{self.layout.candidates}/"
        for name in refs.names_in(self.repo, lines):
            number = epoch_number(name.partition("-")[0])
            if number is None or number > last or name.endswith(".lock"):
                continue
            if (oid := refs.read_ref(self.repo, lines + name)) is not None:
                refs.delete_ref(self.repo, lines + name, oid)
        self._others.clear()
        self._places.clear()
        folder = self.layout.beside(self.repo)
        for path in (*folder.glob("*.lock"), *folder.glob("*.progress.jsonl")):
            number = epoch_number(path.name.partition("-")[0])
            if number is None or number <= last:
                path.unlink(missing_ok=True)
        for place in (folder, folder.parent):
            with contextlib.suppress(OSError):  # it is in use
                place.rmdir()

    def tag_candidate(self, epoch: int, number: int, revision: str, message: str) -> None:
        commits.create_tag(self.repo, self.layout.tag_name(epoch, number), revision, message)

    def progress_of(self, side: Side) -> tuple[list[ProgressNote], list[LlmRecord]]:
        place = self._place_of(side)
        try:
            there = place.stat()
        except FileNotFoundError:
            return [], []
        # Each candidate asks for those of all others.
        stamp = there.st_size, there.st_mtime_ns
        if self._others.get(side.name, ((), ()))[0] != stamp:
            self._others[side.name] = stamp, ProgressFile(place).read(Record)
        found = self._others[side.name][1]
        notes = [each for each in found if isinstance(each, ProgressNote)]
        return notes, [each for each in found if isinstance(each, LlmRecord)]

    def _append(
        self,
        tree: str,
        text: str,
        records: Sequence[Record],
        entries: Mapping[str, Entry],
        beside: Sequence[str] = (),
    ) -> str:
        self._refuse_checked_out()
        made = commits.commit(self.repo, tree=tree, parents=[self._tip, *beside], message=text)
        # Notes before the branch: a kill in between leaves notes on a commit that no branch has,
        # which are never read; the other order could leave a commit without notes.
        self.journal.write(made, records)
        refs.update_ref(self.repo, self.layout.branch, made, self._tip, text.partition("\n")[0])
        self._move_to(made, tree, entries)
        return made

    def _move_to(self, commit: str, tree: str, entries: Mapping[str, Entry]) -> None:
        self._tip, self._tip_tree = commit, tree
        self.files.remember(tree, dict(entries))

    def _refuse_checked_out(self) -> None:
        hint = "it is never moved under your feet: git switch another branch there, "
        hint += f"then autopilot resume {self.slug}"
        refuse_checked_out(self.repo, self.layout.branch, hint)
