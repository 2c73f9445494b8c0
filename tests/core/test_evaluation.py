"""Running a batch: order, ids, failures of one item, chance, batches of any form."""

import asyncio
import math
import random
import re
from decimal import Decimal
from fractions import Fraction

import pytest

from autopilot.core.evaluation import Evaluator
from autopilot.core.experiment import Experiment
from autopilot.core.graph import Graph
from autopilot.core.items import as_batch, batches
from autopilot.core.loss import Loss
from autopilot.core.module import AutoPilotModule, Module
from autopilot.core.parameter import Parameter
from autopilot.core.progress import Position
from autopilot.core.scoring import Scoring
from autopilot.core.types import Datum
from autopilot.errors import DataError, EvaluationError


class Picky(AutoPilotModule):
    """Raises on a batch with a "bad" item; answers others with their text."""

    def __init__(self):
        super().__init__()
        self.p = Parameter()
        self.calls = []

    def forward(self, batch):
        self.calls.append([item.id for item in batch.items])
        for item in batch.items:
            if item.metadata["text"] == "bad":
                raise ValueError("cannot read this")
        return Datum(items=[self.said(item) for item in batch.items])

    def said(self, item):
        return Datum(metadata={"said": item.metadata["text"]}, success=True)


def evaluator(module, **options):
    experiment = Experiment()
    experiment.open(module.parameters())
    return Evaluator(module, experiment, 7, **options)


def batch(*texts):
    return as_batch([{"id": f"i{n}", "text": text} for n, text in enumerate(texts)])


def test_an_item_that_raises_in_a_batch_of_its_own_keeps_its_id():
    (failed,) = evaluator(Picky()).run(Position("val", 3, 0), batch("bad")).leaves()
    assert (failed.id, failed.outcome) == ("i0", "error")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_one_item_that_raises_fails_alone(split):
    module = Picky()
    data = evaluator(module).run(Position(split, 3, 0), batch("a", "bad", "c", "bad"))
    assert [item.id for item in data.items] == ["i0", "i1", "i2", "i3"]
    assert [item.metadata.get("said") for item in data.items] == ["a", None, "c", None]
    assert [item.success for item in data.items] == [True, False, True, False]
    assert data.items[1].error_message == "ValueError: cannot read this"
    feedback = data.items[1].feedback
    assert re.fullmatch(
        r"it raised ValueError: cannot read this \(\S*test_evaluation\.py:\d+\)", feedback
    )
    assert {(item.split, item.epoch) for item in data.items} == {(split, 3)}
    assert module.calls == [["i0", "i1", "i2", "i3"], ["i0"], ["i1"], ["i2"], ["i3"]]


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ({"items": [{"success": True}] * 2}, "an item that is a dict, not a Datum"),
        ({"items": (Datum() for _ in range(2))}, "items are a generator, not a list"),
        ({"items": [Datum()]}, "1 items for a batch of 2"),
        ({"items": [Datum(), Datum(success="no")]}, "success='no', neither True, False nor None"),
        ({"items": [Datum(), Datum(success=0.1)]}, "success=0.1, neither"),
        ({"items": [Datum(success=1)] * 2}, "success=1, neither"),
        ({"items": [Datum(), Datum(feedback=["too long"])]}, "feedback is a list, not a text"),
        ({"items": [Datum(), Datum(error_message=ValueError())]}, "error_message is a ValueError"),
        ({"items": [Datum(), Datum()], "metrics": {"f1": None}}, "metric 'f1' of a batch is None"),
        ({"items": [Datum(metrics=["f1"])] * 2}, "metrics are a list, not a dict"),
    ],
)
def test_what_cannot_be_a_result_is_named(returned, says):
    class Wrong(Picky):
        def forward(self, batch):
            return Datum(**returned)

    with pytest.raises(EvaluationError, match=says) as refused:
        evaluator(Wrong()).run(Position("val", 0, 0), batch("a", "b"))
    assert refused.value.hint


