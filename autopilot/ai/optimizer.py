"""AgentOptimizer: an agent reads the gradients and edits the parameters."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from autopilot.ai.agent import Agent, AgentContext, AgentResult
from autopilot.ai.constraints import Constrained, Constraints
from autopilot.ai.edits import EditReply, changes, described, difference
from autopilot.ai.function_agent import check_agent
from autopilot.ai.prompt.briefing import Brief, check_template
from autopilot.ai.prompt.facts import Boldness, brief
from autopilot.ai.prompt.prompting import DATA_RULE, fence, shorten
from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.parameter import Parameter, PathParameter
from autopilot.core.records.message import one_line
from autopilot.core.records.record import TOGETHER
from autopilot.core.run import confined, current_run
from autopilot.core.types import Cost, canonical, digest
from autopilot.errors import AgentReplyError, UsageError
from autopilot.files import FileState
from autopilot.text import hide, leaked

SYSTEM = f"""\
You improve a system, step by step, by editing the files (or values) named in the prompt and \
nothing else. After your edit the system is measured on items that you do not see; the edit is \
kept only if the score gets better. So fix the cause that the feedback has in common rather than \
single items, and never write items or their answers into the files.

{DATA_RULE}

When you are done, end your answer with one JSON object:
{{"strategy": "a short name for the kind of change, used again for the same kind",
 "summary": "what you changed, as the subject of a commit: one line, imperative",
 "rationale": "why that should help"}}
