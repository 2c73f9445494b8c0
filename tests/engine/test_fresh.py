"""Which process may evaluate a state, and the limits of the items in it."""

from __future__ import annotations

import math

import pytest

from autopilot import AutoPilotModule
from autopilot.core.interpreter import Fresh, Restart
from autopilot.core.progress import Position
from autopilot.engine.board import Board, Child
from autopilot.engine.fresh import ItemLimits, OneState
from autopilot.engine.options import Options
from autopilot.errors import UsageError
from autopilot.git.objects import Entry

SAME, TEXT, CODE = (
    {"a.py": Entry(0o100644, a), "b.txt": Entry(0o100644, b)} for a, b in ("12", "13", "22")
)


@pytest.mark.parametrize(("how", "is_other"), [(Fresh.auto, False), (Fresh.always, True)])
def test_a_process_evaluates_the_states_whose_imports_it_has(how: Fresh, is_other: bool) -> None:
    states = {"same": SAME, "text": TEXT, "code": CODE}
    child = Child(broken={"bad": "SyntaxError"})
    process = OneState(child, SAME, states.__getitem__, how)
    assert process.check("same") == "" and process.check("bad") == "SyntaxError"
    assert child.board.wanted == ""
    if is_other:
        with pytest.raises(Restart):
            process.check("text")
        assert child.board.wanted == "text"
    else:
        assert process.check("text") == ""
    with pytest.raises(Restart):
        process.check("code")
    assert child.board.wanted == "code"


class Timed(AutoPilotModule):
    item_timeout_s = 7


def test_an_options_limit_counts_before_the_modules_own() -> None:
    assert ItemLimits.of(Options()) == ItemLimits()
    assert ItemLimits.of(Options(jobs=3), Timed()) == ItemLimits(7, jobs=3)
    options = Options(item_timeout=2.5, memory="1G")
    assert ItemLimits.of(options, Timed()) == ItemLimits(2.5, 1 << 30)
    assert str(ItemLimits(2.5, 1 << 30, 1)) == "item timeout 2.5 s, memory limit 1 GiB, 1 job"
    assert str(ItemLimits()) == "no item timeout, no memory limit"
    own = Timed()
    own.item_timeout_s = -1
    with pytest.raises(UsageError, match=r"Timed\.item_timeout_s"):
        ItemLimits.of(Options(), own)


@pytest.mark.parametrize("is_own", [False, True])
def test_the_parent_holds_no_time_limit_that_the_module_holds(is_own: bool) -> None:
    module, board = Timed(), Board()
    module.ends_items = is_own
    limits = ItemLimits.of(Options(item_timeout=2.5), module)
    assert module.item_timeout_s == (2.5 if is_own else 7)
    assert limits.hold_on(board) is limits
    board.at(Position("val", size=4))
    assert board.timeout_s == (math.inf if is_own else 10)
