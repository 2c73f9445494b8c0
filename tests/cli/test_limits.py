"""An item that takes too long or too much memory is an error; the run goes on without it."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.cli.test_supervision import OPTIONS, Runs, is_alive, runs  # noqa: F401  # a fixture

IN_TIME = ("--item-timeout", "0.6")


def accuracies(those: Runs) -> list[float]:
    return [record["metrics"]["accuracy"] for record in those.place.judged("one")]


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("what", ["hang", "stubborn"])
def test_an_item_that_does_not_end(runs: Runs, what: str, in_place: bool) -> None:  # noqa: F811
    done = runs.run(f"val 2 1 {what}", *IN_TIME, *(["--in-place"] if in_place else []))

    assert done.code == 0, done
    assert "items, item timeout 0.6 s, no memory limit\n" in done.out
    # The batch has the time of its three items, then each has its own.
    assert "no result within 1.8 s, in happen (game.py:" in done.out
    where = r"in happen \(game.py:\d+\) in item 1 of val batch 0 of epoch 2; it goes on"
    assert re.search(f"no result within 0.6 s, {where}", done.out), done
    assert accuracies(runs) == pytest.approx([0, 1 / 6, 1 / 6, 1 / 6])
    second = [item for split, number, item in runs.evaluations() if (split, number) == ("val", "2")]
    assert second == ["0", "1", "0", "1", "2", "3", "4", "5"]
    (item,) = [item for item in runs.items(2) if item.get("error_message")]
    assert item["id"] == "i1"
    assert item["error_message"].startswith("no result within 0.6 s, in happen (game.py:")
    # Where it stood, with those that called it.
    assert " in validation_step" in item["metadata"]["stderr"]


def test_the_module_states_the_time_and_an_option_counts_before(runs: Runs) -> None:  # noqa: F811
    program = runs.place.read("game.py")
    stated = program.replace(
        "class Game(AutoPilotModule):", "class Game(AutoPilotModule):\n    item_timeout_s = 0.5"
    )
    runs.place.write("game.py", stated)
    runs.place.git("commit", "--quiet", "--message=timeout", "game.py")
    done = runs.run("val 1 4 hang")
    assert done.code == 0, done
    assert "items, item timeout 0.5 s, no memory limit\n" in done.out
    assert accuracies(runs)[1] == pytest.approx(1 / 6)
    assert (
        "item timeout 7 s" in runs.place.run("run", "game.py", *OPTIONS, "--item-timeout", "7").out
    )
    looked = runs.place.run("optimize", "preflight", "game.py", "--memory", "3G")
    assert "limits: item timeout 0.5 s, memory limit 3 GiB" in looked.out


def test_what_an_item_started_ends_with_it(runs: Runs) -> None:  # noqa: F811
    done = runs.run("val 2 5 daemon", *IN_TIME)

    assert done.code == 0, done
    assert accuracies(runs) == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6])
    assert not is_alive(int(Path(f"{runs.log}.pid").read_text()))


@pytest.mark.parametrize("what", ["memory", "fork", "glutton"])
def test_an_item_that_takes_too_much_memory(runs: Runs, what: str) -> None:  # noqa: F811
    done = runs.run(f"val 2 1 {what}", "--memory", "300M")

    assert done.code == 0, done
    assert "no item timeout, memory limit 300 MiB" in done.out
    reason = "killed for memory: over 300 MiB, in happen (game.py:"
    assert f"1 of 6 val items failed with: {reason}" in done.out
    assert accuracies(runs) == pytest.approx([0, 1 / 6, 1 / 6, 1 / 6])
    if what == "glutton":  # in a session of its own
        assert not is_alive(int(Path(f"{runs.log}.pid").read_text()))


def test_memory_that_is_taken_fast_is_seen_in_time(runs: Runs) -> None:  # noqa: F811
    done = runs.run("val 2 1 fast", "--memory", "400MB")

    assert done.code == 0, done
    assert "killed for memory: over 400 MiB, in happen (game.py:" in done.out
    # Several GB a second; the last number is of the item alone.
    assert int(Path(f"{runs.log}.held").read_text()) < 2000


@pytest.mark.parametrize(
    ("fault", "where"),
    [
        ("import 0 -", "while the target was loaded"),
        ("configure 0 -", "while the target was loaded"),
        ("step 1 -", "3 times in step 1 of epoch 2"),
    ],
)
def test_memory_outside_of_items_ends_the_run(runs: Runs, fault: str, where: str) -> None:  # noqa: F811
    done = runs.run(f"{fault} memory", "--memory", "300M")

    assert done.code == 1, done
    assert re.fullmatch(
        rf"error: killed for memory: over 300 MiB, in happen \(game.py:\d+\) {where}", done.error
    )
    assert "more: --memory SIZE; " in done.hint


def test_a_memory_error_is_that_of_its_item(runs: Runs) -> None:  # noqa: F811
    done = runs.run("val 2 1 memoryerror")

    assert done.code == 0, done
    assert "1 of 6 val items raised: MemoryError no more (game.py:" in done.out
    assert "no item timeout, no memory limit\n" in done.out
    assert accuracies(runs) == pytest.approx([0, 1 / 6, 1 / 6, 1 / 6])


def test_the_note_of_a_death_has_what_was_printed_last(runs: Runs) -> None:  # noqa: F811
    done = runs.run("val 2 1 loud")

    assert done.code == 0, done
    # Passed on as it came, for the batch and for the item.
    assert done.err.count("line 0\n") == done.err.count("line 59\n") == 2
    (item,) = [item for item in runs.items(2) if item.get("error_message")]
    printed = item["metadata"]["stderr"].splitlines()
    assert printed[:50] == [f"line {number}" for number in range(10, 60)]
    assert printed[50] == "Fatal Python error: Segmentation fault"
    assert item["feedback"] == "the evaluation died: signal 11 (SIGSEGV)"


def test_a_replay_ends_what_does_not_end(runs: Runs) -> None:  # noqa: F811
    assert runs.run("", *IN_TIME).code == 0
    started = time.monotonic()
    done = runs.place.autopilot("replay", "one", "--best-only", FAULT="val 3 1 stubborn")

    assert time.monotonic() - started < 40
    assert done.code == 1, done
    assert "i1 raises now" in done.out


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--item-timeout", "0", "--item-timeout must be a number of seconds above 0, not 0.0"),
        ("--item-timeout", "nan", "--item-timeout must be a number of seconds above 0, not nan"),
        ("--memory", "much", "--memory 'much' is no amount of memory"),
        ("--memory", "0G", "--memory '0G' is no amount of memory"),
        ("--memory", "4X", "--memory '4X' is no amount of memory"),
        ("--memory", "-4G", "--memory '-4G' is no amount of memory"),
    ],
)
def test_limits_that_are_none(runs: Runs, option: str, value: str, message: str) -> None:  # noqa: F811
    done = runs.run("", option, value)

    assert done.code == 2, done
    assert done.error == message or message in done.error
    assert done.hint
