"""Notes on the epoch in progress: results, deaths, and what the next process makes of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autopilot.core.evaluation import Evaluator
from autopilot.core.experiment import Experiment
from autopilot.core.module import AutoPilotModule
from autopilot.core.parameter import Parameter
from autopilot.core.progress import Death, EpochProgress, Position
from autopilot.core.records.record import TraceRecord
from autopilot.core.store import InMemoryStore
from autopilot.core.types import Cost, Datum

BATCH = Position("val", 0, 2, is_running=True)
ITEMS = [Datum(id=name) for name in "abc"]


def reloaded(store: InMemoryStore) -> EpochProgress:
    log = EpochProgress(store)
    log.load(0)
    return log


def test_a_death_is_known_to_the_next_process_until_the_files_are_others() -> None:
    store = InMemoryStore()
    log = EpochProgress(store)
    log.note_death(Death(BATCH, "signal 11", "bye"))
    log.note_death(Death(Position("val", 0, 2, item=1), "exit code 3"))

    deaths = reloaded(store).deaths(BATCH)
    assert {item: (note.died, note.printed) for item, note in deaths.items()} == {
        -1: ("signal 11", "bye"),
        1: ("exit code 3", ""),
    }
    assert reloaded(store).deaths(Position("val", 0, 2, repeat=1)) == {}
    log.void(0)
    assert reloaded(store).deaths(BATCH) == {}


def test_the_time_of_items_counts_once() -> None:
    store = InMemoryStore()
    log = EpochProgress(store)
    for position, item in enumerate(ITEMS):
        log.note(replace(BATCH, item=position), item, Datum(success=True), 2.0, "state")
    assert reloaded(store).seconds() == 6.0
    found = reloaded(store).find(replace(BATCH, item=1), ITEMS[1], "state")
    assert found is not None
    assert found.outcome == "passed"
    log.note(BATCH, Datum(items=ITEMS), Datum(items=[Datum()] * 3), 7.0, "state")
    assert reloaded(store).seconds() == 7.0
    assert reloaded(store).lost.evaluations == 0


class Passes(AutoPilotModule):
    """Passes every item but one, which ends the process."""

    def __init__(self, deadly: str = "") -> None:
        super().__init__()
        self.deadly, self.seen = deadly, []

    def forward(self, batch: Datum) -> Datum:
        self.seen += [item.id for item in batch.items]
        if self.deadly in self.seen:
            raise KeyboardInterrupt
        return Datum(items=[Datum(success=True) for _ in batch.items])


def results(
    store: InMemoryStore, died: dict[int, str], items: list[Datum], deadly: str = ""
) -> dict[str, str]:
    """Item to outcome after deaths in its batch; what was evaluated has a star."""
    experiment, module = Experiment(store), Passes(deadly)
    experiment.open([Parameter("text")])
    for item, reason in died.items():
        experiment.progress.note_death(Death(replace(BATCH, item=item), reason))
    experiment.progress.load(0)  # as a resumed run does
    data = Evaluator(module, experiment, 0).run(BATCH, Datum(items=items))
    return {item.id: item.outcome + "*" * (item.id in module.seen) for item in data.leaves()}


def test_an_item_that_died_is_an_error_and_the_others_are_evaluated_once() -> None:
    store = InMemoryStore()
    with pytest.raises(KeyboardInterrupt):
        results(store, {-1: "signal 11"}, ITEMS, deadly="b")
    again = results(store, {1: "signal 11"}, ITEMS)
    assert again == {"a": "passed", "b": "error", "c": "passed*"}
    assert results(store, {}, ITEMS) == {"a": "passed", "b": "error", "c": "passed"}
    assert results(InMemoryStore(), {-1: "exit code 3"}, ITEMS[:1]) == {"a": "error"}


def test_a_known_result_is_known_after_a_kill_and_cost_nothing() -> None:
    store, batch = InMemoryStore(), Datum(items=ITEMS)
    data = Datum(items=[Datum(id=item.id, success=True) for item in ITEMS])
    EpochProgress(store).note(BATCH, batch, data, 0.0, "state", source="a-1@4")
    progress = reloaded(store)
    found = progress.find(BATCH, batch, "state")
    assert found is not None
    assert [item.outcome for item in found.items] == ["passed"] * 3
    assert progress.facts(BATCH) == TraceRecord(split="val", source="a-1@4", known=3)
    progress.void(0)
    assert reloaded(store).lost.evaluations == 0
    # Once the same state was measured otherwise, it is to be measured.
    again = EpochProgress(store)
    again.note(BATCH, batch, data, 0.0, "state", source="a-1@4")
    again = reloaded(store)
    again.distrusts = True
    assert again.find(BATCH, batch, "state") is None


@pytest.mark.parametrize(
    ("position", "text"),
    [
        (Position(), "while the target was loaded"),
        (Position("load", is_running=True), "while the target was imported"),
        (Position("load"), "after the target was imported"),
        (Position("step", 2, 1), "in step 1 of epoch 2"),
        (Position("stepped", 2, 1), "after step 1 of epoch 2"),
        (BATCH, "in val batch 2 of epoch 0"),
        (Position("val", 0, 2, item=1, is_running=True), "in item 1 of val batch 2 of epoch 0"),
        (Position("train", 3, 0), "after train batch 0 of epoch 3"),
    ],
)
def test_a_position_in_words(position: Position, text: str) -> None:
    assert str(position) == text


def test_a_result_with_a_graph_stands_in_for_its_call_once_its_step_is_made() -> None:
    store, train = InMemoryStore(), Position("train", 1, 0)
    log, batch = EpochProgress(store), Datum(items=ITEMS)
    results = [Datum(success=False, metadata={"odd": (1, 2)}) for _ in ITEMS]
    for _ in range(2):
        log.note(train, batch, Datum(items=results), 2.0, "state", waits=True)
    log.start_step(1, 1, "", {})
    log.note(replace(train, number=1), batch, Datum(items=results), 3.0, "later", waits=True)

    log.load(1)
    assert log.find(train, batch, "state") is None
    assert (log.lost.evaluations, log.seconds()) == (9, 7.0)
    log.load(1, made=[1])
    found = log.find(train, batch, "state")
    assert found is not None
    # What JSON cannot carry is left out: of a step that is made, nobody asks for it.
    assert [(item.outcome, item.metadata) for item in found.items] == [("failed", {})] * 3
    assert log.find(replace(train, number=1), batch, "later") is None
    assert (log.lost.evaluations, log.seconds()) == (6, 7.0)


def test_a_restart_is_part_of_the_epochs_time() -> None:
    store = InMemoryStore()
    log = EpochProgress(store)
    log.note_restart(0, 0.5, is_death=False)
    log.note_restart(0, 1.0, is_death=True)
    log.note_rest(0, 2.0, ["feedback is missing"], "enough")
    again = reloaded(store)
    assert (again.restarts, again.restarts_s, again.seconds()) == (1, 0.5, 2.0)
    assert again.lost == Cost(seconds=1.5)
    assert (again.notes, again.stop) == (("feedback is missing",), "enough")
