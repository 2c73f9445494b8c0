"""The one boundary for errors of the service."""

from __future__ import annotations

import pytest

from autopilot.ai.model.base import ChatModel
from autopilot.ai.model.failures import service_error
from autopilot.errors import (
    AgentError,
    KeyRefusedError,
    ModelCallError,
    NoCreditError,
    NoModelError,
)


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        (401, "invalid x-api-key", KeyRefusedError),
        (402, "payment required", NoCreditError),
        (400, "Your credit balance is too low", NoCreditError),
        (400, "max_tokens: too large", ModelCallError),
        (403, "not allowed", KeyRefusedError),
        (404, "model: nope", NoModelError),
        (529, "overloaded", ModelCallError),
    ],
)
def test_a_status_is_an_error_of_ours(status: int, said: str, kind: type[AgentError]) -> None:
    error = service_error("m", status, said)
    assert type(error) is kind
    assert str(status) in error.message or kind is NoCreditError
    assert said in error.message and error.hint


def test_a_service_that_says_nothing_is_quoted_by_its_status() -> None:
    for status, said in ((500, "Internal Server Error"), (529, "it says no more")):
        assert (
            service_error("m", status, " ").message == f"m: the service answered {status}: {said}"
        )


def test_a_callers_hint_replaces_the_status_own() -> None:
    assert service_error("claude", 401, "no", "try it by hand").hint == "try it by hand"


def test_errors_of_user_code_pass_the_boundary() -> None:
    class Broken(ChatModel):
        def _complete(self, messages, tools=(), schema=None, *, system=""):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        Broken("m").complete("hi")
