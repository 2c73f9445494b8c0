"""The epoch in progress: results, steps and deaths are noted at once, so that a kill loses none."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from autopilot.core import graph
from autopilot.core.records.record import ProgressNote, TraceRecord
from autopilot.core.store import Store
from autopilot.core.types import Cost, Datum, datum_from_json, datum_to_json, digest, unlike_json

_BatchKey = tuple[str, int, int, int]
STALE = "stale"
"""Of a result: a file that was read before has changed since, and was not read again so far."""
REACH = frozenset(("content", "chance", "programs"))
"""The words for all that results may depend on which stand in for later ones."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a run is: a batch, an item of one, or an optimizer step.

    Args:
        split: "train", "val" or "test"; "step" in an optimizer's step, "stepped" after it; "load"
            while a state's files are imported, and after that; "" otherwise before the experiment
            is open.
        number: The number of the batch or of the step.
        repeat: The number of the measurement; 0 is the first.
        item: The item's position, where a batch is evaluated item by item; otherwise -1.
        is_running: Whether the batch is being evaluated; False before and after.
        size: The number of items that are evaluated; 0: in other processes, with limits of theirs.
    """

    split: str = ""
    epoch: int = 0
    number: int = 0
    repeat: int = 0
    item: int = -1
    is_running: bool = False
    size: int = 1

    @property
    def batch(self) -> _BatchKey:
        """Names the batch within the experiment."""
        return self.split, self.epoch, self.number, self.repeat

    def __str__(self) -> str:
        if not self.split:
            return "while the target was loaded"
        if self.split == "load":
            return f"{'while' if self.is_running else 'after'} the target was imported"
        if self.split in ("step", "stepped"):
            when = "in" if self.split == "step" else "after"
            return f"{when} step {self.number} of epoch {self.epoch}"
        where = f"{self.split} batch {self.number} of epoch {self.epoch}"
        if not self.is_running:
            return f"after {where}"
        return f"in item {self.item} of {where}" if self.item >= 0 else f"in {where}"


@dataclass(frozen=True, slots=True)
class Death:
    """The end of a process that evaluated something.

    Args:
        printed: What it printed last on stderr.
    """

    position: Position
    reason: str
    printed: str = ""


class PositionLog:
    """Records the position of a run. The base keeps nothing; a supervisor's keeps the latest."""

    def at(self, position: Position) -> None:
        """The run has reached this position."""


