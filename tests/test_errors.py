"""The tree of errors: drawn as it is, and every error has a message and a hint."""

from __future__ import annotations

import re

import pytest

from autopilot import errors

KINDS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.AutopilotError)
}


def test_the_drawing_names_every_error_below_its_base() -> None:
    drawn = re.search(r"AutopilotError\n.*?\n\n", errors.__doc__, re.DOTALL)[0]
    assert set(re.findall(r"\w+Error", drawn)) == KINDS.keys()
    base = ""
    for line in drawn.splitlines()[1:]:
        first = re.match(r"[│ ]*[├└]── (\w+): ", line)
        base = first[1] if first else "AutopilotError" if "──" in line else base
        below = re.findall(r"\w+Error", line)[1 if first else 0 :]
        assert {KINDS[name].__base__.__name__ for name in below} <= {base}, line


@pytest.mark.parametrize("name", KINDS)
def test_an_error_is_made_of_a_message_and_a_hint(name: str) -> None:
    error = KINDS[name]("it broke", hint="mend it")
    assert (str(error), error.message, error.hint) == ("it broke", "it broke", "mend it")
    assert error.user_traceback == ""
