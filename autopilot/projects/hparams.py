"""Hyperparameters: constructor arguments, from `-H key=value` and from a project's own file."""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from autopilot.errors import UsageError
from autopilot.text import redact

if TYPE_CHECKING:
    from pydantic import ValidationError


def parse_hparams(pairs: Sequence[str]) -> dict[str, str]:
    """Reads the `key=value` of -H options.

    Raises:
        UsageError: one has no "=", a key comes twice, or a value is a secret: they are recorded.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"-H {pair}: not key=value", hint="write -H threshold=0.5")
        if key in found:
            raise UsageError(f"-H {key} is given twice", hint="give each key once")
        if redact(value) != value:
            raise UsageError(
                f"-H {key}: the value looks like a secret, and arguments are recorded in git",
                hint="put it into an environment variable, and read it from there in your code",
            )
        found[key] = value
    return found


def typed(factory: Callable[..., Any], hparams: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of a class or callable, of the types that its signature has.

    Raises:
        UsageError: it does not take one, or not of that type.
    """
    if not hparams:
        return {}
    from pydantic import TypeAdapter
    from pydantic import ValidationError as Invalid

    signature = inspect.signature(factory)
    parameters = signature.parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    source = factory.__init__ if isinstance(factory, type) else factory  # type: ignore[misc]  # its own
    try:
        hints = get_type_hints(source)
    except Exception:  # noqa: BLE001  # the user's annotations may name what is not importable
        hints = {}
    found: dict[str, Any] = {}
    for key, value in hparams.items():
        if key not in parameters and not takes_any:
            names = ", ".join(name for name in parameters if name != "self") or "none"
            raise UsageError(f"-H {key}: there is no such argument", hint=f"arguments: {names}")
        default = parameters[key].default if key in parameters else None
        fallback = type(default) if default not in (None, inspect.Parameter.empty) else str
        adapter: TypeAdapter[Any] = TypeAdapter(hints.get(key, fallback))
        found[key] = _value(adapter, key, value, Invalid)
    return found


def lacking(factory: Callable[..., Any], arguments: Mapping[str, Any]) -> list[str]:
    """The names of arguments that a class or callable needs and does not get."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return []
    return [
        p.name
        for p in parameters
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        and p.default is p.empty
        and p.name not in arguments
    ]


def _value(adapter: Any, key: str, value: str, invalid: type[ValidationError]) -> Any:
    try:
        return adapter.validate_strings(value)
    except invalid as error:
        with contextlib.suppress(invalid):
            return adapter.validate_json(value)
        raise UsageError(
            f"-H {key}={value}: {error.errors()[0]['msg']}",
            hint="give a value of the argument's type; lists and dicts as JSON",
        ) from error


def read_hparams(file: Path) -> dict[str, str]:
    """A project's saved hyperparameters, as `-H` would give them; none where there is no file.

    Raises:
        UsageError: the file is no JSON object.
    """
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{file} is no JSON: {error}", hint="mend it, or delete it") from error
    if not isinstance(values, dict):
        raise UsageError(f"{file} is no JSON object", hint='write {"threshold": 0.5}')
    return {key: v if isinstance(v, str) else json.dumps(v) for key, v in values.items()}


def write_hparams(file: Path, hparams: Mapping[str, str]) -> None:
    """Saves a project's hyperparameters; numbers and the like as JSON has them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    values = {key: _plain(text) for key, text in hparams.items()}
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    file.write_text(text, encoding="utf-8")


def _plain(text: str) -> Any:
    """What a text says as JSON, if that reads back as the very same text."""
    with contextlib.suppress(ValueError):
        value = json.loads(text)
        if not isinstance(value, str) and json.dumps(value) == text:
            return value
    return text
