"""Items in processes of their own: the same results whatever their number, and a death for each."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Place
from tests.cli.test_supervision import (
    OPTIONS,
    Runs,
    is_alive,
    runs,  # noqa: F401  # a fixture
    wait_for,
)

DRAWS = (
    ("import os\n", "import os\nimport random\n"),
    ("        items, number = [],", "        self.seen = getattr(self, 'seen', 0) + 1\n"
     "        items, number = [],"),
    ("Datum(success=at < number,", "Datum(success=at < number, metrics={'luck': random.random()}, "
     "metadata={'seen': self.seen, 'pair': [at]},"),
)  # fmt: skip
SHORT = ("--max-epochs", "1")
# What happens in an item, and what is said of it.
ENDS = {
    "segv": "failed with: the evaluation died: signal 11 (SIGSEGV)",
    "kill": "failed with: the evaluation was killed: signal 9 (SIGKILL)",
    "exit0": "failed with: the evaluation died: exit code 0 (os._exit)",
    "exit3": "failed with: the evaluation died: exit code 3 (os._exit)",
    "interrupt": "failed with: the evaluation interrupted itself",
    "memoryerror": "raised: MemoryError no more (game.py:",
}


def accuracies(those: Runs, slug: str = "one") -> list[float]:
    return [record["metrics"]["accuracy"] for record in those.place.judged(slug)]


def story(place: Place, slug: str) -> Any:
    """All that a run has recorded, without times and names of commits."""
    kept = ("epoch", "split", "metrics", "verdict", "reasons", "items", "step", "gradients")
    notes = [
        {name: note[name] for name in kept if name in note}
        for kind in ("metrics", "traces", "gradients")
        for note in place.notes(slug, kind)
    ]
    return place.trees(slug), notes


def tree(pid: int) -> list[int]:
    """A process with all below it."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(folder.name))
    found = [pid]
    for each in found:  # it grows meanwhile
        found += children.get(each, ())
    return found


def gone(pids: list[int]) -> bool:
    return not any(map(is_alive, pids))


def test_any_number_of_jobs_gives_the_same_run(runs: Runs) -> None:  # noqa: F811
    runs.place.change("game.py", *DRAWS)
    runs.place.change("game.py", ("for at in range(6)], 3)", "for at in range(4)], 2)"))
    every = (*SHORT, "--repeat", "2", "--accumulate", "1")
    for jobs in ("1", "3"):
        done = runs.place.run("run", "game.py", "-e", f"j{jobs}", *every, "--jobs", jobs)
        assert f"no item timeout, no memory limit, {jobs} job" in done.out
    assert story(runs.place, "j1") == story(runs.place, "j3")
    items = [i for n in runs.place.notes("j3", "traces") for i in n["items"]]
    seen = {item["metadata"]["seen"] for item in items}
    # No item sees what another one left in the module; each has chance of its own.
    assert seen == {1}
    assert len({item["metrics"]["luck"] for item in items}) == len(items)
    assert [i["id"] for i in runs.place.notes("j3", "traces")[0]["items"]] == [
        f"i{n}" for n in range(4)
    ]
    # An experiment with items in one process has other chance, by batch.
    assert len({pid for *_, pid in runs._lines()}) == len(runs.evaluations()) > 40
    runs.place.run("run", "game.py", "-e", "j0", *every)
    assert story(runs.place, "j0")[1] != story(runs.place, "j3")[1]
    done = runs.place.autopilot("replay", "j3", "--level", "full")
    assert done.code == 0, done


