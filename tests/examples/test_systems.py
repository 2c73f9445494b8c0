"""The examples of other systems, by their READMEs: the command prints what is shown."""

from __future__ import annotations

import doctest
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from checkouts import commit_all
from runs import autopilot

from autopilot.git.commands import run_git

TOP = Path(__file__).resolve().parents[2]
NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")


class Example:
    """An example in a repository of its own, after the command of its README.

    Args:
        name: The folder's name.
        top: Where the repository is made.
    """

    def __init__(self, name: str, top: Path) -> None:
        self.name, self.top = name, top
        folder = TOP / "examples" / name
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        done = subprocess.run(listed, cwd=folder, capture_output=True, text=True)
        if done.returncode != 0 or not done.stdout:
            pytest.skip("not a git checkout")
        for each in done.stdout.rstrip("\0").split("\0"):
            target = top / "examples" / name / each
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((folder / each).read_bytes())
        commit_all(top)
        joined = self.readme.replace("\\\n", "")
        self.blocks = re.findall(r"^```(\w*)\n(.*?)^```$", joined, re.DOTALL | re.MULTILINE)
        (self.command,) = [code.strip() for kind, code in self.blocks if kind == "sh"][:1]
        self.printed = self.run(self.command)

    def run(self, command: str) -> str:
        """What a command of the README prints; `python` is the one that runs this test."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = autopilot(self.top, *shlex.split(command, comments=True)[1:], PATH=path)
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout

    @property
    def readme(self) -> str:
        return (TOP / "examples" / self.name / "README.md").read_text(encoding="utf-8")

    def check_readme(self, *, numbers: bool = True) -> None:
        """Its commands work, and what it shows after one is what that one printed, in order."""
        assert self.command.startswith("autopilot run ")
        assert len(self.readme.splitlines()) <= 60
        printed = self.printed
        for kind, code in self.blocks:
            for line in code.splitlines() if kind == "sh" and code.strip() != self.command else ():
                printed = self.run(line)
            lines = iter(printed.splitlines())
            for line in code.splitlines() if not kind else ():
                assert line.strip() == "..." or any(
                    same(line, other, numbers) for other in lines
                ), line
        assert run_git(["status", "--porcelain"], cwd=self.top).stdout == b""

    def epochs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.run("autopilot log --json"))["log"]
        return found


def same(shown: str, printed: str, are_same: bool) -> bool:
    """Whether two lines agree; commits and times differ, numbers a little (another SQLite)."""
    if shown.endswith("..."):
        printed = f"{printed[: len(shown) - 3]}..."
    lines = [re.sub(r"\b[0-9a-f]{7}\b|\d+\.\d s\b", "-", line) for line in (shown, printed)]
    words = [NUMBER.sub("#", line).split() for line in lines]
    one, other = ([float(found) for found in NUMBER.findall(line)] for line in lines)
    near = not are_same or one == pytest.approx(other, rel=0.1, abs=0.002)
    return words[0] == words[1] and near


@pytest.fixture
def top(tmp_path: Path, git_environment: Path) -> Path:
    (git_environment / ".gitconfig").write_text("[user]\nname = A\nemail = a@example.org\n")
    place = tmp_path / "clone"
    place.mkdir()
    return place


def test_sqltune_saves_most_steps_and_refuses_other_rows(top: Path) -> None:
    example = Example("sqltune", top)
    example.check_readme()
    epochs = example.epochs()
    (best,) = [epoch for epoch in epochs if epoch["epoch"] == epochs[-1]["best_epoch"]]
    for split in ("val", "test"):
        ratio = epochs[0]["metrics"][split]["kilosteps"] / best["metrics"][split]["kilosteps"]
        assert ratio > 30, split
        assert epochs[0]["metrics"][split]["accuracy"] == best["metrics"][split]["accuracy"] == 1
    # Fewer steps than any epoch before it, and other rows.
    (wrong,) = [epoch for epoch in epochs if epoch["strategy"] == "split OR in two"]
    assert wrong["metrics"]["val"]["kilosteps"] < min(e["best"] for e in epochs[: wrong["epoch"]])
    assert wrong["verdict"] == "rejected"
    assert "find_order does not return the rows it should" in wrong["reasons"][0]
    kept = {epoch["strategy"] for epoch in epochs if epoch["verdict"] == "kept"}
    assert {"add an index", "unwrap the column", "drop unused indexes"} < kept


def test_fraud_finds_thresholds_and_refuses_what_fits_train_alone(top: Path) -> None:
    example = Example("fraud", top)
    example.check_readme()
    epochs = example.epochs()
    best = epochs[epochs[-1]["best_epoch"]]
    before, after = epochs[0]["metrics"], best["metrics"]
    assert before["val"]["f2"] < 0.6 < 0.9 < after["val"]["f2"]
    assert before["test"]["f2"] < 0.5 < 0.85 < after["test"]["f2"]
    assert before["test"]["recall"] < 0.5 < 0.9 < after["test"]["recall"]
    # Each says how far it raises train; val falls.
    learnt = [epoch for epoch in epochs if epoch["strategy"] == "learn errors by heart"]
    assert len(learnt) == 3
    for epoch in learnt:
        found = re.search(r"train f2 (\S+) -> (\S+)$", epoch["summary"])
        assert found is not None and float(found[2]) - float(found[1]) > 0.05
        assert epoch["metrics"]["val"]["f2"] < epoch["best"]
        assert epoch["verdict"] == "rejected" and "no improvement" in epoch["reasons"][0]
    assert autopilot(top, "report").returncode == 0
    page = (top / ".git" / "autopilot" / "reports" / "fraud-1.html").read_text(encoding="utf-8")
    assert all(epoch["summary"] in page and epoch["reasons"][0] in page for epoch in learnt)


def test_arena_balances_all_match_ups(top: Path) -> None:
    example = Example("arena", top)
    example.check_readme(numbers=False)  # another Optuna may propose others
    epochs = example.epochs()
    best = epochs[epochs[-1]["best_epoch"]]
    for split in ("val", "test"):
        before, after = epochs[0]["metrics"][split], best["metrics"][split]
        assert after["imbalance"] < before["imbalance"] / 2, split
        assert before["accuracy"] < 0.2 < 0.6 < after["accuracy"], split
        assert abs(after["seconds"] - 15) < abs(before["seconds"] - 15) / 2, split
    was, now = (
        tomllib.loads(
            run_git(["show", f"{ref}:examples/arena/units.toml"], cwd=top).stdout.decode()
        )
        for ref in ("main", "autopilot/arena-1")
    )
    assert now != was
    for unit, stats in now.items():
        assert {**stats, "damage": 0} == {**was[unit], "damage": 0}


def test_hotloop_stops_what_is_wrong_and_what_is_no_faster(top: Path) -> None:
    example = Example("hotloop", top)
    example.check_readme()
    epochs = example.epochs()
    assert [e["verdict"] for e in epochs] == ["baseline", "kept", "rejected", "rejected", "kept"]
    before, after = epochs[0]["metrics"], epochs[4]["metrics"]
    for split in ("val", "test"):
        assert before[split]["comparisons"] / after[split]["comparisons"] > 7, split
    wrong, comment = epochs[2], epochs[3]
    # Nothing was measured of it, neither comparisons nor time.
    assert not {"comparisons", "milliseconds"} & wrong["metrics"]["val"].keys()
    (why,) = wrong["reasons"]
    assert why.startswith("guard `python -m pytest -q test_contacts.py` failed: ended with")
    assert "test_who_comes_when_another_goes_meets_nobody" in why
    assert comment["value"] == epochs[1]["value"]
    assert comment["reasons"] == [f"val comparisons stayed at {comment['value']:.3f}"]


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="reads are counted on Linux")
def test_flags_finds_settings_whose_diff_is_short(top: Path) -> None:
    before = (TOP / "examples" / "flags" / "pragmas.toml").read_text(encoding="utf-8")
    example = Example("flags", top)
    example.check_readme(numbers=False)  # another Optuna may propose others
    epochs = example.epochs()
    best = epochs[epochs[-1]["best_epoch"]]
    for split in ("val", "test"):
        was, now = epochs[0]["metrics"][split], best["metrics"][split]
        assert now["cost"] < 0.8 * was["cost"], split
        assert now["calls"] < 0.7 * was["calls"], split
    assert "journal_mode delete -> wal" in "".join(epoch["summary"] for epoch in epochs)
    # Promoted by the README: only values differ, so that comments and keys stay.
    after = (top / "examples" / "flags" / "pragmas.toml").read_text(encoding="utf-8")
    assert 'journal_mode = "wal"' in after
    value = re.compile(r"(?<= = )\S+")
    assert value.sub("", after) == value.sub("", before)
    assert run_git(["log", "-1", "--format=%s"], cwd=top).stdout.startswith(b"autopilot(bench-1)")


FILES = [
    ("arena", ("duel", "arena")),
    ("fraud", ("rulebook", "feedback", "strategies", "fraud")),
    ("sqltune", ("plans", "strategies", "shop", "sqltune")),
]


@pytest.mark.parametrize(("name", "files"), FILES)
def test_docstring_examples(name: str, files: tuple[str, ...]) -> None:
    sys.path.insert(0, str(TOP / "examples" / name))
    try:
        for file in files:
            assert doctest.testmod(importlib.import_module(file)).failed == 0
    finally:
        for file in files:
            sys.modules.pop(file, None)
