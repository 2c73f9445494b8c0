"""What is noted of a process that died, and what the next one makes of it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from autopilot.core.deaths import Death, Place, item_by_item
from autopilot.core.experiment import Experiment
from autopilot.core.parameter import Parameter
from autopilot.core.progress import ResultLog
from autopilot.core.store import InMemoryStore
from autopilot.core.types import Datum

BATCH = Place("val", 0, 2, is_running=True)
ITEMS = [Datum(id=name) for name in "abc"]


def reloaded(store: InMemoryStore) -> ResultLog:
    log = ResultLog(store)
    log.load(store.progress())
    return log


def test_a_death_is_known_to_the_next_process_until_the_files_are_others() -> None:
    store = InMemoryStore()
    log = ResultLog(store)
    log.note_death(Death(BATCH, "signal 11"))
    log.note_death(Death(Place("val", 0, 2, item=1), "exit code 3"))

    assert reloaded(store).deaths("val", 0, 2) == {-1: "signal 11", 1: "exit code 3"}
    assert reloaded(store).deaths("val", 0, 2, repeat=1) == {}
    log.void(0)
    assert reloaded(store).deaths("val", 0, 2) == {}


def test_the_time_of_items_counts_once() -> None:
    store = InMemoryStore()
    log = ResultLog(store)
    for position, item in enumerate(ITEMS):
        log.note("val", 0, 2, item, Datum(success=True), 2.0, "state", item=position)
    assert reloaded(store).seconds() == 6.0
    found = reloaded(store).find("val", 0, 2, ITEMS[1], "state", item=1)
    assert found is not None
    assert found.outcome == "passed"
    log.note("val", 0, 2, Datum(items=ITEMS), Datum(items=[Datum()] * 3), 7.0, "state")
    assert reloaded(store).seconds() == 7.0
    assert reloaded(store).lost.evaluations == 0


def opened(store: InMemoryStore) -> Experiment:
    experiment = Experiment(store)
    experiment.open([Parameter("text")])
    return experiment


def results(store: InMemoryStore, died: dict[int, str], items: Iterable[Datum]) -> dict[str, str]:
    """Item to outcome; what was evaluated has a star."""
    evaluated: list[str] = []

    def evaluate(one: Datum, _position: int) -> tuple[Datum, Datum | None]:
        evaluated.append(one.id)
        data = Datum(success=True)
        return data, data

    pairs = item_by_item(opened(store), BATCH, list(items), died, evaluate)
    return {one.id: data.outcome + "*" * (one.id in evaluated) for one, data in pairs}


def test_an_item_that_died_is_an_error_and_the_others_are_evaluated_once() -> None:
    store = InMemoryStore()
    died = {-1: "signal 11"}
    assert results(store, died, ITEMS) == {"a": "passed*", "b": "passed*", "c": "passed*"}
    again = results(store, died | {1: "signal 11"}, ITEMS)
    assert again == {"a": "passed", "b": "error", "c": "passed"}
    assert results(InMemoryStore(), died, ITEMS[:1]) == {"a": "error"}


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (Place(), "before the experiment was open"),
        (Place("step", 2, 1), "in step 1 of epoch 2"),
        (BATCH, "in val batch 2 of epoch 0"),
        (Place("val", 0, 2, item=1, is_running=True), "in item 1 of val batch 2 of epoch 0"),
        (Place("train", 3, 0), "after train batch 0 of epoch 3"),
    ],
)
def test_a_place_is_told_in_words(place: Place, text: str) -> None:
    assert str(place) == text
