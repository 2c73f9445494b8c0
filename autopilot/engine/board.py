"""The position of a supervised process, and how it ended, in memory that it shares with its parent.

It needs no file: only the parent reads it, and where the parent is killed too, no death is noted.
Programs that the evaluation starts cannot write to it.
"""

from __future__ import annotations

import math
import mmap
import os
import time
from dataclasses import dataclass, field

from autopilot.core.callback import Callback, RunView
from autopilot.core.module import AutoPilotModule
from autopilot.core.progress import Death, Position, PositionLog
from autopilot.core.records.record import MetricsRecord

OVERDUE_S = 5.0
"""How long after the time budget, and after its own start, a batch may go on."""

_SPLITS = ("", "train", "val", "test", "step")
_ENDED, _CODE, _HEARD, _DEADLINE, _BEGAN, _SIZE, _TIMEOUT, _MEMORY = range(8)
_LEFT, _WANTED, _RECORDED, _SPLIT, _NUMBERS = range(8, 13)
_TEXT_AT, _STATE_AT = 256, 3072


class Board(PositionLog):
    """Memory that parent and child share.

    Each number is written as one word, so that a reader never sees half of one.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 4096)
        self._slots = memoryview(self._memory)[:_TEXT_AT].cast("d")
        self._slots[_DEADLINE] = self._slots[_TIMEOUT] = self._slots[_MEMORY] = math.inf
        self._pid = 0

    def claim(self) -> None:
        """Makes this process the child; processes that it forks are ignored."""
        self._pid = os.getpid()

    def at(self, position: Position) -> None:
        slots = self._slots
        # First and last: a position that is half written is never one of a running batch.
        slots[_BEGAN] = 0.0
        slots[_SPLIT] = _SPLITS.index(position.split)
        slots[_NUMBERS] = position.epoch
        slots[_NUMBERS + 1] = position.number
        slots[_NUMBERS + 2] = position.repeat
        slots[_NUMBERS + 3] = position.item
        slots[_NUMBERS + 4] = position.size
        if position.is_running:
            slots[_BEGAN] = time.monotonic()

    @property
    def position(self) -> Position:
        """The position of the child, or its last one if it died."""
        epoch, number, repeat, item, size = map(int, self._slots[_NUMBERS : _NUMBERS + 5])
        split, is_running = _SPLITS[int(self._slots[_SPLIT])], self._slots[_BEGAN] > 0
        at = epoch, number, repeat, item, is_running, size
        return Position(split, *at) if split else Position()

    @property
    def slug(self) -> str:
        """The experiment's name, once it is open; otherwise ""."""
        size = int(self._slots[_SIZE])
        return self._memory[_TEXT_AT : _TEXT_AT + size].decode()

    def opened(self, slug: str, deadline_s: float) -> None:
        """Notes that the experiment is open, so that it can be resumed.

        Args:
            slug: Its name.
            deadline_s: When its time is up, on the monotonic clock, which all processes share.
        """
        text = slug.encode()
        # The text before its size: a reader sees none of it, or all.
        self._memory[_TEXT_AT : _TEXT_AT + len(text)] = text
        self._slots[_SIZE], self._slots[_DEADLINE] = len(text), deadline_s

    def limit(self, item_timeout_s: float, memory: float) -> None:
        """Notes the most that an item may take: seconds, and bytes."""
        self._slots[_TIMEOUT], self._slots[_MEMORY] = item_timeout_s, memory

    @property
    def memory(self) -> float:
        """Bytes that the child may take, with all that it started."""
        return self._slots[_MEMORY]

    @property
    def began_s(self) -> float:
        """When the present batch or item began, on the monotonic clock; 0.0 where none is going."""
        return self._slots[_BEGAN]

    @property
    def timeout_s(self) -> float:
        """Seconds that the present batch or item may take."""
        return self._slots[_TIMEOUT] * self._slots[_NUMBERS + 4]

    def leave_to_next(self, state: str) -> None:
        """Notes that another process is to go on, and the state that it is to import."""
        text = state.encode()
        self._memory[_STATE_AT : _STATE_AT + len(text)] = text
        self._slots[_WANTED], self._slots[_LEFT] = len(text), time.monotonic()

    @property
    def left_s(self) -> float:
        """When the child left its work to the next one, on the monotonic clock; 0 if it did not."""
        return self._slots[_LEFT]

    @property
    def wanted(self) -> str:
        """The state that the next child is to import."""
        size = int(self._slots[_WANTED])
        return self._memory[_STATE_AT : _STATE_AT + size].decode()

    def recorded(self) -> None:
        """Notes that an epoch is recorded."""
        self._slots[_RECORDED] = 1.0

    @property
    def has_recorded(self) -> bool:
        """Whether the child has recorded an epoch."""
        return bool(self._slots[_RECORDED])

    def without_deadline(self) -> None:
        """Notes that the epochs are over, so that no time limit holds."""
        self._slots[_DEADLINE] = math.inf

    def end(self, code: int) -> None:
        """Notes that the child ends by itself."""
        if os.getpid() == self._pid:
            self._slots[_CODE], self._slots[_ENDED] = code, 1.0

    @property
    def code(self) -> int | None:
        """The exit code of a child that ended by itself."""
        return int(self._slots[_CODE]) if self._slots[_ENDED] else None

    def hear(self) -> None:
        """Notes that the child was interrupted."""
        if os.getpid() == self._pid:
            self._slots[_HEARD] += 1

    @property
    def heard(self) -> int:
        """How often the child was interrupted."""
        return int(self._slots[_HEARD])

    def overdue_s(self) -> float:
        """The seconds since the present batch should have ended; negative before."""
        began, deadline = self._slots[_BEGAN], self._slots[_DEADLINE]
        return time.monotonic() - OVERDUE_S - max(began, deadline) if began else -math.inf

    def past_deadline_s(self) -> float:
        """The seconds since the time was up."""
        return time.monotonic() - self._slots[_DEADLINE]


@dataclass(slots=True)
class Child:
    """The child's side of supervision.

    Args:
        board: Its position is written there.
        slug: The experiment, where it exists; otherwise "".
        is_first: Whether there was no child before.
        deaths: Deaths of earlier children in batches, which are not recorded yet.
        state: The state whose files it is to import; "": that of the experiment's newest commit.
        since_s: When the child before left its work to this one; 0 if it did not.
        has_recorded: Whether a child before has recorded an epoch.
        is_supervised: Whether there is a parent, which can start another one.
    """

    board: Board = field(default_factory=Board)
    slug: str = ""
    is_first: bool = True
    deaths: list[Death] = field(default_factory=list)
    state: str = ""
    since_s: float = 0.0
    has_recorded: bool = False
    is_supervised: bool = True


class Attendant(Callback):
    """Tells the parent that the experiment is open, and when its time is up."""

    def __init__(self, child: Child) -> None:
        self._board, self._since_s = child.board, child.since_s

    def on_fit_start(self, trainer: RunView, module: AutoPilotModule) -> None:
        ledger, experiment = trainer.ledger, trainer.experiment
        if self._since_s:
            seconds = time.monotonic() - self._since_s
            experiment.progress.note_restart(experiment.last_epoch + 1, seconds)
        left = ledger.limits.seconds - ledger.elapsed_s()
        self._board.opened(experiment.slug, time.monotonic() + left)

    def on_epoch_recorded(
        self, trainer: RunView, module: AutoPilotModule, record: MetricsRecord
    ) -> None:
        self._board.recorded()

    def on_fit_end(self, trainer: RunView, module: AutoPilotModule) -> None:
        self._board.without_deadline()
