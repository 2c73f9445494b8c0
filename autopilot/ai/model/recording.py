"""Recording model calls, and answering from what was recorded.

Only the body of a request is looked at: keys travel in headers, so they cannot get into a record.
A request is named by the hash of its body in canonical form; a call that is made again, in the
same run or in a resumed one, is answered from the record and costs nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal, Protocol

from autopilot.ai.model.requests import miss, what_is_asked
from autopilot.core.experiment import Experiment
from autopilot.core.records.ledger import Ledger, Limits, Spent
from autopilot.core.records.record import LlmRecord
from autopilot.core.run import Run, current_run, running
from autopilot.core.store import Store
from autopilot.core.types import Cost
from autopilot.errors import RecordError
from autopilot.tracking.journal import decode, encode

Mode = Literal["record", "replay"]


class Recorder(Protocol):
    """Where replies come from before a call is made, and where they go after it.

    Used from several threads at once.
    """

    def answer(self, key: str, parts: Mapping[str, str]) -> LlmRecord | None:
        """The recorded call of that key, or None if it is to be made.

        Raises:
            ReplayMissError: it is not recorded, and must not be made.
        """

    def keep(self, record: LlmRecord) -> None:
        """Makes a call last, before its reply is used."""

    def one_at_a_time(self, key: str) -> threading.Lock:
        """Held while a call is made, so that the same call side by side is made once."""


class _KnownCalls(Recorder):
    """The calls that are recorded, and who is just making one."""

    def __init__(self, known: Iterable[LlmRecord], mode: Mode) -> None:
        self.mode = mode
        self._lock = threading.Lock()
        self._flights: dict[str, threading.Lock] = {}
        self._known = {record.id: record for record in known}

    def answer(self, key: str, parts: Mapping[str, str]) -> LlmRecord | None:
        with self._lock:
            found = self._known.get(key)
            if found is None and self.mode == "replay":
                raise miss(parts, self._known.values())
        return found

    def calls(self) -> list[LlmRecord]:
        """All recorded calls."""
        with self._lock:
            return list(self._known.values())

    def one_at_a_time(self, key: str) -> threading.Lock:
        with self._lock:
            return self._flights.setdefault(key, threading.Lock())


class StoreRecorder(_KnownCalls):
    """Records in an experiment's store: at once in its journal of progress, then in its notes.

    Args:
        store: The experiment's store.
        mode: "record" makes calls that are not recorded; "replay" refuses them.
    """

    def __init__(self, store: Store, mode: Mode = "record") -> None:
        exists = store.exists()
        kept = [record for _, record in store.records(LlmRecord)] if exists else []
        super().__init__([*kept, *(store.calls() if exists else [])], mode)
        self._store = store

    def keep(self, record: LlmRecord) -> None:
        with self._lock:
            self._store.note_call(record)
            self._known[record.id] = record


class LocalRecorder(_KnownCalls):
    """Records in a file of JSON Lines, for calls outside of experiments.

    Args:
        path: The file; its folder exists.
        mode: See StoreRecorder.
    """

    def __init__(self, path: Path, mode: Mode = "record") -> None:
        found: list[LlmRecord] = []
        for line in path.read_bytes().split(b"\n") if path.exists() else []:
            # A kill may have cut a line short: then its call is made again.
            with contextlib.suppress(RecordError):
                found += [r for r in decode(line, path.name) if isinstance(r, LlmRecord)]
        super().__init__(found, mode)
        self._path = path

    def keep(self, record: LlmRecord) -> None:
        with self._lock:
            with self._path.open("ab") as file:
                # An empty line ends what a kill may have cut short, and is skipped otherwise.
                file.write(b"\n" + encode(record))
            self._known[record.id] = record


_override: ContextVar[Recorder | None] = ContextVar("autopilot_recorder", default=None)


@contextmanager
def use_recorder(recorder: Recorder) -> Iterator[None]:
    """Calls inside go through this recorder, whatever the run's own is."""
    token = _override.set(recorder)
    try:
        yield
    finally:
        _override.reset(token)


