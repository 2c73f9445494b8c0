"""The store: every state of the parameters, and the records on it.

Invariants, for every implementation:

- Revisions form one line that is only appended to; the tip's content at the parameters is what a
  resumed run starts from.
- `commit` writes records before the revision becomes visible: there is no revision without them.
- A tag, once set, never moves.
- `restore` is exact: files that the revision lacks are removed, everything else is as it was.
- One writer at a time. Reading is safe at any time.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from autopilot.core.items import copied
from autopilot.core.parameter import Parameter, PathParameter
from autopilot.core.records import message
from autopilot.core.records.index import INDEXED, Index
from autopilot.core.records.learnt import BLOCK_AFTER
from autopilot.core.records.record import (
    Event,
    LlmRecord,
    Manifest,
    MetricsRecord,
    ProgressNote,
    Record,
    StepRecord,
)
from autopilot.core.types import canonical, digest
from autopilot.errors import ExperimentError

R = TypeVar("R", bound=Record)
_PROGRESS = 1000


@dataclass(frozen=True, slots=True)
class Revision:
    """One entry of the line.

    Args:
        id: Names it; a commit id in git.
        tree: The state's id: equal states have equal ids.
        message: Subject, body and trailers.
    """

    id: str
    tree: str
    message: str

    def trailer(self, name: str) -> str | None:
        """The value of a trailer of the message."""
        return message.trailer(self.message, name)


class Store(ABC):
    """Versions of the parameters of one experiment.

    Attributes:
        slug: The experiment's name.
        is_shared: Whether others may edit the parameters meanwhile. Then the loop checks for edits
            at each result, not only at each step and epoch.
    """

    slug: str
    is_shared: bool = True

    @abstractmethod
    def bind(self, parameters: Sequence[Parameter]) -> None:
        """Sets the parameters that it keeps.

        Raises:
            ParameterError: a parameter that this store cannot keep.
        """

    @abstractmethod
    def begin(self, manifest: Manifest) -> str:
        """Makes the first revision, of the present state, and takes hold of the experiment.

        Raises:
            ExperimentError: the experiment exists already.
        """

    @abstractmethod
    def reopen(self) -> None:
        """Takes hold of an experiment that exists, to go on with it.

        Raises:
            ExperimentError: there is none.
        """

    @abstractmethod
    def exists(self) -> bool:
        """Whether the experiment has been begun."""

    @property
    @abstractmethod
    def tip(self) -> str:
        """The newest revision's id."""

    @abstractmethod
    def state(self) -> str:
        """The id of the parameters' present state."""

    @abstractmethod
    def commit(self, state: str, message: str, records: Sequence[Record]) -> str:
        """Appends a revision of a state that `state()` returned, with its records."""

    @abstractmethod
    def rollback(self, revision: str, message: str) -> str:
        """Appends a revision with another one's state, and restores it."""

    @abstractmethod
    def restore(self, revision: str) -> None:
        """Puts the parameters into a revision's state, exactly."""

    def checkout(self, epoch: int) -> None:
        """Puts the parameters into the state of a kept epoch, exactly.

        Raises:
            ExperimentError: the epoch was not kept.
        """
        self.restore(self.revision(epoch))

    def revision(self, named: str | int) -> str:
        """The id of a revision: itself, or that of a kept epoch.

        Raises:
            ExperimentError: the epoch was not kept.
        """
        if isinstance(named, str):
            return named
        kept = self.tags()
        if named not in kept:
            there = ", ".join(str(number) for number in sorted(kept)) or "none yet"
            raise ExperimentError(
                f"{self.slug} has no kept epoch {named}", hint=f"kept epochs: {there}"
            )
        return kept[named]

    @abstractmethod
    def edited(self) -> list[str]:
        """The files that changed since the store last wrote or read them."""

    @abstractmethod
    def annotate(self, revision: str, records: Sequence[Record]) -> None:
        """Adds records to a revision, kind by kind in the given order; a repeated id replaces."""

    @abstractmethod
    def records(self, kind: type[R]) -> list[tuple[str, R]]:
        """All records of a class, with the revision that they are on, by epoch."""

    def refuse_gap(self, judged: Collection[int]) -> None:  # noqa: B027  # elsewhere none can go
        """Refuses an epoch without a verdict before others that have one.

        Raises:
            RecordError: the record of one is gone; it names the place. Here, none can go.
        """

    def records_on(self, revision: str, kind: type[R]) -> list[R]:
        """The records of a class on one revision."""
        return [record for at, record in self.records(kind) if at == revision]

    @abstractmethod
    def tag(self, epoch: int, revision: str, message: str) -> None:
        """Marks a revision as a kept epoch's; the same again does nothing."""

    @abstractmethod
    def tags(self) -> dict[int, str]:
        """Kept epoch to revision."""

    @abstractmethod
    def log(self) -> list[Revision]:
        """All revisions, newest first."""

    @property
    def start(self) -> str:
        """The first revision's id."""
        return self.log()[-1].id

    def newest(self) -> Iterator[Revision]:
        """All revisions, newest first, read one after another."""
        return iter(self.log())

    def index(self, block_after: int = BLOCK_AFTER) -> Index:
        """The facts on all epochs, and all lessons; their counts under a rule are quick."""
        return Index().take(pair for kind in INDEXED for pair in self.records(kind))

    def steps_since(self, epoch: int) -> list[tuple[str, StepRecord]]:
        """The steps of epochs after a judged one, with the revisions that they are on."""
        found = list[tuple[str, StepRecord]]()
        for at in (revision.id for revision in self.newest()):
            found += ((at, step) for step in self.records_on(at, StepRecord) if step.epoch > epoch)
            if any(record.epoch == epoch for record in self.records_on(at, MetricsRecord)):
                break
        return found[::-1]

    def untagged(self, kept: Iterable[int]) -> list[int]:
        """Those of some epochs that `tags` lacks."""
        return sorted({*kept} - self.tags().keys())

    @abstractmethod
    def diff(self, old: str | int, new: str | int) -> str:
        """The unified diff between two revisions, or the states of two kept epochs."""

    @abstractmethod
    def note_progress(self, progress: ProgressNote) -> None:
        """Keeps a batch's result at once, so that a kill does not lose it."""

    @abstractmethod
    def progress(self) -> list[ProgressNote]:
        """The notes of progress since the last `clear_progress`."""

    @abstractmethod
    def note_call(self, call: LlmRecord) -> None:
        """Keeps a model call at once, so that a kill does not lose it. From any thread."""

    @abstractmethod
    def calls(self) -> list[LlmRecord]:
        """The model calls that were noted since the last `clear_progress`."""

    @abstractmethod
    def clear_progress(self) -> None:
        """Forgets the notes of progress, once they are part of an epoch's record."""

    def hear(self) -> Sequence[Event]:
        """The events that other processes handed over since the last call, now written down."""
        return ()

    def keep_derived(self, content: bytes) -> None:  # noqa: B027  # it can be made anew
        """Keeps content that follows from the records and takes long to make; it may get lost."""

    def derived(self) -> bytes:
        """The content that `keep_derived` got last; b"" where there is none."""
        return b""

    def close(self) -> None:  # noqa: B027  # an in-memory store has nothing to let go of
        """Lets go of the experiment."""


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
        self._records: dict[tuple[str, str], dict[str, Record]] = defaultdict(dict)
        self._tags: dict[int, str] = {}
        # As many as a repeated epoch can use: a run of a million batches stays small.
        self._progress: deque[ProgressNote] = deque(maxlen=_PROGRESS)
        self._calls: list[LlmRecord] = []
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
        return self._revisions[-1].id

    def state(self) -> str:
        snapshots = [parameter.snapshot() for parameter in self._parameters]
        self._known = digest([canonical(snapshot) for snapshot in snapshots], 40)
        self._states[self._known] = snapshots
        return self._known

    def commit(self, state: str, message: str, records: Sequence[Record]) -> str:
        revision = self._append(state, message)
        self.annotate(revision, records)
        return revision

    def rollback(self, revision: str, message: str) -> str:
        # The revision first: a resumed run restores the tip, so a kill in between loses nothing.
        appended = self._append(self._find(revision).tree, message)
        self.restore(revision)
        return appended

    def restore(self, revision: str) -> None:
        self._known = self._find(revision).tree
        snapshots = self._states[self._known]
        for parameter, snapshot in zip(self._parameters, snapshots, strict=True):
            parameter.restore(snapshot)

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

    def log(self) -> list[Revision]:
        return self._revisions[::-1]

    def diff(self, old: str | int, new: str | int) -> str:
        before, after = (self._texts(self._find(self.revision(r)).tree) for r in (old, new))
        lines: list[str] = []
        for name in dict.fromkeys([*before, *after]):
            left, right = before.get(name, "").splitlines(), after.get(name, "").splitlines()
            lines += difflib.unified_diff(left, right, f"a/{name}", f"b/{name}", lineterm="")
        return "\n".join(lines)

    def note_progress(self, progress: ProgressNote) -> None:
        self._progress.append(progress)

    def progress(self) -> list[ProgressNote]:
        return list(self._progress)

    def note_call(self, call: LlmRecord) -> None:
        self._calls.append(call)

    def calls(self) -> list[LlmRecord]:
        return list(self._calls)

    def clear_progress(self) -> None:
        self._progress.clear()
        self._calls.clear()

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
        revision = f"{len(self._revisions):08d}"
        self._revisions.append(Revision(revision, state, message))
        return revision

    def _find(self, revision: str) -> Revision:
        known = next((each for each in self._revisions if each.id == revision), None)
        if known is None:
            raise ExperimentError(f"there is no revision {revision}", hint="see store.log()")
        return known
