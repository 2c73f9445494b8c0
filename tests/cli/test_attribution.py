"""blame and bisect: which epoch wrote a line, and which one broke an item."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from experiments import git, make, top

from autopilot.cli.main import AutoPilotCLI
from autopilot.tracking.attribution import blame
from tests.cli.test_trace import walked

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Place

__all__ = ["top", "walked"]


def lines(*changed: tuple[int, str]) -> str:
    own = dict(changed)
    return "".join(f"{own.get(n, n)}\n" for n in range(10))


def test_each_line_belongs_to_the_kept_epoch_that_wrote_it(top: Path) -> None:
    first = (2, "two, by epoch 1")
    notebook = make(
        top,
        epochs=[
            ({"b.txt": lines(first)}, 0.5),
            # Rejected: its rollback wrote the old lines once more, and owns none of them.
            ({"b.txt": lines((2, "no"), (5, "no"))}, 0.4),
            ({"b.txt": lines(first, (7, "seven, by epoch 3"))}, 0.75),
        ],
    )
    found = blame(notebook, "rules/b.txt")
    assert "".join(f"{line.text}\n" for line in found) == lines(first, (7, "seven, by epoch 3"))
    owners = {line.number: line.epoch.number for line in found if line.epoch is not None}
    assert owners == {3: 1, 8: 3}
    base = git(top, "rev-parse", "HEAD")
    assert {line.commit for line in found if line.epoch is None} == {base}
    assert {line.commit for line in found if line.epoch} == {notebook.after(1), notebook.after(3)}


def test_the_commands_say_it_to_people_and_programs(
    walked: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    def ask(*words: str) -> tuple[int, str]:
        code = AutoPilotCLI().run(["-C", str(walked.top), *words])
        out, err = capfd.readouterr()
        return code, out or err

    assert ask("blame", "x.txt")[1].splitlines()[1].split()[1:] == ["4", "+0.400", "1", "5"]
    assert json.loads(ask("blame", "x.txt", "--json")[1])["lines"][0]["epoch"] == 4
    code, out = ask("blame", "nothing.txt")
    assert (code, "is no file in the best state" in out) == (1, True)

    # Epoch 2 broke i2 and was rejected: no kept epoch did.
    assert "none broke it" in ask("bisect", "--item", "i2")[1]
    assert "never passed" in ask("bisect", "--item", "i5")[1]
    code, out = ask("bisect", "--item", "i99")
    assert (code, "some items: i1" in out) == (1, True)
    assert ask("bisect")[0] == 2


def test_the_epoch_that_broke_an_item_is_the_one_after_it_was_last_good(
    place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    place.write("x.txt", "2\n")
    place.change(
        "counter.py",
        ("int(self.x.read_text()) > item.metadata", "str(item.metadata"),
        ('["at"]', '["at"]) in self.x.read_text()'),
        (
            'f"{int(x.read_text()) + 1}\\n"',
            "{'2': '13', '13': '123', '123': '1345'}[x.read_text().strip()]",
        ),
    )
    place.run("run", "counter.py", "-e", "demo", "--max-epochs", "3")
    # Broken in epoch 1, mended in epoch 2, and broken for good in epoch 3.
    found = place.run("bisect", "--item", "i2", "--json").document
    assert [found[at]["epoch"] for at in ("good", "bad")] == [2, 3]
    assert [found[at]["result"]["success"] for at in ("good", "bad")] == [True, False]
    out = place.run("bisect", "--item", "i2").out
    assert out.startswith("epoch 3 broke i2\n")
    assert "it says: raise it\n" in out
    assert out.endswith("see the change: autopilot show demo 3\n")


def test_steps_that_earn_their_place_are_told_from_those_that_do_not(place: Place) -> None:
    # Each epoch writes a line of its own; "c" brings nothing any more once "d" is there.
    place.write("x.txt", "1\n\n\n\n\n\n\n\n\n")
    place.change(
        "counter.py",
        ("int(self.x.read_text()) > item.metadata", "str(item.metadata"),
        ('["at"]', '["at"]) in self.x.read_text()'),
        (
            'x.write_text(f"{int(x.read_text()) + 1}\\n")',
            "lines = x.read_text().splitlines()\n"
            "        at = 2 * sum(map(bool, lines[::2]))\n"
            "        lines[at] = {2: '2', 4: '3', 6: '3 4', 8: '5'}[at]\n"
            "        x.write_text('\\n'.join(lines) + '\\n')",
        ),
    )
    place.run("run", "counter.py", "-e", "demo", "--max-epochs", "4")
    refs = place.git("for-each-ref")
    found = place.run("distill", "demo", "--json").document
    assert [(s["epoch"], s["difference"], s["earns"]) for s in found["steps"]] == [
        (1, pytest.approx(0.2), True),
        (2, 0, False),
        (3, pytest.approx(0.2), True),
        (4, pytest.approx(0.2), True),
    ]
    assert (found["value"], found["steps"][0]["value"], found["made"]) == (1.0, 0.8, None)
    assert place.git("for-each-ref") == refs
    done = place.run("distill", "--apply", "-e", "small")
    assert "3 of 4 steps earn their place" in done.out
    assert "made small: val accuracy 1.000 -> 1.000" in done.out
    place.run("propose", "create", "small")
    log = place.git("log", "--format=%s", "main..autopilot-review/small")
    assert len(log.splitlines()) == 3
    assert place.git("show", "autopilot-review/small:x.txt").split() == ["1", "2", "3", "4", "5"]
    place.run("replay", "small")
    place.git("fsck", "--strict")
