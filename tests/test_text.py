"""Odd characters: what a border cannot carry is replaced or escaped, and everything else stays."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from autopilot.text import as_json, clean, whole

# Surrogates, controls and line separators among the rest: st.text() leaves half pairs out.
_ALPHABET = 'a \xe9\u898f\ud83d\ude00\ud800\udfff\udcff\0\x07\x1b\x7f\x9b\u2028\n\t"\\\U0001f600'
ODD = st.text(st.sampled_from(_ALPHABET) | st.characters(), max_size=40)


@given(ODD)
def test_a_whole_text_can_be_stored_and_only_halves_differ(text):
    stored = whole(text)
    assert stored.encode().decode() == stored
    assert whole(stored) == stored
    try:
        text.encode()
    except UnicodeEncodeError:
        assert "\ufffd" in stored or "\U0001f600" in stored or len(stored) < len(text)
    else:
        assert stored == text


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("\ud83d", "\ufffd"),
        ("a\ud83db", "a\ufffdb"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("\ud83d\ude00", "\U0001f600"),
        ("\ud83d\U0001f600", "\ufffd\U0001f600"),
        ("\udcff", "\ufffd"),
    ],
)
def test_halves_are_joined_or_replaced(text, stored):
    assert whole(text) == stored


def test_clean_goes_into_what_json_has_and_keeps_what_is_no_text():
    thing = object()
    value = {"k\ud83d": ["\0", ("a\0b", 1, None, 1.5, True)], "x": thing}
    assert clean(value) == {"k\ufffd": ["\ufffd", ("a\ufffdb", 1, None, 1.5, True)], "x": thing}


@given(st.recursive(ODD | st.integers() | st.booleans() | st.none(), st.lists))
@example("\x7f\x9b")
@example("\ud83d\ude00")
def test_json_carries_everything_to_strict_readers(value):
    text = as_json(value, indent=1)
    text.encode()
    assert not set(text) & {chr(code) for code in (*range(10), *range(11, 32), *range(127, 160))}
    # As JSON reads it, two halves side by side are their character.
    assert json.loads(text) == json.loads(json.dumps(value))
    assert json.loads(as_json(value, compact=True)) == json.loads(text)


def test_json_has_no_nan():
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_json([float("nan")])
