"""The contract of models: one primitive that a provider implements, and all that surrounds it."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypedDict, TypeVar

from pydantic import BaseModel, ValidationError

from autopilot.ai.agent import AgentResult, Tool
from autopilot.ai.model.call import Call
from autopilot.ai.model.failures import translation
from autopilot.ai.model.parallel import RateLimit
from autopilot.ai.model.reply import (
    Message,
    Reply,
    ToolCall,
    as_messages,
    as_schema,
    asking_for,
    explain,
)
from autopilot.ai.prices import Price
from autopilot.errors import (
    AgentReplyError,
    AutopilotError,
    NoKeyError,
    NoMoreCallsError,
    UsageError,
)
from autopilot.text import clean, is_secret, keep_secret

T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Question:
    """All that a model is asked in one call."""

    messages: Sequence[Message]
    tools: Sequence[Tool] = ()
    schema: type[BaseModel] | None = None
    system: str = ""


class ModelSettings(TypedDict, total=False):
    """The arguments that models of all providers share; see `ChatModel`."""

    max_tokens: int
    role: str
    prices: Mapping[str, Price] | None
    rate: RateLimit | None
    max_retries: int
    options: Mapping[str, Any] | None


class ChatModel(ABC):
    """A language model of any provider. Subclasses define `_complete`, which makes one call.

    The rest is the same for all: in an experiment, a call is answered from the record if there is
    one, and otherwise counted in the budget, made within the rate limit, made again after a failure
    that may pass, and recorded, without secrets, before its reply is used. Structured answers and
    the use of tools are loops around it. May be used from several threads at once.

    Args:
        name: The model's name.
        max_tokens: The most that it may write in one reply; reserved in the budget beforehand.
        role: The name under which the cost is counted, unless a call says otherwise.
        prices: Model name to Price, in front of all others.
        rate: A RateLimit; give several models the same object to share it.
        max_retries: Further attempts where the service fails or does not answer.
        options: Further settings of a request. A part of a call's name, except for secrets.

    Attributes:
        takes_schema: The service enforces a JSON schema: `_complete` gets it. Otherwise it is asked
            for in the system's instructions, and `_complete` gets none.
        key_hint: Where its key comes from, for hints.

    >>> class Parrot(ChatModel):
    ...     def _complete(self, messages, tools=(), schema=None, *, system=""):
    ...         return Reply(messages[-1]["content"])
    >>> Parrot("parrot").complete("hello").output
    'hello'
    """

    takes_schema: ClassVar[bool] = False
    key_hint: ClassVar[str] = "api_key of the Model"
    # Options that would change what a call says of itself.
    reserved: ClassVar[frozenset[str]] = frozenset(
        {"model", "messages", "system", "tools", "stream", "max_tokens", "api_key"}
    )

    def __init__(
        self,
        name: str,
        *,
        max_tokens: int = 8192,
        role: str = "module",
        prices: Mapping[str, Price] | None = None,
        rate: RateLimit | None = None,
        max_retries: int = 2,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.max_tokens = max_tokens
        self.role = role
        self.prices = dict(prices or {})
        self.rate = rate or RateLimit()
        self.max_retries = max_retries
        self.options = dict(options or {})
        for option in sorted(self.reserved & self.options.keys()):
            raise UsageError(
                f"options={{{option!r}: ...}}: it is not one of {type(self).__name__}'s options",
                hint=f"max_tokens and api_key are arguments of {type(self).__name__}; the others "
                "follow from the call",
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    # --- a provider's part ---------------------------------------------------------------------

    @abstractmethod
    def _complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        schema: type[BaseModel] | None = None,
        *,
        system: str = "",
    ) -> Reply:
        """Makes one call. It is not recorded, counted or tried again here.

        Errors with an HTTP status (urllib's, and those with a `status_code` or a `response`),
        connection errors and timeouts are translated; others are the program's own.

        Args:
            messages: The conversation, in the form of `autopilot.ai.model.reply`.
            tools: `tool.function()` is the definition of each.
            schema: The model of the reply's JSON; only where `takes_schema`.
        """

    def _asked(self, question: Question) -> dict[str, Any]:
        """All that the reply depends on, as JSON: its hash is the call's name in the record."""
        schema = question.schema
        asked: dict[str, Any] = {
            "model": self.name,
            "max_tokens": self.max_tokens,
            "system": question.system or None,
            "messages": list(question.messages),
            "tools": [tool.function() for tool in question.tools] or None,
            "schema": schema.model_json_schema() if schema else None,
            "options": public(self.options) or None,
        }
        return clean({name: value for name, value in asked.items() if value is not None})

    def _translation(self, error: Exception) -> AutopilotError | None:
        """Our error for one of the provider's client; None for a program's own."""
        return translation(self.name, error, key=self.key_hint)

    # --- calls ---------------------------------------------------------------------------------

    def complete(
        self, prompt: str | Sequence[Message], *, system: str = "", role: str = "", sample: int = 0
    ) -> AgentResult:
        """Answers a prompt with a text.

        Args:
            prompt: A text, or messages as the Messages API has them.
            system: Instructions; the part that is the same for many calls, and cached.
            role: The name under which the cost is counted.
            sample: Equal questions are asked once in an experiment; another number asks again.

        Raises:
            AgentRefusedError: the model refused.
            AgentError: the call failed, after all attempts.
            BudgetExceededError: too little is left; the call was not made.
            NoPriceError: there is a budget of dollars, and the price is unknown.
            ReplayMissError: only records may answer, and there is none.
        """
        call = self._call(role, sample)
        self._ask(call, Question(as_messages(prompt), system=system))
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
            question = Question(messages, (), schema, system)
            text = self._ask(self._call(role, sample), question).text
            try:
                if text:
                    return as_schema(text, schema)
                wrong = "the reply holds no text"
            except ValidationError as error:
                wrong = explain(error)
            again = f"That does not fit the schema: {wrong}. Answer again, as JSON that fits."
            messages = [
                *messages,
                {"role": "assistant", "content": text or "(nothing)"},
                {"role": "user", "content": again},
            ]
        raise AgentReplyError(
            f"{self.name} did not answer as {schema.__name__} asks: {wrong}",
            hint="make the schema simpler, or say in the prompt what the fields mean",
            reply=text,
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
            schema: The model of the last answer's JSON.
            max_turns: The largest number of replies.

        Returns:
            The last answer with the cost of all turns, and the whole conversation.

        Raises:
            AgentReplyError: it was still using tools after `max_turns` replies.
            AgentError: see `complete`.
        """
        call, messages = self._call(role, 0), as_messages(prompt)
        for _ in range(max_turns):
            reply = self._ask(call, Question(messages, tools, schema, system))
            said = {"role": "assistant", "content": reply.as_message()["content"]}
            if reply.stop_reason not in ("tool_use", "pause_turn"):
                return call.result(), [*messages, said]
            messages = [*messages, said]
            if results := [_used(tool_call, tools) for tool_call in reply.tool_calls]:
                messages.append({"role": "user", "content": results})
        raise AgentReplyError(
            f"{self.name} was not done after {max_turns} turns",
            hint="give it more turns, or a smaller task",
        )

    def _call(self, role: str, sample: int) -> Call:
        role = role or self.role
        return Call(self.name, role, sample, self.prices, self.rate, self.max_retries)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Errors of the provider's client inside are raised as ours."""
        try:
            yield
        except AutopilotError:
            raise
        except Exception as error:
            ours = self._translation(error)
            if ours is None:
                raise
            raise ours from error

    def _ask(self, call: Call, question: Question) -> Reply:
        if question.schema is not None and not self.takes_schema:
            system = "\n\n".join(filter(None, (question.system, asking_for(question.schema))))
            question = replace(question, schema=None, system=system)

        def send() -> Reply:
            with self._translated():
                asked = question.messages, question.tools, question.schema
                return self._complete(*asked, system=question.system)

        return call.ask(self._asked(question), send)


def _used(call: ToolCall, tools: Sequence[Tool]) -> Message:
    """The result of a tool for the model."""
    result: dict[str, Any] = {"type": "tool_result", "tool_use_id": call.id}
    known = {str(tool.definition()["name"]): tool for tool in tools}
    if call.name not in known:
        said = f"there is no tool {call.name!r}. use one of: {', '.join(known)}"
        return {**result, "content": said, "is_error": True}
    try:
        return {**result, "content": known[call.name].use(call.arguments)}
    except NoMoreCallsError:
        raise
    except AutopilotError as error:
        return {**result, "content": f"{error.message}. {error.hint}", "is_error": True}


def public(options: Any) -> Any:
    """Options without secrets, as JSON: those that name a call, and are recorded.

    A header's value is shortened to a digest, since a key may stand behind any name.

    >>> public({"temperature": 0.2, "extra_headers": {"x-api-key": "k0123456", "x-team": "blue"}})
    {'temperature': 0.2, 'extra_headers': {'x-team': '16477688c0e0'}}
    """
    if isinstance(options, Mapping):
        found: dict[str, Any] = {}
        for key, value in options.items():
            name = str(key).replace("-", "_").upper()
            if isinstance(value, str) and is_secret(name, value):
                continue
            if name.endswith("HEADERS") and isinstance(value, Mapping):
                value = {
                    header: hashlib.sha256(str(given).encode()).hexdigest()[:12]
                    for header, given in value.items()
                    if not is_secret(header.replace("-", "_").upper(), str(given))
                }
            found[str(key)] = public(value)
        return found
    if isinstance(options, list | tuple):
        return [public(value) for value in options]
    return (
        options if isinstance(options, str | int | float | bool | None) else type(options).__name__
    )


def key_of(
    given: str | None, address_given: str | None, elsewhere: str, *, owner: str, address: str
) -> str | None:
    """The key to send, which goes to no other address than it belongs to.

    Args:
        given: The model's own: a key, "$NAME" of an environment variable, or "" for a service that
            needs none.
        address_given: The model's own address; None: the environment's, or the usual one.
        elsewhere: The address that a key of the environment belongs to.
        owner, address: The class and its argument for the address, for the error.

    Returns:
        None: the client may look for it in the environment.

    Raises:
        NoKeyError: there is none for that address.
    """
    if given is None:
        if address_given is None or address_given.rstrip("/") == elsewhere.rstrip("/"):
            return None
        raise NoKeyError(
            f"{owner}({address}={address_given!r}) has no key of its own, and the key of the "
            "environment belongs to another address",
            hint=f'give it one: {owner}(..., api_key="$NAME") takes it from the variable NAME; '
            'api_key="" if that service needs none',
        )
    if given.startswith("$"):
        key = os.environ.get(given[1:], "")
        if not key:
            raise NoKeyError(
                f"the environment variable {given[1:]} has no key", hint=f"set {given[1:]}"
            )
        given = key
    keep_secret(given, "api_key")
    return given or "none"
