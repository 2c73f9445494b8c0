"""A function as an agent."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from autopilot.ai.agent import Agent, AgentContext, AgentResult
from autopilot.ai.model.parallel import RateLimit
from autopilot.core.signatures import check_call, check_function, plain
from autopilot.core.types import digest
from autopilot.errors import UsageError


class FunctionAgent(Agent):
    """A function of the prompt as an agent.

    Args:
        function: Gets the prompt, and the AgentContext if it has a second argument without a
            default, or one named "context". Returns the answer's text, or an AgentResult.
        name: Names the agent in records; defaults to the function's name, for a lambda with a
            digest of its source. Texts and numbers that the function holds, in a closure or as
            defaults, are a part of a call's name too; with other things, two need two names.
        rate: See Agent.
        max_cost_usd: See Agent.

    >>> FunctionAgent(lambda prompt: prompt.upper()).run("hello").output
    'HELLO'
    """

    def __init__(
        self,
        function: Callable[..., str | AgentResult],
        *,
        name: str = "",
        rate: RateLimit | None = None,
        max_cost_usd: float = 0.0,
    ) -> None:
        if not callable(function):
            raise UsageError(
                f"{function!r} is no function", hint="FunctionAgent(lambda prompt: ...)"
            )
        taken = _taken_by(function)
        check_function(function, "the agent's function", taken, UsageError)
        self.function = function
        self.name = name or _name_of(function)
        self.rate = rate
        self.max_cost_usd = max_cost_usd
        self._with_context = len(taken) > 1
        # As they are now: a count of its calls would make each call another one.
        self._held = _held_by(function)

    def identity(self) -> Mapping[str, Any]:
        return {"name": self.name, **self._held}

    def _run(self, prompt: str, context: AgentContext) -> AgentResult:
        given = (prompt, context) if self._with_context else (prompt,)
        said = self.function(*given)
        return AgentResult(said) if isinstance(said, str) else said

    def _name(self) -> str:
        return self.name


def check_agent(agent: object) -> None:
    """Refuses what only looks like an agent: its calls would be neither recorded nor counted.

    Raises:
        UsageError: it is no Agent, or its `_run` cannot be called.
    """
    if not isinstance(agent, Agent):
        raise UsageError(
            f"{agent!r} is no agent",
            hint="give an object whose class is a subclass of Agent, or FunctionAgent(function)",
        )
    check_call(agent, "_run", ["prompt", "context"], UsageError)


def _taken_by(function: Callable[..., Any]) -> list[str]:
    """The arguments that a function is called with."""
    try:
        found = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return ["prompt"]
    by_place = [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    second = by_place[1] if len(by_place) > 1 else None
    wanted = second is not None and (second.default is second.empty or second.name == "context")
    return ["prompt", "context"] if wanted else ["prompt"]


def _held_by(function: Callable[..., Any]) -> dict[str, Any]:
    """The settings in a function: the variables around it, its defaults, a partial's arguments."""
    if isinstance(function, partial):
        given = {str(number): value for number, value in enumerate(function.args)}
        return {**_held_by(function.func), **plain({**given, **function.keywords})}
    if not inspect.isfunction(function):
        return plain(getattr(function, "__dict__", {}))
    parameters = inspect.signature(function).parameters.values()
    held = {p.name: p.default for p in parameters if p.default is not p.empty}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # it is assigned later
            held[name] = cell.cell_contents
    return plain(held)


def _name_of(function: Callable[..., Any]) -> str:
    if isinstance(function, partial):
        return _name_of(function.func)
    name = str(getattr(function, "__qualname__", type(function).__name__))
    name = name.replace("<locals>.", "")
    if name.endswith("<lambda>"):
        try:
            return f"{name} {digest(inspect.getsource(function), 8)}"
        except (OSError, TypeError):  # typed in, or made by a program
            pass
    return name
