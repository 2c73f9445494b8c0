"""`autopilot try`: edits by hand are measured, kept or taken back, as epochs of an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Place


@pytest.fixture
def desk(place: Place) -> Path:
    """The worktree of an experiment that waits for an edit; its baseline passes no item."""
    found = place.run("try", "start", "counter.py", "-e", "one", "--no-measure-noise", "--json")
    return Path(found.document["path"])


def test_an_edit_is_measured_and_kept_or_taken_back(place: Place, desk: Path) -> None:
    (desk / "x.txt").write_text("3\n")
    with place.untouched():
        kept = place.run("try", "-m", "x: set it to 3\n\nthe items asked for it", "--json").document
        (desk / "x.txt").write_text("2\n")
        # Where the edits are made, it is called as well.
        rejected = place.run("try", "-m", "lower it", cwd=desk)
    assert (kept["epoch"], kept["verdict"], kept["before"], kept["after"]) == (1, "kept", 0.0, 0.4)
    assert (kept["fixed"], kept["broken"]) == (["i1", "i2"], [])
    assert "rejected: val accuracy 0.400 -> 0.200 is no improvement" in rejected.out
    assert "broken 1: i2\n" in rejected.out
    assert "2 rejected lower it; 1 kept x: set it to 3" in rejected.out
    assert "autopilot show 2 -e one" in rejected.out
    assert len(rejected.out.splitlines()) <= 10
    assert (desk / "x.txt").read_text() == "3\n"

    (desk / "x.txt").write_text("6\n")
    place.run("try", "-m", "x: set it to 6")
    back = place.run("try", "--undo", "--json").document
    assert (back["after"], back["best_epoch"], back["left"]) == (0.4, 4, {})
    assert (desk / "x.txt").read_text() == "3\n"

    done = place.run("try", "done")
    assert "test 0.000 -> 0.400" in done.out
    assert not desk.exists()
    records = {r["epoch"]: r for r in place.judged("one")}
    assert [r.get("strategy", "") for r in records.values()] == [
        "",
        "x",
        "lower it",
        *("x", "take back"),
    ]
    assert records[4]["reused"] == 1
    # The baseline, three edits, and the test split on two states; nothing for the one taken back.
    assert records[4]["spent"]["evaluations"] == 20
    for level in ("metrics", "full"):
        place.run("replay", "one", "--level", level)
    place.run("propose", "create", "one")
    assert place.git("diff", "main..autopilot-review/one", "--", "x.txt").endswith("-1\n+3")
    place.call("report", "one")
    place.check_sound()
