"""Limits, and the position and end of a supervised process in memory shared with its parent.

The memory is no file: only the parent reads it, and where that is killed too, no death is noted.
Programs that the evaluation starts cannot write to it.
"""

from __future__ import annotations

import math
import mmap
import os
import re
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from autopilot.core.callback import Callback, RunView
from autopilot.core.progress import Death, Position, PositionLog
from autopilot.core.records.record import MetricsRecord
from autopilot.errors import UsageError

OVERDUE_S = 5.0
"""How long after the time budget, and after its own start, a batch may go on."""

_LOAD_S, _LOADS = 60.0, 5
_SPLITS = ("", "train", "val", "test", "step", "stepped", "load")
_ENDED, _CODE, _HEARD, _DEADLINE, _BEGAN, _SIZE, _TIMEOUT, _MEMORY = range(8)
_LEFT, _WANTED, _RECORDED, _WHY, _LOADED, _PID, _LOADING, _OPEN = range(8, 16)
_TOOK, _ANEW, _LATE, _SINCE, _SPLIT, _NUMBERS = range(16, 22)
_SIZE_OF_MEMORY, _TEXT_AT, _STATE_AT, _LOADED_AT, _WHY_AT = 16384, 256, 3072, 3328, 4096


def check_timeout(seconds: object, what: str) -> float:
    """A time limit, in seconds.

    Raises:
        UsageError: it is no number above 0.
    """
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not 0 < cast(float, seconds) < math.inf:
        raise UsageError(
            f"{what} must be a number of seconds above 0, not {seconds!r}",
            hint="leave it out for no time limit",
        )
    return float(cast(float, seconds))


def parse_size(text: str) -> int:
    """An amount of memory, in bytes.

    Raises:
        UsageError: it is something else.

    >>> parse_size("4G") == parse_size("4GB") == 4 * 1024**3, parse_size("1.5 MiB")
    (True, 1572864)
    """
    found = re.fullmatch(r"(\d+\.?\d*) ?(?:([KMGT])I?)?B?", text.strip().upper())
    size = float(found[1]) * 1024 ** (" KMGT".index(found[2] or " ")) if found else 0
    if size < 1:
        raise UsageError(
            f"--memory {text!r} is no amount of memory", hint="as in 500M, 4GB or a number of bytes"
        )
    return int(size)


def size_text(amount: float) -> str:
    """Bytes for a person.

    >>> size_text(4 * 1024**3), size_text(1.5 * 1024**2)
    ('4 GiB', '1.5 MiB')
    """
    power = min(max(int(math.log(max(amount, 1), 1024)), 0), 4)
    return f"{amount / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


