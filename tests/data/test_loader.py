"""Loaders, splits and the DataModule: batches, orders, lengths, shares, refusals."""

from __future__ import annotations

import copy
import os
import pickle
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

import autopilot.data
from autopilot.core.items import batches
from autopilot.core.types import Datum, digest
from autopilot.data import (
    DataLoader,
    DataModule,
    Dataset,
    IterableDataset,
    ListDataset,
    default_collate,
    random_split,
    stratified_split,
)
from autopilot.data.loader import permutation
from autopilot.errors import DataError, UsageError


class Stream(IterableDataset[int]):
    def __init__(self, count: int) -> None:
        self.count = count
        self.given = 0

    def __iter__(self) -> Iterator[int]:
        for number in range(self.count):
            self.given += 1
            yield number


class SizedStream(Stream):
    def __len__(self) -> int:
        return self.count


class EveryOther:
    """A sampler that listens to the epoch."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.epoch % 2, self.count, 2))


def values(loader: DataLoader[Any]) -> list[list[Any]]:
    return [[item.metadata["value"] for item in batch.items] for batch in loader]


def flat(loader: DataLoader[Any]) -> list[Any]:
    return [value for batch in values(loader) for value in batch]


def test_batches_in_the_dataset_s_order() -> None:
    assert values(DataLoader([3, 1, 2])) == [[3], [1], [2]]
    assert values(DataLoader(ListDataset([3, 1, 2]), 2)) == [[3, 1], [2]]
    assert values(DataLoader([3, 1, 2], batch_size=2, drop_last=True)) == [[3, 1]]
    assert values(DataLoader(range(3), batch_size=5)) == [[0, 1, 2]]
    assert values(DataLoader([])) == []


@given(
    count=st.integers(0, 30),
    batch_size=st.integers(1, 12),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
)
def test_every_item_comes_once(count: int, batch_size: int, shuffle: bool, drop_last: bool) -> None:
    loader = DataLoader(range(count), batch_size, shuffle, drop_last=drop_last)
    batches = values(loader)
    assert len(batches) == len(loader)
    assert all(len(batch) == batch_size for batch in batches[:-1])
    seen = [value for batch in batches for value in batch]
    assert len(set(seen)) == len(seen)
    assert len(seen) == (count - count % batch_size if drop_last else count)
    assert set(seen) <= set(range(count))


@given(count=st.integers(0, 60), seed=st.integers(), epoch=st.integers(0, 10**6))
def test_a_shuffle_is_a_permutation_of_seed_and_epoch(count: int, seed: int, epoch: int) -> None:
    loader = DataLoader(range(count), batch_size=4, shuffle=True)
    loader.set_epoch(epoch, seed)
    order = flat(loader)
    assert sorted(order) == list(range(count))
    assert flat(loader) == order
    later = DataLoader(range(count), batch_size=7, shuffle=True, seed=seed)
    later.set_epoch(epoch + 1)
    list(later)
    later.set_epoch(epoch)
    assert flat(later) == order


def test_the_shuffle_is_pinned() -> None:
    """A later release that shuffles differently could not resume or replay this one's runs."""
    loader = DataLoader(range(8), shuffle=True)
    orders = [flat(loader)]
    loader.set_epoch(1, seed=0)
    orders.append(flat(loader))
    loader.set_epoch(0, seed=1)
    orders.append(flat(loader))
    assert orders == [
        [0, 6, 5, 1, 3, 4, 2, 7],
        [6, 7, 4, 0, 5, 1, 3, 2],
        [4, 1, 2, 0, 3, 7, 5, 6],
    ]


def test_before_set_epoch_it_is_epoch_0_of_seed_0() -> None:
    fresh, told = (DataLoader(range(20), shuffle=True) for _ in range(2))
    told.set_epoch(0, seed=0)
    assert flat(fresh) == flat(told)


