"""Records: what they derive from their fields."""

from __future__ import annotations

from datetime import datetime

import pytest

from autopilot.core.records.record import Event, Lesson, TraceRecord
from autopilot.core.types import Datum, datum_to_json
from autopilot.errors import UsageError


def test_a_lesson_names_each_of_several_strategies_categories_and_modules() -> None:
    lesson = Lesson(strategy="prune + add", outcome="kept", category="billing", node="a + b")
    assert lesson.strategies() == ["prune", "add"]
    assert lesson.categories() == ["billing"]
    assert lesson.nodes() == ["a", "b"]
    assert Lesson(strategy="", outcome="kept").strategies() == []


def test_events_of_one_second_keep_their_order() -> None:
    events = [Event(name="started").stamped() for _ in range(5)]
    assert len({event.id for event in events}) == 5
    mixed = events[::-1]
    assert sorted(mixed, key=lambda event: event.order) == events
    assert datetime.fromisoformat(events[0].time).tzinfo is not None
    assert Event(name="started", id="by-hand").order == 0
    assert [Event(name="started", id=f"x-{end}").order for end in ("²", "9" * 5000)] == [0, 0]


def test_a_decision_is_promote_or_reject() -> None:
    event = Event.decided("promote", "good", "ada", 3, "c0ffee")
    assert (event.name, event.epoch, event.revision) == ("decided", 3, "c0ffee")
    with pytest.raises(UsageError, match="'maybe' is no decision"):
        Event.decided("maybe", "", "", 0, "")


def test_a_trace_gives_its_results_back() -> None:
    item = Datum(id="i", success=False, feedback="shorter", items=[Datum(id="j", metrics={"m": 1})])
    (back,) = TraceRecord(epoch=2, split="val", items=(datum_to_json(item),)).data()
    assert (back.epoch, back.split, back.outcome, back.feedback) == (2, "val", "failed", "shorter")
    assert back.items[0].metrics == {"m": 1}
