"""The contract of agents: whatever a subclass defines, its calls are recorded and budgeted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from email.message import Message
from functools import partial
from typing import Any
from urllib.error import HTTPError

import pytest
from pydantic import BaseModel
from runs import make_run

from autopilot.ai.agent import Agent, AgentContext, AgentResult
from autopilot.ai.coding import CommandAgent
from autopilot.ai.function_agent import FunctionAgent
from autopilot.ai.judge import Judge
from autopilot.ai.model.parallel import RateLimit
from autopilot.ai.model.recording import StoreRecorder, use_recorder
from autopilot.ai.optimizer import AgentOptimizer
from autopilot.ai.prompt.prompting import ask
from autopilot.ai.steps import LLMStep
from autopilot.core.parameter import Parameter
from autopilot.core.records.ledger import Spent
from autopilot.core.run import running
from autopilot.core.types import Cost, Datum
from autopilot.errors import (
    AgentError,
    AgentNotFoundError,
    BudgetExceededError,
    KeyRefusedError,
    ReplayMissError,
    UsageError,
)
from autopilot.testing import AgentContract

ASKED: list[str] = []


def answered(prompt: str, by: str = "it") -> AgentResult:
    """An answer that was paid, and is noted."""
    ASKED.append(prompt)
    return AgentResult(f"{by} {prompt}", input_tokens=7, output_tokens=3, cost_usd=0.25)


class Defines(Agent):
    def __init__(self, model: str = "m", options: Any = None) -> None:
        self.model, self.options = model, options

    def _run(self, prompt: str, context: AgentContext) -> AgentResult:
        return answered(prompt)


class Overrides(Agent):
    def run(self, prompt: str, context: AgentContext | None = None) -> AgentResult:
        assert context is not None
        return answered(prompt)


class Extends(Overrides):
    def run(self, prompt: str, context: AgentContext | None = None) -> AgentResult:
        return super().run(prompt, context)


class Apart:
    def run(self, prompt: str, context: AgentContext | None = None) -> AgentResult:
        return answered(prompt)


class Inherits(Apart, Agent):
    pass


class Awaits(Agent):
    async def arun(self, prompt: str, context: AgentContext | None = None) -> AgentResult:
        await asyncio.sleep(0)
        return answered(prompt)

    def _run(self, prompt: str, context: AgentContext) -> AgentResult:
        return asyncio.run(self.arun(prompt, context))


class Router(Agent):
    asks_recorded = True

    def _run(self, prompt: str, context: AgentContext) -> AgentResult:
        return Defines().run(prompt, context)


@pytest.fixture(autouse=True)
def nothing_asked() -> None:
    ASKED.clear()


def awaited(agent: Agent) -> Callable[[str], AgentResult]:
    return lambda prompt: asyncio.run(agent.arun(prompt))


CALLS = {
    "_run": Defines().run,
    "run": Overrides().run,
    "super().run": Extends().run,
    "run of no agent": Inherits().run,
    "another agent": Router().run,
    "function": FunctionAgent(answered).run,
    "function with context": FunctionAgent(lambda prompt, context: answered(prompt)).run,
    "arun of the base": awaited(Overrides()),
    "arun of its own": awaited(Awaits()),
    "run by way of arun": Awaits().run,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_each_is_called_once_counted_once_and_then_answered(call) -> None:
    run = make_run()
    with running(run):
        first, again = call("a"), call("a")
    assert first.output == "it a" and (again.output, again.tokens) == (first.output, 10)
    assert ASKED == ["a"]
    assert run.ledger.by_role() == {"agent": Spent(1, 10, 0.25)}
    (record,) = run.experiment.store.calls()
    assert record.request["prompt"] == "a" and record.cost == Cost(tokens=10, cost_usd=0.25)
    with use_recorder(StoreRecorder(run.experiment.store, "replay")):
        assert call("a").output == "it a"
        with pytest.raises(ReplayMissError, match="prompt: recorded 'a', now 'b'"):
            call("b")
    assert ASKED == ["a"]


def test_another_setting_is_another_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_API_KEY", "planted-secret-value")

    class Keyed(Defines):
        def __init__(self, api_key: str, seen: list[str]) -> None:
            super().__init__()
            self.api_key, self.seen = api_key, seen

        def _run(self, prompt: str, context: AgentContext) -> AgentResult:
            self.seen.append(prompt)
            return answered(prompt, by=self.api_key)

    class Named(Keyed):
        def identity(self) -> dict[str, str]:
            return {"served by": self.seen[0]}

    run = make_run()
    with running(run):
        for agent in [Defines(), Defines("n"), Defines(options={"top": 1}), Defines()]:
            agent.run("a")
        # Neither a key nor what changes with each call names it.
        keyed = [Keyed(key, []).run("a") for key in ("planted-secret-value", "planted-other")]
        for home in ("here", "there", "here"):
            Named("k", [home]).run("a")
        for asked in ({}, {"sample": 1}, {"system": "s"}, {"schema": BaseModel}, {"role": "r"}):
            Defines().run("a", AgentContext(**asked))
    assert len(ASKED) == 3 + 1 + 2 + 3
    assert [result.output for result in keyed] == ["[hidden] a"] * 2
    records = run.experiment.store.calls()
    assert "planted" not in str(records)
    assert records[2].request["settings.options.top"] == "1"


def test_two_functions_are_two_agents() -> None:
    run = make_run()
    with running(run):
        first = FunctionAgent(lambda prompt: answered(prompt, by="one"))
        other = FunctionAgent(lambda prompt: answered(prompt, by="two"))
        named = FunctionAgent(lambda prompt: f"not {prompt}", name="contrary")
        assert [agent.run("a").output for agent in (first, other, named)] == [
            *("one a", "two a", "not a")
        ]

        def made(who: str) -> FunctionAgent:
            count = 0

            def ask_it(prompt: str) -> AgentResult:
                nonlocal count
                count += 1
                return answered(prompt, by=f"{who}{count}")

            return FunctionAgent(ask_it)

        held = [made("x"), made("y")]
        assert [held[0].run("a").output for _ in range(2)] == ["x1 a"] * 2
        held += [FunctionAgent(partial(answered, by=who)) for who in ("p", "q", "p")]
        assert [agent.run("a").output for agent in held] == [*("x1 a", "y1 a", "p a", "q a", "p a")]
    assert run.experiment.store.calls()[2].request["settings.name"] == "contrary"
    # Its price is unknown, as of any answer that is a text alone.
    assert run.ledger.total() == Spent(7, 60, 1.5, unpriced=1)


def test_its_cost_is_kept_in_the_budget_whether_it_answers_or_fails() -> None:
    run = make_run(cost_usd=0.9)

    def fail(prompt: str) -> AgentResult:
        error = AgentError("it broke off", hint="look")
        error.cost = Cost(tokens=5, cost_usd=0.4) if prompt == "paid" else None
        raise error if prompt else ValueError("no prompt")

    agent = FunctionAgent(fail)
    with running(run):
        Overrides().run("a")
        for prompt, raised in (("paid", AgentError), ("unpaid", AgentError), ("", ValueError)):
            with pytest.raises(raised):
                agent.run(prompt)
        Overrides().run("b")
        with pytest.raises(BudgetExceededError):
            FunctionAgent(answered).run("c")
    assert ASKED == ["a", "b"]
    assert run.ledger.total() == Spent(5, 25, 0.9, unpriced=2)
    # A resumed run counts the same.
    records = run.experiment.store.calls()
    assert [record.priced for record in records] == [True, True, False, False, True]
    assert [r.reply["lost"] for r in records if "lost" in r.reply] == [
        *("it broke off", "it broke off", "ValueError('no prompt')")
    ]


def test_dollars_that_a_call_may_take_are_set_aside_and_told() -> None:
    told: list[float] = []

    def note(prompt: str, context: AgentContext) -> AgentResult:
        told.append(context.most_usd)
        return answered(prompt)

    with running(make_run(cost_usd=2)):
        for most in (0.0, 0.5, float("inf")):
            FunctionAgent(note, name="note", max_cost_usd=most).run(str(most))
    assert told == [0.01, 0.5, 1.5]
    FunctionAgent(note, max_cost_usd=3).run("outside of runs")
    assert told[3] == 3


def test_it_keeps_its_rate() -> None:
    times = [0.0]

    def sleep(seconds: float) -> None:
        times.append(times[-1] + seconds)

    rate = RateLimit(requests_per_minute=2, clock=lambda: times[-1], sleep=sleep)
    agent, other = FunctionAgent(answered, rate=rate), Overrides()
    other.rate = rate
    with running(make_run()):
        for prompt in ("a", "b", "a", "c"):
            agent.run(prompt)
        other.run("d")
    assert times == [0, 60]


def test_an_agent_of_agents_is_recorded_and_their_cost_is_counted_once() -> None:
    class Panel(Agent):
        def _run(self, prompt: str, context: AgentContext) -> AgentResult:
            first, other = Defines("m").run(prompt), Defines("n").run(prompt)
            if prompt == "bad":
                raise AgentError("they disagree", hint="ask again")
            return AgentResult(first.output + "!", output_tokens=6, cost_usd=other.cost_usd)

    # Of the limit, the panel's own call holds nothing: those inside would wait for it.
    run, panel = make_run(calls=4), Panel()
    with running(run):
        assert [panel.run("a").output for _ in range(2)] == ["it a!"] * 2
        with pytest.raises(AgentError, match="they disagree"):
            panel.run("bad")
        with pytest.raises(BudgetExceededError):
            panel.run("b")
    assert run.ledger.total() == Spent(4, 40, 1.0)
    records = run.experiment.store.calls()
    assert [(r.request["agent"], r.cost.cost_usd) for r in records] == [
        *(("Defines", 0.25), ("Defines", 0.25), ("Panel", 0), ("Defines", 0.25), ("Defines", 0.25))
    ]
    # A replay asks the panel only, and counts what it cost.
    with use_recorder(StoreRecorder(run.experiment.store, "replay")):
        again = panel.run("a")
    assert (again.output, again.tokens, again.cost_usd) == ("it a!", 20, 0.5)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"output": "x"}, "FunctionAgent answered with dict, not with an AgentResult"),
        (None, "FunctionAgent answered with NoneType"),
    ],
)
def test_an_answer_of_another_kind_is_named(answer: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        FunctionAgent(lambda prompt: answer).run("a")


def test_a_function_or_class_that_cannot_be_called_is_refused() -> None:
    async def later(prompt: str) -> str:
        return prompt

    with pytest.raises(UsageError, match="the agent's function is async"):
        FunctionAgent(later)
    with pytest.raises(UsageError, match="gets one argument: prompt"):
        FunctionAgent(lambda: "x")

    class Later(Agent):
        async def run(self, prompt: str, context: AgentContext | None = None) -> AgentResult:  # type: ignore[override]  # that is the mistake
            return answered(prompt)

    with pytest.raises(UsageError, match=r"Later.run returned a coroutine"):
        Later().run("a")

    class Silent(Agent):
        pass

    with pytest.raises(UsageError, match="Silent does not say how it answers") as caught:
        Silent().run("a")
    assert "def _run(self, prompt, context)" in caught.value.hint


def test_a_wrong_argument_of_a_constructor_is_named_there() -> None:
    with pytest.raises(UsageError, match="'be kind' is no function"):
        FunctionAgent("be kind")  # type: ignore[arg-type]  # that is the mistake
    with pytest.raises(UsageError, match="max_retries is -1"):
        AgentOptimizer(FunctionAgent(answered), [Parameter("x")], max_retries=-1)


class Untold(Agent):
    def _run(self, prompt: str) -> AgentResult:  # type: ignore[override]  # that is the mistake
        return answered(prompt)


@pytest.mark.parametrize("agent", [Apart(), answered, Defines, Untold()])
def test_what_cannot_be_recorded_as_an_agent_is_refused_before_it_is_asked(agent: Any) -> None:
    with pytest.raises(UsageError, match=r"is no agent|Untold._run\(prompt\) gets 2 arguments"):
        AgentOptimizer(agent, [Parameter("x")])
    with pytest.raises(UsageError, match=r"is no agent|gets 2 arguments"):
        ask(agent, "a", BaseModel, role="judge")
    assert ASKED == []


def test_a_judge_asks_an_equal_question_once_and_a_generator_once_a_sample() -> None:
    class Verdict(BaseModel):
        score: float

    def judge(prompt: str) -> str:
        ASKED.append(prompt)
        return f'{{"score": 0.{len(ASKED)}}}'

    agent, run = FunctionAgent(judge), make_run()
    judging = Judge([LLMStep("verdict", "{q}", Verdict)], model=agent)
    with running(run):
        for _ in range(2):
            (judged,) = judging.judge_all([(Datum(metadata={"q": "q"}), None)])
        asked = [ask(agent, "q", Verdict, role="generator", sample=n) for n in (1, 2, 1)]
    assert judged.score == 0.1 and [each.score for each in asked] == [0.2, 0.3, 0.2]
    assert {role: spent.calls for role, spent in run.ledger.by_role().items()} == {
        "judge": 1,
        "generator": 2,
    }


def test_a_failure_of_its_service_is_understood_whatever_client_it_asks_with() -> None:
    failures = {
        "refused": ConnectionRefusedError(111, "Connection refused"),
        "late": TimeoutError("timed out"),
        "401": HTTPError("http://x", 401, "bad key", Message(), None),
        "503": HTTPError("http://x", 503, "overloaded", Message(), None),
        "other": KeyError("choices"),
        # It was never started.
        "gone": AgentNotFoundError("no such program", hint="install it"),
    }

    def fetch(prompt: str) -> str:
        raise failures[prompt]

    agent, run, raised = FunctionAgent(fetch, name="own"), make_run(), dict[str, Exception]()
    with running(run):
        for prompt in failures:
            with pytest.raises((AgentError, KeyError)) as caught:
                agent.run(prompt)
            raised[prompt] = caught.value
    assert str(raised["refused"]).startswith("no answer from own: ")
    assert isinstance(raised["401"], KeyRefusedError) and "the agent's key" in raised["401"].hint
    assert str(raised["503"]).startswith("own: the service answered 503")
    assert isinstance(raised["other"], KeyError)
    # Those that may have been read are counted, as a Model's are.
    assert run.ledger.total() == Spent(2, unpriced=2)
    assert [record.reply["lost"] for record in run.experiment.store.calls()] == [
        *("TimeoutError('timed out')", "KeyError('choices')")
    ]


class TestFunctionAgent(AgentContract):
    def make_agent(self) -> Agent:
        return FunctionAgent(answered, name="answered")


class TestOverriding(AgentContract):
    def make_agent(self) -> Agent:
        return Extends()


class TestCommandAgent(AgentContract):
    def make_agent(self) -> Agent:
        return CommandAgent(["cat"])
