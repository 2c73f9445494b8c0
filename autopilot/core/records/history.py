"""The history of an experiment: what was measured, and which state is the best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from autopilot.core.noise import Noise
from autopilot.core.policy import Decision, Metrics
from autopilot.core.records.record import MetricsRecord, Outcome, StepRecord
from autopilot.core.types import Cost, Gain


@dataclass(frozen=True, slots=True)
class KnownState:
    """A state that an earlier epoch measured.

    Args:
        epoch: The earlier epoch.
        metrics: Its val metrics.
        outcome: What that makes of this epoch.
        decision: The verdict that follows.
    """

    epoch: int
    metrics: Mapping[str, float]
    outcome: Outcome
    decision: Decision


class History:
    """All judged epochs, oldest first.

    Attributes:
        history: Their val records.
        metrics: Epoch to split to metric name to value.
        inputs: Repository path to blob id of what evaluations read, as it was at first.
        gains: Epoch to what the test split says of it beside the baseline.
        noise: What a second measurement of the baseline came to; None before the baseline.
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
        known = self._measured.get(record.tree)
        if known is None or (known.unmeasured and record.reused is None):
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
        """What all judged epochs cost."""
        return self.history[-1].spent if self.history else Cost()

    def record_of(self, epoch: int) -> MetricsRecord:
        """The val record of a judged epoch."""
        return self.history[epoch - self.history[0].epoch]

    def revision_of(self, epoch: int) -> str:
        """The revision that an epoch's records are on."""
        return self._revisions[epoch]

    def known(self, state: str, steps: Sequence[StepRecord]) -> KnownState | None:
        """What is known of a state, if an earlier epoch measured it.

        It is not evaluated again: it can't be an improvement. Unless some of its items could not
        be measured: then it counts as new.

        Args:
            state: The state's id.
            steps: The steps that led to it.
        """
        known = self._measured.get(state)
        if known is None:
            return None
        outcome: Outcome
        errors = tuple(step.error for step in steps if step.error)
        if errors:
            return KnownState(known.epoch, known.metrics, "failed", Decision("rejected", errors))
        if known.unmeasured:
            return None
        if known.epoch == self.best_epoch and not any(step.changed for step in steps):
            reason, outcome = "the optimizer changed nothing", "unchanged"
        else:
            reason = f"the same state as epoch {known.epoch} ({known.verdict}), not evaluated again"
            outcome = "repeated"
        return KnownState(known.epoch, known.metrics, outcome, Decision("rejected", (reason,)))
