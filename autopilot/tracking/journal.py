"""An experiment's records as JSON Lines: the journal in git notes, and the local progress file.

One self-contained object a line, so that notes survive `git notes append` and
`git notes merge -s cat_sort_uniq`. A line that is no object is a person's remark and is left alone.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from autopilot.core.records.record import (
    VERSION,
    Event,
    Lesson,
    LlmRecord,
    Manifest,
    MetricsRecord,
    ProgressNote,
    Record,
    StepRecord,
    TraceRecord,
)
from autopilot.errors import GitCommandError, RecordError, StateError, translated_as
from autopilot.git.commands import Seen
from autopilot.git.commits import Commit, first_parent_log, read_commit
from autopilot.git.notes import Edit, Notes
from autopilot.git.objects import read_blob
from autopilot.git.repository import Repository
from autopilot.text import as_json, hide, leaked
from autopilot.tracking.layout import KINDS, Layout

R = TypeVar("R", bound=Record)
_CLASSES: tuple[type[Record], ...] = (
    MetricsRecord,
    StepRecord,
    Lesson,
    TraceRecord,
    ProgressNote,
    LlmRecord,
)
_MARK = "$float"
_PAYLOADS = ("state", "data", "items")
_ADAPTERS: dict[str, TypeAdapter[Any]] = {}
_Notes = list[tuple[str, str]]
_seen = Seen[list[Record]]()
_by_folder = Seen[list[tuple[str, Record]]]()
_lines = Seen[tuple[str, dict[str, Commit]]]()


class Journal:
    """Reads and writes an experiment's notes."""

    def __init__(self, repo: Repository, layout: Layout) -> None:
        self.layout, self._repo = layout, repo
        self._line: tuple[str, dict[str, Commit]] = ("", {})
        self._notes = {kind: Notes(repo, layout.notes(kind)) for kind in KINDS}

    def write(self, commit: str, records: Sequence[Record]) -> None:
        """Adds records to a commit's notes, kind by kind in the given order.

        A record whose id is there already takes its place.
        """
        by_kind: dict[str, list[Record]] = {}
        for record in records:
            by_kind.setdefault(record.kind, []).append(record)
        for kind, group in by_kind.items():
            edit = _merge({record.id: encode(record) for record in group})
            message = f"autopilot({self.layout.slug}): {kind} of epoch {group[0].epoch}"
            self._notes[kind].write({commit: edit}, message)

    def read(self, kind: type[R]) -> Iterator[tuple[str, R]]:
        """All records of a class with the commits that they are on; repeated ids count once."""
        for place, notes in self._notes[kind.kind].folders():
            for pair in _by_folder.get_or(place, partial(self._in, kind.kind, notes)):
                if isinstance(pair[1], kind):
                    yield cast("tuple[str, R]", pair)

    def _in(self, kind: str, notes: _Notes) -> list[tuple[str, Record]]:
        return [
            (commit, record)
            for commit, oid in notes
            for record in _seen.get_or(oid, partial(self._decoded, kind, commit, oid))
        ]

    def _decoded(self, kind: str, commit: str, oid: str) -> list[Record]:
        content = read_blob(self._repo, oid)
        return list(decode(content, f"the {kind} note on {commit[:10]}"))

    def look(self, tip: str) -> None:
        """Reads what a process that goes on with the experiment reads; see `looking`."""
        for record in (*_CLASSES, Event):
            _adapter(record)
        for kind in (Manifest, MetricsRecord, StepRecord, Lesson):
            deque(self.read(kind), maxlen=0)
        self.line(tip)

    def start(self) -> str | None:
        """The start commit: the one with the manifest; None where its note is not here."""
        return next((commit for commit, _ in self.read(Manifest)), None)

    def beginning(self) -> tuple[str, Manifest]:
        """The start commit and its manifest.

        Raises:
            RecordError: its note is not here.
        """
        for commit, manifest in self.read(Manifest):
            return commit, manifest
        raise RecordError(
            f"the experiment {self.layout.slug} has no manifest note",
            hint=f"fetch its notes: autopilot fetch {self.layout.slug}",
        )

    def line(self, tip: str) -> Mapping[str, Commit]:
        """The experiment's commits by their ids, newest first; raises as `beginning`."""
        if self._line[0] != tip:
            start, _ = self.beginning()
            base = next(iter(read_commit(self._repo, start).parents), None)
            # What is before a commit never changes.
            known, before = _lines.get(start, ("", {}))
            found = dict[str, Commit]()
            for commit in first_parent_log(self._repo, tip, stop=base):
                if commit.id == known:
                    found |= before
                    break
                found[commit.id] = commit
            self._line = tip, found
            _lines.keep(start, self._line)
        return self._line[1]

    def repeated(self, kind: type[R]) -> Iterator[tuple[str, R, R]]:
        """Records that `read` leaves out, each after the one with its id that counts."""
        for commit, content in self._notes[kind.kind].items():
            first: dict[str, R] = {}
            for record in _decode_all(content, f"the {kind.kind} note on {commit[:10]}"):
                if isinstance(record, kind) and first.setdefault(record.id, record) is not record:
                    yield commit, first[record.id], record

    def read_on(self, commit: str, kind: type[R]) -> list[R]:
        """The records of a class on one commit."""
        content = self._notes[kind.kind].read(commit)
        found = decode(content or b"", f"the {kind.kind} note on {commit[:10]}")
        return [record for record in found if isinstance(record, kind)]


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
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        found: list[R] = []
        for line in content.split(b"\n"):
            with contextlib.suppress(RecordError):
                found += [each for each in decode(line, "progress") if isinstance(each, kind)]
        return found

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
        hint = "make room or give write permission, then resume"
        return translated_as(GitCommandError, f"cannot write {self.path}", hint)


