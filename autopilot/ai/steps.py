"""Workflows: steps that run in order and may go back to an earlier one.

Judges and data generators are workflows. A step reads the state, which holds the inputs and the
results of earlier steps, and puts its own result there under its name.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from autopilot.ai.agent import Agent
from autopilot.ai.model.base import ChatModel
from autopilot.ai.model.recording import numbered
from autopilot.ai.prompt.prompting import DATA_RULE, ask, fence, shorten
from autopilot.core.failures import Raised
from autopilot.errors import (
    AgentError,
    AgentRefusedError,
    AgentReplyError,
    AutopilotError,
    NoMoreCallsError,
    UsageError,
)


@dataclass
class WorkflowState:
    """The inputs and results of a workflow.

    Args:
        role: The name under which model calls are counted.
        model: Answers steps that have no model of their own.
        sample: See `Model.complete`.

    Attributes:
        results: Step to its latest result, in the order of the steps' latest runs.
        visits: Step to the number of its runs; part of the keys of its model calls, so that a step
            which runs again asks anew.
    """

    inputs: Mapping[str, Any]
    role: str = "workflow"
    model: ChatModel | Agent | None = None
    sample: int = 0
    results: dict[str, Any] = field(default_factory=dict)
    visits: dict[str, int] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.results[name] if name in self.results else self.inputs[name]

    @property
    def last(self) -> Any:
        """The latest result; None before the first step."""
        return next(reversed(self.results.values()), None)

    def keep(self, name: str, value: Any) -> None:
        """Puts a step's result in, as the latest one."""
        # Taken out first: a step that runs again is the latest one.
        self.results.pop(name, None)
        self.results[name] = value


# The name that subclasses of Judge and DataGenerator import.
State = WorkflowState


class WorkflowStep(ABC):
    """One step; subclass it and define `run`.

    Args:
        name: The name of its result in the state.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def run(self, state: WorkflowState) -> str | None:
        """Runs the step.

        Returns:
            The name of the next step; None for the following one.
        """


class PythonStep(WorkflowStep):
    """A function of the state.

    >>> state = WorkflowState({"answer": " 4 "})
    >>> run_steps([PythonStep("clean", lambda s: s["answer"].strip())], state)["clean"]
    '4'
    """

    def __init__(self, name: str, function: Callable[[WorkflowState], Any]) -> None:
        super().__init__(name)
        self.function = function

    def run(self, state: WorkflowState) -> str | None:
        state.keep(self.name, self.function(state))
        return None


class LLMStep(WorkflowStep):
    """A question to a model, with a structured answer.

    Args:
        name: The name of the answer in the state.
        prompt: A text in which "{name}" is replaced by an input or an earlier result, as fenced
            data; or a function of the state that returns the whole prompt.
        reply: The pydantic model of the answer.
        model: The model or agent that answers; defaults to the workflow's.
        system: Instructions, the same for every item.
        max_retries: The number of times that an answer is sent back if it does not fit.
        max_chars: The largest number of characters of each input.
    """

    def __init__(
        self,
        name: str,
        prompt: str | Callable[[WorkflowState], str],
        reply: type[BaseModel],
        *,
        model: ChatModel | Agent | None = None,
        system: str = "",
        max_retries: int = 2,
        max_chars: int = 40_000,
    ) -> None:
        super().__init__(name)
        self.prompt, self.reply, self.model = prompt, reply, model
        self.system = f"{system}\n\n{DATA_RULE}".strip()
        self.max_retries, self.max_chars = max_retries, max_chars

    def run(self, state: WorkflowState) -> str | None:
        who = self.model or state.model
        if who is None:
            raise UsageError(
                f"the step {self.name!r} has no model", hint="give it, or its workflow, a model"
            )
        answer = ask(
            who,
            self.render(state),
            self.reply,
            system=self.system,
            role=state.role,
            sample=state.sample,
            max_retries=self.max_retries,
        )
        state.keep(self.name, answer)
        return None

    def render(self, state: WorkflowState) -> str:
        """The prompt for a state."""
        if not isinstance(self.prompt, str):
            return self.prompt(state)
        return self.prompt.format_map(_Fenced(state, self.max_chars))


class BackStep(WorkflowStep):
    """Goes back to an earlier step while a condition holds.

    Args:
        name: Its name.
        to: The step to go back to.
        when: Whether to go back.
        limit: The largest number of times; then the workflow goes on.
    """

    def __init__(
        self, name: str, to: str, when: Callable[[WorkflowState], bool], limit: int
    ) -> None:
        super().__init__(name)
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        self.to, self.when, self.limit = to, when, limit

    def run(self, state: WorkflowState) -> str | None:
        # The visit that is going on is counted already.
        if not self.when(state) or state.visits[self.name] > self.limit:
            return None
        return self.to


def run_steps(steps: Sequence[WorkflowStep], state: WorkflowState) -> WorkflowState:
    """Runs a workflow to its end.

    Raises:
        UsageError: two steps have one name, or a step leads to one that is not an earlier one.
        AgentError: a model call failed.
    """
    names = [step.name for step in steps]
    if len(set(names)) < len(names):
        raise UsageError(f"steps need distinct names, got {names}", hint="rename one")
    position = 0
    while position < len(steps):
        step = steps[position]
        state.visits[step.name] = state.visits.get(step.name, 0) + 1
        with numbered("v", state.visits[step.name]):
            target = step.run(state)
        if target is None:
            position += 1
        elif target in names[:position]:
            position = names.index(target)
        else:
            raise UsageError(
                f"the step {step.name!r} leads to {target!r}, which is not an earlier step",
                hint=f"earlier ones are: {', '.join(names[:position]) or 'none'}",
            )
    return state


def failure_of(error: BaseException) -> tuple[str, bool]:
    """The reason why a workflow failed on an item, and whether a model's answer was unusable.

    Errors of agents and of the user's steps concern one item. Others end the work on all items:
    they are raised.
    """
    if isinstance(error, AgentError) and not isinstance(error, NoMoreCallsError):
        return error.message, isinstance(error, AgentReplyError | AgentRefusedError)
    if isinstance(error, AutopilotError | KeyboardInterrupt):
        raise error
    raised = Raised.of(error)
    return raised.message + (f" ({raised.place})" if raised.place else ""), False


@dataclass(frozen=True)
class _Fenced:
    """The state's values as fenced data, for a prompt's placeholders."""

    state: WorkflowState
    max_chars: int

    def __getitem__(self, name: str) -> str:
        try:
            value = self.state[name]
        except KeyError as error:
            names = ", ".join([*self.state.inputs, *self.state.results])
            raise AgentError(
                f"the prompt asks for {{{name}}}, which is no input or result",
                hint=f"there are: {names}; write {{{{ and }}}} for braces",
            ) from error
        if isinstance(value, BaseModel):
            value = json.dumps(value.model_dump(mode="json"), ensure_ascii=False, indent=1)
        return fence(name, shorten(str(value), self.max_chars))
