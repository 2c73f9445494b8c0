"""autopilot memory: asked, added to and blocked from the command line."""

from __future__ import annotations

import json
import re
import signal

import pytest
from waiting import wait_for

RULES = """\
from autopilot import AutoPilotModule, DataLoader, Datum, PathParameter, Rule, RuleOptimizer


class Change(Rule):
    def __init__(self, name, by):
        self.name, self.by = name, by

    def apply(self, parameter, gradient):
        value = int(parameter.read_text()) + self.by
        parameter.write_text(f"{value}\\n")
        return f"make it {value}"


class Rules(AutoPilotModule):
    def __init__(self):
        super().__init__()
        self.x = PathParameter("x.txt")

    def forward(self, batch):
        return Datum(items=[self.score(item) for item in batch.items])

    def score(self, item):
        return Datum(success=int(self.x.read_text()) > item.metadata["at"], feedback="raise it")

    def configure_optimizers(self):
        return RuleOptimizer(self.parameters(), [Change("up", 1), Change("down", -3)])

    def train_dataloader(self):
        return DataLoader([{"id": f"i{at}", "at": at} for at in range(1, 11)], 5)

    val_dataloader = train_dataloader
"""


@pytest.fixture
def ruled(place):
    """An experiment of four epochs: up is kept twice, down is rejected twice."""
    place.write("rules.py", RULES)
    place.commit("rules")
    place.run("run", "rules.py", "-e", "demo", "--max-epochs", "4")
    return place


def lessons(place, *options):
    return place.run("memory", "query", "--json", *options).document["lessons"]


def test_query_shows_the_newest_lesson_first(ruled):
    with ruled.untouched():
        done = ruled.run("memory", "query")
    head, *rows = done.out.splitlines()
    assert head.split()[:4] == ["epoch", "outcome", "gain", "strategy"]
    assert [row.split()[:4] for row in rows] == [
        ["4", "rejected", "-0.200", "down"],
        ["3", "kept", "+0.100", "up"],
        ["2", "rejected", "-0.100", "down"],
        ["1", "kept", "+0.100", "up"],
    ]
    assert "make it -1; val accuracy 0.100 -> 0.000 is no improvement" in rows[2]


def test_query_filters(ruled):
    assert [x["epoch"] for x in lessons(ruled, "--strategy", "up")] == [3, 1]
    assert [x["epoch"] for x in lessons(ruled, "--outcome", "rejected", "-n", "1")] == [4]
    assert [x["epoch"] for x in lessons(ruled, "--epochs", "2-3")] == [3, 2]
    assert [x["epoch"] for x in lessons(ruled, "--epochs", "3-")] == [4, 3]
    assert [x["epoch"] for x in lessons(ruled, "--epochs=-2")] == [2, 1]
    assert [x["epoch"] for x in lessons(ruled, "--epochs", "2")] == [2]
    assert lessons(ruled, "--category", "billing") == []
    document = ruled.run("memory", "query", "--node", "none", "--json").document
    assert document == {"experiment": "demo", "total": 4, "count": 0, "lessons": []}
    done = ruled.run("memory", "query", "--strategy", "sideways")
    assert done.out == "no lesson fits (demo knows 4)\n"


def test_query_across_experiments(ruled):
    ruled.run("run", "counter.py", "-e", "other", "--max-epochs", "1")
    found = lessons(ruled, "--all")
    assert [(x["experiment"], x["epoch"]) for x in found] == [
        ("other", 1),
        ("demo", 4),
        ("demo", 3),
        ("demo", 2),
        ("demo", 1),
    ]
    head = ruled.run("memory", "query", "--all", "--strategy", "up").out.splitlines()[0]
    assert head.startswith("experiment  epoch  outcome")
    assert [x["epoch"] for x in lessons(ruled, "-e", "demo")] == [4, 3, 2, 1]


BANDIT = ("run", "rules.py", "--max-epochs", "3", "--strategies", "bandit")


