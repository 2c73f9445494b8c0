"""What ends the process of an evaluation costs one item; a run ends with all of its processes."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from waiting import wait_for

if TYPE_CHECKING:
    from tests.cli.conftest import Done, Place

# Counts a number up, an item passes below it; FAULT says where what happens: "val 2 1 segv" in item
# 1 of the val split while the number is 2, "step 2 - exit3" in the step that starts from 2.
COUNT = """\
import os
import signal
import sys
import time

from autopilot import AutoPilotModule, DataLoader, Datum, Optimizer, PathParameter, Step


def fault(split, number, item="-"):
    for each in filter(None, os.environ.get("FAULT", "").split(",")):
        *place, what = each.split()
        if place == [split, str(number), str(item)]:
            happen(what)


def happen(what):
    if what == "late":
        time.sleep(1)
    if what in ("segv", "late"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what.startswith("exit"):
        os._exit(int(what[4:]))
    if what == "abort":
        os.abort()
    if what == "c-abort":
        import ctypes

        ctypes.CDLL(None).abort()
    if what == "program":
        import subprocess

        program = subprocess.Popen(["sleep", "600"])
        with open(os.environ["EVALUATIONS"] + ".program", "w") as file:
            file.write(str(program.pid))
        program.wait()
    if what == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if what == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
    if what == "memoryerror":
        raise MemoryError("no more")
    if what == "loud":
        for number in range(60):
            print(f"line {number}", file=sys.stderr)
        os.kill(os.getpid(), signal.SIGSEGV)
    if what.startswith("twin"):
        if os.fork():
            return print("twin:", os.waitstatus_to_exitcode(os.wait()[1]))
        if what == "twin-exit":
            sys.exit(7)
        if what == "twin-raise":
            raise ValueError
        return
    if what == "fork" and os.fork():
        os.wait()
    if what in ("daemon", "glutton", "leave") and os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            with open(os.environ["EVALUATIONS"] + ".pid", "w") as file:
                file.write(str(os.getpid()))
            if what == "glutton":
                happen("memory")
            time.sleep(600)
        os._exit(0)
    pid = os.environ["EVALUATIONS"] + ".pid"
    while what == "leave" and not (os.path.exists(pid) and os.path.getsize(pid)):
        time.sleep(0.01)
    held = []
    while what == "fast":
        held.append(b"x" * (32 << 20))
        now = os.environ["EVALUATIONS"] + ".held"
        with open(now + ".new", "w") as file:  # it is killed at any moment
            file.write(str(len(held) << 5))
        os.replace(now + ".new", now)
    while what in ("memory", "fork"):
        held.append(b"x" * (4 << 20))
        time.sleep(0.01)
    while what in ("daemon", "glutton"):
        time.sleep(0.05)
    if what == "much":
        held.append(b"x" * (320 << 20))
    while what in ("hang", "deaf", "much"):
        time.sleep(0.05)
    while what == "stubborn":
        try:
            with open(os.environ["EVALUATIONS"] + ".stubborn", "a") as file:
                file.write("waits\\n")
            while True:
                time.sleep(0.05)
        except BaseException:
            pass


fault("import", 0)


class Count(Optimizer):
    def step(self):
        (x,) = self.parameters
        number = int(x.read_text())
        fault("step", number)
        x.write_text(f"{number + 1}\\n")
        return Step(f"to {number + 1}", "up")


class Game(AutoPilotModule):
    def __init__(self):
        super().__init__()
        self.x = PathParameter("x.txt")

    def run(self, batch, split):
        items, number = [], int(self.x.read_text())
        for item in batch.items:
            at = item.metadata["at"]
            with open(os.environ["EVALUATIONS"], "a") as log:
                log.write(f"{split} {number} {at} {os.getpid()}\\n")
            time.sleep(float(os.environ.get("PAUSE_S", "0")))
            fault(split, number, at)
            items.append(Datum(success=at < number, feedback="try a larger one"))
        return Datum(items=items)

    def training_step(self, batch):
        return self.run(batch, "train")

    def validation_step(self, batch):
        return self.run(batch, "val")

    def test_step(self, batch):
        return self.run(batch, "test")

    def configure_optimizers(self):
        fault("configure", 0)
        return Count(self.parameters())

    def train_dataloader(self):
        return DataLoader([{"id": f"i{at}", "at": at} for at in range(6)], 3)

    val_dataloader = test_dataloader = train_dataloader
"""
OPTIONS = ("--max-epochs", "3", "--no-measure-noise")


class Runs:
    """The user's repository with the game in it."""

    def __init__(self, place: Place, log: Path) -> None:
        self.place, self.log = place, log

    def run(self, fault: str, *options: str, **environment: str) -> Done:
        return self.place.autopilot(
            "run", "game.py", "-e", "one", *OPTIONS, *options, FAULT=fault, **environment
        )

    def start(self, fault: str = "", *options: str, wanted: int = 1, pause_s: float = 0.05) -> Any:
        """A run that has evaluated so many items, and goes on."""
        process = self.place.start(
            *("run", "game.py", "-e", "one", *OPTIONS, *options), FAULT=fault, PAUSE_S=str(pause_s)
        )
        wait_for(lambda: len(self.evaluations()) >= wanted)
        return process

    def evaluations(self) -> list[tuple[str, ...]]:
        """Split, number and item of each, in order."""
        return [line[:-1] for line in self._lines()]

    def child(self) -> int:
        return int(self._lines()[-1][-1])

    def interruptions(self) -> int:
        """How often what does not end was interrupted; -1 before it began."""
        file = Path(f"{self.log}.stubborn")
        return len(file.read_text().splitlines()) - 1 if file.exists() else -1

    def _lines(self) -> list[tuple[str, ...]]:
        text = self.log.read_text() if self.log.exists() else ""
        return [tuple(line.split()) for line in text.splitlines()]

    def items(self, epoch: int, split: str = "val") -> list[dict[str, Any]]:
        """The recorded results of an epoch."""
        traces = self.place.notes("one", "traces")
        return [
            item.get("data", item)
            for trace in traces
            if trace["epoch"] == epoch and trace["split"] == split
            for item in trace["items"]
        ]


@pytest.fixture
def runs(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    log = tmp_path / "evaluations.log"
    monkeypatch.setenv("EVALUATIONS", str(log))
    place.write("game.py", COUNT)
    place.write("x.txt", "0\n")
    place.commit()
    return Runs(place, log)


def is_alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize(
    ("what", "reason", "options"),
    [
        ("segv", "the evaluation died: signal 11 (SIGSEGV)", ()),
        ("exit0", "the evaluation died: exit code 0 (os._exit)", ("--in-place",)),
        ("kill", "the evaluation was killed: signal 9 (SIGKILL)", ("--in-place",)),
    ],
)
def test_a_death_is_the_error_of_its_item(
    runs: Runs, what: str, reason: str, options: tuple[str, ...]
) -> None:
    done = runs.run(f"val 2 1 {what}", "--max-epochs", "2", *options)

    assert done.code == 0, done
    assert f"{reason} in item 1 of val batch 0 of epoch 2; it goes on" in done.out
    assert f"1 of 6 val items failed with: {reason}" in done.out
    record = next(r for r in runs.place.judged("one") if r["epoch"] == 2)
    # Item 0 passes, item 1 would: the other items keep their results.
    assert record["metrics"]["accuracy"] == pytest.approx(1 / 6)
    # The batch, its items up to the one that died, the one after it; then the other batch. What was
    # killed once is run once more.
    second = [item for split, number, item in runs.evaluations() if (split, number) == ("val", "2")]
    killed = ["0", "1", "0", "1", "0", "1", "1", "2", "3", "4", "5"]
    assert second == (killed if what == "kill" else ["0", "1", "0", "1", "2", "3", "4", "5"])
    assert done.out.count("epoch  val accuracy") == 1
    assert "Traceback" not in done.err
    assert reason in runs.place.run("show", "2", "-e", "one").out


def test_a_death_in_train(runs: Runs) -> None:
    done = runs.run("train 1 4 segv")

    assert done.code == 0, done
    assert "1 of 6 train items failed with: the evaluation died: signal 11 (SIGSEGV)" in done.out
    first = [
        item for split, number, item in runs.evaluations() if (split, number) == ("train", "1")
    ]
    assert first == ["0", "1", "2", "3", "4", "3", "4", "5"]
    assert [r["metrics"]["accuracy"] for r in runs.place.judged("one")][-1] == 0.5


def test_the_time_of_a_death_counts(runs: Runs) -> None:
    done = runs.run("val 1 2 late", "--budget-seconds", "2")

    assert done.code == 0, done
    assert "stopped: time budget" in done.out
    # The batch takes a second until it dies, and then the item.
    assert [r["cost"]["seconds"] > 2 for r in runs.place.judged("one")] == [False, True]
    assert json.loads(runs.place.run("log", "one", "--json").out)["cost"]["seconds"] > 2


def test_deaths_of_several_items_in_every_split(runs: Runs) -> None:
    faults = (
        "val 0 5 exit3,val 1 4 exit0,val 1 5 abort,train 2 3 kill,test 3 1 c-abort,test 0 4 segv"
    )
    done = runs.run(faults)

    assert done.code == 0, done
    values = [r["metrics"]["accuracy"] for r in runs.place.judged("one")]
    assert values == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6])
    assert done.out.count("it goes on") == 13
    assert "1 of 6 test items failed with" in done.out
    for how, where in (
        ("died: exit code 3 (os._exit)", "item 2 of val batch 1 of epoch 0"),
        ("died: exit code 0 (os._exit)", "item 1 of val batch 1 of epoch 1"),
        ("died: signal 6 (SIGABRT)", "item 2 of val batch 1 of epoch 1"),
        ("was killed: signal 9 (SIGKILL)", "item 0 of train batch 1 of epoch 3"),
        ("died: signal 6 (SIGABRT)", "item 1 of test batch 0 of epoch 3"),
        ("died: signal 11 (SIGSEGV)", "item 1 of test batch 1 of epoch 0"),
    ):
        assert f"the evaluation {how} in {where}; it goes on" in done.out, done


