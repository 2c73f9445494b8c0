"""Anthropic's client: the only file that imports `anthropic`, and only when it is used.

It sends a request's body as it is, and translates the client's errors.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import BaseModel

from autopilot.ai.model import failures
from autopilot.errors import (
    AgentError,
    AgentNotFoundError,
    AutopilotError,
    NoKeyError,
)

if TYPE_CHECKING:
    import anthropic

    Client: TypeAlias = anthropic.Anthropic

_SEE = "see https://docs.claude.com/en/api/errors"
_TOKENS_PER_S = 128_000 / 3600  # how slowly a model may write, by the client's own reckoning


def make_client(*, base_url: str | None, api_key: str | None, timeout_s: float) -> Client:
    """A client that makes one attempt.

    Args:
        api_key: None: the client finds key and address in the environment.

    Raises:
        AgentNotFoundError: the package is not installed.
    """
    try:
        import anthropic
    except ImportError as error:
        raise AgentNotFoundError(
            "the package anthropic is not installed", hint="pip install anthropic"
        ) from error
    headers: dict[str, Any] = {}
    if base_url is not None and api_key is not None:
        # These belong to the address of the environment, as its key does.
        lines = os.environ.get("ANTHROPIC_CUSTOM_HEADERS", "").splitlines()
        headers = {line.partition(":")[0].strip(): anthropic.Omit() for line in lines}
    return anthropic.Anthropic(
        base_url=base_url,
        api_key=api_key,
        timeout=timeout_s,
        max_retries=0,
        default_headers=headers,
        # The record tells more than its spans, which cost a tenth of a call.
        open_telemetry={"traces": {"enabled": False}},
    )


@lru_cache(maxsize=64)
def output_form(schema: type[BaseModel]) -> dict[str, Any]:
    """The output_config that holds an answer to a schema."""
    import anthropic

    return {"format": {"type": "json_schema", "schema": anthropic.transform_schema(schema)}}


def translation(model: str, error: Exception, *, key: str) -> AutopilotError | None:
    """Our error for one of the client's; None for other errors."""
    import anthropic

    if isinstance(error, anthropic.APIConnectionError):
        # Without a connection nothing was sent; a timeout while reading is later than that.
        is_charged = "Connect" not in type(error.__cause__).__name__
        if isinstance(error, anthropic.APITimeoutError):
            return failures.late(model, is_charged=is_charged)
        said = str(error.__cause__ or error)
        return failures.no_answer(model, said, is_charged=is_charged)
    no_key = isinstance(error, TypeError) and "authentication" in str(error)
    if no_key or isinstance(error, anthropic.CredentialsError):
        return NoKeyError(
            "there is no key for Anthropic's service",
            hint="set ANTHROPIC_API_KEY, or replay what is recorded",
        )
    ours = failures.translation(model, error, key=key)
    if ours is None and isinstance(error, anthropic.AnthropicError):
        return AgentError(f"{model}: {failures.one_line(str(error))}", hint=_SEE)
    return ours


def send(
    client: Client, body: Mapping[str, Any], headers: Mapping[str, str], *, beta: bool
) -> Mapping[str, Any]:
    """One attempt; as a stream, which is slower, only if the reply may time out.

    Returns:
        The message of the reply.
    """
    import httpx2

    slow = body["max_tokens"] / _TOKENS_PER_S > _seconds(client.timeout)
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
    return _message_in(raw)


def _seconds(timeout: Any) -> float:
    """A client's timeout while it waits for bytes; infinite without one."""
    found = getattr(timeout, "read", timeout)
    return float(found) if isinstance(found, int | float) else math.inf


def _assembled(client: Client, raw: Any) -> Mapping[str, Any]:
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


def _message_in(raw: Any) -> dict[str, Any]:
    """The message in a whole response; any other content is worth another attempt."""
    import anthropic

    with contextlib.suppress(ValueError, TypeError, LookupError):
        sent = raw.json()
        if isinstance(sent["content"], list):
            return dict(sent)
    begin = failures.one_line(raw.text)
    raise anthropic.APIConnectionError(
        message=f"what came back is no message: {begin}", request=raw.request
    )
