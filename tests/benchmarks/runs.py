"""Whole runs: what supervision costs, what a replay takes, and how memory and reading grow."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
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
supervisor.Supervisor.run = lambda self: self._work(Child(is_supervised=False))
"""
_TARGET = """\
import time

from autopilot import AutoPilotModule, Callback, Datum, Optimizer, PathParameter, Step


class Clock(Callback):
    def __init__(self, log):
        self.log = log

    def on_train_epoch_start(self, trainer, module):
        self.began = time.perf_counter()

    def on_epoch_recorded(self, trainer, module, record):
        if record.epoch:
            with open(self.log, "a") as log:
                print(time.perf_counter() - self.began, file=log)


class Raise(Optimizer):
    def step(self):
        path = self.parameters[0].root / "value.txt"
        path.write_text(str(int(path.read_text()) + self.proposal[0]))
        return Step("one more", "raise")


class Counter(AutoPilotModule):
    monitor = "value"
    mode = "max"

    def __init__(self, wait_s: float = 0.0, rounds: int = 0, items: int = 20, log: str = ""):
        super().__init__()
        self.file = PathParameter("value.txt")
        self.wait_s, self.rounds, self.items, self.log = wait_s, rounds, items, log

    def forward(self, batch):
        value = int((self.file.root / "value.txt").read_text())
        items = []
        for item in batch.items:
            time.sleep(self.wait_s)
            sum(number * number for number in range(self.rounds))
            items.append(Datum(metrics={"value": value}, success=False, feedback="higher"))
        return Datum(items=items)

    def configure_optimizers(self):
        return Raise([self.file])

    def train_dataloader(self):
        return [Datum(items=[Datum(id="t")])]

    def val_dataloader(self):
        return [Datum(items=[Datum(id=f"v{n}") for n in range(self.items)])]

    def configure_callbacks(self):
        return [Clock(self.log)] if self.log else []
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
    epochs, times = report.count(150, 8), report.count(7, 2)
    top = _counter(report, "runs")
    base = ["run", "counter.py", "-C", str(top), "-H", "wait_s=0.002"]
    base += ["--patience", str(epochs + 1)]
    short, long_, each = list[list[float]](), list[list[float]](), list[list[float]]()
    for number in range(times):
        for count, taken in ((1, short), (epochs, long_)):

            def run(how: str, name: str = f"{number}-{count}", count: int = count) -> float:
                own = ["-e", f"run-{name}-{how}", "--max-epochs", str(count)]
                return _autopilot([*base, *own], supervised=how == "supervised")

            # The long ones at once: what else the machine does meets both.
            with ThreadPoolExecutor(2 if count > 1 else 1) as pool:
                taken.append(list(pool.map(run, ("supervised", "alone"))))
        each.append([(long_[-1][i] - short[-1][i]) / (epochs - 1) for i in (0, 1)])
    replay_s = _autopilot(["replay", f"run-0-{epochs}-supervised", "-C", str(top)])
    bare = [sys.executable, "-c", _BARE, str(epochs + 1), "0.002"]
    done = subprocess.run(bare, cwd=top, capture_output=True, text=True, check=True)
    bare_s = float(done.stdout)
    command = [sys.executable, "-c", _RECORDING]
    done = subprocess.run(command, cwd=_TOP, capture_output=True, text=True, check=True)
    recorded_s, reads_s = map(float, done.stdout.split())
    start = [min(pair[i] for pair in short) for i in (0, 1)]
    middle = [[median(pair[i] for pair in taken) for i in (0, 1)] for taken in (long_, each)]
    report.table(
        f"Runs of {epochs} epochs of 20 val items that wait 2 ms each: {times} times, s",
        ("", "supervised", "alone"),
        [
            ["1 epoch, the whole process, least", *(f"{value:.3f}" for value in start)],
            [f"{epochs} epochs, both at once, median", *(f"{value:.3f}" for value in middle[0])],
            ["each epoch beyond, median", *(f"{value:.4f}" for value in middle[1])],
        ],
        f"Replay of its {epochs + 1} states: {replay_s:.2f} s; evaluated alone: {bare_s:.2f}.",
    )
    report.limit("supervised", (start[0] - start[1]) * 1000)
    report.limit("supervised, epoch", median(pair[0] / pair[1] for pair in each))
    report.limit("replay", replay_s / bare_s)
    report.limit("recording", (recorded_s + reads_s) / start[0])


def proposals(report: Report) -> None:
    """Candidates that are measured side by side, against the same ones measured in turn."""
    top, times, rows = _counter(report, "proposals"), report.count(3, 1), []
    waits = ["-H", "wait_s=0.05", "-H", f"items={report.count(40, 4)}"]
    burns = ["-H", "rounds=1000000", "-H", f"items={report.count(60, 2)}"]
    for what, many, options in (("wait 50 ms", 8, waits), ("compute", 2, burns)):
        pairs = list[list[float]]()
        for number in range(times):
            # In turn, since other work on the machine is not the same all the time.
            pairs.append(
                [_epoch(report, top, f"{many}-{number}", many, n, options) for n in (1, many)]
            )
        least = [min(column) for column in zip(*pairs, strict=True)]
        cells = [f"{value:.2f}" for value in (*least, least[0] / least[1])]
        rows.append([f"{many} proposals, items that {what}", *cells])
        report.limit(f"proposals, {many}", least[0] / least[1])
    report.table(
        f"An epoch of several proposals, s: the least of {times}",
        ("", "--jobs 1", "--jobs N", "x"),
        rows,
    )


def _epoch(report: Report, top: Path, name: str, many: int, jobs: int, options: list[str]) -> float:
    """Seconds of an epoch of several proposals; of a few, the least."""
    log = report.folder / f"epochs-{name}-{jobs}"
    run = ["run", "counter.py", "-C", str(top), "-e", f"side-{name}-{jobs}", "-H", f"log={log}"]
    run += ["--proposals", str(many), "--jobs", str(jobs), "--max-epochs", str(min(jobs, 3))]
    _autopilot([*run, "--no-measure-noise", *options])
    return min(map(float, log.read_text().split()))


def commands(report: Report) -> None:
    """A run without Python beside its command alone."""
    few, many, times = 2, report.count(42, 12), report.count(5, 1)
    top = report.folder / "commands"
    make_repository(top, 1000, 1)
    (top / "bench.sh").write_text("echo >> $COUNT; cat value.json; sleep 0.01; echo cost: 1\n")
    (top / "value.json").write_text('{"value": 0.5}\n')
    git(top, "add", ".")
    git(top, "commit", "--quiet", "-m", "a script")
    count = report.folder / "count"
    run = ["run", "-C", str(top), "--eval", "sh bench.sh", "--metric", "cost", "--mode", "min"]
    run += ["--tune", "value.json:value=0.0..1.0", "--sampler", "random"]
    run += ["--env", f"COUNT={count}"]
    over, bare = list[float](), list[float]()
    for _ in range(times):
        took = [_autopilot([*run, "--max-epochs", str(n)]) for n in (few, many)]
        over.append((took[1] - took[0]) / (many - few))
        for _ in range(10):
            started = time.perf_counter()
            alone = {**os.environ, "COUNT": os.devnull}
            subprocess.run(["sh", "bench.sh"], cwd=top, env=alone, capture_output=True, check=True)
            bare.append(time.perf_counter() - started)
    evaluations = len(count.read_text().splitlines()) - times * (few + many)
    report.table(
        f"An epoch of a run without Python, 1,000 files, beside its command: {times} times, ms",
        ("", "ms"),
        [
            ["an epoch, median", f"{median(over) * 1000:.1f}"],
            ["the command alone, median", f"{median(bare) * 1000:.1f}"],
        ],
        f"Evaluations beside one an epoch: {evaluations} (the baseline's two of {2 * times} runs).",
    )
    report.limit("command", (median(over) - median(bare)) * 1000)
    report.limit("command, twice", evaluations - 4 * times)


def restarts(report: Report) -> None:
    """What it takes to go on in a new process, at the start of a long experiment and at its end."""
    epochs, each, times = report.count(2000, 60), report.count(10, 5), report.count(3, 1)
    long_, slug = _counter(report, "restarts"), "restarts"
    short = report.folder / "restarts-short"
    run = ["run", "counter.py", "-e", slug, "--max-epochs", "1", "--patience", str(2 * epochs)]
    _autopilot([*run, "-C", str(long_)])
    shutil.copytree(long_, short, symlinks=True)
    last = {short: 1, long_: epochs - each * times}
    resume = ["resume", slug, "--max-epochs"]
    _autopilot([*resume, str(last[long_]), "-C", str(long_), "--fresh", "never"])
    # By turns: what else the machine does meets both.
    for _ in range(times):
        for top in last:
            last[top] += each
            _autopilot([*resume, str(last[top]), "-C", str(top), "--fresh", "always"])
    taken = []
    for top in last:
        records = [record for _, record in GitStore(slug, top).records(MetricsRecord)]
        taken.append(median(r.restarts_s / r.restarts for r in records if r.restarts))
    report.table(
        f"A restart, medians of {each * times}: from a process to the next one's evaluation",
        ("", "s"),
        [["from epoch 1 on", f"{taken[0]:.3f}"], [f"to epoch {epochs:,}", f"{taken[1]:.3f}"]],
    )
    report.limit("restart", taken[1])
    report.limit("restart, flat", taken[1] / taken[0])


def _counter(report: Report, name: str) -> Path:
    """A repository with the target."""
    top = report.folder / name
    make_repository(top, 20, 1)
    (top / "counter.py").write_text(_TARGET)
    (top / "value.txt").write_text("0")
    git(top, "add", ".")
    git(top, "commit", "--quiet", "-m", "a counter")
    return top


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
