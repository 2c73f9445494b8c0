"""The tree of errors: drawn as it is, and every error has a message and a hint."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from autopilot import errors
from autopilot.errors import UsageError, translated_as

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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_the_advice_names_the_cause_that_was_seen(tmp_path: Path) -> None:
    """Real errors of the system; room is advised where there is none, and nowhere else."""
    (tmp_path / "file").touch()
    causes = {
        "make room on the disk": lambda: Path("/dev/full").write_text("more"),
        "choose a shorter name": (tmp_path / ("x" * 300)).touch,
        "move away what has that name": (tmp_path / "file" / "below").mkdir,
        "mend that": (tmp_path / "none").read_text,
    }
    for advice, act in causes.items():
        with pytest.raises(UsageError) as caught, translated_as(UsageError, "no", "{remedy}, then"):
            act()
        assert caught.value.hint == f"{advice}, then"
