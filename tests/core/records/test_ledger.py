"""What model calls cost and may cost."""

from __future__ import annotations

import threading

import pytest

from autopilot.core.records.ledger import Ledger, Limits, Spent
from autopilot.core.types import Cost
from autopilot.errors import BudgetExceededError


def test_what_is_left_is_set_aside_as_a_whole_or_up_to_a_cap() -> None:
    ledger = Ledger(Limits(cost_usd=1.0))
    with ledger.reserve_left("a", 0.3) as one, ledger.reserve_left("b") as two:
        assert (one.cost_usd, two.cost_usd) == (0.3, pytest.approx(0.7))
        one.settle(Cost(cost_usd=0.1))
        with ledger.reserve_left("c") as three:
            assert three.cost_usd == pytest.approx(0.2)
    assert ledger.total().cost_usd == 0.1


def test_without_a_limit_nothing_is_set_aside() -> None:
    ledger = Ledger()
    with ledger.reserve_left("a") as one, ledger.reserve_left("a") as two:
        assert one.cost_usd == two.cost_usd == float("inf")
        two.settle(Cost(cost_usd=2.0))
    assert ledger.total().cost_usd == 2.0


def test_one_that_finds_nothing_left_waits_for_what_others_give_back() -> None:
    ledger, got = Ledger(Limits(cost_usd=1.0)), []
    first = ledger.reserve_left("a")

    def second() -> None:
        with ledger.reserve_left("b") as reservation:
            got.append(reservation.cost_usd)

    thread = threading.Thread(target=second)
    thread.start()
    thread.join(0.1)
    assert not got
    first.settle(Cost(cost_usd=0.4))
    thread.join(5)
    assert got == [pytest.approx(0.6)]
    with ledger.reserve_left("c") as reservation:
        reservation.settle(Cost(cost_usd=0.6))
    with pytest.raises(BudgetExceededError, match="dollar budget"):
        ledger.reserve_left("d")


def test_a_line_says_what_was_paid_by_whom_and_what_is_left() -> None:
    ledger = Ledger(Limits(calls=9, tokens=100, cost_usd=1.0))
    ledger.charge("judge", Cost(tokens=30, cost_usd=0.25), known=True, judged=True)
    ledger.charge("agent", Cost(tokens=10), known=False, judged=False)
    assert ledger.render() == (
        "2 calls, 40 tokens, $0.25 and unknown dollars for 1 call, 7 calls left, 60 tokens left, "
        "0.75 dollars left, judge: 30 tokens, agent: 10 tokens"
    )
    assert Spent(2, unpriced=2).render() == "2 calls, at unknown cost"
    # An epoch that goes on pays for what no step's record has.
    assert (ledger.take_epoch(), ledger.take_epoch()) == (Cost(tokens=10), Cost())
    ledger.in_step = True
    with ledger.reserve("agent") as call:
        call.settle(Cost(tokens=5))
    assert (ledger.take_step(), ledger.take_step()) == (Cost(tokens=5), Cost())


def test_the_wall_clock_of_earlier_sessions_counts() -> None:
    with pytest.raises(BudgetExceededError, match=r"time budget: 30\.\d of 20 s spent"):
        Ledger(Limits(seconds=20), elapsed_s=30).reserve("a")


def test_a_call_that_just_fits_is_made_and_one_more_is_not() -> None:
    limits = Limits(calls=1, tokens=10, cost_usd=0.3, seconds=50)
    with Ledger(limits, elapsed_s=49).reserve("a", tokens=10, cost_usd=0.1 + 0.2) as call:
        assert call.cost_usd == pytest.approx(0.3)
    for limit, words in (
        (Limits(calls=0), "call budget: 0 of 0 made"),
        (Limits(tokens=9), "token budget: 0 of 9 spent, a call may take 10"),
        (Limits(cost_usd=0.29), r"dollar budget: \$0 of \$0.29 spent, a call may take \$0.3"),
    ):
        with pytest.raises(BudgetExceededError, match=words):
            Ledger(limit).reserve("a", tokens=10, cost_usd=0.3)
    with pytest.raises(BudgetExceededError, match=r"time budget: 50\.\d of 50 s spent"):
        Ledger(limits, elapsed_s=50).reserve("a")
    both = Limits(seconds=50, tokens=9) & Limits(seconds=40)
    assert both == Limits(seconds=40, tokens=9) == Limits(seconds=40) & Limits(seconds=50, tokens=9)
