"""Whole runs: what supervision costs, what a replay takes, and how memory and reading grow."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from autopilot.core.records.record import MetricsRecord
from autopilot.tracking.git_store import GitStore
from tests.benchmarks.epochs import Drill
from tests.benchmarks.report import Report, peak_mb
from tests.benchmarks.repos import git, make_repository

_TOP = Path(__file__).parents[2]
_AUTOPILOT = "from autopilot.cli.main import main; main()"
_ALONE = """\
import autopilot.engine.supervisor as supervisor
from autopilot.engine.board import Child
supervisor.Supervisor.run = lambda self: self._work(Child())
"""
_TARGET = """\
import time

from autopilot import AutoPilotModule, Datum, Optimizer, PathParameter, Step


class Raise(Optimizer):
    def step(self):
        path = self.parameters[0].root / "value.txt"
        path.write_text(str(int(path.read_text()) + 1))
        return Step("one more", "raise")


class Counter(AutoPilotModule):
    monitor = "value"
    mode = "max"

    def __init__(self, wait_s: float = 0.0):
        super().__init__()
        self.file = PathParameter("value.txt")
        self.wait_s = wait_s

    def forward(self, batch):
        value = int((self.file.root / "value.txt").read_text())
        items = []
        for item in batch.items:
            time.sleep(self.wait_s)
            items.append(Datum(metrics={"value": value}, success=False, feedback="higher"))
        return Datum(items=items)

    def configure_optimizers(self):
        return Raise([self.file])

    def train_dataloader(self):
        return [Datum(items=[Datum(id="t")])]

    def val_dataloader(self):
        return [Datum(items=[Datum(id=f"v{n}") for n in range(20)])]
"""
_BARE = """\
import pathlib, sys, time
import counter
module, path = counter.Counter(float(sys.argv[2])), pathlib.Path("value.txt")
started = time.perf_counter()
for state in range(int(sys.argv[1])):
    path.write_text(str(state))
    for batch in module.val_dataloader():
        module(batch)
print(time.perf_counter() - started)
"""

_RECORDING = """\
import os, time
import autopilot.cli.main, autopilot.engine.session
from autopilot.sandbox.environment import Environment
os.environ["MODE"] = "fast"
environment = Environment(lambda: True)
started = time.perf_counter()
environment.open()
opened = time.perf_counter()
for _ in range(1000):
    os.environ["MODE"]
watched = time.perf_counter()
environment.now()
done = time.perf_counter()
environment.close()
closed = time.perf_counter()
for _ in range(1000):
    os.environ["MODE"]
