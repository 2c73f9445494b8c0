"""Sums, means, extremes and quantiles, against the standard library."""

import math
import statistics
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopilot.core.metrics import Latency, Max, Mean, Min, Quantile, Sum
from autopilot.core.types import Datum
from autopilot.errors import MetricError, UsageError

unhurried = settings(deadline=None)  # a loaded machine is no failure
finite = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e150, max_value=1e150)
numbers = st.lists(finite, min_size=1, max_size=50)


def batch(values):
    return Datum(items=[Datum(metrics={"x": value}) for value in values])


def value(metric, values):
    metric.update(batch(values))
    return metric.compute()


def failed(**metrics):
    return Datum(metrics=metrics, error_message="timed out")


@unhurried
@given(values=numbers)
def test_they_agree_with_the_standard_library(values):
    assert value(Sum("x"), values) == math.fsum(values)
    assert value(Mean("x"), values) == statistics.mean(values)
    assert value(Min("x"), values) == min(values)
    assert value(Max("x"), values) == max(values)


@unhurried
@given(values=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50))
def test_quantiles_interpolate_as_usual(values):
    hundredths = statistics.quantiles(values, n=100, method="inclusive")
    for percent in (1, 25, 50, 90, 95, 99):
        assert value(Quantile("x", percent / 100), values) == pytest.approx(
            hundredths[percent - 1], rel=1e-9, abs=1e-6
        )
    assert value(Quantile("x", 0.0), values) == min(values)
    assert value(Quantile("x", 1.0), values) == max(values)


@unhurried
@given(values=numbers, data=st.data())
def test_batches_and_order_never_change_the_value(values, data):
    shuffled = data.draw(st.permutations(values))
    cut = data.draw(st.integers(0, len(values)))
    for make in (
        lambda: Sum("x"),
        lambda: Mean("x"),
        lambda: Min("x"),
        lambda: Max("x"),
        lambda: Quantile("x", 0.3),
    ):
        parts = make()
        for part in (shuffled[:cut], shuffled[cut:]):
            if part:
                parts.update(batch(part))
        assert parts.compute() == value(make(), values)


def test_a_sum_loses_nothing_to_rounding():
    assert value(Sum("x"), [1e16, 1.0, -1e16]) == 1.0
    assert value(Sum("x"), [0.1] * 10) == 1.0


def test_latency_is_a_high_quantile_where_lower_is_better():
    latency = Latency()
    latency.update(Datum(items=[Datum(metrics={"latency_s": float(s)}) for s in range(101)]))
    assert latency.compute() == 95.0
    assert latency.higher_is_better is False
    assert Latency("wait_s", q=0.5).q == 0.5


def test_the_direction_is_an_argument():
    assert Mean("x").higher_is_better is None
    assert Mean("x", higher_is_better=False).higher_is_better is False
    assert Quantile("x", 0.5, higher_is_better=True).higher_is_better is True


@pytest.mark.parametrize(
    "metric",
    [Sum("x"), Mean("x"), Min("x"), Max("x"), Quantile("x", 0.5), Latency("x")],
)
def test_nothing_and_not_finite_give_nan(metric):
    assert math.isnan(metric.compute())
    for odd in (math.nan, math.inf, -math.inf):
        assert math.isnan(metric.forward(batch([1.0, odd, 2.0])))
    assert math.isnan(metric.compute())
    metric.reset()
    assert value(metric, [2.0]) == pytest.approx(2.0, rel=0.1)


def test_a_sum_beyond_all_floats_is_nan():
    assert math.isnan(value(Sum("x"), [1.7e308, 1.7e308]))
    assert value(Mean("x"), [1.7e308, 1.7e308]) == 1.7e308


def test_a_missing_number_names_item_and_key():
    with pytest.raises(MetricError, match="Mean: item q7 has no 'x' in its metrics") as caught:
        Mean("x").update(Datum(id="q7", metrics={"y": 1.0}))
    assert caught.value.hint.startswith("there is y;")


