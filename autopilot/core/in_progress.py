"""The epoch in progress of an experiment, or the candidate of it that is being tried."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from autopilot.core.comparison import EpochView, Monitored, averaged
from autopilot.core.draft import Draft
from autopilot.core.interpreter import generators, seed_everything
from autopilot.core.known import Known, known_sentence
from autopilot.core.memory import Memory, Past
from autopilot.core.progress import Death, EpochProgress, Position
from autopilot.core.records import message
from autopilot.core.records.history import History
from autopilot.core.records.record import MetricsRecord, TraceRecord
from autopilot.core.states import Results, val_record_on
from autopilot.core.stepping import Guard
from autopilot.core.store import Revision, Side, Store
from autopilot.core.types import Cost, Datum, Metrics
from autopilot.core.writing import lesson_of, of_search, recorded_passes, trace_record, val_record


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
        measured = epoch if record.reused is None else record.reused
        passes = recorded_passes(self.store.records_on, self.revision_of(measured), "val", measured)
        return passes[: record.repeat]

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
        source, reach, known = self.progress.facts(at)
        given = self.cache.seen if self.cache is not None and reach else ""
        facts = TraceRecord(
            split=at.split, repeat=at.repeat, given=given, reach=reach, source=source, known=known
        )
        self.now.facts[at.split, at.repeat] = facts
        if at.repeat == 0:
            self.now.recalled = known_sentence(facts, items) if known else ""
        return known

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
            numbered = enumerate(attempt.passes)
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
