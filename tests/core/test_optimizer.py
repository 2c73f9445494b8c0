"""Optimizers: hooks, state and blocked strategies."""

import pytest

from autopilot.core.gradient import Gradient
from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.parameter import Parameter
from autopilot.errors import StateError


class Base(Optimizer):
    def step(self):
        self.parameters[0].data += 1
        return Step("base")


class Derived(Base):
    def step(self):
        super().step()
        return Step("derived")


def test_hooks_run_once_a_step_whoever_calls_it():
    optimizer, seen = Derived([Parameter(0)]), []
    remove = optimizer.register_step_post_hook(lambda o, step: seen.append((o, step.summary)))
    optimizer.step()
    assert seen == [(optimizer, "derived")]
    remove()
    remove()
    optimizer.step()
    assert len(seen) == 1


def test_a_step_that_raises_runs_no_hook_and_the_next_one_does():
    class Fails(Optimizer):
        fails = True

        def step(self):
            if self.fails:
                raise ZeroDivisionError

    optimizer, seen = Fails([Parameter()]), []
    optimizer.register_step_post_hook(lambda o, step: seen.append(step))
    with pytest.raises(ZeroDivisionError):
        optimizer.step()
    assert seen == []
    optimizer.fails = False
    optimizer.step()
    assert seen == [None]


def test_an_optimizer_needs_parameters_and_a_step():
    with pytest.raises(ValueError, match="at least one parameter"):
        Base([])
    with pytest.raises(NotImplementedError, match=r"Optimizer defines no step\(\)"):
        Optimizer([Parameter()]).step()


def test_state_without_a_way_back_is_refused():
    optimizer = Base([Parameter()])
    optimizer.load_state_dict(optimizer.state_dict())
    with pytest.raises(StateError, match="Base has a state_dict but no load_state_dict"):
        optimizer.load_state_dict({"x": 1})


def test_what_the_user_blocks_stays_blocked():
    optimizer = Base([Parameter()])
    optimizer.block_strategy("mine")
    optimizer.blocked = {"memory's"}
    assert optimizer.blocked == {"mine", "memory's"}
    optimizer.blocked = set()
    assert optimizer.blocked == {"mine"}
    optimizer.unblock_strategy("mine")
    assert optimizer.blocked == set()
    with pytest.raises(AttributeError):
        optimizer.blocked.add("silently lost")


def test_zero_grad():
    one, two = Parameter(), Parameter()
    one.grad = Gradient("g")
    Base([one, two]).zero_grad()
    assert (one.grad, two.grad) == (None, None)
