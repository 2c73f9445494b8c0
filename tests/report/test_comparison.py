"""autopilot.report.comparison: changes and outcomes in the words of tables, pages, documents."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from autopilot.core.memory import Memory
from autopilot.core.records.record import Event, Lesson
from autopilot.core.types import Datum
from autopilot.git.objects import LineCounts
from autopilot.report.comparison import (
    by_strategy,
    decision_line,
    event_detail,
    file_documents,
    file_rows,
    file_totals,
    item_outcomes,
)

COUNTS = {"a b.txt": LineCounts(3, 1, False), "logo.png": LineCounts(0, 0, True)}


def test_files_read_the_same_in_a_table_and_in_a_document():
    assert file_rows(COUNTS) == [["a b.txt", "+3", "-1"], ["logo.png", "binary", ""]]
    assert file_documents(COUNTS)[1] == {
        "path": "logo.png",
        "added": 0,
        "removed": 0,
        "binary": True,
    }
    assert file_totals(COUNTS) == "2 files, +3 -1"
    assert file_totals({}) == "0 files, +0 -0"


def test_strategies_are_counted_and_those_that_gained_most_come_first():
    memory = Memory(block_after=1)
    outcomes = [
        ("guess", "unchanged", None),
        ("prune + guess", "kept", 0.25),
        ("merge", "kept", 0.5),
    ]
    for epoch, (strategy, outcome, delta) in enumerate(outcomes, 1):
        memory.learn(Lesson(epoch=epoch, strategy=strategy, outcome=outcome, delta=delta))
    memory.block_strategy("prune", "too risky")
    names = ("strategy", "used", "kept", "failed", "gain", "blocked")
    assert [tuple(row[name] for name in names) for row in by_strategy(memory)] == [
        ("merge", 1, 1, 0, 0.5, None),
        ("guess", 2, 1, 1, 0.25, None),
        ("prune", 1, 1, 0, 0.25, "too risky"),
    ]


def test_a_decision_says_who_what_and_where_to():
    event = Event.decided("promote", "holds on test", "Ada", 3, "a" * 40)
    assert decision_line(event) == "epoch 3 (aaaaaaa) promoted by Ada: holds on test"
    assert event_detail(event, {}) == decision_line(event)
    assert event_detail(Event(epoch=2, name="stopped", detail="patience"), {}) == "patience"


@given(st.lists(st.sampled_from([True, False, None]), min_size=1))
def test_what_items_came_to_counts_each_of_them_once(given_):
    items = [Datum(success=s, metrics={"score": 0.5} if s is None else {}) for s in given_]
    told = item_outcomes(items, "score")
    assert sum(int(part.split()[0]) for part in told.split(", ")) == len(items)
    assert ("graded by score" in told) == (None in given_)
