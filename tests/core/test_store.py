"""The store's contract on the in-memory implementation, and what only that one does."""

import copy
from pathlib import Path

import pytest

from autopilot.core.parameter import Parameter
from autopilot.core.records.record import Manifest, MetricsRecord, ProgressNote
from autopilot.core.store import InMemoryStore, Revision
from autopilot.errors import ExperimentError
from autopilot.testing import StoreContract


class TestInMemoryStore(StoreContract):
    @pytest.fixture(autouse=True)
    def stores(self):
        self.made: dict[Path, InMemoryStore] = {}

    def make_store(self, folder):
        return self.made.setdefault(folder, InMemoryStore())


@pytest.fixture
def begun():
    x, y = Parameter([1]), Parameter("one")
    x.name, y.name = "x", "y"
    store = InMemoryStore("demo")
    store.bind([x, y])
    store.begin(Manifest(slug="demo"))
    return store, x, y


def test_states_are_copies(begun):
    store, x, _ = begun
    first = store.tip
    x.data.append(2)
    second = store.commit(store.state(), "append", [])
    x.data.append(3)
    store.restore(first)
    assert x.data == [1]
    x.data.append(9)
    store.restore(second)
    assert x.data == [1, 2]
    store.restore(first)
    assert x.data == [1]


def test_records_are_copies(begun):
    store, _, _ = begun
    metrics = {"accuracy": 0.5}
    record = MetricsRecord(id="0-val", split="val", metrics=metrics, verdict="baseline")
    store.annotate(store.tip, [record])
    metrics["accuracy"] = 0.9
    assert store.records(MetricsRecord)[0][1].metrics == {"accuracy": 0.5}


def test_the_edited_parameter_is_named(begun):
    store, _, y = begun
    y.data = "two"
    assert store.edited() == ["y"]


def test_the_diff_is_by_parameter(begun):
    store, x, y = begun
    first = store.tip
    y.data = "one\ntwo"
    x.data = [2]
    lines = store.diff(first, store.commit(store.state(), "both", [])).splitlines()
    assert lines[:2] == ["--- a/x", "+++ b/x"]
    assert "-[1]" in lines and "+[2]" in lines and "+two" in lines and "-one" not in lines


class Config:
    """A value without a repr or an equality of its own."""

    def __init__(self, depth):
        self.depth = depth


def test_plain_objects_have_states_too():
    config = Parameter(Config([1]))
    store = InMemoryStore()
    store.bind([config])
    first = store.begin(Manifest(slug="in-memory"))
    before = store.state()
    assert store.state() == before
    assert store.edited() == []
    config.data.depth.append(2)
    assert store.edited() != []
    assert store.state() != before
    store.restore(first)
    assert config.data.depth == [1]
    assert store.state() == before


def test_large_arrays_are_told_apart():
    numpy = pytest.importorskip("numpy")
    weights = Parameter(numpy.zeros(5000))
    store = InMemoryStore()
    store.bind([weights])
    store.begin(Manifest(slug="in-memory"))
    before = store.state()
    weights.data[2500] = 1
    assert store.edited() == [repr(weights)]
    assert store.state() != before
    weights.data[2500] = 0
    assert store.state() == before


def test_dicts_and_sets_are_the_same_in_any_order():
    parameter = Parameter({"a": 1, "b": {3, 1, 2}})
    store = InMemoryStore()
    store.bind([parameter])
    store.begin(Manifest(slug="in-memory"))
    before = store.state()
    parameter.data = {"b": {2, 3, 1}, "a": 1}
    assert store.state() == before
    parameter.data = {"b": {2, 3, 1}, "a": "1"}
    assert store.state() != before


def test_there_is_no_such_revision(begun):
    store, _, _ = begun
    with pytest.raises(ExperimentError, match="there is no revision 7"):
        store.restore("7")


@pytest.mark.parametrize(
    ("message", "value"),
    [
        ("subject\n\nbody\n\nAutopilot-Epoch: 3\nAutopilot-Step: 1\n", "3"),
        ("subject\n\nAutopilot-Epoch: 1\nAutopilot-Epoch: 2\n", "1"),
        ("subject\n\nAutopilot-Epoch: 3\n\nno trailers here\n", "3"),
        ("Autopilot-Epochs: 3\n", None),
        ("subject", None),
        ("", None),
    ],
)
def test_what_stands_behind_a_trailer_changes_nothing(message, value):
    assert Revision("1", "t", message).trailer("Autopilot-Epoch") == value


def test_a_store_can_be_copied(begun):
    store, x, _ = begun
    twin = copy.deepcopy(store)
    x.data.append(2)
    store.commit(store.state(), "append", [])
    assert (len(store.log()), len(twin.log())) == (2, 1)


def test_a_long_epoch_does_not_grow_without_end():
    store = InMemoryStore()
    for number in range(5000):
        store.note_progress(ProgressNote(epoch=1, split="train", batch=number, data={"n": number}))
    kept = store.progress()
    assert len(kept) == 1000
    assert kept[-1].batch == 4999
