"""AgentOptimizer: an agent reads the gradients and edits the parameters."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from autopilot.ai.agent import Agent, AgentContext, AgentResult
from autopilot.ai.prompting import DATA_RULE, fence, go_on, read_reply, shorten, show
from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.parameter import Parameter, PathParameter
from autopilot.core.records.message import one_line
from autopilot.core.records.record import TOGETHER
from autopilot.core.run import confined, current_run
from autopilot.core.types import Cost, canonical, digest
from autopilot.errors import AgentReplyError
from autopilot.files import FileState
from autopilot.text import leaked

SYSTEM = f"""\
You improve a system, step by step, by editing the files (or values) named in the prompt and \
nothing else. After your edit the system is measured on items that you do not see; the edit is \
kept only if the score gets better. So fix the cause that the feedback has in common rather than \
single items, and never write items or their answers into the files.

{DATA_RULE}

Make one focused change a step. When you are done, end your answer with one JSON object:
{{"strategy": "a short name for the kind of change, used again for the same kind",
 "summary": "what you changed, as the subject of a commit: one line, imperative",
 "rationale": "why that should help"}}
"""


# Requests hold the names and docstrings of both: in other words, no recorded call is found.
class Value(BaseModel):
    """A new value for a parameter that is no file."""

    parameter: str
    text: str


class EditReply(BaseModel):
    """What the agent says of its edit.

    Args:
        strategy: The name under which memory counts how it went.
        summary: The commit's subject.
        rationale: The commit's body.
        values: New values of parameters that are no files.
    """

    strategy: str = Field(min_length=1)
    summary: str = Field(min_length=1)
    rationale: str = ""
    values: list[Value] = Field(default_factory=list)


class AgentOptimizer(Optimizer):
    """Lets an agent edit. Its description becomes the commit's message; a useless edit is undone
    and sent back.

    Override `build_prompt`, `build_context` or `parse_reply` to change the prompt, the agent's
    permissions, or the form of its answer.

    Args:
        agent: The agent that edits.
        parameters: Files, or values that are texts.
        max_retries: The number of times that an edit goes back to the agent because it changes
            nothing, repeats a state that was measured before, or uses a blocked strategy.
        max_chars: The largest number of characters of the parameters, and of the feedback, in the
            prompt.

    >>> class Scripted(Agent):
    ...     def _run(self, prompt, context):
    ...         return AgentResult('{"strategy": "be kind", "summary": "say please",'
    ...             ' "values": [{"parameter": "greeting", "text": "hello, please"}]}')
    >>> from autopilot.core.gradient import Gradient
    >>> greeting = Parameter("hello")
    >>> greeting.name, greeting.grad = "greeting", Gradient("too rude")
    >>> AgentOptimizer(Scripted(), [greeting]).step().strategy, greeting.data
    ('be kind', 'hello, please')
    """

    confined = True

    def __init__(
        self,
        agent: Agent,
        parameters: Iterable[Parameter],
        *,
        max_retries: int = 2,
        max_chars: int = 40_000,
    ) -> None:
        super().__init__(parameters)
        self.agent = agent
        self.max_retries = max_retries
        self.max_chars = max_chars
        self._tried: set[str] = set()

    def step(self) -> Step | None:
        if all(parameter.grad is None for parameter in self.parameters):
            return None
        before = [parameter.snapshot() for parameter in self.parameters]
        start = _state(before)
        self._tried.add(start)
        try:
            return self._attempts(before, start)
        except BaseException:
            # Ctrl-C and a spent budget too: a half-made edit must not be measured later.
            self._restore(before)
            raise

    # --- to override ---------------------------------------------------------------------------

    def build_context(self) -> AgentContext:
        """The agent's context: the same for every step, so that the service can cache it."""
        files = [p for p in self.parameters if isinstance(p, PathParameter)]
        return AgentContext(
            folder=Path.cwd(), parameters=files, system=SYSTEM, schema=EditReply, role="optimizer"
        )

    def build_prompt(self) -> str:
        """The prompt; parts that change least come first, so that the service can cache them."""
        gradients = [
            f"### {parameter.name or f'parameter {number}'}\n{parameter.grad.render()}"
            for number, parameter in enumerate(self.parameters)
            if parameter.grad is not None
        ]
        feedback = shorten("\n\n".join(gradients), self.max_chars)
        content = show(list(self._contents()), feedback, self.max_chars)
        parts = [
            ("What you may edit", "parameters", content),
            ("Feedback on the latest run", "feedback", feedback),
            ("What was tried before", "memory", self.context.render() if self.context else ""),
        ]
        sections = [f"## {title}\n\n{fence(name, text)}" for title, name, text in parts if text]
        if self.blocked:
            names = ", ".join(sorted(self.blocked))
            sections.append(f"Do not use these strategies, they failed too often: {names}.")
        run = current_run()
        if run is not None and run.budget_line:
            sections.append(run.budget_line)
        return "\n\n".join([*sections, "Now make one change that makes the system better."])

    def parse_reply(self, result: AgentResult) -> EditReply:
        """The agent's description of its edit.

        Raises:
            AgentReplyError: the answer does not have the requested form.
        """
        return read_reply(result.output, EditReply)

    # --- inside --------------------------------------------------------------------------------

    def _attempts(self, before: list[Any], start: str) -> Step:
        prompt, context = self.build_prompt(), self.build_context()
        said, cost, tried = prompt, Cost(), ""
        for _ in range(self.max_retries + 1):
            with confined():
                result = self.agent.run(said, context)
            unexplained = False
            cost += result.cost
            try:
                reply = self.parse_reply(result)
            except AgentReplyError as error:
                problem = tried = self._leak(before)
                if not problem:
                    # Only the description is missing: redoing the edit would be paid again.
                    problem = f"{error.message}. {error.hint}. Your edits stand: answer again."
                    tried = error.message
                    unexplained = self._present() != start
            else:
                # In the agent's words: a replay has no edits of attempts that were undone.
                tried = reply.summary
                problem = self._apply(reply) or self._leak(before) or self._problem(reply, start)
                if not problem:
                    name = _one_name(reply.strategy)
                    return Step(one_line(reply.summary), name, reply.rationale, cost)
                self._restore(before)
            said, context = go_on(prompt, result, context, problem)
        if unexplained:
            # The edit was paid: it is measured although the agent never described it.
            return Step("edit without an explanation", "", shorten(result.output, 2000), cost)
        return Step(summary=f"nothing new: {one_line(tried, 60)}", cost=cost)

    def _leak(self, before: list[Any]) -> str:
        """Undoes an edit that writes a secret down, and returns the problem; else empty."""
        # Secrets that stood in the files before are the user's own business.
        old = [leaked(text) for snapshot in before for text in _texts(snapshot)]
        new = [leaked(text) for p in self.parameters for text in _texts(p.snapshot())]
        found = sorted(set(new) - {"", *old})
        if not found:
            return ""
        self._restore(before)
        return f"Your edit wrote down the secret in {found[0]}; it was undone. Never do that."

    def _apply(self, reply: EditReply) -> str:
        texts = {p.name: p for p in self.parameters if not isinstance(p, PathParameter)}
        for value in reply.values:
            parameter = texts.get(value.parameter)
            if parameter is None or not isinstance(parameter.data, str):
                names = ", ".join(texts) or "none"
                return f"There is no value {value.parameter!r} to set; there are: {names}."
            parameter.data = value.text
        return ""

    def _problem(self, reply: EditReply, start: str) -> str:
        """Why an edit is not to be measured; empty if it is."""
        blocked = [n for n in _one_name(reply.strategy).split(TOGETHER) if n in self.blocked]
        if blocked:
            return f"The strategy {blocked[0]!r} is blocked; your edit was undone. Use another."
        state = self._present()
        if state == start:
            return "Your edit left everything as it was. Make a change."
        run = current_run()
        # In a run the experiment knows the states of all sessions; by hand, only this object does.
        epoch = run.experiment.epoch_of_present_state() if run is not None else None
        if epoch is not None:
            return (
                f"Your edit leads to the state of epoch {epoch}, which was measured before; it was "
                "undone. Make another change."
            )
        if run is None and state in self._tried:
            return "You made exactly this edit before; it was undone. Make another change."
        self._tried.add(state)
        return ""

    def _present(self) -> str:
        return _state([parameter.snapshot() for parameter in self.parameters])

    def _restore(self, before: list[Any]) -> None:
        for parameter, snapshot in zip(self.parameters, before, strict=True):
            parameter.restore(snapshot)

    def _contents(self) -> Iterator[tuple[str, str]]:
        for number, parameter in enumerate(self.parameters):
            if not isinstance(parameter, PathParameter):
                yield f"value {parameter.name or number}", parameter.render()
                continue
            for name in parameter.files():
                try:
                    text = parameter.read_text(name)
                except UnicodeDecodeError:
                    text = "(binary)"
                yield os.path.relpath(parameter.root / name), text


def _texts(snapshot: Any) -> Iterator[str]:
    """The texts in a parameter's state; of files, their names and contents."""
    states = [*snapshot, *snapshot.values()] if isinstance(snapshot, Mapping) else [snapshot]
    for state in states:
        content = state.content if isinstance(state, FileState) else state
        yield content.decode("utf-8", "replace") if isinstance(content, bytes) else str(content)


def _state(snapshots: list[Any]) -> str:
    return digest([canonical(snapshot) for snapshot in snapshots], 40)


def _one_name(strategy: str) -> str:
    return one_line(re.sub(r"[\r\n\t]+", " ", strategy), 60)
