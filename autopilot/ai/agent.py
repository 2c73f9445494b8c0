"""The contract of agents and of their tools.

An agent reads a prompt, may edit files, and answers. Subclass `Agent` to plug in another one, or
wrap a function: `FunctionAgent`. Each call is answered from the record, or paid and recorded.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakSet

from autopilot.ai.model import recording
from autopilot.ai.model.failures import translation
from autopilot.ai.model.parallel import RateLimit
from autopilot.ai.model.recording import Recorder, current_recorder, make_record, request_parts
from autopilot.core.parameter import PathParameter
from autopilot.core.records.ledger import Reservation
from autopilot.core.records.record import LlmRecord
from autopilot.core.run import Run, current_run, say
from autopilot.core.signatures import check_awaited, plain
from autopilot.core.types import Cost
from autopilot.errors import (
    AgentError,
    AgentNotFoundError,
    AutopilotError,
    BudgetExceededError,
    ReplayMissError,
    UsageError,
)
from autopilot.text import clean, hide

if TYPE_CHECKING:
    from pydantic import BaseModel


@dataclass(frozen=True, slots=True)
class AgentResult:
    """An agent's answer and its cost.

    Args:
        output: The answer's text.
        session_id: Names the conversation, so that it can be continued; "" if it cannot.
        input_tokens: Tokens read, cached ones included.
        output_tokens: Tokens written.
        cost_usd: Dollars; None if the price is unknown.
        seconds: Wall clock.
        model: The model that answered; "" if the agent does not say.
    """

    output: str
    session_id: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None
    seconds: float = 0.0
    model: str = ""

    @property
    def tokens(self) -> int:
        """Tokens read and written."""
        return self.input_tokens + self.output_tokens

    @property
    def cost(self) -> Cost:
        """As a Cost; unknown dollars count as 0."""
        return Cost(tokens=self.tokens, cost_usd=self.cost_usd or 0.0, seconds=self.seconds)


@dataclass(frozen=True, slots=True)
class AgentContext:
    """The surroundings of a prompt.

    Args:
        folder: The working directory; None: the present one.
        parameters: Files that the agent may edit. Empty: none.
        system: Instructions in front of the prompt, the same for every call of a run.
        session_id: The conversation to continue; "" for a new one.
        schema: The pydantic model of the answer's JSON, for agents that can enforce it.
        role: The name under which the cost is counted: "optimizer", "judge", ...
        sample: Equal questions are asked once in an experiment; another number asks again.
        most_usd: The dollars that are set aside in the budget for this call; set by `Agent.run`.
    """

    folder: Path | None = None
    parameters: Sequence[PathParameter] = ()
    system: str = ""
    session_id: str = ""
    schema: type[BaseModel] | None = None
    role: str = "agent"
    sample: int = 0
    most_usd: float = math.inf

    @property
    def files(self) -> list[Path]:
        """The editable files that exist, absolute."""
        return [
            parameter.root / name for parameter in self.parameters for name in parameter.files()
        ]


# The agents whose call is going on here: a call inside of it, by way of super(), is a part of it.
_calling: ContextVar[tuple[Agent, ...]] = ContextVar("autopilot_agents", default=())


class Agent:
    """Answers prompts. Subclasses define `_run`.

    `run` is the same for all: in an experiment, a call is answered from the record if there is one,
    and otherwise counted in the budget, made within the rate limit, and recorded, without secrets,
    before its answer is used. An agent that may edit nothing is asked an equal question once. One
    that edits is not asked again where its step is recorded, and never in a replay: the step's
    commit has its edits. A class that defines `run` itself gets the same.

    An agent may be used from several threads at once. It edits only the files of
    `context.parameters`; the optimizer undoes edits of other files.

    Attributes:
        rate: A RateLimit to keep; give several agents the same object to share it.
        max_cost_usd: The dollars that are set aside for a call in a dollar budget; infinite: all
            that is left, so that calls side by side wait for one another.
        asks_recorded: It only asks Models or other agents: this one is not recorded, and is run in
            a replay too, in which they are answered. Without it, it is recorded, and what they cost
            is counted once as well.

    >>> class Parrot(Agent):
    ...     def _run(self, prompt, context):
    ...         return AgentResult(output=prompt)
    >>> Parrot().run("hello").output
    'hello'
    """

    rate: RateLimit | None = None
    max_cost_usd: float = 0.0
    asks_recorded: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # No agent is called without a record, a budget and a replay: neither one that defines its
        # own, nor one that inherits it from a class that is no Agent.
        for name, recorded in (("run", _recorded), ("arun", _recorded_async)):
            found = inspect.getattr_static(cls, name)
            if inspect.isfunction(found) and found not in _RECORDED:
                setattr(cls, name, recorded(found))
                _RECORDED.add(cls.__dict__[name])

    def run(self, prompt: str, context: AgentContext | None = None) -> AgentResult:
        """Answers a prompt, and edits files where the context allows it.

        Raises:
            AgentNotFoundError: its program or package is not installed.
            AgentTimeoutError: it took too long; its processes are ended.
            AgentRefusedError: the model refused.
            AgentReplyError: the answer cannot be used.
            AgentError: it failed otherwise.
            BudgetExceededError: it was not started, since too little is left.
            ReplayMissError: only records may answer, and there is none.
        """
        return self._answer(prompt, context or AgentContext(), self._run)

    async def arun(self, prompt: str, context: AgentContext | None = None) -> AgentResult:
        """As `run`, in a thread of its own."""
        return await asyncio.to_thread(self.run, prompt, context)

    def _run(self, prompt: str, context: AgentContext) -> AgentResult:
        """Makes the call; errors are those of `run`.

        A call that was paid and failed raises an AgentError whose `cost` is its Cost.
        """
        raise UsageError(
            f"{type(self).__name__} does not say how it answers",
            hint="define it: def _run(self, prompt, context): return AgentResult(...)",
        )

    def identity(self) -> Mapping[str, Any]:
        """All settings that its answers depend on, as JSON: they are a part of a call's name.

        Two agents of one class with other settings are asked each for itself. By default these are
        the constructor's arguments that are attributes of the same name, and texts, numbers, dicts
        or tuples of them. Override it where that misses one, or has one that differs from machine
        to machine, as an address does.
        """
        names = list(inspect.signature(type(self).__init__).parameters)[1:]
        return plain({name: getattr(self, name, None) for name in names})

    def _asked(self, prompt: str, context: AgentContext) -> dict[str, Any]:
        """All that the answer depends on: the request as it is recorded."""
        return {
            "agent": type(self).__name__,
            "settings": self.identity(),
            "system": context.system,
            "session": context.session_id,
            "schema": context.schema.__name__ if context.schema else None,
            "prompt": prompt,
        }

    def _answer(self, prompt: str, context: AgentContext, run: _Run) -> AgentResult:
        """Answers from the record, or makes the call, counts and records it."""
        if self.asks_recorded or any(agent is self for agent in _calling.get()):
            return run(prompt, context)
        asked, edits = clean(self._asked(prompt, context)), bool(context.parameters)
        make = functools.partial(self._pay, prompt, context, run)
        return agent_call(asked, context.role, make, edits=edits, sample=context.sample)

    def _pay(self, prompt: str, context: AgentContext, run: _Run) -> AgentResult:
        ledger, rate, name = recording.current_ledger(), self.rate or RateLimit(), self._name()
        with ledger.reserve_left(context.role, self.max_cost_usd) as spent:
            # A text has at most half as many tokens as bytes.
            sent = rate.wait(len((context.system + prompt).encode("utf-8", "replace")) // 2)
            token, took = _calling.set((*_calling.get(), self)), 0
            try:
                with spent.giving_way():
                    result = run(prompt, replace(context, most_usd=spent.cost_usd))
                result = _checked(result, type(self).__name__)
                took = result.tokens
            except (AgentNotFoundError, BudgetExceededError, ReplayMissError):
                # It was never started, so nothing can have been paid.
                raise
            except Exception as error:
                # As the service of a Model: an outage is waited for, a refused key ends the run.
                known = isinstance(error, AutopilotError)
                ours = None if known else translation(name, error, key="the agent's key")
                if ours is None or getattr(ours, "is_charged", False):
                    self._lose(error, name, context.role, spent)
                if ours is None:
                    raise
                raise ours from error
            finally:
                _calling.reset(token)
                rate.settle(sent, took)
            priced = result.cost_usd is not None or bool(recording.calls_inside())
            # Calls inside of it are counted each.
            spent.settle(None if recording.calls_inside() else result.cost, known=priced)
            if not priced and math.isfinite(ledger.limits.cost_usd):
                name = result.model or name
                say(f"the price of {name} is unknown: its calls do not count in dollars")
        return result

    def _lose(self, error: Exception, name: str, role: str, spent: Reservation) -> None:
        """Counts and records a call that was started and failed: it may have been paid."""
        if recording.calls_inside():
            return
        cost = error.cost if isinstance(error, AgentError) else None
        paid, known = (cost, True) if isinstance(cost, Cost) else (Cost(), False)
        spent.settle(paid, known=known)
        why = hide(getattr(error, "message", None) or repr(error))
        recording.keep_lost(role, name, paid, why, priced=known)

    def _name(self) -> str:
        """Names it in notes, where the model is unknown."""
        return str(getattr(self, "model", None) or type(self).__name__)


_Run = Callable[[str, AgentContext], AgentResult]
_RECORDED = WeakSet[Any]([Agent.run, Agent.arun])


class Tool(ABC):
    """A tool for a model. Errors of autopilot go to the model; other errors end the call."""

    @abstractmethod
    def definition(self) -> Mapping[str, Any]:
        """The tool for the Messages API: name, description and input_schema, or a type."""

    def function(self) -> Mapping[str, Any]:
        """The tool for any other service: name, description and input_schema. Defined where
        `definition` names a type that only the Messages API knows."""
        return self.definition()

    @abstractmethod
    def use(self, arguments: Mapping[str, Any]) -> str:
        """Uses the tool, and returns the result for the model.

        Raises:
            AutopilotError: it cannot be used so; message and hint go to the model.
        """


def _recorded(run: Callable[..., AgentResult]) -> Callable[..., AgentResult]:
    """A subclass's own `run`, with all that `Agent.run` does around it."""

    @functools.wraps(run)
    def recorded(self: Agent, prompt: str, context: AgentContext | None = None) -> AgentResult:
        return self._answer(prompt, context or AgentContext(), functools.partial(run, self))

    return recorded