def score_of(value, **options):
    class Scored(Picky):
        def forward(self, batch):
            return Datum(items=[Datum(metrics={"f1": value}), Datum(metrics={"f1": 0.5})])

    run = evaluator(Scored(), scoring=Scoring(("f1",), **options))
    return run.run(Position("val", 0, 0), batch("a", "b")).items


class Float32:
    """What a scalar of another library can do."""

    def __float__(self):
        return 0.25


@pytest.mark.parametrize(
    ("value", "expected"),
    [(Decimal("0.25"), 0.25), (Fraction(1, 4), 0.25), (True, 1.0), (3, 3.0), (Float32(), 0.25)],
)
def test_whatever_is_a_number_becomes_a_float(value, expected):
    first, second = score_of(value)
    assert (type(first.metrics["f1"]), first.metrics["f1"]) == (float, expected)
    assert (second.metrics, second.error_message) == ({"f1": 0.5}, None)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("0.9", "its metric 'f1' is the text '0.9', not a number"),
        (None, "its metric 'f1' is None, not a number"),
        ([0.9], "its metric 'f1' is a list, not a number"),
        (math.nan, "its metric 'f1' is nan"),
    ],
)
def test_what_is_no_number_is_that_items_error(value, why):
    first, second = score_of(value)
    assert (first.outcome, first.error_message, first.metrics) == ("error", why, {})
    assert second.outcome == "unscored"
    first, _ = score_of(value, failed_value=0)
    assert (first.outcome, first.metrics) == ("error", {"f1": 0})


def test_a_nan_that_decides_nothing_is_kept():
    class Scored(Picky):
        def forward(self, batch):
            return Datum(metrics={"other": math.nan}, success=True)

    data = evaluator(Scored(), scoring=Scoring(("f1",))).run(Position("val", 0, 0), batch("a"))
    assert data.outcome == "passed"
    assert math.isnan(data.metrics["other"])


def test_a_loss_scores_what_the_module_left_unscored_once():
    class Scores(Loss):
        seen = 0

        def score(self, data, targets):
            for item, target in zip(data.leaves(), targets.leaves(), strict=True):
                Scores.seen += 1
                item.success = target.metadata["text"] == item.metadata["said"]
                item.metrics["score"] = Decimal(1)

    class Unscored(Picky):
        def said(self, item):
            return Datum(metadata={"said": "a"})

    run = evaluator(Unscored(), loss=Scores())
    for split in ("train", "val", "test"):
        data = run.run(Position(split, 0, 0), batch("a", "b"))
        assert [item.outcome for item in data.items] == ["passed", "failed"]
        assert [type(item.metrics["score"]) for item in data.items] == [float, float]
    assert Scores.seen == 6


def test_a_failure_has_a_graph_so_that_feedback_reaches_the_module():
    module = Picky()
    data = evaluator(module).run(Position("train", 1, 0), batch("bad"))
    assert {node.module for node in Graph(data).nodes()} == {module}


class Parts(Picky):
    """The failing part is one of two."""

    def __init__(self):
        super().__init__()
        self.part = Part()

    def forward(self, batch):
        return Datum(items=[self.part(item) for item in batch.items])


class Part(Module):
    def __init__(self):
        super().__init__()
        self.q = Parameter()

    def forward(self, item):
        if item.metadata["text"] == "bad":
            raise ValueError("cannot read this")
        item.success = True
        return item


def test_the_datasets_own_items_are_left_alone():
    module, given = Parts(), batch("a", "bad")
    for _ in range(2):
        data = evaluator(module).run(Position("train", 1, 0), given)
        assert [item.success for item in data.items] == [True, False]
        assert {n.module for n in Graph(data).nodes()} == {module, module.part}
        assert all(item.grad_fn is None for item in given.items)
        Graph(data).free()


@pytest.mark.parametrize("returned", [None, "text", [Datum()], 3])
def test_what_is_no_datum_is_said(returned):
    module = Picky()
    module.forward = lambda batch: returned
    kind = type(returned).__name__
    with pytest.raises(EvaluationError, match=f"Picky.validation_step returned {kind}, not a Da"):
        evaluator(module).run(Position("val", 0, 0), batch("a"))


