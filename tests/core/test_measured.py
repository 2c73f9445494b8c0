"""Measurements of a split: their metrics, what they are the means of, and how far they differ."""

import math

import pytest

from autopilot.core.comparison import Monitored
from autopilot.core.measured import Measured, SplitMetrics, means_of
from autopilot.core.metrics import Quantile
from autopilot.core.module import AutoPilotModule
from autopilot.core.types import Datum
from autopilot.errors import EvaluationError


def test_what_is_not_finite_in_the_baseline_names_its_item():
    class Own(AutoPilotModule):
        def __init__(self):
            super().__init__()
            self.middle = Quantile("f1", 0.5, higher_is_better=True)

    items = [Datum(id="a", metrics={"f1": 0.5}), Datum(id="b", metrics={"f1": math.inf})]
    for monitor, value in (("middle", "nan"), ("f1", "inf")):
        measured = SplitMetrics(Own(), keep_items=True)
        measured.update(Datum(items=items))
        with pytest.raises(EvaluationError, match=rf"val {monitor} is {value} \(item b\)"):
            measured.check_scored("val", monitor)


def test_metrics_of_no_items_are_none():
    measured = SplitMetrics(AutoPilotModule(), keep_items=True)
    assert (measured.compute(), measured.errors()) == ({}, [])
    measured.update(Datum(items=[Datum(success=False, error_message="e"), Datum(success=True)]))
    assert measured.compute() == {"accuracy": 0.5}
    assert measured.errors() == []


def measurement(*passed):
    measured = SplitMetrics(AutoPilotModule(), keep_items=True)
    items = [Datum(id=str(number), success=each) for number, each in enumerate(passed)]
    measured.update(Datum(items=items))
    return measured


def test_several_measurements_count_by_their_mean():
    both = Measured([measurement(True, False), measurement(True, True)])
    assert both.compute() == {"accuracy": 0.75}
    assert [item.metrics for item in both.items] == [{"accuracy": 1.0}, {"accuracy": 0.5}]
    assert both.spread("accuracy") == "2 measurements: accuracy 0.500 to 1.000"
    assert (both.evaluations, Measured([measurement(True)]).spread("accuracy")) == (4, "")
    assert means_of([{"f1": 0.5, "once": 1.0}, {"f1": 1.5}]) == {"f1": 1.0}


def test_a_measurement_beside_counts_as_an_evaluation_and_not_in_the_means():
    measured = Measured([measurement(True, True, False)])
    measured.beside.append(measurement(True, False, False))
    assert (measured.evaluations, measured.compute()["accuracy"]) == (6, pytest.approx(2 / 3))
    noise = measured.noise(Monitored("accuracy"))
    assert (noise.items, noise.differing, noise.evaluations) == (3, 1, 3)
    assert noise.shift == pytest.approx(1 / 3)
    assert measured.share("accuracy") == pytest.approx(1 / 3)
    assert measured.share("f1") is None


def test_errors_are_those_of_a_split_that_failed_as_a_whole():
    broken = SplitMetrics(AutoPilotModule(), keep_items=True)
    broken.update(Datum(items=[Datum(error_message="no route"), Datum(error_message="timeout")]))
    assert Measured([broken]).errors() == ["no route", "timeout"]
    assert Measured([broken, measurement(True)]).errors() == []
