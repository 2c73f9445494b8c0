"""Records as JSON Lines, one self-contained object a line; and the lines that are no records.

So notes survive `git notes append` and `git notes merge -s cat_sort_uniq`. A line that does not
begin as an object is a person's remark and is left alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from autopilot.core.records.record import (
    LAST_EPOCH,
    VERSION,
    Event,
    Lesson,
    LlmRecord,
    Manifest,
    MetricsRecord,
    ProgressNote,
    Record,
    StepRecord,
    TraceRecord,
)
from autopilot.errors import StateError
from autopilot.text import as_json, hide, leaked, shorten

CLASSES: tuple[type[Record], ...] = (
    MetricsRecord,
    StepRecord,
    Lesson,
    TraceRecord,
    ProgressNote,
    LlmRecord,
)
_MARK = "$float"
_PAYLOADS = ("state", "data", "items")
_LARGE = {"data", "items"}
_ADAPTERS: dict[str, TypeAdapter[Any]] = {}
# The types that the fields of a result have, as `datum_to_json` writes them.
_NONE, _NUMBERS = type(None), (int, float)
_OF_DATUM: dict[str, Any] = {
    **dict.fromkeys(("error_message", "feedback", "unmeasured", "attribution"), (str, _NONE)),
    "id": (str, *_NUMBERS),
    "success": (bool, _NONE),
    "metrics": dict,
    "metadata": dict,
    "items": list,
}
# Whatever JSON that is none of ours makes its reader raise.
_UNLIKE = (ValueError, TypeError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadLine(Record):
    """A line that begins as an object, and is no record as this version knows them.

    Args:
        line: Its number in the note, from 1.
        field: The field that is wrong; "" where the line is no JSON.
        reason: One sentence.
        is_newer: Only a newer autopilot writes such a line.
    """

    line: int
    field: str = ""
    reason: str
    is_newer: bool = False


def encode(record: Record) -> bytes:
    """A record as one line of JSON; raises a StateError if that cannot carry it."""
    head = {"v": VERSION, "kind": record.kind, "epoch": record.epoch, "id": record.id}
    fields = _adapter(type(record)).dump_python(
        record, exclude_defaults=True, exclude=_LARGE, warnings=False
    )
    # Results are JSON already, and many: they are not taken apart once more.
    own = _LARGE & record.__dataclass_fields__.keys()
    fields |= {name: held for name in own if (held := getattr(record, name))}
    value = head | {k: v for k, v in fields.items() if k not in ("epoch", "id")}
    try:
        text = _dump(value)
        if leaked(text):
            text = _dump(hide(value))
    except TypeError as error:
        raise StateError(
            f"the {record.kind} record of epoch {record.epoch} cannot be written: {error}",
            hint="state_dict() and cost must hold only strings, numbers, lists and dicts",
        ) from error
    return text.encode() + b"\n"


def decode(content: bytes) -> Iterator[Record]:
    """The records in a note, with an UnreadLine for each line that cannot be read.

    Of lines with one id, the first counts.
    """
    seen: set[str] = set()
    for record in decode_all(content):
        if isinstance(record, UnreadLine):
            yield record
        elif record.id not in seen:
            seen.add(record.id)
            yield record


def decode_all(content: bytes) -> Iterator[Record]:
    """The same with all lines of one id."""
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.lstrip().startswith(b"{"):
            record = _decode_ours(line)
            if record is not None:
                yield record
            else:
                yield from _decode_any(line, number)


def _decode_any(line: bytes, number: int) -> Iterator[Record]:
    try:
        value = json.loads(line, object_hook=_number)
    except json.JSONDecodeError as error:
        yield UnreadLine(line=number, reason=f"it is no JSON: {error.msg} at column {error.colno}")
        return
    except _UNLIKE as error:
        yield UnreadLine(line=number, reason=f"it is no JSON: {shorten(str(error), 80)}")
        return
    version = value.get("v") if isinstance(value, dict) else None
    if not isinstance(version, int):
        yield UnreadLine(line=number, field="v", reason="it states no version")
    elif version < VERSION:
        why = f"version {version} is of an earlier autopilot, which this one does not read: "
        yield UnreadLine(line=number, field="v", reason=f"{why}run the experiment anew")
    else:
        if version > VERSION:
            why = f"version {shorten(str(version), 20)} is newer than this program's {VERSION}"
            yield UnreadLine(line=number, field="v", reason=why, is_newer=True)
        for each in _validated(value, number):
            if version == VERSION or not isinstance(each, UnreadLine):
                yield each


def _validated(value: dict[str, Any], number: int) -> Iterator[Record]:
    known = _class_of(value)
    if known is None:
        kind = shorten(repr(value.get("kind")), 40)
        why = f"there is no kind {kind}"
        yield UnreadLine(line=number, field="kind", reason=why, is_newer=True)
        return
    while True:
        try:
            record: Record = _adapter(known).validate_python(value)
        except ValidationError as error:
            wrong = error.errors(include_url=False, include_context=False, include_input=False)[0]
            field = shorten(".".join(map(str, wrong["loc"])), 60)
            yield UnreadLine(line=number, field=field, reason=wrong["msg"])
            at = wrong["loc"][0] if wrong["loc"] else ""
            # Everything else hangs on the manifest: it is read without the fields that are wrong.
            if known is not Manifest or at not in value or at == "slug":
                return
            value = {name: each for name, each in value.items() if name != at}
        else:
            if field := _unlike_result(record):
                why = "no result is written so"
                yield UnreadLine(line=number, field=shorten(field, 60), reason=why)
            elif 0 <= record.epoch <= LAST_EPOCH:
                yield record
            else:
                why = f"{shorten(str(record.epoch), 20)} is no number of an epoch"
                yield UnreadLine(line=number, field="epoch", reason=why)
            return


# How the lines begin that `encode` writes: they are read in one pass, three times as fast.
_HEADS = {f'{{"v":{VERSION},"kind":"{record.kind}"'.encode(): record for record in CLASSES}


def _decode_ours(line: bytes) -> Record | None:
    known = _HEADS.get(line[: line.find(b',"epoch":')])
    if known is None or _MARK.encode() in line:
        return None
    try:
        record: Record = _adapter(known).validate_json(line)
    except ValidationError:
        # The slow way accepts more than this one, and its error names the mistake.
        return None
    return record if 0 <= record.epoch <= LAST_EPOCH and not _unlike_result(record) else None


def _unlike_result(record: Record) -> str:
    """The field of the results in a record that is missing or of another type; "" if none is."""
    results: Mapping[str, Any] = {}
    if isinstance(record, TraceRecord):
        results = {"": {"id": "", "items": [*record.items]}, "own.": {"id": "", **record.own}}
    elif isinstance(record, ProgressNote) and record.data:
        results = {"data.": record.data}
    wrong = ((name, _unlike_datum(value)) for name, value in results.items())
    return next((f"{name}{field}" for name, field in wrong if field), "")


def _unlike_datum(value: object) -> str:
    if not isinstance(value, dict):
        return "dict"
    for name, held in value.items():
        if name in _OF_DATUM and not isinstance(held, _OF_DATUM[name]):
            return str(name)
    if "id" not in value:
        return "id"
    for name, number in value.get("metrics", {}).items():
        if not isinstance(number, _NUMBERS):
            return f"metrics.{name}"
    for place, item in enumerate(value.get("items", ())):
        if wrong := _unlike_datum(item):
            return f"items.{place}.{wrong}"
    return ""


def _class_of(value: dict[str, Any]) -> type[Record] | None:
    kind = value.get("kind")
    if kind == Manifest.kind:
        return Manifest if value.get("id") == "manifest" else Event
    return next((known for known in CLASSES if known.kind == kind), None)


def prepare() -> None:
    """Makes what reads lines, which takes longer than to read a few."""
    for record in (*CLASSES, Manifest, Event):
        _adapter(record)


def _adapter(record: type[Record]) -> TypeAdapter[Any]:
    adapter = _ADAPTERS.get(record.__name__)
    if adapter is None:
        adapter = _ADAPTERS[record.__name__] = TypeAdapter(record)
    return adapter


def id_of(line: bytes) -> str | None:
    """The id of a line, whatever else it holds; None if it has none."""
    try:
        value = json.loads(line)
    except _UNLIKE:
        return None
    found = value.get("id") if isinstance(value, dict) else None
    return found if isinstance(found, str) else None


def _dump(value: Any) -> str:
    try:
        return as_json(value, compact=True)
    except ValueError:  # NaN or infinity, which are rare
        return as_json(_finite(value), compact=True)


def _finite(value: Any, *, marked: bool = False) -> Any:
    """NaN and infinity as strings: JSON has no such numbers, and reading turns them back.

    Args:
        marked: It is the user's own payload, where no type says that a text is a number: write
            `{"$float": "NaN"}`.
    """
    if isinstance(value, float) and not math.isfinite(value):
        text = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        return {_MARK: text} if marked else text
    if isinstance(value, dict):
        return {k: _finite(item, marked=marked or k in _PAYLOADS) for k, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item, marked=marked) for item in value]
    return value


def _number(value: dict[str, Any]) -> Any:
    return float(value[_MARK]) if value.keys() == {_MARK} else value