def test_all_items_of_the_baseline_die(runs: Runs) -> None:
    done = runs.run(",".join(f"val 0 {item} segv" for item in range(6)))

    assert done.code == 1, done
    assert "all 6 val items failed: the evaluation died: signal 11 (SIGSEGV)" in done.error
    # Nothing was measured: no experiment is left.
    assert runs.place.git("for-each-ref", "refs/heads/autopilot/one") == ""


def test_a_death_in_a_step_three_times(runs: Runs) -> None:
    done = runs.run("step 1 - exit3")

    assert done.code == 1, done
    assert "exit code 3 (os._exit) 3 times in step 1 of epoch 2" in done.error
    assert "autopilot resume one" in done.hint
    assert runs.place.run("resume", "one").code == 0
    assert [r["metrics"]["accuracy"] for r in runs.place.judged("one")][-1] == 0.5


def callback(line: str) -> tuple[tuple[str, str], ...]:
    """The changes that give the module a callback, which a line completes."""
    before = "    def configure_optimizers"
    body = f"        callback = Callback()\n        {line}\n        return [callback]\n\n"
    return (
        ("import AutoPilotModule, ", "import AutoPilotModule, Callback, "),
        (before, f"    def configure_callbacks(self):\n{body}{before}"),
    )


@pytest.mark.parametrize(
    ("dies", "where"),
    [
        ("on_validation_end", "after val batch 1 of epoch 0"),
        ("on_before_zero_grad", "after step 1 of epoch 1"),
        ("on_fit_start", "after the target was imported"),
    ],
)
def test_a_death_beside_items_and_steps_names_its_place(runs: Runs, dies: str, where: str) -> None:
    runs.place.change("game.py", *callback(f"callback.{dies} = lambda *_: os._exit(0)"))
    done = runs.run("")

    assert done.code == 1, done
    assert f"exit code 0 (os._exit) 3 times {where}" in done.error