def test_the_loader_s_own_seed_wins() -> None:
    own = DataLoader(range(20), shuffle=True, seed=5)
    order = flat(own)
    own.set_epoch(0, seed=6)
    assert flat(own) == order
    run = DataLoader(range(20), shuffle=True)
    run.set_epoch(0, seed=5)
    assert flat(run) == order
    run.set_epoch(0)
    assert flat(run) == order


def test_the_order_is_settled_when_the_pass_starts() -> None:
    loader = DataLoader(range(20), shuffle=True)
    expected = flat(DataLoader(range(20), shuffle=True))
    running = iter(loader)
    loader.set_epoch(1)
    assert [batch.items[0].metadata["value"] for batch in running] == expected
    assert flat(loader) != expected


def test_a_loop_by_hand_gets_another_order_each_pass() -> None:
    orders = [[], []]
    for order in orders:
        loader = DataLoader(range(20), shuffle=True, seed=3)
        order += [flat(loader) for _ in range(3)]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders[0]}) == 3
    told = DataLoader(range(20), shuffle=True, seed=3)
    told.set_epoch(1)
    assert flat(told) == flat(told) == orders[0][1]


def test_a_copy_in_another_process_goes_on_alike() -> None:
    loader = DataLoader(ListDataset(range(20)), batch_size=3, shuffle=True)
    loader.set_epoch(4, seed=2)
    there: DataLoader[int] = pickle.loads(pickle.dumps(loader))
    assert values(there) == values(loader)


def test_a_batch_is_named_by_its_items() -> None:
    items = [{"id": "a", "text": "x"}, {"text": "y"}]
    (first,) = DataLoader(items, batch_size=2)
    (again,) = DataLoader(copy.deepcopy(items), batch_size=2)
    assert [item.id for item in first.items] == ["a", digest({"text": "y"})]
    assert first.id == again.id == digest(["a", digest({"text": "y"})])
    assert first.items[0].metadata == {"id": "a", "text": "x"}
    (other,) = DataLoader(items[::-1], batch_size=2)
    assert other.id != first.id


def test_a_batch_does_not_write_into_the_dataset() -> None:
    datum = Datum(metadata={"q": 1}, id="d", feedback="f")
    batch = default_collate([datum])
    assert batch.items == [datum]
    batch.items[0].metadata["answer"] = 2
    batch.items[0].split = "train"
    assert datum == Datum(metadata={"q": 1}, id="d", feedback="f")


def test_a_collate_fn_gets_the_items_as_they_are() -> None:
    loader = DataLoader([1, 2, 3], batch_size=2, collate_fn=sum)
    assert list(loader) == [3, 3]


def test_a_stream_is_not_read_ahead() -> None:
    stream = Stream(1000)
    batch = next(iter(DataLoader(stream, batch_size=3)))
    assert [item.metadata["value"] for item in batch.items] == [0, 1, 2]
    assert stream.given == 3


def test_a_stream_in_batches_again_and_again() -> None:
    loader = DataLoader(Stream(5), batch_size=2)
    assert values(loader) == values(loader) == [[0, 1], [2, 3], [4]]
    assert values(DataLoader(Stream(5), batch_size=2, drop_last=True)) == [[0, 1], [2, 3]]


def test_the_length_is_known_where_the_dataset_s_is() -> None:
    with pytest.raises(TypeError, match="Stream has no length"):
        len(DataLoader(Stream(5)))
    assert len(DataLoader(SizedStream(5), batch_size=2)) == 3
    assert values(DataLoader(SizedStream(3), batch_size=2)) == [[0, 1], [2]]


def test_a_sampler_chooses_the_items() -> None:
    loader = DataLoader(["a", "b", "c", "d"], batch_size=2, sampler=[3, 3, 0])
    assert values(loader) == [["d", "d"], ["a"]]
    assert len(loader) == 2
    assert values(loader) == [["d", "d"], ["a"]]


def test_a_sampler_is_told_the_epoch() -> None:
    loader = DataLoader(range(5), batch_size=9, sampler=EveryOther(5))
    assert values(loader) == [[0, 2, 4]]
    loader.set_epoch(1, seed=3)
    assert values(loader) == [[1, 3]]
    with pytest.raises(TypeError, match="EveryOther has no length"):
        len(loader)


