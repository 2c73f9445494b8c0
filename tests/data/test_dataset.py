"""Datasets by index and by iteration."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopilot.data import (
    ConcatDataset,
    Dataset,
    IterableDataset,
    ListDataset,
    StreamingDataset,
    Subset,
)
from autopilot.errors import UsageError

MILLION = 1_000_000
# A process of its own: what pytest has loaded must not count. Linux hands ru_maxrss on from the
# process that starts another, so the peak is read from /proc where there is one.
MEASURE = """
import pathlib, resource, sys
from autopilot.data import StreamingDataset, DataLoader
dataset = StreamingDataset(sys.argv[1])
def peak():
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
items = total = 0
for item in dataset:
    items += 1
    total += item["n"]
batch = next(iter(DataLoader(dataset, batch_size=3)))
print(items, total, len(batch.items), before, peak())
"""


class Letters(Dataset[str]):
    def __getitem__(self, index: int, /) -> str:
        return "abc"[index]

    def __len__(self) -> int:
        return 3


class Endless(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1


def test_a_dataset_is_iterated_by_index() -> None:
    assert list(Letters()) == ["a", "b", "c"]
    assert "c" in list(Letters())
    assert repr(Letters()) == "Letters(3 items)"


def test_a_dataset_without_its_methods_is_told_at_once() -> None:
    with pytest.raises(TypeError, match="abstract"):
        type("Half", (Dataset,), {})()
    with pytest.raises(TypeError, match="abstract"):
        type("Half", (IterableDataset,), {})()


def test_a_list_dataset_has_its_own_list() -> None:
    items = [{"a": 1}]
    dataset = ListDataset(items)
    items.append({"a": 2})
    assert len(dataset) == 1
    assert dataset[-1] == {"a": 1}
    with pytest.raises(IndexError):
        dataset[1]


def test_an_iterable_dataset_starts_again() -> None:
    dataset = Endless()
    assert [next(iter(dataset)), next(iter(dataset))] == [0, 0]


def test_adding_datasets_puts_one_after_the_other() -> None:
    dataset = Letters() + ListDataset([1, 2]) + [None]
    assert isinstance(dataset, ConcatDataset)
    assert list(dataset) == ["a", "b", "c", 1, 2, None]
    assert (dataset[2], dataset[3], dataset[-1], dataset[-4]) == ("c", 1, None, "c")


@given(parts=st.lists(st.lists(st.integers(), max_size=4), max_size=5))
def test_concatenation_is_that_of_lists(parts: list[list[int]]) -> None:
    joined = [item for part in parts for item in part]
    dataset = ConcatDataset(parts)
    assert len(dataset) == len(joined)
    assert list(dataset) == joined
    assert [dataset[index - len(joined)] for index in range(len(joined))] == joined
    for outside in (len(joined), -len(joined) - 1):
        with pytest.raises(IndexError):
            dataset[outside]


@given(data=st.data(), items=st.lists(st.integers(), min_size=1, max_size=9))
def test_a_subset_follows_its_indices(data: st.DataObject, items: list[int]) -> None:
    indices = data.draw(st.lists(st.integers(-len(items), len(items) - 1)))
    subset = Subset(items, indices)
    assert list(subset) == [items[index] for index in indices]
    assert len(subset) == len(indices)


@pytest.mark.parametrize("index", [3, -4])
def test_a_subset_outside_its_dataset_is_refused(index: int) -> None:
    with pytest.raises(UsageError, match=f"index {index} is not in a dataset of 3 items"):
        Subset(Letters(), [0, index])


def test_what_has_no_index_cannot_be_joined_or_cut() -> None:
    with pytest.raises(UsageError, match="ConcatDataset needs items by index"):
        ConcatDataset([Letters(), Endless()])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="Subset needs items by index") as caught:
        Subset(Endless(), [0])  # type: ignore[arg-type]
    assert "ListDataset" in caught.value.hint


def test_a_stream_is_read_again_as_it_is_then(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    ListDataset([{"n": 1}, {"n": 2}]).to_jsonl(path)
    dataset = StreamingDataset(path)
    assert [list(dataset), list(dataset)] == [[{"n": 1}, {"n": 2}]] * 2
    ListDataset([{"n": 3}]).to_jsonl(path)
    assert list(dataset) == [{"n": 3}]
    assert repr(dataset) == f"StreamingDataset({str(path)!r})"


def test_two_walks_of_a_stream_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    ListDataset([{"n": 1}, {"n": 2}]).to_jsonl(path)
    dataset = StreamingDataset(path)
    assert [(a["n"], b["n"]) for a in dataset for b in dataset] == [(1, 1), (1, 2), (2, 1), (2, 2)]


@pytest.mark.skipif(sys.platform == "win32", reason="no getrusage there")
def test_a_million_lines_take_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "million.jsonl"
    with path.open("w") as file:
        for start in range(0, MILLION, 10_000):
            file.write("".join(f'{{"n":{n},"t":"ticket"}}\n' for n in range(start, start + 10_000)))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    items, total, batch, before, after = map(int, done.stdout.split())
    assert (items, total, batch) == (MILLION, MILLION * (MILLION - 1) // 2, 3)
    assert after < 150e6
    assert after - before < 8e6