@contextmanager
def recording_beside(path: Path, limits: Limits) -> Iterator[Ledger]:
    """Calls inside, outside of any experiment, are kept in a file, and answered from there.

    What they have to say that is no error goes to the log at the end.

    Args:
        path: The file; its folder exists.
        limits: What they may cost, with those that the file holds already.
    """
    recorder, ledger = LocalRecorder(path), Ledger(limits)
    for call in recorder.calls():
        ledger.charge(call.role, call.cost, known=call.priced, judged=True)
    run = Run(Experiment(), ledger)
    try:
        with running(run), use_recorder(recorder):
            yield ledger
    finally:
        for note in run.notes:
            logging.getLogger("autopilot").warning("%s", note)


def spent_beside(path: Path) -> Spent:
    """What the calls in such a file have cost."""
    ledger = Ledger()
    for call in LocalRecorder(path).calls():
        ledger.charge(call.role, call.cost, known=call.priced, judged=True)
    return ledger.total()


def current_recorder() -> Recorder | None:
    """The recorder for a call made here; None outside of runs: the call is live."""
    given = _override.get()
    run = current_run()
    if given is not None or run is None:
        return given
    return run.service(StoreRecorder, store_recorder)


def keep_lost(role: str, model: str, cost: Cost, why: str, *, priced: bool) -> None:
    """Records a call that may have been paid and brought no answer: it counts, and answers none."""
    recorder = current_recorder()
    if recorder is not None:
        key = uuid.uuid4().hex
        recorder.keep(make_record(key, role, model, cost, {}, {"lost": why}, priced=priced))


def make_record(
    key: str,
    role: str,
    model: str,
    cost: Cost,
    request: Mapping[str, str],
    reply: Mapping[str, Any],
    *,
    priced: bool,
) -> LlmRecord:
    """What is written down of a call that is made now."""
    run = current_run()
    return LlmRecord(
        epoch=run.epoch if run else 0,
        id=key,
        role=role,
        model=model,
        request=request,
        reply=reply,
        cost=cost,
        priced=priced,
        step=run.step_number if run else 0,
    )


def store_recorder(run: Run) -> StoreRecorder:
    """The recorder of a run, to be its service."""
    mode: Mode = "replay" if run.experiment.only_recorded else "record"
    return StoreRecorder(run.experiment.store, mode)


_numbers: ContextVar[tuple[tuple[str, int], ...]] = ContextVar("autopilot_numbers", default=())


@contextmanager
def numbered(kind: str, number: int) -> Iterator[None]:
    """Calls inside are asked anew for each number: it is part of their names.

    Names are as without it while this number, and all those around it, are 1.

    Args:
        kind: What is counted, as it stands in the names: "v" for the visits of a step.
        number: From 1.
    """
    token = _numbers.set((*_numbers.get(), (kind, number)))
    try:
        yield
    finally:
        _numbers.reset(token)


def request_key(body: Mapping[str, Any], sample: int = 0) -> str:
    """The name of a request: a hash of what it asks, and the numbers that it is asked under: those
    of `numbered`, and that of a repeated measurement.

    Args:
        body: The request's body.
        sample: Tells calls apart that ask the same and want answers of their own.

    >>> a = request_key({"model": "m", "messages": [], "stream": True})
    >>> a == request_key({"messages": [], "model": "m"}) != request_key({"model": "n"})
    True
    """
    text = json.dumps(
        what_is_asked(body), sort_keys=True, ensure_ascii=False, separators=(",", ":")
    )
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    numbers = _numbers.get()
    if any(number > 1 for _, number in numbers):
        digest += "".join(f"-{kind}{number}" for kind, number in numbers)
    run = current_run()
    repeat = f"-r{run.repeat}" if run is not None and run.repeat else ""
    return (f"{digest}-{sample}" if sample else digest) + repeat
