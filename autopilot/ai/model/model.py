"""The model: one call to Claude, recorded, budgeted and within the rate limit.

Retries, timeouts, structured output and the tool loop are the client's own; the rest is in one
middleware (`autopilot.ai.model.call`).
"""

from __future__ import annotations

import base64
import json
import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import IOBase
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from autopilot.ai.agent import AgentResult, Tool, agent_call
from autopilot.ai.model import call as calls
from autopilot.ai.model import client as clients
from autopilot.ai.model.call import Call, Message
from autopilot.ai.model.parallel import RateLimit
from autopilot.ai.model.recording import current_ledger
from autopilot.ai.prices import Price, price_of
from autopilot.core.types import Cost
from autopilot.errors import AgentReplyError
from autopilot.text import clean

T = TypeVar("T", bound=BaseModel)

DEFAULT_MODEL = "claude-sonnet-5-5"


class Model:
    """Claude, through the `anthropic` client. May be used from several threads at once.

    Args:
        name: The model's name.
        max_tokens: The most that it may write in one reply; reserved in the budget beforehand.
        role: The name under which the cost is counted, unless a call says otherwise.
        prices: Model name to Price, in front of all others.
        rate: A RateLimit; give several models the same object to share it.
        timeout_s: An attempt fails after so long without a byte.
        max_retries: Further attempts after 429, 529, 5xx and timeouts, made by the client.
        base_url: The service's address; defaults to ANTHROPIC_BASE_URL, then to Anthropic's.

    >>> Model("claude-haiku-4-5").name
    'claude-haiku-4-5'
    """

    def __init__(
        self,
        name: str = DEFAULT_MODEL,
        *,
        max_tokens: int = 8192,
        role: str = "module",
        prices: Mapping[str, Price] | None = None,
        rate: RateLimit | None = None,
        timeout_s: float = 600.0,
        max_retries: int = 2,
        base_url: str | None = None,
    ) -> None:
        self.name = name
        self.max_tokens = max_tokens
        self.role = role
        self.prices = dict(prices or {})
        self.rate = rate or RateLimit()
        self.timeout_s = timeout_s
        self.max_retries = max_retries
        self.base_url = base_url
        self._making = threading.Lock()
        self._client: clients.Client | None = None
        self._lent: clients.Client | None = None
        self._owner = 0

    # --- calls ---------------------------------------------------------------------------------

    def complete(
        self, prompt: str | Sequence[Message], *, system: str = "", role: str = "", sample: int = 0
    ) -> AgentResult:
        """Answers a prompt with a text.

        Args:
            prompt: A text, or messages as the API has them.
            system: Instructions; the part that is the same for many calls, and cached.
            role: The name under which the cost is counted.
            sample: Equal questions are asked once in an experiment; another number asks again.

        Raises:
            AgentRefusedError: the model refused.
            AgentError: the call failed, after the client's retries.
            BudgetExceededError: too little is left; the call was not made.
            ReplayMissError: only records may answer, and there is none.
        """
        asked = self._asked(prompt, system)
        with self._call(role, sample) as call:
            # A replay needs no client, whose import takes longer than everything else.
            if self._client is not None or not call.is_answered(asked):
                # Raw: the middleware has kept the reply in the call already.
                self._ask(call).messages.with_raw_response.create(**asked)
        return call.result()

    def parse(
        self,
        prompt: str | Sequence[Message],
        schema: type[T],
        *,
        system: str = "",
        role: str = "",
        sample: int = 0,
        max_retries: int = 2,
    ) -> T:
        """Answers a prompt with a pydantic model.

        Args:
            prompt, system, role, sample: See `complete`.
            schema: The model of the reply.
            max_retries: The number of times that a reply is sent back if it does not fit.

        Raises:
            AgentReplyError: no reply fitted.
            AgentError: see `complete`.
        """
        messages = as_messages(prompt)
        for _ in range(max_retries + 1):
            try:
                with self._call(role, sample) as call:
                    asked = self._asked(messages, system)
                    reply = self._ask(call).messages.parse(**asked, output_format=schema)
                if reply.parsed_output is not None:
                    return reply.parsed_output
                wrong = "the reply holds no text"
            except ValidationError as error:
                # A reply that was cut off or refused is that error, and not sent back.
                call.check()
                mended = as_schema(call.text, schema)
                if mended is not None:
                    return mended
                wrong = explain(error)
            again = f"That does not fit the schema: {wrong}. Answer again, as JSON that fits."
            messages = [
                *messages,
                {"role": "assistant", "content": call.text or "(nothing)"},
                {"role": "user", "content": again},
            ]
        raise AgentReplyError(
            f"{self.name} did not answer as {schema.__name__} asks: {wrong}",
            hint="make the schema simpler, or say in the prompt what the fields mean",
            reply=call.text,
        )

    def use_tools(
        self,
        prompt: str | Sequence[Message],
        tools: Sequence[Tool],
        *,
        system: str = "",
        role: str = "",
        schema: type[BaseModel] | None = None,
        max_turns: int = 50,
    ) -> tuple[AgentResult, list[Message]]:
        """Lets the model use tools until it answers.

        Args:
            prompt, system, role: See `complete`.
            tools: The tools that it may use.
            schema: The model of the last answer's JSON, which the service enforces.
            max_turns: The largest number of replies.

        Returns:
            The last answer with the cost of all turns, and the whole conversation.

        Raises:
            AgentReplyError: it was still using tools after `max_turns` replies.
            AgentError: see `complete`.
        """
        asked = self._asked(prompt, system)
        if schema is not None:
            asked["output_config"] = clients.output_form(schema)
        with self._call(role, 0) as call:
            runner = self._ask(call).beta.messages.tool_runner(
                **asked,
                tools=[clients.as_runnable(tool) for tool in tools],
                cache_control={"type": "ephemeral"},
                thread=False,
                max_iterations=max_turns,
            )
            runner.until_done()
        if call.reply.get("stop_reason") == "tool_use":
            raise AgentReplyError(
                f"{self.name} was not done after {max_turns} turns",
                hint="give it more turns, or a smaller task",
            )
        answered = {"role": "assistant", "content": call.reply.get("content", [])}
        return call.result(), [*call.messages, answered]

    def count_tokens(
        self, prompt: str | Sequence[Message], *, system: str = "", role: str = ""
    ) -> int:
        """The tokens of a prompt, as the service counts them: a recorded call that costs nothing.

        Arguments and errors are those of `complete`.
        """
        asked, role = self._asked(prompt, system), role or self.role
        # Counting has no such argument.
        del asked["max_tokens"]

        def count() -> AgentResult:
            with clients.translated(self.name), current_ledger().reserve(role) as reserved:
                counted = self.client.messages.count_tokens(**asked).input_tokens
                reserved.settle(Cost())
            return AgentResult(str(counted), cost_usd=0.0, model=self.name)

        return int(agent_call(asked, role, count, edits=False).output)

    @property
    def client(self) -> clients.Client:
        """The client, made when it is first used."""
        with self._making:
            # A process that was forked from this one must not write to its connections.
            if self._client is None or self._owner != os.getpid():
                self._lent, self._owner = self._client, os.getpid()
                self._client = clients.make_client(
                    base_url=self.base_url,
                    timeout_s=self.timeout_s,
                    max_retries=self.max_retries,
                    middleware=calls.handle,
                )
                # Its connections are closed with the last reference to this model.
                weakref.finalize(self, self._client.close)
            return self._client

    # --- inside --------------------------------------------------------------------------------

    def _asked(self, prompt: str | Sequence[Message], system: str) -> dict[str, Any]:
        asked: dict[str, Any] = {
            "model": self.name,
            "max_tokens": self.max_tokens,
            "messages": as_messages(prompt),
        }
        if system:
            cached = {"type": "ephemeral"}
            asked["system"] = [{"type": "text", "text": system, "cache_control": cached}]
        return clean(asked)

    def _ask(self, call: Call) -> clients.Client:
        call.sdk = client = self.client
        return client

    @contextmanager
    def _call(self, role: str, sample: int) -> Iterator[Call]:
        price = price_of(self.name, self.prices)
        call = Call(self.name, role or self.role, sample, price, self.rate)
        token = calls.calling.set(call)
        try:
            with clients.translated(self.name):
                yield call
        finally:
            calls.calling.reset(token)
        call.check()


