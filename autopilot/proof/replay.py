"""Replay: an experiment's states are measured again and compared with its record."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import ClassVar

from autopilot.core.types import Datum, Outcome
from autopilot.engine.options import NO_OPTIONS, Options, measured_as
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
from autopilot.text import some
from autopilot.tracking.epochs import Epoch
from autopilot.tracking.integrity import Difference, Integrity
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.outputs import WrittenPath, merged

_Measured = tuple[Measurement | AutopilotError, float]
# Recorded replies give the same values, except for the order of sums.
TOLERANCE = 1e-9
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
        verdict: The recorded one: "baseline", "kept" or "rejected".
        recorded: The monitored metric as it was recorded; None where there is none.
        split: The split of `recorded` and `replayed`.
        incomparable: Differences that do not count, since the values are noisy.
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
        tolerance: The largest difference of a metric that counts as the same.
        shares: Metric to a tolerance of its own, as a share of its value. A noisy metric is only
            compared if it has one.
    """

    epochs: Sequence[int] | None = None
    tolerance: float = TOLERANCE
    jobs: int = 1
    live: bool = False
    links: Sequence[str] = field(default_factory=tuple)
    shares: Mapping[str, float] = field(default_factory=dict)
    limits: Options = NO_OPTIONS

    def allowed(self, name: str, recorded: Mapping[str, float]) -> float:
        """The largest difference of a metric from its recorded value that counts as the same."""
        if name in self.shares:
            return self.shares[name] * abs(recorded.get(name, 0.0))
        return self.tolerance


