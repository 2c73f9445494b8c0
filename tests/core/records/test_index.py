"""autopilot.core.records.index: rows are read one by one, whatever was put in."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopilot.core.records import index
from autopilot.core.records.index import Index, Rows, numbers_of
from autopilot.core.records.learnt import BLOCK_AFTER, Learnt
from autopilot.core.records.record import Lesson

_Row = tuple[int, str]


def _rows(raw: bytes = b"", made: list[Any] | None = None) -> Rows[_Row]:
    def make(value: Any) -> _Row:
        if made is not None:
            made.append(value)
        return value[0], value[1]

    return Rows(make, list, lambda row: row[0], raw)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.text())),
    st.integers(0, 40),
    st.sampled_from((1, 3, 64)),
)
def test_rows_are_in_the_order_of_their_keys_and_the_first_of_each_counts(
    given_rows: list[_Row], split: int, block: int
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(index, "_BLOCK", block)
        _check_rows(given_rows, split)


def _check_rows(given_rows: list[_Row], split: int) -> None:
    rows, known = _rows(), dict[int, str]()
    for number, (key, text) in enumerate(given_rows):
        if number == split:
            rows = _rows(rows.encode())  # as another process reads them
        place = rows.insert((key, text))
        assert place == (None if key in known else sorted([*known, key]).index(key))
        known.setdefault(key, text)
    wanted = sorted(known.items())
    assert (list(rows), len(rows), rows[:]) == (wanted, len(wanted), wanted)
    assert [rows[place] for place in range(-len(wanted), 0)] == wanted
    assert rows == rows.copy() == _rows(rows.encode()) == wanted
    for key, text in wanted:
        assert rows[rows.place(key)] == (key, text)
        assert (key, text) in rows.with_text(text)


def test_threads_share_rows_that_were_read() -> None:
    start, wrong = Barrier(4), list[object]()
    rows = _rows(b"\n".join(b'[%d,"x"]' % key for key in range(300_000)))

    def look(key: int) -> None:
        start.wait()
        try:
            found: object = rows[key]
        except ValueError as error:
            found = error
        wrong.extend([found] * (found != (key, "x")))

    with ThreadPoolExecutor(4) as pool:
        deque(pool.map(look, (10, 200_000, 100_000, 299_990)), maxlen=0)
    assert wrong == []


@pytest.mark.parametrize("is_read", [True, False])
def test_a_row_is_read_alone(*, is_read: bool) -> None:
    made = list[Any]()
    rows = _rows(made=made)
    for number in range(10_000):
        rows.append((number, f"t{number}"))
    rows = _rows(rows.encode(), made) if is_read else rows
    assert len(rows) == 10_000
    assert rows[-1] == (9_999, "t9999")
    assert rows.with_text("t42") == [(42, "t42")]
    assert rows.insert((10_000, "new")) == 10_000
    rows.copy()
    assert len(made) <= 3
    assert rows[rows.place(7_000)] == (7_000, "t7000")
    assert len(made) < 25


def test_a_row_is_found_once() -> None:
    wanted = [(1, "a", "a"), (2, "b", "a")]
    rows = Rows[Any](tuple, list, lambda row: row[0])
    for row in (*wanted, (3, "b", "b")):
        rows.append(row)
    assert rows.with_text("a") == rows.copy().with_text("a") == wanted


_OUTCOMES = st.sampled_from(("kept", "rejected", "unchanged", "failed", "refused", "repeated"))
_LESSONS = st.fixed_dictionaries(
    {
        "strategy": st.sampled_from(("", "a", "b", "a + b")),
        "outcome": _OUTCOMES | st.sampled_from(("blocked", "unblocked")),
        "category": st.sampled_from(("", "x", "y")),
        "value": st.none() | st.floats(0, 1),
        "delta": st.none() | st.floats(-1, 1),
        "by_hand": st.booleans(),
    }
)


@given(st.lists(_LESSONS, max_size=30), st.integers(0, 30), st.sampled_from((0, 1, 3)))
def test_counts_that_are_kept_up_are_those_of_all_lessons(
    given_lessons: list[Mapping[str, Any]], split: int, rule: int
) -> None:
    lessons = [Lesson(epoch=n, id=f"{n}", **each) for n, each in enumerate(given_lessons)]
    first = Index().take(("r", lesson) for lesson in lessons[:split])
    first.add_rule(rule)
    read = Index.decode(first.encode())
    assert read is not None
    read.take(("r", lesson) for lesson in lessons[split:])
    for block_after in (rule, BLOCK_AFTER):
        whole = Learnt(block_after).take(lessons)
        kept = read.learnt(block_after)
        assert kept == whole
        assert [*kept.tried, *kept.blocked] == [*whole.tried, *whole.blocked]
        assert [*kept.failed_on] == [*whole.failed_on]
    # One that comes late stands where it belongs.
    late = (
        Index()
        .take(("r", lesson) for lesson in lessons[split:])
        .take(("r", lesson) for lesson in lessons[:split])
    )
    assert (late.lessons, late.learnt(rule)) == (lessons, Learnt(rule).take(lessons))


def test_the_bits_of_no_epoch_are_none() -> None:
    assert numbers_of(0) == []
