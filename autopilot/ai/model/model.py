"""Claude, through Anthropic's client: the only file that imports `anthropic`, when it is used.

A request's body is sent as it is, and the client's errors are translated.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from pydantic import BaseModel

from autopilot.ai.agent import AgentResult, Tool, agent_call
from autopilot.ai.model import failures
from autopilot.ai.model.base import ChatModel, ModelSettings, Question, key_of, public
from autopilot.ai.model.recording import current_ledger
from autopilot.ai.model.reply import Message, Reply, as_messages
from autopilot.core.types import Cost
from autopilot.errors import AgentError, AgentNotFoundError, AutopilotError, NoKeyError
from autopilot.text import clean

if TYPE_CHECKING:
    import anthropic

DEFAULT_MODEL = "claude-sonnet-5-5"
_ADDRESS = "https://api.anthropic.com"
_TOKENS_PER_S = 128_000 / 3600  # how slowly a model may write, by the client's own reckoning
# Options that are no fields of a request's body.
_OUTSIDE = ("betas", "extra_headers", "effort")


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
        timeout_s: float = 600.0,
        base_url: str | None = None,
        api_key: str | None = None,
        client: Any = None,
        **settings: Unpack[ModelSettings],
    ) -> None:
        super().__init__(name, **settings)
        self.timeout_s = timeout_s
        self.base_url = base_url
        self.api_key = api_key
        self._given = client
        self._making = threading.Lock()
        self._client: anthropic.Anthropic | None = None
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
    def client(self) -> anthropic.Anthropic:
        """The client, made when it is first used.

        Raises:
            NoKeyError: there is no key for its address.
            AgentNotFoundError: the package is not installed.
        """
        if self._given is not None:
            return self._given  # type: ignore[no-any-return]  # Bedrock's and Vertex's work alike
        with self._making:
            # A process that was forked from this one must not write to its connections.
            if self._client is None or self._owner != os.getpid():
                self._owner, self._client = os.getpid(), self._new_client()
                # Its connections are closed with the last reference to this model, and so are
                # those of a client from before a fork, which must last until then.
                weakref.finalize(self, self._client.close)
            return self._client

    def _new_client(self) -> anthropic.Anthropic:
        """A client that makes one attempt."""
        try:
            import anthropic
        except ImportError as error:
            raise AgentNotFoundError(
                "the package anthropic is not installed", hint="pip install anthropic"
            ) from error
        elsewhere, owner = os.environ.get("ANTHROPIC_BASE_URL") or _ADDRESS, type(self).__name__
        key = key_of(self.api_key, self.base_url, elsewhere, owner=owner, address="base_url")
        headers: dict[str, Any] = {}
        if self.base_url is not None and key is not None:
            # These belong to the address of the environment, as its key does.
            lines = os.environ.get("ANTHROPIC_CUSTOM_HEADERS", "").splitlines()
            headers = {line.partition(":")[0].strip(): anthropic.Omit() for line in lines}
        return anthropic.Anthropic(
            base_url=self.base_url,
            api_key=key,  # None: the client finds key and address in the environment
            timeout=self.timeout_s,
            max_retries=0,
            default_headers=headers,
            # The record tells more than its spans, which cost a tenth of a call.
            open_telemetry={"traces": {"enabled": False}},
        )

    def _asked(self, question: Question) -> dict[str, Any]:
        # `effort` is in the body's output_config already.
        named = {k: v for k, v in self.options.items() if k not in ("effort", "output_config")}
        options: dict[str, Any] = clean(public(named))
        return self._body(question) | options

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
        body = self._body(Question(messages, tools, schema, system))
        return Reply.of(_send(self.client, body, headers, beta=bool(betas)))

    def _body(self, question: Question) -> dict[str, Any]:
        body: dict[str, Any] = {
            **{name: value for name, value in self.options.items() if name not in _OUTSIDE},
            "model": self.name,
            "max_tokens": self.max_tokens,
            "messages": list(question.messages),
        }
        if question.system:
            body["system"] = _cached(question.system)
        if question.tools:
            body["tools"] = [dict(tool.definition()) for tool in question.tools]
            body["cache_control"] = {"type": "ephemeral"}
        output = dict(body.get("output_config") or {})
        if effort := self.options.get("effort"):
            output["effort"] = effort
        if question.schema is not None:
            output |= _output_form(question.schema)
        if output:
            body["output_config"] = output
        return clean(body)

    def _translation(self, error: Exception) -> AutopilotError | None:
        import anthropic

        if isinstance(error, anthropic.APIConnectionError):
            # Without a connection nothing was sent; a timeout while reading is later than that.
            is_charged = "Connect" not in type(error.__cause__).__name__
            if isinstance(error, anthropic.APITimeoutError):
                return failures.late(self.name, is_charged=is_charged)
            said = str(error.__cause__ or error)
            return failures.no_answer(self.name, said, is_charged=is_charged)
        no_key = isinstance(error, TypeError) and "authentication" in str(error)
        if no_key or isinstance(error, anthropic.CredentialsError):
            return NoKeyError(
                "there is no key for Anthropic's service",
                hint="set ANTHROPIC_API_KEY, or replay what is recorded",
            )
        ours = super()._translation(error)
        if ours is None and isinstance(error, anthropic.AnthropicError):
            return AgentError(
                f"{self.name}: {failures.one_line(str(error))}",
                hint="see https://docs.claude.com/en/api/errors",
            )
        return ours


def _cached(system: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}]


@lru_cache(maxsize=64)
def _output_form(schema: type[BaseModel]) -> dict[str, Any]:
    """The output_config that holds an answer to a schema."""
    import anthropic

    return {"format": {"type": "json_schema", "schema": anthropic.transform_schema(schema)}}


def _send(
    client: anthropic.Anthropic, body: Mapping[str, Any], headers: Mapping[str, str], *, beta: bool
) -> Mapping[str, Any]:
    """One attempt; as a stream, which is slower, only if the reply may time out.

    Returns:
        The message of the reply.
    """
    import anthropic
    import httpx2

    # While it waits for bytes; without a timeout, none is too long.
    limit: Any = getattr(client.timeout, "read", client.timeout)
    limit_s = limit if isinstance(limit, int | float) else math.inf
    slow = body["max_tokens"] / _TOKENS_PER_S > limit_s
    # Bedrock streams in a form of its own.
    slow = slow and "Bedrock" not in type(client).__name__
    # Not by `client.messages`, which prints warnings on a model's age over the run's table.
    raw = client.post(
        "/v1/messages?beta=true" if beta else "/v1/messages",
        cast_to=httpx2.Response,
        body={**body, "stream": True} if slow else dict(body),
        # A key that the client itself renews is tried again with the new one.
        options={
            "headers": dict(headers),
            "max_retries": int(bool(getattr(client, "credentials", None))),
        },
    )
    if raw.headers.get("content-type", "").startswith("text/event-stream"):
        return _assembled(client, raw)
    with contextlib.suppress(ValueError, TypeError, LookupError):
        sent = raw.json()
        if isinstance(sent["content"], list):
            return dict(sent)
    # Any other content is worth another attempt.
    what = f"what came back is no message: {failures.one_line(raw.text)}"
    raise anthropic.APIConnectionError(message=what, request=raw.request)


def _assembled(client: anthropic.Anthropic, raw: Any) -> Mapping[str, Any]:
    """The message of a streamed response."""
    import anthropic
    from anthropic.lib.streaming import MessageStream
    from anthropic.types import RawMessageStreamEvent

    stream: Any = anthropic.Stream(
        cast_to=RawMessageStreamEvent,  # type: ignore[arg-type]  # a union, as the client passes it
        response=raw,
        client=client,
    )
    try:
        message: Any = MessageStream(stream, anthropic.NOT_GIVEN).get_final_message()
    except (anthropic.APIStatusError, AssertionError, ValueError) as error:
        # It ended early, or with an error in its middle: worth another attempt.
        said = error if isinstance(error, anthropic.APIStatusError) else None
        raise anthropic.APIConnectionError(
            message="the reply broke off", request=raw.request
        ) from said
    if message.stop_reason is None:
        raise anthropic.APIConnectionError(message="the reply broke off", request=raw.request)
    whole: Mapping[str, Any] = message.to_dict(mode="json", warnings=False)
    return whole
