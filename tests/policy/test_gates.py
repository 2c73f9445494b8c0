"""Gates on the epoch alone: bars, cost, and functions of the user's own."""

import math
import warnings
from decimal import Decimal
from fractions import Fraction
from functools import partial

import pytest

from autopilot.core.comparison import EpochView
from autopilot.core.types import Cost, GateResult
from autopilot.errors import UsageError
from autopilot.policy import (
    CostGate,
    CustomGate,
    GeneralizationGap,
    Improvement,
    MaxGate,
    MinGate,
    NoMemorizing,
    NoRegression,
    NoViolations,
    Policy,
    RangeGate,
    SignificantImprovement,
)


def view(*, train=None, cost=None, **val):
    metrics = {"val": val} if train is None else {"val": val, "train": train}
    return EpochView(3, metrics, {}, {}, monitor="f1", cost=cost or Cost())


@pytest.mark.parametrize(
    ("gate", "recall", "passed", "reason"),
    [
        (MinGate("recall", 0.7), 0.61, False, "val recall 0.610 is below 0.700"),
        (MinGate("recall", 0.7), 0.7, True, "val recall 0.700 is at least 0.700"),
        (MinGate("recall", 0.7), 0.69999, False, "val recall 0.69999 is below 0.70000"),
        (MaxGate("recall", 0.7), 0.8, False, "val recall 0.800 is above 0.700"),
        (MaxGate("recall", 0.7), 0.7, True, "val recall 0.700 is at most 0.700"),
        (RangeGate("recall", 0.2, 0.7), 0.1, False, "val recall 0.100 is below 0.200"),
        (RangeGate("recall", 0.2, 0.7), 0.2, True, "val recall 0.200 is between 0.200 and 0.700"),
        (RangeGate("recall", 0.2, 0.7), 0.7, True, "val recall 0.700 is between 0.200 and 0.700"),
        (RangeGate("recall", 0.2, 0.7), 0.7001, False, "val recall 0.7001 is above 0.7000"),
    ],
)
def test_bars(gate, recall, passed, reason):
    assert gate.check(view(recall=recall)) == GateResult(gate.name, passed, reason)


every_bar = pytest.mark.parametrize(
    "gate", [MinGate("recall", -9), MaxGate("recall", 9), RangeGate("recall", -9, 9)]
)


@every_bar
def test_a_missing_metric_fails_and_names_those_there_are(gate):
    result = gate.check(view(f1=0.8, accuracy=0.9))
    assert not result.passed
    assert result.reason == "val recall was not measured; val has accuracy, f1"
    assert gate.check(view()).reason == "val recall was not measured; val has no metrics"


@every_bar
def test_nan_never_passes(gate):
    result = gate.check(view(recall=math.nan))
    assert (result.passed, result.reason) == (False, "val recall is NaN")


def test_another_split_can_be_held_against_the_bar():
    gate = MinGate("recall", 0.7, split="train")
    assert gate.check(view(train={"recall": 0.8}, recall=0.1)).passed
    assert gate.check(view(recall=0.9)).reason == (
        "train recall was not measured; train has no metrics"
    )


def test_names_carry_the_condition():
    assert MinGate("recall", 0.7).name == "MinGate(val recall >= 0.7)"
    assert MaxGate("loss", 2, "train").name == "MaxGate(train loss <= 2)"
    assert RangeGate("words", 20, 80).name == "RangeGate(20 <= val words <= 80)"


def test_an_optional_gate_says_so_in_its_result():
    assert MinGate("recall", 0.7, required=False).check(view(recall=0.1)).required is False
    assert MinGate("recall", 0.7).check(view(recall=0.1)).required is True
    for make in (
        partial(MaxGate, "recall", 0.7),
        partial(RangeGate, "recall", 0, 1),
        partial(CustomGate, lambda view: True),
        partial(CostGate, max_usd=1),
        partial(NoRegression, "recall"),
        partial(GeneralizationGap, 0.1),
        Improvement,
        SignificantImprovement,
        NoViolations,
        NoMemorizing,
    ):
        assert make().required and not make(required=False).required, make