@pytest.mark.parametrize("options", [(), ("--jobs", "2")])
def test_a_death_in_the_score_of_an_item_is_its_error(runs: Runs, options: tuple[str, ...]) -> None:
    runs.place.change(
        "game.py",
        ("import AutoPilotModule, ", "import AutoPilotModule, Loss, "),
        (
            "class Game(",
            "class Scores(Loss):\n"
            "    def score(self, data, targets):\n"
            "        for item, target in zip(data.items, targets.items):\n"
            "            fault('score', item.metadata['number'], target.metadata['at'])\n"
            "            item.success = target.metadata['at'] < item.metadata['number']\n\n\n"
            "class Game(",
        ),
        ('PathParameter("x.txt")\n', 'PathParameter("x.txt")\n        self.loss = Scores()\n'),
        ("success=at < number,", "metadata={'number': number},"),
    )
    faults = "score 2 0 segv,score 1 5 stubborn"
    done = runs.run(faults, "--item-timeout", "0.5", *options)

    assert done.code == 0, done
    assert [r["metrics"]["accuracy"] for r in runs.place.judged("one")] == pytest.approx(
        [0, 1 / 6, 1 / 6, 1 / 6]
    )
    errors = {item["id"]: item.get("error_message", "") for item in runs.items(2)}
    assert errors.pop("i0") == "the evaluation died: signal 11 (SIGSEGV)"
    assert set(errors.values()) == {""}
    assert runs.place.autopilot("replay", "one", FAULT=faults).code == 0


