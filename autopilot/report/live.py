"""A run as it stands now: one reducer for the view in the terminal and the one in the browser.

`reduced` is a pure function of what is recorded and what the progress file holds; `RunReader` reads
both, as little of it as is new. No lock is taken.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autopilot.core.records.index import Judged
from autopilot.core.records.message import one_line
from autopilot.core.records.record import LlmRecord, MetricsRecord, ProgressNote, Record, names_in
from autopilot.core.types import Cost, datum_from_json
from autopilot.git.commands import looking
from autopilot.git.repository import Repository
from autopilot.text import jsonable
from autopilot.tracking.layout import Layout, candidates_progress
from autopilot.tracking.lines import decode_all
from autopilot.tracking.notebook import Notebook, Status

_ITEMS, _LINES, _STRATEGIES, _RECENT = 6, 6, 8, 10


@dataclass(frozen=True, slots=True)
class Used:
    """How a strategy has gone: how often it was used and kept, and the last epoch with it."""

    strategy: str
    used: int
    kept: int
    last: int


@dataclass(frozen=True, slots=True)
class Going:
    """The epoch in progress, as far as it is noted.

    Args:
        doing: Where it is, in words.
        done: Split to the number of items that are evaluated.
        most: The most evaluations that one of the epochs before took; 0 where there is none.
        outcomes: Of the latest split: outcome to number of items.
        items: The latest items of it: id, outcome, and why.
        lines: The last lines of agents and models: those of an agent that is at work, or answers.
        spent: Of its calls so far.
    """

    epoch: int
    doing: str
    done: Mapping[str, int]
    most: int
    outcomes: Mapping[str, int]
    items: Sequence[tuple[str, str, str]]
    lines: Sequence[str]
    spent: Cost


@dataclass(frozen=True, slots=True)
class LiveRun:
    """A run as both views draw it.

    Args:
        state: As `Notebook.status` says.
        latest: The newest verdict with its first reason.
        goes_on_by: The command that goes on with it; "" where it runs or is over.
    """

    slug: str
    state: str
    detail: str
    monitor: str
    mode: str
    baseline: float | None
    best: float | None
    best_epoch: int
    kept: int
    latest: str
    points: Sequence[Judged]
    strategies: Sequence[Used]
    spent: Cost
    going: Going | None
    goes_on_by: str = ""

    def document(self) -> dict[str, Any]:
        """The same for a program, the curve as lists."""
        plain: dict[str, Any] = jsonable(replace(self, points=()))
        return plain | {"points": [[p.number, p.value, p.best, p.is_kept] for p in self.points]}


def reduced(
    slug: str,
    status: Status,
    last: MetricsRecord | None,
    points: Sequence[Judged],
    notes: Sequence[Record],
    goes_on_by: str = "",
    candidates: Mapping[int, Sequence[Record]] = {},  # never changed
) -> LiveRun:
    """The run that records and progress tell of.

    Args:
        last: The val record of the newest judged epoch.
        points: All judged epochs, oldest first.
        notes: The progress notes and calls of the epoch in progress, oldest first.
        candidates: The same of its candidates, by number.
    """
    judged = last.epoch if last else -1
    own = [note for note in notes if note.epoch > judged or getattr(note, "split", "") == "test"]
    is_over = status.state in ("finished", "stopped", "waiting")
    why = f": {one_line(last.reasons[0])}" if last and last.reasons else ""
    each = {number: _going(judged + 1, n, points) for number, n in candidates.items()}
    going = None
    if not is_over and (own or status.holder):
        going = _side_by_side(each) if each else _going(judged + 1, own, points)
    return LiveRun(
        slug=slug,
        state=status.state,
        detail=status.detail,
        monitor=last.monitor if last else "",
        mode=last.mode if last else "max",
        baseline=last.baseline if last else None,
        best=last.best if last else None,
        best_epoch=last.best_epoch if last else 0,
        kept=sum(point.is_kept for point in points if point.number),
        latest=f"epoch {last.epoch} {last.verdict}{why}" if last else "",
        points=points,
        strategies=_strategies(points),
        spent=last.spent if last else Cost(),
        going=going,
        goes_on_by="" if is_over or status.holder else goes_on_by,
    )


def _strategies(points: Sequence[Judged]) -> list[Used]:
    """The strategies, those that were kept most often first."""
    used, kept, latest = Counter[str](), Counter[str](), dict[str, int]()
    for point in points:
        for name in names_in(point.strategy):
            used[name] += 1
            kept[name] += point.is_kept and point.number > 0
            latest[name] = point.number
    names = sorted(used, key=lambda name: (-kept[name], -used[name], name))
    return [Used(name, used[name], kept[name], latest[name]) for name in names[:_STRATEGIES]]


def _going(epoch: int, notes: Sequence[Record], points: Sequence[Judged]) -> Going:
    results, calls = dict[tuple[str, int, int, int], ProgressNote](), list[LlmRecord]()
    doing, deaths, said = "", 0, ""
    for note in notes:
        if isinstance(note, LlmRecord):
            calls.append(note)
            said = ""
        elif isinstance(note, ProgressNote):
            if note.void:
                results.clear()
            elif note.died:
                deaths += 1
            elif note.stepping:
                said = note.said
                doing = f"step {abs(note.stepping)}" + (" is made" if note.stepping > 0 else "")
            elif note.items:
                batch = note.split, note.repeat, note.batch
                if note.item < 0:  # it has the results of its items
                    for key in [key for key in results if key[:3] == batch]:
                        del results[key]
                results[*batch, note.item] = note
                doing = note.split + (f", measurement {note.repeat + 1}" if note.repeat else "")
    done, outcomes, items = Counter[str](), Counter[str](), list[tuple[str, str, str]]()
    split = next((note.split for note in reversed(results.values())), "")
    for note in results.values():
        if note.repeat == 0:
            done[note.split] += note.items
        if note.split == split and note.data:
            data = datum_from_json(note.data, split=note.split, epoch=note.epoch)
            for item in data.leaves():
                why = item.unmeasured or item.error_message or item.feedback or ""
                outcomes[item.outcome] += 1
                items = [*items[1 - _ITEMS :], (item.id, item.outcome, one_line(why, 200))]
    lines = [line for call in calls[-_LINES:] for line in _said(call)]
    lines += [f"agent: {line.strip()}" for line in said.splitlines() if line.strip()]
    # The baseline may be measured twice.
    most = max((p.evaluations for p in points[-_RECENT:] if p.number), default=0)
    died = f"; {deaths} ended with their process" if deaths else ""
    return Going(
        epoch=max((note.epoch for note in notes), default=epoch),
        doing=(doing or "begins") + died,
        done=dict(done),
        most=most,
        outcomes=dict(outcomes),
        items=items,
        lines=lines[-_LINES:],
        spent=sum((call.cost for call in calls), Cost()),
    )


def _side_by_side(candidates: Mapping[int, Going]) -> Going:
    """An epoch of several candidates, as that of the one that is furthest."""
    going = list(candidates.values())
    each = (f"{number} {one.doing}" for number, one in candidates.items())
    done = Counter[str]()
    for one in going:
        done.update(one.done)
    furthest = max(going, key=lambda one: sum(one.done.values()))
    return replace(
        furthest,
        doing=f"{len(going)} candidates: {'; '.join(each)}",
        done=dict(done),
        lines=[f"{n}: {line}" for n, one in candidates.items() for line in one.lines][-_LINES:],
        spent=sum((one.spent for one in going), Cost()),
    )


def _said(call: LlmRecord) -> list[str]:
    """The lines of an answer."""
    reply = call.reply
    blocks = reply.get("content")
    texts = [reply.get("output"), reply.get("lost")]
    if isinstance(blocks, list):
        texts += [block.get("text") for block in blocks if isinstance(block, Mapping)]
    who = call.role or call.model
    said = [line.strip() for text in texts if isinstance(text, str) for line in text.splitlines()]
    return [f"{who}: {line}" for line in said if line]


class _Tail:
    """Reads a progress file as it gets longer.

    Attributes:
        notes: What it has.
    """

    def __init__(self) -> None:
        self.notes, self._head, self._read = list[Record](), b"", 0

    def follow(self, path: Path) -> list[Record]:
        """Takes in the lines that it has got since the last look; returns all."""
        try:
            with path.open("rb") as file:
                head = file.readline()
                if head != self._head or os.fstat(file.fileno()).st_size < self._read:
                    # It was emptied meanwhile: another epoch is going on.
                    self.notes, self._head, self._read = [], head, 0
                file.seek(self._read)
                new = file.read()
        except OSError:  # it is not there, or is no file
            new, self.notes, self._head, self._read = b"", [], b"", 0
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        self.notes += decode_all(whole)
        return self.notes


class RunReader:
    """Reads a run again and again."""

    def __init__(self, repo: Repository, slug: str) -> None:
        self._repo, self.slug = repo, slug
        self._mark: object = None
        self._tails = defaultdict[Path, _Tail](_Tail)

    @property
    def notes(self) -> list[Record]:
        """The notes of the epoch in progress."""
        return self._tails[Layout(self.slug).progress(self._repo)].notes

    def look(self) -> LiveRun | None:
        """The run as it stands; None where nothing is new since the last look.

        Raises:
            ExperimentError: it is gone.
        """
        with looking():
            notebook = Notebook(self._repo, self.slug)
            path, status = notebook.layout.progress(self._repo), notebook.status
            beside = candidates_progress(self._repo, self.slug)
            sizes = [_size(each) for each in (path, *beside.values())]
            if (mark := (notebook.tip, status, sizes)) == self._mark:
                return None
            self._mark = mark
            return reduced(
                self.slug,
                status,
                notebook.last,
                list(notebook.index.epochs),
                self._tails[path].follow(path),
                notebook.goes_on_by,
                {number: self._tails[p].follow(p) for number, p in beside.items()},
            )

    def looks(self, every_s: float) -> Iterator[LiveRun | None]:
        """Looks again and again, for ever.

        Of a long run a look takes a while: with what the reader does in between, that is a tenth of
        the time at most, beside the run.
        """
        while True:
            began_s = time.monotonic()
            yield self.look()
            time.sleep(max(every_s, 9 * (time.monotonic() - began_s)))


def _size(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns
