"""The history of an experiment: what was measured, which state is the best, and a summary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from autopilot.core.figures import gained
from autopilot.core.records.record import EpochOutcome, Event, Manifest, MetricsRecord, StepRecord
from autopilot.core.types import Cost, Gain, Metrics, Noise

_BEGINNINGS = ("started", "resumed")
_ENDS = ("finished", "stopped", "interrupted", "crashed")


@dataclass(frozen=True, slots=True)
class KnownState:
    """A state that an earlier epoch measured.

    Args:
        epoch: That epoch; None: a person refused the state, and nothing measured it.
        outcome: The outcome of the new epoch that came to this state.
    """

    epoch: int | None
    metrics: Mapping[str, float]
    outcome: EpochOutcome
    reasons: tuple[str, ...]


class History:
    """All judged epochs, oldest first.

    Attributes:
        history: Their val records.
        metrics: Epoch to split to metric name to value.
        inputs: Repository path to blob id of what evaluations read, as it was at first.
        gains: Epoch to its gain on the baseline, on the test split.
        noise: How far a second measurement of the baseline differs; None before the baseline.
    """

    def __init__(self) -> None:
        self.history: list[MetricsRecord] = []
        self.metrics: dict[int, dict[str, Mapping[str, float]]] = {}
        self.inputs: dict[str, str] = {}
        self.gains: dict[int, Gain] = {}
        self.noise: Noise | None = None
        self._revisions: dict[int, str] = {}
        self._measured: dict[str, MetricsRecord] = {}

    def load_history(self, judged: Iterable[tuple[str, MetricsRecord]]) -> None:
        """Starts over from records and the revisions that they are on, in order of epochs."""
        self.history, self.metrics, self._revisions, self._measured = [], {}, {}, {}
        self.inputs, self.gains = {}, {}
        for revision, record in judged:
            # The first blob counts: all scores must come from the files of the baseline.
            if record.inputs:
                self.inputs = {**record.inputs, **self.inputs}
            self.metrics.setdefault(record.epoch, {})[record.split] = record.metrics
            if record.test_gain is not None:
                self.gains[record.epoch] = record.test_gain
            if record.split == "val":
                self._append(record, revision)

    def add_epoch(self, record: MetricsRecord, revision: str, metrics: Metrics) -> None:
        """Takes a judged epoch in."""
        self._append(record, revision)
        self.inputs = {**record.inputs, **self.inputs}
        self.metrics[record.epoch] = dict(metrics)

    def _append(self, record: MetricsRecord, revision: str) -> None:
        self.history.append(record)
        self.noise = self.history[0].noise
        self._revisions[record.epoch] = revision
        # The first measurement of a state stands, unless items were missing and it was done again.
        known = self._measured.get(record.tree)
        is_to_be_done = known is not None and (known.unmeasured or known.is_refused)
        if known is None or (is_to_be_done and record.reused is None):
            self._measured[record.tree] = record

    @property
    def last_epoch(self) -> int:
        """The newest epoch that was judged; -1 before the baseline."""
        return self.history[-1].epoch if self.history else -1

    @property
    def best_epoch(self) -> int:
        """The epoch whose state a rollback goes to."""
        return self.history[-1].best_epoch if self.history else 0

    @property
    def baseline_value(self) -> float | None:
        """The monitored val metric at epoch 0, None where not finite."""
        return self.history[0].baseline if self.history else None

    @property
    def best_value(self) -> float | None:
        """The monitored val metric of the best epoch, None where not finite."""
        return self.history[-1].best if self.history else None

    @property
    def spent(self) -> Cost:
        """The cost of all judged epochs."""
        return self.history[-1].spent if self.history else Cost()

    def record_of(self, epoch: int) -> MetricsRecord:
        """The val record of a judged epoch."""
        return self.history[epoch - self.history[0].epoch]

    def revision_of(self, epoch: int) -> str:
        """The revision that an epoch's records are on."""
        return self._revisions[epoch]

    def known(self, state: str, steps: Sequence[StepRecord]) -> KnownState | None:
        """The earlier measurement of a state, which is not evaluated again; None if there is none.

        A state that was measured before can be no improvement. If some of its items could not be
        measured, it counts as new.
        """
        known = self._measured.get(state)
        if known is None:
            return None
        outcome: EpochOutcome = "repeated"
        reasons = tuple(step.error for step in steps if step.error)
        if reasons:
            outcome = "failed"
        elif known.unmeasured or known.is_refused:
            return None
        elif known.epoch == self.best_epoch and not any(step.changed for step in steps):
            reasons, outcome = ("the optimizer changed nothing",), "unchanged"
        else:
            again = f"the same state as epoch {known.epoch} ({known.verdict}), not evaluated again"
            reasons = (again,)
        return KnownState(known.epoch, known.metrics, outcome, reasons)


