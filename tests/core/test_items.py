"""Items of splits: no two share an id, payloads are copied, leaks are found and named."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from autopilot.core.evaluation import Evaluator
from autopilot.core.experiment import Experiment
from autopilot.core.gradient import TextGradient
from autopilot.core.items import (
    Leak,
    Occurrence,
    SplitIds,
    as_batch,
    batches,
    check_ids,
    copied,
    find_leakage,
)
from autopilot.core.loss import Loss
from autopilot.core.module import AutoPilotModule
from autopilot.core.optimizer import Optimizer
from autopilot.core.parameter import Parameter
from autopilot.core.progress import Position
from autopilot.core.trainer import Trainer
from autopilot.core.types import Datum, digest
from autopilot.data import DataLoader, IterableDataset, ListDataset, StreamingDataset
from autopilot.errors import DataError, UsageError
from autopilot.testing import ScriptedOptimizer


class Row(BaseModel):
    id: str
    value: int = 1


ROWS = [{"id": f"i{n}", "value": n} for n in range(18)]
TWICE = [*ROWS[:17], {"id": "i3", "value": 17}]


class Scale(AutoPilotModule):
    def __init__(self):
        super().__init__()
        self.level = Parameter(2)
        self.measured = 0

    def forward(self, batch):
        self.measured += 1
        return Datum(
            items=[Datum(success=i.metadata["value"] < self.level.data) for i in batch.items]
        )

    def configure_optimizers(self):
        return ScriptedOptimizer(self.parameters(), [("up", 9)])


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(TWICE, batch_size=4),
        DataLoader(TWICE, batch_size=4, shuffle=True),
        DataLoader(ListDataset(TWICE)),
        DataLoader([Row(id=row["id"]) for row in TWICE]),
        DataLoader([Datum(id=row["id"]) for row in TWICE]),
        [TWICE[:9], TWICE[9:]],
        [Datum(items=[Datum(id=row["id"]) for row in TWICE])],
        TWICE,
    ],
    ids=["dicts", "shuffled", "dataset", "models", "data", "lists", "batch", "singles"],
)
def test_items_in_memory_that_share_an_id_are_named(loader, split):
    with pytest.raises(DataError, match=f"items 3 and 17 of the {split} split share the id 'i3'"):
        check_ids(loader, split)


def test_numbers_and_texts_name_the_same_item():
    with pytest.raises(DataError, match="items 0 and 1"):
        check_ids(DataLoader([{"id": 1}, {"id": "1"}]), "val")


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(ROWS),
        DataLoader([{"value": 1}, {"value": 1}, "a", "a"]),
        DataLoader([{"id": None, "value": 1}, {"id": None, "value": 2}]),
        # What these make of their rows is seen as it comes.
        DataLoader(TWICE, sampler=[0, 1]),
        DataLoader(TWICE, collate_fn=lambda rows: Datum(items=[Datum() for _ in rows])),
        iter([TWICE]),
        None,
    ],
)
def test_everything_else_passes(loader):
    check_ids(loader, "val")


@pytest.mark.parametrize("split", ["train", "val"])
def test_fit_refuses_them_before_anything_is_measured(split):
    module, loaders = Scale(), {"train": DataLoader(ROWS), "val": DataLoader(ROWS)}
    loaders[split] = DataLoader(TWICE)
    with pytest.raises(DataError, match=f"items 3 and 17 of the {split} split share the id 'i3'"):
        Trainer().fit(module, loaders["train"], loaders["val"], max_epochs=1)
    assert module.measured == 0


class Stream(IterableDataset):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


@pytest.mark.parametrize(
    "loader", [DataLoader(Stream(TWICE), 4), DataLoader(TWICE, sampler=range(18))]
)
def test_what_comes_bit_by_bit_is_seen_as_it_comes(loader):
    with pytest.raises(DataError, match="2 items of the val split share the id 'i3'"):
        Trainer().fit(Scale(), DataLoader(ROWS), loader, max_epochs=1)
    # Nothing compares train items: a sampler may draw one twice.
    Trainer().fit(Scale(), loader, DataLoader(ROWS), max_epochs=1)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("shuffle", [False, True])
def test_items_of_equal_content_have_ids_of_their_own(batch_size, shuffle):
    rows = [{"value": 1}, {"value": 1}, {"value": 5}, {"value": 1}, {"value": 5}]
    trainer = Trainer()
    trainer.fit(Scale(), rows, DataLoader(rows, batch_size, shuffle=shuffle), max_epochs=2)
    one, five = digest({"value": 1}), digest({"value": 5})
    expected = {one, f"{one}-2", f"{one}-3", five, f"{five}-2"}
    for epoch in (0, 1):
        measured = trainer.measure(_with_val(rows, batch_size, shuffle), "val", epoch)
        assert {item.id for item in measured.items} == expected
    assert trainer.experiment.history[1].verdict == "kept"
    # Plain values too.
    ids = SplitIds("val")
    same = [ids.distinct(Datum(metadata={"value": "a"}, id=digest("a"))).id for _ in range(3)]
    assert same == [digest("a"), f"{digest('a')}-2", f"{digest('a')}-3"]


def _with_val(rows, batch_size, shuffle, module=None):
    module = module or Scale()
    loader = rows if rows[0].__class__ is list else DataLoader(rows, batch_size, shuffle=shuffle)
    module.val_dataloader = lambda: loader
    return module


@pytest.mark.parametrize("rows", [[{"id": "a"}], [[{"id": "a"}]], [["x", "y"]]])
def test_a_result_of_a_whole_batch_has_the_same_id_in_every_epoch(rows):
    class Whole(Scale):
        def forward(self, batch):
            return Datum(success=self.level.data > 2)

    trainer = Trainer()
    trainer.fit(Whole(), rows, rows, max_epochs=1)
    assert trainer.experiment.history[1].verdict == "kept"
    seen = [trainer.measure(_with_val(rows, 1, False, Whole()), "val", n).items for n in (0, 1)]
    assert [item.id for item in seen[0]] == [item.id for item in seen[1]]
    if rows != [["x", "y"]]:
        assert seen[0][0].id == "a"


def test_the_datasets_own_items_keep_their_ids():
    own = [Datum(metadata={"value": 1}, id=digest({"value": 1})) for _ in range(2)]
    batch = Datum(items=own)
    distinct = SplitIds("val").distinct(batch)
    assert [item.id for item in distinct.items] == [own[0].id, f"{own[0].id}-2"]
    assert own[0].id == own[1].id
    assert SplitIds("val").distinct(Datum(items=own[:1])).items[0] is own[0]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.sets(st.integers()),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(), inner)
        | st.tuples(inner, inner)
        | st.builds(bytearray)
        | st.builds(Datum, metadata=st.dictionaries(st.text(), inner), id=st.just("x"))
    ),
    max_leaves=12,
)


def parts(value):
    """Everything in a value that can be changed."""
    if isinstance(value, dict | list | set | bytearray | Datum):
        yield value
    inner = vars(value) if isinstance(value, Datum) else value
    if isinstance(inner, dict):
        inner = inner.values()
    for item in inner if not isinstance(inner, str | bytes | bytearray | int | None) else ():
        yield from parts(item)


@given(VALUES)
def test_a_copy_is_equal_and_shares_nothing_that_can_be_changed(value):
    twin = copied(value)
    assert twin == value
    assert type(twin) is type(value)
    assert not {id(part) for part in parts(value)} & {id(part) for part in parts(twin)}


def test_what_stands_twice_is_one_copy_and_what_holds_itself_is_copied():
    shared = {"n": [1]}
    value = {"a": shared, "b": [shared]}
    value["self"] = value
    twin = copied(value)
    assert twin["a"] is twin["b"][0] is not shared
    assert twin["self"] is twin


def test_what_cannot_be_copied_stays_itself(tmp_path):
    lock, deep = threading.Lock(), []
    for _ in range(100_000):
        deep = [deep]
    with (tmp_path / "f").open("w") as file:
        value = {"lock": lock, "file": file, "list": [(n for n in ())]}
        twin = copied(value)
        assert twin["lock"] is lock
        assert twin["file"] is file
        assert twin["list"][0] is value["list"][0]
        assert twin["list"] is not value["list"]
    assert copied(deep) is deep
    while deep:
        deep = deep[0]


def test_a_copy_of_a_datum_has_each_of_its_fields():
    item = Datum(**{each.name: f"the {each.name}" for each in fields(Datum)})
    assert vars(copied(item)) == vars(item)


class Marked(Datum):
    """A user's own kind of item."""