def test_shortfall_speaks_only_from_evidence():
    gate = MinGate("recall", 0.7)
    assert gate.shortfall({"val": {"recall": 0.6}}) == "val recall 0.600 is below 0.700"
    assert gate.shortfall({"val": {"recall": 0.8}}) == ""
    assert gate.shortfall({"val": {"recall": math.nan}}) == gate.shortfall({}) == ""


def test_limits_that_make_no_sense_are_refused():
    with pytest.raises(UsageError, match=r"RangeGate\('words'\) has low 80 above high 20"):
        RangeGate("words", 80, 20)
    for make in (
        lambda: MinGate("recall", math.nan),
        lambda: MaxGate("recall", math.nan),
        lambda: RangeGate("recall", 0, math.nan),
        lambda: CostGate(max_usd=math.nan),
    ):
        with pytest.raises(UsageError, match="limit is NaN"):
            make()


def test_a_limit_is_a_number_of_any_kind():
    for limit in (Decimal("0.7"), Fraction(7, 10), 0.7):
        assert MinGate("recall", limit).check(view(recall=0.61)).reason == (
            "val recall 0.610 is below 0.700"
        )
        assert NoRegression("recall", tolerance=limit).tolerance == 0.7
    for make in (
        lambda: MinGate("recall", "0.7"),
        lambda: CostGate(max_usd="1"),
        lambda: NoRegression("recall", tolerance="0.1"),
    ):
        with pytest.raises(UsageError, match=r"is the text '.*', not a number"):
            make()


def short_answers(view):
    return view.metrics["val"]["words"] < 50


@pytest.mark.parametrize(
    ("words", "passed", "reason"),
    [(30, True, "short_answers holds"), (60, False, "short_answers fails")],
)
def test_a_function_that_returns_a_bool(words, passed, reason):
    result = CustomGate(short_answers).check(view(words=words))
    assert result == GateResult("short_answers", passed, reason)


def test_a_function_that_gives_its_own_reason():
    gate = CustomGate(lambda view: (False, "answers grew to 60 words"), name="brevity")
    assert gate.check(view()) == GateResult("brevity", False, "answers grew to 60 words")


def test_a_function_that_raises_fails_with_its_message():
    result = CustomGate(short_answers).check(view(f1=0.5))
    assert (result.passed, result.reason) == (False, "short_answers raised KeyError: 'words'")

    def silent(view):
        raise TimeoutError

    assert CustomGate(silent).check(view()).reason == "silent raised TimeoutError"


def test_a_function_without_a_verdict_fails():
    result = CustomGate(lambda view: None, name="forgot").check(view())
    assert (result.passed, result.reason) == (False, "forgot returned None, no verdict")
    too_long = CustomGate(lambda view: (True, "fine", 3), name="wordy").check(view())
    assert not too_long.passed
    assert too_long.reason.startswith("wordy raised ValueError")


def test_a_callable_object_is_called_after_its_class():
    class Brevity:
        def __call__(self, view):
            return True

    assert CustomGate(Brevity()).name == "Brevity"


def is_good(value):
    return value >= 0.5


@pytest.mark.parametrize(
    ("gate", "passed", "reason"),
    [
        (CustomGate("f1", is_good), True, "val f1 0.600: is_good holds"),
        (CustomGate("recall", is_good), False, "val recall 0.200: is_good fails"),
        (CustomGate("f1", is_good, split="train"), False, "train f1 0.400: is_good fails"),
        (CustomGate("f1", lambda v: (v < 1, f"f1 is {v}")), True, "f1 is 0.6"),
        (CustomGate("f1", lambda v: 1 / 0, name="odd"), False, "val f1 0.600: odd raised ZeroDivi"),
        (
            CustomGate("missing", is_good),
            False,
            "val missing was not measured; val has f1, nan, re",
        ),
        (CustomGate("nan", is_good), False, "val nan is NaN"),
        (
            CustomGate("f1", lambda v: "no", name="word"),
            False,
            "val f1 0.600: word raised ValueErr",
        ),
    ],
)
def test_a_function_of_one_metric(gate, passed, reason):
    result = gate.check(view(train={"f1": 0.4}, f1=0.6, recall=0.2, nan=math.nan))
    assert result.passed is passed
    assert result.reason.startswith(reason)