def test_a_death_costs_its_item(runs: Runs) -> None:  # noqa: F811
    """Each kind of end in an item of its own, of every split."""
    runs.place.write("x.txt", "5\n")
    runs.place.commit()
    faults = [f"val {5 + at // 3} {at % 3} {what}" for at, what in enumerate(ENDS)]
    faults += ["train 5 3 kill", "test 5 4 segv", "test 6 5 loud"]
    done = runs.run(",".join(faults), "--jobs", "3", *SHORT)

    assert done.code == 0, done
    assert "it goes on" not in done.out
    assert "Traceback" not in done.err
    for says in ENDS.values():
        assert f"1 of 6 val items {says}" in done.out
    assert "1 of 6 train items failed with: the evaluation was killed" in done.out
    segv = "the evaluation died: signal 11 (SIGSEGV)"
    assert f"1 of 6 test items failed with: {segv}" in done.out
    (first,) = [item for item in runs.items(0, "test") if item.get("error_message")]
    assert (first["id"], first["error_message"]) == ("i4", segv)
    # The others pass, but for item 5 of the first state.
    assert accuracies(runs) == pytest.approx([2 / 6, 3 / 6])
    # No other item is evaluated twice; what was killed is run once more.
    often = Counter(runs.evaluations())
    killed = {("val", "5", "1"): 2, ("train", "5", "3"): 2}
    assert len(often) == 5 * 6 and often == Counter(dict.fromkeys(often, 1) | killed)
    failed = [item for at in (0, 1) for item in runs.items(at) if item.get("error_message")]
    assert [item["id"] for item in failed] == ["i0", "i1", "i2"] * 2
    for item, says in zip(failed, ENDS.values(), strict=True):
        reason = says.partition(": ")[2].partition(" no more")[0]
        assert item["error_message"].startswith(reason)
        told = item["feedback"].removeprefix("it raised ").partition(" (game.py:")[0]
        assert told == item["error_message"]
    # The note of a death has what was printed last.
    assert done.err.count("line 0\n") == done.err.count("line 59\n") == 1
    (item,) = [item for item in runs.items(1, "test") if item.get("error_message")]
    printed = item["metadata"]["stderr"].splitlines()
    assert printed[:50] == [f"line {number}" for number in range(10, 60)]
    assert printed[50] == "Fatal Python error: Segmentation fault"
    assert (item["id"], item["error_message"], item["feedback"]) == ("i5", segv, segv)
    replayed = runs.place.autopilot("replay", "one", FAULT=",".join(faults))
    assert replayed.code == 0, replayed


def test_an_item_that_does_not_end(runs: Runs) -> None:  # noqa: F811
    """One after the other, so that the batch takes longer than its items may."""
    faults = "val 1 0 hang,val 1 1 stubborn,val 1 2 daemon"
    done = runs.run(faults, "--jobs", "1", "--item-timeout", "1", *SHORT)

    assert done.code == 0, done
    says = "no result within 1 s, in happen (game.py:"
    assert f"val items failed with: {says}" in done.out
    assert accuracies(runs) == [0, 0]
    second = [item for split, number, item in runs.evaluations() if (split, number) == ("val", "1")]
    assert second == ["0", "1", "2", "3", "4", "5"]
    failed = [item for item in runs.items(1) if item.get("error_message")]
    assert [item["id"] for item in failed] == ["i0", "i1", "i2"]
    for item in failed:
        assert item["error_message"].startswith(says)
        assert " in validation_step" in item["metadata"]["stderr"]
    assert not is_alive(int(Path(f"{runs.log}.pid").read_text()))


def test_memory_is_that_of_an_item(runs: Runs) -> None:  # noqa: F811
    runs.place.write("x.txt", "2\n")
    runs.place.commit()
    faults = "val 3 1 memory,val 3 2 fork"
    done = runs.run(faults, "--memory", "300M", "--jobs", "2", *SHORT)

    assert done.code == 0, done
    reason = "killed for memory: over 300 MiB, in happen (game.py:"
    assert f"val items failed with: {reason}" in done.out
    failed = [item for item in runs.items(1) if item.get("error_message")]
    assert [item["id"] for item in failed] == ["i1", "i2"]
    assert all(item["error_message"].startswith(reason) for item in failed)
    assert accuracies(runs) == pytest.approx([2 / 6, 1 / 6])