def test_a_datum_keeps_its_class_its_id_and_its_graph():
    item = Marked(metadata={"a": [1]}, metrics={"x": 1.0})
    item.grad_fn = object()
    item.extra = {"b": [2]}
    twin = copied(item)
    assert type(twin) is Marked
    assert (twin.id, twin.grad_fn) == (item.id, item.grad_fn)
    assert twin.extra == item.extra
    assert twin.extra is not item.extra


class Greedy(AutoPilotModule):
    """Takes its items apart."""

    monitor = "tags"

    def __init__(self):
        super().__init__()
        self.p = Parameter(0)

    def forward(self, batch):
        out = []
        for item in batch.items:
            tags = len(item.metadata["deep"][0].pop("tags"))
            item.metadata.pop("text")
            out.append(Datum(success=False, feedback="more", metrics={"tags": tags + self.p.data}))
            item.metadata, item.id = {}, "gone"
        batch.items.clear()
        return Datum(items=out)

    def on_train_batch_end(self, data, batch, index):
        batch.items[0].metadata.clear()

    def configure_optimizers(self):
        return Up(self.parameters())


class Up(Optimizer):
    def step(self):
        self.parameters[0].data += 1


class Reads(Loss):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, data, targets):
        self.seen.append([copy.deepcopy(item.metadata) for item in targets.items])
        return TextGradient("more")


