"""The history of an experiment: what was measured, which state is the best, and a summary."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from operator import attrgetter
from typing import overload

from autopilot.core.figures import gained
from autopilot.core.records.index import Index, Judged
from autopilot.core.records.message import epoch_tag
from autopilot.core.records.record import EpochOutcome, Event, Manifest, MetricsRecord, StepRecord
from autopilot.core.types import Cost, Gain, Metrics, Noise

_BEGINNINGS = ("started", "resumed")
_NEAR = 128
_ENDS = ("finished", "stopped", "interrupted", "crashed")


@dataclass(frozen=True, slots=True)
class KnownState:
    """A state that an earlier epoch measured.

    Args:
        epoch: That epoch; None: a person refused the state, and nothing measured it.
        outcome: The outcome of the new epoch that came to this state.
        candidate: The number of its candidate that measured it; 0: it is the epoch's own state.
    """

    epoch: int | None
    metrics: Mapping[str, float]
    outcome: EpochOutcome
    reasons: tuple[str, ...]
    candidate: int = 0

    @property
    def is_judged(self) -> bool:
        """Whether something was measured that speaks against it."""
        return self.outcome != "refused"


class History:
    """All judged epochs, oldest first. What is known of each is little; records are read when used.

    Attributes:
        inputs: Repository path to blob id of what evaluations read, as it was at first.
        noise: How far a second measurement of the baseline differs; None before the baseline.
        kept: The bits of kept epochs.
        most_evaluations: The most that an epoch took, without those that measured the noise.

    Args:
        read: Gives the metrics records on a revision.
    """

    def __init__(self, read: Callable[[str], Iterable[MetricsRecord]]) -> None:
        self._read = read
        self.load_history(Index())

    def load_history(self, index: Index) -> None:
        """Starts over from the facts that are known of all epochs."""
        self.epochs, self.kept = index.epochs.copy(), index.kept
        self.inputs, self.most_evaluations = dict(index.inputs), index.most_evaluations
        # Of a state that was measured since: eight bytes that name it, and the place of its epoch.
        self._earlier, self._states, self._places = index.epochs, bytearray(), array("I")
        self._near: OrderedDict[int, list[MetricsRecord]] = OrderedDict()
        self.noise: Noise | None = self.history[0].noise if self.epochs else None

    def add_epoch(self, records: list[MetricsRecord], revision: str) -> None:
        """Takes in a judged epoch: the records of all its splits, that of val last."""
        self._keep(records[-1].epoch, records)
        self._take(Judged.of(records[-1], revision))
        self.inputs = {**records[-1].inputs, **self.inputs}
        self.noise = self.history[0].noise

    def _take(self, judged: Judged) -> None:
        self.epochs.append(judged)
        self.kept |= judged.is_kept << judged.number
        self.most_evaluations = max(self.most_evaluations, judged.counted)
        # What a candidate measured was not known before.
        new = {*judged.trees} - {""}
        if _standing(self.measured(judged.tree), judged) is judged:
            new.add(judged.tree)
        self._states += b"".join(map(_digest, new))
        self._places.extend([len(self.epochs) - 1] * len(new))

    def measured(self, tree: str) -> Judged | None:
        """The epoch whose measurement of a state stands; None where there is none."""
        at, digest = len(self._states), _digest(tree)
        while (at := self._states.rfind(digest, 0, at)) >= 0:
            if at % 8 == 0:  # else by chance, across two names
                return self.epochs[self._places[at // 8]]
            at += 7
        found: Judged | None = None
        for judged in self._earlier.with_text(tree):
            if tree in (judged.tree, *judged.trees):
                found = _standing(found, judged)
        return found

    def measurement(self, tree: str) -> MetricsRecord | None:
        """The val record of the epoch, or of its candidate, whose measurement of a state stands."""
        judged = self.measured(tree)
        record = self.record_of(judged.number) if judged else None
        if record is None or not (at := record.beside.get(tree)):
            return record
        epoch, own = record.epoch, self._read(at)
        return next((r for r in own if r.is_candidate and r.epoch == epoch), None)

    def _keep(self, epoch: int, records: list[MetricsRecord]) -> list[MetricsRecord]:
        # Those that were used last; the baseline and the best one are, in every epoch.
        self._near[epoch] = records
        self._near.move_to_end(epoch)
        if len(self._near) > _NEAR:
            self._near.popitem(last=False)
        return records

    def _judged(self, epoch: int) -> Judged:
        place = epoch  # where none is missing; else it is looked for
        if not 0 <= epoch < len(self.epochs) or self.epochs[epoch].number != epoch:
            place = self.epochs.place(epoch)
        if place == len(self.epochs) or self.epochs[place].number != epoch:
            raise KeyError(epoch)
        return self.epochs[place]

    def records_of(self, epoch: int) -> list[MetricsRecord]:
        """The records of a judged epoch, one a split; KeyError if it is none."""
        known = self._near.get(epoch)
        if known is None:
            found = self._read(self._judged(epoch).revision)
            known = sorted((r for r in found if r.epoch == epoch), key=attrgetter("id"))
        return self._keep(epoch, known)

    def read_again(self, epoch: int) -> None:
        """Something was added to an epoch's records."""
        self._near.pop(epoch, None)

    @property
    def history(self) -> Sequence[MetricsRecord]:
        """Their val records."""
        return _ValRecords(self)

    @property
    def metrics(self) -> Mapping[int, Metrics]:
        """Epoch to split to metric name to value."""
        return _AllMetrics(self)

    def test_gain(self, epoch: int) -> Gain | None:
        """The gain of an epoch on the baseline, on the test split; None where it is not known."""
        records = self.records_of(epoch) if self.epochs else []
        return next((r.test_gain for r in records if r.test_gain is not None), None)

    @property
    def last_epoch(self) -> int:
        """The newest epoch that was judged; -1 before the baseline."""
        return self.epochs[-1].number if self.epochs else -1

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
        return next(record for record in self.records_of(epoch) if record.split == "val")

    def revision_of(self, epoch: int) -> str:
        """The revision that an epoch's records are on."""
        return self._judged(epoch).revision

    def stands(self, known: MetricsRecord, origin: str) -> bool:
        """Whether an epoch's verdict on its state is the answer to that state now.

        One that was stopped was compared with another state, and says nothing beside a third one.

        Args:
            origin: The name of the state that the present attempt starts from; "": the best one.
        """
        if known.outcome == "screened":
            before = known.origin or epoch_tag(known.best_epoch)
            return before == (origin or epoch_tag(self.best_epoch))
        return known.outcome != "raced" or known.best_epoch == self.best_epoch

    def known(self, state: str, steps: Sequence[StepRecord], origin: str = "") -> KnownState | None:
        """The earlier measurement of a state, which is not evaluated again; None if there is none.

        A state that was measured before can be no improvement. If some of its items could not be
        measured, it counts as new.

        Args:
            origin: As of `stands`.
        """
        known = self.measurement(state)
        if known is None:
            return None
        outcome: EpochOutcome = "repeated"
        reasons = tuple(step.error for step in steps if step.error)
        if reasons:
            outcome = "failed"
        elif known.unmeasured or known.is_refused or not self.stands(known, origin):
            return None
        elif known.epoch == self.best_epoch and not any(step.changed for step in steps):
            reasons, outcome = ("the optimizer changed nothing",), "unchanged"
        else:
            again = f"the same state as {known.title} ({known.verdict}), not evaluated again"
            reasons = (again,)
        candidate = known.candidate if known.is_candidate else 0
        return KnownState(known.epoch, known.metrics, outcome, reasons, candidate)


