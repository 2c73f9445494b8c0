"""Between an item's process and the run's: results, errors, and questions of model calls.

Record and budget stay in the run's process; an item's process asks it.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from autopilot.ai.model.recording import StoreRecorder, calls_inside
from autopilot.core.records.ledger import Ledger, Reservation, Spent
from autopilot.core.records.record import LlmRecord
from autopilot.core.run import Run
from autopilot.core.types import Cost, Datum
from autopilot.errors import AutopilotError, StateError
from autopilot.text import hide

_ASK_AGAIN_S = 0.02
_Ask = Callable[..., Any]


class _Pickler(pickle.Pickler):
    """Modules and parameters are named by their positions: they are not copied."""

    def __init__(self, file: io.BytesIO, held: Sequence[object], *, hides: bool) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._places = {id(each): place for place, each in enumerate(held)}
        self._hides = hides

    def persistent_id(self, obj: object) -> int | str | None:
        if self._hides and isinstance(obj, str) and (hidden := hide(obj)) != obj:
            return hidden
        return self._places.get(id(obj))


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, held: Sequence[object]) -> None:
        super().__init__(file)
        self._held = held

    def persistent_load(self, pid: int | str) -> object:
        return pid if isinstance(pid, str) else self._held[pid]


def unsent(error: Exception, data: Datum | None = None) -> str:
    """Why a result cannot be sent, with the entry of the metadata that it is for, if it is one."""
    place = "the result"
    for name, value in (
        ((n, v) for item in data.leaves() for n, v in item.metadata.items()) if data else ()
    ):
        try:
            pickle.dumps(value)
        except Exception as own:  # noqa: BLE001  # as above
            place, error = f"metadata[{name!r}] of the result", own
            break
    why = f"{type(error).__name__}: {error}".partition("\n")[0]
    return f"{place} cannot be sent from the process that measured it: {why}"


def pickled(value: object, held: Sequence[object], *, hides: bool = False) -> bytes:
    """A value for another process, in which `held` are references to objects of both.

    Args:
        hides: Texts leave without secrets of this environment, which the other one does not know.
    """
    file = io.BytesIO()
    _Pickler(file, held, hides=hides).dump(value)
    return file.getvalue()


def unpickled(content: bytes, held: Sequence[object]) -> Any:
    """The value that another process pickled."""
    return _Unpickler(io.BytesIO(content), held).load()


def pack_error(error: BaseException) -> bytes:
    """An error as another process can read it, without its traceback, causes and secrets."""
    state = {}
    for name, value in vars(error).items():
        with contextlib.suppress(Exception):
            pickle.dumps(value)
            state[name] = hide(value)
    builtin = next(c for c in type(error).__mro__ if c.__module__ == "builtins")
    text = hide(f"{type(error).__name__}: {error}")
    # Arguments may be what cannot be sent, and so may the class, if a function defines it.
    tries: list[tuple[type, tuple[Any, ...], dict[str, Any]]] = [
        (type(error), hide(error.args), state),
        (type(error), (hide(str(error)),), state),
        (builtin, (text,), {}),
    ]
    for parts in tries:
        with contextlib.suppress(Exception):
            return pickle.dumps(parts)
    raise error


def unpack_error(content: bytes) -> BaseException:
    """The error that another process packed."""
    # Without its constructor: that may take other arguments than those that it passed on.
    kind, arguments, state = pickle.loads(content)
    error: BaseException = kind.__new__(kind, *arguments)
    error.args = arguments
    vars(error).update(state)
    return error


class Desk:
    """The run's side: answers the questions of one item's process after the other.

    It never waits: where another call has to end first, the item's process asks again.

    Args:
        run: The run; None: there is none, and no question either.
    """

    def __init__(self, run: Run | None) -> None:
        self._run = run
        self._locks: list[threading.Lock] = []
        self._reserved: list[Reservation] = []

    def answer_to(self, question: bytes) -> bytes:
        """The answer to a question; both are pickled."""
        name, arguments = pickle.loads(question)
        assert self._run is not None, "only a run's items ask"
        try:
            value = self._answer(self._run, StoreRecorder.of(self._run), name, *arguments)
            return pickle.dumps((value, None))
        except AutopilotError as error:
            return pickle.dumps((None, pack_error(error)))

    def close(self) -> None:
        """Gives back what a process held that has ended."""
        for reservation in self._reserved:
            reservation.settle(None)
        for lock in self._locks:
            lock.release()
        self._reserved, self._locks = [], []

    def _answer(self, run: Run, recorder: StoreRecorder, name: str, *arguments: Any) -> Any:
        if name in ("keep", "named"):
            return getattr(recorder, name)(*arguments)
        if name == "by_role":
            return run.ledger.by_role()
        if name == "answer":
            found = recorder.answer(*arguments)
            if found is not None:
                run.charge_recorded(found)
            return found
        if name == "reserve":
            reservation = run.ledger.try_reserve(*arguments)
            if reservation is None:
                return None
            self._reserved.append(reservation)
            return reservation.wanted, reservation.cost_usd
        if name == "settle":
            role, wanted, cost, known = arguments
            held = (each for each in self._reserved if each.wanted == wanted)
            reservation = next(each for each in held if each.role == role)
            self._reserved.remove(reservation)
            return reservation.settle(cost, known=known)
        lock = recorder.lock_of(*arguments)
        if name == "unlock":
            self._locks.remove(lock)
            return lock.release()
        if is_free := lock.acquire(blocking=False):
            self._locks.append(lock)
        return is_free


class _DistantRecorder(StoreRecorder):
    """The recorder of an item's process."""

    def __init__(self, run: Run, ask: _Ask) -> None:
        self.mode = "replay" if run.experiment.only_recorded else "record"
        self._ask = ask

    def keep(self, record: LlmRecord) -> None:
        self._ask("keep", record)
        calls_inside().append(record)

    def answer(self, key: str, parts: Mapping[str, str]) -> LlmRecord | None:
        found: LlmRecord | None = self._ask("answer", key, parts)
        if found is not None:
            calls_inside().append(found)
        return found

    def named(self, keys: Sequence[str]) -> list[LlmRecord]:
        return self._ask("named", keys)  # type: ignore[no-any-return]  # the desk's

    @contextmanager
    def one_at_a_time(self, key: str) -> Iterator[None]:
        while not self._ask("lock", key):
            time.sleep(_ASK_AGAIN_S)
        try:
            yield
        finally:
            self._ask("unlock", key)