"""


class AgentOptimizer(Optimizer):
    """Lets an agent edit. Its description becomes the commit's message; a useless edit is undone
    and sent back.

    Override `build_prompt`, `build_context` or `parse_reply` to change the prompt, the agent's
    permissions, or the form of its answer.

    Args:
        agent: The agent that edits.
        parameters: Files, or values that are texts.
        max_retries: The number of times that an edit goes back to the agent because it changes
            nothing, repeats a state that was judged before, breaks a constraint, or uses a
            blocked strategy.
        max_chars: The largest number of characters of the prompt; its sections share them.
        objective: The goal in words; `--goal` counts before it.
        background: Facts on the system that the agent should know.
        boldness: "focused" asks for one focused change, "bold" for a large one; "auto" for a
            focused one until the score is flat. `--boldness` counts before it.
        prompt_template: The prompt's text, with the sections as placeholders: {goal},
            {background}, {parameters}, {score}, {failing}, {passing}, {worked}, {failed},
            {blocked}, {budget}, {wishes}, {task}; {rest} is all that it does not name.
        constraints: Conditions that an edit must not break: a Constraint, a function
            `validate(parameter)` that returns the mistake as a sentence or raises it, or several
            of them; for every parameter, or by the names of parameters.

    Raises:
        UsageError: the agent or a constraint is none, or a placeholder is unknown or missing.

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

    confined = steerable = ranks = merges = True

    def __init__(
        self,
        agent: Agent,
        parameters: Iterable[Parameter],
        *,
        max_retries: int = 2,
        max_chars: int = 60_000,
        objective: str = "",
        background: str = "",
        boldness: Boldness = "auto",
        prompt_template: str = "",
        constraints: Constraints = (),
    ) -> None:
        super().__init__(parameters)
        check_agent(agent)
        if prompt_template:
            check_template(prompt_template)
        if boldness not in get_args(Boldness):
            raise UsageError(
                f"boldness is {boldness!r}", hint=f"one of: {', '.join(get_args(Boldness))}"
            )
        self.objective, self.background = objective, background
        self.boldness, self.prompt_template = boldness, prompt_template
        self.agent = agent
        if max_retries < 0:
            raise UsageError(f"max_retries is {max_retries}", hint="0: an edit never goes back")
        self.max_retries = max_retries
        self.max_chars = max_chars
        self.constraints = constraints
        self._constrained = Constrained(constraints, self.parameters)
        self._tried: set[str] = set()

    def step(self) -> Step | None:
        if all(parameter.grad is None for parameter in self.parameters):
            return None
        before = self._snapshots()
        start = _state(before)
        self._tried.add(start)
        self._constrained.begin()
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
        return self.build_brief().render(self.max_chars, self.prompt_template)

    def build_brief(self) -> Brief:
        """The facts that the prompt tells."""
        facts = brief(
            self.parameters,
            current_run(),
            goal=self.objective,
            background=self.background,
            boldness=self.boldness,
            context=self.context,
            blocked=self.blocked,
        )
        chosen = next(iter(self.preferred[self.proposal[0] - 1 :]), None)
        rules, to_merge = self._constrained.rules(), self.to_merge
        facts = replace(facts, constraints=rules, proposal=self.proposal, strategy=chosen)
        return replace(facts, to_merge=to_merge)

    def parse_reply(self, result: AgentResult) -> EditReply:
        """The agent's description of its edit; fields that it lacks are empty.

        Raises:
            AgentReplyError: the answer does not have the requested form. An edit of files counts
                without it.
        """
        return described(result.output)

    def _attempts(self, before: list[Any], start: str) -> Step:
        prompt, context, run = self.build_prompt(), self.build_context(), current_run()
        said, cost, failed = prompt, Cost(), list[str]()
        for attempt in range(1, self.max_retries + 2):
            if run is not None:
                run.asking = attempt, said
            with confined():
                result = self.agent.run(said, context)
            cost += result.cost
            reply, missing = self._described(result)
            problem = self._apply(reply)
            after = self._snapshots()
            problem = problem or _leak(before, after)
            problem = problem or self._problem(reply, start, _state(after), missing)
            old, new = self._states(before), self._states(after)
            if not problem:
                summary = one_line(reply.summary or changes(old, new))
                return Step(summary, _one_name(reply.strategy), reply.rationale, cost)
            self._restore(before)
            undone = f"undone: {problem}"
            problem = f"Your edit does not count, and is {undone}"
            if result.session_id:
                said, context = problem, replace(context, session_id=result.session_id)
                continue
            answer = fence("answer", shorten(hide(result.output), 1000))
            edit = hide(difference(old, new))
            shown = [fence("edit", shorten(edit, 2000))] if edit else []
            failed.append("\n".join([answer, *shown, problem]))
            said = "\n\n".join([prompt, "## What you tried in this step", *failed])
        # In the agent's words: a replay has no edits of attempts that were undone.
        summary = f"nothing new: {one_line(reply.summary, 60)}" if reply.summary else "nothing new"
        return Step(summary, rationale=undone, cost=cost)

    def _described(self, result: AgentResult) -> tuple[EditReply, str]:
        """The description of an edit, and what its form lacks."""
        try:
            return self.parse_reply(result), ""
        except AgentReplyError as error:
            return described(result.output), f"{error.message}. {error.hint}."

    def _apply(self, reply: EditReply) -> str:
        """Sets the values that the agent gives, and returns the problem with one of them."""
        texts = self._texts()
        # The editor has changed the files: where an answer repeats them, that is no value.
        files = [p.name for p in self.parameters if isinstance(p, PathParameter)]
        for value in reply.values if texts else ():
            if value.parameter in texts:
                texts[value.parameter].data = value.text
            elif value.parameter not in files:
                names = ", ".join(texts)
                return f"there is no value {value.parameter!r} to set; there are: {names}."
        return ""

    def _problem(self, reply: EditReply, start: str, state: str, missing: str) -> str:
        """Why an edit is not to be measured; empty if it is."""
        run, names = current_run(), _one_name(reply.strategy).split(TOGETHER)
        if state == start:
            _, recorded = run.experiment.repeats.get(run.place, ("", None)) if run else ("", None)
            if recorded is not None and set(names) <= set(recorded.strategy.split(TOGETHER)):
                # A replay: the agent of an optimizer before this one brought the edits of both.
                return ""
            nothing = "nothing that may be edited has changed; other changes do not last."
            return " ".join(filter(None, [nothing, missing, self._how_to()]))
        if blocked := [name for name in names if name in self.blocked]:
            return f"the strategy {blocked[0]!r} is blocked. Use another."
        if broken := self._constrained.broken():
            return f"it breaks a rule. {broken}."
        # In a run the experiment knows the states of all sessions; by hand, only this object does.
        if run is not None and (judged := run.experiment.judged_before()):
            return f"it leads to the state of {judged}, which was judged before."
        if run is None and state in self._tried:
            return "exactly this edit was made before."
        self._tried.add(state)
        return ""

    def _how_to(self) -> str:
        """How to make a change, for an agent that only described one."""
        texts = ", ".join(self._texts())
        has_files = any(isinstance(p, PathParameter) for p in self.parameters)
        ways = ["edit the files themselves"] if has_files else []
        if texts:
            form = '{"strategy": ..., "summary": ..., "values": [{"parameter": ..., "text": ...}]}'
            ways.append(f"end your answer with {form} for a new text of: {texts}")
        return f"To describe a change does not make it: {', or '.join(ways)}."

    def _texts(self) -> dict[str, Parameter]:
        """The parameters that are no files and hold a text, by name."""
        values = (p for p in self.parameters if not isinstance(p, PathParameter))
        return {p.name: p for p in values if isinstance(p.data, str)}

    def _snapshots(self) -> list[Any]:
        return [parameter.snapshot() for parameter in self.parameters]

    def _states(self, snapshots: list[Any]) -> dict[str, Any]:
        """The state of each file by its path, and of each value by its name."""
        states = dict[str, Any]()
        for number, (parameter, snapshot) in enumerate(
            zip(self.parameters, snapshots, strict=True)
        ):
            if isinstance(parameter, PathParameter):
                states |= {os.path.relpath(parameter.root / n): s for n, s in snapshot.items()}
            else:
                states[parameter.name or f"parameter {number}"] = snapshot
        return states

    def _restore(self, before: list[Any]) -> None:
        for parameter, snapshot in zip(self.parameters, before, strict=True):
            parameter.restore(snapshot)


def _leak(before: list[Any], after: list[Any]) -> str:
    """The problem of an edit that writes a secret down; else empty."""
    # Secrets that stood in the files before are the user's own business.
    old, new = ({leaked(t) for each in states for t in _texts(each)} for states in (before, after))
    found = sorted(new - old - {""})
    return f"it wrote down the secret in {found[0]}. Never do that." if found else ""


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
