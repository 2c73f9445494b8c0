"""Recording model calls, and answering from the record.

Only the body of a request is looked at: keys travel in headers, so they cannot get into a record.
A request is named by the hash of its body in canonical form; a call that is made again, in the
same run or in a resumed one, is answered from the record and costs nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

from autopilot.audit import holding
from autopilot.core.experiment import Experiment
from autopilot.core.records.index import Index
from autopilot.core.records.ledger import Ledger, Limits, Spent
from autopilot.core.records.record import LlmRecord
from autopilot.core.run import Run, current_run, running
from autopilot.core.store import Store
from autopilot.core.types import Cost
from autopilot.errors import ReplayMissError
from autopilot.text import hide
from autopilot.tracking.lines import decode_all, encode

Mode = Literal["record", "replay"]

# Transport and caching do not change what is asked.
_UNASKED = frozenset({"stream", "metadata", "cache_control"})
_SHOWN = 60


class Recorder(ABC):
    """Answers calls before they are made, and keeps their replies. Used from several threads.

    Args:
        mode: "record" makes calls that are not recorded; "replay" refuses them.
    """

    def __init__(self, known: Iterable[LlmRecord], mode: Mode) -> None:
        self.mode = mode
        self._lock = threading.Lock()
        self._flights: dict[str, threading.Lock] = {}
        self._known = {record.id: record for record in known}

    @abstractmethod
    def write(self, record: LlmRecord) -> None:
        """Writes a call to disk."""

    def keep(self, record: LlmRecord) -> None:
        """Writes a call to disk, before its reply is used."""
        with self._lock:
            self.write(record)
            self._known[record.id] = record
        calls_inside().append(record)

    def answer(self, key: str, parts: Mapping[str, str]) -> LlmRecord | None:
        """The recorded call of that key, or None if it is to be made.

        Raises:
            ReplayMissError: it is not recorded, and must not be made.
        """
        with self._lock:
            found = self._find(key)
            if found is None and self.mode == "replay":
                raise miss(parts, self._known.values())
        if found is not None:
            calls_inside().append(found)
        return found

    def calls(self) -> list[LlmRecord]:
        """All recorded calls."""
        with self._lock:
            return list(self._known.values())

    def named(self, keys: Sequence[str]) -> list[LlmRecord]:
        """The recorded calls of some keys."""
        with self._lock:
            return [record for record in map(self._find, keys) if record is not None]

    def _find(self, key: str) -> LlmRecord | None:
        return self._known.get(key)

    def one_at_a_time(self, key: str) -> AbstractContextManager[object]:
        """Held while a call is made, so that equal calls side by side are made once."""
        return self.lock_of(key)

    def lock_of(self, key: str) -> threading.Lock:
        """The lock that is held while a call of that key is made."""
        with self._lock:
            return self._flights.setdefault(key, threading.Lock())


class StoreRecorder(Recorder):
    """Records in an experiment's store: at once in its progress file, later in its notes."""

    def __init__(self, store: Store, mode: Mode = "record", lent: Iterable[LlmRecord] = ()) -> None:
        # Calls of the epoch in progress are in the progress file only, and answer too.
        now, earlier = (store.calls(), store.index().calls) if store.exists() else ([], ())
        kept = store.records(LlmRecord) if earlier and mode == "replay" else []
        super().__init__([*(record for _, record in kept), *lent, *now], mode)
        self._store, self._earlier = store, earlier or Index().calls

    @classmethod
    def of(cls, run: Run) -> StoreRecorder:
        """The recorder of a run: one object for each run."""
        mode: Mode = "replay" if (of := run.experiment).only_recorded else "record"
        return run.service(cls, lambda _: cls(of.store, mode, of.now.lent))

    def write(self, record: LlmRecord) -> None:
        self._store.note_call(record)

    def _find(self, key: str) -> LlmRecord | None:
        # Those of earlier sessions may be many.
        for _, revision in self._earlier.with_text(key) if key not in self._known else ():
            here = self._store.records_on(revision, LlmRecord)
            self._known |= {record.id: record for record in here if record.id == key}
        return self._known.get(key)


