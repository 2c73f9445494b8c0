"""Noise and the test split's baseline, as the command line tells them."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Place

# A score by chance: seeded, it differs between measurements and comes out again in a replay;
# unseeded, it never does.
SEEDED = (
    "        return Datum(success=passed, feedback",
    "        import random\n        passed = passed != (random.random() < 0.3)\n"
    "        return Datum(success=passed, feedback",
)
UNSEEDED = (SEEDED[0], SEEDED[1].replace("random.random()", "random.SystemRandom().random()"))
MANY = ("range(1, 6)", "range(1, 41)")
SAID = "epoch is kept only where the difference is significant"


def test_the_header_says_that_two_measurements_agree(place: Place) -> None:
    done = place.run("run", "counter.py", "-e", "one", "--max-epochs", "1")
    lines = done.out.splitlines()
    said = "val: two measurements agree; the smallest gain that the val split can resolve is 0.200"
    assert lines.index(said) < next(n for n, x in enumerate(lines) if x.startswith("epoch "))
    more = place.run("resume", "one", "--max-epochs", "2")
    assert said in more.out
    assert place.run("status", "one", "--json").document["noise"]["evaluations"] == 5
    assert said.removeprefix("val: ") in place.run("show", "0", "-e", "one").out


def test_a_score_by_chance_asks_for_significance_and_replays(place: Place) -> None:
    place.change("counter.py", SEEDED, MANY)
    done = place.run("run", "counter.py", "-e", "one", "--max-epochs", "3", "--seed", "2")
    assert f"of 40 items differ: an {SAID}" in done.out
    assert "; the smallest gain that the val split can resolve is 0." in done.out
    judged = place.judged("one")
    assert judged[0]["noise"]["differing"] > 5
    assert any(r["reasons"][0].startswith("indecisive: ") for r in judged[1:])
    assert "(indecisive)" in done.out
    assert "(indecisive)" in place.run("log", "one").out
    assert place.verdicts("one") == ["baseline", "rejected", "rejected", "rejected"]
    said = "nothing was significantly better than the baseline: autopilot report one --md says why"
    assert said in done.out
    assert "indecisive" in place.run("report", "one", "--md").out
    again = place.run("replay", "one")
    assert f"of 40 items differ: an {SAID}" in again.out
    assert "not comparable" not in again.out
    assert "one replays: " in place.run("replay", "one", "--level", "full").out


def test_unseeded_chance_is_not_comparable_and_a_forged_score_is_a_difference(
    place: Place,
) -> None:
    place.change("counter.py", UNSEEDED, MANY)
    place.run("run", "counter.py", "-e", "one", "--max-epochs", "1")
    done = place.run("replay", "one", "--epochs", "0", "--json")
    (epoch,) = done.document["epochs"]
    assert epoch["not_comparable"]
    assert done.document["same"]


def test_a_metric_that_is_noisy_is_compared_within_its_own_tolerance(place: Place) -> None:
    place.change(
        "counter.py",
        ("import AutoPilotModule,", "import AutoPilotModule, Latency,"),
        (
            "        self.size = size\n",
            "        self.size = size\n        self.slow = Latency('s')\n",
        ),
        (
            "        return Datum(success=passed, feedback",
            "        import random\n"
            "        s = 1 + random.SystemRandom().random() / 10\n"
            "        return Datum(success=passed, metrics={'s': s}, feedback",
        ),
    )
    place.run("run", "counter.py", "-e", "one", "--max-epochs", "1")
    done = place.run("replay", "one")
    assert "not comparable: val slow in epoch 0, 1\n" in done.out
    assert "one replays: 2 epochs came out as recorded, as far as it can be compared" in done.out
    both = ("--tolerance", "slow=0.2", "--tolerance", "s=0.2")
    assert "not comparable" not in place.run("replay", "one", *both).out
    strict = place.autopilot("replay", "one", "--best-only", "--tolerance", "slow=1e-12", "--json")
    assert strict.code == 1
    differing = {each["what"] for each in strict.document["differences"]}
    assert differing == {"val slow", "test slow"}
    wrong = place.autopilot("replay", "one", "--tolerance", "slow=much")
    assert (wrong.code, wrong.hint) == (
        2,
        "  hint: write --tolerance 0.001, or of one metric --tolerance latency=0.2",
    )
    for name in ("slw", ""):
        wrong = place.autopilot("replay", "one", "--tolerance", f"{name}=0.2")
        assert wrong.error == f"error: --tolerance {name}: one has no metric {name!r}"
        assert (wrong.code, wrong.hint) == (2, "  hint: one of: accuracy, s, slow")


@pytest.mark.parametrize("declared", [True, False])
def test_a_noisy_score_on_record_is_no_claim_that_fails(place: Place, declared: bool) -> None:
    latency = "\n        self.slow = Latency('s')" if declared else ""
    place.change(
        "counter.py",
        ("import AutoPilotModule,", "import AutoPilotModule, Latency,"),
        ("        self.size = size\n", f"        self.size = size{latency}\n"),
        (
            "        return Datum(success=passed, feedback",
            "        import random\n"
            "        s = 9 - int(passed) + random.SystemRandom().random() / 10\n"
            "        return Datum(success=passed, metrics={'s': s}, feedback",
        ),
        MANY,
        ("read_text()) + 1", "read_text()) + 18"),
    )
    run = ("run", "counter.py", "-e", "one", "--max-epochs", "2", "--monitor", "s", "--mode", "min")
    place.run(*run)
    place.run("propose", "create", "one")
    done = place.run("propose", "verify", "one")
    said = "no seed repeats test s: the score on record was not compared (--tolerance)"
    assert said in done.out
    strict = place.autopilot("propose", "verify", "one", "--tolerance", "0.0000001")
    assert strict.code == 1 and "the record says" in strict.out


def test_repeats_are_recorded_resumed_and_replayed(place: Place) -> None:
    place.change("counter.py", SEEDED, MANY, ("read_text()) + 1", "read_text()) + 18"))
    place.run("run", "counter.py", "-e", "one", "--max-epochs", "1", "--repeat", "3")
    done = place.run("resume", "one", "--max-epochs", "2")
    assert done.out.count("3 measurements: accuracy ") == 1
    traces = [r for r in place.notes("one", "traces") if r["split"] == "val"]
    assert sorted((r["epoch"], r.get("repeat", 0)) for r in traces) == [
        (epoch, repeat) for epoch in range(3) for repeat in range(3)
    ]
    assert [r["repeat"] for r in place.judged("one")] == [3, 3, 3]
    place.run("replay", "one", "--epochs", "0-2")
    place.run("replay", "one", "--level", "full")


def test_noise_can_be_left_unmeasured(place: Place) -> None:
    done = place.run("run", "counter.py", "--no-measure-noise", "--max-epochs", "1", "-e", "one")
    assert "val: " not in done.out
    assert place.judged("one")[0]["cost"]["evaluations"] == 5
    place.run("replay", "one", "--level", "full")


TESTED = "test 0.000 -> 0.600"


def test_the_test_split_has_a_baseline_everywhere(place: Place) -> None:
    place.change("counter.py", MANY)
    done = place.run("run", "counter.py", "-e", "one", "--max-epochs", "12", "--json")
    gain = done.document["test"]
    assert (gain["before"], gain["after"]) == (0.0, 0.3)
    assert 0 < gain["low"] < 0.3 < gain["high"] < 0.5
    said = f"test 0.000 -> 0.300 (95% interval of the gain {gain['low']:.3f} .. {gain['high']:.3f})"
    for command in (
        ("status", "one"),
        ("log", "one"),
        ("report", "--md"),
        ("experiment", "show", "one"),
    ):
        assert said in place.run(*command).out, command
    assert place.run("status", "one", "--json").document["test"] == gain
    place.run("propose", "create", "one")
    (body,) = (place.top / ".git/autopilot").glob("*.request.md")
    assert f"accuracy {said.removeprefix('test ')}." in body.read_text()
    page = place.top / "page.html"
    place.run("report", "one", "-o", str(page))
    assert f'"test_gain":[0.0,0.3,{gain["low"]!r}' in page.read_text()


@pytest.mark.parametrize(("in_place", "dies_at"), [(False, "2"), (True, "2"), (True, "7")])
def test_a_kill_while_the_test_split_is_scored_leaves_nothing_wrong(
    place: Place, in_place: bool, dies_at: str
) -> None:
    place.change(
        "counter.py",
        (
            "    def configure_optimizers",
            "    def test_step(self, batch):\n"
            "        import os, signal\n"
            "        with open(os.environ['TESTED'], 'a') as log:\n"
            "            log.write('x' * len(batch.items))\n"
            "        if len(open(os.environ['TESTED']).read()) >= int(os.environ.get('DIE', 99)):\n"
            "            os.kill(os.getppid(), signal.SIGKILL)\n"
            "            os.kill(os.getpid(), signal.SIGKILL)\n"
            "        return self(batch)\n\n"
            "    def configure_optimizers",
        ),
    )
    log = place.top.parent / "tested"
    options = ("--in-place",) if in_place else ()
    run = ("run", "counter.py", "-e", "one", "--max-epochs", "3", *options)
    killed = place.autopilot(*run, TESTED=str(log), DIE=dies_at)
    assert killed.code == -signal.SIGKILL
    done = place.run("resume", "one", TESTED=str(log))
    assert TESTED in done.out
    # The batch that was cut off, of two items, is evaluated again; no other is.
    assert len(log.read_text()) == 10 + 2
    assert place.git("show", "autopilot/one:x.txt") == "4"
    if in_place:
        assert (place.top / "x.txt").read_text() == "4\n"
    assert [r["epoch"] for r in place.notes("one", "metrics") if r["split"] == "test"] == [0, 3]
    place.run("replay", "one", TESTED=str(log))