def test_a_process_that_was_forked_does_not_go_on_with_the_loop(runs: Runs) -> None:
    ends = (("twin", 0), ("twin-exit", 7), ("twin-raise", 1))
    faults = [f"val 2 {at} {what}" for at, (what, _) in enumerate(ends, start=2)]
    faults += [f"step {at} - {what}" for at, (what, _) in enumerate(ends)]
    done = runs.run(",".join(faults))

    assert done.code == 0, done
    assert done.out.count("twin:") == 6
    assert [done.out.count(f"twin: {code}") for _, code in ends] == [2, 2, 2]
    assert done.err.count("Traceback") == 2
    assert [r["metrics"]["accuracy"] for r in runs.place.judged("one")] == pytest.approx(
        [0, 1 / 6, 2 / 6, 3 / 6]
    )
    assert len(runs.evaluations()) == len(set(runs.evaluations()))


def test_a_death_at_import_is_told_once(runs: Runs) -> None:
    done = runs.run("import 0 - exit0")

    assert done.code == 1, done
    assert "exit code 0 (os._exit) while the target was loaded" in done.error
    assert runs.place.run("run", "game.py", "-e", "one", *OPTIONS).code == 0


def test_json_is_one_document(runs: Runs) -> None:
    done = runs.run("val 2 4 segv", "--json", "--expose")

    document = json.loads(done.out)
    assert done.code == 0
    assert document["best"] == 0.5
    assert document["expose"]
    failed = runs.place.autopilot(
        "resume", "one", "--max-epochs", "4", "--json", FAULT="step 3 - exit0"
    )
    assert failed.code == 1
    assert "exit code 0" in json.loads(failed.out)["error"]


def test_what_was_executed_is_told_once(runs: Runs) -> None:
    done = runs.run("", "--expose")

    assert done.err.count("executed in") == 1, done


def test_the_child_is_killed_from_outside(runs: Runs) -> None:
    process = runs.start(wanted=20)
    os.kill(runs.child(), signal.SIGKILL)
    done = runs.place.finish(process)

    assert done.code == 0, done
    assert "signal 9 (SIGKILL)" in done.out
    # It says nothing about an item: nothing dies the second time.
    assert "failed with" not in done.out
    assert [r["metrics"]["accuracy"] for r in runs.place.judged("one")] == pytest.approx(
        [0, 1 / 6, 2 / 6, 3 / 6]
    )


def test_no_process_outlives_its_parent(runs: Runs) -> None:
    process = runs.start(wanted=20)
    child = runs.child()
    process.kill()
    process.communicate()
    wait_for(lambda: not is_alive(child))

    assert runs.place.run("resume", "one").code == 0
    assert all(item.get("error_message") is None for e in range(4) for item in runs.items(e))
    assert [r["metrics"]["accuracy"] for r in runs.place.judged("one")][-1] == 0.5


def test_an_interruption_comes_once(runs: Runs) -> None:
    process = runs.start(wanted=20)
    for number in (signal.SIGINT, signal.SIGTERM):
        for send in (os.kill, os.killpg):
            child = runs.child()
            send(process.pid, number)
            done = runs.place.finish(process)

            assert done.code == 130, done
            assert "go on: autopilot resume one" in done.out
            assert runs.place.notes("one", "experiment")[-1]["name"] == "interrupted"
            assert not is_alive(child)
            wanted = len(runs.evaluations()) + 2
            process = runs.place.start("resume", "one", PAUSE_S="0.05")
            wait_for(lambda wanted=wanted: len(runs.evaluations()) >= wanted)
    assert runs.place.finish(process).code == 0


def test_the_second_interruption_ends_it_at_once(runs: Runs) -> None:
    process = runs.start("val 1 0 stubborn", wanted=13, pause_s=0)
    child = runs.child()
    for heard in range(2):
        wait_for(lambda heard=heard: runs.interruptions() == heard)
        process.send_signal(signal.SIGTERM)
    done = runs.place.finish(process)

    assert done.code == -signal.SIGTERM, done
    assert not is_alive(child)
    assert runs.place.run("resume", "one").code == 0


def test_a_closed_terminal(runs: Runs) -> None:
    process = runs.start(wanted=20)
    child = runs.child()
    os.killpg(process.pid, signal.SIGHUP)
    done = runs.place.finish(process)

    assert done.code == -signal.SIGHUP, done
    assert not is_alive(child)
    assert runs.place.run("resume", "one").code == 0


