"""A judged epoch as a reader sees it, made of its records and of the branch around them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from autopilot.core.records import message
from autopilot.core.records.message import trailer_number
from autopilot.core.records.record import MetricsRecord
from autopilot.core.types import Verdict
from autopilot.git.commits import Commit


@dataclass(frozen=True, slots=True)
class Epoch:
    """One judged epoch.

    Args:
        record: Its val record.
        commit: The commit with its notes: the last step's; the start commit for the baseline.
        metrics: Split to metric name to value.
        before: The best value before it, None where there is none.
        origin: The epoch whose state it started from; None for the baseline.
        rollback: The rollback commit after a rejected epoch.
        steps: Its step commits, oldest first; none where nothing was changed.
    """

    record: MetricsRecord
    commit: str
    metrics: Mapping[str, Mapping[str, float]]
    before: float | None
    origin: int | None
    rollback: str | None
    steps: tuple[str, ...] = ()

    @property
    def number(self) -> int:
        """Its number; 0 is the baseline."""
        return self.record.epoch

    @property
    def verdict(self) -> Verdict:
        """The policy's verdict: "baseline", "kept" or "rejected"."""
        return self.record.verdict

    @property
    def value(self) -> float | None:
        """The monitored val metric, None where missing."""
        return self.record.metrics.get(self.record.monitor)

    @property
    def measured(self) -> int:
        """The epoch whose results are its own: an earlier one of the same state, or itself."""
        return self.number if self.record.reused is None else self.record.reused

    @property
    def delta(self) -> float | None:
        """The value's change against the best before, None where there is nothing to compare."""
        if self.value is None or self.before is None:
            return None
        return self.value - self.before


def steps_in(line: Iterable[Commit]) -> dict[int, list[Commit]]:
    """Epoch to its step commits, in the order of the line."""
    found: dict[int, list[Commit]] = {}
    for commit in line:
        number = trailer_number(commit.message, message.EPOCH)
        if number is not None:
            found.setdefault(number, []).append(commit)
    return found


def rollbacks_in(line: Iterable[Commit]) -> dict[int, Commit]:
    """Rejected epoch to its rollback commit."""
    pairs = ((trailer_number(commit.message, message.REJECTED), commit) for commit in line)
    return {epoch: commit for epoch, commit in pairs if epoch is not None}


def judged_epochs(
    noted: Iterable[tuple[str, MetricsRecord]],
    steps: Mapping[int, Sequence[Commit]],
    rollbacks: Mapping[int, Commit],
) -> list[Epoch]:
    """The epochs that have a val record, oldest first."""
    records: dict[int, dict[str, tuple[str, MetricsRecord]]] = {}
    for commit, record in noted:
        records.setdefault(record.epoch, {}).setdefault(record.split, (commit, record))
    found: list[Epoch] = []
    best: float | None = None
    origin: int | None = None
    for number, splits in sorted(records.items()):
        if "val" not in splits:
            continue
        commit, val = splits["val"]
        metrics = {name: record.metrics for name, (_, record) in splits.items()}
        back = rollbacks[number].id if number in rollbacks else None
        own = tuple(step.id for step in steps.get(number, ()))
        found.append(Epoch(val, commit, metrics, best, origin, back, own))
        best, origin = val.best, val.best_epoch
    return found
