"""The experiment: its measurements, its best state, and going on after a kill.

It stands between the loop, which knows what happens, and the store, which knows how to keep it.
An epoch's metrics record is its commit point: everything before it is repeated by a resumed run
(answered from what was recorded on the way), everything after it is derived from it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from operator import attrgetter
from typing import Any

from autopilot import __version__
from autopilot.core.comparison import Monitored, mean_items
from autopilot.core.in_progress import Draft, InProgress, of_search, start_of_epoch
from autopilot.core.interpreter import Interpreter, Jobs, Machines
from autopilot.core.known import is_plain
from autopilot.core.memory import Memory, Past
from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.parameter import Parameter, values_of
from autopilot.core.people import People
from autopilot.core.policy import Decision
from autopilot.core.progress import Death, EpochProgress, Position, PositionLog
from autopilot.core.records import message
from autopilot.core.records.history import KnownState, Summary, environment_at, summarize
from autopilot.core.records.index import numbers_of
from autopilot.core.records.record import (
    Decide,
    Event,
    Manifest,
    MetricsRecord,
    ProgressNote,
    StepRecord,
)
from autopilot.core.states import val_record_on
from autopilot.core.stepping import Guard, check_inputs
from autopilot.core.store import InMemoryStore, Store
from autopilot.core.types import Cost, Datum, Gain, Metrics, Noise
from autopilot.core.writing import (
    check_states,
    complete,
    lesson_of,
    other_records,
    step_record,
    trace_record,
    unmeasured_in,
    val_record,
)
from autopilot.errors import ExperimentError, InputsChangedError, ParameterError, UsageError


class Experiment(InProgress):
    """An experiment in a store, with its memory.

    Attributes:
        ignore_stop: Go on although the last epoch recorded a reason to stop.
        only_recorded: Model calls are answered from records; one that has none is an error.
        known_noise: Of a run that is repeated: the recorded noise of its baseline.
        repeats: Of a run that is repeated: epoch, candidate and step to the recorded revision and
            its record.
        changes: Options in the place of the manifest's; written down when it goes on.
        violations: Changes that the step in progress tried beside the parameters.
        positions: Takes down where the run is.
        people: What people say to the run.
        is_open: Whether this object holds the experiment.
        interpreter: Says whether this process may evaluate the present state.
        jobs: Evaluates items in processes of their own; None: in this one.
        machines: Evaluate batches at workers; None: they are evaluated here.
        is_replacement: This process goes on where another one of the same run ended.

    Args:
        store: Where states and records are kept; in this process, if not given.
        memory: Learns from each epoch; in this process, if not given.
        manifest: Written down at the start: idea, hypothesis and the like.

    >>> from autopilot.core.optimizer import Optimizer, Step
    >>> class Increment(Optimizer):
    ...     def step(self):
    ...         self.parameters[0].data += 1
    ...         return Step("add one", "increment")
    >>> optimizer, experiment = Increment([Parameter(0)]), Experiment()
    >>> experiment.attach(optimizer)
    >>> _ = optimizer.step()
    >>> print(experiment.store.log()[0].message.splitlines()[0])
    autopilot(in-memory): epoch 1: add one
    """

    def __init__(
        self,
        store: Store | None = None,
        memory: Memory | None = None,
        manifest: Manifest | None = None,
    ) -> None:
        super().__init__(lambda revision: self.store.records_on(revision, MetricsRecord))
        self.store = InMemoryStore() if store is None else store
        self.memory = Memory() if memory is None else memory
        if self.memory.store is None:
            self.memory.store = self.store
        self.manifest = manifest or Manifest(slug=self.store.slug)
        self.best_items: Sequence[Datum] = ()
        self._parameters: list[Parameter] = []
        self.now, self.people = Draft(EpochProgress(self.store)), People(self.store)
        self.is_open = self._by_hand = self.ignore_stop = self.only_recorded = False
        self.repeat = 1
        self.known_noise: Noise | None = None
        self.recorded: Past | None = None
        self.repeats: Mapping[tuple[int, int, int], tuple[str, StepRecord]] = {}
        self.changes: Mapping[str, Any] = {}
        self.guard, self.violations = Guard(), list[str]()
        self._environment: dict[str, str] = {}
        self.monitored: Monitored | None = None
        self.positions, self.died = PositionLog(), list[Death]()
        self.interpreter, self.is_replacement, self.is_guest = Interpreter(), False, False
        self.jobs: Jobs | None = None
        self.machines: Machines | None = None

    # --- reading -------------------------------------------------------------------------------

    @property
    def slug(self) -> str:
        """Its name."""
        return self.store.slug

    def known_state(self) -> KnownState | None:
        """The present state as an earlier epoch measured it, if one did."""
        return self.known(self.now.state, self.now.steps, self.now.origin)

    def judged_before(self) -> str:
        """The title of the epoch, or its candidate, whose verdict on the present state stands."""
        known = self.measurement(self.store.state())
        is_final = known and not known.unmeasured and self.stands(known, self.now.origin)
        return known.title if known and is_final else ""

    # --- opening -------------------------------------------------------------------------------

    def open(self, parameters: Iterable[Parameter]) -> Mapping[str, Any]:
        """Begins the experiment, or goes on with it where it was left, half-done work finished.

        Returns:
            The saved states of the last epoch: "optimizer" and "callbacks"; empty for a new one.

        Raises:
            ParameterError: a parameter that the store cannot keep, or that was edited by hand.
            LockHeldError: another process is running it.
        """
        if self.is_open:
            # Whatever this object was in the middle of, it goes on as a new process would.
            self.close()
        self._parameters = list(parameters)
        self.store.bind(self._parameters)
        if self.store.exists():
            self.store.reopen()
            self._recall()
            if not self.is_replacement:
                self._event("resumed", options=self.changes, version=__version__)
        else:
            self.store.begin(complete(self.manifest))
            self._event("started")
        noted = self.store.records_on(self.store.start, Manifest)
        self.memory.taken = (noted or [self.manifest])[0].taken
        self.now.state = self.store.state()
        self.is_open = True
        return self.history[-1].state if self.history else {}

    def attach(self, optimizer: Optimizer) -> None:
        """Makes each `optimizer.step()` of a manual loop a commit: an epoch of its own.

        Close the experiment after the loop: that writes down that it came to its end.
        """
        self.open(optimizer.parameters)
        self._by_hand = True

        def commit(_optimizer: Optimizer, step: Step | None) -> None:
            known = [epoch for epoch, _ in self.now.recorded]
            known += [record.epoch for record in self.now.steps]
            self.commit_step(optimizer, max([self.last_epoch, *known, 0]) + 1, 1, step)

        if self.now.recorded:
            optimizer.load_state_dict(self.now.recorded[max(self.now.recorded)][1].state)
        optimizer.register_step_post_hook(commit)

    def _recall(self) -> None:
        self.now, self.best_items = Draft(EpochProgress(self.store)), ()
        index = self.store.index()
        self.load_history(index)
        if len(self.epochs) <= self.last_epoch:
            self.store.refuse_gap([judged.number for judged in self.epochs])
        self._checked_inputs()
        events, last = self.events, self.last_epoch
        self.people.load(events, index.wishes, self.store.records_on)
        self._environment = environment_at(events)
        self.memory.reload(last)
        if not self.is_replacement:  # of a process that is replaced, only the last can be half done
            for number in self.store.untagged(numbers_of(self.kept)):
                if number != last:
                    self._finish(self.record_of(number), self.revision_of(number))
        if self.history:
            self._finish(self.history[-1], self.revision_of(last))
            if not self.is_guest:
                self.store.forget_candidates(last)
            self.best_items = mean_items(self._passes_of(self.best_epoch))
        self._take_up()

    def _finish(self, record: MetricsRecord, revision: str, tried: Sequence[Draft] = ()) -> None:
        """Does what follows from an epoch's record, unless it is done."""
        written = {attempt.place.number: attempt.record for attempt in tried}
        for number in record.stay:
            own, read = record.revisions[number - 1], self.store.records_on
            each = written.get(number) or val_record_on(read, own, record.epoch, number)
            if each is not None:
                text = message.tag_message(self.slug, each, {"val": each.metrics})
                self.store.tag_candidate(record.epoch, number, own, text)
        if record.verdict != "rejected":
            text = message.tag_message(self.slug, record, self.metrics[record.epoch])
            self.store.tag(record.epoch, revision, text)
            return
        for above in self.store.newest():
            # The commit that ends an epoch of several candidates is its own rollback.
            if above.trailer(message.REJECTED) == str(record.epoch):
                return
            if above.id == revision:
                break
        best = self.revision_of(record.best_epoch)
        self.store.rollback(best, message.rollback_message(self.slug, record))

    # --- batches -------------------------------------------------------------------------------

    def remember(
        self, position: Position, batch: Datum, data: Datum, seconds: float, *, waits: bool = False
    ) -> None:
        """Keeps a batch's or an item's result at once, with its cost.

        Args:
            waits: It stands in for its call only once its step is made: a kill before repeats it.

        Raises:
            ParameterError: a file was edited by hand meanwhile; the result is of no known state.
        """
        if self.store.is_shared:
            self.check_unedited()
        # What happens on other machines is not known here.
        is_here = self.machines is None and position.split != "train"
        is_taken = self.cache and is_here and (position.item >= 0 or is_plain(data, batch))
        reach = self.cache.reach() if self.cache and is_taken else ()
        state = self.now.state
        self.progress.note(position, batch, data, seconds, state, waits=waits, reach=reach)
        self.people.look()

    def deaths(self, position: Position, size: int) -> Mapping[int, ProgressNote]:
        """Called before a batch of so many items is evaluated: the deaths in it.

        Returns:
            An item's position, or -1 for the batch, to its note; of all if nothing can be imported.

        Raises:
            Restart: another process is to do it: this one has imported another state's files.
        """
        # Before a step that is recorded, this process has the step's files already.
        is_ahead = position.split == "train" and self.now.recorded
        why = "" if is_ahead else self.interpreter.check(self.now.state)
        return self.progress.deaths(position, size, why)

    def void_results(self) -> None:
        """Voids the results of the epoch in progress: they are made again."""
        self.progress.void(self.last_epoch + 1)

    # --- steps ---------------------------------------------------------------------------------

    def has_step(self, epoch: int, step: int) -> bool:
        """Whether a step, or a later one of its epoch, was recorded before a kill."""
        return any(at == epoch and step <= number for at, number in self.now.recorded)

    def replay_step(self, optimizer: Optimizer, epoch: int, step: int) -> StepRecord | None:
        """Repeats a recorded step: its state and the optimizer's, without running it.

        Returns:
            Its record; None if the step was not recorded before a kill, and is to be made.
        """
        if (epoch, step) not in self.now.recorded:
            return None
        revision, record = self.now.recorded.pop((epoch, step))
        if record.changed:
            self.store.restore(revision)
            self.now.state = self.store.state()
        optimizer.load_state_dict(record.state)
        self.positions.at(Position("stepped", epoch, step))
        self.now.steps.append(record)
        return record

    def begin_step(self, epoch: int, step: int, budget_line: str = "") -> str:
        """Marks what changes in the files from now on as the optimizer's.

        Returns:
            The sentence that the step was first begun with, so that a repeated step asks the same.

        Raises:
            ParameterError: a file was edited by hand; the edit is kept.
        """
        self.check_unedited()
        self.positions.at(Position("step", epoch, step))
        self.violations.clear()
        candidate = self.now.side.number if self.now.side else 0
        recorded = self.repeats.get((epoch, candidate, step), ("", None))[1]
        words = recorded.wishes if recorded else self.progress.words(epoch, step)
        words = self.people.begin_step(epoch, step, words, is_fixed=recorded is not None)
        budget_line = recorded.told or budget_line if recorded else budget_line
        self.now.budget_line = self.progress.start_step(epoch, step, budget_line, words)
        return self.now.budget_line

    def check_unedited(self) -> None:
        """Stops a run whose files are edited by hand, or by its own module.

        Raises:
            ParameterError: it names the file.
        """
        if edited := self.store.edited():
            if not self.store.is_shared:  # results since the edit cannot be told apart
                self.void_results()
            again = f"autopilot resume {self.slug}" if self.last_epoch >= 0 else "run it again"
            raise ParameterError(
                f"{edited[0]} was edited during the run, not by the optimizer (modules only read)",
                hint=f"undo it, stash it or let git ignore it, then: {again}",
            )

    def undo_step(self) -> None:
        """Takes back the edits of an optimizer that failed or was interrupted."""
        start = start_of_epoch(self.store.newest(), self.last_epoch + 1)
        self.store.restore(self.store.tip if any(r.changed for r in self.now.steps) else start)
        self.people.end_step(is_made=False)
        self.progress.end_step(self.last_epoch + 1)

    def commit_step(
        self, optimizer: Optimizer, epoch: int, number: int, step: Step | None, error: str = ""
    ) -> StepRecord:
        """Records a step; a step that changed the parameters is a commit."""
        state = self.store.state()
        changed = state != self.now.state
        tried, budget = self.violations, self.now.budget_line
        record = step_record(optimizer, epoch, number, step, error, tried, budget, changed=changed)
        if (side := self.now.side) is not None:
            name = f"{epoch}-c{side.number}-{number}"
            record = replace(record, id=name, candidate=side.number, origin=side.origin)
            if side.second and not any(each.changed for each in self.now.steps):
                merge = f"merge of {side.origin} and {side.second}"
                summary = ": ".join(filter(None, [merge, record.summary]))
                record = replace(record, merged_with=side.second, summary=summary)
        record = replace(record, wishes=self.people.end_step(is_made=not error))
        if record.changed:
            text = message.step_message(self.slug, record)
            # Stores that merge nothing need not take it.
            beside = [[side.theirs]] if side and record.merged_with else []
            self.store.commit(state, text, [record], *beside)
            self.now.state = state
        else:
            self.store.annotate(self.store.tip, [record])
        self.now.steps.append(record)
        self.progress.end_step(epoch)
        self.positions.at(Position("stepped", epoch, number))
        return record

    # --- epochs --------------------------------------------------------------------------------

    def on_validation_complete(
        self, items: Mapping[str, list[Datum]], results: Sequence[list[Datum]] = ()
    ) -> None:
        """The epoch is measured.

        Args:
            items: Split to results for the policy, one Datum an item.
            results: Those of each measurement of val; the same, where there was one.
        """
        self.now.items, self.now.passes, self.now.compared = dict(items), list(results), []

    def on_epoch_complete(
        self,
        epoch: int,
        metrics: Metrics,
        decision: Decision,
        *,
        monitor: str = "accuracy",
        mode: str = "max",
        known: KnownState | None = None,
        cost: Cost = Cost(),  # frozen
        stop: str = "",
        state: Mapping[str, Any] | None = None,
        tried: Sequence[Draft] = (),
    ) -> MetricsRecord:
        """Writes the epoch down: traces, lesson, metrics; then tags it, or rolls back.

        Args:
            tried: The candidates of an epoch that has several; the present attempt is the best.

        Returns:
            The val record.
        """
        self.check_unedited()
        inputs = self._checked_inputs()
        view = self.view(epoch, metrics, monitor, mode, cost)
        check_states(state or {})
        record = replace(
            val_record(self, view, decision, self.now.steps, known),
            tree=self.now.state,
            inputs=inputs,
            stop=stop,
            state=state or {},
            repeat=self.repeat,
            known=self.now.recalled,
            objectives=self.objectives if epoch == 0 else {},
            restarts=self.progress.restarts,
            restarts_s=self.progress.restarts_s,
            values=self.now.values if tried else values_of(self._parameters),
        )
        if tried:
            record = of_search(record, self.now, tried)
            if self.trees_before is not None:
                record = replace(record, trees=tuple(self.trees_before.get(epoch, ())))
        if is_joined := any(attempt.changed for attempt in tried):
            onto = self.now.revision if decision.kept else self.revision_of(self.best_epoch)
            beside = [attempt.revision for attempt in tried if attempt.changed]
            self.store.stage(onto, beside, message.search_message(self.slug, record))
        revision = self.store.tip
        found = self.now.passes or self._passes_known(known)
        passes = [("val", items, number) for number, items in enumerate(found)]
        measured = passes or [(split, items, 0) for split, items in self.now.items.items()]
        facts = self.now.facts
        self.store.annotate(revision, [trace_record(epoch, *x, facts) for x in measured])
        if tried:
            with self.store.together():
                self._note_candidates(tried, record)
        elif epoch > 0:
            self.memory.learn(lesson_of(self.slug, record, view, self.now.steps))
        judged = [*other_records(epoch, metrics, decision.verdict), record]
        self.store.annotate(revision, [*self.store.calls(), *judged])
        if is_joined:
            self.store.publish()
        self.add_epoch(judged, revision)
        if decision.kept:
            is_new, best = known is None, self.now.items.get("val", [])
            self.best_items = best if is_new else mean_items(self._passes_of(self.best_epoch))
        self.now = Draft(EpochProgress(self.store))
        self._finish(record, revision, tried)
        self.now.state = self.record_of(record.best_epoch).tree
        self._note_environment()
        self.store.clear_progress()
        self.store.forget_candidates(epoch)
        return record

    def on_test_complete(
        self,
        metrics: Mapping[str, float],
        items: list[Datum],
        epoch: int | None = None,
        gain: Gain | None = None,
    ) -> None:
        """Writes a test score down.

        Args:
            epoch: The epoch that was scored; the best one if not given.
        """
        judged = self.record_of(self.best_epoch if epoch is None else epoch)
        epoch, inputs = judged.epoch, self._checked_inputs()
        revision = self.revision_of(epoch)
        trace = trace_record(epoch, "test", items, facts=self.now.facts)
        self.store.annotate(revision, [trace])
        record = MetricsRecord(
            epoch=epoch,
            id=f"{epoch}-test",
            split="test",
            metrics=metrics,
            verdict=judged.verdict,
            inputs=inputs,
            test_gain=gain,
            known=self.now.recalled,
            unmeasured=unmeasured_in(items),
        )
        self.store.annotate(revision, [*self.store.calls(), record])
        self.read_again(epoch)
        self._note_environment()
        self.store.clear_progress()

    def on_loop_complete(self, name: str, detail: str) -> None:
        """Writes down how the session ended: "stopped", "finished", "interrupted" or "crashed"."""
        # A process that only scores the test split comes to the end of the loop again.
        again = self.is_replacement and [(e.name, e.detail) for e in self.events[-1:]]
        if again != [(name, detail)]:
            self._event(name, detail)

    def rollback(self, epoch: int | None = None) -> None:
        """Puts the parameters into a kept epoch's state, the best one's if not given.

        Raises:
            ExperimentError: the epoch was not kept.
        """
        self.store.checkout(self.best_epoch if epoch is None else epoch)
        self.now.state = self.store.state()

    @contextmanager
    def at(self, epoch: int) -> Iterator[None]:
        """In the body, the parameters are in a kept epoch's state; then in the best one's."""
        moves = epoch != self.best_epoch
        if moves:
            self.rollback(epoch)
        try:
            yield
        finally:
            if moves:
                self.rollback()

    def decide(
        self, decision: Decide, reason: str = "", reviewer: str = "", epoch: int | None = None
    ) -> None:
        """Writes a person's decision down, among the events; the latest one holds.

        It moves nothing: the command that promotes an epoch merges it.

        Args:
            reason: Why, in one sentence.
            reviewer: Who decided.
            epoch: The epoch that was decided on; the best one if not given.

        Raises:
            UsageError: another word, or an epoch that was not judged.
        """
        epoch = self.best_epoch if epoch is None else epoch
        if epoch not in self.metrics:
            hint = "decide on an epoch that was measured"
            raise UsageError(f"{self.slug} has no judged epoch {epoch}", hint=hint)
        revision = self.revision_of(epoch)
        self._annotate_start(Event.decided(decision, reason, reviewer, epoch, revision))

    @property
    def events(self) -> list[Event]:
        """Events of the experiment as a whole, oldest first; epochs are in `history`."""
        if not self.store.exists():
            return []
        return sorted(self.store.records_on(self.store.start, Event), key=attrgetter("order"))

    def summary(self) -> Summary:
        """A summary of the experiment so far; open or not.

        Raises:
            ExperimentError: it has not begun.
        """
        if not self.store.exists():
            hint = "fit a Trainer with it, or attach it to an optimizer"
            raise ExperimentError(f"the experiment {self.slug} has not begun", hint=hint)
        index = self.store.index()
        if not self.is_open:
            self.load_history(index)
        manifests = self.store.records_on(self.store.start, Manifest)
        metrics = self.metrics.get(self.best_epoch, {})
        manifest, last = [*manifests, self.manifest][0], self.history[-1] if self.history else None
        test = self.test_gain(self.best_epoch)
        return summarize(manifest, index, last, metrics, self.events, test)

    def close(self) -> None:
        """Lets go of the store."""
        if self.is_open and self._by_hand:
            steps = len(self.now.steps) + len(self.now.recorded)
            self._event("stopped", f"{steps} step{'s' * (steps != 1)} of a manual loop")
        self.store.close()
        self.is_open = self._by_hand = False

    def _checked_inputs(self) -> Mapping[str, str]:
        """The files that evaluations read; raises if one differs from the baseline's."""
        now = self.guard.inputs(self.inputs)
        try:
            check_inputs(self.inputs, now or {}, self.slug)
        except InputsChangedError:
            self.void_results()
            raise
        return now or {}

    def _note_environment(self) -> None:
        """Writes down what evaluations depend on, where that is new."""
        now = self.guard.environment()
        new = {name: value for name, value in now.items() if self._environment.get(name) != value}
        if new:
            self._environment |= new
            self._event("measured", environment=new)

    def _event(self, name: str, detail: str = "", **more: Any) -> None:
        if self.is_guest:
            return
        epoch = max(self.last_epoch, 0)
        self._annotate_start(Event(epoch=epoch, name=name, detail=detail, **more))

    def _annotate_start(self, event: Event) -> None:
        self.store.annotate(self.store.start, [event.stamped()])
