"""The default policy and quality first: which epochs are kept, and what they say about it."""

import importlib
import math

import pytest

import autopilot.policy
from autopilot.core.comparison import EpochView
from autopilot.core.figures import figures
from autopilot.core.gate import Gate
from autopilot.core.policy import Decision, Policy, decide
from autopilot.core.types import Datum
from autopilot.errors import UsageError
from autopilot.policy import (
    CustomGate,
    MinGate,
    NoRegression,
    QualityFirstPolicy,
    SignificantImprovement,
)


def view(now, best, mode="max", **more):
    splits = ({"val": metrics} if metrics else {} for metrics in (now, best))
    metrics, best_metrics = splits
    return EpochView(4, metrics, {}, best_metrics, monitor="f1", mode=mode, **more)


@pytest.mark.parametrize("policy", [Policy(), QualityFirstPolicy()])
@pytest.mark.parametrize(
    ("now", "best", "mode", "verdict", "said"),
    [
        (0.8, 0.7, "max", "kept", "val f1 0.700 -> 0.800"),
        (0.7, 0.8, "max", "rejected", "val f1 0.800 -> 0.700 is no improvement"),
        (0.7, 0.7, "max", "rejected", "val f1 stayed at 0.700"),
        (0.7, 0.8, "min", "kept", "val f1 0.800 -> 0.700"),
        (0.8, 0.7, "min", "rejected", "val f1 0.700 -> 0.800 is no improvement"),
        (0.70002, 0.7, "max", "kept", "val f1 0.70000 -> 0.70002"),
        (0.7, math.nan, "max", "kept", "val f1 is 0.700"),
        (math.nan, 0.7, "max", "rejected", "val f1 is nan"),
        (math.nan, math.nan, "max", "rejected", "val f1 is nan"),
        (math.inf, 0.7, "max", "rejected", "val f1 is inf"),
    ],
)
def test_without_gates_an_improvement_is_kept(policy, now, best, mode, verdict, said):
    decision = policy.judge(view({"f1": now}, {"f1": best}, mode))
    assert (decision.verdict, decision.explain()) == (verdict, said)


@pytest.mark.parametrize("policy", [Policy(), QualityFirstPolicy()])
def test_a_missing_monitor_is_rejected_but_a_missing_split_is_not(policy):
    decision = policy.judge(view({"accuracy": 0.9}, {"f1": 0.7}))
    assert decision.verdict == "rejected"
    assert decision.explain() == "val f1 was not measured; val has accuracy"
    assert policy.judge(view({}, {})).explain() == "there is no val split to judge by"
    assert policy.judge(view({}, {})).kept


class Everything(Policy):
    """Keeps whatever it is asked about."""

    def judge(self, view):
        return Decision("kept", ("as always",))


def test_no_policy_may_overrule_what_a_state_cannot_be_best_with():
    better = view({"f1": 0.8}, {"f1": 0.7})
    assert decide(Everything(), better).kept
    for now, said in (
        ({"f1": math.nan}, "val f1 is nan"),
        ({"f1": math.inf}, "val f1 is inf"),
        ({"f1": -math.inf}, "val f1 is -inf"),
        ({"accuracy": 1.0, "b": 1.0}, "there is no val metric 'f1', only accuracy, b"),
    ):
        for best in ({"f1": 0.7}, {}):
            decision = decide(Everything(), view(now, best))
            assert (decision.verdict, decision.explain()) == ("rejected", said)
    assert decide(Everything(), better, ["it fell over"]).explain() == "it fell over"
    lost = view(
        {"f1": 0.9},
        {"f1": 0.7},
        items=[Datum(id="a", error_message="fell")],
        best_items=[Datum(id="a", metrics={"f1": 0.7})],
    )
    assert decide(Everything(), lost).explain() == "1 of 1 val items has no f1 any more: a (fell)"


def test_the_default_policy_wants_improvement_and_gates_at_once():
    policy = Policy([MinGate("recall", 0.7)])
    decision = policy.judge(view({"f1": 0.6, "recall": 0.6}, {"f1": 0.7, "recall": 0.9}))
    assert decision.reasons == (
        "val f1 0.700 -> 0.600 is no improvement",
        "val recall 0.600 is below 0.700",
    )
    assert [result.passed for result in decision.gates] == [False, False]


@pytest.mark.parametrize("kind", [Policy, QualityFirstPolicy])
def test_an_optional_gate_only_warns(kind):
    policy = kind([MinGate("recall", 0.7, required=False)])
    decision = policy.judge(view({"f1": 0.8, "recall": 0.6}, {"f1": 0.7, "recall": 0.6}))
    assert decision.kept
    assert decision.reasons == (
        "val f1 0.700 -> 0.800",
        "warning: val recall 0.600 is below 0.700",
    )
    assert {result.gate: result.passed for result in decision.gates} == {
        "improvement": True,
        "MinGate(val recall >= 0.7)": False,
    }


