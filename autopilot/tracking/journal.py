"""An experiment's records: the journal in git notes, and the local progress file."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from autopilot import __version__
from autopilot.core.records.message import EPOCH, EXPERIMENT, REJECTED, trailer
from autopilot.core.records.record import Event, Manifest, Record
from autopilot.errors import GitCommandError, RecordError, RepositoryError, translated_as
from autopilot.git.commands import Seen
from autopilot.git.commits import Commit, first_parent_log, read_commit
from autopilot.git.notes import Edit, Notes
from autopilot.git.objects import read_blob
from autopilot.git.refs import read_ref
from autopilot.git.repository import Repository
from autopilot.tracking.layout import KINDS, Layout
from autopilot.tracking.lines import UnreadLine, decode, decode_all, encode, id_of

R = TypeVar("R", bound=Record)
_Notes = list[tuple[str, str]]
_VERSION = re.compile(r"\d[\w.+-]{0,40}")
_seen = Seen[list[Record]]()
_by_folder = Seen[list[tuple[str, Record]]]()


class Journal:
    """Reads and writes an experiment's notes.

    Args:
        is_strict: A line that cannot be read is an error, as for whoever goes on with the
            experiment. Without it, the line is left out, and `repo.damaged` keeps the error.
        is_steady: Whether each kind is read as it was at first, beside a run that writes.
    """

    def __init__(
        self, repo: Repository, layout: Layout, *, is_strict: bool = False, is_steady: bool = False
    ) -> None:
        self.layout, self.is_strict, self._repo = layout, is_strict, repo
        self._line: tuple[str, dict[str, Commit]] = ("", {})
        self._notes = {k: Notes(repo, layout.notes(k), is_steady=is_steady) for k in KINDS}

    def tip(self, kind: type[Record]) -> str | None:
        """The notes commit of a kind that is read; None where there is none."""
        return self._notes[kind.kind].tip()

    def write(self, commit: str, records: Sequence[Record]) -> None:
        """Adds records to a commit's notes, kind by kind in the given order.

        A record whose id is there already takes its place.
        """
        self.write_all((commit, record) for record in records)

    def write_all(self, noted: Iterable[tuple[str, Record]]) -> None:
        """Adds records to the notes of their commits, all of a kind at once."""
        kinds: dict[str, dict[str, dict[str, bytes]]] = {}
        epoch = 0
        for commit, record in noted:
            lines = kinds.setdefault(record.kind, {}).setdefault(commit, {})
            lines[record.id], epoch = encode(record), record.epoch
        for kind, by_commit in kinds.items():
            message = f"autopilot({self.layout.slug}): {kind} of epoch {epoch}"
            edits = {commit: _merge(lines) for commit, lines in by_commit.items()}
            self._notes[kind].write(edits, message)

    def read(self, kind: type[R], line: Container[str] | None = None) -> Iterator[tuple[str, R]]:
        """All records of a class with the commits that they are on; repeated ids count once.

        Args:
            line: The experiment's commits: only those records, and no note on another commit is an
                error. None: all, and none is.
        """
        for place, notes in self._folders(kind.kind):
            for pair in _by_folder.get_or(place, partial(self._in, notes)):
                commit, record = pair
                if line is not None and commit not in line:
                    continue
                if isinstance(record, kind):
                    yield cast("tuple[str, R]", pair)
                elif line is not None and isinstance(record, UnreadLine):
                    self._miss(kind.kind, commit, record)

    def _in(self, notes: _Notes) -> list[tuple[str, Record]]:
        return [
            (commit, record)
            for commit, oid in notes
            for record in _seen.get_or(oid, partial(self._decoded, oid))
        ]

    def _decoded(self, oid: str) -> list[Record]:
        try:
            return list(decode(read_blob(self._repo, oid)))
        except RepositoryError as error:
            return [UnreadLine(line=0, reason=error.message)]

    def _folders(self, kind: str) -> list[tuple[str, _Notes]]:
        """All notes of a kind, by folders; of a ref that cannot be read there are none."""
        try:
            return list(self._notes[kind].folders())
        except RepositoryError as error:
            left_out = self._repo.leave_out(self.layout.notes(kind))
            if self.is_strict:
                raise RecordError(left_out.message, hint=left_out.hint) from error
            return []

    def _on(self, kind: str, commit: str) -> Iterator[Record]:
        try:
            content = self._notes[kind].read(commit)
        except RepositoryError as error:
            if self._folders(kind):  # else the ref is named
                yield UnreadLine(line=0, reason=error.message)
        else:
            yield from decode(content or b"")

    def _miss(self, kind: str, commit: str, unread: UnreadLine) -> None:
        error = self._named(kind, commit, unread)
        if self.is_strict:
            raise error
        self._repo.damaged.setdefault(error.message, error)

    def _named(self, kind: str, commit: str, unread: UnreadLine) -> RecordError:
        """The error that names a line, and what shows and mends it."""
        ref, place = self.layout.notes(kind), commit[:10]
        at = f": line {unread.line}" if unread.line else ""
        field = f", field {unread.field}" if unread.field else ""
        git = f"git notes --ref={ref.removeprefix('refs/notes/')}"
        hint = f"see it: {git} show {place}; mend it: {git} edit {place}"
        # The fields of a newer version that this one knows are read.
        whole = " whole" if unread.is_newer and unread.field == "v" else ""
        return RecordError(
            f"{ref} on {place} cannot be read{whole}{at}{field}: {unread.reason}",
            hint=self.newer_version(is_newer=unread.is_newer) or hint,
        )

    def unread(self, kind: str, line: Container[str]) -> Iterator[tuple[str, RecordError]]:
        """The errors of all lines of a kind that cannot be read, with the commits they are on."""
        for _, notes in self._folders(kind):
            for commit, each in self._in([note for note in notes if note[0] in line]):
                if isinstance(each, UnreadLine):
                    yield commit, self._named(kind, commit, each)

    def lost(self, kind: type[Record], commit: str) -> RecordError:
        """The error of a record that must be on a commit, and is not."""
        for each in self._on(kind.kind, commit):
            if isinstance(each, UnreadLine):
                return self._named(kind.kind, commit, each)
        unread = UnreadLine(line=0, reason=f"it has no {kind.kind} of the epoch")
        error = self._named(kind.kind, commit, unread)
        if self.tip(kind) is None:
            error.hint = f"fetch its notes: autopilot fetch {self.layout.slug}"
        return error

    def unusable(
        self, commit: str, record: Record, field: str, reason: str, *, is_newer: bool = False
    ) -> RecordError:
        """The error of a record that can be read, and of which a field cannot be used."""
        lines = (self._notes[record.kind].read(commit) or b"").split(b"\n")
        line = next((n for n, each in enumerate(lines, 1) if id_of(each) == record.id), 0)
        unread = UnreadLine(line=line, field=field, reason=reason, is_newer=is_newer)
        return self._named(record.kind, commit, unread)

    def newer_version(self, *, is_newer: bool = False) -> str:
        """How to install the newest autopilot that wrote to the experiment; "" if this one is it.

        Args:
            is_newer: Whether a newer one wrote to it in any case.
        """
        found = []
        for _, notes in self._folders(Manifest.kind):
            for _, each in self._in(notes):
                if isinstance(each, Manifest):
                    found.append(each.versions.get("autopilot", ""))
                elif isinstance(each, Event):
                    found.append(each.version)
        known = [each for each in found if _VERSION.fullmatch(each)]
        newest = max([*known, __version__], key=_numbers)
        if _numbers(newest) > _numbers(__version__):
            return f"autopilot {newest} wrote it: pip install 'autopilot>={newest}'"
        return "a newer autopilot wrote it: pip install --upgrade autopilot" if is_newer else ""

    def start(self) -> str | None:
        """The start commit: the one with the manifest; None where its notes are not here."""
        return self.beginning()[0] if self.tip(Manifest) else None

    def beginning(self, tip: str | None = None) -> tuple[str, Manifest]:
        """The start commit and its manifest, as far as that can be read.

        Args:
            tip: Where the branch ends; the local branch's tip if not given.

        Raises:
            RecordError: its notes are not here; or the journal is strict, and it is damaged.
        """
        slug = self.layout.slug
        found = [commit for commit, _ in self.read(Manifest)]
        own = [commit for commit in found if self._is_ours(commit)]
        if len(own) != 1:  # else a note on another commit would move the experiment there
            own = list(self._starts(tip or read_ref(self._repo, self.layout.branch))) or own
        for start in own or found:
            for _, manifest in self.read(Manifest, (start,)):
                return start, manifest
            # A ref that cannot be read is named; one that is not here can be fetched.
            if self.tip(Manifest) is None or not any(map(self._folders, KINDS)):
                break
            self._miss(Manifest.kind, start, UnreadLine(line=0, reason="it has no manifest"))
            return start, Manifest(
                slug=slug, base="".join(read_commit(self._repo, start).parents[:1])
            )
        hint = f"fetch its notes: autopilot fetch {slug}"
        raise RecordError(f"the experiment {slug} has no manifest note", hint=hint)

    def _is_ours(self, commit: str) -> bool:
        with contextlib.suppress(RepositoryError):  # a note may be on anything
            return trailer(read_commit(self._repo, commit).message, EXPERIMENT) is not None
        return False

    def _starts(self, tip: str | None) -> Iterator[str]:
        """The start commit, by the messages on the branch."""
        for commit in first_parent_log(self._repo, tip) if tip else ():
            text = commit.message
            is_step = trailer(text, EPOCH) or trailer(text, REJECTED)
            if trailer(text, EXPERIMENT) == self.layout.slug and not is_step:
                yield commit.id
                return

    def line(self, tip: str) -> Mapping[str, Commit]:
        """The experiment's commits by their ids, newest first; raises as `beginning`."""
        if self._line[0] != tip:
            start, _ = self.beginning(tip)
            base = next(iter(read_commit(self._repo, start).parents), None)
            found = first_parent_log(self._repo, tip, stop=base)
            self._line = tip, {commit.id: commit for commit in found}
        return self._line[1]

    def repeated(self, kind: type[R]) -> Iterator[tuple[str, R, R]]:
        """Records that `read` leaves out, each after the one with its id that counts."""
        for commit, oid in (note for _, notes in self._folders(kind.kind) for note in notes):
            first: dict[str, R] = {}
            with contextlib.suppress(RepositoryError):  # `unread` names it
                for each in decode_all(read_blob(self._repo, oid)):
                    if isinstance(each, kind) and first.setdefault(each.id, each) is not each:
                        yield commit, first[each.id], each

    def read_on(self, commit: str, kind: type[R]) -> list[R]:
        """The records of a class on one commit of the experiment."""
        found: list[R] = []
        for record in self._on(kind.kind, commit):
            if isinstance(record, kind):
                found.append(record)
            elif isinstance(record, UnreadLine):
                self._miss(kind.kind, commit, record)
        return found


