"""Replay: whether what an experiment recorded comes out again."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import ClassVar

from autopilot.core.types import Datum, Outcome
from autopilot.errors import (
    AutopilotError,
    NetworkRefusedError,
    NoMoreCallsError,
    ReplayMissError,
    RepositoryError,
    TargetError,
    UsageError,
)
from autopilot.proof.measuring import Measurement, Measurer
from autopilot.tracking.integrity import Difference, Integrity
from autopilot.tracking.notebook import Epoch, Notebook

_Measured = tuple[Measurement | AutopilotError, float]
TOLERANCE = 1e-9
_NAMED_ITEMS = 3
_NOW: Mapping[Outcome, str] = {
    "passed": "passes",
    "failed": "fails",
    "error": "raises",
    "unmeasured": "cannot be measured",
    "unscored": "is not scored",
}


@dataclass(frozen=True, slots=True)
class EpochReplay:
    """One epoch that was evaluated again.

    Args:
        number: The epoch.
        verdict: What was recorded: "baseline", "kept" or "rejected".
        commit: What was evaluated.
        recorded: The monitored val metric as it was recorded; None where there is none.
        replayed: The same, measured again.
        differences: What did not come out as it was recorded.
        seconds: Wall clock.
        error: Why it could not be evaluated.
        incomparable: What came out otherwise and may: it is noisy.
        split: What `recorded` and `replayed` are of.
    """

    number: int
    verdict: str
    commit: str
    recorded: float | None
    replayed: float | None
    differences: tuple[Difference, ...] = ()
    seconds: float = 0.0
    error: AutopilotError | None = None
    split: str = "val"
    incomparable: tuple[Difference, ...] = ()


@dataclass(slots=True)
class Settings:
    """How an experiment is replayed.

    Args:
        epochs: Which epochs; None: all that were kept.
        tolerance: By how much a metric may differ.
        shares: Metric to the share of its value by which it may differ; also of a noisy one, which
            is not compared otherwise.
        jobs: Evaluations side by side.
        live: See Measurer.
        links: See Measurer.
    """

    epochs: Sequence[int] | None = None
    tolerance: float = TOLERANCE
    jobs: int = 1
    live: bool = False
    links: Sequence[str] = field(default_factory=tuple)
    shares: Mapping[str, float] = field(default_factory=dict)

    def allowed(self, name: str, recorded: Mapping[str, float]) -> float:
        """By how much a metric may differ from what was recorded."""
        if name in self.shares:
            return self.shares[name] * abs(recorded.get(name, 0.0))
        return self.tolerance


class Replay:
    """An experiment that is compared with its record.

    Attributes:
        level: How much is done again.
        chosen: The epochs that are evaluated.
        ended: Why it ended before the last of them; "" if it did not.

    First git alone (`branch`), then each epoch's tree, evaluated again (`epochs`).

    Args:
        notebook: The experiment.
        settings: How.

    Raises:
        ExperimentError: it has no such epoch, or was not started by `autopilot run`.
    """

    level: ClassVar[str] = "metrics"

    def __init__(self, notebook: Notebook, settings: Settings) -> None:
        self.notebook, self.settings = notebook, settings
        self._integrity = Integrity(notebook)
        self.judged: Mapping[int, Epoch] = self._integrity.judged
        self.chosen = self._chosen()
        self.ended = ""
        noise = notebook.noise
        self._is_noisy = noise is not None and noise.is_noisy
        self._measurers = [
            Measurer(
                notebook.repo,
                notebook.manifest,
                notebook.slug,
                live=settings.live,
                links=settings.links,
            )
            for _ in range(max(1, min(settings.jobs, len(self.chosen))))
        ]

    def branch(self) -> list[Difference]:
        """The contradictions between branch, tags and notes; nothing is evaluated."""
        return self._integrity.differences()

    def epochs(self) -> Iterator[EpochReplay]:
        """The chosen epochs, evaluated again, in their order.

        Raises:
            UsageError: nothing can be evaluated: a link is missing.
            RepositoryError: nothing can be checked out.
            NoMoreCallsError: a service does not answer, there is no key, or the like.
        """
        free: SimpleQueue[Measurer] = SimpleQueue()
        for measurer in self._measurers:
            free.put(measurer)

        def evaluate(number: int) -> _Measured:
            measurer = free.get()
            try:
                return self._measure(measurer, number)
            finally:
                free.put(measurer)

        pool = ThreadPoolExecutor(len(self._measurers))
        try:
            waiting: dict[int, Future[_Measured]] = {
                number: pool.submit(evaluate, number) for number in self.chosen
            }
            for number, future in waiting.items():
                yield self._epoch(number, future.result())
        finally:
            for measurer in self._measurers:
                measurer.stop()
            pool.shutdown(cancel_futures=True)
            for measurer in self._measurers:
                measurer.close()

    def _chosen(self) -> list[int]:
        if self.settings.epochs is None:
            return [n for n, judged in self.judged.items() if judged.record.verdict != "rejected"]
        numbers = sorted(set(self.settings.epochs))
        for number in numbers:
            if number not in self.judged and number not in self._integrity.expected:
                self.notebook.epoch(number)
        return [number for number in numbers if number in self.judged]

    def _measure(self, measurer: Measurer, number: int) -> _Measured:
        judged, started = self.judged[number], time.monotonic()
        reused = judged.record.reused
        splits = [split for split in ("val", "test") if judged.metrics.get(split)]
        found: Measurement | AutopilotError
        try:
            # What was taken over from an earlier epoch had that epoch's chance.
            epoch = number if reused is None else reused
            found = measurer.measure(judged.commit, splits, epoch=epoch)
            if self._is_noisy and self._compare(number, judged, found)[0]:
                # What no seed repeats differs between these two as well.
                again = measurer.measure(judged.commit, splits, epoch=epoch)
                found = replace(found, noisy=found.noisy | moved(found, again))
        except AutopilotError as error:
            found = error
        return found, time.monotonic() - started

    def _epoch(self, number: int, measured: _Measured) -> EpochReplay:
        judged, (found, seconds) = self.judged[number], measured
        record = judged.record
        if isinstance(found, AutopilotError):
            replayed, error = None, found
            differences, incomparable = [failed(number, found)], list[Difference]()
        else:
            replayed, error = found.metrics.get("val", {}).get(record.monitor), None
            differences, incomparable = self._compare(number, judged, found)
        return self._row(number, replayed, differences, incomparable, seconds, error)

    def _row(
        self,
        number: int,
        replayed: float | None,
        differences: Sequence[Difference],
        incomparable: Sequence[Difference] = (),
        seconds: float = 0.0,
        error: AutopilotError | None = None,
        split: str = "val",
    ) -> EpochReplay:
        """The result for an epoch, whether it is on record or not."""
        judged = self.judged.get(number)
        verdict, commit, recorded = "", self.notebook.tip, None
        if judged is not None:
            verdict, commit = judged.record.verdict, judged.commit
            recorded = judged.metrics.get(split, {}).get(judged.record.monitor)
        apart = tuple(differences), tuple(incomparable)
        return EpochReplay(
            number, verdict, commit, recorded, replayed, apart[0], seconds, error, split, apart[1]
        )

    def _compare(
        self, number: int, judged: Epoch, found: Measurement
    ) -> tuple[list[Difference], list[Difference]]:
        """What differs, and what does and may."""
        apart: list[Difference] = []
        for split, again in found.metrics.items():
            recorded = judged.metrics.get(split, {})
            items = self._items(number, split, found.items.get(split, ()))
            several = compare_metrics(number, split, recorded, again, self.settings, items)
            if not several and items:
                several = [Difference(number, f"{split} items", "", "", items)]
            apart += several
        differences, incomparable = parted(apart, found.noisy, self.settings)
        return differences + compare_inputs(
            number, judged.record.inputs, found.inputs
        ), incomparable

    def _items(self, number: int, split: str, items: Sequence[Datum]) -> str:
        """Which items came to something else, in a sentence; "" if none."""
        before = {item.id: item.outcome for item in self.notebook.data(number, split)}
        changed = [i for i in items if before.get(i.id, i.outcome) != i.outcome]
        if not changed:
            return ""
        named = [f"{i.id} {_NOW[i.outcome]} now" for i in changed[:_NAMED_ITEMS]]
        more = f", and {len(changed) - _NAMED_ITEMS} more" if len(changed) > _NAMED_ITEMS else ""
        return f"{', '.join(named)}{more}"


def compare_metrics(
    epoch: int,
    split: str,
    recorded: Mapping[str, float],
    replayed: Mapping[str, float],
    settings: Settings,
    why: str = "",
) -> list[Difference]:
    """The metrics of a split that are not the same, within the tolerance.

    >>> compare_metrics(1, "val", {"f1": 0.5}, {"f1": 0.5000001}, Settings(tolerance=1e-3))
    []
    """
    return [
        Difference(epoch, f"{split} {name}", recorded.get(name), replayed.get(name), why)
        for name in dict.fromkeys([*recorded, *replayed])
        if not _same(recorded.get(name), replayed.get(name), settings.allowed(name, recorded))
    ]


def parted(
    found: Sequence[Difference], noisy: frozenset[str], settings: Settings
) -> tuple[list[Difference], list[Difference]]:
    """Differences, and those that are none, since what differs is noisy.

    Args:
        found: All of them.
        noisy: What may come out otherwise: "val latency", "val items".
        settings: A metric with a tolerance of its own is compared in any case.
    """
    given = {f"{split} {name}" for name in settings.shares for split in ("train", "val", "test")}
    may = [each for each in found if each.what in noisy - given]
    return [each for each in found if each not in may], may


def moved(first: Measurement, second: Measurement) -> frozenset[str]:
    """What differs between two measurements of one state with the same chance."""
    found = set()
    for split, metrics in first.metrics.items():
        again = second.metrics.get(split, {})
        items, others = (m.items.get(split, ()) for m in (first, second))
        turned = [item.outcome for item in items] != [item.outcome for item in others]
        # Where items came to something else, metrics that are the same are so by chance.
        found |= {
            f"{split} {name}"
            for name in metrics
            if turned or not _same(metrics[name], again.get(name), TOLERANCE)
        }
        if turned:
            found.add(f"{split} items")
    return frozenset(found)


def compare_inputs(
    epoch: int, recorded: Mapping[str, str], found: Mapping[str, str]
) -> list[Difference]:
    """The evaluator's and data files that were read both times, and are not the same.

    Args:
        epoch: The epoch.
        recorded: Repository path to blob id.
        found: The same, now.
    """
    why = "the evaluation read another version of this file"
    return [
        Difference(epoch, path, oid[:7] or "no file", found[path][:7] or "no file", why)
        for path, oid in recorded.items()
        if found.get(path, oid) != oid
    ]


def _same(recorded: float | None, replayed: float | None, tolerance: float) -> bool:
    if recorded is None or replayed is None:
        return recorded is replayed
    if math.isnan(recorded) or math.isnan(replayed):
        return math.isnan(recorded) and math.isnan(replayed)
    return recorded == replayed or abs(recorded - replayed) <= tolerance


def failed(number: int, error: AutopilotError) -> Difference:
    """An epoch that could not be evaluated; what nobody can evaluate is raised.

    Raises:
        UsageError: a link is missing, or the like.
        RepositoryError: it cannot be checked out.
        NoMoreCallsError: a service does not answer, there is no key, or the like.
    """
    if isinstance(error, RepositoryError | UsageError) and not isinstance(error, TargetError):
        raise error
    if isinstance(error, NoMoreCallsError) and not isinstance(error, ReplayMissError):
        raise error
    why = f"{error.message} ({error.hint})" if error.hint else error.message
    if isinstance(error, NetworkRefusedError):
        return Difference(number, "network", "not used", "used", why)
    if isinstance(error, ReplayMissError):
        return Difference(number, "model reply", "recorded", "missing", why)
    return Difference(number, "evaluation", "a score", "failed", why)
