"""Gates against the best: regressions, improvements that are real, and the train-val gap."""

import math
from dataclasses import replace

import pytest

from autopilot.core.comparison import EpochView
from autopilot.core.types import Datum
from autopilot.errors import UsageError
from autopilot.policy import (
    GeneralizationGap,
    Improvement,
    NoRegression,
    SignificantImprovement,
)


def view(now, best, *, monitor="f1", mode="max", **more):
    best_metrics = {} if best is None else {"val": best}
    return EpochView(2, {"val": now}, {}, best_metrics, monitor=monitor, mode=mode, **more)


@pytest.mark.parametrize(
    ("gate", "now", "best", "passed", "reason"),
    [
        (NoRegression("r"), 0.8, 0.8, True, "val r 0.800 -> 0.800 is no regression"),
        (NoRegression("r"), 0.9, 0.8, True, "val r 0.800 -> 0.900 is no regression"),
        (
            NoRegression("r"),
            0.79,
            0.8,
            False,
            "val r 0.800 -> 0.790 is worse by 0.010, more than 0.000",
        ),
        # 0.75 - 0.70 is a little more than 0.05 in binary.
        (NoRegression("r", 0.05), 0.70, 0.75, True, "val r 0.750 -> 0.700 is no regression"),
        (
            NoRegression("r", higher_is_better=False),
            0.9,
            0.8,
            False,
            "val r 0.800 -> 0.900 is worse by 0.100, more than 0.000",
        ),
        (
            NoRegression("r", higher_is_better=False),
            0.7,
            0.8,
            True,
            "val r 0.800 -> 0.700 is no regression",
        ),
    ],
)
def test_no_regression(gate, now, best, passed, reason):
    result = gate.check(view({"r": now}, {"r": best}))
    assert (result.passed, result.reason) == (passed, reason)


def test_no_regression_of_several_names_all_that_got_worse():
    gate = NoRegression(["p", "r", "f"])
    result = gate.check(view({"p": 0.5, "r": 0.7, "f": 0.8}, {"p": 0.6, "r": 0.7, "f": 0.9}))
    assert not result.passed
    assert result.reason == (
        "val p 0.600 -> 0.500 is worse by 0.100, more than 0.000; "
        "val f 0.900 -> 0.800 is worse by 0.100, more than 0.000"
    )
    assert gate.name == "NoRegression(p, r, f)"


def test_no_regression_without_evidence():
    gate = NoRegression("r")
    nothing = "there is no best val r to compare with yet"
    for best in (None, {"f1": 0.5}, {"r": math.nan}):
        result = gate.check(view({"r": 0.1}, best))
        assert (result.passed, result.reason) == (True, nothing)
    missing = gate.check(view({"f1": 0.1}, None))
    assert (missing.passed, missing.reason) == (False, "val r was not measured; val has f1")
    assert not gate.check(view({"r": math.nan}, {"r": 0.5})).passed
    assert (
        not NoRegression("r", higher_is_better=False)
        .check(view({"r": math.inf}, {"r": math.inf}))
        .passed
    )


@pytest.mark.parametrize(
    ("min_delta", "now", "best", "mode", "passed", "reason"),
    [
        (0.0, 0.701, 0.7, "max", True, "val f1 0.700 -> 0.701 is a gain of 0.001"),
        (0.0, 0.7, 0.7, "max", False, "val f1 0.700 -> 0.700 is no improvement"),
        (0.05, 0.75, 0.70, "max", True, "val f1 0.700 -> 0.750 is a gain of 0.050"),
        (0.1, 0.3, 0.2, "max", True, "val f1 0.200 -> 0.300 is a gain of 0.100"),
        (0.1, 0.2, 0.3, "min", True, "val f1 0.300 -> 0.200 is a gain of 0.100"),
        (0.1, 0.25, 0.2, "max", False, "val f1 0.200 -> 0.250 is a gain of 0.050, less than 0.100"),
        (0.1, 0.4, 0.2, "min", False, "val f1 0.200 -> 0.400 is no improvement"),
    ],
)
def test_improvement(min_delta, now, best, mode, passed, reason):
    result = Improvement(min_delta).check(view({"f1": now}, {"f1": best}, mode=mode))
    assert result.passed == passed
    assert result.reason.startswith(reason)


