"""Commands as `--expose` shows them: as they would be typed, without secrets."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from autopilot.text import HIDDEN, redact

_SECRET_OPTION = re.compile(
    r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|AUTH|COOKIE|HEADER", re.IGNORECASE
)
_LOGIN = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_LONGEST_ARGUMENT = 200


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
        secret = bool(_SECRET_OPTION.search(name) or value.lower().startswith("authorization"))
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