def test_after_kills_another_number_goes_on(runs: Runs) -> None:  # noqa: F811
    runs.place.change("game.py", *DRAWS)
    runs.place.run("run", "game.py", "-e", "whole", *OPTIONS, *SHORT, "--jobs", "2")
    runs.log.unlink()
    process, chance = runs.start("", "--jobs", "3", *SHORT, wanted=4), random.Random(5)
    ended, hurt, is_hurt, code = 0, 0, False, -1
    while ended < 4 or not hurt:
        seen, pids = len(runs.evaluations()), tree(process.pid)
        # The item's own process, its keeper's parent, or the run's: all of them end. An item whose
        # process is killed twice is an error of its own.
        victim = chance.choice([process.pid, process.pid if is_hurt else runs.child()])
        wait_for(lambda: len(runs.evaluations()) > seen or process.poll() is not None)  # noqa: B023
        if process.poll() is None and victim == process.pid:
            process.kill()
        elif process.poll() is None and is_alive(victim):
            os.kill(victim, signal.SIGKILL)
            hurt, is_hurt = hurt + 1, True
        if victim == process.pid or process.poll() is not None:
            code = process.communicate() and process.returncode
            if code == 0:
                break
            wait_for(lambda: gone(pids))  # noqa: B023
            jobs = chance.choice("124")
            ended += 1
            pause = "0.05" if ended < 6 else "0"
            process = runs.place.start("resume", "one", "--jobs", jobs, PAUSE_S=pause)
            is_hurt = False
    assert ended > 2 and (code == 0 or runs.place.finish(process).code == 0)
    assert story(runs.place, "one") == story(runs.place, "whole")
    # An item that was noted is not paid again: twice is one that was going on at a kill.
    often = Counter(map(tuple, runs.evaluations()))
    assert sum(often.values()) - len(often) <= 4 * ended + hurt


def test_after_a_kill_no_noted_item_is_evaluated_again(runs: Runs) -> None:  # noqa: F811
    # Item 2 waits until the others of its batch are noted.
    process = runs.place.start(
        *("run", "game.py", "-e", "one", *OPTIONS, *SHORT, "--jobs", "3"), FAULT="val 1 2 hang"
    )
    wait_for(lambda: ("val", "1", "2") in runs.evaluations())
    time.sleep(0.5)
    pids = tree(process.pid)
    process.kill()
    process.communicate()
    wait_for(lambda: gone(pids))
    runs.place.run("resume", "one", "--jobs", "1")

    first = [item for split, number, item in runs.evaluations() if (split, number) == ("val", "1")]
    assert Counter(first) == Counter({"2": 2} | dict.fromkeys("01345", 1))
    assert accuracies(runs) == pytest.approx([0, 1 / 6])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_no_process_is_left(runs: Runs, number: int) -> None:  # noqa: F811
    process = runs.start("", "--jobs", "2", *SHORT, wanted=8, pause_s=0.3)
    pids = tree(process.pid)
    # The run, its child, two keepers with an item each.
    assert len(pids) >= 5
    (os.killpg if number in (signal.SIGINT, signal.SIGHUP) else os.kill)(process.pid, number)
    done = runs.place.finish(process)

    assert done.code == (130 if number in (signal.SIGINT, signal.SIGTERM) else -number), done
    wait_for(lambda: gone(pids))
    runs.place.run("resume", "one", "--jobs", "2")
    assert accuracies(runs) == pytest.approx([0, 1 / 6])


def test_the_time_budget_ends_items(runs: Runs) -> None:  # noqa: F811
    started = time.monotonic()
    done = runs.run("val 1 2 stubborn", "--budget-seconds", "1", "--jobs", "2", *SHORT)

    assert time.monotonic() - started < 200
    assert done.code == 130, done
    assert gone([int(pid) for *_, pid in runs._lines()])
    runs.place.run("resume", "one", "--budget-seconds", "100", "--jobs", "3")
    assert accuracies(runs) == pytest.approx([0, 1 / 6])


# --- what comes back of a result ------------------------------------------------------------------

