"""Records made of what happened: results whose payload JSON cannot carry."""

from __future__ import annotations

from autopilot.core.types import Datum
from autopilot.core.writing import trace_record


def test_a_payload_that_is_no_json_costs_itself_and_not_the_result() -> None:
    items = [
        Datum(id="a", metadata={"x": object()}, success=False, feedback="mend it"),
        Datum(id="b", metadata={"x": {1, 2}}, error_message="it raised", metrics={"f1": 0.5}),
        Datum(id="c", metadata={"x": b"1"}, unmeasured="429"),
        Datum(id="d", metadata={"x": object()}),
        Datum(id="e", metadata={"x": "text"}, success=True),
    ]
    trace = trace_record(3, "val", items)
    assert trace.data() == [
        Datum(id="a", split="val", epoch=3, success=False, feedback="mend it"),
        Datum(id="b", split="val", epoch=3, error_message="it raised", metrics={"f1": 0.5}),
        Datum(id="c", split="val", epoch=3, unmeasured="429"),
        Datum(id="d", split="val", epoch=3),
        # Only what JSON cannot carry is left out, and of its own item.
        Datum(id="e", split="val", epoch=3, metadata={"x": "text"}, success=True),
    ]
    assert [item.outcome for item in trace.data()] == [item.outcome for item in items]
