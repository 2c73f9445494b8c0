"""Errors of a model's service, translated into autopilot's: whatever client they come from."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from email.message import Message
from http.client import responses
from urllib.error import HTTPError

from autopilot.errors import (
    AgentError,
    KeyRefusedError,
    ModelCallError,
    NoCreditError,
    NoModelError,
)
from autopilot.text import redact

_SHOWN = 200
_LONGEST_WAIT_S = 600.0
# Services report an account without credit as an invalid request, or as too many of them.
_NO_CREDIT = ("credit balance", "billing", "usage limits", "insufficient_quota")
# Names of error classes in front of what the service said.
_NAMES = re.compile(r"^(?:(?:litellm\.)?\w*(?:Error|Exception)(?:: | - ))+")
_SEE = "see what the service's documentation says on that"
_HINTS = {
    400: "look at the Model's max_tokens and options, and at the prompt",
    401: "give it a key that is valid: {key}",
    403: "this key may not use the model",
    404: "is the model's name right? It is {name!r}: the first argument of the Model, or --model",
    413: "the prompt is too long",
    429: "lower num_workers, or give the Model a RateLimit",
    529: "the service is overloaded: resume later",
}


def service_error(
    model: str,
    status: int,
    said: str,
    hint: str = "",
    *,
    key: str = "ANTHROPIC_API_KEY",
    headers: Mapping[str, str] | Message | None = None,
) -> AgentError:
    """The error for an HTTP status that the service answered.

    Args:
        hint: Replaces the status's own hint.
        key: The place of the key, for the hint.
        headers: Those of the answer: they may say when to try again.
    """
    said = one_line(said.strip() or responses.get(status, ""))
    text = f"{model}: the service answered {status}: {said}"
    # Before the status itself: a 400 for missing credit is no fault of the request.
    if status == 402 or (status in (400, 429) and any(x in said.lower() for x in _NO_CREDIT)):
        return NoCreditError(text, hint="add credit, or raise the account's limit")
    hint = hint or _HINTS.get(status, _SEE).format(key=key, name=model)
    final = {401: KeyRefusedError, 403: KeyRefusedError, 404: NoModelError}.get(status)
    if final:
        return final(text, hint=hint)
    headers = headers or {}
    again = {"true": True, "false": False}.get(headers.get("x-should-retry", ""))
    wait_s = _pause_s(headers)
    return ModelCallError(text, hint=hint, status=status, again=again, wait_s=wait_s)


def no_answer(model: str, why: str, *, is_charged: bool) -> ModelCallError:
    """The error where there was no answer."""
    return ModelCallError(
        f"no answer from {model}: {one_line(why)}",
        hint="look at the network and the service's address",
        is_charged=is_charged,
    )


def late(model: str, *, is_charged: bool = True) -> ModelCallError:
    """The error where the answer did not come in time."""
    return ModelCallError(
        f"{model} did not answer in time",
        hint="try again later, or give it more timeout_s",
        is_charged=is_charged,
    )


def translation(model: str, error: Exception, *, key: str) -> AgentError | None:
    """Our error for one of any HTTP client's; None for what is no failure of the service.

    Args:
        key: See `service_error`.
    """
    if isinstance(error, HTTPError):
        # It is the response too, which stays open, and says more than its name, until it is read.
        with error:
            said = error.read().decode("utf-8", "replace")
        return service_error(model, error.code, said or str(error), key=key, headers=error.headers)
    response = getattr(error, "response", None)
    # LiteLLM keeps the headers beside the response, which it replaces.
    headers = getattr(error, "litellm_response_headers", None) or getattr(response, "headers", None)
    for each in (error, response):
        status = getattr(each, "status_code", None)
        if isinstance(status, int) and 400 <= status < 600:
            # Anthropic's client has the service's own words in an attribute.
            said = str(getattr(error, "api_message", None) or _NAMES.sub("", str(error)))
            return service_error(model, status, said, key=key, headers=headers)
    if isinstance(error, TimeoutError):
        return late(model)
    # Those of urllib and requests are OSErrors too, but a file that is missing is the user's own.
    if isinstance(error, OSError) and (isinstance(error, ConnectionError) or not error.filename):
        return no_answer(model, str(error), is_charged=False)
    return None


def _pause_s(headers: Mapping[str, str] | Message) -> float | None:
    """How long the service asks to wait."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        with contextlib.suppress(ValueError):
            return min(max(float(headers.get(name, "")) / unit, 0.0), _LONGEST_WAIT_S)
    return None


def one_line(text: str) -> str:
    """The beginning of a text on one line, without secrets."""
    return " ".join(redact(text).split())[:_SHOWN] or "it says no more"
