"""The tests behind SignificantImprovement: exact where they can be, honest where they draw."""

import math
from itertools import product
from random import Random

import pytest

from autopilot.core.comparison import EpochView, Monitored
from autopilot.core.statistics import (
    Pairing,
    bootstrap_test,
    gain_of,
    pair,
    resampled_interval,
    sign_test,
    subset_interval,
)
from autopilot.core.types import Datum, Gain
from autopilot.errors import UsageError
from autopilot.policy import Improvement, SignificantImprovement


def view(items, best_items, mode="max", epoch=2):
    def mean(side):
        scores = [item.metrics.get("f1", float(item.outcome == "passed")) for item in side]
        return {"val": {"f1": sum(scores) / len(scores)}}

    return EpochView(
        epoch,
        mean(items),
        {},
        mean(best_items),
        monitor="f1",
        mode=mode,
        items=items,
        best_items=best_items,
    )


def scored(*scores):
    return [Datum(id=f"i{n}", metrics={"f1": score}) for n, score in enumerate(scores)]


def test_sign_test_is_the_binomial_tail():
    assert sign_test(0, 0) == 1.0
    assert sign_test(0, 7) == 1.0
    assert sign_test(5, 0) == 1 / 32
    assert sign_test(9, 1) == 11 / 1024
    assert sign_test(3, 2) == 0.5
    for wins, losses in product(range(12), repeat=2):
        tosses = wins + losses
        tail = sum(math.comb(tosses, heads) for heads in range(wins, tosses + 1))
        assert sign_test(wins, losses) == tail / 2**tosses


def test_sign_test_of_very_many_items():
    assert sign_test(5000, 5000) == pytest.approx(0.504, abs=0.001)
    assert sign_test(3000, 0) == 0.0


def test_sign_test_never_promises_too_much():
    # For every number of changed items: the chance that a change that does nothing passes.
    for tosses in range(1, 201):
        passing = [wins for wins in range(tosses + 1) if sign_test(wins, tosses - wins) <= 0.05]
        size = sum(math.comb(tosses, wins) for wins in passing) / 2**tosses
        assert size <= 0.05


def test_bootstrap_is_exact_for_few_items():
    for differences in ([0.5, 0.1, 0.2, -0.3, 0.4], [1.0, 1.0, -1.0], [2.0, 0.0, 0.0], [-1.0]):
        mean = sum(differences)
        flips = [
            sum(sign * value for sign, value in zip(signs, differences, strict=True))
            for signs in product((1, -1), repeat=len(differences))
        ]
        expected = sum(flip >= mean - 1e-12 for flip in flips) / len(flips)
        assert bootstrap_test(differences, 1000, Random(0)) == expected


def test_bootstrap_of_no_difference_is_no_evidence():
    assert bootstrap_test([0.0] * 50, 1000, Random(0)) == 1.0


def test_bootstrap_draws_around_the_exact_value():
    # Twelve equal wins and three losses: few enough to know, too many to be tried one by one.
    differences = [1.0] * 12 + [-1.0] * 3
    exact = sign_test(12, 3)
    assert exact == bootstrap_test(differences, 2**15, Random(0))
    drawn = [bootstrap_test(differences, 1000, Random(seed)) for seed in range(200)]
    assert exact < sum(drawn) / len(drawn) < exact + 0.002
    assert all(abs(p_value - exact) < 0.02 for p_value in drawn)


def test_a_drawn_p_value_is_never_zero():
    assert bootstrap_test([1.0] * 40, 999, Random(0)) == 0.001


def test_bootstrap_counts_what_overflows_against_the_change():
    assert bootstrap_test([1e308] * 20 + [-1e308] * 20, 1000, Random(0)) == 1.0


@pytest.mark.parametrize(
    ("confidence", "usual", "fewest"), [(0.9, 1000, 14), (0.95, 2000, 28), (0.99, 10_000, 142)]
)
def test_repeats_fit_the_confidence(confidence, usual, fewest):
    assert SignificantImprovement(confidence, "bootstrap").repeats == usual
    gate = SignificantImprovement(confidence, "bootstrap", repeats=fewest)
    assert gate.check(view(scored(*[1] * 40), scored(*[0] * 40))).passed
    with pytest.raises(UsageError, match="repeats are too few"):
        SignificantImprovement(confidence, "bootstrap", repeats=fewest - 1)


def test_pairs_are_matched_by_id_and_point_to_better():
    now = scored(0.5, 0.75, 0.125)
    before = list(reversed(scored(0.25, 0.75, 0.375)))
    pairs = pair(view(now, before))
    assert pairs.differences == (0.25, 0.0, -0.25)
    assert (pairs.wins, pairs.losses, pairs.measure, pairs.problem) == (1, 1, "f1", "")
    assert pair(view(now, before, mode="min")).differences == (-0.25, 0.0, 0.25)


