"""Secrets kept out of what lasts: notes, commits, journals of progress, errors.

The values of secret-looking environment variables are hidden everywhere, replies of models and
programs included: a reply that echoes a key is changed before anybody uses it, so that no result,
no edit and no record has it. What only looks like a key may be a user's data, so it is hidden in
errors alone.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, TypeVar

V = TypeVar("V")

# A word's end says it: OPENAI_API_KEY, DB_PASSWORD2; not GIT_AUTHOR_NAME, MAX_TOKENS, KEY_FILE.
_SECRET_NAME = re.compile(
    r"(?!.*(FILE|PATH|DIR|SOCK|URL)$)(?!(MAX|NUM)_).*(KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|"
    r"CREDENTIAL|COOKIE|BEARER|AUTH|AUTHORIZATION|HEADER)S?\d*(_|$)",
    re.IGNORECASE,
)
_KEY = re.compile(
    r"\b(?:sk|pk|rk|ghp|gho|xox[abp])[-_](?=[\w-]*\d)[\w-]{16,}|\bBearer\s+(?=\S*\d)[\w.~+/=-]{8,}"
)
# A password in an address: postgres://user:password@host.
_IN_ADDRESS = re.compile(r"://[^/\s:@]*:([^/\s@]+)@")
_SHORTEST = 8
_LONG_LINE = 16
HIDDEN = "[hidden]"


def redact(text: str) -> str:
    """A text for people without secrets of the environment, and without what looks like a key.

    >>> redact("x-api-key: sk-ant-api03-abcdefghijklmnop")
    'x-api-key: [hidden]'
    """
    return _KEY.sub(HIDDEN, hide(text))


def hide(value: V) -> V:
    """A text, or what JSON carries, without the values of secret environment variables."""
    secrets = _secrets()
    return value if not secrets else _without(value, list(secrets))


def leaked(text: str) -> str:
    """The environment variable whose secret stands in a text; "" if none does."""
    return next((name for secret, name in _secrets().items() if secret in text), "")


@cache
def _is_secret(name: str) -> bool:
    return _SECRET_NAME.match(name) is not None


def _secrets() -> dict[str, str]:
    """Secret to the name of its variable, the longest first."""
    global _seen  # looking at every variable takes as long as much of a model's call
    # The bytes behind it are compared at once; its own items are decoded one by one.
    environment: dict[object, object] = getattr(os.environ, "_data", None) or dict(os.environ)
    if environment != _seen[0]:
        _seen = environment.copy(), _secrets_in(dict(os.environ))
    return _seen[1]


_seen: tuple[dict[object, object], dict[str, str]] = ({}, {})


def _secrets_in(environment: Mapping[str, str]) -> dict[str, str]:
    found = {
        secret: name
        for name, value in environment.items()
        for part in _parts(name, value)
        if len(part) >= _SHORTEST
        for secret in _written(part)
    }
    return dict(sorted(found.items(), key=lambda pair: -len(pair[0])))


def _parts(name: str, value: str) -> Iterator[str]:
    """The value, its long lines, of headers what stands behind their names; passwords of all."""
    if "://" in value:
        yield from _IN_ADDRESS.findall(value)
    if not _is_secret(name):
        return
    yield value
    for line in value.splitlines():
        if len(line) >= _LONG_LINE:
            yield line
        if "HEADER" in name.upper():
            yield line.partition(":")[2].strip()


@cache
def _written(part: str) -> set[str]:
    """As it is, and as JSON has it, in JSON that stands in JSON too."""
    forms = {part}
    for _ in range(2):
        for ascii_only in (False, True):
            forms |= {json.dumps(form, ensure_ascii=ascii_only)[1:-1] for form in forms}
    return forms


def _without(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, str):
        for secret in secrets:
            if secret in value:
                value = value.replace(secret, HIDDEN)
        return value
    if isinstance(value, Mapping):
        return {_without(k, secrets): _without(item, secrets) for k, item in value.items()}
    if isinstance(value, list):
        return [_without(item, secrets) for item in value]
    if isinstance(value, tuple):
        return tuple(_without(item, secrets) for item in value)
    return value
