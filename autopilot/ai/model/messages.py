"""What is asked, as JSON has it: its hash names a request, and a replay needs no client for it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from io import IOBase
from pathlib import Path
from typing import Any

from pydantic import BaseModel


def as_messages(prompt: str | Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """A prompt as messages; those of a conversation with all that stands in them resolved.

    Args:
        prompt: A text, or messages. They may hold the client's own blocks, taken from a reply, and
            files in place of their content.

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
            plain["data"] = _in_base64(plain.get("data"))
        return plain
    # A file is Iterable, too.
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | IOBase):
        return [_plain(item) for item in value]
    return value


def _in_base64(data: Any) -> Any:
    """The content of a file that stands for its data, as the client takes it."""
    if isinstance(data, Path):
        data = data.read_bytes()
    elif isinstance(data, IOBase):
        data = data.read()
    return base64.b64encode(data).decode("ascii") if isinstance(data, bytes) else data