def test_a_gain_is_of_the_items_that_have_a_value_in_both_states():
    before = [*scored(0.9, 0.1, 0.2), Datum(id="i3", error_message="KeyError: 'label'")]
    after = [
        *scored(0.8, 0.3),
        Datum(id="i2", error_message="timed out"),
        *scored(0, 0, 0, 0.7)[3:],
    ]
    means = {"test": {"f1": 0.4}}, {"test": {"f1": 0.6}}
    look = EpochView(2, means[1], means[0], {}, "f1", items=after, best_items=before)
    gain = gain_of(look, "test", 0)
    assert (gain.before, gain.after, gain.items) == (pytest.approx(0.5), pytest.approx(0.55), 2)
    raised = [Datum(id=i.id, error_message="timed out") for i in before]
    look = EpochView(2, means[1], means[0], {}, "f1", items=raised, best_items=before)
    assert gain_of(look, "test", 0) == Gain(None, 0.6)
    look = EpochView(2, means[1], means[0], {}, "f1", items=scored(0.6), best_items=scored(0.4))
    assert gain_of(look, "test", 0) == Gain(0.4, 0.6)


def test_what_errors_count_as_is_no_score_of_the_items():
    before = [Datum(id="a", success=False), Datum(id="b", error_message="", metrics={"f1": 0.0})]
    after = [Datum(id="a", success=True), Datum(id="b", success=True)]
    assert pair(view(after, before)) == Pairing((1.0, 1.0), "success")


@pytest.mark.parametrize("mode", ["max", "min"])
def test_without_scores_more_success_is_better_in_either_mode(mode):
    before = [Datum(id=name, success=name != "a") for name in "abc"]
    now = [Datum(id=name, success=True) for name in "abc"]
    now[1].error_message = "timed out"
    pairs = pair(view(now, before, mode=mode))
    assert (pairs.differences, pairs.measure) == ((1.0, -1.0, 0.0), "success")


@pytest.mark.parametrize("mode", ["max", "min"])
def test_an_item_that_lost_its_value_is_no_pair_and_one_that_got_one_is_left_out(mode):
    some = scored(0.25, 1.0)
    fewer = [some[0], Datum(id="i1", error_message="timed out")]
    assert pair(view(fewer, some, mode=mode)).problem == "1 val items have no f1 any more: i1"
    assert pair(view(some, fewer, mode=mode)).differences == (0.0,)


def test_a_dataset_may_hold_a_row_twice():
    before, now = ([Datum(id="x", metrics={"f1": s}) for s in side] for side in ((1, 2), (4, 8)))
    assert pair(view(now, before)).differences == (3.0, 6.0)
    assert pair(view(now[:1], before)).problem == "1 val items were not measured in both epochs: x"


