"""Text at a border: odd characters are replaced or escaped, secrets hidden, the rest stays."""

import json
import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from autopilot import text
from autopilot.text import as_json, clean, hide, leaked, redact, whole

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


@pytest.mark.parametrize(
    ("name", "value", "hidden"),
    [
        ("OPENAI_API_KEY", "planted-value-1", True),
        ("DB_PASSWORD2", "planted-value-1", True),
        ("ANTHROPIC_AUTH_TOKEN", "planted-value-1", True),
        ("AWS_SECRET_ACCESS_KEY", "planted/value+1", True),
        ("openai_api_key", "planted-value-1", True),
        ("npm_config_authtoken", "planted-value-1", True),
        ("MY_TOKEN", "short", False),
        ("GIT_AUTHOR_NAME", "planted-value-1", False),
        ("MAX_TOKENS", "100000000", False),
        ("SSH_AUTH_SOCK", "/tmp/planted/agent.1", False),
        ("TLS_KEY_FILE", "/etc/planted.pem", False),
        ("EDITOR", "planted-value-1", False),
    ],
)
def test_a_variables_name_says_whether_it_is_secret(monkeypatch, name, value, hidden) -> None:
    monkeypatch.setenv(name, value)
    assert leaked(f"it is {value}!") == (name if hidden else "")
    kept = {"a": [value, ("b", value)], "n": 1}
    assert (hide(kept) == kept) is not hidden


def test_single_lines_of_a_secret_and_keys_of_mappings_are_hidden(monkeypatch) -> None:
    lines = [
        "-----BEGIN PRIVATE KEY-----",
        "MIIEvQIBADANBgkqhkiG9w0B",
        "AQEFAASCBKcwggSj0x==",
        "===",
    ]
    monkeypatch.setenv("deploy_key", "\n".join(lines))
    assert hide("\n".join(lines)) == "[hidden]"
    assert hide(f"line 2: {lines[1]}!") == "line 2: [hidden]!"
    assert leaked(lines[2]) == "deploy_key"
    assert hide("a rule: ===") == "a rule: ==="  # too short to be a secret by itself
    # As JSON has the whole, and JSON inside of JSON.
    assert hide(json.dumps({"key": "\n".join(lines)})) == '{"key": "[hidden]"}'
    assert hide(json.dumps(json.dumps("\n".join(lines)))) == json.dumps(json.dumps("[hidden]"))
    monkeypatch.setenv("EXTRA_HEADERS", "X-Team: planted-team\nX-Other: planted-other")
    assert hide("planted-team, planted-other") == "[hidden], [hidden]"
    kept = {lines[1]: {"at": [(f"<{lines[1]}>", {lines[1]: 1})]}}
    assert hide(kept) == {"[hidden]": {"at": [("<[hidden]>", {"[hidden]": 1})]}}


def test_the_environment_may_change_and_be_another_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_TOKEN", "planted-one")
    assert hide("planted-one planted-two") == "[hidden] planted-two"
    monkeypatch.setenv("SERVICE_TOKEN", "planted-two")
    assert hide("planted-one planted-two") == "planted-one [hidden]"
    monkeypatch.setattr(os, "environ", {"SERVICE_TOKEN": "planted-one"})
    assert hide("planted-one planted-two") == "[hidden] planted-two"


def test_a_password_in_an_address_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://bob:planted-secret@db:5432/x")
    monkeypatch.setenv("HOMEPAGE", "http://planted.example:8080/a@b")
    assert hide("planted-secret at postgres://bob:planted-secret@db") == (
        "[hidden] at postgres://bob:[hidden]@db"
    )
    assert hide("http://planted.example:8080/a@b") == "http://planted.example:8080/a@b"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("key sk-ant-api03-abcdef0123456789", "key [hidden]"),
        ("Authorization: Bearer abc123def456", "Authorization: [hidden]"),
        ("use sk-learn-style-pipelines", "use sk-learn-style-pipelines"),
        ("Bearer authentication is needed", "Bearer authentication is needed"),
    ],
)
def test_what_looks_like_a_key_is_hidden_from_errors(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert hide(text) == text


def test_counts_and_widths_at_their_edges() -> None:
    assert (text.shorten("rules", 5), text.shorten("rules", 4)) == ("rules", "r...")
    assert (text.fitting("規則", 4), text.fitting("規則", 3)) == ("規則", "規")
    assert text.some(["a", "b", "c"]) == "a, b, c"
    said = [text.ago(seconds) for seconds in (59, 60, 7199, 7200, 86400, 172800)]
    assert said == [
        "59 seconds ago",
        "1 minute ago",
        "119 minutes ago",
        "2 hours ago",
        "24 hours ago",
        "2 days ago",
    ]
