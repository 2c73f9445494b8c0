"""The network that an evaluation may not use: an audit hook that refuses connections."""

from __future__ import annotations

import contextlib
import ipaddress
import sys
from typing import Any

from autopilot.errors import NetworkRefusedError
from autopilot.sandbox.children import Watcher

_REFUSED = {
    "socket.connect": "connects to",
    "socket.sendto": "sends to",
    "socket.sendmsg": "sends to",
    "socket.getaddrinfo": "looks up",
    "socket.gethostbyname": "looks up",
    "socket.gethostbyaddr": "looks up",
}
_PROGRAMS = ("subprocess.Popen", "os.system", "os.posix_spawn", "os.spawn", "os.exec")


class Offline(Watcher):
    """Refuses connections and look-ups of names in this process, between `begin` and `end`.

    Sockets of the file system, by which programs of one machine talk, are left alone. Programs that
    the process starts are not watched.

    Args:
        programs: Refuses to start programs too.
    """

    def __init__(self, *, programs: bool = False) -> None:
        self.refused: list[str] = []
        self._programs, self._is_on = programs, False

    def begin(self) -> None:
        """Starts to refuse; an audit hook cannot be removed, so that this one stays and is off."""
        self._is_on = True
        sys.addaudithook(self._look)

    def end(self) -> None:
        """Refuses nothing more."""
        self._is_on = False

    def begin_apart(self) -> None:
        self.refused = []

    def gathered(self) -> Any:
        return self.refused

    def take_in(self, gathered: Any) -> None:
        self.refused += gathered

    def check(self) -> None:
        """Raises for what was refused, where the code that tried it caught the first error.

        Raises:
            NetworkRefusedError: something was; it names the address.
        """
        if self.refused:
            raise _refusal(self.refused[0])

    def _look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._is_on:
            return
        if self._programs and event in _PROGRAMS:
            self.refused.append(f"starts {_text(arguments[0])}")
            raise _refusal(self.refused[-1])
        does = _REFUSED.get(event)
        if does is None:
            return
        address = _address(event, arguments)
        if address is not None:
            self.refused.append(f"{does} {address}")
            raise _refusal(self.refused[-1])


def _address(event: str, arguments: tuple[Any, ...]) -> str | None:
    """The address of a call, as a person writes it; None for a socket of the file system."""
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        if arguments[0] is None:
            return None  # the machine's own address, to listen on
        name = _text(arguments[0])
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(name)
            return None  # a number needs no look-up
        return name
    target = arguments[1] if len(arguments) > 1 else None
    if isinstance(target, tuple) and len(target) >= 2 and isinstance(target[0], str | bytes):
        return f"{_text(target[0])}:{target[1]}"
    return None


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def _refusal(what: str) -> NetworkRefusedError:
    return NetworkRefusedError(
        f"the evaluation {what}, and only what is recorded may answer",
        hint="make model calls through autopilot's Model, which records them; or let it: --live",
    )
