"""The key of a service: it goes to no other address than it belongs to."""

from __future__ import annotations

import os

from autopilot.errors import NoKeyError
from autopilot.text import keep_secret


def key_of(
    given: str | None, address_given: str | None, elsewhere: str, *, owner: str, address: str
) -> str | None:
    """The key to send; None: the client may look for it in the environment.

    Args:
        given: The model's own: a key, "$NAME" of an environment variable, or "" for a service that
            needs none.
        address_given: The model's own address; None: the environment's, or the usual one.
        elsewhere: The address that a key of the environment belongs to.
        owner, address: The class and its argument for the address, for the error.

    Raises:
        NoKeyError: there is none for that address.
    """
    if given is None:
        if address_given is None or address_given.rstrip("/") == elsewhere.rstrip("/"):
            return None
        raise NoKeyError(
            f"{owner}({address}={address_given!r}) has no key of its own, and the key of the "
            "environment belongs to another address",
            hint=f'give it one: {owner}(..., api_key="$NAME") takes it from the variable NAME; '
            'api_key="" if that service needs none',
        )
    if given.startswith("$"):
        key = os.environ.get(given[1:], "")
        if not key:
            raise NoKeyError(
                f"the environment variable {given[1:]} has no key", hint=f"set {given[1:]}"
            )
        given = key
    keep_secret(given, "api_key")
    return given or "none"