def test_improvement_without_evidence():
    assert Improvement().check(view({"f1": 0.1}, None)).reason == (
        "there is no best val f1 to compare with yet"
    )
    assert Improvement().check(view({"f1": 0.1}, None)).passed
    assert not Improvement().check(view({}, None)).passed
    assert not Improvement().check(view({"f1": math.nan}, {"f1": 0.1})).passed
    assert not Improvement().check(view({"f1": math.inf}, {"f1": 0.1})).passed


@pytest.mark.parametrize(
    "make",
    [
        lambda: NoRegression("r", -0.1),
        lambda: NoRegression("r", math.nan),
        lambda: NoRegression([]),
        lambda: Improvement(-0.1),
        lambda: SignificantImprovement(95),
        lambda: SignificantImprovement(1.0),
        lambda: SignificantImprovement(method="t-test"),
        lambda: SignificantImprovement(repeats=1000),
        lambda: SignificantImprovement(0.99, "bootstrap", repeats=100),
        lambda: GeneralizationGap(math.nan),
    ],
)
def test_arguments_that_make_no_sense_are_refused(make):
    with pytest.raises(UsageError):
        make()


def test_a_cost_among_metrics_needs_its_direction():
    with pytest.raises(UsageError, match="a lower 'loss' is better") as refused:
        NoRegression(["recall", "loss"])
    assert refused.value.hint == "NoRegression('loss', higher_is_better=False), or True"


def passes(flags, **more):
    return [Datum(id=f"i{n}", success=bool(flag), **more) for n, flag in enumerate(flags)]


def paired(before, after, **more):
    share = [{"f1": sum(flags) / len(flags)} for flags in (after, before)]
    return view(*share, items=passes(after), best_items=passes(before), **more)


BOTH = pytest.mark.parametrize("method", ["sign", "bootstrap"])


@BOTH
def test_significance_takes_five_wins_without_a_loss(method):
    gate = SignificantImprovement(method=method)
    before = [0] * 20
    assert not gate.check(paired(before, [1] * 4 + [0] * 16)).passed
    assert gate.check(paired(before, [1] * 5 + [0] * 15)).passed


@BOTH
def test_significance_is_one_sided(method):
    worse = paired([1] * 30, [1] * 20 + [0] * 10)
    assert not SignificantImprovement(method=method).check(worse).passed


def test_significance_says_what_it_counted():
    gate = SignificantImprovement()
    assert gate.check(paired([0] * 9 + [1], [1] * 9 + [0])).reason == (
        "9 val items better and 1 worse in success: p 0.011 is within 0.035"
    )
    assert gate.check(paired([0] * 6 + [1] * 4, [1] * 6 + [0] * 4)).reason == (
        "indecisive: val f1 0.400 -> 0.600, 6 val items better and 4 worse in success may be "
        "chance: p 0.38 is above 0.035"
    )
    weighed = SignificantImprovement(method="bootstrap")
    assert weighed.check(paired([0] * 5, [1] * 5)).reason == (
        "val success better by 1.000 on average over 5 items: p 0.031 is within 0.035"
    )


def test_more_confidence_asks_for_more():
    six = paired([0] * 6, [1] * 6)
    assert SignificantImprovement(0.95).check(six).passed
    assert not SignificantImprovement(0.99).check(six).passed


@BOTH
def test_the_p_value_is_held_to_seven_tenths_of_the_error(method):
    # Twelve wins in seventeen: p 0.0717. Thirteen: 0.0245. Twelve in sixteen: 0.0384.
    gate = SignificantImprovement(method=method, repeats=2**17 if method == "bootstrap" else None)
    for wins, losses, passed in ((13, 4, True), (12, 4, False), (12, 5, False)):
        look = paired([0] * wins + [1] * losses, [1] * wins + [0] * losses)
        assert gate.check(look).passed == passed


