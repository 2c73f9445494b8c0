"""What is printed: columns that a terminal has, JSON that programs read, odd characters in both."""

import io
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopilot.cli.output import Output
from autopilot.cli.pages.listing import shorten_end
from autopilot.text import display_width, shorten

TEXT = st.text(st.sampled_from("ab 規。e\u0301\u200b\t\n") | st.characters(), max_size=60)


@given(TEXT, st.integers(0, 50))
def test_a_shortened_text_fits_and_is_the_beginning(text, width):
    line = " ".join(text.split())
    for short in (shorten(text, width), shorten_end(line, width)):
        assert display_width(short) <= max(width, 3)
        if short != line:
            assert short.endswith("...")
            assert line.startswith(short[:-3])
            # Nothing more would have fitted.
            kept = len(short) - 3
            rest = line[kept:].lstrip()
            assert display_width(line[: kept + len(line[kept:]) - len(rest) + 1]) > width - 3


@pytest.mark.parametrize("cut", [shorten, shorten_end])
def test_shortening_is_linear(cut):
    def seconds(text):
        best = 1e9
        for _ in range(3):
            started = time.perf_counter()
            cut(text, 60)
            best = min(best, time.perf_counter() - started)
        return best

    assert seconds("規則太寬。" * 40_000) < 60 * seconds("規則太寬。" * 4_000) + 0.01
    assert seconds("規則太寬。" * 40_000) < 1.0


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_a_document_with_odd_characters_is_json(encoding):
    given = {"t": "\x7f\x9b\x1b\0 規 \ud83d \u2028", "k\ud83d": float("nan")}
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Output(as_json=True, stdout=stream).document(given)
    stream.seek(0)
    text = stream.read()
    assert not set(text) & {"\x1b", "\x7f", "\x9b", "\0"}
    expected = given | {"k\ud83d": "NaN"}
    if encoding != "utf-8":
        expected["t"] = expected["t"].replace("規", "?")
    assert json.loads(text) == expected


def test_a_line_with_odd_characters_does_not_steer_the_terminal():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    Output(stdout=stream).line("\x1b[2J \ud83d \0 \ud83d\ude00")
    stream.seek(0)
    assert stream.read() == "\\x1b[2J \ufffd \\x00 \U0001f600\n"


def test_a_hint_offers_no_option_of_another_command() -> None:
    output = Output()
    output.options = frozenset({"--live", "--link"})
    room = "make room there"
    assert output.own_hint(f"{room}, or run with --in-place") == room
    assert output.own_hint("record them; or let it: --live") == "record them; or let it: --live"
    assert output.own_hint("ask anew: --nothing") == "ask anew: --nothing"
    command = "autopilot resume demo --block-after 0"
    assert output.own_hint(f"wait, or {command}") == f"wait, or {command}"
    output.options = frozenset({"--in-place"})
    assert output.own_hint(f"{room}, or run with --in-place").endswith("--in-place")
