"""Items and packed rows of a report, within their limits."""

from __future__ import annotations

import base64
import json
import zlib

from hypothesis import given
from hypothesis import strategies as st

from autopilot.core.records.record import TraceRecord
from autopilot.report import contents
from autopilot.report.contents import Results, packed


def test_limits_on_items_are_counted(monkeypatch):
    monkeypatch.setattr(contents, "ITEMS_AT_MOST", 2)
    results = Results("val")
    for epoch in (0, 1):
        items = tuple({"id": name, "success": name != "b"} for name in "abc")
        results.add(TraceRecord(epoch=epoch, split="val", items=items))
    assert (results.ids, results.rows, results.left_out) == (["a", "b"], {0: "pf", 1: "pf"}, 2)


def test_an_item_that_comes_twice_is_two_rows_and_one_that_comes_late_was_not_evaluated():
    results = Results("val")
    both = ({"id": "a", "success": True}, {"id": "a", "success": True})
    results.add(TraceRecord(epoch=0, split="val", items=both))
    late = ({"id": "b", "success": False, "error_message": "no"}, {"id": "a", "success": False})
    results.add(TraceRecord(epoch=3, split="val", items=late))
    assert results.ids == ["a", "a (2)", "b"]
    assert results.rows == {0: "pp", 3: "f.e"}
    assert results.turned(0, 3) == ([], ["a"])


@given(st.lists(st.text(max_size=9), max_size=30), st.integers(1, 40))
def test_packed_rows_come_out_in_order_and_know_where_their_part_begins(rows, size):
    before, contents._PART_CHARACTERS = contents._PART_CHARACTERS, size
    try:
        found = packed(rows)
    finally:
        contents._PART_CHARACTERS = before
    parts = [
        json.loads(zlib.decompress(base64.b64decode(part), -zlib.MAX_WBITS))
        for part in found["parts"]
    ]
    assert [row for part in parts for row in part] == json.loads(contents.dumped(rows))
    assert found["starts"] == [sum(map(len, parts[:n])) for n in range(len(parts))]
