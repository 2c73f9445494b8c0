"""What a request asks, as it is written down, and how it differs from those that are recorded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from autopilot.core.records.record import LlmRecord
from autopilot.errors import ReplayMissError
from autopilot.text import hide

# Transport and caching do not change what is asked.
_UNASKED = frozenset({"stream", "metadata", "cache_control"})
_SHOWN = 60


def request_parts(body: Mapping[str, Any]) -> dict[str, str]:
    """Path in the body to what is there, long texts as their beginning, length and digest."""
    return {path: _short(text) for path, text in hide(dict(_flat(what_is_asked(body), ""))).items()}


def what_is_asked(value: Any) -> Any:
    """A request's body without what does not change its answer."""
    if isinstance(value, Mapping):
        return {
            k: what_is_asked(v) for k, v in value.items() if k not in _UNASKED and v is not None
        }
    if isinstance(value, list | tuple):
        return [what_is_asked(item) for item in value]
    return value


def _flat(value: Any, path: str) -> Iterator[tuple[str, str]]:
    below = f"{path}." if path else ""
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _flat(item, f"{below}{name}")
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from _flat(item, f"{below}{index}")
    else:
        yield path, value if isinstance(value, str) else json.dumps(value)


def _short(text: str) -> str:
    line = " ".join(text.split())
    if len(text) <= _SHOWN:
        return line
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{line[:_SHOWN]}... ({len(text)} characters, {digest})"


def miss(parts: Mapping[str, str], known: Any) -> ReplayMissError:
    """The error that names what differs from the nearest call of those that are recorded."""
    records: list[LlmRecord] = [record for record in known if record.request]
    if not records:
        return ReplayMissError(
            "a model call is not recorded, and neither is any other",
            hint="fetch the experiment's notes (autopilot fetch), or run it with a key",
        )

    def apart(record: LlmRecord) -> list[str]:
        paths = [*record.request, *(path for path in parts if path not in record.request)]
        return [path for path in paths if record.request.get(path) != parts.get(path)]

    nearest = min(records, key=lambda record: len(apart(record)))
    changes = [
        f"{path}: recorded {nearest.request.get(path, 'nothing')!r}, "
        f"now {parts.get(path, 'nothing')!r}"
        for path in apart(nearest)
    ]
    more = f"; and {len(changes) - 2} more" if len(changes) > 2 else ""
    what = "; ".join(changes[:2]) + more if changes else "only how often it was asked"
    return ReplayMissError(
        f"a model call is not recorded; the nearest one (epoch {nearest.epoch}, {nearest.role}) "
        f"differs in {what}",
        hint="replay with the code, data and package versions that it was recorded with",
    )