class Board(PositionLog):
    """Memory that parent and child share.

    Each number is written as one word, so that a reader never sees half of one.

    Args:
        before: The board of the child before, whose limits hold until there are new ones.
    """

    def __init__(self, before: Board | None = None) -> None:
        self._memory = mmap.mmap(-1, _SIZE_OF_MEMORY)
        self._slots = memoryview(self._memory)[:_TEXT_AT].cast("d")
        for slot in (_DEADLINE, _TIMEOUT, _MEMORY):
            self._slots[slot] = math.inf if before is None else before._slots[slot]
        self._slots[_TOOK] = before._slots[_TOOK] if before else 0.0
        self._pid = 0

    def claim(self) -> None:
        """Makes this process the child; processes that it forks are ignored."""
        self._pid = os.getpid()
        self._slots[_PID], self._slots[_LOADING] = self._pid, time.monotonic()

    @property
    def pid(self) -> int:
        """The child's process id; 0 where it is not started yet."""
        return int(self._slots[_PID])

    def at(self, position: Position) -> None:
        slots = self._slots
        while slots[_LATE]:
            time.sleep(1)  # the look at a batch that is over a limit may have woken it
        # First and last: a position that is half written is never one of a running batch.
        slots[_BEGAN] = 0.0
        slots[_SPLIT] = _SPLITS.index(position.split)
        batch = position.epoch, position.number, position.repeat
        slots[_NUMBERS : _NUMBERS + 5] = array("d", (*batch, position.item, position.size))
        slots[_SINCE] = time.monotonic()
        if position.is_running:
            slots[_BEGAN] = slots[_SINCE]

    def stop(self) -> None:
        """Lets the child go no further: it is over a limit, and is killed."""
        self._slots[_LATE] = 1.0

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
        return self.claimed if self._slots[_OPEN] else ""

    @property
    def claimed(self) -> str:
        """The name of the experiment whose target is loaded; "" before."""
        return self._text(_SIZE, _TEXT_AT)

    def _text(self, slot: int, at: int) -> str:
        return self._memory[at : at + int(self._slots[slot])].decode(errors="ignore")

    def _write(self, slot: int, at: int, text: str) -> None:
        encoded = text.encode(errors="replace")[: _SIZE_OF_MEMORY - at]
        # The text before its size: a reader sees none of it, or all.
        self._memory[at : at + len(encoded)] = encoded
        self._slots[slot] = len(encoded)

    def load(self, slug: str, seconds: float | None) -> None:
        """Notes that an experiment's target is loaded, and the time budget: it ends that, too."""
        self._write(_SIZE, _TEXT_AT, slug)
        self._slots[_DEADLINE] = math.inf if seconds is None else time.monotonic() + seconds

    def opened(self, slug: str, deadline_s: float) -> None:
        """Notes that the experiment is open, so that it can be resumed, and when its time is up.

        That is on the monotonic clock, which all processes share.
        """
        self._write(_SIZE, _TEXT_AT, slug)
        self._slots[_TOOK] = self._slots[_TOOK] or self.loading_s
        self._slots[_DEADLINE], self._slots[_LOADING], self._slots[_OPEN] = deadline_s, 0.0, 1.0

    def limit(self, item_timeout_s: float, memory: float) -> None:
        """Notes the most that an item may take: seconds, and bytes."""
        self._slots[_TIMEOUT], self._slots[_MEMORY] = item_timeout_s, memory

    @property
    def memory(self) -> float:
        """Bytes that the child may take, with all that it started; its items have them instead."""
        is_apart = self._slots[_BEGAN] and not self._slots[_NUMBERS + 4]
        return math.inf if is_apart else self._slots[_MEMORY]

    @property
    def began_s(self) -> float:
        """When the present batch or item began, on the monotonic clock; 0.0 where none is going."""
        return self._slots[_BEGAN]

    @property
    def timeout_s(self) -> float:
        """Seconds that the present batch or item may take, or an import; endless beside --jobs.

        An import may be slow where items are quick: it has five times the time of the first one.
        """
        timeout_s = self._slots[_TIMEOUT] * (self._slots[_NUMBERS + 4] or math.inf)
        if _SPLITS[int(self._slots[_SPLIT])] != "load":
            return timeout_s
        # In whole seconds, since the sentence on it is recorded.
        return max(timeout_s, _LOADS * math.ceil(self._slots[_TOOK]) or _LOAD_S)

    def loads(self, state: str, instead: str) -> None:
        """Notes which state is imported from now on, and which one if that fails; "": none."""
        self._write(_LOADED, _LOADED_AT, f"{state} {instead}")
        self.at(Position("load", is_running=True))

    @property
    def loaded(self) -> tuple[str, str]:
        """The state that is imported, and the one that is imported if that fails; "": none."""
        state, _, instead = self._text(_LOADED, _LOADED_AT).partition(" ")
        return state, instead

    def leave_to_next(self, state: str, why: str = "") -> None:
        """Notes that another process is to go on, and import this state.

        In `why` is the reason why the one that was to be imported here cannot be; "" if it was.
        """
        self._write(_WHY, _WHY_AT, why)
        self._write(_WANTED, _STATE_AT, state)
        self._slots[_LEFT] = time.monotonic()

    @property
    def broken(self) -> dict[str, str]:
        """The state that could not be imported, and why; empty if it could."""
        why = self._text(_WHY, _WHY_AT)
        return {self.loaded[0]: why} if why else {}

    @property
    def left_s(self) -> float:
        """When the child left its work to the next one, on the monotonic clock; 0 if it did not."""
        return self._slots[_LEFT]

    @property
    def wanted(self) -> str:
        """The state that the next child is to import."""
        return self._text(_WANTED, _STATE_AT)

    def recorded(self) -> None:
        """Notes that an epoch is recorded."""
        self._slots[_RECORDED] = 1.0

    @property
    def has_recorded(self) -> bool:
        """Whether the child has recorded an epoch."""
        return bool(self._slots[_RECORDED])

    def epochs_over(self, budget_s: float) -> None:
        """Notes that only the test split is left: each of its batches has the time budget anew.

        Endless where that is over, too: what is left then is no evaluation.
        """
        self._slots[_ANEW] = budget_s

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
        """The seconds since loading, the present batch, or work beside steps should have ended."""
        slots = self._slots
        # An agent may be paid in a step, and has a time limit of its own.
        if not slots[_LOADING] and _SPLITS[int(slots[_SPLIT])] in ("", "step", "load"):
            return -math.inf
        since = slots[_LOADING] or slots[_SINCE] + slots[_ANEW]
        return time.monotonic() - OVERDUE_S - max(since, slots[_DEADLINE])

    @property
    def loading_s(self) -> float:
        """The seconds since loading began, before the experiment is open; 0.0 afterwards."""
        began = self._slots[_LOADING]
        return time.monotonic() - began if began else 0.0

    def past_deadline_s(self) -> float:
        """The seconds since the time was up."""
        return time.monotonic() - self._slots[_DEADLINE]


