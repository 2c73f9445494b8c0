"""Structured answers from a model or from any agent, with what is wrong sent back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TypeVar

from pydantic import BaseModel

from autopilot.ai.agent import Agent, AgentContext, AgentResult
from autopilot.ai.model.model import Model
from autopilot.ai.prompting import fence, read_reply, shorten
from autopilot.errors import AgentReplyError

T = TypeVar("T", bound=BaseModel)


def ask(
    who: Model | Agent,
    prompt: str,
    schema: type[T],
    *,
    system: str = "",
    role: str,
    sample: int = 0,
    max_retries: int = 2,
) -> T:
    """A structured answer; one that does not fit goes back with what is wrong.

    Args:
        who: A model, whose answers the service holds to the schema, or any agent.
        prompt: What to answer.
        schema: What the answer must fit.
        system: Instructions, the same for many prompts.
        role: Under which name the cost is counted.
        sample: See `Model.complete`; agents have no use for it.
        max_retries: How often an answer may go back.

    Raises:
        AgentReplyError: no answer fitted.
        AgentError: it failed otherwise.
    """
    if isinstance(who, Model):
        return who.parse(
            prompt, schema, system=system, role=role, sample=sample, max_retries=max_retries
        )
    fields = json.dumps(schema.model_json_schema(), sort_keys=True)
    system = "\n\n".join(part for part in (system, f"Answer with JSON of this schema: {fields}"))
    context, said = AgentContext(system=system, schema=schema, role=role), prompt
    for attempt in range(max_retries + 1):
        result = who.run(said, context)
        try:
            return read_reply(result.output, schema)
        except AgentReplyError as error:
            if attempt == max_retries:
                raise
            said, context = go_on(prompt, result, context, f"{error.message}. {error.hint}.")
    raise AssertionError("unreachable")


def go_on(
    prompt: str, result: AgentResult, context: AgentContext, problem: str
) -> tuple[str, AgentContext]:
    """The next prompt and context of a conversation whose last answer had a problem.

    An agent that keeps no conversations is told everything again.
    """
    if result.session_id:
        return problem, replace(context, session_id=result.session_id)
    said = fence("answer", shorten(result.output, 4000))
    return f"{prompt}\n\nYou answered before:\n{said}\n{problem}", context
