"""JSON Lines: what is written is read back, and what is wrong is told by file and line."""

from __future__ import annotations

import json
import os
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator

from autopilot.data import ListDataset, StreamingDataset
from autopilot.data.dataset import read_jsonl, write_jsonl
from autopilot.errors import DataError, UsageError

# hypothesis leaves surrogates out of text by itself; the separators are asked for by name.
TEXT = st.text() | st.text(alphabet='a\u2028\u2029\x85\x0b\x0c\x1c\r\n\\"\ufeff\U0001f600')
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.lists(st.dictionaries(TEXT, VALUES, max_size=4), max_size=6)


class Ticket(BaseModel):
    model_config = ConfigDict(frozen=True)

    text: str
    opened: date = date(2024, 1, 1)
    label: str = Field(default="other", alias="class")

    @field_validator("text")
    @classmethod
    def text_is_short(cls, text: str) -> str:
        if len(text) > 20:
            raise RuntimeError("too long\nfor a ticket")
        return text


def lines(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_bytes(content)
    return path


def failure(path: Path, model: Any = None) -> DataError:
    with pytest.raises(DataError) as held:
        ListDataset.from_jsonl(path, model)
    with pytest.raises(DataError) as streamed:
        list(StreamingDataset(path, model))
    assert streamed.value.message == held.value.message
    assert streamed.value.hint == held.value.hint
    assert "\n" not in held.value.message + held.value.hint
    assert held.value.hint
    return held.value


@given(items=OBJECTS)
def test_what_is_written_is_read_back(
    items: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "items.jsonl"
    ListDataset(items).to_jsonl(path)
    assert ListDataset.from_jsonl(path).items == items
    assert list(StreamingDataset(path)) == items
    # Other tools break lines at more than "\n"; what is written here survives them too.
    assert len(path.read_text(encoding="utf-8").splitlines()) == len(items)


@given(
    items=OBJECTS,
    newline=st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\n \t\r\n"]),
    bom=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    last=st.booleans(),
    ascii_only=st.booleans(),
)
def test_other_writers_files_are_read(
    items: list[dict[str, Any]],
    newline: bytes,
    bom: bytes,
    last: bool,
    ascii_only: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    rows = [json.dumps(item, ensure_ascii=ascii_only).encode() for item in items]
    content = bom + newline.join(rows) + (newline if last else b"")
    path = lines(tmp_path_factory.mktemp("jsonl"), content)
    assert ListDataset.from_jsonl(path).items == items


@given(content=st.binary(max_size=60))
def test_any_bytes_are_items_or_an_error_that_names_the_line(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = lines(tmp_path_factory.mktemp("jsonl"), content)
    try:
        items = ListDataset.from_jsonl(path).items
    except DataError as error:
        assert error.message.startswith(f"{path} line ")
        assert "\n" not in error.message
    else:
        assert all(isinstance(item, dict) for item in items)


def test_separators_inside_a_string_do_not_break_the_line(tmp_path: Path) -> None:
    path = lines(tmp_path, '{"t": "a\u2028b\u2029c\x85d"}\n{"t": "e"}\n'.encode())
    assert ListDataset.from_jsonl(path).items == [{"t": "a\u2028b\u2029c\x85d"}, {"t": "e"}]


def test_marks_of_concatenated_files_are_skipped(tmp_path: Path) -> None:
    path = lines(tmp_path, b'\xef\xbb\xbf{"n": 1}\n\xef\xbb\xbf{"n": 2}\n\xef\xbb\xbf')
    assert ListDataset.from_jsonl(path).items == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"{'a': 1}", "not JSON: Expecting property name enclosed in double quotes at column 2"),
        (b'{"a": 1} {"b": 2}', "not JSON: Extra data at column 10"),
        (b"{", "not JSON: Expecting property name enclosed in double quotes at column 2"),
        (b'{"a": NaN}', "not JSON: NaN is no JSON value; null is"),
        (b'{"a": -Infinity}', "not JSON: -Infinity is no JSON value; null is"),
        (b"[1, 2]", "a list, not an object"),
        (b'"text"', "a string, not an object"),
        (b"7", "a number, not an object"),
        (b"0.5", "a number, not an object"),
        (b"true", "a boolean, not an object"),
        (b"null", "null, not an object"),
        (b'{"a": "\xff"}', "not UTF-8: byte 0xff at byte 8"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: bytes, complaint: str) -> None:
    path = lines(tmp_path, b'{"a": 0}\r\n\r\n' + line + b'\n{"a": 1}\n')
    assert failure(path).message == f"{path} line 3: {complaint}"


@pytest.mark.parametrize("line", [b"[" * 200_000, b'{"a": ' + b"9" * 5000 + b"}"])
def test_what_the_parser_cannot_take_is_an_error_too(tmp_path: Path, line: bytes) -> None:
    path = lines(tmp_path, line)
    assert failure(path).message.startswith(f"{path} line 1: not JSON: ")


def test_a_whole_surrogate_pair_is_one_character(tmp_path: Path) -> None:
    path = lines(tmp_path, b'{"a": "\\ud83d\\ude00", "b": "\\\\ud83d"}')
    assert ListDataset.from_jsonl(path).items == [{"a": "\U0001f600", "b": "\\ud83d"}]


def test_half_of_a_surrogate_pair_is_carried(tmp_path: Path) -> None:
    path = lines(tmp_path, b'{"a": "\\ud83d", "\\ud83d": "\\u0000"}')
    items = list(ListDataset.from_jsonl(path).items)
    assert items == [{"a": "\ud83d", "\ud83d": "\0"}]
    write_jsonl(path, items)
    assert list(ListDataset.from_jsonl(path).items) == items


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    with pytest.raises(DataError) as held:
        ListDataset.from_jsonl(path)
    assert held.value.message == f"{path} does not exist"
    assert str(Path.cwd()) in held.value.hint
    with pytest.raises(DataError, match="does not exist"):
        StreamingDataset(path)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Is a directory"):
        ListDataset.from_jsonl(tmp_path)


def test_a_stream_tells_a_file_that_went_away(tmp_path: Path) -> None:
    path = lines(tmp_path, b'{"n": 1}')
    dataset = StreamingDataset(path)
    path.unlink()
    with pytest.raises(DataError, match="does not exist"):
        list(dataset)


def test_reading_is_lazy(tmp_path: Path) -> None:
    items = iter(StreamingDataset(lines(tmp_path, b'{"n": 1}\nbroken\n')))
    assert next(items) == {"n": 1}
    with pytest.raises(DataError, match="line 2"):
        next(items)


def test_models_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "tickets.jsonl"
    tickets = [
        Ticket(text="refund", opened=date(2025, 2, 3), **{"class": "money"}),
        Ticket(text="zurück\u2028"),
    ]
    ListDataset(tickets).to_jsonl(path)
    assert path.read_text(encoding="utf-8") == (
        '{"text": "refund", "opened": "2025-02-03", "class": "money"}\n'
        '{"text": "zurück\\u2028", "opened": "2024-01-01", "class": "other"}\n'
    )
    assert ListDataset.from_jsonl(path, Ticket).items == tickets
    assert list(StreamingDataset(path, Ticket)) == tickets


def test_an_invalid_model_names_the_field(tmp_path: Path) -> None:
    path = lines(tmp_path, b'{"text": "ok"}\n{"text": 3, "opened": "soon"}\n')
    error = failure(path, Ticket)
    assert error.message.startswith(f"{path} line 2: not a Ticket: text: Input should be a valid")
    assert error.message.endswith("(and 1 more)")
    assert error.__cause__ is not None


def test_a_validator_that_fails_is_told_with_its_line(tmp_path: Path) -> None:
    path = lines(tmp_path, b'{"text": "' + b"x" * 30 + b'"}\n')
    assert failure(path, Ticket).message == (f"{path} line 1: not a Ticket: too long for a ticket")


def test_any_class_with_model_validate_will_do(tmp_path: Path) -> None:
    class Length:
        @classmethod
        def model_validate(cls, obj: Any, /) -> int:
            return len(obj)

    path = lines(tmp_path, b'{"a": 1, "b": 2}\n{}\n')
    assert list(read_jsonl(path, Length)) == [2, 0]  # type: ignore[comparison-overlap]


def test_a_model_that_cannot_validate_is_refused(tmp_path: Path) -> None:
    path = lines(tmp_path, b"{}")
    with pytest.raises(UsageError, match="no model_validate"):
        ListDataset.from_jsonl(path, dict)  # type: ignore[type-var]
    with pytest.raises(UsageError, match="no model_validate"):
        StreamingDataset(path, dict)  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("item", "complaint"),
    [
        ("text", "item 1 is a str, not an object"),
        ([1], "item 1 is a list, not an object"),
        ({"a": {1, 2}}, "item 1 cannot be written as JSON: Object of type set"),
        ({"a": float("nan")}, "item 1 cannot be written as JSON: Out of range"),
    ],
)
def test_an_item_that_cannot_be_written_leaves_the_old_file(
    tmp_path: Path, item: object, complaint: str
) -> None:
    path = lines(tmp_path, b'{"old": true}\n')
    with pytest.raises(DataError) as caught:
        ListDataset([{"a": 1}, item]).to_jsonl(path)
    assert caught.value.message.startswith(complaint)
    assert path.read_bytes() == b'{"old": true}\n'
    assert os.listdir(tmp_path) == ["train.jsonl"]


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need rights there")
def test_writing_through_a_link_keeps_the_link(tmp_path: Path) -> None:
    path = lines(tmp_path, b"")
    link = tmp_path / "link.jsonl"
    link.symlink_to(path)
    ListDataset([{"a": 1}]).to_jsonl(link)
    assert link.is_symlink()
    assert path.read_bytes() == b'{"a": 1}\n'


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    path = lines(tmp_path, b"") / "below" / "a.jsonl"
    with pytest.raises(DataError, match="cannot write"):
        ListDataset([{"a": 1}]).to_jsonl(path)


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be replaced there")
def test_a_walk_goes_on_in_the_file_that_it_opened(tmp_path: Path) -> None:
    path = lines(tmp_path, b'{"n": 1}\n' * 20_000)
    walk = iter(StreamingDataset(path))
    assert next(walk) == {"n": 1}
    ListDataset([{"n": 2}]).to_jsonl(path)
    assert sum(item["n"] for item in walk) == 19_999
    assert path.read_bytes() == b'{"n": 2}\n'
