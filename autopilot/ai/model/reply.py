"""A model's reply, and the conversation that it answers, as plain JSON.

A conversation has the form of the Messages API whatever the provider is: messages with a role and
content, which is a text or blocks of the types text, tool_use, tool_result, thinking, image.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from io import IOBase
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from autopilot.ai.prices import Usage
from autopilot.text import clean

T = TypeVar("T", bound=BaseModel)
Message = Mapping[str, Any]

_BLOCK = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)
# The fields of a Usage, as the API has them.
_USAGE = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that the model wants used.

    Args:
        id: Names the call in the conversation.
    """

    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of a provider.

    Args:
        usage: The tokens that were paid; None: the provider does not say, and they are guessed.
        stop_reason: "end_turn", "tool_use", "max_tokens" (it was cut off) or "refusal"; "": one of
            the first two, as there are tool calls or not.
        model: The model that answered, where the provider says it.
        message: The whole reply in the form of the Messages API, from a provider that speaks it:
            recorded, and sent back in a conversation, as it is, with thinking and signatures.

    >>> Reply("hello").as_message()["content"]
    [{'type': 'text', 'text': 'hello'}]
    """

    text: str = ""
    tool_calls: Sequence[ToolCall] = ()
    usage: Usage | None = None
    stop_reason: str = ""
    model: str = ""
    message: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> Reply:
        """The reply that a message of the Messages API is."""
        blocks = message.get("content", ())
        used = message.get("usage")
        return cls(
            "".join(block["text"] for block in blocks if block["type"] == "text"),
            [
                ToolCall(block["id"], block["name"], block["input"])
                for block in blocks
                if block["type"] == "tool_use"
            ],
            None if used is None else Usage(*(used.get(name) or 0 for name in _USAGE)),
            str(message.get("stop_reason") or ""),
            str(message.get("model") or ""),
            message,
        )

    def as_message(self) -> Mapping[str, Any]:
        """As a message of the Messages API."""
        if self.message:
            return self.message
        text = [{"type": "text", "text": self.text}] if self.text else []
        uses = [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": dict(call.arguments)}
            for call in self.tool_calls
        ]
        message: dict[str, Any] = {
            "role": "assistant",
            "model": self.model,
            "content": [*text, *uses],
            "stop_reason": self.stop_reason or ("tool_use" if uses else "end_turn"),
        }
        if self.usage is not None:
            message["usage"] = dict(zip(_USAGE, astuple(self.usage), strict=True))
        return message


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


def as_schema(text: str, schema: type[T]) -> T:
    """The object that a reply's text is, or holds.

    Raises:
        ValidationError: it is, or has, none that fits.
    """
    try:
        return schema.model_validate_json(text)
    except ValidationError as error:
        # Halves of surrogate pairs, which pydantic refuses, or words around it.
        wrong = error
    try:
        candidates: Iterable[Any] = [json.loads(text)]
    except (ValueError, RecursionError):
        candidates = json_in(text)
    for candidate in candidates:
        try:
            return schema.model_validate(clean(candidate))
        except ValidationError as error:
            wrong = error
    raise wrong


def json_in(text: str) -> Iterator[Any]:
    """The JSON in a text: all of it, its code blocks and its objects, the last of each first."""
    for candidate in [text, *reversed(_BLOCK.findall(text))]:
        try:
            yield json.loads(candidate)
        except (ValueError, RecursionError):
            continue
    decoder = json.JSONDecoder()
    # From the end: the last object is the answer, and earlier ones are often examples.
    for position in reversed([found.start() for found in re.finditer(r"\{", text)]):
        try:
            yield decoder.raw_decode(text, position)[0]
        except ValueError:
            continue
        except RecursionError:
            return  # objects that begin before it are nested as deeply


def explain(error: ValidationError) -> str:
    """The errors of a reply, for the model that wrote it."""
    found = error.errors(include_url=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, x['loc'])) or 'reply'}: {x['msg']}" for x in found[:5])


def asking_for(schema: type[BaseModel]) -> str:
    """The instruction that asks for JSON of a schema, where the service cannot enforce it."""
    fields = json.dumps(schema.model_json_schema(), sort_keys=True)
    return f"Answer with JSON of this schema: {fields}"
