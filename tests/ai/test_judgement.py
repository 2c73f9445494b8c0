"""What judges say, read strictly."""

from __future__ import annotations

from decimal import Decimal
from types import SimpleNamespace

import pytest
from pydantic import BaseModel, Field

from autopilot.ai.judge import WORDS, Judge, Judgement, own_judgement
from autopilot.ai.steps import LLMStep, PythonStep
from autopilot.core.types import Datum
from autopilot.errors import AgentReplyError


class OfTen(BaseModel):
    score: float = Field(ge=0, le=10)
    feedback: str = ""


def said(value, **more) -> Judgement:
    return Judge([PythonStep("say", lambda _: value)], **more).judge(Datum())


def numpy_bool(value: bool):
    """What numpy's own bool looks like, without numpy."""
    kind = type("bool_", (), {"__module__": "numpy", "__bool__": lambda _: value})
    return kind()


@pytest.mark.parametrize("word", [*WORDS, "true", "yes", "1", "false", "no", "0"])
@pytest.mark.parametrize("change", [str, str.upper, str.title, " {}\n".format])
def test_a_verdict_in_words_is_one_of_the_documented_ones(word, change) -> None:
    expected = word in ("true", "yes", "pass", "passed", "1")
    assert said(change(word)).success is expected
    assert said({"success": change(word)}).score == float(expected)
    assert said(Judgement(change(word), None)).success is expected
    assert word in (Judge.__doc__ or "")


@pytest.mark.parametrize(
    "value",
    ["maybe", "", "not passed", "yes, but", "no.", "ok", "good", "none", 2, -1, 0.9, [True]],
)
def test_what_is_neither_true_nor_false_is_no_verdict(value) -> None:
    with pytest.raises(AgentReplyError, match=r"success=.* is neither true nor false") as raised:
        said({"success": value, "score": 1.0})
    assert "passed or failed" in raised.value.hint
    found = Judge([PythonStep("say", lambda _: {"success": value})]).attempt(Datum())
    assert (found.success, found.score, found.again) == (None, None, True)
    assert "neither true nor false" in found.error


@pytest.mark.parametrize(
    ("value", "success", "score"),
    [
        (0, False, 0.0),
        (1, True, 1.0),
        (Decimal("0.5"), True, 0.5),
        (numpy_bool(False), False, 0.0),
        ({"success": 1}, True, 1.0),
        ({"success": 0.0}, False, 0.0),
        ({"success": numpy_bool(True)}, True, 1.0),
        ({"score": "0.25"}, False, 0.25),
        ({"success": None, "score": 0.5}, True, 0.5),
        ({"success": "no", "score": 1.0}, False, 1.0),
    ],
)
def test_numbers_and_bools_of_any_kind_are_read(value, success, score) -> None:
    found = said(value)
    assert (found.success, found.score) == (success, score)


@pytest.mark.parametrize("value", [{"success": None, "score": None}, {"success": None}])
def test_neither_of_both_is_no_verdict(value) -> None:
    with pytest.raises(AgentReplyError, match="neither a success nor a score"):
        said(value)


@pytest.mark.parametrize("score", [1.01, -0.01, 7, "7", float("nan"), float("inf")])
def test_a_score_outside_of_its_range_is_refused(score) -> None:
    for value in ({"score": score}, Judgement(True, score)):
        with pytest.raises(AgentReplyError, match=r"the score .* is outside of 0 to 1"):
            said(value)


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(AgentReplyError, match="score='high' is no number"):
        said({"score": "high"})


def test_a_range_is_declared_by_the_judge_or_by_the_field() -> None:
    assert said(7, score_range=(0, 10)) == Judgement(True, 7.0, score_range=(0, 10))
    assert said(OfTen(score=4)) == Judgement(False, 4.0, score_range=(0.0, 10.0))
    assert said({"success": True}, score_range=(1, 5)).score == 5
    with pytest.raises(AgentReplyError, match="the score 11 is outside of 0 to 10"):
        said(OfTen.model_construct(score=11))
    with pytest.raises(AgentReplyError, match="the score 4 is outside of 0 to 1"):
        said(OfTen(score=4), score_range=(0, 1))
    assert Judge([LLMStep("v", "x", OfTen), PythonStep("p", str)]).range_of() == (0.0, 10.0)
    with pytest.raises(ValueError, match=r"score_range must be \(lowest, highest\)"):
        Judge(score_range=(1, 1))


def test_a_field_that_declares_one_end_alone_declares_no_range() -> None:
    class Half(BaseModel):
        score: float = Field(ge=0)

    with pytest.raises(AgentReplyError, match="outside of 0 to 1"):
        said(Half(score=3))


def test_an_overridden_judge_is_read_as_strictly() -> None:
    class Mine(Judge):
        def judge(self, item, target=None):
            return item.metadata["says"]

    def attempt(value) -> Judgement:
        return Mine().attempt(Datum(metadata={"says": value}))

    assert attempt("passed") == Judgement(True, 1.0)
    assert attempt(Judgement("no", 0.25, "so")) == Judgement(False, 0.25, "so")  # type: ignore[arg-type]
    assert attempt(Judgement(True, 3.0)).error == "the score 3 is outside of 0 to 1"


@pytest.mark.parametrize(
    ("item", "success", "score"),
    [
        (Datum(success=True), True, 1.0),
        (Datum(success=False), False, 0.0),
        (Datum(success=True, metrics={"score": 7.0}), True, 7.0),
        (Datum(success=True, error_message="it raised"), False, 0.0),
        (Datum(), None, None),
        (Datum(metrics={"score": 0.9}), None, None),
        (Datum(success=True, unmeasured="no answer"), None, None),
    ],
)
def test_what_nobody_said_is_not_made_up(item, success, score) -> None:
    for found in (own_judgement(item), Judge().attempt(item)):
        assert (found.success, found.score, found.error) == (success, score, "")


def test_an_object_is_no_judgement() -> None:
    with pytest.raises(Exception, match="returned SimpleNamespace, which is no"):
        said(SimpleNamespace(success=True))