PIPELINE = """\
import os
import threading
from autopilot import AutoPilotModule, DataLoader, Datum, Module, Optimizer, PathParameter, Step


class Edit(Optimizer):
    def step(self):
        told = []
        for parameter in self.parameters:
            told.append(f"{parameter.name}: {parameter.grad.render() if parameter.grad else None}")
            parameter.write_text(parameter.read_text() + "x")
        with open(os.environ["EVALUATIONS"], "a") as log:
            log.write("\\n".join(told) + "\\n---\\n")
        return Step("edit", "edit", "\\n".join(told))


class Stage(Module):
    def __init__(self, path):
        super().__init__()
        self.text = PathParameter(path)

    def forward(self, data):
        size = len(self.text.read_text())
        return Datum(items=[Datum(id=i.id, metadata={"n": i.metadata["n"] + size})
                            for i in data.items])


class Second(Stage):
    def backward(self, gradient, inputs, output):
        super().backward(gradient, inputs, output)
        assert inputs[0].items[0].metadata["n"] < output.items[0].metadata["n"]
        rest = {item.id for item in output.items if item.id != "i1"}
        return gradient.for_items(rest) if rest else None


class System(AutoPilotModule):
    def __init__(self):
        super().__init__()
        self.first, self.second = Stage("a.txt"), Second("b.txt")

    def forward(self, batch):
        out = self.second(self.first(batch))
        for given, item in zip(batch.items, out.items):
            item.success, item.feedback = False, f"n={given.metadata['n']}"
            if os.environ.get("LOCK") and given.metadata["n"] == 1:
                item.metadata["lock"] = threading.Lock()
        return out

    def configure_optimizers(self):
        return Edit(self.parameters())

    def train_dataloader(self):
        return DataLoader([{"id": f"i{n}", "n": n} for n in range(4)], 2)

    def val_dataloader(self):
        return DataLoader([{"id": f"v{n}", "n": n} for n in range(2)], 2)
"""