def environment_at(events: Iterable[Event], epoch: int | None = None) -> dict[str, str]:
    """The environment that an epoch was measured in; the newest one's if not given."""
    found: dict[str, str] = {}
    for event in events:
        if epoch is None or event.epoch <= epoch:
            found |= event.environment
    return found


@dataclass(frozen=True, slots=True)
class Tally:
    """How often a strategy was used, and how often its epoch was kept."""

    used: int
    kept: int


@dataclass(frozen=True, slots=True)
class Summary:
    """The result of an experiment on one page: the answer of `Experiment.summary()`.

    Args:
        slug: Its name.
        idea: The idea, in words.
        hypothesis: The expectation, in words.
        epochs: Judged epochs, the baseline not counted.
        kept: How many of them were kept.
        monitor: The val metric that decides; "" before the baseline.
        mode: "max" or "min".
        baseline: Its value at epoch 0; None where missing or not finite.
        best: Its best value.
        best_epoch: The epoch with that value.
        metrics: Split to metric name to value, of the best epoch; test too, once it is scored.
        strategies: Strategy to how it went.
        cost: The cost of all judged epochs.
        started: When it began, ISO 8601, UTC; "" if it never ran.
        ended: How the last session ended; "" while it runs, or if it was killed.
        decision: The latest decision of a person, None if there is none.
        test: The gain of the best state on the test split; None where it was not scored.
    """

    slug: str
    idea: str = ""
    hypothesis: str = ""
    epochs: int = 0
    kept: int = 0
    monitor: str = ""
    mode: str = "max"
    baseline: float | None = None
    best: float | None = None
    best_epoch: int = 0
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    strategies: Mapping[str, Tally] = field(default_factory=dict)
    cost: Cost = Cost()
    started: str = ""
    ended: str = ""
    decision: Event | None = None
    test: Gain | None = None

    @property
    def gain(self) -> float | None:
        """The gain of the best epoch on the baseline, positive is better; None where unknown."""
        if self.baseline is None or self.best is None:
            return None
        return gained(self.baseline, self.best, self.mode)


def summarize(
    manifest: Manifest,
    history: Sequence[MetricsRecord],
    metrics: Mapping[str, Mapping[str, float]],
    events: Sequence[Event],
    test: Gain | None = None,
) -> Summary:
    """The summary of an experiment.

    Args:
        history: The val records of its judged epochs, oldest first.
        metrics: Of the best epoch, by split.
        events: All events, oldest first.
        test: The gain of the best epoch on the test split.
    """
    judged = [record for record in history if record.epoch > 0]
    tallies: dict[str, Tally] = {}
    for record in judged:
        for name in record.strategies() if not record.is_refused else ():
            before = tallies.get(name, Tally(0, 0))
            kept = before.kept + (record.verdict == "kept")
            tallies[name] = Tally(before.used + 1, kept)
    last = history[-1] if history else MetricsRecord(split="val", metrics={}, verdict="baseline")
    sessions = [event for event in events if event.name in (*_ENDS, *_BEGINNINGS)]
    decisions = [event for event in events if event.name == "decided"]
    return Summary(
        slug=manifest.slug,
        idea=manifest.idea,
        hypothesis=manifest.hypothesis,
        epochs=len(judged),
        kept=sum(record.verdict == "kept" for record in judged),
        monitor=last.monitor,
        mode=last.mode,
        baseline=last.baseline,
        best=last.best,
        best_epoch=last.best_epoch,
        metrics=metrics,
        strategies=tallies,
        cost=last.spent,
        started=next((event.time for event in events if event.name in _BEGINNINGS), ""),
        ended=sessions[-1].name if sessions and sessions[-1].name in _ENDS else "",
        decision=decisions[-1] if decisions else None,
        test=test,
    )