def test_what_a_gate_reads():
    assert MinGate("f1", 0.5, "train").reads() == [("train", "f1")]
    assert CustomGate("f1", is_good, split="train").reads() == [("train", "f1")]
    assert list(CustomGate(short_answers).reads()) == []
    assert list(CostGate(max_usd=1).reads()) == list(NoViolations().reads()) == []


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: CustomGate("f1"), "CustomGate('f1', None) has no condition"),
        (lambda: CustomGate("f1", "recall"), "has no condition"),
        (lambda: CustomGate(is_good, is_good), "has no condition"),
        (lambda: CustomGate("f1", lambda value, view: True), "(value, view) gets one argument"),
        (lambda: CustomGate(lambda: True), "gets one argument: view"),
    ],
)
def test_a_custom_gate_that_could_not_ask(make, says):
    with pytest.raises(UsageError) as caught:
        make()
    assert says in str(caught.value)
    assert caught.value.hint


def test_an_async_function_has_no_verdict():
    async def later(view):
        raise AssertionError

    with pytest.raises(UsageError, match="is async"):
        CustomGate(later)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = CustomGate(lambda view: later(view), name="hidden").check(view())
    assert not result.passed
    assert "hidden returned a coroutine" in result.reason


COST = Cost(evaluations=120, tokens=45_000, cost_usd=1.2, seconds=80.5)


@pytest.mark.parametrize(
    ("limits", "passed", "reason"),
    [
        ({"max_usd": 1.0}, False, "the epoch took 1.2 dollars, more than 1"),
        ({"max_usd": 1.2}, True, "the epoch took 1.2 dollars, within 1.2"),
        ({"max_tokens": 40_000}, False, "the epoch took 45,000 tokens, more than 40,000"),
        ({"max_evaluations": 100}, False, "the epoch took 120 evaluations, more than 100"),
        ({"max_seconds": 60}, False, "the epoch took 80.5 seconds, more than 60"),
        (
            {"max_usd": 1.0, "max_tokens": 50_000, "max_seconds": 60},
            False,
            "the epoch took 1.2 dollars, more than 1 and 80.5 seconds, more than 60",
        ),
        (
            {"max_usd": 2, "max_tokens": 50_000},
            True,
            "the epoch took 1.2 dollars, within 2 and 45,000 tokens, within 50,000",
        ),
    ],
)
def test_cost_limits(limits, passed, reason):
    assert CostGate(**limits).check(view(cost=COST)) == GateResult("CostGate", passed, reason)


def test_a_limit_of_nothing_is_a_limit():
    assert not CostGate(max_usd=0).check(view(cost=COST)).passed
    assert CostGate(max_usd=0).check(view()).passed


def test_a_cost_gate_needs_a_limit():
    with pytest.raises(UsageError, match="CostGate has no limit"):
        CostGate()


def test_an_unknown_cost_never_passes():
    assert not CostGate(max_usd=1).check(view(cost=Cost(cost_usd=math.nan))).passed


def test_violations_reject_an_epoch_that_improved():
    better = {"val": {"f1": 0.8}}, {}, {"val": {"f1": 0.7}}, "f1"
    tried = EpochView(1, *better, violations=("changed a: put back", "made b: removed"))
    reason = "outside of the parameters: changed a: put back; made b: removed"
    assert Policy([NoViolations()]).judge(tried).reasons == (reason,)
    warned = Policy([NoViolations(required=False)]).judge(tried)
    assert warned.kept and warned.reasons[1] == f"warning: {reason}"
    assert Policy([NoViolations()]).judge(EpochView(1, *better)).kept
