"""An item that takes too long or too much memory is an error; the run goes on without it."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.cli.test_supervision import OPTIONS, Runs, is_alive, runs  # noqa: F401  # a fixture

IN_TIME = ("--item-timeout", "0.6")
TWO_EPOCHS = ("--max-epochs", "2")


def accuracies(those: Runs) -> list[float]:
    return [record["metrics"]["accuracy"] for record in those.place.judged("one")]


@pytest.mark.parametrize("in_place", [False, True])
def test_an_item_that_does_not_end(runs: Runs, in_place: bool) -> None:  # noqa: F811
    """One that a signal ends, and in the next epoch one that catches all errors."""
    options = [*IN_TIME, *TWO_EPOCHS, *(["--in-place"] if in_place else [])]
    done = runs.run("val 1 4 hang,val 2 1 stubborn", *options)

    assert done.code == 0, done
    assert "items, item timeout 0.6 s, no memory limit\n" in done.out
    # The batch has the time of its three items, then each has its own.
    assert done.out.count("no result within 1.8 s, in happen (game.py:") == 2, done
    for item, batch, epoch in ((1, 1, 1), (1, 0, 2)):
        place = f"in item {item} of val batch {batch} of epoch {epoch}; it goes on"
        told = rf"no result within 0.6 s, in happen \(game.py:\d+\) {place}"
        assert re.search(told, done.out), done
    # The first one would not have passed.
    assert accuracies(runs) == pytest.approx([0, 1 / 6, 1 / 6])
    for number, evaluated in (("1", "01234345"), ("2", "01012345")):
        items = [item for split, n, item in runs.evaluations() if (split, n) == ("val", number)]
        assert items == [*evaluated]
    for number, name in ((1, "i4"), (2, "i1")):
        (item,) = [item for item in runs.items(number) if item.get("error_message")]
        assert item["id"] == name
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


def test_items_that_take_too_much_memory(runs: Runs) -> None:  # noqa: F811
    """Themselves, in a process of theirs, and in one that has a session of its own."""
    faults = "val 1 2 memory,val 1 4 fork,val 2 1 glutton"
    done = runs.run(faults, "--memory", "128M", *TWO_EPOCHS)

    assert done.code == 0, done
    assert "no item timeout, memory limit 128 MiB" in done.out
    reason = "killed for memory: over 128 MiB, in happen (game.py:"
    assert f"2 of 6 val items failed with: {reason}" in done.out, done
    assert f"1 of 6 val items failed with: {reason}" in done.out, done
    failed = [[x["id"] for x in runs.items(n) if x.get("error_message")] for n in (1, 2)]
    assert failed == [["i2", "i4"], ["i1"]]
    assert accuracies(runs) == pytest.approx([0, 1 / 6, 1 / 6])
    assert not is_alive(int(Path(f"{runs.log}.pid").read_text()))


def test_memory_that_is_taken_fast_is_seen_in_time(runs: Runs) -> None:  # noqa: F811
    done = runs.run("val 2 1 fast", "--memory", "128MB")

    assert done.code == 0, done
    assert "killed for memory: over 128 MiB, in happen (game.py:" in done.out
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
    done = runs.run(f"{fault} memory", "--memory", "128M")

    assert done.code == 1, done
    assert re.fullmatch(
        rf"error: killed for memory: over 128 MiB, in happen \(game.py:\d+\) {where}", done.error
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
