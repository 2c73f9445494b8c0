"""Leaks between splits are found and named."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from autopilot.core.leakage import Leak, Occurrence, find_leakage
from autopilot.core.types import Datum
from autopilot.data import DataLoader, ListDataset, StreamingDataset
from autopilot.errors import UsageError


class Ticket(BaseModel):
    id: str
    text: str


def test_a_leak_names_the_splits_and_the_items() -> None:
    train = [{"id": "t1", "text": "hello"}, {"id": "t2", "text": "bye", "n": 1}]
    val = [{"id": "v1", "text": "other"}, {"n": 1, "text": "bye", "id": "v2"}]
    leaks = find_leakage({"train": train, "val": val, "test": [{"text": "new"}]})
    assert leaks == [Leak((Occurrence("train", 1, "t2"), Occurrence("val", 1, "v2")))]
    assert leaks[0].splits == ("train", "val")
    assert leaks[0].describe() == (
        "the same content in train and val: train[1] (id t2), val[1] (id v2)"
    )


def test_a_repetition_inside_one_split_is_no_leak() -> None:
    assert find_leakage({"train": [{"a": 1}, {"a": 1}], "val": [{"a": 2}]}) == []
    assert find_leakage({}) == []


def test_items_without_content_are_nothing_to_compare() -> None:
    splits = {"train": [Datum(id="a"), {"id": 1}], "val": [Datum(id="b"), {"id": 2}, {}]}
    assert find_leakage(splits) == []


def test_a_leak_has_all_its_places_and_counts_those_it_does_not_show() -> None:
    (leak,) = find_leakage({"train": [{"id": n, "a": 1} for n in range(8)], "val": [{"a": 1}]})
    assert [place.index for place in leak.places] == [*range(8), 0]
    assert leak.describe().startswith("the same content in train and val: train[0] (id 0), ")
    assert leak.describe().endswith("train[5] (id 5) and 3 more")


def test_a_description_is_one_line() -> None:
    leak = Leak((Occurrence("train", 0, "a\nb"), Occurrence("val", 0, "c")))
    assert leak.describe().endswith("train[0] (id a b), val[0] (id c)")


def test_leaks_are_seen_through_models_data_streams_and_batches(tmp_path: Path) -> None:
    path = tmp_path / "val.jsonl"
    ListDataset([{"id": "v", "text": "hi"}]).to_jsonl(path)
    loader = DataLoader([{"text": "x"}, {"text": "hi"}], batch_size=2)
    splits: dict[str, Iterable[object]] = {
        "train": [Ticket(id="t", text="hi")],
        "val": StreamingDataset(path),
        "test": [Datum(id="d", metadata={"text": "hi"})],
        "extra": loader,
    }
    (leak,) = find_leakage(splits)
    assert [(place.split, place.index) for place in leak.places] == [
        ("train", 0),
        ("val", 0),
        ("test", 0),
        ("extra", 1),
    ]
    assert [place.id for place in leak.places[:3]] == ["t", "v", "d"]


def test_a_split_that_is_gone_after_one_look_is_refused() -> None:
    with pytest.raises(UsageError, match="split 'val' can be walked through only once"):
        find_leakage({"train": [], "val": iter([{"a": 1}])})


@given(
    train=st.lists(st.integers(0, 12), max_size=8),
    val=st.lists(st.integers(0, 12), max_size=8),
    test=st.lists(st.integers(0, 12), max_size=8),
)
def test_leaks_are_what_sets_have_in_common(
    train: list[int], val: list[int], test: list[int]
) -> None:
    parts = {"train": train, "val": val, "test": test}
    leaks = find_leakage({name: [{"a": n} for n in part] for name, part in parts.items()})
    common = {
        n: tuple(name for name, part in parts.items() if n in part)
        for n in range(13)
        if sum(n in part for part in parts.values()) > 1
    }
    found = {parts[leak.places[0].split][leak.places[0].index]: leak.splits for leak in leaks}
    assert found == common
    assert len(leaks) == len(common)