class LocalRecorder(Recorder):
    """Records in a file of JSON Lines, whose folder exists, for calls outside of experiments."""

    def __init__(self, path: Path, mode: Mode = "record") -> None:
        # A kill may have cut a line short: then its call is made again.
        lines = decode_all(path.read_bytes() if path.exists() else b"")
        super().__init__([each for each in lines if isinstance(each, LlmRecord)], mode)
        self._path = path

    def write(self, record: LlmRecord) -> None:
        with self._path.open("ab") as file:
            # The newline in front ends a line that a kill cut short; readers skip empty lines.
            file.write(b"\n" + encode(record))

    def ledger(self, limits: Limits = Limits()) -> Ledger:  # noqa: B008  # frozen
        """A ledger that counts the recorded calls."""
        ledger = Ledger(limits)
        for call in self.calls():
            ledger.charge(call.role, call.cost, known=call.priced, judged=True)
        return ledger


_override: ContextVar[Recorder | None] = ContextVar("autopilot_recorder", default=None)


def use_recorder(recorder: Recorder) -> AbstractContextManager[None]:
    """Calls inside use this recorder instead of the run's own."""
    return holding(_override, recorder)


@contextmanager
def recording_beside(path: Path, limits: Limits) -> Iterator[Ledger]:
    """Calls inside, outside of any experiment, are recorded in a file, and answered from there.

    Notes on the calls that are no errors go to the log at the end.

    Args:
        path: The file; its folder exists.
        limits: Limits for the calls, those recorded in the file included.
    """
    recorder = LocalRecorder(path)
    run = Run(Experiment(), recorder.ledger(limits))
    try:
        with running(run), use_recorder(recorder):
            yield run.ledger
    finally:
        for note in run.notes:
            logging.getLogger("autopilot").warning("%s", note)


def spent_beside(path: Path) -> Spent:
    """The cost of the calls that are recorded in a file."""
    return LocalRecorder(path).ledger().total()


def current_recorder() -> Recorder | None:
    """The recorder for a call made here; None outside of runs: the call is live."""
    given, run = _override.get(), current_run()
    return given if given is not None or run is None else StoreRecorder.of(run)


def current_ledger() -> Ledger:
    """The ledger of the run that is going on; outside of runs, one that is thrown away."""
    run = current_run()
    return Ledger() if run is None else run.ledger


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
    """The record of a call that is made now."""
    run = current_run()
    (epoch, candidate, step), (question, prompt) = (0, 0, 0), (0, "")
    if run is not None:
        (epoch, candidate, step), (question, prompt) = run.place, run.asking
        run.asking = 0, ""  # further turns belong to the same question
    return LlmRecord(
        epoch=epoch,
        id=key,
        role=role,
        model=model,
        request=request,
        reply=reply,
        cost=cost,
        priced=priced,
        step=step,
        prompt=prompt,
        question=question,
        candidate=candidate,
    )


_inside: ContextVar[list[LlmRecord] | None] = ContextVar("autopilot_inside", default=None)


def calls_inside() -> list[LlmRecord]:
    """The calls that were made, or answered from the record, inside of the agent's call here."""
    found = _inside.get()
    return [] if found is None else found


@contextmanager
def gathered() -> Iterator[list[LlmRecord]]:
    """The calls that are made, or answered from the record, in the body."""
    found = list[LlmRecord]()
    with holding(_inside, found):
        yield found


_numbers: ContextVar[tuple[tuple[str, int], ...]] = ContextVar("autopilot_numbers", default=())


@contextmanager
def numbered(kind: str, number: int) -> Iterator[None]:
    """Calls inside are asked anew for each number, from 1 on: it is part of their keys.

    `kind` is its name in the keys: "v" for the visits of a step. Keys have no numbers while this
    one, and all those around it, are 1.
    """
    with holding(_numbers, (*_numbers.get(), (kind, number))):
        yield