def test_a_new_experiment_goes_by_the_lessons_of_earlier_ones(ruled, tmp_path):
    """`up` was kept each time: a bandit that was told takes it, and one that was not tries all."""
    place, told = ruled, ("--memory-from", "demo")
    done = place.run(*BANDIT, "-e", "whole")
    assert "\nmemory: 4 lessons of demo (--memory-from none: without)" in done.out
    alone = place.run(*BANDIT, "-e", "alone", "--memory-from", "none")
    assert "lessons" not in alone.out

    def strategies(slug):
        return [record["strategy"] for record in place.judged(slug)[1:]]

    assert (strategies("whole"), strategies("alone")[:2]) == (["up"] * 3, ["up", "down"])
    assert [x["experiment"] for x in lessons(place, "-e", "alone")] == ["alone"] * 3
    # The lessons are the new experiment's own: what becomes of the other changes nothing.
    place.run(*BANDIT, "-e", "part", "--max-epochs", "1", *told)
    place.run("store", "branch", "part", "fork", "--from", "0")
    place.run(*BANDIT, "-e", "two", "--proposals", "2", *told)
    place.run("resume", "demo", "--max-epochs", "6")
    place.run("experiment", "delete", "demo", "--yes")
    place.run("resume", "part", "--max-epochs", "3")
    assert place.trees("part") == place.trees("whole")
    place.run("resume", "fork", "--max-epochs", "3")
    assert strategies("fork") == ["up"] * 3
    keys = ("Epoch", "Candidate", "Strategy")
    form = " ".join(f"%(trailers:key=Autopilot-{key},valueonly,separator=)" for key in keys)
    steps = place.git("log", f"--format={form}", "main..autopilot/two").splitlines()
    made = {f"{epoch} {who}" for epoch in (1, 2, 3) for who in ("1 up", "2 down")}
    assert {line for line in steps if len(line.split()) == 3} == made
    clone = tmp_path / "clone"
    place.git("clone", "--quiet", str(place.top), str(clone), cwd=tmp_path)
    place.run("fetch", cwd=clone)
    place.run("replay", "two", "--level", "full", cwd=clone)
    found = place.run("memory", "query", "fork", "--json", cwd=clone).document
    assert [x["experiment"] for x in found["lessons"]] == ["fork"] * 3 + ["demo"] * 4
    rows = place.run("memory", "query", "fork").out.splitlines()
    assert rows[0].startswith("experiment  epoch  outcome") and rows[-1].startswith("demo ")
    context = place.run("memory", "context", "fork").out.splitlines()
    assert context[0] == "tried: up (3x)"
    assert context[-1] == "tried in demo: up (2 of 2 kept), down (0 of 2 kept)"
    page = place.run("experiment", "show", "fork").out
    assert re.search(r"^lessons of +demo \(4\)$", page, re.MULTILINE)


def test_lessons_of_what_does_not_exist_are_refused(ruled):
    for command in (BANDIT, ("run", "rules.py", "--dry-run")):
        done = ruled.autopilot(*command, "--memory-from", "nope")
        assert done.code == 1, done
        assert "--memory-from nope: there is no experiment nope" in done.out + done.err
    assert "rules-1" not in ruled.git("branch", "--list", "autopilot/*")


def test_trends_tell_rate_and_projection(ruled):
    lines = ruled.run("memory", "trends", "--ahead", "5").out.splitlines()
    assert lines[:3] == [
        "demo: val accuracy (higher is better) is improving",
        "best:       0.200",
        "rate:       a gain of +0.050 an epoch over the last 4 epochs, 50% of them kept",
    ]
    assert lines[3].startswith("projection: 0.450 after 5 more epochs at this rate")
    assert [line.split() for line in lines[5:]] == [
        ["strategy", "used", "kept", "gain", "blocked"],
        ["up", "2", "2", "+0.200"],
        ["down", "2", "0", "+0.000"],
    ]
    document = ruled.run("memory", "trends", "--json", "--window", "1").document
    assert (document["direction"], document["rate"], document["best"]) == ("flat", 0.0, 0.2)
    assert document["projection"] == {"epochs": 10, "value": 0.2}


def test_context_is_what_the_optimizer_is_told(ruled):
    done = ruled.run("memory", "context", "--strategy", "up", "--strategy", "sideways")
    assert done.out.splitlines() == [
        "tried: up (2x), down (2x)",
        "not tried yet: sideways",
        "failed: down: make it 0 (val accuracy 0.200 -> 0.000 is no improvement)",
        "failed: down: make it -1 (val accuracy 0.100 -> 0.000 is no improvement)",
        "fails most: down (2x)",
        "trend: improving, +0.05 an epoch over the last 4 epochs, 50% kept",
    ]
    document = ruled.run("memory", "context", "--json").document
    assert document["tried"] == {"up": 2, "down": 2}
    assert [f["epoch"] for f in document["failures"]] == [4, 2]
    assert [(f["strategy"], f["count"]) for f in document["top_failures"]] == [("down", 2)]
    assert document["blocked"] == {}


