"""The store in memory, and the contract that every store keeps, which stands in `store_base.py`."""

from __future__ import annotations

import contextlib
import difflib
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from autopilot.core.items import copied
from autopilot.core.parameter import Parameter, PathParameter
from autopilot.core.records import message
from autopilot.core.records.record import LlmRecord, Manifest, ProgressNote, Record
from autopilot.core.store_base import R, Revision, Side, Store
from autopilot.core.types import canonical, digest
from autopilot.errors import ExperimentError
from autopilot.files import SYMLINK, FileState

__all__ = ["InMemoryStore", "R", "Revision", "Side", "Store"]

_PROGRESS = 1000
_CONFLICT, _GONE = "<conflict>", "<gone>"


class InMemoryStore(Store):
    """Everything in this process: for manual loops, tests and a Trainer without an experiment.

    >>> x = Parameter(1)
    >>> store = InMemoryStore()
    >>> store.bind([x])
    >>> first = store.begin(Manifest(slug="demo"))
    >>> x.data = 2
    >>> second = store.commit(store.state(), "try two", [])
    >>> store.restore(first)
    >>> x.data
    1
    """

    def __init__(self, slug: str = "in-memory") -> None:
        self.slug = slug
        self._parameters: list[Parameter] = []
        self._states: dict[str, list[Any]] = {}
        self._revisions: list[Revision] = []
        self._made = dict[str, Revision]()
        self._line, self._sides = self._revisions, dict[Side, list[Revision]]()
        self._records: dict[tuple[str, str], dict[str, Record]] = defaultdict(dict)
        self._tags: dict[int, str] = {}
        # As many as a repeated epoch can use: a run of a million batches stays small.
        self._notes = defaultdict[str, deque[ProgressNote]](lambda: deque(maxlen=_PROGRESS))
        self._asked = defaultdict[str, list[LlmRecord]](list)
        self._known = ""

    def bind(self, parameters: Sequence[Parameter]) -> None:
        self._parameters = list(parameters)

    def begin(self, manifest: Manifest) -> str:
        if self._revisions:
            raise ExperimentError(
                f"the experiment {self.slug} exists already",
                hint="resume it, or begin one of another name",
            )
        manifest = replace(manifest, slug=self.slug)
        revision = self._append(self.state(), message.start_message(manifest))
        self.annotate(revision, [manifest])
        return revision

    def reopen(self) -> None:
        if not self._revisions:
            raise ExperimentError(f"there is no experiment {self.slug}", hint="begin it first")

    def exists(self) -> bool:
        return bool(self._revisions)

    @property
    def tip(self) -> str:
        return self._line[-1].id

    @property
    def start(self) -> str:
        return self._revisions[0].id

    def enter(self, side: Side | None) -> None:
        self.side, self._line = side, self._revisions
        if side is not None:
            self._line = self._sides.setdefault(side, [self._find(side.base)])

    def stage(self, revision: str, beside: Sequence[str], message: str) -> str:
        return self._append(self._find(revision).tree, message)

    def publish(self) -> None:
        self.restore(self.tip)

    def combine(self, side: Side) -> tuple[str, bool]:
        trees = [self._find(place).tree for place in (side.ancestor, side.base, side.theirs)]
        each = zip(*(self._states[tree] for tree in trees), strict=True)
        merged = [
            _merged(each, p.merged_text) for p, each in zip(self._parameters, each, strict=True)
        ]
        if any(snapshot is _CONFLICT for snapshot in merged):
            return "", True
        state = digest([canonical(snapshot) for snapshot in merged], 40)
        self._states[state] = merged
        return ("" if state in trees else state), False

    def place(self, state: str) -> None:
        self._known = state
        for parameter, snapshot in zip(self._parameters, self._states[state], strict=True):
            parameter.restore(snapshot)

    def forget_candidates(self, last: int) -> None:
        for side in [side for side in self._sides if side.epoch <= last]:
            del self._sides[side]
            self._notes.pop(side.name, None)
            self._asked.pop(side.name, None)

    def state(self) -> str:
        snapshots = [parameter.snapshot() for parameter in self._parameters]
        self._known = digest([canonical(snapshot) for snapshot in snapshots], 40)
        self._states[self._known] = snapshots
        return self._known

    def commit(
        self, state: str, message: str, records: Sequence[Record], beside: Sequence[str] = ()
    ) -> str:
        revision = self._append(state, message)
        self.annotate(revision, records)
        return revision

    def rollback(self, revision: str, message: str) -> str:
        # The revision first: a resumed run restores the tip, so a kill in between loses nothing.
        appended = self._append(self._find(revision).tree, message)
        self.restore(revision)
        return appended

    def restore(self, revision: str) -> None:
        self.place(self._find(revision).tree)

    def edited(self) -> list[str]:
        return [
            parameter.name or repr(parameter)
            for parameter, snapshot in zip(self._parameters, self._states[self._known], strict=True)
            if canonical(parameter.snapshot()) != canonical(snapshot)
        ]

    def annotate(self, revision: str, records: Sequence[Record]) -> None:
        # Copies, as if from a disk: a record that changes later does not change the store.
        for record in records:
            own = {each.name: copied(getattr(record, each.name)) for each in fields(record)}
            self._records[revision, record.kind][record.id] = replace(record, **own)

    def records(self, kind: type[R]) -> list[tuple[str, R]]:
        places = (at for at, name in list(self._records) if name == kind.kind)
        pairs = [(at, record) for at in places for record in self.records_on(at, kind)]
        return sorted(pairs, key=lambda pair: (pair[1].epoch, pair[1].id))

    def records_on(self, revision: str, kind: type[R]) -> list[R]:
        here = self._records.get((revision, kind.kind), {})
        return [record for record in here.values() if isinstance(record, kind)]

    def tag(self, epoch: int, revision: str, message: str) -> None:
        if self._tags.setdefault(epoch, revision) != revision:
            raise ExperimentError(
                f"epoch {epoch} is tagged already, at {self._tags[epoch]}",
                hint="a tag never moves; begin another experiment",
            )

    def tags(self) -> dict[int, str]:
        return dict(self._tags)

    def tag_candidate(self, epoch: int, number: int, revision: str, message: str) -> None:
        """Nothing: the states of candidates are known by their records."""

    def log(self) -> list[Revision]:
        return self._line[::-1]

    def diff(self, old: str | int, new: str | int) -> str:
        before, after = (self._texts(self._find(self.revision(r)).tree) for r in (old, new))
        lines: list[str] = []
        for name in dict.fromkeys([*before, *after]):
            left, right = before.get(name, "").splitlines(), after.get(name, "").splitlines()
            lines += difflib.unified_diff(left, right, f"a/{name}", f"b/{name}", lineterm="")
        return "\n".join(lines)

    def note_progress(self, progress: ProgressNote) -> None:
        self._notes[self._place].append(progress)

    def progress(self) -> list[ProgressNote]:
        return list(self._notes[self._place])

    def progress_of(self, side: Side) -> tuple[list[ProgressNote], list[LlmRecord]]:
        return list(self._notes.get(side.name, ())), list(self._asked.get(side.name, ()))

    def note_call(self, call: LlmRecord) -> None:
        self._asked[self._place].append(call)

    def calls(self) -> list[LlmRecord]:
        return list(self._asked[self._place])

    def clear_progress(self) -> None:
        self._notes.pop(self._place, None)
        self._asked.pop(self._place, None)

    @property
    def _place(self) -> str:
        return self.side.name if self.side else ""

    def _texts(self, state: str) -> dict[str, str]:
        texts = {}
        for parameter, snapshot in zip(self._parameters, self._states[state], strict=True):
            if isinstance(parameter, PathParameter) and isinstance(snapshot, Mapping):
                for name, file in snapshot.items():
                    texts[f"{parameter.name}/{name}"] = file.content.decode("utf-8", "replace")
            else:
                texts[parameter.name] = str(snapshot)
        return texts

    def _append(self, state: str, message: str) -> str:
        revision = f"{len(self._made):08d}"
        self._made[revision] = Revision(revision, state, message)
        self._line.append(self._made[revision])
        return revision

    def _find(self, revision: str) -> Revision:
        known = self._made.get(revision)
        if known is None:
            raise ExperimentError(f"there is no revision {revision}", hint="see store.log()")
        return known


def _merged(sides: Sequence[Any], text: Callable[[str, str, str], str | None]) -> Any:
    """A snapshot with both changes of a common one, made of two; fields and keys one by one."""
    (_, ours, theirs), (old, own, other) = sides, map(canonical, sides)
    if own == other or old in (own, other):
        return theirs if old == own else ours
    if all(isinstance(side, Mapping) for side in sides):
        keys = dict.fromkeys([*ours, *theirs])
        found = {key: _merged([side.get(key, _GONE) for side in sides], text) for key in keys}
        if any(value is _CONFLICT for value in found.values()):
            return _CONFLICT
        return {key: value for key, value in found.items() if value is not _GONE}
    merged, mode = None, getattr(ours, "mode", None)
    if all(isinstance(side, str) and side is not _GONE for side in sides):
        merged = text(*sides)
    elif all(isinstance(side, FileState) and side.mode == mode != SYMLINK for side in sides):
        with contextlib.suppress(UnicodeDecodeError):
            merged = text(*(side.content.decode() for side in sides))
    if merged is None:
        return _CONFLICT
    return merged if mode is None else FileState(mode, merged.encode())
