"""Agents: something that reads a prompt, may edit files, and answers."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autopilot.core.parameter import PathParameter
from autopilot.core.types import Cost

if TYPE_CHECKING:
    from pydantic import BaseModel


@dataclass(frozen=True, slots=True)
class AgentResult:
    """What an agent answered, and what that took.

    Args:
        output: Its answer in words.
        session_id: Names the conversation, so that it can be gone on with; "" where it cannot.
        input_tokens: Tokens read, cached ones included.
        output_tokens: Tokens written.
        cost_usd: Dollars; None where the price is unknown.
        seconds: Wall clock.
        model: The model that answered; "" where the agent does not say.
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
        """The same as a Cost; unknown dollars count as none."""
        return Cost(tokens=self.tokens, cost_usd=self.cost_usd or 0.0, seconds=self.seconds)


@dataclass(frozen=True, slots=True)
class AgentContext:
    """What an agent works with.

    Args:
        folder: The working directory; None: the present one.
        parameters: What may be edited. Empty: nothing.
        system: Instructions in front of the prompt, the same for every call of a run.
        session_id: The conversation to go on with; "" for a new one.
        schema: The pydantic model that the answer's JSON must fit, where the agent can hold it.
        role: Under which name the cost is counted: "optimizer", "judge", ...
    """

    folder: Path | None = None
    parameters: Sequence[PathParameter] = ()
    system: str = ""
    session_id: str = ""
    schema: type[BaseModel] | None = None
    role: str = "agent"

    @property
    def files(self) -> list[Path]:
        """The editable files that exist, absolute."""
        return [
            parameter.root / name for parameter in self.parameters for name in parameter.files()
        ]


class Agent(ABC):
    """Answers prompts. Subclasses define `run`.

    An agent may be used from several threads at once. It edits nothing but the files of
    `context.parameters`; what it did elsewhere is undone by whoever runs it. One that may edit
    nothing is asked the same question once in an experiment, and then answered from the record.

    >>> class Parrot(Agent):
    ...     def run(self, prompt, context=None):
    ...         return AgentResult(output=prompt)
    >>> Parrot().run("hello").output
    'hello'
    """

    @abstractmethod
    def run(self, prompt: str, context: AgentContext | None = None) -> AgentResult:
        """Answers a prompt, and edits files where the context allows it.

        Raises:
            AgentNotFoundError: its program or package is not installed.
            AgentTimeoutError: it took too long; its processes are ended.
            AgentRefusedError: the model refused.
            AgentReplyError: what came back cannot be used.
            AgentError: it failed otherwise.
            BudgetExceededError: it was not started, since too little is left.
        """

    async def arun(self, prompt: str, context: AgentContext | None = None) -> AgentResult:
        """The same, awaitable: `run` in a thread of its own."""
        return await asyncio.to_thread(self.run, prompt, context)