def as_messages(prompt: str | Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """A prompt as messages of plain JSON, whose hash names the request.

    Args:
        prompt: A text, or messages. They may hold the client's own blocks, taken from a reply, and
            files in place of their base64 content.

    >>> as_messages("hi")
    [{'role': 'user', 'content': 'hi'}]
    """
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [_plain(message) for message in prompt]


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, Mapping):
        plain = {name: _plain(item) for name, item in value.items()}
        if plain.get("type") == "base64":
            data = plain.get("data")
            if isinstance(data, Path | IOBase):
                data = data.read_bytes() if isinstance(data, Path) else data.read()
            plain["data"] = base64.b64encode(data).decode() if isinstance(data, bytes) else data
        return plain
    # A file is Iterable, too.
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | IOBase):
        return [_plain(item) for item in value]
    return value


def as_schema(text: str, schema: type[T]) -> T | None:
    """A reply that is JSON except for halves of surrogate pairs, which pydantic refuses."""
    try:
        return schema.model_validate_json(json.dumps(clean(json.loads(text))))
    except (ValueError, RecursionError):
        return None


def explain(error: ValidationError) -> str:
    """The errors of a reply, for the model that wrote it."""
    found = error.errors(include_url=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, x['loc'])) or 'reply'}: {x['msg']}" for x in found[:5])