def test_what_is_no_number_is_refused():
    for odd, what in (("0.5", "the text '0.5'"), (None, "None"), ([0.5], "a list")):
        with pytest.raises(MetricError, match=f"item q7 holds no number as 'x' .*{what}, not"):
            Mean("x").update(Datum(id="q7", metrics={"x": odd}))


def test_a_failed_item_is_left_out_or_counts_as_told():
    items = [Datum(metrics={"x": 1.0}), failed()]
    for metric, expected in ((Mean("x"), 1.0), (Mean("x", failed=0.0), 0.5), (Min("x"), 1.0)):
        metric.update(Datum(items=items))
        assert metric.compute() == expected
    slow = Latency("x", q=1.0, failed=30.0)
    slow.update(Datum(items=items))
    assert slow.compute() == 30.0


@pytest.mark.parametrize("metric", [Mean("x"), Sum("x"), Min("x"), Max("x"), Quantile("x", 0.5)])
def test_an_unmeasured_item_does_not_count_even_with_a_number(metric):
    unmeasured = [Datum(unmeasured="no answer", metrics={"x": 9.0}), Datum(unmeasured="no answer")]
    metric.update(Datum(items=[Datum(metrics={"x": 1.0}), *unmeasured]))
    assert metric.compute() == 1.0
    assert not any(map(metric.has_value, unmeasured))


def test_what_has_a_value():
    items = [
        Datum(metrics={"x": 1.0}),
        Datum(success=False, metrics={"x": Decimal("0.5")}),
        failed(x=0.5),
        failed(),
        failed(x=math.nan),
        Datum(metrics={"x": math.nan}),
        Datum(metrics={"y": 1.0}),
    ]
    assert list(map(Mean("x").has_value, items)) == [True, True, True] + [False] * 4
    assert list(map(Mean("x", failed=0.0).has_value, items)) == [True] * 5 + [False] * 2


def test_an_error_without_a_finite_number_is_left_out_or_counts_as_told():
    items = [Datum(metrics={"x": 1.0}), failed(x=math.nan)]
    for metric, expected in ((Mean("x"), 1.0), (Mean("x", failed=0.0), 0.5)):
        metric.update(Datum(items=items))
        assert metric.compute() == expected


class Scalar:
    """As a tensor of one number: float(), and nothing else."""

    def __float__(self):
        return 0.5


@pytest.mark.parametrize("half", [Decimal("0.5"), Fraction(1, 2), Scalar(), 0.5])
def test_what_converts_to_a_float_is_a_number(half):
    metric = Mean("x")
    metric.update(Datum(items=[Datum(metrics={"x": half}), Datum(metrics={"x": True})]))
    assert metric.compute() == 0.75


def test_what_an_error_counts_as_is_a_number_of_any_kind():
    for failed_as in (Decimal(0), Fraction(0), Scalar(), False):
        metric = Quantile("x", 0.0, failed=failed_as)
        metric.update(Datum(items=[Datum(metrics={"x": 1.0}), failed()]))
        assert metric.compute() == float(failed_as)
    for odd, what in (("0", "the text '0'"), ([0], "a list"), (math.nan, "NaN"), (1j, "a complex")):
        with pytest.raises(UsageError, match=f"Mean: failed is {what}"):
            Mean("x", failed=odd)


def test_latency_is_noisy():
    assert [Latency().noisy, Quantile("x", 0.5).noisy, Mean("x").noisy] == [True, False, False]


def test_a_failed_item_with_the_number_counts_with_it():
    metric = Mean("x", failed=0.0)
    metric.update(Datum(items=[Datum(metrics={"x": 1.0}), failed(x=0.5)]))
    assert metric.compute() == 0.75


def test_only_failed_items_are_nothing_to_compute():
    metric = Mean("x")
    metric.update(failed())
    assert math.isnan(metric.compute())


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
def test_a_quantile_lies_between_0_and_1(q):
    with pytest.raises(MetricError, match="is not between 0 and 1"):
        Quantile("x", q)