def test_a_dataset_is_told_the_epoch() -> None:
    class Rotating(Stream):
        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __iter__(self) -> Iterator[int]:
            return iter([*range(self.epoch, self.count), *range(self.epoch)])

    loader = DataLoader(Rotating(3), batch_size=3)
    loader.set_epoch(2)
    assert values(loader) == [[2, 0, 1]]


def test_the_user_s_own_error_comes_through() -> None:
    class Broken(Dataset[int]):
        def __getitem__(self, index: int, /) -> int:
            raise ZeroDivisionError(f"item {index}")

        def __len__(self) -> int:
            return 1

    with pytest.raises(ZeroDivisionError, match="item 0"):
        list(DataLoader(Broken()))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"dataset": [1], "batch_size": 0}, "batch_size=0"),
        ({"dataset": [1], "batch_size": -2}, "batch_size=-2"),
        ({"dataset": [1], "batch_size": 2.5}, "batch_size=2.5"),
        ({"dataset": [1], "batch_size": None}, "batch_size=None"),
        ({"dataset": [1], "shuffle": True, "sampler": [0]}, "shuffle and sampler both"),
        ({"dataset": [1], "sampler": iter([0])}, "gives its indices only once"),
        ({"dataset": Stream(1), "shuffle": True}, "shuffle needs items by index"),
        ({"dataset": Stream(1), "sampler": [0]}, "sampler needs items by index"),
        ({"dataset": iter([1])}, "only once"),
        ({"dataset": "train.jsonl"}, "'train.jsonl' is no dataset"),
        ({"dataset": {"a": 1}}, "dict is no dataset"),
        ({"dataset": 7}, "int is no dataset"),
    ],
)
def test_arguments_that_cannot_be(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as caught:
        DataLoader(**arguments)
    assert caught.value.hint


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


def test_the_defaults_do_nothing_and_have_no_split() -> None:
    module = DataModule()
    module.prepare_data()
    module.setup("fit")
    module.teardown("fit")
    assert vars(module) == {}
    assert module.train_dataloader() is None
    assert module.val_dataloader() is None
    assert module.test_dataloader() is None


def test_a_subclass_overrides_what_it_needs() -> None:
    class Tickets(DataModule):
        def setup(self, stage: str) -> None:
            self.items = [f"{stage} {n}" for n in range(3)]

        def val_dataloader(self) -> Iterable[Any]:
            return DataLoader(self.items, batch_size=2)

        def teardown(self, stage: str) -> None:
            del self.items

    module = Tickets()
    module.setup("validate")
    batches = list(module.val_dataloader())
    assert [item.metadata["value"] for item in batches[1].items] == ["validate 2"]
    assert module.train_dataloader() is None
    module.teardown("validate")
    assert vars(module) == {}


def test_every_public_name_is_there() -> None:
    assert len(set(autopilot.data.__all__)) == len(autopilot.data.__all__) == 15
    assert autopilot.data.Place is autopilot.data.Occurrence  # its name in earlier versions
    assert all(hasattr(autopilot.data, name) for name in autopilot.data.__all__)


@pytest.mark.parametrize("item", [{"tags": ["a"]}, Datum(id="t", metadata={"tags": ["a"]})])
def test_a_batch_shares_nothing_with_the_dataset_nor_with_another_pass(item: object) -> None:
    loader = DataLoader([item, {"id": "other", "held": item}], batch_size=2)
    for _ in range(2):
        ((_, batch, is_last),) = batches(loader, "val", 0, 0)
        first, second = batch.items
        assert is_last and first.metadata["tags"] == ["a"]
        # A payload at any depth, and of another item too.
        held = second.metadata["held"]
        held = held.metadata if isinstance(held, Datum) else held
        assert held["tags"] == ["a"]
        first.metadata["tags"].append("b")
        held["tags"].append("c")
