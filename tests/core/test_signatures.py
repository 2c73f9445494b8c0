"""What the loop calls of the user's: its arguments, and async."""

from __future__ import annotations

import asyncio
import functools
import warnings

import pytest

from autopilot.core.loss import Loss
from autopilot.core.metrics import Accuracy, FBeta, Latency, Mean, PassRate
from autopilot.core.parameter import Parameter
from autopilot.core.signatures import as_call, check_awaited, check_call, check_function, defines
from autopilot.core.types import Datum
from autopilot.errors import EvaluationError, ModuleError, UsageError
from autopilot.policy import (
    CostGate,
    CustomGate,
    GeneralizationGap,
    Improvement,
    MinGate,
    NoRegression,
    Policy,
    RangeGate,
    SignificantImprovement,
)


class Base:
    def run(self, batch):
        return batch


class Own(Base):
    text = "no method"

    def run(self, batch):
        return batch

    def wide(self, batch: Datum, *rest: int, scale: float = 1.0):
        return batch

    def keyword(self, batch, *, scale):
        return batch

    @staticmethod
    def static(batch):
        return batch

    @classmethod
    def of_class(cls, batch):
        return batch

    def none(self):
        return None

    async def later(self, batch):
        return batch

    async def several(self, batch):
        yield batch

    partial = functools.partialmethod(wide, scale=2.0)


@pytest.mark.parametrize("name", ["run", "wide", "static", "of_class", "partial", "text", "absent"])
def test_what_takes_its_arguments_passes(name):
    check_call(Own(), name, ["batch"])


@pytest.mark.parametrize(
    ("name", "says", "hint"),
    [
        ("none", "Own.none() gets one argument: batch", "define it as: def none(self, batch)"),
        ("keyword", "Own.keyword(batch, *, scale) gets one argument: batch", "def keyword(self, "),
        ("later", "Own.later is async, and the loop does not await it", "asyncio.run(...)"),
        ("several", "Own.several is async", "make it a plain def several(self, batch)"),
    ],
)
def test_what_cannot_be_called_is_named(name, says, hint):
    for kind in (ModuleError, UsageError):
        with pytest.raises(kind) as caught:
            check_call(Own(), name, ["batch"], kind)
        assert str(caught.value).startswith(says)
        assert hint in caught.value.hint


def test_functions_are_looked_at_as_they_are():
    check_function(print, "print", ["a", "b"])
    check_function(functools.partial(Own.wide, None), "partial", ["batch"])
    with pytest.raises(ModuleError, match=r"the hook\(\) gets 2 arguments: a, b") as caught:
        check_function(lambda: None, "the hook", ["a", "b"])
    assert caught.value.hint == "define it as: def function(a, b)"
    with pytest.raises(ModuleError, match=r"bound\(batch\) gets no arguments"):
        check_function(Own().run, "bound", [])


def test_whether_a_method_is_the_objects_own():
    assert defines(Own(), Base, "run")
    assert not defines(Base(), Base, "run")
    given = Base()
    given.run = print
    assert defines(given, Base, "run")


@pytest.mark.parametrize(
    "hold",
    [
        lambda c: c,
        lambda c: [1, c],
        lambda c: Datum(items=[Datum(), c]),
        lambda c: Datum(items=[Datum(success=c)]),
        lambda c: Datum(feedback=c),
        lambda c: Datum(metrics={"a": 1.0, "b": c}),
        lambda c: Datum(metadata={"text": c}),
    ],
)
def test_coroutines_are_closed_and_named(hold):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(EvaluationError, match=r"T\.forward returned a coroutine") as caught:
            check_awaited(hold(Own().later(None)), "T.forward")
    assert "Own.later" in str(caught.value)
    assert "asyncio.run" in caught.value.hint


def test_other_awaitables_are_named_and_results_pass():
    loop = asyncio.new_event_loop()
    with pytest.raises(ModuleError, match="nothing awaited Future"):
        check_awaited(loop.create_future(), "T.forward", ModuleError)
    loop.close()
    for value in (None, 3, "text", [1], Datum(items=[Datum(metadata={"a": 1})])):
        check_awaited(value, "T.forward")


def is_brief(words):
    return words < 20


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (MinGate("accuracy", 0.8), "MinGate('accuracy', 0.8)"),
        (RangeGate("words", 20, 80, "train"), "RangeGate('words', 20.0, 80.0, 'train')"),
        (CustomGate(is_brief), "CustomGate(is_brief)"),
        (CustomGate("words", is_brief), "CustomGate('words', is_brief)"),
        (CostGate(max_tokens=9, required=False), "CostGate(max_tokens=9, required=False)"),
        (NoRegression(["f1", "recall"]), "NoRegression(['f1', 'recall'])"),
        (Improvement(0.01), "Improvement(0.01)"),
        (GeneralizationGap(0.1, "f1"), "GeneralizationGap(0.1, 'f1')"),
        (SignificantImprovement(0.9), "SignificantImprovement(0.9, 'sign')"),
        (
            SignificantImprovement(0.9, required=False),
            "SignificantImprovement(0.9, 'sign', required=False)",
        ),
        (
            CustomGate("words", is_brief, split="test", required=False),
            "CustomGate('words', is_brief, split='test', required=False)",
        ),
        (
            Accuracy() + Mean("score"),
            "MetricCollection({'accuracy': Accuracy(), 'mean': Mean('score')})",
        ),
        (Policy([MinGate("f1", 0.5)]), "Policy([MinGate('f1', 0.5)])"),
        (PassRate(), "PassRate()"),
        (Accuracy(), "Accuracy()"),
        (Accuracy("label"), "Accuracy('label')"),
        (FBeta(2.0, positive="spam"), "FBeta(2.0, positive='spam')"),
        (Mean("score", failed=0), "Mean('score', failed=0.0)"),
        (Latency(q=0.5), "Latency(q=0.5)"),
        (Loss(), "Loss()"),
        (Loss([Parameter("be brief")]), "Loss([Parameter('be brief')])"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_plug_ins_show_the_call_that_makes_them(made, text):
    assert repr(made) == text


def test_a_repr_cuts_long_arguments_and_leaves_out_unknown_ones():
    class Odd:
        def __init__(self, hidden, shown, *rest, flag=False, **more):
            self.shown = shown

    assert as_call(Odd(1, "x" * 500)) == f"Odd(shown='{'x' * 76}...)"
    assert as_call(Odd(1, object())) == "Odd(shown=object(...))"
    assert as_call(object()) == "object()"


def test_a_repr_finds_private_attributes_and_ends_where_an_object_holds_itself():
    class Inner:
        def __init__(self, limit, outer=None):
            self._limit, self.outer = limit, outer

        def __repr__(self):
            return as_call(self)

    class Outer(Inner):
        pass

    inner = Inner(3)
    inner.outer = Outer(4, inner)
    assert repr(inner) == "Inner(3, Outer(4, ...))"
