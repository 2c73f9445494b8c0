"""Runs with a screen and a race: killed in the middle of one, resumed, replayed, and read."""

from __future__ import annotations

import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Place

# Of train and of val, as many items pass as x.txt says. Each evaluation is one line of a log; the
# process kills itself and the one that waits for it, once, after so many.
TARGET = """\
import os
import signal
from pathlib import Path

from autopilot import AutoPilotModule, DataLoader, Datum, Optimizer, PathParameter, Step

STATES = ["6 20", "9 0", "9 0", "9 18", "7 0", "10 25"]


class Walk(Optimizer):
    count = 0

    def step(self):
        number, of = self.proposal
        state = STATES[min(self.count + number, len(STATES)) - 1]
        self.count += of if number == of else 0
        self.parameters[0].write_text(state)
        return Step(f"set {state}", state.replace(" ", "-"))

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


class Steps(AutoPilotModule):
    def __init__(self):
        super().__init__()
        self.x = PathParameter("x.txt")

    def forward(self, batch):
        log, state = Path(os.environ["EVALUATIONS"]), self.x.read_text()
        train, val = map(int, state.split())
        items = []
        for item in batch.items:
            with log.open("a") as lines:
                lines.write(f"{state} {item.id}\\n")
            if len(log.read_text().splitlines()) == int(os.environ.get("KILL_AT", "0")):
                os.kill(os.getppid(), signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)
            passed = int(item.id[1:]) < (train if item.id[0] == "t" else val)
            items.append(Datum(success=passed, feedback="more"))
        return Datum(items=items)

    def configure_optimizers(self):
        return Walk(self.parameters())

    def train_dataloader(self):
        return DataLoader([{"id": f"t{at}"} for at in range(12)], 4)

    def val_dataloader(self):
        return DataLoader([{"id": f"v{at}"} for at in range(30)], 3)
"""
OPTIONS = ("--seed", "3", "--screen", "8", "--race", "--no-measure-noise", "--no-cache")


@pytest.fixture
def steps(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("EVALUATIONS", str(tmp_path / "evaluations"))
    place.init()
    place.write("x.txt", "6 15")
    place.write("steps.py", TARGET)
    place.commit()
    return place


def story(place: Place, slug: str) -> list[Any]:
    """What the epochs came to, and the items that were measured."""
    judged = [
        [r.get(n) for n in ("epoch", "candidate", "outcome", "reasons", "metrics")]
        + [r["cost"].get("saved"), r["cost"].get("evaluations")]
        for r in place.judged(slug)
    ]
    traces = [[r["epoch"], r["id"], r["items"]] for r in place.notes(slug, "traces")]
    # Candidates are made at once: git lists them in any order.
    return [
        *map(
            sorted, ([str(each) for each in found] for found in (place.trees(slug), judged, traces))
        )
    ]


def evaluations(tmp_path: Path) -> Counter[str]:
    log = tmp_path / "evaluations"
    found = Counter(log.read_text().splitlines())
    log.unlink()
    return found


def test_a_screened_race_is_exact_read_and_replayed(steps: Place, tmp_path: Path) -> None:
    limited = (*OPTIONS, "--max-epochs", "6")
    whole = steps.run("run", "steps.py", "-e", "whole", *limited)
    assert "val items not measured, by --screen and --race" in whole.out
    reference, asked = story(steps, "whole"), evaluations(tmp_path)
    outcomes = [record.get("outcome") for record in steps.judged("whole")[1:]]
    assert outcomes == ["screened", "raced", "repeated", None, "screened", None]
    assert not any(line.startswith("6 20 v") for line in asked)
    # In the screen of the first epoch, in the race of the second one.
    for number in (30 + 12 + 5, 30 + 12 + 8 + 12 + 8 + 7):
        slug = f"killed-{number}"
        done = steps.autopilot("run", "steps.py", "-e", slug, *limited, KILL_AT=str(number))
        assert done.code == -signal.SIGKILL, done
        steps.run("resume", slug)
        assert story(steps, slug) == reference
        # The batch that was being evaluated is evaluated again, and nothing else.
        again = evaluations(tmp_path) - asked
        assert 0 < again.total() <= 4 and len({line.rpartition(" ")[0] for line in again}) == 1
    rows = steps.run("log", "whole").out
    saved = steps.judged("whole")[2]["cost"]["saved"]
    assert "(screened on 8 train items) -> rolled back" in rows
    assert f"(stopped at {30 - saved} of 30 val items)" in rows
    shown = steps.run("show", "2", "-e", "whole").out
    assert f"rejected: stopped at {30 - saved} of 30 val items: accuracy " in shown
    assert f", {saved} not measured" in shown
    total = sum(record["cost"].get("saved", 0) for record in steps.judged("whole"))
    assert total == 60 + saved
    assert f", {total} not measured" in steps.run("report", "whole", "--md").out
    steps.run("replay", "whole", "--level", "full")
    states = steps.run("replay", "whole", "--epochs", "0,1,2,5").out.splitlines()[2:6]
    assert [line.split()[3] for line in states] == ["same", "skipped", "skipped", "skipped"]
    judged = steps.run("policy", "explain", "2", "-e", "whole").out
    assert "stopped at" in judged


def test_candidates_are_screened_and_raced_side_by_side(steps: Place, tmp_path: Path) -> None:
    limited = (*OPTIONS, "--max-epochs", "1", "--proposals", "4", "--jobs", "2")
    steps.run("run", "steps.py", "-e", "whole", *limited)
    reference = story(steps, "whole")
    (epoch,) = [record for record in steps.judged("whole") if "revisions" in record]
    assert epoch["verdict"] == "kept" and epoch["cost"]["saved"] > 30
    rows = steps.run("log", "whole", "-v").out
    assert "screened on 8 train items" in rows and " of 30 val items)" in rows
    evaluations(tmp_path)
    steps.autopilot("run", "steps.py", "-e", "killed", *limited, KILL_AT="75")
    if story(steps, "killed") != reference:
        steps.run("resume", "killed")
    assert story(steps, "killed") == reference
    steps.run("replay", "whole", "--level", "full")


def test_what_does_not_go_together_is_refused(steps: Place) -> None:
    for options, says, hint in (
        (("--screen", "13"), "--screen 13 is no number of the 12 items of", "ask for fewer"),
        (("--race", "--repeat", "2"), "--race does not go with --repeat 2", "leave --race"),
    ):
        steps.refused("run", "steps.py", *options, says=(says,), hints=(hint,), code=2)
