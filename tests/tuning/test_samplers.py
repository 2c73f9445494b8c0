"""autopilot.tuning.samplers: which numbers and choices make a state good."""

import sys
from random import Random

import pytest

from autopilot.tuning.samplers import FEWEST, importance

SPACES = {"a": "0.0..1.0", "b": "1..100:log", "kind": "x|y"}


def states(count, **only):
    """States whose metric is the distance of `a` from 0.3; `a` counts only where kind is x."""
    random, found = Random(0), []
    for _ in range(count):
        values = {"a": random.random(), "b": random.randint(1, 100), "kind": random.choice("xy")}
        values |= only
        found.append((values, abs(values["a"] - 0.3) + 1e-3 * random.random()))
    return found


@pytest.mark.parametrize("spaces", [SPACES, {}])
@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
def test_what_decides_has_the_largest_share(spaces, mode, sign):
    measured = [(values, sign * metric) for values, metric in states(60)]
    found = importance(measured, mode, spaces)
    assert found.unknown == ""
    assert next(iter(found.shares)) == "a"
    assert found.shares["a"] > 0.8
    assert sum(found.shares.values()) == pytest.approx(1)


def test_a_value_that_is_missing_where_its_condition_does_not_hold_counts_where_it_is():
    measured = []
    for values, metric in states(80):
        if values["kind"] == "y":
            values, metric = {n: v for n, v in values.items() if n != "a"}, metric + 1
        measured.append((values, metric))
    found = importance(measured, "min", SPACES)
    assert set(found.shares) == {"a", "b", "kind"}
    assert found.shares["b"] < min(found.shares["a"], found.shares["kind"])


def test_where_it_cannot_be_known_it_says_why(monkeypatch):
    few = importance(states(FEWEST - 1), "min", SPACES)
    assert (few.shares, few.unknown) == ({}, "it takes 8 measured states, and there are 7")
    same = importance(states(9, a=0.5, b=1, kind="x"), "min", {})
    assert same.unknown == "the better states have no values in common"
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "optuna.importance", raising=False)
    without = importance(states(9), "min", SPACES)
    assert without.unknown == "it takes optuna: pip install 'autopilot[optuna]'"