@BOTH
def test_significance_without_evidence(method):
    gate = SignificantImprovement(method=method)
    first = view({"f1": 0.5}, None, items=passes([1]))
    nothing = "there is no best val f1 to compare with yet"
    assert (gate.check(first).passed, gate.check(first).reason) == (True, nothing)
    unrecorded = view({"f1": 0.9}, {"f1": 0.1}, items=passes([1]))
    assert gate.check(unrecorded).reason == ("the best epoch recorded no val items to compare with")
    assert not gate.check(unrecorded).passed
    assert not gate.check(view({"f1": math.nan}, {"f1": 0.1})).passed
    unchanged = paired([1, 0, 1], [1, 0, 1])
    assert not gate.check(unchanged).passed


def test_the_same_epoch_always_gets_the_same_verdict():
    scores = [Datum(id=str(n), metrics={"f1": n % 7 / 7}) for n in range(60)]
    better = [Datum(id=str(n), metrics={"f1": (n * 3 % 8) / 8}) for n in range(60)]
    look = view({"f1": 0.5}, {"f1": 0.4}, items=better, best_items=scores)
    reasons = {SignificantImprovement(method="bootstrap").check(look).reason for _ in range(3)}
    assert len(reasons) == 1
    other = SignificantImprovement(method="bootstrap", seed=1).check(look).reason
    assert other not in reasons


def test_each_epoch_is_judged_by_draws_of_its_own():
    """The same few draws would make the same mistake in every epoch."""
    gate = SignificantImprovement(method="bootstrap")
    scores = [Datum(id=str(n), metrics={"f1": n % 7 / 7}) for n in range(60)]
    better = [Datum(id=str(n), metrics={"f1": (n * 3 % 8) / 8}) for n in range(60)]
    look = view({"f1": 0.5}, {"f1": 0.4}, items=better, best_items=scores)
    reasons = [gate.check(replace(look, epoch=epoch)).reason for epoch in (1, 2, 3, 1)]
    assert len(set(reasons)) > 1 and reasons[0] == reasons[3]


@pytest.mark.parametrize(
    ("gate", "train", "val", "mode", "passed"),
    [
        (GeneralizationGap(0.1), 0.80, 0.70, "max", True),
        (GeneralizationGap(0.1), 0.81, 0.70, "max", False),
        (GeneralizationGap(0.1), 0.50, 0.70, "max", True),
        (GeneralizationGap(0.1), 0.70, 0.81, "min", False),
        (GeneralizationGap(0.1), 0.81, 0.70, "min", True),
        (GeneralizationGap(0.1, higher_is_better=True), 0.81, 0.70, "min", False),
    ],
)
def test_generalization_gap(gate, train, val, mode, passed):
    metrics = {"train": {"f1": train}, "val": {"f1": val}}
    result = gate.check(EpochView(2, metrics, {}, {}, monitor="f1", mode=mode))
    assert result.passed == passed
    assert result.reason.startswith(f"f1 is {train:.3f} on train and {val:.3f} on val, a gap of ")


def test_generalization_gap_of_a_named_metric():
    metrics = {"train": {"f1": 0.1, "loss": 0.2}, "val": {"f1": 0.9, "loss": 0.9}}
    gate = GeneralizationGap(0.5, "loss", higher_is_better=False)
    assert gate.check(EpochView(2, metrics, {}, {}, monitor="f1")).reason == (
        "loss is 0.200 on train and 0.900 on val, a gap of 0.700, above 0.500"
    )


def test_generalization_gap_needs_both_splits():
    result = GeneralizationGap(0.1).check(view({"f1": 0.5}, None))
    assert (result.passed, result.reason) == (
        False,
        "train f1 was not measured; train has no metrics",
    )
