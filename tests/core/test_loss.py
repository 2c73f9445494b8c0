"""Losses: what is gathered, where it goes, and when it is forgotten."""

import pytest

from autopilot.core.configuration import ChainLoss
from autopilot.core.gradient import Gradient
from autopilot.core.loss import Loss
from autopilot.core.module import Module
from autopilot.core.parameter import Parameter
from autopilot.core.types import Datum
from autopilot.errors import EvaluationError, GraphError, ModuleError


class System(Module):
    def __init__(self):
        super().__init__()
        self.p = Parameter()

    def forward(self, batch):
        return Datum(items=[Datum(success=False, feedback=f, id=f) for f in batch])


class Says(Loss):
    def __init__(self, text, parameters=None):
        super().__init__(parameters)
        self.text = text

    def forward(self, data, targets):
        return None if targets == "fine" else Gradient(self.text)


def said(parameter):
    return None if parameter.grad is None else parameter.grad.render()


def test_the_failed_items_are_the_feedback():
    system, loss = System(), Loss()
    loss(system(["slow", "slow", "rude"]), None)
    loss.backward()
    assert said(system.p).splitlines()[0] == "slow (2 findings, severity 1.00)"
    assert "rude" in said(system.p)


def test_what_an_item_says_or_its_error_or_a_default():
    loss, p = Loss([Parameter()]), None
    p = loss.parameters[0]
    for item in (Datum(success=False, error_message="E: x"), Datum(success=False), Datum()):
        loss(item, None)
    loss.backward()
    assert said(p) == "E: x\nmake this item succeed"


def test_backward_drains():
    system, loss = System(), Loss()
    loss(system(["a"]), None)
    loss.backward()
    loss.backward()
    assert said(system.p) == "a"


def test_feedback_accumulates_over_batches_and_losses():
    system, first, second = System(), Says("one"), Says("two")
    for _ in range(2):
        data = system(["x"])
        first(data, None)
        second(data, None)
    first.backward(retain_graph=True)
    second.backward()
    assert said(system.p) == "one\none\ntwo\ntwo"


def test_reset_forgets():
    system, loss = System(), Loss()
    loss(system(["a"]), None)
    loss.reset()
    loss.backward()
    assert system.p.grad is None


def test_own_parameters_come_instead_of_the_graph():
    system, only, frozen = System(), Parameter(), Parameter(requires_grad=False)
    loss = Says("here", iter([only, frozen]))
    loss(system(["a"]), None)
    loss(Datum(), None)
    loss.backward()
    assert (said(only), said(frozen), said(system.p)) == ("here\nhere", None, None)


def test_nothing_to_improve_needs_no_graph():
    loss = Says("never")
    loss(Datum(), "fine")
    loss.backward()


def test_data_without_a_graph_is_an_error():
    loss = Says("x")
    loss(Datum(), None)
    with pytest.raises(GraphError, match="carries no graph"):
        loss.backward()


def test_results_may_share_a_part_of_their_graph():
    first, second, third = System(), System(), System()
    loss = Says("g")
    shared = first(["a"])
    loss(second([shared]), None)
    loss(third([shared]), None)
    loss(shared, None)
    loss.backward()
    assert (said(first.p), said(second.p), said(third.p)) == ("g\ng\ng", "g", "g")
    assert shared.grad_fn.freed


def test_a_chain_adds_up():
    system, only = System(), Parameter()
    chain = ChainLoss([Says("one"), Says("two", [only]), Says("three")])
    data = system(["x"])
    chain(data, None)
    chain.backward()
    assert (said(system.p), said(only)) == ("one\nthree", "two")
    assert data.grad_fn.freed
    chain(system(["x"]), None)
    chain.reset()
    chain.backward()
    assert said(system.p) == "one\nthree"


def test_a_loss_that_is_not_set_up_or_returns_no_gradient():
    class Forgets(Loss):
        def __init__(self):
            pass

    class Says(Loss):
        def forward(self, data, targets):
            return "too long"

    with pytest.raises(ModuleError, match=r"Forgets\.__init__ did not call super"):
        Forgets()(Datum(), None)
    with pytest.raises(EvaluationError, match=r"Says\.forward returned a str, not a Gradient"):
        Says()(Datum(), None)
