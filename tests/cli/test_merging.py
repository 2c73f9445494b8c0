"""Candidates that are git's merge of two states: made, killed, read, shared and replayed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Place

# The first proposal adds x to the first line, the second y to the last; a letter twice is wrong.
# Where these are one line, their changes conflict.
TARGET = """\
import os, signal, time
from autopilot import AutoPilotModule, DataLoader, Datum, Optimizer, PathParameter, Step

KILL = {kill!r}


class Line(Optimizer):
    merges = True

    def step(self):
        text, (number, of) = self.parameters[0], self.proposal
        if self.to_merge:
            added = [diff.rpartition("+")[2].strip() for diff in self.to_merge.values()]
            text.write_text("".join(sorted({{*added[0], *added[1]}})) + "\\n")
            return Step(f"{{added[0]}} and {{added[1]}}", "unite")
        lines = text.read_text().splitlines()
        lines[-(number - 1)] += "xy"[number - 1]
        text.write_text("\\n".join(lines) + "\\n")
        return Step(f"line {{number}} of {{of}}", f"line-{{number}}")


class Words(AutoPilotModule):
    def __init__(self):
        super().__init__()
        self.text = PathParameter("words.txt")

    def forward(self, batch):
        text = self.text.read_text()
        if "x" in text and "y" in text and os.path.exists(KILL):
            os.unlink(KILL)
            os.kill(os.getsid(0), signal.SIGKILL)
            time.sleep(60)
        passed = [text.count(x.metadata["at"]) == 1 for x in batch.items]
        return Datum(items=[Datum(success=each, feedback="more") for each in passed])

    def configure_optimizers(self):
        return Line(self.parameters())

    def train_dataloader(self):
        return DataLoader([{{"id": at, "at": at}} for at in "abxy"], 2)

    val_dataloader = train_dataloader
"""
SEARCH = ("--proposals", "2", "--select", "frontier", "--merge", "--max-epochs", "3")
MERGE = "merge of epoch-0001 and epoch-0001-c2"


@pytest.fixture
def words(place: Place, tmp_path: Path) -> Place:
    place.write("words.py", TARGET.format(kill=str(tmp_path / "kill")))
    place.write("words.txt", "a\n1\n2\n3\nb\n")
    place.commit("words")
    return place


def test_two_states_are_merged_whatever_is_killed(words: Place, tmp_path: Path) -> None:
    git, branch = words.git, "autopilot/demo"
    words.run("run", "words.py", "-e", "whole", *SEARCH)
    (tmp_path / "kill").touch()  # all processes, while the merge is measured
    killed = words.autopilot("run", "words.py", "-e", "demo", *SEARCH)
    assert killed.code == -9, killed
    words.run("resume", "demo")
    assert not (tmp_path / "kill").exists()
    form = "--format=%T %s"
    logs = [git("log", form, f"main..autopilot/{slug}") for slug in ("whole", "demo")]
    trees = [sorted(log.replace("whole", "demo").splitlines()) for log in logs]
    assert trees[0] == trees[1]
    assert git("show", f"{branch}:words.txt") == "ax\n1\n2\n3\nby"

    line = git("log", "--first-parent", "--format=%s", f"main..{branch}").splitlines()
    assert line[1] == f"autopilot(demo): epoch 2: {MERGE} (candidate 1 of 2)"
    made, states = f"{branch}/epoch-0002^2", (f"{branch}/epoch-0001", f"{branch}/epoch-0001-c2")
    parents = git("rev-parse", *(f"{state}^{{commit}}" for state in states))
    assert git("rev-parse", f"{made}^1", f"{made}^2") == parents
    body = git("show", "-s", "--format=%B", made)
    assert body.startswith(f"autopilot(demo): epoch 2: {MERGE}\n")
    assert "Autopilot-Parent: epoch-0001\nAutopilot-Merged: epoch-0001-c2\n" in body
    assert MERGE in words.run("show", "2", "-c", "1", "-e", "demo").out
    rows = [row.split() for row in words.run("log", "demo", "-v").out.splitlines()]
    assert [" ".join(row[5:-1]) for row in rows if row[0] == "c1"] == [
        "epoch-0000 line-1",
        "epoch-0001 and epoch-0001-c2 merge",
        "epoch-0002 line-1",
    ]

    git("clone", "--quiet", str(words.top), str(tmp_path / "clone"), cwd=tmp_path)
    words.run("fetch", cwd=tmp_path / "clone")
    for level in ("metrics", "full"):
        words.run("replay", "demo", "--level", level, cwd=tmp_path / "clone")
    words.call("propose", "create", "demo")
    review = git("log", "--format=%s", "main..autopilot-review/demo").splitlines()
    assert [subject.partition(" (")[0] for subject in review] == [
        f"autopilot(demo): epoch 2: {MERGE}",
        "autopilot(demo): epoch 1: line 1 of 2",
    ]
    assert [
        row.split()[1]
        for row in words.call("blame", "words.txt", "-e", "demo").out.splitlines()[1:]
    ][::4] == ["1", "2"]
    assert words.call("distill", "demo").out.count("earns its place") == 2
    assert words.call("bisect", "demo", "--item", "x").code == 0


def test_states_that_conflict_go_to_an_optimizer_that_can_take_both(words: Place) -> None:
    words.write("words.txt", "ab\n")
    words.commit("one line")
    words.run("run", "words.py", "-e", "demo", *SEARCH[:-1], "2")
    assert words.git("show", "autopilot/demo:words.txt") == "abxy"
    made = words.git("show", "-s", "--format=%s%n%p%n%B", "autopilot/demo^2").splitlines()
    assert made[0] == f"autopilot(demo): epoch 2: {MERGE}: abx and aby"
    assert len(made[1].split()) == 2
    assert {"Autopilot-Strategy: unite", "Autopilot-Merged: epoch-0001-c2"} < {*made}
    words.run("replay", "demo", "--level", "full")


def test_a_merge_without_states_to_merge_is_refused(words: Place) -> None:
    says, hints = ("no two to merge",), ("--select frontier", "--keep-states all")
    words.refused("run", "words.py", "--proposals", "2", "--merge", code=2, says=says, hints=hints)