class ProgressFile:
    """Records of the epoch that is going on, in a file of the git directory.

    It is what a killed run resumes from. Safe to be written by several threads.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None
        self._held: list[bytes] | None = None
        self._writing = threading.Lock()

    def write(self, record: Record) -> None:
        """Appends a record."""
        with self._translated(), self._writing:
            line = encode(record)
            file = self._opened()
            file.write(line)
            file.flush()
            if self._held is not None:
                self._held.append(line)

    def read(self, kind: type[R]) -> list[R]:
        """The records of a class; a line that a kill cut short is left out, and made again."""
        if not self.path.exists():
            return []
        what, hint = f"cannot read {self.path}", "see what it is; without it, its results are lost"
        with translated_as(RecordError, what, hint):
            content = self.path.read_bytes()
        return [each for each in decode_all(content) if isinstance(each, kind)]

    def hold(self) -> None:
        """Keeps a copy in memory until `release`: untrusted code may write to the file now."""
        with self._writing:
            self._opened().flush()
            self._held = [self.path.read_bytes()]

    def release(self) -> bool:
        """Ends `hold`; returns whether another process wrote to the file, and undoes that."""
        with self._writing:
            content, self._held = b"".join(self._held or []), None
            with contextlib.suppress(OSError):
                if self.path.read_bytes() == content:
                    return False
            self.close()
            with self._translated():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.path.write_bytes(content)
            return True

    def clear(self) -> None:
        """Removes all records."""
        self.close()
        with self._translated():
            if self.path.exists():
                self.path.write_bytes(b"")

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            # Bytes that a full disk did not take were reported when they were written.
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def _opened(self) -> BinaryIO:
        if self._file is None:
            self._file = self.path.open("a+b")
            end = self._file.seek(0, os.SEEK_END)
            if end:
                self._file.seek(end - 1)
                if self._file.read(1) != b"\n":
                    # The line that a kill cut short ends here, so that it spoils no other.
                    self._file.write(b"\n")
        return self._file

    def _translated(self) -> contextlib.AbstractContextManager[None]:
        return translated_as(GitCommandError, f"cannot write {self.path}", "{remedy}, then resume")


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d{1,9}", version)]


def _merge(lines: dict[str, bytes]) -> Edit:
    def edit(existing: bytes | None) -> bytes:
        kept = []
        for line in (existing or b"").split(b"\n"):
            if line.strip() and id_of(line) not in lines:
                kept.append(line + b"\n")
        return b"".join([*kept, *lines.values()])

    return edit