@pytest.mark.parametrize("what", ["hang", "stubborn"])
def test_the_time_budget_ends_an_item(runs: Runs, what: str) -> None:
    started = time.monotonic()
    done = runs.run(f"val 1 2 {what}", "--budget-seconds", "1")

    assert time.monotonic() - started < 55
    assert done.code == 130, done
    # After four seconds, by a look once a second, or later on a loaded machine.
    said = re.search(r"time budget: over by (\d+) s, and an item does not end", done.out)
    assert said and int(said[1]) >= 4, done
    assert "autopilot resume one --budget-seconds" in done.out
    assert what == "stubborn" or " 0 kept, 0." not in done.out
    before = runs.place.git("for-each-ref", "refs/heads", "refs/tags")
    if what == "hang":  # a process that had to be killed could not note its time
        again = runs.place.autopilot("resume", "one")
        assert again.code == 130
        assert "go on: autopilot resume one --budget-seconds N" in again.out
        assert "over by" not in again.out
        assert runs.place.git("for-each-ref", "refs/heads", "refs/tags") == before
    again = runs.place.run("resume", "one", "--budget-seconds", "100")
    assert again.code == 0
    assert [r["metrics"]["accuracy"] for r in runs.place.judged("one")][-1] == 0.5


@pytest.mark.parametrize("hook", ["on_validation_end", "on_train_batch_start"])
def test_the_time_budget_ends_work_beside_items(runs: Runs, hook: str) -> None:
    sleeps = f"callback.{hook} = lambda *_: time.sleep(60)"
    runs.place.change("game.py", *callback(sleeps))
    started = time.monotonic()
    done = runs.run("", "--budget-seconds", "1")

    assert time.monotonic() - started < 55
    assert done.code == 130, done


@pytest.mark.parametrize("options", [(), ("--jobs", "2")])
def test_an_item_that_the_look_at_its_stack_wakes_is_late_all_the_same(
    runs: Runs, options: tuple[str, ...]
) -> None:
    loop = '    while what in ("hang", "deaf", "much"):'
    sleeps = 'if what == "wake":\n        __import__("ctypes").CDLL(None).sleep(60)\n'
    runs.place.change("game.py", (loop, f"    {sleeps}{loop}"))
    done = runs.run("val 1 2 wake", "--item-timeout", "1", *options)

    assert done.code == 0, done
    assert "no result within 1 s" in done.out


def test_the_time_budget_ends_an_item_of_the_test_split(runs: Runs) -> None:
    done = runs.run("test 3 1 hang", "--budget-seconds", "2")

    assert done.code == 130, done
    assert "and an item does not end" in done.out
    assert runs.place.run("resume", "one", "--budget-seconds", "100").code == 0
    assert len(runs.items(3, "test")) == 6


def test_a_daemon_does_not_outlive_the_run(runs: Runs) -> None:
    assert runs.run("test 3 5 leave").code == 0
    assert not is_alive(int(Path(f"{runs.log}.pid").read_text()))


def test_what_the_evaluation_started_ends_with_it(runs: Runs) -> None:
    program = COUNT.replace(
        "def happen(what):",
        "def happen(what):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        os.setsid()\n"
        "        time.sleep(60)\n"
        "        os._exit(0)\n"
        '    open(os.environ["EVALUATIONS"] + ".pid", "w").write(str(pid))',
    )
    runs.place.write("game.py", program)
    runs.place.git("commit", "--quiet", "--message=fork", "game.py")
    done = runs.run("val 1 1 segv")

    assert done.code == 0, done
    assert not is_alive(int(Path(f"{runs.log}.pid").read_text()))


def test_replay_says_what_died(runs: Runs) -> None:
    runs.run("val 2 4 segv")
    # The same item dies, and is the same error: what was recorded is what comes out.
    done = runs.place.autopilot("replay", "one", FAULT="val 2 4 segv")
    assert done.code == 0, done
    # Another one does.
    done = runs.place.autopilot("replay", "one", FAULT="val 2 1 exit0")
    assert done.code == 1, done
    assert "i1 raises now" in done.out
    # So does the whole run again.
    full = "replay", "one", "--level", "full"
    assert runs.place.autopilot(*full, FAULT="val 2 4 segv").code == 0
    done = runs.place.autopilot(*full, FAULT="val 2 1 exit0")
    assert done.code == 1, done
    assert "one does not replay" in done.out