@pytest.mark.parametrize(
    ("now", "before", "problem"),
    [
        ([], scored(1.0), "epoch 2 recorded no val items to compare"),
        (scored(1.0), [], "the best epoch recorded no val items to compare with"),
        (
            scored(1.0),
            scored(1.0, 0.5),
            "1 val items were not measured in both epochs: i1",
        ),
        (
            scored(1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
            scored(1.0),
            "5 val items were not measured in both epochs: i1, i2, i3 and 2 more",
        ),
        (
            scored(1.0, math.nan),
            scored(1.0, 0.5),
            "a val item's f1 is not a finite number",
        ),
        (
            [*scored(1.0), Datum(id="i1")],
            scored(1.0, 0.5),
            "1 val items have no f1 any more: i1",
        ),
    ],
)
def test_what_cannot_be_paired_fails_with_a_reason(now, before, problem):
    look = EpochView(
        2,
        {"val": {"f1": 0.9}},
        {},
        {"val": {"f1": 0.1}},
        monitor="f1",
        items=now,
        best_items=before,
    )
    assert pair(look).problem == problem
    result = SignificantImprovement().check(look)
    assert (result.passed, result.reason) == (False, problem)


def pass_or_fail(random, items, lift):
    """Items of all difficulties, each passed by chance: the same chance before and after."""
    chances = [random.random() for _ in range(items)]
    before = [float(random.random() < chance) for chance in chances]
    return before, [float(random.random() < chance + lift) for chance in chances]


def graded(random, items, lift):
    """Scores with noise on top of what an item is worth."""
    worth = [random.gauss(0.5, 0.2) for _ in range(items)]
    before = [random.gauss(score, 0.1) for score in worth]
    return before, [random.gauss(score + lift, 0.1) for score in worth]


def kept(gate, scores, *, seed, tries, items, lift=0.0):
    """The share of tries that the gate lets pass."""
    random = Random(seed)
    passed = 0
    for epoch in range(tries):
        before, after = scores(random, items, lift)
        look = view(scored(*after), scored(*before), epoch=epoch)
        passed += gate.check(look).passed
    return passed / tries


@pytest.mark.parametrize("method", ["sign", "bootstrap"])
@pytest.mark.parametrize("scores", [pass_or_fail, graded])
def test_a_change_that_changes_nothing_is_kept_in_at_most_5_percent(method, scores):
    honest = SignificantImprovement(0.95, method)
    # With a p-value of 0.1 instead of 0.035, each keeps 5.5% to 11%.
    assert kept(honest, scores, seed=0, tries=400, items=40) <= 0.05
    # What the loop would do without the gate: keep nearly half of it.
    assert kept(Improvement(), scores, seed=0, tries=400, items=40) > 0.4


@pytest.mark.parametrize("method", ["sign", "bootstrap"])
def test_a_real_improvement_is_kept_in_most_tries(method):
    honest = SignificantImprovement(0.95, method)
    # Fifteen points more on tasks that are passed half the time, by chance.
    assert kept(honest, half_passed, seed=0, tries=100, items=200, lift=0.15) > 0.8
    assert kept(honest, graded, seed=0, tries=20, items=200, lift=0.15) == 1.0


def half_passed(random, items, lift):
    """Every item a coin: nothing pairs up, the hardest case to see an improvement in."""
    before = [float(random.random() < 0.5) for _ in range(items)]
    return before, [float(random.random() < 0.5 + lift) for _ in range(items)]


# --- the interval --------------------------------------------------------------------------------


def test_the_interval_is_above_zero_exactly_when_the_test_rejects():
    random = Random(3)
    for count in (3, 5, 6, 8, 10):
        for _ in range(40):
            found = [random.choice([-1.0, 0.0, 0.0, 1.0, 1.0, 1.0]) for _ in range(count)]
            low, _ = subset_interval(found, 0.9, 2**count, Random(0))
            assert (low > 0) == (bootstrap_test(found, 2**count, Random(0)) <= 0.05), found


def test_the_interval_holds_the_true_difference_as_often_as_it_says():
    random, held, tries = Random(1), 0, 400
    for _ in range(tries):
        found = [0.3 + random.gauss(0, 1) for _ in range(20)]
        low, high = subset_interval(found, 0.9, 500, random)
        held += low <= 0.3 <= high
    # Four standard deviations of 400 tosses of a coin with 0.9.
    assert abs(held / tries - 0.9) < 0.06


def test_both_ends_leave_out_as_much():
    random = Random(5)
    for count, confidence, outside in ((6, 0.95, 1), (6, 0.9, 3), (8, 0.9, 12)):
        found = [random.gauss(0.2, 1) for _ in range(count)]
        means = sorted(
            sum(some) / len(some)
            for chosen in product((False, True), repeat=count)
            if (some := [value for value, taken in zip(found, chosen, strict=True) if taken])
        )
        low, high = subset_interval(found, confidence, 2**count, Random(0))
        assert (low, high) == pytest.approx((means[outside - 1], means[-outside]))
        # What is better in one direction is worse in the other.
        turned = subset_interval([-value for value in found], confidence, 2**count, Random(0))
        assert turned == pytest.approx((-high, -low))


def test_too_few_items_have_no_interval_and_more_have_one():
    assert subset_interval([1.0] * 5, 0.95, 1000, Random(0)) == (-math.inf, math.inf)
    assert subset_interval([1.0] * 6, 0.95, 1000, Random(0)) == (1.0, 1.0)
    assert subset_interval([1.0] * 5, 0.9, 1000, Random(0)) == (1.0, 1.0)
    # Drawn, not counted out: thirteen items are no multiple of eight.
    assert subset_interval([1.0] * 13, 0.95, 500, Random(0)) == (1.0, 1.0)
    better = [(Datum(success=False), Datum(success=True))] * 6
    over = Monitored("accuracy")
    assert resampled_interval(over, better, 0.95, 400, Random(0)) == (1.0, 1.0)
    assert resampled_interval(over, better[1:], 0.95, 400, Random(0)) == (-math.inf, math.inf)
    assert subset_interval([1.0] + [0.0] * 12, 0.95, 500, Random(0))[1] > 0  # none is left out
    low, high = subset_interval([0.0] * 197 + [1.0] * 3, 0.95, 2000, Random(0))
    assert low == 0
    assert 0.015 < high < 0.06
