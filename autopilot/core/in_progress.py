"""The epoch in progress of an experiment, or the candidate of it that is being tried."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from autopilot.core.comparison import Compared, EpochView, Monitored, averaged
from autopilot.core.interpreter import generators, seed_everything
from autopilot.core.known import Known, known_sentence
from autopilot.core.memory import Memory, Past
from autopilot.core.policy import Decision
from autopilot.core.progress import Death, EpochProgress, Position
from autopilot.core.records import message
from autopilot.core.records.history import History, KnownState
from autopilot.core.records.record import LlmRecord, MetricsRecord, StepRecord, TraceRecord
from autopilot.core.states import Results, val_record_on
from autopilot.core.stepping import Guard
from autopilot.core.store import Revision, Side, Store
from autopilot.core.types import Cost, Datum, Metrics
from autopilot.core.writing import (
    lesson_of,
    recorded_passes,
    trace_record,
    unmeasured_in,
    val_record,
)


@dataclass
class Draft:
    """The steps of an epoch, or of a candidate, and what was measured after them.

    Attributes:
        progress: The notes on it, over all sessions.
        side: Where a candidate stands; None: the epoch has one alone.
        state: The id of the parameters' state.
        recorded: Steps of before a kill: epoch and step to revision and record.
        steps: The steps that were made.
        items: Split to results for the policy, one Datum an item.
        passes: Those of each measurement of val.
        facts: Split and measurement to a record of where its results are from, without them.
        compared: Comparisons with other states, once made.
        recalled: How many of the results were known before, in a sentence.
        budget_line: The sentence on the budget that its step got.
        revision: Of a candidate: the revision with its state.
        metrics: Of a candidate: split to metric name to value.
        known: Of a candidate: the earlier measurement of its state, if there is one.
        errors: Of a candidate: the error messages of its items, if all of them failed.
        values: Of a candidate: the numbers and choices of its parameters.
        memorized: Of a candidate: the items that its edit has.
        calls: Of a candidate: the model calls that it paid.
        lent: Of a candidate: the model calls of the others, by names of their own but for those
            that measured a state.
        twin: Of a candidate: the one that came to the same state before it.
        is_beside: Of a candidate: it is not the best one.
        is_better: Of a candidate: it is better than the state that it started from.
        record: Of a candidate: its val record, once the epoch is over.
        cost: Of a candidate: its cost.
        decision: Of a candidate: the verdict on it.
    """

    progress: EpochProgress
    side: Side | None = None
    state: str = ""
    recorded: dict[tuple[int, int], tuple[str, StepRecord]] = field(default_factory=dict)
    steps: list[StepRecord] = field(default_factory=list)
    items: dict[str, list[Datum]] = field(default_factory=dict)
    passes: list[list[Datum]] = field(default_factory=list)
    facts: dict[tuple[str, int], TraceRecord] = field(default_factory=dict)
    compared: list[Compared] = field(default_factory=list)
    recalled: str = ""
    budget_line: str = ""
    revision: str = ""
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    known: KnownState | None = None
    errors: Sequence[str] = ()
    values: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    memorized: str = ""
    cost: Cost = Cost()
    decision: Decision | None = None
    calls: Sequence[LlmRecord] = ()
    lent: list[LlmRecord] = field(default_factory=list)
    twin: Draft | None = None
    record: MetricsRecord | None = None
    is_beside: bool = False
    is_better: bool = False

    @property
    def place(self) -> Side:
        """Where a candidate stands."""
        assert self.side is not None, "it is a candidate"
        return self.side

    @property
    def origin(self) -> str:
        """The name of the state that it started from; "" for the best one."""
        return self.side.origin if self.side else ""

    @property
    def stays(self) -> bool:
        """Whether it stays beside the best candidate, as a state to start from."""
        return self.is_beside and self.decision is not None and self.decision.kept

    @property
    def is_new(self) -> bool:
        """Whether its state was measured for it, not for an earlier epoch or candidate."""
        return self.known is None and self.twin is None

    @property
    def is_screened(self) -> bool:
        """Whether it was no better than what it was made from, on some train items."""
        return self.known is not None and self.known.outcome == "screened"

    @property
    def changed(self) -> bool:
        """Whether a step changed the parameters."""
        return any(step.changed for step in self.steps)

    @property
    def measured(self) -> str:
        """Its state, if it has a result of its own for each val item; else ""."""
        is_whole = self.is_new and not unmeasured_in(self.items.get("val", ()))
        return self.state if is_whole and self.changed else ""


class InProgress(History):
    """The part of an experiment that knows its epoch in progress.

    Attributes:
        store: Where states and records are kept.
        memory: Learns from each epoch.
        now: The epoch in progress, or the candidate of it that is being tried.
        best_items: The best epoch's val results, where they were recorded.
        monitored: How the metric that decides is computed from items.
        objectives: Other val metrics that a search looks at, each with "max" or "min".
        recorded: Of a run that is repeated: its record, which no noise has changed.
        measured_before: Of a run that is repeated: gives what was recorded of a state, by epoch and
            the number of the candidate, 0 for the epoch's own.
        trees_before: Of a run that is repeated: `MetricsRecord.trees` of each epoch. Where an older
            version did not record them, later epochs measured these states, too.
        repeat: How often each val item is measured.
        died: What ended its process before; noted when it is taken up.
        is_guest: Another process holds the experiment; this one works on a candidate alone.
        cache: Results of earlier experiments with the same content; None: all is measured.
        guard: Keeps steps to the parameters, and knows what evaluations read.
    """

    store: Store
    memory: Memory
    now: Draft
    best_items: Sequence[Datum]
    monitored: Monitored | None
    objectives: Mapping[str, str] = {}  # never changed
    recorded: Past | None
    measured_before: Callable[[int, int], Results | None] | None = None
    trees_before: Mapping[int, Sequence[str]] | None = None
    repeat: int
    died: list[Death]
    is_guest: bool
    cache: Known | None = None
    guard: Guard

    def val_of(self, epoch: int) -> tuple[Mapping[str, float], list[Datum]]:
        """An epoch's val metrics, and its results as they are recorded, one Datum an item.

        Unlike `best_items` these are the same in a resumed run, whatever JSON leaves out.
        """
        if self.recorded is not None:
            return self.recorded.val_of(epoch)
        return self.metrics[epoch].get("val", {}), averaged(self._passes_of(epoch))

    def _passes_of(self, epoch: int) -> list[list[Datum]]:
        record = self.record_of(epoch)
        # An edit that was taken back leaves a state that an earlier epoch measured.
        at = self.revision_of(record.measured)
        return recorded_passes(self.store.records_on, at, "val", record.measured)[: record.repeat]

    def _passes_known(self, known: KnownState | None) -> list[list[Datum]]:
        """The results of an earlier candidate, which stand in each epoch that comes to its state.

        So whoever reads an epoch's results need not know of another epoch's candidates.
        """
        if known is None or known.epoch is None or not known.candidate:
            return []
        at = self.record_of(known.epoch).revisions[known.candidate - 1]
        return recorded_passes(self.store.records_on, at, "val", known.epoch)

    def view(self, epoch: int, metrics: Metrics, monitor: str, mode: str, cost: Cost) -> EpochView:
        """An epoch for its policy."""
        return EpochView(
            epoch=epoch,
            metrics=metrics,
            baseline=self.metrics.get(0, {}),
            best=self.metrics.get(self.best_epoch, {}),
            monitor=monitor,
            mode=mode,
            items=self.now.items.get("val", ()),
            best_items=self.best_items,
            cost=cost,
            violations=message.worst_first(x for step in self.now.steps for x in step.violations),
            monitored=self.monitored,
            noise=self.noise,
            compared=self.now.compared,
        )

    def records_told(self) -> Iterator[MetricsRecord]:
        """The val records that an optimizer learns from, oldest first: all candidates' own."""
        for judged in self.history:
            for number, revision in enumerate(judged.revisions, 1):
                read, epoch = self.store.records_on, judged.epoch
                found = val_record_on(read, revision, epoch, number) if revision else None
                # One that changed nothing has no record of its own.
                yield found or replace(judged, candidate=number, revisions=(), outcome="unchanged")
            if not judged.revisions:
                yield judged

    def val_before(self) -> tuple[Mapping[str, float], list[Datum], int]:
        """Val metrics and results of the state that the attempt starts from, and their epoch."""
        side = self.now.side
        if side is None:
            return *self.val_of(self.best_epoch), self.best_epoch
        records = self.store.records_on(side.base, MetricsRecord)
        val = {record.id: record.metrics for record in records if record.split == "val"}
        metrics = val.get(f"{side.origin_epoch}-val") or next(iter(val.values()), {})
        passes = recorded_passes(self.store.records_on, side.base, "val", side.origin_epoch)
        return metrics, averaged(passes[: self.repeat]), side.origin_epoch

    @property
    def revision_before(self) -> str:
        """The revision that the attempt starts from."""
        return self.now.side.base if self.now.side else self.revision_of(self.best_epoch)

    def share(self, sides: Iterable[Side]) -> None:
        """Lets what was measured for other candidates count, where the state is the same."""
        self.now.lent = []
        for side in sides:
            notes, calls = self.store.progress_of(side)
            self.now.progress.borrow(notes)
            self.now.lent += calls

    @contextmanager
    def beside(self, side: Side) -> Iterator[Draft]:
        """In the body, steps and results are those of a candidate of the epoch in progress."""
        own, self.now = self.now, Draft(EpochProgress(self.store), side)
        self.store.enter(side)
        try:
            self._take_up()
            self.now.state = self.store.state()
            yield self.now
            self.now.revision, self.now.calls = self.store.tip, self.store.calls()
        finally:
            self.store.enter(None)
            self.now = own

    def recall(self, position: Position, batch: Datum) -> Datum | None:
        """A batch's or an item's result of before a kill, or of an earlier experiment."""
        found = self.progress.find(position, batch, self.now.state)
        if found is None and self.cache and (hit := self.cache.find(position, batch)):
            found, source = hit
            self.progress.note(position, batch, found, 0.0, self.now.state, source=source)
        return found

    def has(self, position: Position, batch: Datum) -> bool:
        """Whether a result would be recalled."""
        is_known = self.cache is not None and self.cache.find(position, batch) is not None
        return is_known or self.progress.has(position, batch, self.now.state)

    def end_pass(self, at: Position, items: int) -> int:
        """Takes down what a pass over so many items depends on; returns how many were known."""
        facts = self.progress.facts(at)
        if self.cache is not None and facts.reach:
            facts = replace(facts, given=self.cache.seen)
        self.now.facts[at.split, at.repeat] = facts
        if at.repeat == 0:
            self.now.recalled = known_sentence(facts, items) if facts.known else ""
        return facts.known

    @contextmanager
    def seeded(self, *parts: object) -> Iterator[None]:
        """In the body, chance follows from the parts; whether it is used is taken down."""
        seed_everything(*parts)
        before = generators(are_new=True) if self.cache is not None else ()
        yield
        if self.cache is not None and generators() != before:
            self.guard.use("chance")

    @property
    def progress(self) -> EpochProgress:
        """The notes on the attempt in progress."""
        return self.now.progress

    def _note_candidates(self, tried: Sequence[Draft], epoch: MetricsRecord) -> None:
        """Writes each candidate down, on its own revision if it has one."""
        leader, place = self.now, self.store.tip
        for attempt in tried:
            assert attempt.decision is not None, "it was judged"
            self.now, number = attempt, epoch.epoch
            own = f"{number}-c{attempt.place.number}"
            name, mode = epoch.monitor, epoch.mode
            view = self.view(number, attempt.metrics, name, mode, attempt.cost)
            record = val_record(self, view, attempt.decision, attempt.steps, attempt.known)
            record = replace(
                of_search(record, attempt),
                id=f"{own}-val",
                tree=attempt.state,
                inputs=epoch.inputs,
                repeat=self.repeat,
                known=attempt.recalled,
                values=attempt.values,
                # Which one is the best is known of the epoch alone.
                best=epoch.best,
                best_epoch=epoch.best_epoch,
                spent=epoch.spent,
            )
            numbered = enumerate(attempt.passes or self._passes_known(attempt.known))
            traces = [trace_record(number, "val", x, n, attempt.facts) for n, x in numbered]
            attempt.record, own_records = record, [*traces, record] if attempt.changed else []
            self.store.annotate(place, attempt.calls)
            self.store.annotate(attempt.revision, own_records)
            self.memory.learn(
                replace(lesson_of(self.store.slug, record, view, attempt.steps), id=own)
            )
        self.now = leader

    def _take_up(self) -> None:
        """Takes in what was done of the attempt before; the files are as it began with them."""
        last, now = self.last_epoch, self.now
        now.recorded = {(p[1].epoch, p[1].step): p for p in self.store.steps_since(last)}
        now.progress.load(last + 1, [n for epoch, n in now.recorded if epoch == last + 1])
        self.store.restore(start_of_epoch(self.store.newest(), last + 1))
        if now.side or not self.is_guest:
            for death in self.died:
                now.progress.note_death(death)
            self.died.clear()


def start_of_epoch(log: Iterable[Revision], epoch: int) -> str:
    """The revision that an epoch started from: the newest that is not one of its steps."""
    return next(r.id for r in log if r.trailer(message.EPOCH) != str(epoch))


def of_search(record: MetricsRecord, attempt: Draft, tried: Sequence[Draft] = ()) -> MetricsRecord:
    """The record of a candidate, or of an epoch whose best candidate it is.

    Args:
        tried: All candidates, of an epoch's record.
    """
    sides = [each.place for each in tried or [attempt]]
    return replace(
        record,
        candidate=attempt.place.number,
        revisions=tuple(each.revision if each.changed else "" for each in tried),
        trees=tuple("" if each is attempt else each.measured for each in tried),
        stay=tuple(number for number, each in enumerate(tried, 1) if each.stays),
        origin=attempt.origin,
        merged_with="".join(side.second for side in sides),
        origins=tuple(side.origin for side in sides) if tried else (),
        better=tuple(number for number, each in enumerate(tried, 1) if each.is_better),
    )
