"""Rules in turn, and chains of optimizers."""

import pytest

from autopilot.core.gradient import Gradient
from autopilot.core.memory import Memory
from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.parameter import Parameter
from autopilot.core.rules import ChainOptimizer, Rule, RuleOptimizer
from autopilot.core.selection import State
from autopilot.core.types import Cost
from autopilot.errors import ModuleError, StateError
from autopilot.testing import ScriptedOptimizer


class Base(Optimizer):
    def step(self):
        self.parameters[0].data += 1
        return Step("base")


class Append(Rule):
    def __init__(self, name, when=""):
        self.name, self.when = name, when

    def applies(self, gradient):
        return self.when in gradient.render()

    def apply(self, parameter, gradient):
        if parameter.data is None:
            return None
        parameter.data += f"{self.name}{self.attempt} "
        return f"{self.name} on {parameter.name}"


def ruled(*rules, grads=("g",)):
    parameters = []
    for number, grad in enumerate(grads):
        parameter = Parameter("")
        parameter.name = f"p{number}"
        parameter.grad = Gradient(grad) if grad else None
        parameters.append(parameter)
    return RuleOptimizer(parameters, rules), parameters


def test_rules_come_in_order_and_around_again():
    optimizer, (p,) = ruled(Append("a"), Append("b"), Append("c"))
    assert [optimizer.step().strategy for _ in range(5)] == ["a", "b", "c", "a", "b"]
    assert p.data == "a0 b0 c0 a1 b1 "


def test_blocked_and_unfitting_rules_are_passed_over():
    optimizer, _ = ruled(Append("a"), Append("b", "other"), Append("c"))
    optimizer.block_strategy("a")
    assert [optimizer.step().strategy for _ in range(2)] == ["c", "c"]
    assert optimizer.exhausted() == ""
    optimizer.blocked = {"b", "c"}
    assert optimizer.step() is None
    assert optimizer.exhausted() == "every strategy is blocked"


def test_rules_go_by_a_ranking_and_the_second_candidate_takes_the_second():
    optimizer, (p,) = ruled(Append("a"), Append("b", "other"), Append("c"), Append("d"))
    chain = ChainOptimizer([optimizer])
    chain.preferred = [State(name, 0.0) for name in ("d", "b", "c")]  # and then what it lacks
    used = []
    for number in (1, 2, 3, 4):
        p.data, chain.proposal = "", (number, 4)
        used.append((chain.step().strategy, p.data))
    # Of the candidate that comes round again, the rule tries something else than before.
    assert [name for name, _ in used] == ["d", "c", "a", "d"]
    assert used[0][1] == "d0 "
    chain.preferred, chain.proposal = (), (1, 1)
    assert chain.step().strategy == "a"


def test_a_step_says_what_was_done():
    optimizer, parameters = ruled(Append("a"), grads=("one", None, "three"))
    step = optimizer.step()
    assert step == Step("a on p0; a on p2", "a")
    assert [p.data for p in parameters] == ["a0 ", "", "a0 "]


def test_a_rule_that_does_nothing_is_no_attempt():
    optimizer, (p,) = ruled(Append("a"))
    p.data = None
    assert optimizer.step() is None
    assert optimizer.state_dict() == {"next": 0, "attempts": {"a": 0}}


def test_rules_go_on_where_they_were():
    optimizer, _ = ruled(Append("a"), Append("b"))
    for _ in range(3):
        optimizer.step()
    again, (p,) = ruled(Append("a"), Append("b"))
    again.load_state_dict(optimizer.state_dict())
    again.step()
    assert p.data == "b1 "
    with pytest.raises(StateError, match=r"the saved rules \['a', 'b'\] are not the present ones"):
        ruled(Append("a"))[0].load_state_dict(optimizer.state_dict())


def test_no_rules_are_refused():
    with pytest.raises(ValueError, match="there are no rules"):
        ruled()


@pytest.mark.parametrize("names", [["a", "a"], ["a", ""]])
def test_rules_need_distinct_names(names):
    with pytest.raises(ValueError, match="rules need distinct names"):
        ruled(*[Append(name) for name in names])


def test_what_is_no_rule_or_says_no_words_is_named():
    with pytest.raises(ValueError, match="is not a Rule; pass objects"):
        RuleOptimizer([Parameter("")], [Append])

    class Silent(Append):
        def apply(self, parameter, gradient):
            return True

    parameter = Parameter("")
    parameter.grad = Gradient("too short")
    with pytest.raises(ModuleError, match=r"Silent\.apply\(\) returned True, not a text"):
        RuleOptimizer([parameter], [Silent("a")]).step()


def test_a_chain_is_one_step():
    x, y = Parameter(1), Parameter("a")

    class Pays(Base):
        def step(self):
            self.parameters[0].data += 1
            return Step("pay", "buy", "why", Cost(tokens=3))

    chain = ChainOptimizer(
        [Pays([x]), ScriptedOptimizer([y, x], [("write", "b"), None]), Pays([x])]
    )
    seen = []
    chain.register_step_post_hook(lambda o, step: seen.append(step))
    assert chain.parameters == [x, y]
    assert chain.step() == Step("pay; write at 1; pay", "buy + write", "why\nwhy", Cost(tokens=6))
    assert (x.data, y.data) == (3, "b")
    assert len(seen) == 1


def test_a_chain_passes_on_what_it_is_told():
    inner = ScriptedOptimizer([Parameter()], [("a", 1), ("b", 2)])
    chain = ChainOptimizer([inner])
    chain.context = Memory().context()
    chain.blocked = {"a"}
    assert chain.step().strategy == "b"
    assert inner.context is chain.context
    assert chain.step() is None


def test_a_chain_goes_on_where_it_was():
    def make():
        p = Parameter()
        return p, ChainOptimizer([ScriptedOptimizer([p], [("a", 1), ("b", 2)])])

    _, chain = make()
    chain.step()
    p, again = make()
    again.load_state_dict(chain.state_dict())
    again.step()
    assert p.data == 2


def test_an_optimizer_shows_the_call_that_makes_it():
    text = Parameter("hi")
    rules = RuleOptimizer([text], [Append("a"), Append("b", "x")])
    assert repr(Base([text])) == "Base([Parameter('hi')])"
    assert repr(rules).startswith("RuleOptimizer([Parameter('hi')], [Append('a'), Append('b', 'x')")
    assert repr(ChainOptimizer([Base([text])])) == "ChainOptimizer([Base([Parameter('hi')])])"
