"""Scoring: the means of items, their conversion to floats, and the value of an error."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import pytest

from autopilot.core.comparison import Monitored
from autopilot.core.metrics import Accuracy
from autopilot.core.scoring import ItemMean, Scoring, worst_value
from autopilot.core.types import Datum
from autopilot.errors import EvaluationError, UsageError

PASSED, FAILED, UNSCORED = Datum(success=True), Datum(success=False), Datum()
ERROR, UNMEASURED = Datum(error_message="timed out"), Datum(success=True, unmeasured="no answer")


def means(*items, **metrics):
    mean = ItemMean()
    mean.update(Datum(items=list(items), metrics=metrics))
    return mean.compute()


def test_item_mean_averages_over_the_items_that_have_the_number():
    mean = ItemMean()
    mean.update(Datum(items=[Datum(success=True, metrics={"f1": 0.5}), FAILED]))
    mean.update(Datum(success=True, metrics={"f1": 1.0}))
    assert mean.compute() == {"accuracy": pytest.approx(2 / 3), "f1": 0.75}


def test_accuracy_is_passed_of_passed_failed_and_error():
    assert means(PASSED, FAILED, ERROR, ERROR, UNSCORED, UNMEASURED) == {"accuracy": 0.25}


def test_an_accuracy_of_the_items_own_counts_in_place_of_the_outcome():
    own = [Datum(metrics={"accuracy": value}) for value in (0.9, 0.5)]
    assert means(*own) == {"accuracy": pytest.approx(0.7)}
    assert means(*own, ERROR, ERROR) == {"accuracy": pytest.approx(0.35)}
    counted = Datum(error_message="timed out", metrics={"accuracy": 0.5})
    assert means(PASSED, PASSED, FAILED, counted) == {"accuracy": 0.625}
    assert means(PASSED, FAILED, ERROR, UNSCORED, accuracy=0.8) == {"accuracy": pytest.approx(0.8)}
    items = [*own, PASSED, FAILED, ERROR, UNSCORED, UNMEASURED]
    assert means(*items)["accuracy"] == Monitored("accuracy").over(
        [item for item in items if Monitored("accuracy").has_value(item)]
    )


def test_item_mean_counts_by_outcome():
    mean = ItemMean()
    mean.update(Datum(items=[PASSED, PASSED, FAILED, ERROR, UNSCORED, UNMEASURED]))
    assert mean.outcomes == {"passed": 2, "failed": 1, "error": 1, "unscored": 1, "unmeasured": 1}
    assert mean.items == 6
    assert mean.errors == ["timed out"]


@pytest.mark.parametrize("items", [(UNSCORED,), (UNMEASURED,), (UNSCORED, ERROR), (UNSCORED,) * 2])
def test_there_is_no_accuracy_where_nobody_scored(items):
    assert means(*items) == {}


def test_accuracy_of_nothing_but_errors_is_zero():
    assert means(ERROR, ERROR) == means(ERROR, UNMEASURED) == {"accuracy": 0.0}


def test_item_mean_leaves_out_the_numbers_of_what_was_not_measured():
    odd = Datum(unmeasured="no answer", metrics={"f1": 0.0})
    assert means(Datum(metrics={"f1": 0.5}), odd) == {"f1": 0.5}
    assert means(odd, UNMEASURED, loss=3.0) == {}
    assert means(PASSED, UNMEASURED, loss=3.0) == {"accuracy": 1.0, "loss": 3.0}


def test_item_mean_weighs_a_batch_metric_by_its_items():
    mean = ItemMean()
    mean.update(Datum(items=[PASSED, PASSED, PASSED], metrics={"loss": 1.0}))
    mean.update(Datum(items=[PASSED], metrics={"loss": 5.0}))
    assert mean.compute() == {"accuracy": 1.0, "loss": 2.0}


def test_item_mean_without_items_is_empty():
    assert ItemMean().compute() == {}


def test_whether_items_are_judged():
    mean = ItemMean()
    mean.update(Datum(items=[UNSCORED, ERROR, UNMEASURED]))
    assert not mean.is_judged
    mean.update(FAILED)
    assert mean.is_judged


def test_scoring_converts_an_items_numbers_in_place():
    data = Datum(items=[Datum(metrics={"f1": Decimal("0.5"), "n": 2}), Datum()])
    Scoring(("f1",)).apply(data)
    assert data.items[0].metrics == {"f1": 0.5, "n": 2.0}
    assert all(type(value) is float for value in data.items[0].metrics.values())


@pytest.mark.parametrize(("value", "what"), [("0.5", "the text '0.5'"), (math.nan, "nan")])
def test_what_is_no_number_is_that_items_error(value, what):
    item = Datum(metrics={"f1": value, "n": 1})
    Scoring(("f1",)).apply(item)
    assert item.outcome == "error"
    assert what in item.error_message
    assert item.metrics == {"n": 1.0}


def test_a_failed_value_stands_for_the_numbers_an_error_lacks():
    scoring = Scoring(("f1", "recall"), failed_value=0.0)
    item = Datum(error_message="died", metrics={"f1": 0.3})
    scoring.apply(item)
    assert item.metrics == {"f1": 0.3, "recall": 0.0}
    passed = Datum(success=True)
    scoring.apply(passed)
    assert passed.metrics == {}


def test_a_score_is_no_success_and_a_batch_metric_is_a_number():
    with pytest.raises(EvaluationError, match=r"success=0\.7") as caught:
        Scoring().apply(Datum(success=0.7))
    assert 'metrics={"score": score}' in caught.value.hint
    with pytest.raises(EvaluationError, match="metric 'loss' of a batch is a list"):
        Scoring().apply(Datum(items=[Datum()], metrics={"loss": [1]}))


def test_the_worst_value_is_a_number_that_something_reads():
    assert worst_value(None, Monitored("f1"), "f1") is None
    assert worst_value(Fraction(1, 2), Monitored("f1"), "f1") == 0.5
    with pytest.raises(UsageError, match="failed_value is the text"):
        worst_value("low", Monitored("f1"), "f1")
    with pytest.raises(UsageError, match="failed_value does nothing: 'acc'"):
        worst_value(0, Monitored("acc", (Accuracy(), "")), "")
