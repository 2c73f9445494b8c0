"""Splits are disjoint, complete, the same everywhere; and leaks are found."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from autopilot.core.types import Datum
from autopilot.data import (
    DataLoader,
    IterableDataset,
    Leak,
    ListDataset,
    Place,
    StreamingDataset,
    find_leakage,
    random_split,
    stratified_split,
)
from autopilot.data.split import permutation
from autopilot.errors import DataError, UsageError

WEIGHTS = st.lists(st.integers(0, 20), min_size=1, max_size=5).filter(any)
SEEDS = st.integers(0, 2**40)


def shares(weights: list[int]) -> list[float]:
    return [weight / sum(weights) for weight in weights]


class Ticket(BaseModel):
    id: str
    text: str


class Numbers(IterableDataset[dict[str, int]]):
    def __iter__(self) -> Iterator[dict[str, int]]:
        return ({"n": number} for number in range(5))


@given(count=st.integers(0, 300), seed=st.text())
def test_a_permutation_has_every_number_once(count: int, seed: str) -> None:
    order = permutation(count, seed)
    assert sorted(order) == list(range(count))
    assert permutation(count, seed) == order


def test_a_permutation_is_fair() -> None:
    firsts = Counter(permutation(4, str(seed))[0] for seed in range(4000))
    assert all(900 < firsts[number] < 1100 for number in range(4))


@given(count=st.integers(0, 200), weights=WEIGHTS, seed=SEEDS)
def test_fractions_split_without_loss(count: int, weights: list[int], seed: int) -> None:
    fractions = shares(weights)
    parts = random_split(range(count), fractions, seed)
    assert sorted(item for part in parts for item in part) == list(range(count))
    for part, fraction in zip(parts, fractions, strict=True):
        assert abs(len(part) - count * fraction) < 1
    again = random_split(range(count), fractions, seed)
    assert [list(part) for part in again] == [list(part) for part in parts]


@given(sizes=st.lists(st.integers(0, 20), min_size=1, max_size=5), seed=SEEDS)
def test_lengths_split_as_they_say(sizes: list[int], seed: int) -> None:
    parts = random_split(range(sum(sizes)), sizes, seed)
    assert [len(part) for part in parts] == sizes
    assert sorted(item for part in parts for item in part) == list(range(sum(sizes)))


def test_a_fraction_that_is_no_binary_number_is_exact() -> None:
    assert [len(part) for part in random_split(range(100), [0.29, 0.71])] == [29, 71]
    assert [len(part) for part in random_split(range(10), [0.7, 0.2, 0.1])] == [7, 2, 1]
    assert [len(part) for part in random_split(range(9), [1 / 3, 1 / 3, 1 / 3])] == [3, 3, 3]
    assert [len(part) for part in random_split(range(7), [0.7, 0.2, 0.1])] == [5, 1, 1]
    assert [len(part) for part in random_split(range(4), [1.0])] == [4]


def test_seeds_split_differently() -> None:
    train, _ = random_split(range(50), [0.8, 0.2], seed=1)
    other, _ = random_split(range(50), [0.8, 0.2], seed=2)
    assert set(train) != set(other)
    assert list(train) != sorted(train)


def test_the_split_is_pinned() -> None:
    """A later release that splits differently would move items from val to train."""
    train, val = random_split(range(10), [0.7, 0.3], seed=0)
    assert (list(train), list(val)) == ([6, 3, 8, 0, 1, 4, 5], [7, 9, 2])
    halves = stratified_split(list("aaaaaabbbb"), [0.5, 0.5], key=str, seed=0)
    assert [half.indices for half in halves] == [[6, 3, 8, 0, 1], [4, 5, 7, 9, 2]]


def test_the_split_is_the_same_in_every_process() -> None:
    program = (
        "from autopilot.data import *\n"
        "items = [{'t': str(n), 'c': 'xyz'[n % 3]} for n in range(40)]\n"
        "print([p.indices for p in random_split(items, [.5, .5], 3)],\n"
        "      [p.indices for p in stratified_split(items, [.5, .3, .2], 'c', 3)],\n"
        "      [b.id for b in DataLoader(items, 8, shuffle=True, seed=3)])\n"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[2],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(printed) == 1


@pytest.mark.parametrize(
    "lengths",
    [[], [5, 4], [0.5, 0.4], [0.7, 0.7], [1.5, -0.5], [-1, 11], [float("nan"), 1.0], [11]],
)
def test_lengths_that_do_not_add_up_are_refused(lengths: list[float]) -> None:
    with pytest.raises(UsageError, match="cannot split a dataset of 10 items") as caught:
        random_split(range(10), lengths)
    assert "add up to 10" in caught.value.hint


def test_a_stream_cannot_be_split() -> None:
    with pytest.raises(UsageError, match="random_split needs items by index"):
        random_split(Numbers(), [0.5, 0.5])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="stratified_split needs items by index"):
        stratified_split(Numbers(), [0.5, 0.5], "n")  # type: ignore[arg-type]


@given(classes=st.lists(st.sampled_from("aaaaabbbcd"), max_size=120), weights=WEIGHTS, seed=SEEDS)
def test_every_split_has_its_share_of_every_class(
    classes: list[str], weights: list[int], seed: int
) -> None:
    fractions = shares(weights)
    items: list[dict[str, Any]] = [
        {"n": number, "class": name} for number, name in enumerate(classes)
    ]
    parts = stratified_split(items, fractions, "class", seed)
    assert sorted(item["n"] for part in parts for item in part) == list(range(len(items)))
    totals = Counter(classes)
    for part, fraction in zip(parts, fractions, strict=True):
        found = Counter(item["class"] for item in part)
        for name, total in totals.items():
            assert abs(found[name] - total * fraction) < 1


@given(classes=st.lists(st.integers(0, 60), max_size=150), train=st.floats(0, 1), seed=SEEDS)
def test_two_splits_keep_their_size_whatever_the_classes(
    classes: list[int], train: float, seed: int
) -> None:
    parts = stratified_split(classes, [train, 1 - train], key=lambda item: item, seed=seed)
    assert abs(len(parts[0]) - len(classes) * train) <= 1


def test_classes_of_one_item_take_turns() -> None:
    parts = stratified_split(list(range(100)), [0.8, 0.1, 0.1], key=lambda item: item)
    assert [len(part) for part in parts] == [80, 10, 10]


def test_the_class_may_be_a_field_of_a_model_or_of_a_datum() -> None:
    tickets = [Ticket(id=str(n), text="xy"[n % 2]) for n in range(8)]
    for part in stratified_split(tickets, [0.5, 0.5], "text"):
        assert Counter(ticket.text for ticket in part) == {"x": 2, "y": 2}
    data = [Datum(metadata={"label": n % 2}) for n in range(8)]
    for half in stratified_split(data, [0.5, 0.5], "label"):
        assert Counter(datum.metadata["label"] for datum in half) == {0: 2, 1: 2}


def test_a_stratified_split_is_not_sorted_by_class() -> None:
    train, _ = stratified_split(list("a" * 30 + "b" * 30), [0.8, 0.2], key=str)
    assert train.indices != sorted(train.indices)
    assert set(list(train)[:24]) == {"a", "b"}


def test_an_item_without_its_class_is_named() -> None:
    items: list[dict[str, Any]] = [{"label": 1}, {"text": "?", "lable": 1}]
    with pytest.raises(DataError) as caught:
        stratified_split(items, [0.5, 0.5], "label")
    assert caught.value.message == "item 1 has no field 'label'; it has text, lable"
    with pytest.raises(DataError, match="the class of item 0 is a list"):
        stratified_split([{"label": [1]}], [0.5, 0.5], "label")


def test_a_leak_names_the_splits_and_the_items() -> None:
    train = [{"id": "t1", "text": "hello"}, {"id": "t2", "text": "bye", "n": 1}]
    val = [{"id": "v1", "text": "other"}, {"n": 1, "text": "bye", "id": "v2"}]
    leaks = find_leakage({"train": train, "val": val, "test": [{"text": "new"}]})
    assert leaks == [Leak((Place("train", 1, "t2"), Place("val", 1, "v2")))]
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
    leak = Leak((Place("train", 0, "a\nb"), Place("val", 0, "c")))
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
