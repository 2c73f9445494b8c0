"""The command that is run at the end of a run."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Place, place  # noqa: F401  # a fixture

NOTE = 'printf "%s|%s|%s|%s|%s" "$AUTOPILOT_EXPERIMENT" "$AUTOPILOT_STATE" "$AUTOPILOT_EXIT_CODE"'
NOTE += ' "$AUTOPILOT_BEST" "$AUTOPILOT_DETAIL" > ../note; echo told; exit 3'


@pytest.mark.parametrize(
    ("options", "code", "note"),
    [
        (("--max-epochs", "1"), 0, "c|finished|0|0.2|reached the maximum of 1 epoch"),
        (("-H", "nothing=1"), 2, "|failed|2||"),
    ],
)
def test_notify_runs_at_the_end_however_it_ends(
    place: Place,  # noqa: F811
    options: tuple[str, ...],
    code: int,
    note: str,
) -> None:
    done = place.autopilot("run", "counter.py", "-e", "c", "--json", "--notify", NOTE, *options)

    assert done.code == code, done
    assert (place.top.parent / "note").read_text() == note
    assert done.document  # what the command prints is beside the answer
    assert "told" in done.err and "--notify `printf" in done.err and "code 3" in done.err
    assert "printf" not in str(place.notes("c", "experiment") if not code else "")
