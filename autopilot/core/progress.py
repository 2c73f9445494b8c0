"""The epoch that is going on: its results are noted at once, so that a kill does not lose them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from autopilot.core.deaths import Death
from autopilot.core.records.record import Progress
from autopilot.core.store import Store
from autopilot.core.types import Cost, Datum, datum_from_json, datum_to_json, digest, is_json


class ResultLog:
    """What was evaluated in the epoch that is going on, over all sessions.

    Args:
        store: Keeps the notes.

    Attributes:
        lost: What was paid before a kill for results that are made again.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[tuple[str, int, int, int, int], Progress] = {}
        self._deaths: dict[tuple[str, int, int, int], dict[int, str]] = {}
        self.lost = Cost()

    def load(self, noted: Sequence[Progress]) -> None:
        """Takes in what earlier sessions noted."""
        self.clear()
        for note in noted:
            if note.void:
                self.lost = sum(map(_cost, self._known.values()), self.lost)
                self._known, self._deaths = {}, {}
            elif note.died:
                batch = note.split, note.epoch, note.batch, note.repeat
                self._deaths.setdefault(batch, {})[note.item] = note.died
            elif note.data:
                batch = note.split, note.epoch, note.batch, note.repeat
                if note.item < 0:
                    # The batch's note has the time of its items.
                    self._known = {k: v for k, v in self._known.items() if k[:4] != batch}
                self._known[(*batch, note.item)] = note
            else:
                self.lost += _cost(note)

    def clear(self) -> None:
        """The epoch is judged; the next one starts with nothing."""
        self._known, self._deaths, self.lost = {}, {}, Cost()

    def void(self, epoch: int) -> None:
        """What was noted so far was measured with other files: it is made again."""
        self._store.note_progress(Progress(epoch=epoch, void=True))

    def seconds(self) -> float:
        """The time of the epoch before this session: of its steps, and of its results."""
        return sum(note.seconds for note in self._known.values()) + self.lost.seconds

    def note_death(self, death: Death) -> None:
        """Notes what a batch, or one item of it, ended with."""
        at = death.place
        note = Progress(
            split=at.split,
            epoch=at.epoch,
            batch=at.number,
            repeat=at.repeat,
            item=at.item,
            died=death.reason,
        )
        self._store.note_progress(note)
        batch = at.split, at.epoch, at.number, at.repeat
        self._deaths.setdefault(batch, {})[at.item] = death.reason

    def deaths(self, split: str, epoch: int, index: int, repeat: int = 0) -> Mapping[int, str]:
        """The deaths in a batch: an item's position, or -1 for the whole batch, to the reason."""
        return self._deaths.get((split, epoch, index, repeat), {})

    def find(
        self,
        split: str,
        epoch: int,
        index: int,
        batch: Datum,
        state: str,
        repeat: int = 0,
        item: int = -1,
    ) -> Datum | None:
        """A batch's or an item's result from before a kill, if items and state are the same."""
        found = self._known.get((split, epoch, index, repeat, item))
        if found is None or found.key != _key(batch, state):
            return None
        return datum_from_json(found.data, split=split, epoch=epoch)

    def note(
        self,
        split: str,
        epoch: int,
        index: int,
        batch: Datum,
        data: Datum | None,
        seconds: float,
        state: str,
        repeat: int = 0,
        item: int = -1,
    ) -> None:
        """Notes a batch's or an item's result; of one that must be made again, what it cost."""
        value: Mapping[str, Any] = {} if data is None else datum_to_json(data, check=False)
        self._store.note_progress(
            Progress(
                epoch=epoch,
                split=split,
                batch=index,
                repeat=repeat,
                item=item,
                key=_key(batch, state),
                data=value if is_json(value) else {},
                items=sum(1 for _ in batch.leaves()),
                seconds=seconds,
            )
        )


def note_rest(store: Store, epoch: int, seconds: float) -> None:
    """Notes what of an epoch's time no note has: a session ends in the middle of it.

    Args:
        store: Keeps the notes.
        epoch: The epoch that is going on.
        seconds: What it took so far, over all sessions.
    """
    noted, known = ResultLog(store), [note for note in store.progress() if note.epoch == epoch]
    noted.load(known)
    rest = seconds - noted.seconds()
    if rest > 0:
        # A step that is not done stays so: a resume knows its edits by that.
        stepping = max(known[-1].stepping, 0) if known else 0
        store.note_progress(Progress(epoch=epoch, seconds=rest, stepping=stepping))


class StepClock:
    """Says in the store that a step edits files, and for how long it did.

    Args:
        store: Keeps the notes.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._number, self._since = 0, 0.0
        self._told: dict[tuple[int, int], str] = {}

    def load(self, noted: Sequence[Progress]) -> None:
        """Takes in what earlier sessions noted."""
        self._told = {}
        for note in noted:
            if note.stepping > 0:
                self._told.setdefault((note.epoch, note.stepping), note.told)

    def start(self, epoch: int, number: int, told: str = "") -> str:
        """From here on, what differs in the files is the optimizer's; what it is told is kept."""
        told = self._told.get((epoch, number), told)
        self._store.note_progress(Progress(epoch=epoch, stepping=number, told=told))
        self._number, self._since = number, time.perf_counter()
        return told

    def end(self, epoch: int) -> None:
        """From here on, it is somebody else's."""
        if self._number:
            seconds = time.perf_counter() - self._since
            note = Progress(epoch=epoch, stepping=-self._number, seconds=seconds)
            self._store.note_progress(note)
            self._number = 0


def _cost(note: Progress) -> Cost:
    return Cost(evaluations=note.items, seconds=note.seconds)


def _key(batch: Datum, state: str) -> str:
    return digest([state, [item.id for item in batch.leaves()]])