print(opened - started + done - watched, watched - opened - (time.perf_counter() - closed))
"""


def runs(report: Report) -> None:
    """A run beside the same one without a process of its own, and its replay."""
    epochs, times = report.count(150, 8), report.count(5, 2)
    top = report.folder / "runs"
    make_repository(top, 20, 1)
    (top / "counter.py").write_text(_TARGET)
    (top / "value.txt").write_text("0")
    git(top, "add", ".")
    git(top, "commit", "--quiet", "-m", "a counter")
    base = ["run", "counter.py", "-C", str(top), "-H", "wait_s=0.002"]
    base += ["--patience", str(epochs + 1)]
    taken: dict[tuple[bool, int], list[float]] = {}
    for number in range(times):
        for count in (1, epochs):
            for supervised in (True, False):
                slug = f"run-{number}-{count}-{supervised}".lower()
                command = [*base, "-e", slug, "--max-epochs", str(count)]
                seconds = _autopilot(command, supervised=supervised)
                taken.setdefault((supervised, count), []).append(seconds)
    short = [median(taken[supervised, 1]) for supervised in (True, False)]
    long_ = [median(taken[supervised, epochs]) for supervised in (True, False)]
    each = [(long_[i] - short[i]) / (epochs - 1) for i in (0, 1)]
    replay_s = _autopilot(["replay", f"run-0-{epochs}-true", "-C", str(top)])
    bare = [sys.executable, "-c", _BARE, str(epochs + 1), "0.002"]
    done = subprocess.run(bare, cwd=top, capture_output=True, text=True, check=True)
    bare_s = float(done.stdout)
    command = [sys.executable, "-c", _RECORDING]
    done = subprocess.run(command, cwd=_TOP, capture_output=True, text=True, check=True)
    recorded_s, reads_s = map(float, done.stdout.split())
    report.table(
        f"Runs of {epochs} epochs of 20 val items that wait 2 ms each: medians of {times}, s",
        ("", "supervised", "alone"),
        [
            ["1 epoch, the whole process", *(f"{value:.3f}" for value in short)],
            [f"{epochs} epochs", *(f"{value:.3f}" for value in long_)],
            ["each epoch beyond", *(f"{value:.4f}" for value in each)],
        ],
        f"Replay of its {epochs + 1} states: {replay_s:.2f} s; evaluated alone: {bare_s:.2f}.\n"
        f"Recording what results depend on takes {recorded_s * 1000:.1f} ms of a run, and "
        f"{reads_s * 1000:.2f} us of each look-up in os.environ.",
    )
    report.limit("supervised", (short[0] - short[1]) * 1000)
    report.limit("supervised, epoch", each[0] / each[1])
    report.limit("replay", replay_s / bare_s)
    report.limit("recording", (recorded_s + reads_s) / short[0])


def restarts(report: Report) -> None:
    """What it takes to go on in a new process, at the start of a long experiment and at its end."""
    epochs, each = report.count(2000, 60), report.count(30, 5)
    top = report.folder / "restarts"
    make_repository(top, 20, 1)
    (top / "counter.py").write_text(_TARGET)
    (top / "value.txt").write_text("0")
    git(top, "add", ".")
    git(top, "commit", "--quiet", "-m", "a counter")
    where, slug = ["-C", str(top)], "restarts"
    _autopilot(
        ["run", "counter.py", *where, "-e", slug, "--fresh", "always", "--max-epochs", str(each)]
    )
    for fresh, last in (("never", epochs - each), ("always", epochs)):
        _autopilot(["resume", slug, *where, "--fresh", fresh, "--max-epochs", str(last)])
    records = [record for _, record in GitStore(slug, top).records(MetricsRecord)]
    taken = [r.restarts_s / r.restarts for r in records if r.restarts]
    early, late = median(taken[:each]), median(taken[-each:])
    report.table(
        f"A restart, medians of {each}: from one process's end to the next one's first epoch",
        ("", "s"),
        [["from epoch 1 on", f"{early:.3f}"], [f"to epoch {epochs:,}", f"{late:.3f}"]],
    )
    report.limit("restart", late)
    report.limit("restart, flat", late / early)


def growth(report: Report) -> None:
    """Experiments of 100, 300 and 10,000 epochs: memory of the run, and commands that read it."""
    many, times = report.count(10_000, 400), report.count(9, 3)
    sizes = (100, report.count(300, 100), many)
    rows, reading, memory = [], {}, {}
    for epochs in dict.fromkeys(sizes):
        top = report.folder / f"growth-{epochs}"
        make_repository(top, 100, 1)
        command = [sys.executable, "-m", __name__, str(top), str(epochs)]
        done = subprocess.run(command, cwd=_TOP, capture_output=True, text=True, check=True)
        memory[epochs] = json.loads(done.stdout)
        for name in ("status", "log", "show"):
            calls = [_autopilot([name, "-C", str(top)]) for _ in range(times)]
            reading[name, epochs] = median(calls)
        cells = [f"{reading[name, epochs]:.3f}" for name in ("status", "log", "show")]
        rows.append([f"{epochs:,} epochs", f"{memory[epochs]:.0f}", *cells])
    report.table(
        f"Experiments as they grow; whole processes, medians of {times}",
        ("", "peak MB", "status s", "log s", "show s"),
        rows,
    )
    report.limit("memory", memory[many] / memory[sizes[1]])
    for name in ("status", "log", "show"):
        report.limit(f"{name}, long", reading[name, many] / reading[name, 100])


def _autopilot(arguments: list[str], *, supervised: bool = True) -> float:
    """Seconds of a command, as a whole process."""
    code = _AUTOPILOT if supervised else _ALONE + _AUTOPILOT
    started = time.perf_counter()
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=_TOP, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{arguments}: {done.returncode} {done.stdout} {done.stderr}")
    return time.perf_counter() - started


if __name__ == "__main__":
    drill = Drill(Path(sys.argv[1]), 1)
    drill.run(int(sys.argv[2]))
    drill.close()
    print(peak_mb())
