"""The optimizer that follows a script."""

from __future__ import annotations

import pytest

from autopilot.core.parameter import Parameter
from autopilot.errors import AgentError
from autopilot.testing import ScriptedOptimizer


def test_each_step_is_one_entry() -> None:
    x = Parameter(1)
    script = [("two", 2), None, ("fail", AgentError("no luck")), ("five", lambda ps: add(ps, 3))]
    optimizer = ScriptedOptimizer([x], script)
    assert (optimizer.step().strategy, x.data) == ("two", 2)
    assert (optimizer.step(), x.data) == (None, 2)
    with pytest.raises(AgentError, match="no luck"):
        optimizer.step()
    assert (optimizer.step().summary, x.data) == ("five at 4", 5)
    assert optimizer.step() is None


def test_a_blocked_entry_is_skipped_and_a_saved_position_is_gone_on_from() -> None:
    x = Parameter(1)
    optimizer = ScriptedOptimizer([x], [("two", 2), ("three", 3), ("four", 4)])
    optimizer.block_strategy("two")
    assert (optimizer.step().strategy, x.data) == ("three", 3)
    again = ScriptedOptimizer([x], optimizer.script)
    again.load_state_dict(optimizer.state_dict())
    assert (again.step().strategy, x.data) == ("four", 4)


def add(parameters, number: int) -> None:
    parameters[0].data += number
