"""`autopilot try`: edits by hand are measured, kept or taken back, as epochs of an experiment."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kills import forks, send_kill
from waiting import TAUGHT, calls, wait_for

from autopilot.cli.main import AutoPilotCLI
from autopilot.engine.board import Attendant
from autopilot.engine.trying import TryPlace
from autopilot.git.repository import Repository

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
    (desk / "x.txt").write_text("6\n")
    again = place.run("try", "-m", "x: 6 after all", "--json").document
    assert (again["verdict"], again["why"]) == ("kept", ["epoch 3 is taken up again"])
    assert place.run("try", "--undo", "--json").document["best_epoch"] == 6
    assert (desk / "x.txt").read_text() == "3\n"

    done = place.run("try", "done")
    assert "test 0.000 -> 0.400" in done.out
    assert not desk.exists()
    records = {r["epoch"]: r for r in place.judged("one")}
    assert [r.get("strategy", "") for r in records.values()] == [
        "",
        "x",
        "lower it",
        *("x", "take back") * 2,
    ]
    assert records[4]["reused"] == 1
    # The baseline, three edits, and the test split on two states; nothing for the one taken back.
    assert records[4]["spent"]["evaluations"] == 20
    place.run("replay", "one", "--level", "full")
    place.run("propose", "create", "one")
    assert place.git("diff", "main..autopilot-review/one", "--", "x.txt").endswith("-1\n+3")
    place.call("report", "one")
    place.check_sound()


def held(place: Place, *arguments: str) -> Any:
    """A try that is in the middle of its measurement."""
    wait, ready = (place.top.parent / name for name in ("wait", "ready"))
    wait.touch()
    process = place.start("try", *arguments)
    wait_for(lambda: ready.exists() or process.poll() is not None)
    ready.unlink()
    return process


def test_a_try_that_was_killed_is_finished_by_the_next(rules: Place) -> None:
    started = rules.run("try", "start", "rules.py", "-e", "one", "--no-measure-noise", "--json")
    desk = Path(started.document["path"])
    assert calls(rules) == "1 2 3 4 5"
    (desk / "rules" / "x.txt").write_text("4\n")
    (desk / "rules" / "old.txt").unlink()
    (desk / "rules" / "bin").write_bytes(b"c\0d\r\n")
    (desk / "rules" / "run.sh").write_text("#!/bin/sh\n")
    (desk / "rules" / "run.sh").chmod(0o755)
    (desk / "rules" / "link").symlink_to("x.txt")
    (desk / "README.md").write_text("changed\n")
    (desk / "stray.txt").write_text("mine\n")
    # An agent commits as ever.
    rules.git("add", "--all", cwd=desk)
    rules.git("commit", "--quiet", "--message", "by habit", cwd=desk)

    process = held(rules, "-m", "all kinds of files")
    beside = rules.autopilot("try", "-m", "at the same time")
    assert "one is running already" in beside.error
    for pid in (*forks(process.pid), process.pid):
        send_kill(pid)
    rules.finish(process)
    (rules.top.parent / "wait").unlink()
    assert calls(rules) == "1 2 3"
    (desk / "rules" / "x.txt").write_text("5\n")
    shown = rules.run("try").out
    assert "not finished: epoch 1, all kinds of files" in shown

    done = rules.run("try", "-m", "go on")
    assert calls(rules) == "3 4 5"  # what was answered is not asked again
    assert "epoch 1: kept: val accuracy 0.000 -> 0.600" in done.out
    assert "README.md, stray.txt (put back, kept in " in done.out
    assert (desk / "README.md").read_text() == "readme\n"
    assert not (desk / "stray.txt").exists()
    tree = rules.git("ls-tree", "-r", "autopilot/one", "--", "rules", "README.md", "stray.txt")
    entries = {line.split("\t")[1]: line.split()[0] for line in tree.splitlines()}
    assert entries == {
        "README.md": "100644",
        "rules/bin": "100644",
        "rules/link": "120000",
        "rules/run.sh": "100755",
        "rules/x.txt": "100644",
    }
    # The later edit is where it was made, and can be taken back.
    assert (desk / "rules" / "x.txt").read_text() == "5\n"
    back = rules.run("try", "--undo", "--json").document
    assert back["taken_back"] == ["rules/x.txt"]
    assert rules.git("show", f"{back['snapshot']}:rules/x.txt") == "5"
    assert (desk / "rules" / "x.txt").read_text() == "4\n"
    assert os.readlink(desk / "rules" / "link") == "x.txt"
    assert rules.git("status", "--porcelain") == ""
    rules.check_sound()


def test_an_edit_that_a_kill_took_out_of_the_files_is_named(place: Place, desk: Path) -> None:
    (desk / "x.txt").write_text("3\n")
    trial = TryPlace(Repository.discover(place.top), "one").begin("to 3", undo=False)
    assert (desk / "x.txt").read_text() != "3\n"
    kept = f"edited and not measured: x.txt (kept: git show {trial.revision[:10]})"
    assert kept in place.run("try").out
    assert "epoch 1: kept" in place.run("try", "-m", "to 3").out
    assert (desk / "x.txt").read_text() == "3\n"


@pytest.mark.parametrize("moment", ["recorded", "printed"])
def test_an_interrupt_after_the_verdict_does_not_hide_it(
    place: Place,
    desk: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    moment: str,
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(place.top)  # and back at the end: the command goes to the worktree
    if moment == "recorded":
        monkeypatch.setattr(Attendant, "on_epoch_recorded", interrupt)
    else:
        monkeypatch.setattr("autopilot.cli.pages.trying.verdict_lines", interrupt)
    (desk / "x.txt").write_text("3\n")
    assert AutoPilotCLI().run(["try", "-m", "to 3", "-C", str(place.top)]) == 130
    out, err = capfd.readouterr()
    if moment == "recorded":
        assert "interrupted, after the verdict\none epoch 1: kept: " in out
    else:
        verdict, next_one = err.splitlines()[-2:]
        assert verdict == "the edit has its verdict: autopilot show 1 -e one"
        assert next_one == 'go on: autopilot try -m "what you changed" -e one'
    assert place.judged("one")[-1]["verdict"] == "kept"


def test_an_interrupted_try_in_place_keeps_the_edit(rules: Place) -> None:
    budget = ("--budget-evaluations", "12", "--no-measure-noise")
    rules.run("try", "start", "rules.py", "-e", "one", "--in-place", *budget)
    rules.write("rules/x.txt", "3\n")
    rules.write("README.md", "mine\n")
    process = held(rules, "-m", "to 3")
    process.send_signal(signal.SIGINT)
    ended = rules.finish(process)
    (rules.top.parent / "wait").unlink()
    assert ended.code == 130
    assert "not measured: interrupted in epoch 1" in ended.out
    assert rules.read("rules/x.txt") == "3\n"
    refused = rules.autopilot("try", "done")
    assert "edited and not tried" in refused.error

    back = rules.run("try", "--undo", "--json").document
    assert (back["verdict"], back["best_epoch"]) == ("rejected", 0)
    assert rules.read("rules/x.txt") == "1\n"
    rules.write("rules/x.txt", "4\n")
    kept = rules.run("try", "-m", "to 4")
    assert "no parameter, so no part of it: README.md (left as it is)" in kept.out
    rules.write("rules/x.txt", "5\n")
    spent = rules.autopilot("try", "-m", "to 5")
    assert spent.code == 1
    assert "evaluation budget: 10 of 12 spent, an epoch takes 5" in spent.out
    assert "--budget-evaluations N" in spent.out
    assert rules.read("rules/x.txt") == "5\n"
    kept = rules.run("try", "-m", "to 5", "--budget-evaluations", "15", "--json").document
    assert (kept["verdict"], kept["left"]) == ("kept", {"evaluations": 0, "tries": 0})
    rules.run("try", "done")
    assert rules.git("status", "--porcelain") == " M README.md\n M rules/x.txt"
    rules.run("replay", "one")
    assert rules.call("report", "one", "--md").out.count("| rejected |") == 1
    rules.check_sound()


def test_what_cannot_be_tried_is_said_in_a_line(place: Place) -> None:
    none = place.call("try", code=1)
    assert "there is no experiment to try an edit in" in none.error
    measure = """python -c 'print("METRIC x=" + open("x.txt").read())'"""
    command = ("--edit", "x.txt", "--eval", measure, "--metric", "x", "--mode", "max")
    place.run("try", "start", *command, "-e", "one", "--no-measure-noise")
    place.refused("try", "-m", "what", says=("nothing to try: x.txt is as in",), hints=("-m",))
    place.refused("try", "--undo", says=("no kept edit",), hints=("edit a file",))
    place.refused("resume", "one", says=("made by hand",), hints=("autopilot try -e one -m",))
    place.call("try", "start", "-m", "what", code=2)
    place.call("try", "-m", "what", "--undo", code=2)
    place.run("try", "start", "counter.py", "-e", "two", "--no-measure-noise")
    several = place.call("try", code=2)
    assert "2 experiments are open: one, two" in several.error
    place.run("try", "done", "-e", "two")
    finished = place.call("try", "-e", "two", code=1)
    assert "two is finished" in finished.error
    # What waits for an edit is not left over.
    place.call("gc")
    found = place.call("try", "--json").document
    assert (found["experiment"], found["state"], found["best"]) == ("one", "waiting", 1.0)
    assert Path(found["path"], "x.txt").is_file()


def test_the_context_has_the_train_items_of_the_best_state(place: Place) -> None:
    place.write("taught.py", TAUGHT.format(beside=str(place.top.parent)))
    place.commit()
    began = ("try", "start", "taught.py:Numbers", "-e", "one", "--no-measure-noise")
    desk = Path(place.run(*began, "--budget-evaluations", "14", "--json").document["path"])
    (desk / "x.txt").write_text("0\n")
    # What is edited stands aside meanwhile; what was measured before a Ctrl-C is not paid twice.
    process = held(place, "context")
    process.send_signal(signal.SIGINT)
    assert place.finish(process).code == 130
    (place.top.parent / "wait").unlink()
    assert (desk / "x.txt").read_text() == "0\n"
    told = place.run("try", "context").out
    assert calls(place) == "2 3 3 4"
    assert (desk / "x.txt").read_text() == "0\n"
    parts = ["## Goal\n\nCount further.", "Counts up to a number.", f"x.txt in {desk}"]
    parts += ["how far it counts", "In this state 0 of 3 train items pass", "how far 3?"]
    parts += ["expected: 3", "too low for", "9 evaluations (enough for 4 more)"]
    assert [part for part in parts if part not in told] == [], told
    assert "canary" not in told

    assert place.run("try", "-m", "x: less", "--json").document["left"]["evaluations"] == 7
    told = place.run("try", "context", "--json").document["markdown"]
    assert "epoch 1, x: less" in told and "-1\n+0" in told and "how far 3?" in told
    (desk / "x.txt").write_text("3\n")
    kept = place.run("try", "-m", "x: three", "--json").document
    assert (kept["verdict"], kept["left"]) == ("kept", {"evaluations": 5, "tries": 2})
    assert calls(place) == ""
    told = place.run("try", "context").out
    assert calls(place) == "2 3 4"  # another state
    assert "how far 4?" in told and "2 of 3 train items pass" in told
    assert "what worked" in told.lower() and "canary" not in told
    # No budget is left for a further look: what is known is shown.
    (desk / "x.txt").write_text("4\n")
    place.run("try", "-m", "x: four")
    spent = place.run("try", "context")
    assert "warning: the train split is not measured: evaluation budget" in spent.err
    assert "epoch 2, x: three" in spent.out and calls(place) == ""
    assert [r["cost"]["evaluations"] for r in place.judged("one")] == [2, 5, 2, 5]
    place.run("replay", "one", "--level", "full")
    assert "canary" not in place.run("try", "context", "--max-chars", "2000").out


def test_without_a_train_split_the_context_has_the_feedback_on_val(place: Place) -> None:
    text = TAUGHT.format(beside=str(place.top.parent))
    text = text.replace("def train_dataloader", "def unused").replace("{question}", "it")
    place.write("taught.py", text)
    place.commit()
    place.run("try", "start", "taught.py:Numbers", "-e", "one", "--no-measure-noise")
    told = place.run("try", "context").out
    assert "too low for it" in told and "v3" in told and "Count further." in told
    assert "canary" not in told and "expected" not in told
