"""Workflows: coming back to a step asks anew, with and without a run."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from pydantic import BaseModel
from runs import make_run
from server import Received, Reply, say_json

from autopilot.ai.anthropic_agent import AnthropicAgent
from autopilot.ai.judge import Judge
from autopilot.ai.model.model import Model
from autopilot.ai.model.recording import StoreRecorder, numbered, request_key, use_recorder
from autopilot.ai.steps import BackStep, LLMStep, PythonStep, WorkflowState, run_steps
from autopilot.core.run import running
from autopilot.core.types import Datum
from autopilot.errors import AgentError, UsageError

NAME = "claude-haiku-4-5"


class Rated(BaseModel):
    score: float


def growing():
    """Answers 0.2 more for each time that the same is asked."""
    asked: Counter[str] = Counter()

    def script(request: Received) -> Reply:
        text = request.all_text()
        asked[text] += 1
        return say_json({"score": min(0.2 * asked[text], 1.0)})

    return script


def by_step(who) -> Judge:
    rate = LLMStep("rate", "Rate {said}", Rated)
    return Judge([rate, BackStep("again", "rate", lambda s: s["rate"].score < 0.5, 5)], model=who)


def by_function(model: Model) -> Judge:
    def rate(state: WorkflowState) -> float:
        found = re.search(r"0\.\d|1\.0", model.complete(f"Rate {state['said']}").output)
        assert found is not None
        return float(found[0])

    steps = [PythonStep("rate", rate), BackStep("again", "rate", lambda s: s["rate"] < 0.5, 5)]
    return Judge(steps)


JUDGES = {
    "model": lambda: by_step(Model(NAME)),
    "agent": lambda: by_step(AnthropicAgent(Model(NAME))),
    "function": lambda: by_function(Model(NAME)),
}


@pytest.mark.parametrize("kind", JUDGES)
def test_coming_back_asks_anew_in_a_run_as_by_hand(serve, kind: str) -> None:
    items = [(Datum(metadata={"said": name}), None) for name in "ab"]
    server = serve(growing())
    by_hand = JUDGES[kind]().judge_all(items)
    assert [found.score for found in by_hand] == pytest.approx([0.6, 0.6])
    assert server.count == 6
    server = serve(growing())
    run = make_run()
    with running(run):
        assert JUDGES[kind]().judge_all(items) == by_hand
        assert server.count == 6
        # The same again is answered from the record, visit by visit.
        assert JUDGES[kind]().judge_all(items) == by_hand
    with running(run), use_recorder(StoreRecorder(run.experiment.store, "replay")):
        assert JUDGES[kind]().judge_all(items) == by_hand
    assert server.count == 6
    names = sorted(call.id.partition("-")[2] for call in run.experiment.store.calls())
    assert names == ["", "", "v2", "v2", "v3", "v3"]


def test_each_step_counts_its_own_visits(serve) -> None:
    serve(growing())
    steps = [
        LLMStep("first", "one {said}", Rated),
        LLMStep("second", "two {said}", Rated),
        BackStep("again", "second", lambda s: s["second"].score < 0.5, 5),
        LLMStep("third", "three {said}", Rated),
    ]
    run = make_run()
    with running(run):
        state = run_steps(steps, WorkflowState({"said": "x"}, model=Model(NAME)))
    assert state.visits == {"first": 1, "second": 3, "again": 3, "third": 1}
    names = sorted(call.id.partition("-")[2] for call in run.experiment.store.calls())
    assert names == ["", "", "", "v2", "v3"]


def test_first_numbers_leave_names_as_they_are_and_others_are_told_apart() -> None:
    body = {"model": "m"}
    plain, names = request_key(body), set()
    for outer in (1, 2):
        for inner in (1, 2):
            for sample in (0, 1):
                with numbered("v", outer), numbered("v", inner):
                    names.add(request_key(body, sample))
    assert plain in names
    assert len(names) == 8
    with numbered("a", 2):
        assert request_key(body) == f"{plain}-a2"


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
    step = LLMStep("v", "{missing}", Rated)
    with pytest.raises(AgentError, match="missing") as caught:
        step.render(WorkflowState({"q": "x"}))
    assert "there are: q" in caught.value.hint


def test_a_step_without_a_model_says_so() -> None:
    with pytest.raises(UsageError, match="has no model"):
        run_steps([LLMStep("v", "x", Rated)], WorkflowState({}))
