"""Anthropic's client: the only file that imports `anthropic`, and only when it is used.

It translates the client's errors, and the replies that pass its middleware.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import BaseModel, ValidationError

from autopilot.ai.agent import Tool
from autopilot.errors import (
    AgentError,
    AgentNotFoundError,
    AutopilotError,
    KeyRefusedError,
    ModelCallError,
    NoCreditError,
    NoKeyError,
    NoModelError,
)
from autopilot.text import clean, hide, redact

if TYPE_CHECKING:
    import anthropic

    Client: TypeAlias = anthropic.Anthropic

Middleware = Callable[[Any, Callable[[Any], Any]], Any]

_SHOWN = 200
_TOKENS_PER_S = 128_000 / 3600  # how slowly a model may write, by the client's own reckoning


def make_client(
    *, base_url: str | None, timeout_s: float, max_retries: int, middleware: Middleware
) -> anthropic.Anthropic:
    """A client with one middleware.

    Raises:
        AgentNotFoundError: the package is not installed.
    """
    try:
        import anthropic
    except ImportError as error:
        raise AgentNotFoundError(
            "the package anthropic is not installed", hint="pip install anthropic"
        ) from error
    return anthropic.Anthropic(
        base_url=base_url,
        timeout=timeout_s,
        max_retries=max_retries,
        middleware=[middleware],
        # The record tells more than its spans, which cost a tenth of a call.
        open_telemetry={"traces": {"enabled": False}},
    )


def output_form(schema: type[BaseModel]) -> dict[str, Any]:
    """The output_config that holds an answer to a schema."""
    import anthropic

    return {"format": {"type": "json_schema", "schema": anthropic.transform_schema(schema)}}


@contextlib.contextmanager
def translated(model: str) -> Iterator[None]:
    """Translates the client's errors: the one boundary."""
    try:
        yield
    except (AutopilotError, ValidationError):
        raise
    except Exception as error:
        ours = _translation(model, error)
        if ours is None:
            raise
        raise ours from error


def _translation(model: str, error: Exception) -> AutopilotError | None:
    """Our error for one of the client's; None for other errors."""
    import anthropic

    if isinstance(error, anthropic.APITimeoutError):
        return ModelCallError(
            f"{model} did not answer in time", hint="try again later, or give it more timeout_s"
        )
    if isinstance(error, anthropic.APIConnectionError):
        why = redact(str(error.__cause__ or error))
        return ModelCallError(
            f"no answer from {model}: {one_line(why)}",
            hint="look at the network and ANTHROPIC_BASE_URL",
        )
    if isinstance(error, anthropic.APIStatusError):
        return service_error(model, error.status_code, str(error.api_message or error.message))
    if isinstance(error, anthropic.CredentialsError):
        return _no_key()
    if isinstance(error, anthropic.AnthropicError):
        return AgentError(f"{model}: {one_line(redact(str(error)))}", hint=_SEE)
    return _no_key() if isinstance(error, TypeError) and "authentication" in str(error) else None


def service_error(model: str, status: int, said: str, hint: str = "") -> AgentError:
    """The error for an HTTP status that the service answered.

    Args:
        hint: Replaces the status's own hint.
    """
    said = one_line(redact(said))
    text = f"{model}: the service answered {status}: {said}"
    # Before the status itself: a 400 for missing credit is no fault of the request.
    if status == 402 or (status == 400 and any(sign in said.lower() for sign in _NO_CREDIT)):
        return NoCreditError(text, hint="add credit, or raise the account's limit")
    hint = hint or _HINTS.get(status, _SEE)
    final = {401: KeyRefusedError, 403: KeyRefusedError, 404: NoModelError}.get(status)
    return final(text, hint=hint) if final else ModelCallError(text, hint=hint, status=status)


def _no_key() -> NoKeyError:
    return NoKeyError(
        "there is no key for Anthropic's service",
        hint="set ANTHROPIC_API_KEY, or replay what is recorded",
    )


# The service reports an account without credit as an invalid request.
_NO_CREDIT = ("credit balance", "billing", "usage limits")
_SEE = "see https://docs.claude.com/en/api/errors"
_HINTS = {
    401: "set ANTHROPIC_API_KEY to a key that is valid",
    403: "this key may not use the model",
    404: "is the model's name right?",
    413: "the prompt is too long",
    429: "lower num_workers, or give the Model a RateLimit",
    529: "the service is overloaded: resume later",
}


def send(client: Any, request: Any, call_next: Callable[[Any], Any]) -> Any:
    """Sends an attempt; as a stream, which is slower, only if the reply may time out."""
    if request.json["max_tokens"] / _TOKENS_PER_S <= client.timeout:
        return call_next(request)
    return call_next(request.copy(body={**request.json, "stream": True}))


def may_be_charged(error: BaseException) -> bool:
    """Whether an attempt without a reply may have been read, and charged."""
    import anthropic

    if not isinstance(error, anthropic.APIConnectionError):
        return False
    # Without a connection nothing was sent; a timeout while reading is later than that.
    return "Connect" not in type(error.__cause__).__name__


def read_reply(client: Any, request: Any, response: Any) -> tuple[Mapping[str, Any], Any]:
    """The message of a reply, without secrets that it echoes, and the response that holds it."""
    raw = response.http_response
    if not raw.headers.get("content-type", "").startswith("text/event-stream"):
        sent = _message_in(raw)
        reply = clean(hide(sent))
        return reply, response if reply == sent else as_response(client, request, reply)

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
    whole: Mapping[str, Any] = clean(hide(message.to_dict(mode="json")))
    return whole, as_response(client, request, whole)


def _message_in(raw: Any) -> dict[str, Any]:
    """The message in a whole response; any other content is worth another attempt."""
    import anthropic

    with contextlib.suppress(ValueError, TypeError, LookupError):
        sent = raw.json()
        if isinstance(sent["content"], list):
            return dict(sent)
    begin = one_line(redact(raw.text))
    raise anthropic.APIConnectionError(
        message=f"what came back is no message: {begin}", request=raw.request
    )


def as_response(client: Any, request: Any, reply: Mapping[str, Any]) -> Any:
    """A whole reply, from a stream or the record, as the client expects it."""
    import anthropic
    import httpx2

    raw = httpx2.Response(200, json=dict(reply), request=httpx2.Request("POST", client.base_url))
    return anthropic.APIResponse(
        raw=raw,
        cast_to=request.cast_to,
        client=client,
        stream=False,
        stream_cls=None,
        options=request.options,
        retries_taken=request.retries_taken,
    )


def as_runnable(tool: Tool) -> Any:
    """A tool as the client's tool loop takes it."""
    from anthropic.lib.tools import BetaBuiltinFunctionTool, ToolError

    class Runnable(BetaBuiltinFunctionTool):
        def to_dict(self) -> Any:
            return dict(tool.definition())

        def call(self, input: object) -> str:
            try:
                return tool.use(input if isinstance(input, Mapping) else {})
            except AutopilotError as error:
                raise ToolError(f"{error.message}. {error.hint}") from error

    return Runnable()


def one_line(text: str) -> str:
    """The beginning of a text, on one line."""
    return " ".join(text.split())[:_SHOWN] or "(no words)"
