"""Keys and parts of requests: recorded calls of earlier versions are found by them."""

from __future__ import annotations

from pathlib import Path

import pytest

from autopilot.ai import gradient, optimizer
from autopilot.ai.model.recording import (
    LocalRecorder,
    make_record,
    numbered,
    request_key,
    request_parts,
    spent_beside,
)
from autopilot.core.types import Cost
from autopilot.errors import ReplayMissError

BODY = {
    "model": "m",
    "max_tokens": 100,
    "stream": True,
    "system": [{"type": "text", "text": "be kind ü", "cache_control": {"type": "ephemeral"}}],
    "messages": [{"role": "user", "content": "x" * 70}],
    "none": None,
    "tools": [{"a": (1, 2)}],
}
KEY = "db2c977e0d2ddb09ffac5bf6f5e60f82"


def test_keys_are_those_of_earlier_versions() -> None:
    assert request_key(BODY) == KEY
    assert request_key(BODY, sample=3) == f"{KEY}-3"
    with numbered("v", 2), numbered("a", 1):
        assert request_key(BODY, sample=1) == f"{KEY}-v2-a1-1"
    with numbered("v", 1):
        assert request_key(BODY) == KEY


@pytest.mark.parametrize(
    ("part", "key"),
    [
        (gradient.SYSTEM, "882b8dcb47b07fdefb1c4f881b8bd94b"),
        (gradient.Collated.model_json_schema(), "e28a0f0ae09c79fdd9e5e0e218e03600"),
        (optimizer.SYSTEM, "9384859fdd4954fb11b84fde87848637"),
        (optimizer.EditReply.model_json_schema(), "209b4e3fe9a5927c786f035d4cdf5d3c"),
    ],
)
def test_what_every_request_says_is_as_in_earlier_versions(part: object, key: str) -> None:
    assert request_key({"a": part}) == key


def test_transport_and_caching_are_not_asked() -> None:
    parts = request_parts(BODY)
    assert not {path for path in parts if "stream" in path or "cache_control" in path}
    assert (parts["model"], parts["tools.0.a.1"]) == ("m", "2")
    assert parts["messages.0.content"].startswith("x" * 60 + "... (70 characters, ")


def test_a_file_answers_what_it_holds_and_a_replay_refuses_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    parts = request_parts(BODY)
    record = make_record(KEY, "judge", "m", Cost(tokens=7), parts, {"content": []}, priced=False)
    LocalRecorder(path).keep(record)
    # As a kill leaves it.
    path.write_bytes(path.read_bytes() + b'\n{"kind":"ll')
    again = LocalRecorder(path, "replay")
    assert again.answer(KEY, parts) == record
    with pytest.raises(ReplayMissError, match="max_tokens: recorded '100', now '200'"):
        again.answer("another", request_parts({**BODY, "max_tokens": 200}))
    assert LocalRecorder(path).answer("another", parts) is None
    spent = spent_beside(path)
    assert (spent.calls, spent.tokens, spent.unpriced) == (1, 7, 1)