@pytest.mark.parametrize("stop", [KeyboardInterrupt])
def test_an_interrupt_is_not_a_failed_item(stop):
    module = Picky()

    def interrupted(batch):
        raise stop

    module.forward = interrupted
    with pytest.raises(stop):
        evaluator(module).run(Position("val", 0, 0), batch("a", "b"))


def test_chance_is_that_of_seed_split_epoch_and_batch():
    class Lucky(Picky):
        def forward(self, batch):
            return Datum(metrics={"luck": random.random()})

    def luck(split="val", epoch=1, index=0, seed=7):
        run = evaluator(Lucky())
        run.seed = seed
        return run.run(Position(split, epoch, index), batch("a")).metrics["luck"]

    assert luck() == luck()
    others = [luck(split="test"), luck(epoch=2), luck(index=1), luck(seed=8)]
    assert len({luck(), *others}) == 5


@pytest.mark.parametrize(
    "metadata", [{"pair": (1, 2)}, {"by number": {1: "a"}}, {"object": object()}]
)
def test_what_would_come_back_otherwise_is_evaluated_again(metadata):
    class Says(Picky):
        def forward(self, batch):
            self.calls.append(1)
            return Datum(items=[Datum(metadata=metadata) for _ in batch.items])

    module = Says()
    run = evaluator(module)
    run.run(Position("val", 0, 0), batch("a"))
    assert [note.data for note in run.experiment.store.progress()] == [{}]


def test_results_stand_in_for_calls_of_the_module_itself():
    class Steps(Picky):
        def training_step(self, batch):
            return self(batch)

    for module, noted in ((Picky(), 1), (Steps(), 1), (Parts(), 0)):
        run = evaluator(module)
        run.run(Position("train", 1, 0), batch("a"))
        found = [note for note in run.experiment.store.progress() if note.data and not note.waits]
        assert len(found) == noted, type(module).__name__


def test_batches_of_any_form():
    datum = Datum(items=[Datum()])
    assert as_batch(datum) is datum
    assert [i.metadata for i in as_batch(["a", {"x": 1}]).items] == [{"value": "a"}, {"x": 1}]
    assert [i.metadata for i in as_batch(("a",)).items] == [{"value": "a"}]
    assert [i.metadata for i in as_batch("text").items] == [{"value": "text"}]


def test_the_last_batch_is_known_without_a_length():
    def stream():
        yield from "abc"

    found = [(n, b.items[0].metadata["value"], last) for n, b, last in batches(stream(), "t", 0, 0)]
    assert found == [(0, "a", False), (1, "b", False), (2, "c", True)]
    with pytest.raises(DataError, match="the t split gives no batches in epoch 4"):
        list(batches([], "t", 4, 0))


def test_loaders_are_told_epoch_and_seed():
    class Loader(list):
        def set_epoch(self, epoch, seed):
            self.told = (epoch, seed)

    loader = Loader(["a"])
    list(batches(loader, "train", 3, 7))
    assert loader.told == (3, 7)


class Own(BaseException):
    """A user's own, which no `except Exception` sees."""


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (asyncio.CancelledError(), "CancelledError"),
        (pytest.fail.Exception("it fails"), "Failed: it fails"),
        (pytest.skip.Exception("not today"), "Skipped: not today"),
        (pytest.exit.Exception("out"), "Exit: out"),
        (GeneratorExit(), "GeneratorExit"),
        (SystemExit(3), "SystemExit: 3"),
        (Own("odd"), "Own: odd"),
    ],
)
def test_whatever_an_item_raises_is_its_own(raised, said, workers):
    class Raises(Picky):
        def said(self, item):
            if item.id == "i1":
                raise raised
            return super().said(item)

    runner = evaluator(Raises(), num_workers=workers)
    data = runner.run(Position("val", 0, 0), batch("a", "b", "c"))
    runner.close()
    assert [item.error_message for item in data.items] == [None, said, None]
    assert data.items[1].outcome == "error"


def test_ctrl_c_is_no_items_failure():
    class Interrupted(Picky):
        def said(self, item):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluator(Interrupted()).run(Position("val", 0, 0), batch("a", "b"))