@pytest.fixture
def pipeline(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("EVALUATIONS", str(tmp_path / "told"))
    place.write("target.py", PIPELINE)
    for name in ("a.txt", "b.txt"):
        place.write(name, "text")
    place.commit()
    return place


def test_feedback_goes_back_through_a_pipeline(pipeline: Place) -> None:
    told = Path(os.environ["EVALUATIONS"])
    heard = []
    for slug, options in (("plain", ()), ("j1", ("--jobs", "1")), ("j3", ("--jobs", "3"))):
        told.unlink(missing_ok=True)
        every = (*SHORT, "--accumulate", "1", *options)
        pipeline.run("run", "target.py:System", "-e", slug, *every)
        heard.append(told.read_text())
    # The second stage passes on all feedback but that on item 1.
    first = heard[0].partition("second.text")[0]
    assert "n=0" in first and "n=1" not in first and "n=1" in heard[0]
    assert heard[0] == heard[1] == heard[2]
    assert pipeline.trees("plain") == pipeline.trees("j1") == pipeline.trees("j3")
    assert pipeline.run("replay", "j3", "--level", "full")


def test_a_result_that_cannot_be_sent_is_the_error_of_its_item(pipeline: Place) -> None:
    options = ("-e", "one", "--max-epochs", "1", "--jobs", "2")
    done = pipeline.autopilot("run", "target.py:System", *options, LOCK="1")

    assert done.code == 0, done
    says = "metadata['lock'] of the result cannot be sent from the process that measured it: "
    assert f"1 of 2 val items failed with: {says}" in done.out
    assert f"1 of 4 train items failed with: {says}" in done.out


def test_an_outage_is_waited_for(runs: Runs) -> None:  # noqa: F811
    flag = Path(f"{runs.log}.up")
    down = (
        f"    if what == 'down' and not os.path.exists({str(flag)!r}):\n"
        f"        open({str(flag)!r}, 'w')\n"
        "        raise ConnectionResetError('gone')\n"
    )
    runs.place.change("game.py", ("def happen(what):\n", f"def happen(what):\n{down}"))
    done = runs.run("val 1 1 down", "--jobs", "2", *SHORT)

    assert done.code == 0, done
    assert "gone" in done.out
    assert accuracies(runs) == pytest.approx([0, 1 / 6])
    often = Counter(item for s, number, item in runs.evaluations() if (s, number) == ("val", "1"))
    assert often == Counter({"1": 2} | dict.fromkeys("02345", 1))
    flag.unlink()
    short = (*OPTIONS, *SHORT, "--jobs", "2", "--max-wait", "0")
    stopped = runs.place.autopilot("run", "game.py", "-e", "two", *short, FAULT="val 1 1 down")
    assert stopped.code == 1, stopped
    assert "no answer: ConnectionResetError: gone" in stopped.error
    runs.place.run("resume", "two")
    assert story(runs.place, "two") == story(runs.place, "one")


def test_files_and_variables_that_an_item_reads_are_recorded(runs: Runs) -> None:  # noqa: F811
    reads = (
        "        open('data.txt').close()\n        os.environ.get('MODE')\n        items, number"
    )
    runs.place.write("data.txt", "data\n")
    runs.place.change("game.py", ("        items, number", reads))
    for slug, options in (("plain", ()), ("jobs", ("--jobs", "2"))):
        runs.place.run("run", "game.py", "-e", slug, *OPTIONS, *SHORT, *options)

    def inputs(slug: str) -> Any:
        events = runs.place.notes(slug, "experiment")
        measured = [e.get("environment") for e in events if e.get("name") == "measured"]
        return measured, [record.get("inputs") for record in runs.place.judged(slug)]

    assert "data.txt" in json.dumps(inputs("jobs"))
    assert "$MODE" in json.dumps(inputs("jobs"))
    assert inputs("jobs") == inputs("plain")


# --- options --------------------------------------------------------------------------------------


def test_options_that_do_not_fit(runs: Runs) -> None:  # noqa: F811
    place = runs.place
    place.refused(
        *("run", "game.py", "--jobs", "2", "--num-workers", "2"),
        says=("--jobs and --num-workers cannot be combined",),
        hints=("leave out",),
        code=2,
    )
    place.run("run", "game.py", "-e", "plain", *OPTIONS, *SHORT)
    place.refused(
        *("resume", "plain", "--max-epochs", "2", "--jobs", "2"),
        says=("plain was started without --jobs",),
        hints=("leave it out",),
        code=2,
    )


def test_preflight_and_dry_run_say_and_obey_it(runs: Runs) -> None:  # noqa: F811
    looked = runs.place.run("optimize", "preflight", "game.py", "--jobs", "3")
    assert "limits: no item timeout, no memory limit, 3 jobs" in looked.out
    dry = runs.place.run("run", "game.py", "--jobs", "3", "--dry-run")
    assert "end an item by its limits: no item timeout, no memory limit, 3 jobs" in dry.out
    died = runs.place.autopilot(
        "optimize", "preflight", "game.py", "--jobs", "3", FAULT="val 0 0 segv"
    )
    assert died.code == 1, died
    assert "the evaluation died: signal 11 (SIGSEGV)" in died.out + died.err
    dry = runs.place.autopilot("run", "game.py", "--jobs", "3", "--dry-run", FAULT="val 0 0 exit0")
    assert dry.code == 1, dry
    assert "the evaluation died: exit code 0 (os._exit)" in dry.error


def test_batches_of_one_item_are_named(runs: Runs) -> None:  # noqa: F811
    runs.place.change("game.py", ("for at in range(6)], 3)", "for at in range(6)])"))
    done = runs.run("", "--jobs", "2", *SHORT)
    says = "--jobs 2 is for the items of a batch, and a batch of train, val, test has one: "
    assert f"note: {says}DataLoader(..., batch_size=8)" in done.out
    alone = runs.place.run("run", "game.py", "--jobs", "1", *OPTIONS, *SHORT)
    assert "for the items of a batch" not in alone.out


def test_measuring_a_commit_uses_them(runs: Runs) -> None:  # noqa: F811
    assert runs.run("", "--jobs", "2", *SHORT).code == 0
    for command in (("optimize", "validate", "one"), ("optimize", "test", "one")):
        runs.log.unlink()
        done = runs.place.run(*command)
        assert "0.167" in done.out
        assert len({pid for *_, pid in runs._lines()}) == len(runs.evaluations())
