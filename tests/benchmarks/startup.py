"""How long the command line takes, as whole processes, and how long an experiment takes to read."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from autopilot.core.experiment import Experiment
from autopilot.core.parameter import PathParameter
from autopilot.core.records.record import MetricsRecord
from autopilot.git.repository import Repository
from autopilot.tracking.git_store import GitStore
from autopilot.tracking.memory import lessons_before
from autopilot.tracking.notebook import Notebook
from tests.benchmarks.epochs import SLUG, Drill
from tests.benchmarks.report import Course, Report, pairs, peak_mb
from tests.benchmarks.repos import RULES, make_repository

PROJECT = Path(__file__).parents[2]
_AUTOPILOT = ("-c", "from autopilot.cli.main import main; main()")


def startup(report: Report) -> None:
    """`autopilot --help`, and what reads an experiment of 2,000 epochs."""
    epochs, times = report.count(2000, 40), report.count(15, 3)
    drill = _written(report, "startup", epochs)
    where = ["-C", str(drill.top)]
    python_s, _ = _process(["-c", "pass"], times)
    rows = [_row("python -c pass", *_process(["-c", "pass"], times), 0)]
    found = {}
    for arguments in (["--help"], ["status"], ["log"], ["show", "7"]):
        command = [*_AUTOPILOT, *(where if arguments != ["--help"] else []), *arguments]
        expected = "Usage" if arguments == ["--help"] else SLUG
        found[arguments[0]] = _process(command, times, expected)
        rows.append(_row(f"autopilot {' '.join(arguments)}", *found[arguments[0]], python_s))
    report.table(
        f"Whole processes, s: medians of {times}; an experiment of {epochs:,} epochs",
        ("", "wall", "processor", "beyond python"),
        rows,
    )
    report.limit("help", found["--help"][0])
    report.limit("status", found["status"][0])


def recall(report: Report) -> None:
    """An experiment of 10,000 epochs: written, resumed and read."""
    epochs = report.count(10_000, 60)
    drill = _written(report, "recall", epochs)
    course = Course.of(pairs(drill.costs_ms))
    repo = Repository.discover(drill.top)
    parameters = [PathParameter(drill.top / RULES)]

    def resume() -> None:
        experiment = Experiment(GitStore(SLUG, drill.top))
        experiment.open(parameters)
        experiment.close()

    def take() -> None:
        notebook = Notebook(repo, SLUG)
        lessons_before(repo, "all", notebook.manifest, notebook.monitor, ())

    measured: dict[str, Callable[[], object]] = {
        "resume: Experiment.open": resume,
        "all metrics records": lambda: GitStore(SLUG, drill.top).records(MetricsRecord),
        "Notebook.epochs": lambda: Notebook(repo, SLUG).epochs,
        "Notebook.last": lambda: Notebook(repo, SLUG).last,
        "memory.context": drill.experiment.memory.context,
        "lessons for a new experiment": take,
    }
    took = {name: _seconds(call, 3) for name, call in measured.items()}
    rows = [[name, f"{seconds:.4f}"] for name, seconds in took.items()]
    report.limit("lessons", took["lessons for a new experiment"] * 1000)
    for name in ("status", "log"):
        taken_s, _ = _process([*_AUTOPILOT, "-C", str(drill.top), name], 3, SLUG)
        rows.append([f"autopilot {name}, the whole process", f"{taken_s:.4f}"])
    report.table(
        f"An experiment of {epochs:,} epochs",
        ("", "s"),
        rows,
        f"Written at {course.median:.2f} ms an epoch: first tenth {course.first:.2f}, "
        f"last tenth {course.last:.2f}, ratio {course.growth:.2f}.",
        f"Memory of the process that wrote and read it: {peak_mb():.0f} MB.",
    )


def _written(report: Report, name: str, epochs: int) -> Drill:
    top = make_repository(report.folder / name, report.count(1000, 100), 1)
    drill = Drill(top, 1)
    drill.run(epochs)
    drill.close()
    return drill


def _process(arguments: list[str], times: int, expected: str = "") -> tuple[float, float]:
    """Seconds and processor seconds of a Python process.

    Args:
        arguments: Python's.
        times: How often it is started.
        expected: What it prints, among other things.
    """
    walls, processors = [], []
    for _ in range(times):
        before, started = _of_children(), time.perf_counter()
        done = subprocess.run(
            [sys.executable, *arguments], cwd=PROJECT, capture_output=True, text=True, check=False
        )
        walls.append(time.perf_counter() - started)
        processors.append(_of_children() - before)
        if done.returncode != 0 or expected not in done.stdout:
            raise AssertionError(f"{arguments}: {done.returncode} {done.stdout} {done.stderr}")
    return statistics.median(walls), statistics.median(processors)


def _of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _row(name: str, wall_s: float, processor_s: float, python_s: float) -> list[str]:
    beyond = f"{wall_s - python_s:.3f}" if python_s else ""
    return [name, f"{wall_s:.3f}", f"{processor_s:.3f}", beyond]


def _seconds(call: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)
