"""Claude, through Anthropic's client."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel

from autopilot.ai.agent import AgentResult, Tool, agent_call
from autopilot.ai.model import client as clients
from autopilot.ai.model.base import ChatModel, key_of, public
from autopilot.ai.model.parallel import RateLimit
from autopilot.ai.model.recording import current_ledger
from autopilot.ai.model.reply import Message, Reply, as_messages
from autopilot.ai.prices import Price
from autopilot.core.types import Cost
from autopilot.errors import AutopilotError
from autopilot.text import clean

DEFAULT_MODEL = "claude-sonnet-5-5"
_ADDRESS = "https://api.anthropic.com"


class Model(ChatModel):
    """Claude, through the `anthropic` client.

    The key and the address of the environment belong together: a Model with an address of its own
    needs a key of its own.

    Args:
        name, max_tokens, role, prices, rate, max_retries: See `ChatModel`.
        timeout_s: An attempt fails after so long without a byte.
        base_url: The service's address; defaults to ANTHROPIC_BASE_URL, then to Anthropic's.
        api_key: A key, or "$NAME" for the environment variable that has it; defaults to what the
            client finds: ANTHROPIC_API_KEY, ANTHROPIC_AUTH_TOKEN, or a profile.
        client: A client that is set up already, as `anthropic.AnthropicBedrock(...)`.
        options: Further fields of a request, as temperature or thinking; `effort`; `betas`, a list
            of names; `extra_headers`. A part of a call's name, except for secrets.

    >>> Model("claude-haiku-4-5", options={"temperature": 0}).name
    'claude-haiku-4-5'
    """

    takes_schema: ClassVar[bool] = True
    key_hint: ClassVar[str] = "ANTHROPIC_API_KEY, or api_key of the Model"

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
        api_key: str | None = None,
        client: Any = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            name,
            max_tokens=max_tokens,
            role=role,
            prices=prices,
            rate=rate,
            max_retries=max_retries,
            options=options,
        )
        self.timeout_s = timeout_s
        self.base_url = base_url
        self.api_key = api_key
        self._given = client
        self._making = threading.Lock()
        self._client: clients.Client | None = None
        self._owner = 0

    def count_tokens(
        self, prompt: str | Sequence[Message], *, system: str = "", role: str = ""
    ) -> int:
        """The tokens of a prompt, as the service counts them: a recorded call that costs nothing.

        Arguments and errors are those of `complete`.
        """
        role = role or self.role
        asked: dict[str, Any] = {"model": self.name, "messages": as_messages(prompt)}
        if system:
            asked["system"] = _cached(system)
        asked = clean(asked)

        def count() -> AgentResult:
            with current_ledger().reserve(role) as reserved, self._translated():
                counted = self.client.messages.count_tokens(**asked).input_tokens
                reserved.settle(Cost())
            return AgentResult(str(counted), cost_usd=0.0, model=self.name)

        return int(agent_call(asked, role, count, edits=False).output)

    @property
    def client(self) -> clients.Client:
        """The client, made when it is first used.

        Raises:
            NoKeyError: there is no key for its address.
        """
        if self._given is not None:
            return self._given  # type: ignore[no-any-return]  # Bedrock's and Vertex's work alike
        with self._making:
            # A process that was forked from this one must not write to its connections.
            if self._client is None or self._owner != os.getpid():
                elsewhere = os.environ.get("ANTHROPIC_BASE_URL") or _ADDRESS
                key = key_of(
                    self.api_key,
                    self.base_url,
                    elsewhere,
                    owner=type(self).__name__,
                    address="base_url",
                )
                self._owner = os.getpid()
                self._client = clients.make_client(
                    base_url=self.base_url, api_key=key, timeout_s=self.timeout_s
                )
                # Its connections are closed with the last reference to this model, and so are
                # those of a client from before a fork, which must last until then.
                weakref.finalize(self, self._client.close)
            return self._client

    # --- inside --------------------------------------------------------------------------------

    def _asked(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool],
        schema: type[BaseModel] | None,
        system: str,
    ) -> dict[str, Any]:
        # `effort` is in the body's output_config already.
        named = {k: v for k, v in self.options.items() if k not in ("effort", "output_config")}
        options: dict[str, Any] = clean(public(named))
        return self._body(messages, tools, schema, system) | options

    def _complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        schema: type[BaseModel] | None = None,
        *,
        system: str = "",
    ) -> Reply:
        betas = self.options.get("betas") or ()
        headers = dict(self.options.get("extra_headers") or {})
        if betas:
            headers["anthropic-beta"] = ",".join(betas)
        body = self._body(messages, tools, schema, system)
        return Reply.of(clients.send(self.client, body, headers, beta=bool(betas)))

    def _body(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool],
        schema: type[BaseModel] | None,
        system: str,
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            **{name: value for name, value in self.options.items() if name not in _OUTSIDE},
            "model": self.name,
            "max_tokens": self.max_tokens,
            "messages": list(messages),
        }
        if system:
            body["system"] = _cached(system)
        if tools:
            body["tools"] = [dict(tool.definition()) for tool in tools]
            body["cache_control"] = {"type": "ephemeral"}
        output = dict(body.get("output_config") or {})
        if effort := self.options.get("effort"):
            output["effort"] = effort
        if schema is not None:
            output |= clients.output_form(schema)
        if output:
            body["output_config"] = output
        return clean(body)

    def _translation(self, error: Exception) -> AutopilotError | None:
        return clients.translation(self.name, error, key=self.key_hint)


# Options that are no fields of a request's body.
_OUTSIDE = ("betas", "extra_headers", "effort")


def _cached(system: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}]
