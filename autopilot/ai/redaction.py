"""Secrets taken out of text that came from outside: a program's output, a service's error.

Requests need none of this: only their body is hashed and recorded, and keys travel in headers.
"""

from __future__ import annotations

import os
import re

_SECRET_NAME = re.compile(
    r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|AUTH|COOKIE|CUSTOM_HEADERS", re.IGNORECASE
)
_KEY = re.compile(r"\b(?:sk|pk|rk|ghp|gho|xox[abp])[-_][A-Za-z0-9_-]{16,}|\bBearer\s+\S{8,}")
_SHORTEST = 8
HIDDEN = "[hidden]"


def redact(text: str) -> str:
    """The text without values of secret-looking environment variables and without API keys.

    >>> redact("x-api-key: sk-ant-api03-abcdefghijklmnop")
    'x-api-key: [hidden]'
    """
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and value in text and _SECRET_NAME.search(name):
            text = text.replace(value, HIDDEN)
    return _KEY.sub(HIDDEN, text)
