"""Collators: findings as they are, or summed up by a model."""

from __future__ import annotations

import json

import pytest
from server import fail, say_json

from autopilot.ai.agent import Agent, AgentResult
from autopilot.ai.gradient import AgentCollator, ConcatCollator
from autopilot.ai.model.model import Model
from autopilot.core.gradient import Finding

NAME = "claude-haiku-4-5"
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


def test_outside_of_runs_it_is_said_in_the_log(serve, caplog: pytest.LogCaptureFixture) -> None:
    serve([fail(500)])
    AgentCollator(Model(NAME, max_retries=0)).collate(FINDINGS)
    assert "the feedback was taken as it is, not summed up: " in caplog.text
