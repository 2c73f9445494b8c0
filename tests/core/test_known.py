"""Results that are known already: which pass over a split stands for which."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy
import pytest

from autopilot.core.experiment import Experiment
from autopilot.core.interpreter import generators, seed_everything
from autopilot.core.known import Known, is_plain
from autopilot.core.progress import Position
from autopilot.core.records.index import Judged
from autopilot.core.records.record import MetricsRecord, ProgressNote, TraceRecord
from autopilot.core.types import Cost, Datum, datum_to_json

AT = Position("val", 3)


class Recorded(Known):
    """Passes that a test has recorded."""

    def __init__(self, *passes):
        super().__init__()
        self.passes = passes

    def sources(self, at, state):
        return list(self.passes)

    def begin(self, state):
        pass

    def reach(self):
        return ("content",)


def batches(count=4, size=2, **content):
    """Batches of items with an id of their own, as a loader gives them."""
    items = [Datum(id=f"i{n}", metadata={"at": n} | content) for n in range(count)]
    several = [items[n : n + size] for n in range(0, count, size)]
    return [(n, Datum(items=x, id=f"b{n}"), n == len(several) - 1) for n, x in enumerate(several)]


def record(given, *results, name="a-1@3"):
    """A pass over these batches as an experiment records it."""
    known = Recorded()
    list(known.batches(AT, "s", given, is_counted=True))
    items = tuple(map(datum_to_json, results))
    facts = {"given": known.seen, "reach": ("content",), "source": name}
    return TraceRecord(split="val", items=items, **facts)


def results(count=4, **fields):
    return [Datum(id=f"i{n}", success=n > 0, **fields) for n in range(count)]


def found(passes, given, *, is_counted=True):
    """The number of each batch whose result is known, to its items and their source."""
    known = Recorded(*passes)
    made = {
        n: known.find(Position("val", 3, n), batch)
        for n, batch, _ in known.batches(AT, "s", given, is_counted=is_counted)
    }
    return {n: (each[0].items, each[1]) for n, each in made.items() if each is not None}


def test_a_pass_is_known_by_the_content_of_its_items():
    one = record(batches(), *results())
    whole = found([one], batches())
    assert [[item.id for item in items] for items, _ in whole.values()] == [
        ["i0", "i1"],
        ["i2", "i3"],
    ]
    assert [item.outcome for item in whole[0][0]] == ["failed", "passed"]
    assert {source for _, source in whole.values()} == {"a-1@3"}
    # The same ids with other content, in other batches, or fewer of them, are another pass.
    for given in (batches(text="x"), batches(size=4), batches(count=2), batches()[::-1]):
        assert found([one], given) == {}
    # A measurement that tells how noisy the system is has to be made.
    assert found([one], batches(), is_counted=False) == {}


@pytest.mark.parametrize("fault", ["error_message", "unmeasured"])
def test_a_batch_with_an_item_that_failed_or_was_not_measured_is_not_known(fault):
    dead = [*results(3), Datum(id="i3", success=False, **{fault: "no result within 1 s"})]
    assert list(found([record(batches(), *dead)], batches())) == [0]


def test_a_split_that_is_one_batch_has_its_own_metrics():
    """As a command prints them, beside its items."""
    given = [(0, Datum(id="val"), True)]
    one = replace(record(given, *results(3)), own={"metrics": {"accuracy": 0.5}})
    known = Recorded(one)
    for number, batch, _ in known.batches(AT, "s", given, is_counted=True):
        data, _ = known.find(Position("val", 3, number), batch)
        assert (data.id, data.metrics, len(data.items)) == ("val", {"accuracy": 0.5}, 3)
    other = replace(one, own={"metrics": {"accuracy": 0.6}})
    assert found([one, one], given) and found([one, other], given) == {}
    assert found([replace(one, own={"error_message": "it died"})], given) == {}


def test_results_that_differ_are_no_function_of_content():
    one, other = results(), results()
    other[2].metrics = {"seconds": 0.1}
    assert list(found([record(batches(), *one), record(batches(), *one)], batches())) == [0, 1]
    assert found([record(batches(), *one), record(batches(), *other)], batches()) == {}


def test_items_of_other_classes_have_no_content():
    known = Recorded()
    list(known.batches(AT, "s", batches(text=object()), is_counted=True))
    assert known.seen == ""


def test_a_result_that_traces_do_not_hold_as_it_was_is_not_known():
    batch = batches()[0][1]
    assert is_plain(Datum(items=results(2)), batch)
    assert not is_plain(Datum(items=results(2), metrics={"f1": 0.5}), batch)
    assert not is_plain(Datum(success=True), batch)
    assert is_plain(Datum(success=True), Datum(id="one"))
    assert not is_plain(Datum(items=results(1)), Datum(id="one"))
    assert is_plain(Datum(items=results(1), metrics={"f1": 0.5}), Datum(id="one"))

    progress = Experiment().progress
    odd = Datum(items=[Datum(id="i0", success=True, metadata={"at": (1, 2)}), Datum(id="i1")])
    progress.note(AT, batch, odd, 0.1, "s", reach=("content",))
    assert progress.facts(AT) == TraceRecord(split="val")


def test_a_pass_reaches_as_far_as_all_of_its_results():
    def reach(*of_batches, item=-1):
        experiment = Experiment()
        for n, words in enumerate(of_batches):
            note = ProgressNote(epoch=3, split="val", batch=n, item=item, key="k", reach=words)
            experiment.progress._take_down(Position("val", 3, n, item=item), note, 2)
        return experiment.progress.facts(AT).reach

    assert reach(("content",), ("chance", "content")) == ("chance", "content")
    assert reach(("content",), ()) == ()
    for word in ("network", "outside", "outputs", "models"):
        assert reach(("content", word), ("content",)) == ()
    # A file may be read with a later batch; in the end all of them have to be read.
    assert reach(("content", "stale"), ("content",)) == ("content",)
    assert reach(("content",), ("content", "stale")) == ()


def test_a_batch_reaches_as_far_as_items_that_were_measured_one_by_one():
    def reach(whole, *items, is_again=False):
        experiment = Experiment()
        batch = Datum(items=results(len(items)))
        for n, words in enumerate(items):
            at = Position("val", 3, item=n)
            experiment.progress.note(at, Datum(), Datum(success=True), 0.1, "s", reach=words)
        experiment.progress.note(AT, batch, batch, 0.1, "s", reach=whole)
        if is_again:  # in another process, which finds the batch alone
            experiment.progress.load(3)
            assert experiment.progress.find(AT, batch, "s") is not None
        return experiment.progress.facts(AT).reach

    for is_again in (False, True):
        part = {"is_again": is_again}
        assert reach(("content",), ("content",), ("chance", "content"), **part) == (
            "chance",
            "content",
        )
        assert reach(("content",), ("content", "stale"), **part) == ("content",)
        assert reach(("content",), ("content",), (), **part) == ()
        assert reach((), ("content",), **part) == ()


def test_what_is_drawn_shows():
    words = [lambda: None, random.random, numpy.random.rand, lambda: random.getrandbits(32 * 624)]
    for number, draw in enumerate(words):
        seed_everything("s")
        before = generators(are_new=True)
        draw()
        assert (generators() == before) == (number == 0)


def test_a_budget_counts_what_is_measured_and_looks_ahead_as_if_all_were():
    cost = Cost(evaluations=5) + Cost(known=4) + Cost(known=1)
    assert cost.since(Cost(known=1)) == Cost(evaluations=5, known=4)
    record = MetricsRecord(split="val", metrics={}, verdict="baseline", cost=cost)
    assert Judged.of(record).counted == 10
