import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopilot.core.selection import (
    SELECTIONS,
    Frontier,
    FrontierSelection,
    Pool,
    Selection,
    State,
    dominates,
    selection,
)
from autopilot.errors import SlugError, UsageError, UserCodeError

SCORES = st.sampled_from([-math.inf, 0.0, 0.25, 1.0])
ROWS = st.integers(0, 5).flatmap(
    lambda width: st.lists(st.tuples(*[SCORES] * width), min_size=1, max_size=12)
)


def states_of(rows):
    return [State(str(at), math.fsum(row), row, age=-at) for at, row in enumerate(rows)]


@given(ROWS)
def test_no_state_of_a_frontier_is_dominated_and_all_others_are(rows):
    states = states_of(rows)
    frontier = Frontier(states)
    expected = [s for s in states if not any(dominates(other, s) for other in states)]
    assert frontier.states == expected
    best = [max(column) for column in zip(*rows, strict=True)]
    counts = [
        sum(score == top > -math.inf for score, top in zip(state.scores, best, strict=True))
        for state in expected
    ]
    assert frontier.weights() == [max(1, count) for count in counts]


@given(ROWS, st.integers(1, 4), st.integers(0, 9), st.sampled_from(["best", *SELECTIONS, "beam:2"]))
def test_a_selection_gives_each_state_once_and_the_same_for_the_same_chance(
    rows, count, seed, name
):
    pool = Pool(states_of(rows))
    first, second = (selection(name).choose(pool, count, random.Random(seed)) for _ in range(2))
    assert first == second
    assert len({state.name for state in first}) == len(first)
    of = {"frontier": len(pool.frontier.states), "beam:2": min(2, len(rows))}
    assert len(first) == min(
        count, of.get(name, min(4, len(rows)) if name == "beam" else len(rows))
    )
    if name == "frontier":
        assert all(state in pool.frontier.states for state in first)


def test_each_selection_prefers_what_its_name_says():
    pool = Pool(
        [
            State("a", 0.9, (1, 1, 1, 0), tries=10, gains=1),
            State("b", 0.2, (0, 0, 0, 1), age=-1, tries=10, gains=9),
            State("c", 0.1, (0, 0, 0, 0), age=-2, tries=1, gains=0),
        ]
    )
    chance = random.Random(0)
    drawn = [FrontierSelection().choose(pool, 1, chance)[0].name for _ in range(4000)]
    assert drawn.count("c") == 0
    assert drawn.count("a") / 4000 == pytest.approx(0.75, abs=0.03)
    assert [state.name for state in selection("best").choose(pool, 2, chance)] == ["a", "b"]
    assert {selection("beam:1").choose(pool, 1, chance)[0].name for _ in range(9)} == {"a"}
    assert selection("tournament:3").choose(pool, 1, chance)[0].name == "a"
    # c was tried once: its bound is the widest; of what was never tried, the best comes first.
    assert [state.name for state in selection("bandit").choose(pool, 3, chance)] == ["c", "b", "a"]
    pool.add(State("d", 0.0, (0, 0, 0, 0)))
    assert selection("bandit").choose(pool, 1, chance)[0].name == "d"


class Oldest(Selection):
    def choose(self, pool, count, chance):
        return list(pool.states.values())[:count]


def test_a_selection_of_ones_own_is_named_by_its_module():
    own = selection(f"{__name__}:Oldest")
    assert own.choose(Pool(states_of([(0,), (1,)])), 1, random.Random(0))[0].name == "0"


class Given(Selection):
    def __init__(self, given):
        self.given = given

    def choose(self, pool, count, chance):
        return self.given(list(pool.states.values()))


def raise_slug_error(states):
    raise SlugError("no slug", hint="take another")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (lambda states: [], "gave 0 states"),
        (lambda states: None, "gave None, no state of the pool"),
        (lambda states: [[]], r"gave \[\], no state of the pool"),
        (lambda states: [State("9", 1.0)], "gave 9, no state of the pool"),
        (lambda states: states, "gave 3 states"),
        (lambda states: [states[0]] * 2, "gave a state twice"),
    ],
)
def test_what_a_selection_of_ones_own_gives_is_looked_at(given, says):
    pool = Pool(states_of([(0,), (1,), (2,)]))
    with pytest.raises(UserCodeError, match=says) as refused:
        Given(given).chosen(pool, 2, random.Random(0))
    assert refused.value.hint == "it is to give 1 to 2 states of the pool, each once"
    with pytest.raises(UserCodeError, match=r"Given\.choose raised KeyError: 'x'"):
        Given(lambda states: {}["x"]).chosen(pool, 2, random.Random(0))
    # An error of ours that it raises says itself what to do.
    with pytest.raises(UserCodeError, match="SlugError: no slug") as refused:
        Given(raise_slug_error).chosen(pool, 2, random.Random(0))
    assert refused.value.hint == "take another"
    # A state that was counted since is the one of the pool.
    first = Given(lambda states: [replace(states[0], tries=7)]).chosen(pool, 2, random.Random(0))
    assert first == [pool.states["0"]]


@pytest.mark.parametrize(
    "named",
    [
        "worst",
        "beam:0",
        "beam:x",
        "best:3",
        "no.module:Class",
        "random:Random",
        "",
        ":",
        ":x",
        f"{__name__}:Given",
    ],
)
def test_what_is_no_selection_is_refused_with_those_that_there_are(named):
    with pytest.raises(UsageError) as refused:
        selection(named)
    assert "tournament" in refused.value.hint or "1 or more" in refused.value.hint


def made(name, parents, *scores):
    return State(name, math.fsum(scores), scores, epoch=len(parents), parents=parents)


def test_states_are_merged_that_are_together_the_best_on_most_items():
    pool = Pool([made("root", (), 0, 0, 0, 0), made("left", ("root",), 3, 0, 0, 0)])
    pool.add(made("right", ("left",), 0, 3, 0, 0))
    pool.add(made("both", ("left",), 0, 0, 3, 3))
    pool.add(made("some", ("root",), 2, 2, 0, 0))
    pool.add(made("twin", ("root",), 0, 3, 0, 0))

    def pairs(seed):
        return [(a.name, b.name, base.name) for a, b, base in pool.pairs(random.Random(seed))]

    found = pairs(0)
    # The better one first, with the newest state that both come from.
    assert set(found[:2]) == {("both", "right", "left"), ("both", "twin", "root")}
    assert {frozenset(pair[:2]) for pair in found[2:4]} == {
        frozenset(("both", "some")),
        frozenset(("left", "twin")),
    }
    # No state with one that it comes from, nor two that are equal everywhere.
    assert {frozenset(pair[:2]) for pair in found[4:]} == {
        frozenset((name, "some")) for name in ("left", "right", "twin")
    }
    assert {pairs(seed)[0][1] for seed in range(9)} == {"right", "twin"}
    pool.merged.add(frozenset(("both", "right")))
    assert {pairs(seed)[0][1] for seed in range(9)} == {"twin"}