def test_a_blocked_strategy_is_not_used_by_a_resumed_run(ruled):
    tip = ruled.git("rev-parse", "autopilot/demo")
    with ruled.untouched():
        done = ruled.run("memory", "block", "down", "--reason", "it only hurts")
    assert done.out.splitlines() == [
        "blocked in demo: down (it only hurts)",
        "go on without it: autopilot resume demo",
    ]
    assert ruled.git("rev-parse", "autopilot/demo") == tip
    noted = ruled.git("notes", "--ref=autopilot/demo/memory", "show", tip).splitlines()
    assert json.loads(noted[-1])["outcome"] == "blocked"

    ruled.run("resume", "demo", "--max-epochs", "7")
    used = [record.get("strategy") for record in ruled.judged("demo")][5:]
    assert used == ["up", "up", "up"]

    done = ruled.run("memory", "unblock", "down")
    assert done.out.startswith("allowed again in demo: down (it was blocked: it only hurts)\n")
    ruled.run("resume", "demo", "--max-epochs", "9")
    assert "down" in [record.get("strategy") for record in ruled.judged("demo")][8:]
    ruled.check_sound()


def test_record_adds_what_a_person_knows(ruled):
    for _ in range(2):
        done = ruled.run("memory", "record", "down", "unchanged")
        assert done.out.splitlines() == ["demo knows now: down unchanged"]
    done = ruled.run("memory", "record", "down", "failed", "--reason", "tried last year")
    assert done.out.splitlines() == [
        "demo knows now: down failed",
        "down is blocked by that: did nothing 3 times in a row",
    ]
    (lesson,) = lessons(ruled, "--outcome", "failed")
    assert (lesson["by_hand"], lesson["epoch"], lesson["experiment"]) == (True, 4, "demo")
    document = ruled.run("memory", "record", "new", "kept", "--json").document
    assert document["lesson"]["strategy"] == "new"
    assert document["blocked"] == {"down": "did nothing 3 times in a row"}
    assert "failed (by hand)" in ruled.run("memory", "query").out


IDLE = """\
import random

from autopilot import Rule, RuleOptimizer
from rules import Change, Rules


class Idle(Rule):
    name = "idle"

    def apply(self, parameter, gradient):
        return "look at it"


class Worse(Rule):
    name = "make worse"

    def apply(self, parameter, gradient):
        value = -1 - self.attempt
        parameter.write_text(f"{value}\\n")
        return f"make it {value}"


class Back(Rule):
    name = "back"

    def apply(self, parameter, gradient):
        parameter.write_text("0\\n")
        return "make it 0"


class Idles(Rules):
    def __init__(self, rules: str = "idle"):
        super().__init__()
        made = {rule.name: rule for rule in (Idle(), Worse(), Back())}
        self.rules = [made[name] for name in rules.split(",")]

    def configure_optimizers(self):
        return RuleOptimizer(self.parameters(), self.rules)
"""


@pytest.fixture
def idle(place):
    place.write("rules.py", RULES)
    place.write("idle.py", IDLE)
    place.commit("rules")
    return place


def test_block_after_is_an_option_that_resume_and_replay_go_by(idle):
    idle.run("run", "idle.py", "-e", "two", "--max-epochs", "9", "--block-after", "2")
    assert [record.get("outcome") for record in idle.judged("two")][1:] == ["unchanged"] * 2
    assert idle.run("memory", "context", "-e", "two", "--json").document["blocked"] == {
        "idle": "did nothing 2 times in a row"
    }
    idle.run("resume", "two", "--max-epochs", "4", "--block-after", "0")
    assert len(idle.judged("two")) == 5
    # What was asked for once holds.
    idle.run("resume", "two", "--max-epochs", "6")
    assert len(idle.judged("two")) == 7
    assert idle.run("memory", "context", "-e", "two", "--json").document["blocked"] == {}
    idle.run("replay", "two", "--level", "full")


def test_zero_never_blocks(idle):
    idle.run("run", "idle.py", "-e", "never", "--max-epochs", "7", "--block-after", "0")
    assert len(idle.judged("never")) == 8
    idle.refused(
        "run", "idle.py", "--block-after", "-1", code=2, says=("than or equal to 0",), hints=()
    )