def _digest(state: str) -> bytes:
    return blake2b(state.encode(), digest_size=8).digest()


def _standing(known: Judged | None, judged: Judged) -> Judged:
    # The first measurement of a state stands, unless items were missing and it was done again.
    return judged if known is None or (known.is_open and not judged.is_repeated) else known


class _ValRecords(Sequence[MetricsRecord]):
    """The val records of a history, each read when it is asked for."""

    def __init__(self, of: History) -> None:
        self._of = of

    def __len__(self) -> int:
        return len(self._of.epochs)

    @overload
    def __getitem__(self, place: int) -> MetricsRecord: ...
    @overload
    def __getitem__(self, place: slice) -> list[MetricsRecord]: ...
    def __getitem__(self, place: int | slice) -> MetricsRecord | list[MetricsRecord]:
        if isinstance(place, slice):
            return [self._of.record_of(judged.number) for judged in self._of.epochs[place]]
        return self._of.record_of(self._of.epochs[place].number)


class _AllMetrics(Mapping[int, Metrics]):
    """Epoch to split to metrics of a history, read when it is asked for."""

    def __init__(self, of: History) -> None:
        self._of = of

    def __len__(self) -> int:
        return len(self._of.epochs)

    def __iter__(self) -> Iterator[int]:
        return (judged.number for judged in self._of.epochs)

    def __getitem__(self, epoch: int) -> Metrics:
        return {record.split: record.metrics for record in self._of.records_of(epoch)}


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
    index: Index,
    last: MetricsRecord | None,
    metrics: Mapping[str, Mapping[str, float]],
    events: Sequence[Event],
    test: Gain | None = None,
) -> Summary:
    """The summary of an experiment.

    Args:
        index: The facts on its epochs.
        last: The val record of the newest judged epoch.
        metrics: Of the best epoch, by split.
        events: All events, oldest first.
        test: The gain of the best epoch on the test split.
    """
    last = last or MetricsRecord(split="val", metrics={}, verdict="baseline")
    sessions = [event for event in events if event.name in (*_ENDS, *_BEGINNINGS)]
    decisions = [event for event in events if event.name == "decided"]
    return Summary(
        slug=manifest.slug,
        idea=manifest.idea,
        hypothesis=manifest.hypothesis,
        epochs=index.outcomes.total(),
        kept=(index.kept >> 1).bit_count(),  # without the baseline
        monitor=last.monitor,
        mode=last.mode,
        baseline=last.baseline,
        best=last.best,
        best_epoch=last.best_epoch,
        metrics=metrics,
        strategies={name: Tally(*counts) for name, counts in index.tallies.items()},
        cost=last.spent,
        started=next((event.time for event in events if event.name in _BEGINNINGS), ""),
        ended=sessions[-1].name if sessions and sessions[-1].name in _ENDS else "",
        decision=decisions[-1] if decisions else None,
        test=test,
    )