QUALITY = QualityFirstPolicy([MinGate("recall", 0.7)])


def test_quality_first_rejects_an_improvement_below_the_bar():
    decision = QUALITY.judge(view({"f1": 0.95, "recall": 0.65}, {"f1": 0.7, "recall": 0.8}))
    assert decision.verdict == "rejected"
    assert decision.explain() == "val recall 0.650 is below 0.700"
    assert [result.gate for result in decision.gates] == ["MinGate(val recall >= 0.7)"]


def test_quality_first_rejects_below_the_bar_even_when_the_best_is_too():
    assert not QUALITY.judge(view({"f1": 0.95, "recall": 0.65}, {"f1": 0.7, "recall": 0.6})).kept


def test_quality_first_wants_improvement_among_those_that_pass():
    best = {"f1": 0.7, "recall": 0.8}
    worse = QUALITY.judge(view({"f1": 0.69, "recall": 0.9}, best))
    assert worse.verdict == "rejected"
    assert worse.explain() == "val f1 0.700 -> 0.690 is no improvement"
    better = QUALITY.judge(view({"f1": 0.71, "recall": 0.7}, best))
    assert (better.verdict, better.explain()) == ("kept", "val f1 0.700 -> 0.710")


def test_quality_first_steps_down_to_the_first_epoch_that_meets_the_bar():
    now, best = {"f1": 0.75, "recall": 0.72}, {"f1": 0.80, "recall": 0.60}
    decision = QUALITY.judge(view(now, best))
    assert decision.kept
    assert decision.explain() == (
        "the first epoch that passes every gate (the best so far: val recall 0.600 is below 0.700)"
    )
    assert not Policy(QUALITY.gates).judge(view(now, best)).kept


def test_quality_first_asks_nothing_of_a_best_it_knows_nothing_about():
    # The baseline has no train split: that is no reason to keep an epoch that got worse.
    policy = QualityFirstPolicy([MinGate("f1", 0.5, split="train")])
    now = EpochView(
        1, {"train": {"f1": 0.9}, "val": {"f1": 0.6}}, {}, {"val": {"f1": 0.7}}, monitor="f1"
    )
    assert policy.judge(now).explain() == "val f1 0.700 -> 0.600 is no improvement"


@pytest.mark.parametrize("f1", [math.nan, math.inf, None])
def test_quality_first_steps_down_to_no_epoch_without_a_score(f1):
    now = {"recall": 0.9} if f1 is None else {"f1": f1, "recall": 0.9}
    assert not QUALITY.judge(view(now, {"f1": 0.7, "recall": 0.6})).kept


def test_quality_first_ignores_a_warning_when_it_looks_at_the_best():
    policy = QualityFirstPolicy([MinGate("recall", 0.7, required=False)])
    assert not policy.judge(view({"f1": 0.6, "recall": 0.9}, {"f1": 0.7, "recall": 0.1})).kept


def test_quality_first_asks_a_custom_gate_once():
    asked = []
    gate = CustomGate(lambda view: asked.append(view.epoch) or True, name="paid")
    assert QualityFirstPolicy([gate]).judge(view({"f1": 0.8}, {"f1": 0.7})).kept
    assert asked == [4]


def test_before_there_is_a_best_comparisons_let_an_epoch_pass():
    policy = Policy([NoRegression("f1"), SignificantImprovement()])
    decision = policy.judge(view({"f1": 0.1}, {}))
    assert decision.kept
    assert [result.reason for result in decision.gates[1:]] == [
        "there is no best val f1 to compare with yet"
    ] * 2


def test_figures_show_as_many_decimals_as_it_takes():
    assert figures(0.5, 0.25) == ("0.500", "0.250")
    assert figures(0.12345678, 0.12345679) == ("0.12345678", "0.12345679")
    assert figures(1 / 3, 1 / 3) == ("0.333", "0.333")


def test_the_package_exports_every_gate_and_policy():
    exported = {name: getattr(autopilot.policy, name) for name in autopilot.policy.__all__}
    gates = {
        name
        for module in ("core.noise", "policy.gates", "policy.comparisons")
        for name, thing in vars(importlib.import_module(f"autopilot.{module}")).items()
        if isinstance(thing, type) and issubclass(thing, Gate | Policy)
    }
    assert gates - exported.keys() == {"BoundGate", "GainGate"}
    assert exported.keys() - gates == {"Decision", "EpochView"}


@pytest.mark.parametrize("wrong", [NoRegression, lambda view: True, 0.8])
def test_what_is_no_gate_is_refused_before_it_judges(wrong):
    with pytest.raises(UsageError, match="is not a Gate") as refused:
        Policy([MinGate("f1", 0.5), wrong])
    assert "CustomGate" in refused.value.hint
