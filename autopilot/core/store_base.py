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

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from autopilot.core.parameter import Parameter
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
from autopilot.errors import ExperimentError

R = TypeVar("R", bound=Record)


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


@dataclass(frozen=True, slots=True)
class Side:
    """The line of revisions of a candidate, beside the experiment's own.

    Args:
        epoch: The epoch that it is a candidate of.
        number: Its number among them, from 1 on.
        base: The revision that it starts from.
        origin: The name of the state there: "epoch-0003", or "epoch-0003-c2" of a candidate.
        origin_epoch: The epoch that measured that state.
        second: Of a merge: the name of the other state.
        theirs: The revision of that.
        ancestor: The revision of the newest state that both come from.
        is_merged: Whether both changes are merged as they are: no optimizer is asked.
    """

    epoch: int
    number: int
    base: str
    origin: str = ""
    origin_epoch: int = 0
    second: str = ""
    theirs: str = ""
    ancestor: str = ""
    is_merged: bool = False

    @property
    def name(self) -> str:
        """Names it within the experiment."""
        return f"{self.epoch}-{self.number}"

    @property
    def parents(self) -> tuple[str, ...]:
        """The names of the states that it is made from: of a merge, two."""
        return (self.origin, self.second) if self.second else (self.origin,)


class Store(ABC):
    """Versions of the parameters of one experiment.

    Attributes:
        slug: The experiment's name.
        is_shared: Whether others may edit the parameters meanwhile. Then the loop checks for edits
            at each result, not only at each step and epoch.
        side: The candidate whose line it is on; None: on the experiment's own.
    """

    slug: str
    is_shared: bool = True
    side: Side | None = None

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
    def commit(
        self, state: str, message: str, records: Sequence[Record], beside: Sequence[str] = ()
    ) -> str:
        """Appends a revision of a state that `state()` returned, with its records.

        Args:
            beside: Further revisions that it was made from.
        """

    @abstractmethod
    def rollback(self, revision: str, message: str) -> str:
        """Appends a revision with another one's state, and restores it."""

    def enter(self, side: Side | None) -> None:
        """Goes to the line of a candidate, begun there if it is new; None: to the experiment's own.

        Tip, commits, progress and calls are those of the line then. The files stay as they are.

        Raises:
            ExperimentError: the store keeps one line.
        """
        raise ExperimentError(
            f"{type(self).__name__} keeps one line of states: no candidates beside it",
            hint="leave out the proposals, or let it define enter, stage and publish",
        )

    def stage(self, revision: str, beside: Sequence[str], message: str) -> str:
        """Makes a revision with another one's state that joins the lines of candidates.

        It is the tip then, so that records can be added to it, but readers do not see it yet.

        Args:
            beside: The candidates' revisions: its further parents.
        """
        raise NotImplementedError

    def combine(self, side: Side) -> tuple[str, bool]:
        """Merges the two states of a side, as what each changed since their common ancestor.

        Returns:
            The merged state for `place`, "" where they conflict or one has all of both; and whether
            they conflict.

        Raises:
            ExperimentError: the store merges no states.
        """
        what = f"{type(self).__name__} merges no states"
        raise ExperimentError(what, hint="leave merge out, or let it define combine and place")

    def place(self, state: str) -> None:
        """Puts the parameters into a merged state, exactly."""
        raise NotImplementedError

    def publish(self) -> None:
        """Shows the staged revision to readers, and puts its state into the files."""
        raise NotImplementedError

    def forget_candidates(self, last: int) -> None:  # noqa: B027  # elsewhere there are none
        """Forgets the lines of candidates of all epochs up to one: its revision has joined them."""

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

    @contextmanager
    def together(self) -> Iterator[None]:
        """In the body, records may be held back; then they are written together."""
        yield

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

    def tag_candidate(self, epoch: int, number: int, revision: str, message: str) -> None:
        """Marks a revision as that of a candidate that stays; the same again does nothing."""
        raise NotImplementedError

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
        number, base = (self.side.number, self.side.base) if self.side else (0, "")
        for at in (revision.id for revision in self.newest()):
            steps = self.records_on(at, StepRecord)
            found += ((at, x) for x in steps if x.epoch > epoch and x.candidate == number)
            judged = self.records_on(at, MetricsRecord) if at != base else ()
            if at == base or any(record.epoch == epoch for record in judged):
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

    def progress_of(self, side: Side) -> tuple[list[ProgressNote], list[LlmRecord]]:
        """The notes of progress of a candidate, and its model calls."""
        raise NotImplementedError

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