class EpochProgress:
    """The notes on the epoch in progress, over all sessions: results, deaths, and open steps.

    Attributes:
        lost: What was paid before a kill for results that have to be made again.
        borrowed: How many results count for another candidate.
        counted: The results that count already: the candidates of an epoch have one set; None
            where it has one alone.
        restarts: How often another process went on with the epoch.
        restarts_s: The seconds that this took.
        notes: What an earlier process noted on the epoch.
        stop: Why the run is to end after it, as an earlier process knew.
        distrusts: Results that another experiment measured are made again.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.counted: set[tuple[_BatchKey, int, str]] | None = None
        self._step, self._step_began_s, self.distrusts = 0, 0.0, False
        self.clear()

    def clear(self) -> None:
        """Starts the next epoch with nothing."""
        self._known: dict[_BatchKey, dict[int, ProgressNote]] = defaultdict(dict)
        self._deaths: dict[_BatchKey, dict[int, ProgressNote]] = defaultdict(dict)
        self._begun: dict[tuple[int, int], ProgressNote] = {}
        self._lent: dict[tuple[_BatchKey, int, str], ProgressNote] = {}
        # Of the results of this epoch: whether they were known, on what they depend, how many.
        self._facts: dict[_BatchKey, tuple[str, tuple[str, ...], int, Mapping[str, Any]]] = {}
        self._parts = defaultdict[_BatchKey, list[tuple[str, ...]]](list)
        self.lost, self.borrowed = Cost(), 0
        self.restarts, self.restarts_s = 0, 0.0
        self.notes: tuple[str, ...] = ()
        self.stop = ""

    def load(self, epoch: int, made: Collection[int] = ()) -> None:
        """Takes in what earlier sessions noted of an epoch, and of the test split.

        Args:
            made: The numbers of its steps that are recorded.
        """
        self.clear()
        waiting = dict[tuple[_BatchKey, int], ProgressNote]()
        for note in self._store.progress():
            if note.stepping > 0:
                self._begin(note)
                if note.epoch == epoch and note.stepping in made:
                    # Their feedback is in the step: nobody asks for their graphs.
                    for (batch, item), result in waiting.items():
                        self._take(batch, item, result)
                    waiting.clear()
            if note.epoch != epoch and note.split != "test":
                continue
            batch = note.split, note.epoch, note.batch, note.repeat
            if note.void:
                lost = sum(map(_cost, (*self._results(), *waiting.values())), self.lost)
                self.clear()
                waiting.clear()
                self.lost = lost
            elif note.died:
                self._deaths[batch][note.item] = note
            elif note.replaced:
                self.restarts, self.restarts_s = self.restarts + 1, self.restarts_s + note.seconds
            elif note.waits:
                if (before := waiting.pop((batch, note.item), None)) is not None:
                    self.lost += _cost(before)
                waiting[batch, note.item] = note
            elif note.data:
                self._take(batch, note.item, note)
            else:
                self.lost += _cost(note)
            self.notes, self.stop = note.notes or self.notes, note.stop or self.stop
        self.lost += sum(map(_cost, waiting.values()), Cost())

    def _take(self, batch: _BatchKey, item: int, note: ProgressNote) -> None:
        if item < 0:
            # Replaces those of its items: the batch's note has their time.
            self._known[batch] = {-1: note}
        else:
            self._known[batch][item] = note

    def void(self, epoch: int) -> None:
        """Voids the notes so far: they were measured with other files, and are made again."""
        self._store.note_progress(ProgressNote(epoch=epoch, void=True))

    def _results(self) -> Iterator[ProgressNote]:
        return (note for notes in self._known.values() for note in notes.values())

    def seconds(self) -> float:
        """The time of the epoch before this session: of its steps and of its results."""
        results_s = sum(note.seconds for note in self._results())
        return results_s + self.lost.seconds + self.restarts_s

    def evaluations(self, split: str) -> int:
        """The items of a split whose results are noted."""
        found = (notes.values() for batch, notes in self._known.items() if batch[0] == split)
        return sum(note.items for notes in found for note in notes)

    def note_restart(self, epoch: int, seconds: float, *, is_death: bool) -> None:
        """Notes that this process went on where another one ended.

        Args:
            seconds: How long that took; after a death, with what the death cost.
            is_death: Whether the other one died.
        """
        note = ProgressNote(epoch=epoch, replaced=not is_death, seconds=seconds)
        self._store.note_progress(note)
        if is_death:
            self.lost += _cost(note)
        else:
            self.restarts, self.restarts_s = self.restarts + 1, self.restarts_s + seconds

    def note_death(self, death: Death) -> None:
        """Notes what ended the process in a batch, or in one item of it."""
        note = _note(death.position, died=death.reason, printed=death.printed)
        self._store.note_progress(note)
        self._deaths[death.position.batch][death.position.item] = note

    def deaths(
        self, position: Position, size: int = 0, why: str = ""
    ) -> Mapping[int, ProgressNote]:
        """The deaths in a batch: an item's position, or -1 for the whole batch, to its note.

        Args:
            why: Why none of them can be evaluated; "" if they can.
        """
        if why:
            return dict.fromkeys(range(size), ProgressNote(died=why))
        return self._deaths.get(position.batch, {})

    def has(self, position: Position, batch: Datum, state: str) -> bool:
        """Whether `find` has a result of a batch."""
        key, known = _key(batch, state), self._known.get(position.batch, {}).get(position.item)
        is_known = known is not None and known.key == key
        return is_known or (position.batch, position.item, key) in self._lent

    def find(self, position: Position, batch: Datum, state: str) -> Datum | None:
        """A batch's or an item's result from before a kill, if items and state are the same."""
        found = self._known.get(position.batch, {}).get(position.item)
        key = _key(batch, state) if found or self._lent else ""  # of most, nothing is known
        if found is None or found.key != key:
            found = self._lent.get((position.batch, position.item, key))
        if found is None or (found.source and self.distrusts):
            return None
        if not found.waits:
            self._count(position, key, found.items)
        self._take_down(position, found, len(batch))
        return datum_from_json(found.data, split=position.split, epoch=position.epoch)

    def _joined(self, at: Position, reach: tuple[str, ...]) -> tuple[str, ...]:
        """The reach of a result with that of its items, if they were measured one by one."""
        parts = [reach, *(self._parts[at.batch] if at.item < 0 else ())]
        words = {word for part in parts[1:] for word in part if word != STALE}.union(reach)
        return tuple(sorted(words)) if all(parts) else ()

    def _take_down(self, at: Position, note: ProgressNote, size: int) -> None:
        if at.item >= 0:
            self._parts[at.batch].append(note.reach)
        else:
            rest = note.data.keys() - {"id", "items"} if "items" in note.data else ()
            own = {name: note.data[name] for name in sorted(rest)}
            self._facts[at.batch] = note.source, note.reach, size, own

    def facts(self, at: Position) -> TraceRecord:
        """The facts of a pass over a split: its reach, and where its known results are from.

        Where another process is to go on in its middle, the last result says whether all that is
        to be read anew was.
        """
        here = at.split, at.epoch, at.repeat
        found = [x for (split, n, _, r), x in self._facts.items() if (split, n, r) == here]
        last = found[-1][1] if found else ()
        words = {word for _, reach, *_ in found for word in reach if word != STALE or word in last}
        is_whole = all(reach for _, reach, *_ in found) and words <= REACH
        return TraceRecord(
            split=at.split,
            repeat=at.repeat,
            reach=tuple(sorted(words)) if is_whole else (),
            own=found[0][-1] if len(found) == 1 else {},
            source=next((source for source, *_ in found if source), ""),
            known=sum(size for source, _, size, _ in found if source),
        )

    def _count(self, position: Position, key: str, items: int) -> None:
        """Counts a result of several candidates for the first of them, whichever measured it."""
        if self.counted is not None:
            mark = position.batch, position.item, key
            self.borrowed += items if mark in self.counted else 0
            self.counted.add(mark)

    def borrow(self, notes: Iterable[ProgressNote]) -> None:
        """Lets results of another candidate count, where items and state are the same."""
        for note in notes:
            if note.void:
                self._lent.clear()
            elif note.data and not note.waits:
                batch = note.split, note.epoch, note.batch, note.repeat
                self._lent[batch, note.item, note.key] = note

    def note(
        self,
        position: Position,
        batch: Datum,
        data: Datum,
        seconds: float,
        state: str,
        *,
        waits: bool = False,
        reach: tuple[str, ...] = (),
        source: str = "",
    ) -> None:
        """Notes a batch's or an item's result; of one that must be made again, only its cost.

        Args:
            waits: It stands in for its call only once the step that it leads to is made.
            reach, source: As in the TraceRecord.
        """
        value: Mapping[str, Any] = datum_to_json(data, check=False)
        is_odd = bool(unlike_json(value, ""))
        if position.split == "train" and is_odd:
            # Once the step is made, the outcome is all that is asked for.
            value, waits = _without_payload(value), graph.is_grad_enabled()
            is_odd = bool(unlike_json(value, ""))
        key = _key(batch, state)
        if not (waits or is_odd):
            self._count(position, key, 0)
        note = _note(
            position,
            key=key,
            data={} if is_odd else value,
            items=0 if source else len(batch),
            seconds=seconds,
            waits=waits,
            source=source,
            reach=() if is_odd else self._joined(position, reach),
        )
        self._store.note_progress(note)
        self._take_down(position, note, len(batch))

    def words(self, epoch: int, number: int) -> Mapping[str, str]:
        """The words of people for a step that was begun before; empty if it was not."""
        begun = self._begun.get((epoch, number))
        return begun.wishes if begun else {}

    def start_step(
        self, epoch: int, number: int, budget_line: str, wishes: Mapping[str, str]
    ) -> str:
        """Marks what changes from now on as the optimizer's; returns as `Experiment.begin_step`.

        Args:
            wishes: What people said that the step may read; a step that is made again has it too.
        """
        note = ProgressNote(epoch=epoch, stepping=number, told=budget_line, wishes=wishes)
        note = self._begin(note)
        self._store.note_progress(note)
        self._step, self._step_began_s = number, time.perf_counter()
        return note.told

    def note_said(self, epoch: int, number: int, text: str) -> None:
        """Notes the last lines of the agent in a step, which is in progress still."""
        self._store.note_progress(ProgressNote(epoch=epoch, stepping=number, said=text))

    def _begin(self, note: ProgressNote) -> ProgressNote:
        """A step's beginning, with the sentence of its first one, and the newest words."""
        key = note.epoch, note.stepping
        if (first := self._begun.get(key)) is not None:
            note = replace(note, told=first.told, wishes=note.wishes or first.wishes)
        self._begun[key] = note
        return note

    def end_step(self, epoch: int) -> None:
        """Marks the step as finished; a second call does nothing."""
        if self._step:
            seconds = time.perf_counter() - self._step_began_s
            note = ProgressNote(epoch=epoch, stepping=-self._step, seconds=seconds)
            self._store.note_progress(note)
            self._step = 0

    def note_rest(self, epoch: int, seconds: float, notes: Sequence[str], stop: str) -> None:
        """Notes what no other note has, where a session ends in the middle of an epoch.

        Args:
            seconds: Its time so far, over all sessions.
            stop: Why the run is to end after it; "" if it goes on.
        """
        noted = EpochProgress(self._store)
        noted.load(epoch)
        rest = seconds - noted.seconds()
        if rest > 0 or notes or stop:
            # A step that is not done stays so: a resume knows its edits by that.
            last = [note.stepping for note in self._store.progress() if note.epoch == epoch][-1:]
            note = ProgressNote(epoch=epoch, seconds=max(rest, 0), stepping=max([0, *last]))
            self._store.note_progress(replace(note, notes=tuple(notes), stop=stop))


def _note(at: Position, **fields: Any) -> ProgressNote:
    batch, repeat, item = at.number, at.repeat, at.item
    return ProgressNote(
        epoch=at.epoch, split=at.split, batch=batch, repeat=repeat, item=item, **fields
    )


def _without_payload(value: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: each for name, each in value.items() if name != "metadata"}
    if "items" in kept:
        kept["items"] = [_without_payload(item) for item in kept["items"]]
    return kept


def _cost(note: ProgressNote) -> Cost:
    return Cost(evaluations=note.items, seconds=note.seconds)


def _key(batch: Datum, state: str) -> str:
    return digest([state, [item.id for item in batch.leaves()]])
