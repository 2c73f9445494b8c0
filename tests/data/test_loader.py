"""The DataLoader: batches, orders, lengths, refusals."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopilot.core.types import Datum, digest
from autopilot.data import DataLoader, Dataset, IterableDataset, ListDataset, default_collate
from autopilot.errors import UsageError


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