def payloads(form):
    given = [{"id": f"i{n}", "text": "t", "deep": [{"tags": ["a", "b"]}]} for n in range(3)]
    return [Datum(metadata=item, id=item["id"]) for item in given] if form is Datum else given


def test_popping_a_field_in_one_epoch_leaves_the_next_as_it_was():
    for form in (dict, Datum):
        items, pristine = payloads(form), payloads(form)
        module, loss = Greedy(), Reads()
        module.configure_loss = lambda loss=loss: loss
        result = Trainer().fit(module, [items[:2], items[2:]], [items], max_epochs=3)
        assert result.metrics["val"]["tags"] == 5.0
        assert items == pristine
        expected = [item.metadata if form is Datum else item for item in pristine]
        # The loss gets the batch as the dataset has it.
        assert loss.seen == [expected[:2], expected[2:]] * 3


def test_an_item_that_is_run_again_alone_is_whole_again():
    class Fails(Greedy):
        def forward(self, batch):
            several = len(batch.items) > 1
            data = super().forward(batch)
            if several:
                raise ValueError("too many")
            return data

    module = Fails()
    experiment = Experiment()
    experiment.open(module.parameters())
    data = Evaluator(module, experiment, 7).run(Position("val", 0, 0), as_batch(payloads(dict)))
    assert [item.error_message for item in data.items] == [None] * 3
    assert [item.id for item in data.items] == ["i0", "i1", "i2"]


def test_ids_are_those_of_the_original():
    items = [{"text": "a"}, {"text": "b"}]
    (first,) = [batch for _, batch, _ in batches([items], "val", 0, 0)]
    (again,) = [batch for _, batch, _ in batches([items], "val", 1, 0)]
    assert [x.id for x in first.items] == [x.id for x in again.items]
    assert first.items[0].metadata is not again.items[0].metadata


def test_an_array_that_a_datum_holds_is_copied():
    class Array(list):
        """As numpy's: it is neither true nor false."""

        def __bool__(self):
            raise ValueError("the truth value of an array is ambiguous")

    item = Datum(id="a")
    item.extra = Array([1, 2])
    twin = copied(item)
    assert list(twin.extra) == [1, 2]
    assert twin.extra is not item.extra


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