def request_key(body: Mapping[str, Any], sample: int = 0) -> str:
    """The key of a request: a hash of its body, then the sample, and the numbers of `numbered` and
    of a repeated measurement.

    Args:
        sample: Distinguishes equal requests that are to get answers of their own.

    >>> a = request_key({"model": "m", "messages": [], "stream": True})
    >>> a == request_key({"messages": [], "model": "m"}) != request_key({"model": "n"})
    True
    """
    text = json.dumps(asked_of(body), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    key = _sha256(text)[:32]
    # Only then: keys of calls that were recorded before stay as they are.
    if max(number for _, number in [("", 1), *_numbers.get()]) > 1:
        key += "".join(f"-{kind}{number}" for kind, number in _numbers.get())
    run = current_run()
    anew = [f"r{run.repeat}" if run.repeat else "", run.line] if run is not None else []
    return "-".join(filter(None, [key, str(sample or ""), *anew]))


def asked_of(value: Any) -> Any:
    """A request's body without the fields that do not change its answer."""
    if isinstance(value, Mapping):
        return {k: asked_of(v) for k, v in value.items() if k not in _UNASKED and v is not None}
    if isinstance(value, list | tuple):
        return [asked_of(item) for item in value]
    return value


def request_parts(body: Mapping[str, Any]) -> dict[str, str]:
    """Path in the body to its text; long ones as their beginning, length and digest."""
    return {path: _short(text) for path, text in hide(dict(_flat(asked_of(body), ""))).items()}


def _flat(value: Any, path: str) -> Iterator[tuple[str, str]]:
    below = f"{path}." if path else ""
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _flat(item, f"{below}{name}")
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from _flat(item, f"{below}{index}")
    else:
        yield path, value if isinstance(value, str) else json.dumps(value)


def _short(text: str) -> str:
    line = " ".join(text.split())
    if len(text) <= _SHOWN:
        return line
    return f"{line[:_SHOWN]}... ({len(text)} characters, {_sha256(text)[:8]})"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def miss(parts: Mapping[str, str], known: Iterable[LlmRecord]) -> ReplayMissError:
    """The error that names the differences from the most similar recorded call."""
    records = [record for record in known if record.request]
    if not records:
        return ReplayMissError(
            "a model call is not recorded, and neither is any other",
            hint="fetch the experiment's notes (autopilot fetch), or run it with a key",
        )

    def apart(record: LlmRecord) -> list[str]:
        paths = [*record.request, *(path for path in parts if path not in record.request)]
        return [path for path in paths if record.request.get(path) != parts.get(path)]

    nearest = min(records, key=lambda record: len(apart(record)))
    changes = [
        f"{path}: recorded {nearest.request.get(path, 'nothing')!r}, "
        f"now {parts.get(path, 'nothing')!r}"
        for path in apart(nearest)
    ]
    more = f"; and {len(changes) - 2} more" if len(changes) > 2 else ""
    differs = "; ".join(changes[:2]) + more if changes else "only how often it was asked"
    return ReplayMissError(
        f"a model call is not recorded; the nearest one (epoch {nearest.epoch}, {nearest.role}) "
        f"differs in {differs}",
        hint="replay with the code, data and package versions that it was recorded with",
    )


class _AskedSteps(dict[tuple[int, int, int], tuple[list[LlmRecord], list[LlmRecord]]]):
    """By epoch and step: the calls of the agent that is asked in a replay, and of later ones."""


def recorded_step(run: Run, prompt: str, role: str) -> list[LlmRecord]:
    """The agent's calls in the step that is replayed, where only records may answer.

    The agent is not called: the step's commit stands for its edits, and its last answer for all
    that were sent back to it. Only the first question is compared. Agents of several optimizers
    answer in turn.

    Raises:
        ReplayMissError: it was not asked this, or it failed in that step.
    """
    asked = request_parts({"prompt": prompt})
    calls = StoreRecorder.of(run).calls()
    place = run.place
    here = [c for c in calls if (c.epoch, c.candidate, c.step) == place and c.role == role]
    known = [c for c in here if set(c.request) == {"prompt"}]
    inside = {key for c in known for key in c.reply.get("calls", ())}
    known = sorted((c for c in known if c.id not in inside), key=lambda c: c.id)
    revision, step = run.experiment.repeats.get(place, ("", None))
    if not known or step is None or step.error:
        raise miss(asked, known or calls)
    steps = run.service(_AskedSteps, lambda _: _AskedSteps())
    now, later = steps.get(place, ([], known))
    if not now or (run.asking[0] == 1 and later):
        if not now and known[0].request != asked:
            raise miss(asked, known[:1])
        # A session that was killed in this step had asked the same.
        start = 0 if now else max(n for n, c in enumerate(later) if c.request == asked)
        first = {c.id for c in calls if c.question == 1}
        begins = (bool(first & {c.id, *c.reply.get("calls", ())}) for c in later[start + 1 :])
        end = next((n for n, begin in enumerate(begins, start + 1) if begin), len(later))
        now, later = steps[place] = later[:end], later[end:]
    if step.changed:
        run.experiment.store.restore(revision)
    return now