class Replay:
    """Compares an experiment with its record: `branch` in git alone, `epochs` by evaluation.

    Attributes:
        ended: Why it ended before the last of them; "" if it did not.
        outputs: What evaluations wrote into worktrees that are gone.

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
        self.outputs: list[WrittenPath] = []
        noise = notebook.noise
        self._is_noisy = noise is not None and noise.is_noisy
        self._manifest = measured_as(notebook, settings.limits)
        asked = notebook.repo, self._manifest, notebook.slug
        self._measurers = [
            Measurer(*asked, live=settings.live, links=settings.links, is_lasting=True)
            for _ in range(max(1, min(settings.jobs, len(self.chosen))))
        ]

    def branch(self) -> list[Difference]:
        """The contradictions between branch, tags and notes; nothing is evaluated."""
        return self._integrity.differences()

    def epochs(self) -> Iterator[EpochReplay]:
        """The chosen epochs, evaluated again, in their order; raises as `failed`."""
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
            for number, measured in zip(self.chosen, pool.map(evaluate, self.chosen), strict=True):
                yield self._epoch(number, measured)
        finally:
            # Stopped first: the shutdown waits for evaluations that are going on.
            for measurer in self._measurers:
                measurer.stop()
            pool.shutdown(cancel_futures=True)
            for measurer in self._measurers:
                measurer.close()
                self.outputs = merged([*self.outputs, *measurer.outputs])

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
        splits = [split for split in ("val", "test") if judged.metrics.get(split)]
        found: Measurement | AutopilotError
        if number == self.chosen[-1]:
            measurer.renew()  # else a cache of the evaluator's could answer for every state
        try:
            # A measurement that was taken over from an earlier epoch had that epoch's seed.
            epoch = number if judged.record.reused is None else judged.record.reused
            known = self.judged.get(epoch)
            state = judged.record.tree if known and known.record.candidate else ""
            commit = judged.record.commit or judged.commit
            found = measurer.measure(commit, splits, epoch=epoch, state=state)
            if measurer.is_used and self._compare(number, judged, found)[0]:
                # A difference may be due to the states that its process evaluated before.
                measurer.renew()
                found = measurer.measure(commit, splits, epoch=epoch, state=state)
            if self._is_noisy and self._compare(number, judged, found)[0]:
                # Values that no seed repeats differ between these two as well.
                measurer.renew()
                again = measurer.measure(commit, splits, epoch=epoch, state=state)
                found = replace(found, noisy=found.noisy | moved(found, again))
        except AutopilotError as error:
            found = error
        return found, time.monotonic() - started

    def _epoch(self, number: int, measured: _Measured) -> EpochReplay:
        judged, (found, seconds) = self.judged[number], measured
        if isinstance(found, AutopilotError):
            return self._row(number, None, [failed(number, found)], (), seconds, found)
        replayed = found.metrics.get("val", {}).get(judged.record.monitor)
        return self._row(number, replayed, *self._compare(number, judged, found), seconds)

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
        """The differences, and those that do not count."""
        apart: list[Difference] = []
        for split, again in found.metrics.items():
            recorded = judged.metrics.get(split, {})
            items = self._items(number, split, found.items.get(split, ()))
            several = compare_metrics(number, split, recorded, again, self.settings, items)
            if not several and items:
                several = [Difference(number, f"{split} items", "", "", items)]
            apart += several
        differences, incomparable = parted(apart, found.noisy, self.settings)
        inputs = compare_inputs(number, judged.record.inputs, found.inputs)
        return differences + inputs, incomparable

    def _items(self, number: int, split: str, items: Sequence[Datum]) -> str:
        """The items with another outcome, in a sentence; "" if none."""
        before = {item.id: item.outcome for item in self.notebook.data(number, split)}
        changed = [i for i in items if before.get(i.id, i.outcome) != i.outcome]
        return some([f"{i.id} {_NOW[i.outcome]} now" for i in changed], joint=", and")


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
        if not is_same(recorded.get(name), replayed.get(name), settings.allowed(name, recorded))
    ]


def parted(
    found: Sequence[Difference], noisy: frozenset[str], settings: Settings
) -> tuple[list[Difference], list[Difference]]:
    """The differences that count, and those of noisy values.

    Args:
        noisy: The noisy values: "val latency", "val items".
        settings: A metric with a tolerance of its own counts in any case.
    """
    given = {f"{split} {name}" for name in settings.shares for split in ("train", "val", "test")}
    may = [each for each in found if each.what in noisy - given]
    return [each for each in found if each not in may], may


def moved(first: Measurement, second: Measurement) -> frozenset[str]:
    """The values that differ between two measurements of one state with the same seed."""
    found = set()
    for split, metrics in first.metrics.items():
        again = second.metrics.get(split, {})
        items, others = (m.items.get(split, ()) for m in (first, second))
        turned = [item.outcome for item in items] != [item.outcome for item in others]
        # Where outcomes differ, metrics that agree do so by chance.
        found |= {
            f"{split} {name}"
            for name in metrics
            if turned or not is_same(metrics[name], again.get(name), TOLERANCE)
        }
        if turned:
            found.add(f"{split} items")
    return frozenset(found)


def compare_inputs(
    epoch: int, recorded: Mapping[str, str], found: Mapping[str, str]
) -> list[Difference]:
    """The evaluator's and data files that were read both times and differ, by their blob ids."""
    why = "the evaluation read another version of this file"
    return [
        Difference(epoch, path, oid[:7] or "no file", found[path][:7] or "no file", why)
        for path, oid in recorded.items()
        if found.get(path, oid) != oid
    ]


def is_same(recorded: float | None, replayed: float | None, tolerance: float) -> bool:
    """Whether two values of a metric agree; None is a missing value."""
    if recorded is None or replayed is None:
        return recorded is replayed
    is_same_nan = math.isnan(recorded) and math.isnan(replayed)
    return is_same_nan or recorded == replayed or abs(recorded - replayed) <= tolerance


def failed(number: int, error: AutopilotError) -> Difference:
    """The difference of an epoch that could not be evaluated.

    Errors that affect every epoch are raised.

    Raises:
        UsageError: a link is missing, a module is imported from another checkout, or the like.
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