@dataclass(slots=True)
class Child:
    """The child's side of supervision.

    Args:
        slug: The experiment, where it exists; otherwise "".
        is_first: Whether there was no child before.
        deaths: Deaths of earlier children in batches, which are not recorded yet.
        state: The state whose files it is to import; "": that of the experiment's newest commit.
        broken: States whose files cannot be imported, and why.
        since_s: When the child before left its work to this one; 0 if it did not.
        lost_since_s: When what the child before died in had begun; 0 if it did not die.
        has_recorded: Whether a child before has recorded an epoch.
        is_supervised: Whether there is a parent, which can start another one.
        absent: The lines that were printed on files that do not exist.
    """

    slug: str = ""
    board: Board = field(default_factory=Board)
    is_first: bool = True
    deaths: list[Death] = field(default_factory=list)
    state: str = ""
    broken: dict[str, str] = field(default_factory=dict)
    since_s: float = 0.0
    lost_since_s: float = 0.0
    has_recorded: bool = False
    is_supervised: bool = True
    absent: Callable[[], str] = str

    def next(self, deaths: list[Death], state: str = "", since_s: float = 0.0) -> Child:
        """The child that goes on after this one."""
        has_loaded = self.board.position.split != "load" or not self.board.began_s
        lost_since_s = 0.0 if since_s else self.board.began_s or time.monotonic()
        if not self.board.slug:
            # It has noted nothing yet.
            lost_since_s = self.lost_since_s or lost_since_s * (not self.since_s)
        return Child(
            self.board.slug or self.slug,
            Board(self.board),
            is_first=self.is_first and not has_loaded,
            deaths=deaths,
            state=state,
            broken=self.broken | self.board.broken,
            # One that could not import the state is part of the restart.
            since_s=since_s if has_loaded else self.since_s,
            lost_since_s=lost_since_s,
            has_recorded=self.has_recorded or self.board.has_recorded,
        )


class Observer:
    """Learns in the parent what happens to the child. The base does nothing with it."""

    def died(self, death: Death) -> None:
        """The child died, and the run goes on."""

    def overdue(self, past_s: float, slug: str) -> None:
        """The time was up so many seconds ago, and a batch does not end."""

    def slow(self, seconds: float, place: str) -> None:
        """Loading has taken so long, and stands at this function and line ("" if not known)."""

    def look(self, slug: str) -> None:
        """A child takes another one's place: it has what is read of the experiment here."""

    def beside(self, before: int, slug: str) -> int:
        """Starts work beside the child, if there is some; called every few seconds.

        Args:
            before: What the last call returned.

        Returns:
            The id of the process that does it; 0 if there is none.
        """
        return 0

    def abandoned(self, slug: str) -> bool:
        """The child ended before an experiment of this name was open.

        Returns:
            Whether it exists all the same, and can be resumed.
        """
        return False


class Attendant(Callback):
    """Tells the parent that the experiment is open, and when its time is up."""

    def __init__(self, child: Child) -> None:
        self._board, self._child = child.board, child

    def on_fit_start(self, trainer: RunView, module: object) -> None:
        ledger, experiment = trainer.ledger, trainer.experiment
        child, progress, epoch = self._child, experiment.progress, experiment.last_epoch + 1
        if since_s := child.since_s or child.lost_since_s:
            seconds = time.monotonic() - since_s
            progress.note_restart(epoch, seconds, is_death=not child.since_s)
            ledger.count(seconds)
        left = ledger.limits.seconds - ledger.elapsed_s()
        if left <= 0 and child.is_first and experiment.last_epoch >= 0:
            raise KeyboardInterrupt  # resumed without more time
        self._board.opened(experiment.slug, time.monotonic() + left)

    def on_epoch_recorded(self, trainer: RunView, module: object, record: MetricsRecord) -> None:
        self._board.recorded()

    def on_fit_end(self, trainer: RunView, module: object) -> None:
        self._board.epochs_over(trainer.ledger.limits.seconds)
