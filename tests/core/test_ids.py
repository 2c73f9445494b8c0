"""Ids: no two items of a split share one."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from autopilot.core.ids import SplitIds, check_ids
from autopilot.core.module import AutoPilotModule
from autopilot.core.parameter import Parameter
from autopilot.core.trainer import Trainer
from autopilot.core.types import Datum, digest
from autopilot.data import DataLoader, IterableDataset, ListDataset
from autopilot.errors import DataError
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
