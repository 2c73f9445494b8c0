"""The contract of agents and of their tools.

An agent reads a prompt, may edit files, and answers. Subclass `Agent` to plug in another one.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopilot.core.parameter import PathParameter
from autopilot.core.types import Cost

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

    An agent may be used from several threads at once. It edits only the files of
    `context.parameters`; the optimizer undoes edits of other files. An agent that may edit nothing
    is asked an equal question once in an experiment, and then answered from the record.

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
            AgentReplyError: the answer cannot be used.
            AgentError: it failed otherwise.
            BudgetExceededError: it was not started, since too little is left.
        """

    async def arun(self, prompt: str, context: AgentContext | None = None) -> AgentResult:
        """As `run`, in a thread of its own."""
        return await asyncio.to_thread(self.run, prompt, context)


class Tool(ABC):
    """A tool for a model. Errors of autopilot go to the model; other errors end the call."""

    @abstractmethod
    def definition(self) -> Mapping[str, Any]:
        """The tool for the Messages API: name, description and input_schema, or a type."""

    @abstractmethod
    def use(self, arguments: Mapping[str, Any]) -> str:
        """Uses the tool, and returns the result for the model.

        Raises:
            AutopilotError: it cannot be used so; message and hint go to the model.
        """
