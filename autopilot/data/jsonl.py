"""JSON Lines: one object a line, read lazily and written in one step.

The only file of this package that touches the disk. Everything that can be wrong with a line
becomes a DataError that names the file and the line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar, cast

from autopilot.errors import DataError, UsageError, translated_as
from autopilot.text import as_json

_BOM = b"\xef\xbb\xbf"
_ONE_OBJECT = "write one JSON object a line, complete on its line; blank lines are skipped"


class Schema(Protocol):
    """A pydantic model, or any class that checks a mapping as one does."""

    @classmethod
    def model_validate(cls, obj: Any, /) -> Any:
        """An instance made of `obj`; raises what is wrong with it."""


M = TypeVar("M", bound=Schema)


def read_jsonl(path: Path, model: type[M] | None) -> Iterator[dict[str, Any] | M]:
    """The objects of a file, one at a time; the file is open while it is iterated.

    Lines end at a newline only, so that U+2028 and its like may stand inside a string.

    Args:
        path: A UTF-8 file, with or without a byte order mark.
        model: Makes an instance of each object; None leaves them dicts.

    Raises:
        DataError: the file cannot be read, or a line is not a JSON object, or not a valid model.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                # Files put together with `cat` carry a mark in the middle too.
                content = line.removeprefix(_BOM).strip()
                if not content:
                    continue
                where = f"{path} line {number}"
                value = _parse(content, where)
                yield value if model is None else _validate(model, value, where)
    except OSError as error:
        raise unreadable(path, error) from error


def write_jsonl(path: Path, items: Iterable[object]) -> None:
    """Writes mappings and pydantic models, one a line; the folder is made if it is missing.

    The file is replaced in one step: an item that cannot be written leaves the old one in place.

    Raises:
        DataError: an item is no object or holds what JSON cannot carry; the disk is not writable.
    """
    # The file behind a symbolic link is replaced, and the link stays.
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    hint = "name a file in a folder that can be written"
    with translated_as(DataError, f"cannot write {path}", hint):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                for index, item in enumerate(items):
                    file.write(_format(item, index))
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def check_model(model: object) -> None:
    """Refuses a `model=` that cannot check a mapping: it has no `model_validate`."""
    if model is not None and not callable(getattr(model, "model_validate", None)):
        raise UsageError(
            f"model={model!r} has no model_validate",
            hint="pass a pydantic model class, or leave model out to get dicts",
        )


def unreadable(path: Path, error: OSError) -> DataError:
    """The DataError for a file that cannot be read."""
    if isinstance(error, FileNotFoundError):
        hint = f"check the path; relative ones are looked up in {Path.cwd()}"
        return DataError(f"{path} does not exist", hint=hint)
    return DataError(
        f"cannot read {path}: {error.strerror or error}", hint="name a JSON Lines file"
    )


def _parse(content: bytes, where: str) -> dict[str, Any]:
    try:
        value = _DECODER.decode(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: not UTF-8: byte 0x{content[error.start]:02x} at byte {error.start + 1}",
            hint="save the file as UTF-8",
        ) from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}: not JSON: {error.msg} at column {error.colno}", hint=_ONE_OBJECT
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {_one_line(error)}", hint=_ONE_OBJECT) from error
    if not isinstance(value, dict):
        kind = _KINDS.get(type(value), "a number")
        raise DataError(f"{where}: {kind}, not an object", hint=_ONE_OBJECT)
    return value


def _validate(model: type[M], value: dict[str, Any], where: str) -> M:
    try:
        return cast(M, model.model_validate(value))
    except Exception as error:  # the user's validators may raise anything
        raise DataError(
            f"{where}: not a {model.__name__}: {_reason(error)}",
            hint=f"correct the line, or the fields of {model.__name__}",
        ) from error


def _reason(error: Exception) -> str:
    """The first entry of a pydantic ValidationError, else the error's own text."""
    errors = getattr(error, "errors", None)
    found = errors() if callable(errors) else ()
    if not found:
        return _one_line(error)
    field = ".".join(str(part) for part in found[0]["loc"])
    message = " ".join(found[0]["msg"].split())
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return (f"{field}: {message}" if field else message) + more


def _format(item: object, index: int) -> bytes:
    dump: Callable[..., object] | None = getattr(item, "model_dump", None)
    # Aliases are what the model reads back.
    value = dump(mode="json", by_alias=True) if callable(dump) else item
    if not isinstance(value, Mapping):
        raise DataError(
            f"item {index} is a {type(item).__name__}, not an object",
            hint="give mappings or pydantic models; of a Datum, its metadata",
        )
    try:
        return as_json(dict(value)).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"item {index} cannot be written as JSON: {_one_line(error)}",
            hint="keep strings, numbers, lists and dicts in it",
        ) from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value; null is")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_KINDS: dict[type, str] = {list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