def _recorded_async(
    arun: Callable[..., Coroutine[Any, Any, AgentResult]],
) -> Callable[..., Coroutine[Any, Any, AgentResult]]:
    @functools.wraps(arun)
    async def recorded(
        self: Agent, prompt: str, context: AgentContext | None = None
    ) -> AgentResult:
        if any(agent is self for agent in _calling.get()):
            return await arun(self, prompt, context)
        # In a thread: equal calls side by side wait for one another with a lock.
        return await asyncio.to_thread(
            self._answer,
            prompt,
            context or AgentContext(),
            lambda *given: asyncio.run(arun(self, *given)),
        )

    return recorded


def _checked(result: Any, name: str) -> AgentResult:
    """An agent's result, without secrets."""
    check_awaited(result, f"{name}.run", UsageError)
    if not isinstance(result, AgentResult):
        raise UsageError(
            f"{name} answered with {type(result).__name__}, not with an AgentResult",
            hint="return AgentResult(output=text), or from a function the text itself",
        )
    return replace(result, output=hide(result.output))


def agent_call(
    asked: Mapping[str, Any],
    role: str,
    make: Callable[[], AgentResult],
    *,
    edits: bool,
    sample: int = 0,
) -> AgentResult:
    """A call that is not a message of the API: answered from the record, or made and recorded.

    An agent's edits are in commits, not in records.

    Args:
        asked: All that the answer depends on, including "prompt" if the agent edits.
        edits: The agent may edit files: it is called again as long as its step was not committed.

    Raises:
        ReplayMissError: only records may answer, and there is none.
    """
    recorder, run = current_recorder(), current_run()
    if recorder is None:
        return make()
    if edits:
        if run is not None and run.experiment.only_recorded:
            known = recording.recorded_step(run, str(asked["prompt"]), role)
            return _recorded_answer(run, recorder, known)
        # Never answered from the record, so the key sorts by time and not by content.
        asked, key = {"prompt": asked["prompt"]}, f"{time.time_ns():016x}{uuid.uuid4().hex[:8]}"
    else:
        key = recording.request_key(asked, sample)
    parts = request_parts(asked)
    with recorder.one_at_a_time(key):
        answer = recorder.answer(key, parts)
        if answer is not None:
            return _recorded_answer(run, recorder, [answer])
        with recording.gathered() as inside:
            result = make()
        names = ("output", "session_id", "input_tokens", "output_tokens")
        reply: dict[str, Any] = {name: getattr(result, name) for name in names}
        cost, priced = result.cost, result.cost_usd is not None
        if inside:
            # They are counted each, and this one is not.
            reply["calls"], cost, priced = [call.id for call in inside], Cost(), True
        recorder.keep(make_record(key, role, result.model, cost, parts, reply, priced=priced))
    return result


def _recorded_answer(run: Run | None, recorder: Recorder, known: list[LlmRecord]) -> AgentResult:
    """The last answer, with the cost of all calls, and of those inside of them."""
    calls = list(known)
    for call in calls:  # those inside of them are added, too, while it goes on
        if inside := call.reply.get("calls"):
            calls += recorder.named(inside)
    if run is not None:
        for call in calls:
            run.charge_recorded(call)
    last, cost = known[-1], sum((call.cost for call in calls), Cost())
    written = sum(int(call.reply.get("output_tokens", 0)) for call in known)
    return AgentResult(
        output=str(last.reply.get("output", "")),
        session_id=str(last.reply.get("session_id", "")),
        input_tokens=max(int(cost.tokens) - written, 0),
        output_tokens=written,
        cost_usd=cost.cost_usd if all(call.priced for call in calls) else None,
        seconds=cost.seconds,
        model=last.model,
    )
