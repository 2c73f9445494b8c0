"""Judges, their steps, the loss and the collators."""

from __future__ import annotations

import json

import pytest
from pydantic import BaseModel
from server import Received, fail, say_json

from autopilot.ai.agent import Agent, AgentResult
from autopilot.ai.gradient import AgentCollator, ConcatCollator
from autopilot.ai.judge import Judge, Judgement
from autopilot.ai.loss import JudgeLoss
from autopilot.ai.model.model import Model
from autopilot.ai.steps import BackStep, LLMStep, PythonStep, WorkflowState, run_steps
from autopilot.core.experiment import Experiment
from autopilot.core.gradient import Finding
from autopilot.core.module import Module
from autopilot.core.parameter import Parameter
from autopilot.core.run import Run, running
from autopilot.core.types import Datum
from autopilot.errors import AgentError, UsageError

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


def test_a_way_back_is_taken_until_the_condition_holds_or_the_limit() -> None:
    counted: list[int] = []

    def count(state: WorkflowState) -> int:
        counted.append(len(counted))
        return len(counted)

    def run(when, limit):
        counted.clear()
        steps = [PythonStep("count", count), BackStep("again", "count", when, limit)]
        return run_steps(steps, WorkflowState({}))["count"]

    assert run(lambda s: s["count"] < 3, 10) == 3
    assert run(lambda _: True, 4) == 5


def test_a_way_to_nowhere_is_an_error() -> None:
    step = BackStep("again", "nowhere", lambda _: True, 1)
    with pytest.raises(UsageError, match="not an earlier step"):
        run_steps([step], WorkflowState({}))
    with pytest.raises(UsageError, match="distinct names"):
        run_steps([PythonStep("a", len), PythonStep("a", len)], WorkflowState({}))


def test_a_prompt_that_asks_for_what_is_not_there_names_what_is() -> None:
    step = LLMStep("v", "{missing}", Verdict)
    with pytest.raises(AgentError, match="missing") as caught:
        step.render(WorkflowState({"q": "x"}))
    assert "there are: q" in caught.value.hint


def test_a_step_without_a_model_says_so() -> None:
    with pytest.raises(UsageError, match="has no model"):
        run_steps([LLMStep("v", "x", Verdict)], WorkflowState({}))


# --- collators ---------------------------------------------------------------------------------

FINDINGS = [Finding("be brief", item="a"), Finding("say less", item="b", evidence=("b: long",))]


def test_concat_keeps_every_finding() -> None:
    assert ConcatCollator().collate(FINDINGS).findings == tuple(FINDINGS)


def test_a_model_sums_up(serve) -> None:
    server = serve([say_json({"findings": [{"direction": "shorten", "attribution": "length"}]})])
    gradient = AgentCollator(Model(NAME)).collate(FINDINGS)
    assert gradient.render() == "length: shorten"
    text = server.requests[0].last_text()
    assert "[b, severity 1.00] say less (b: long)" in text


def test_one_finding_needs_no_model() -> None:
    assert AgentCollator(Model(NAME)).collate(FINDINGS[:1]).findings == tuple(FINDINGS[:1])


def test_an_invalid_summary_goes_back_then_falls_back_and_says_so(serve) -> None:
    server = serve([say_json({"findings": []})])
    collator = AgentCollator(Model(NAME), max_retries=1)
    gradient = collator.collate(FINDINGS)
    assert server.count == 2
    assert gradient.findings[:2] == tuple(FINDINGS)
    assert "not summed up" in gradient.render()
    assert len(collator.fallbacks) == 1


def test_any_agent_can_sum_up() -> None:
    answers = ["nonsense", json.dumps({"findings": [{"direction": "shorten"}]})]
    asked: list[str] = []

    class Scripted(Agent):
        def run(self, prompt, context=None):
            asked.append(prompt)
            return AgentResult(answers[len(asked) - 1])

    assert AgentCollator(Scripted()).collate(FINDINGS).render() == "shorten"
    assert "there is no JSON in it" in asked[1]


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


def test_outside_of_runs_it_is_said_in_the_log(serve, caplog: pytest.LogCaptureFixture) -> None:
    serve([fail(500)])
    AgentCollator(Model(NAME, max_retries=0)).collate(FINDINGS)
    assert "the feedback was taken as it is, not summed up: " in caplog.text
