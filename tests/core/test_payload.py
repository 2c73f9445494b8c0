"""Copies of items: at every depth, and what cannot be copied stays itself."""

import copy
import threading

from hypothesis import given
from hypothesis import strategies as st

from autopilot.core.evaluation import Evaluator, as_batch, batches
from autopilot.core.experiment import Experiment
from autopilot.core.gradient import TextGradient
from autopilot.core.loss import Loss
from autopilot.core.module import AutoPilotModule
from autopilot.core.optimizer import Optimizer
from autopilot.core.parameter import Parameter
from autopilot.core.payload import copied
from autopilot.core.trainer import Trainer
from autopilot.core.types import Datum

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
    data = Evaluator(module, experiment, 7).run("val", 0, 0, as_batch(payloads(dict)))
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