class _DistantLedger(Ledger):
    """The ledger of an item's process."""

    def __init__(self, ledger: Ledger, ask: _Ask) -> None:
        super().__init__(ledger.limits, ledger.elapsed_s())
        self._ask = ask

    def by_role(self) -> Mapping[str, Spent]:
        return self._ask("by_role")  # type: ignore[no-any-return]  # the desk's

    def charge(self, role: str, cost: Cost, *, known: bool, judged: bool) -> None:
        """Nothing: the desk charges a recorded call when it answers."""

    def try_reserve(self, role: str, least: Spent, most_usd: float) -> Reservation | None:
        found = self._ask("reserve", role, least, most_usd)
        if found is None:
            time.sleep(_ASK_AGAIN_S)
            return None
        return Reservation(self, role, *found)

    def settle(self, role: str, wanted: Spent, cost: Cost | None, *, known: bool) -> None:
        self._ask("settle", role, wanted, cost, known)


def ask_parent(run: Run, channel: Callable[[bytes], bytes]) -> None:
    """In an item's process: lets its model calls ask the run's process from now on.

    Args:
        channel: Sends a question, and returns the answer.
    """
    asking, owner = threading.Lock(), os.getpid()

    def ask(name: str, *arguments: Any) -> Any:
        if os.getpid() != owner:
            # Its questions would get into the answers of its parent.
            raise StateError(
                "a model was called in a process that an item forked, with --jobs",
                hint="call it in the item's own process, or run without --jobs",
            )
        with asking:
            value, error = pickle.loads(channel(pickle.dumps((name, arguments))))
        if error is not None:
            raise unpack_error(error)
        return value

    run.ledger = _DistantLedger(run.ledger, ask)
    run.provide(StoreRecorder, _DistantRecorder(run, ask))
