"""Two states are compared on the items that have a value in both."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopilot.core.comparison import EpochView, Monitored, compare, keyed, monitored
from autopilot.core.metric import MetricCollection
from autopilot.core.metrics import Mean, Quantile
from autopilot.core.policy import Policy, decide
from autopilot.core.types import Datum, datum_from_json, datum_to_json


def scored(*values):
    """Items a, b, c ...; None: the item raised."""
    return [
        Datum(id=name, error_message="KeyError: 'label'")
        if value is None
        else Datum(id=name, metrics={"score": value})
        for name, value in zip("abcdefgh", values, strict=False)
    ]


def view(items, best, monitor="score", mode="max", **settings):
    def mean(side):
        values = [i.metrics["score"] for i in side if "score" in i.metrics]
        return {"val": {monitor: sum(values) / len(values)}} if values else {"val": {}}

    return EpochView(1, mean(items), mean(best), mean(best), monitor, mode, items, best, **settings)


def test_crashing_on_the_hard_items_is_no_improvement():
    look = view(scored(0.9, None, None, None), scored(0.9, 0.5, 0.5, 0.5))
    assert look.value > look.best_value
    decision = decide(Policy(), look)
    assert decision.verdict == "rejected"
    assert decision.explain() == (
        "3 of 4 val items have no score any more: b, c, d (KeyError: 'label')"
    )


def test_only_items_with_a_value_in_both_count():
    look = view(scored(0.6, 0.1), scored(0.5, None))
    assert look.value < look.best_value
    assert look.gain() == pytest.approx(0.1)
    assert decide(Policy(), look).explain() == (
        "val score 0.500 -> 0.600 over the 1 items that have a value in both"
    )


def test_an_item_that_has_a_value_now_breaks_a_tie():
    decision = decide(Policy(), view(scored(0.5, 0.1), scored(0.5, None)))
    assert decision.verdict == "kept"
    assert "1 items have a value that had none: b" in decision.explain()
    assert decide(Policy(), view(scored(0.5, 0.1), scored(0.5, 0.1))).verdict == "rejected"


def test_accuracy_has_a_value_of_errors_but_not_of_what_was_not_measured():
    accuracy = Monitored("accuracy")
    values = [
        accuracy.of_item(item)
        for item in (
            Datum(success=True),
            Datum(success=False),
            Datum(success=True, error_message="it died"),
            Datum(success=True, unmeasured="no connection"),
            Datum(),
        )
    ]
    assert values == [1.0, 0.0, 0.0, None, None]


def test_a_metric_of_the_module_is_computed_over_the_shared_items():
    metric = Quantile("score", 0.5, higher_is_better=True)
    decides = monitored("middle", {"middle": metric})
    found = compare(decides, scored(0.2, 0.6, 0.9), scored(0.1, 0.5, None))
    assert (found.shared, found.fresh, found.lost) == (2, ("c",), ())
    assert (found.value, found.other) == (pytest.approx(0.4), pytest.approx(0.3))


def test_a_metric_inside_of_a_collection_is_found():
    metrics = {"all": MetricCollection({"mean": Mean("score")}, prefix="my_")}
    decides = monitored("my_mean", metrics)
    assert decides.owner == (metrics["all"]["my_mean"], "")
    assert decides.over(scored(0.5, 1.0)) == 0.75
    assert monitored("score", metrics).owner is None


def test_a_row_that_is_there_twice_is_two_items():
    twice = [Datum(id="x", metrics={"score": s}) for s in (1.0, 2.0)]
    assert list(keyed(twice)) == [("x", 0), ("x", 1)]
    assert compare(Monitored("score"), twice, twice[:1]).fresh == ("x",)


def test_an_item_that_raises_loses_its_part_of_a_metric_of_batches():
    before = [Datum(id=name, success=True) for name in "ab"]
    after = [Datum(id="a", success=True), Datum(id="b", error_message="KeyError: 'label'")]
    better = {"val": {"score": 0.9}}, {}, {"val": {"score": 0.7}}
    decision = decide(Policy(), EpochView(1, *better, "score", "max", after, before))
    assert decision.explain() == "1 of 2 val items has no score any more: b (KeyError: 'label')"
    assert decide(Policy(), EpochView(1, *better, "score", "max", before, before)).kept


def test_without_items_there_is_nothing_to_compare():
    assert compare(Monitored("score"), [], scored(1.0)) is None
    assert view([], []).gain() is None


values = st.lists(st.floats(0, 1).map(lambda x: round(x, 3)), min_size=2, max_size=8)


@given(values=values, which=st.data())
def test_no_metric_improves_when_an_item_that_had_a_value_raises_instead(values, which):
    lost = which.draw(st.sets(st.integers(0, len(values) - 1), min_size=1))
    before = scored(*values)
    after = scored(*(None if n in lost else value for n, value in enumerate(values)))
    for mode in ("max", "min"):
        for decides in (
            Monitored("score"),
            monitored("m", {"m": Mean("score")}),
            monitored("m", {"m": Quantile("score", 0.9)}),
        ):
            look = view(after, before, decides.name, mode, monitored=decides)
            assert decide(Policy(), look).verdict == "rejected"


@given(success=st.lists(st.sampled_from([True, False, None]), min_size=1, max_size=8))
def test_accuracy_never_improves_when_a_passed_item_raises_instead(success):
    before = [Datum(id=str(n), success=s) for n, s in enumerate(success)]
    after = [
        Datum(id=i.id, success=i.success, error_message="it died" if i.success else None)
        for i in before
    ]
    found = compare(Monitored("accuracy"), after, before)
    assert found.lost == ()
    if found.value is not None:
        assert found.value <= found.other
    assert math.isfinite(found.value or 0)


def test_items_read_back_from_json_compare_the_same():
    before, after = scored(0.5, 0.25, None), scored(0.75, 0.5, 0.5)
    read = [datum_from_json(datum_to_json(item), split="val", epoch=0) for item in before]
    assert compare(Monitored("score"), after, read) == compare(Monitored("score"), after, before)
