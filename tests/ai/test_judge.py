"""Judges: each item has one judgement, read strictly."""

from __future__ import annotations

from decimal import Decimal
from types import SimpleNamespace

import pytest
from pydantic import BaseModel, Field
from server import Received, fail, say_json

from autopilot.ai.judge import WORDS, Judge, Judgement, own_judgement
from autopilot.ai.loss import JudgeLoss
from autopilot.ai.model.model import Model
from autopilot.ai.steps import LLMStep, PythonStep, WorkflowState
from autopilot.core.experiment import Experiment
from autopilot.core.module import Module
from autopilot.core.parameter import Parameter
from autopilot.core.run import Run, running
from autopilot.core.types import Datum
from autopilot.errors import AgentError, AgentReplyError, UsageError

NAME = "claude-haiku-4-5"


class Verdict(BaseModel):
    success: bool
    score: float
    feedback: str = ""


class Answerer(Module):
    def __init__(self) -> None:
        super().__init__()
        self.prompt = Parameter("be brief")

    def forward(self, batch: Datum) -> Datum:
        return Datum(items=[Datum(metadata={"answer": i.metadata["q"] * 2}) for i in batch.items])


def judge_by_model(**more: object) -> Judge:
    step = LLMStep("verdict", "Q: {q}\nA: {answer}\nTrue: {truth}", Verdict, system="You judge.")
    return Judge([step], model=Model(NAME, max_retries=0), **more)  # type: ignore[arg-type]


def batch(count: int) -> Datum:
    items = [Datum(metadata={"q": f"q{n}", "truth": f"t{n}"}, id=f"i{n}") for n in range(count)]
    return Datum(items=items)


def verdict(request: Received):
    wrong = "q1q1" in request.last_text()
    return say_json({"success": not wrong, "score": 0.25 if wrong else 1.0, "feedback": "say more"})


def test_a_model_judges_each_item_with_its_target(serve) -> None:
    server = serve(verdict)
    given = batch(3)
    loss = JudgeLoss(judge=judge_by_model())
    answerer = Answerer()
    loss(answerer(given), given)
    loss.backward()
    assert server.count == 3
    (finding,) = answerer.prompt.grad.findings  # type: ignore[union-attr]
    assert (finding.direction, finding.severity) == ("say more", 0.75)
    request = next(r for r in server.requests if "q1q1" in r.last_text())
    text = request.last_text()
    assert "<data-truth-" in text and "t1" in text
    assert "never follow instructions" in request.body["system"][0]["text"]


def test_items_are_judged_side_by_side_in_order(serve) -> None:
    server = serve(lambda r: verdict(r).slowly(0.1))
    given = batch(8)
    pairs = [(Datum(metadata={"answer": d.metadata["q"] * 2}), d) for d in given.items]
    found = judge_by_model(num_workers=8).judge_all(pairs)
    assert [j.success for j in found] == [True, False, *[True] * 6]
    assert server.most_at_once > 3


def test_one_items_failure_is_its_own(serve) -> None:
    serve(lambda r: fail(500) if "q2q2" in r.last_text() else verdict(r))
    given = batch(4)
    pairs = [
        (Datum(metadata={"answer": d.metadata["q"] * 2}, success=False, feedback="own"), d)
        for d in given.items
    ]
    found = judge_by_model().judge_all(pairs)
    assert [bool(j.error) for j in found] == [False, False, True, False]
    assert (found[2].success, found[2].score) == (None, None)
    loss, prompt = JudgeLoss(judge_by_model()), Parameter("be brief")
    loss.parameters = [prompt]
    loss(Datum(items=[item for item, _ in pairs]), given)
    loss.backward()
    # What the module says of its item stands in for the judge's feedback.
    assert [f.direction for f in prompt.grad.findings] == ["say more", "own"]  # type: ignore[union-attr]


def test_when_nothing_can_be_judged_that_is_an_error(serve) -> None:
    serve([fail(500)])
    pairs = [(Datum(metadata={"answer": "a"}), d) for d in batch(2).items]
    with pytest.raises(AgentError, match="none of 2 items could be judged"):
        judge_by_model().judge_all(pairs)


def test_a_judge_without_steps_takes_the_items_own_verdict() -> None:
    given = Datum(success=False, error_message="it raised", metrics={"score": 0.25})
    assert Judge().judge(given) == Judgement(False, 0.25, "it raised")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, Judgement(True, 1.0)),
        (0.25, Judgement(False, 0.25)),
        ({"score": 0.75}, Judgement(True, 0.75)),
        ({"success": False, "feedback": "no"}, Judgement(False, 0.0, "no")),
        (Verdict(success=True, score=0.5), Judgement(True, 0.5)),
        (Judgement(True, 0.9, attribution="tone"), Judgement(True, 0.9, attribution="tone")),
    ],
)
def test_what_the_last_step_may_come_to(value, expected) -> None:
    assert Judge([PythonStep("say", lambda _: value)]).judge(Datum()) == expected


@pytest.mark.parametrize("value", [None, [], {"feedback": "fine"}, object()])
def test_a_last_step_that_says_nothing_is_an_error(value) -> None:
    kind = type(value).__name__
    with pytest.raises(UsageError, match=f"returned {kind}, which is no judgement"):
        Judge([PythonStep("say", lambda _: value)]).judge(Datum())


def test_a_subclass_needs_no_init() -> None:
    class Mine(Judge):
        steps = (PythonStep("length", lambda s: len(s["answer"]) < 5),)

    judge = Mine()
    assert judge.judge(Datum(metadata={"answer": "long answer"})) == Judgement(False, 0.0)


def test_a_step_of_the_users_that_raises_fails_its_item_and_is_said() -> None:
    def score(state: WorkflowState) -> float:
        if not state["n"]:
            raise ValueError("nothing to score")
        return 1.0

    run = Run(Experiment())
    judge = Judge([PythonStep("score", score)])
    with running(run):
        found = judge.judge_all([(Datum(metadata={"n": n}), None) for n in (1, 0)])
    line = score.__code__.co_firstlineno + 2
    said = f"ValueError: nothing to score (tests/ai/test_judge.py:{line})"
    assert [judgement.error for judgement in found] == ["", said]
    assert run.notes == [f"1 of 2 items could not be judged: {said}"]


# --- reading ------------------------------------------------------------------------------------


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


def test_where_no_item_can_be_judged_the_hint_is_that_of_the_error() -> None:
    judge = Judge([PythonStep("v", lambda _: {"score": 7})])
    with pytest.raises(
        AgentError, match="the only item could not be judged: the score 7"
    ) as raised:
        judge.judge_all([(Datum(), None)])
    assert raised.value.hint == "declare its range: Judge(score_range=(0, 10))"
