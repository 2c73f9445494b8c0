"""Secrets taken out of text that came from outside: a program's output, a service's error.

Requests need none of this: only their body is hashed and recorded, and keys travel in headers.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence

_SECRET_NAME = re.compile(
    r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|AUTH|COOKIE|CUSTOM_HEADERS", re.IGNORECASE
)
_KEY = re.compile(r"\b(?:sk|pk|rk|ghp|gho|xox[abp])[-_][A-Za-z0-9_-]{16,}|\bBearer\s+\S{8,}")
_LOGIN = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_SHORTEST = 8
_LONGEST_ARGUMENT = 200
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


def redact_command(command: Sequence[str]) -> str:
    """A command as it would be typed, without secrets: also the logins of addresses, and values of
    options whose names tell that they are secret. What is long is shortened.

    >>> redact_command(["git", "push", "https://ada:pw@host/x.git"])
    'git push https://[hidden]@host/x.git'
    >>> redact_command(["agent", "--api-key", "a b", "--token=c"])
    'agent --api-key [hidden] --token=[hidden]'
    """
    shown: list[str] = []
    follows = False
    for argument in command:
        name, equals, value = argument.partition("=")
        is_option = argument.startswith("-")
        secret = bool(_SECRET_NAME.search(name) or value.lower().startswith("authorization"))
        if follows and not is_option:
            shown.append(HIDDEN)
        elif secret and equals:
            shown.append(f"{name}={HIDDEN}")
        else:
            text = _LOGIN.sub(HIDDEN, redact(argument))
            rest = len(text) - _LONGEST_ARGUMENT
            cut = f"{text[:_LONGEST_ARGUMENT]}... ({rest} more characters)" if rest > 0 else text
            shown.append(cut if HIDDEN in cut else shlex.quote(cut))
        follows = is_option and secret and not equals
    return " ".join(shown)