def test_a_run_whose_strategies_are_blocked_says_what_unblocks_them(idle):
    done = idle.run("run", "idle.py", "-e", "demo", "--max-epochs", "9")
    assert "stopped: every strategy is blocked. 3 epochs" in done.out
    how = "autopilot memory unblock idle -e demo (did nothing 3 times in a row); for all that "
    how += "failed: autopilot resume demo --block-after 0"
    for command in (
        ("resume", "demo", "--max-epochs", "20"),
        ("resume", "demo", "--block-after", "1"),
        ("optimize", "train", "demo", "--epochs", "2"),
    ):
        with idle.untouched():
            idle.refused(
                *command, says=("demo cannot go on: every strategy is blocked",), hints=(how,)
            )
    assert f"allow a strategy first: {how}" in idle.run("resume", "demo").out
    idle.run("memory", "unblock", "idle", "-e", "demo")
    done = idle.run("resume", "demo", "--max-epochs", "5")
    assert "stopped: reached the maximum of 5 epochs" in done.out


def test_what_was_blocked_by_hand_is_not_unblocked_by_a_number(idle):
    idle.run("run", "idle.py", "-e", "demo", "-H", "rules=make worse", "--max-epochs", "1")
    idle.run("memory", "block", "make worse")
    idle.run("resume", "demo", "--max-epochs", "3")
    hint = "autopilot memory unblock 'make worse' -e demo (blocked by hand)"
    done = idle.refused(
        "resume", "demo", "--max-epochs", "9", says=("cannot go on",), hints=(hint,)
    )
    assert "--block-after" not in done.err


def test_new_states_are_blocked_late_and_repeats_never(idle):
    """A few misses in a row say little; a run of repeats ends by its patience."""
    done = idle.run("run", "idle.py", "-e", "worse", "-H", "rules=make worse", "--max-epochs", "40")
    assert "stopped: every strategy is blocked. 30 epochs" in done.out
    assert "blocked: make worse (none of its last 30 tries was kept)" in done.out
    done = idle.run("run", "idle.py", "-e", "back", "-H", "rules=back")
    assert "stopped: 10 epochs without improvement" in done.out
    assert {record["outcome"] for record in idle.judged("back")[2:]} == {"repeated"}
    assert "blocked" not in done.out


def test_what_cannot_be_is_refused(ruled):
    ruled.refused(
        "memory",
        "unblock",
        "up",
        says=("'up' is not blocked in demo",),
        hints=("no strategy is blocked",),
    )
    ruled.refused("memory", "query", "-e", "nope", says=("no experiment nope",), hints=("demo",))
    ruled.refused(
        *("memory", "query", "--epochs", "soon"),
        says=("--epochs soon: not a range",),
        hints=("3-7",),
        code=2,
    )
    ruled.refused("memory", "record", "x", "bad", says=("'bad'",), hints=("--help",), code=2)
    ruled.refused("memory", "block", " ", says=("needs a name",), hints=("log",), code=2)
    ruled.refused(
        *("memory", "query", "--all", "-e", "demo"),
        says=("--all and demo",),
        hints=("leave one",),
        code=2,
    )


def test_a_running_experiment_is_not_written_to(place):
    slow = RULES.replace("def score(self, item):", "def score(self, item):\n        wait()")
    place.write("slow.py", f"import time\n\n\ndef wait():\n    time.sleep(60)\n\n\n{slow}")
    place.commit("slow")
    process = place.start("run", "slow.py", "-e", "demo")
    try:
        wait_for(lambda: place.git("for-each-ref", "refs/heads/autopilot/demo"))
        for command in (["block", "up"], ["unblock", "up"], ["record", "up", "failed"]):
            done = place.autopilot("memory", *command, "-e", "demo")
            assert done.code == 1
            assert done.error.startswith("error: the experiment demo is running: ")
            assert f"process {process.pid}" in done.error
            assert "Ctrl-C" in done.hint
        # Reading needs no lock.
        assert place.run("memory", "query", "-e", "demo").out == "demo knows nothing yet\n"
        done = place.run("memory", "trends", "-e", "demo")
        assert done.out == "demo: no epoch is judged yet, so there is no trend\n"
    finally:
        process.send_signal(signal.SIGINT)
        assert place.finish(process).code in (130, 1)
    assert place.git("for-each-ref", "refs/notes/autopilot/demo/memory") == ""