def encode(record: Record) -> bytes:
    """A record as one line of JSON.

    Raises:
        StateError: it holds something that JSON cannot carry.
    """
    head = {"v": VERSION, "kind": record.kind, "epoch": record.epoch, "id": record.id}
    fields = _adapter(type(record)).dump_python(record, exclude_defaults=True, warnings=False)
    value = head | {k: v for k, v in fields.items() if k not in ("epoch", "id")}
    try:
        text = _dump(value)
        if leaked(text):
            text = _dump(hide(value))
    except TypeError as error:
        raise StateError(
            f"the {record.kind} record of epoch {record.epoch} cannot be written: {error}",
            hint="state_dict() and cost must hold only strings, numbers, lists and dicts",
        ) from error
    return text.encode() + b"\n"


def decode(content: bytes, where: str) -> Iterator[Record]:
    """The records in a note.

    Raises:
        RecordError: a line that begins as an object is not a record; it names the line.
    """
    seen: set[str] = set()
    for record in _decode_all(content, where):
        if record.id not in seen:
            seen.add(record.id)
            yield record


def _decode_all(content: bytes, where: str) -> Iterator[Record]:
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.lstrip().startswith(b"{"):
            continue
        try:
            record = _decode_ours(line)
            if record is None:
                value = json.loads(line, object_hook=_number)
                record = _adapter(_class_of(value)).validate_python(value)
        except (ValueError, KeyError, ValidationError) as error:
            reason = str(error).splitlines()[0]
            raise RecordError(
                f"{where} cannot be read: line {number}: {reason}",
                hint="see it with `git notes show`; it was edited, or a newer version wrote it",
            ) from error
        yield record


# How the lines begin that `encode` writes: they are read in one pass, three times as fast.
_HEADS = {f'{{"v":{VERSION},"kind":"{record.kind}"'.encode(): record for record in _CLASSES}


def _decode_ours(line: bytes) -> Record | None:
    known = _HEADS.get(line[: line.find(b',"epoch":')])
    if known is None or _MARK.encode() in line:
        return None
    try:
        record: Record = _adapter(known).validate_json(line)
    except ValidationError:
        # The slow way accepts more than this one, and its error names the mistake.
        return None
    return record


def _class_of(value: dict[str, Any]) -> type[Record]:
    if value["v"] > VERSION:
        raise ValueError(f"version {value['v']} is newer than this program's {VERSION}")
    if value["v"] < VERSION:
        raise ValueError(
            f"version {value['v']} is of an earlier autopilot, which this one does not read: "
            "run the experiment anew"
        )
    if value["kind"] == "experiment":
        return Manifest if value["id"] == "manifest" else Event
    for known in _CLASSES:
        if known.kind == value["kind"]:
            return known
    raise ValueError(f"there is no kind {value['kind']!r}")


def _adapter(record: type[Record]) -> TypeAdapter[Any]:
    adapter = _ADAPTERS.get(record.__name__)
    if adapter is None:
        adapter = _ADAPTERS[record.__name__] = TypeAdapter(record)
    return adapter


def _merge(lines: dict[str, bytes]) -> Edit:
    def edit(existing: bytes | None) -> bytes:
        kept = []
        for line in (existing or b"").split(b"\n"):
            if line.strip() and _id_of(line) not in lines:
                kept.append(line + b"\n")
        return b"".join([*kept, *lines.values()])

    return edit


def _id_of(line: bytes) -> str | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value.get("id") if isinstance(value, dict) else None


def _dump(value: Any) -> str:
    try:
        return as_json(value, compact=True)
    except ValueError:  # NaN or infinity, which are rare
        return as_json(_finite(value), compact=True)


def _finite(value: Any, *, marked: bool = False) -> Any:
    """NaN and infinity as strings: JSON has no such numbers, and reading turns them back.

    Args:
        marked: It is the user's own payload, where no type says that a text is a number: write
            `{"$float": "NaN"}`.
    """
    if isinstance(value, float) and not math.isfinite(value):
        text = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        return {_MARK: text} if marked else text
    if isinstance(value, dict):
        return {k: _finite(item, marked=marked or k in _PAYLOADS) for k, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item, marked=marked) for item in value]
    return value


def _number(value: dict[str, Any]) -> Any:
    return float(value[_MARK]) if value.keys() == {_MARK} else value
