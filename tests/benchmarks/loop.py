"""What the loop costs: whole epochs of a system that does nothing."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from autopilot.core.callback import Callback
from autopilot.core.evaluation import Evaluator
from autopilot.core.experiment import Experiment
from autopilot.core.graph import no_grad
from autopilot.core.module import AutoPilotModule
from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.parameter import Parameter, PathParameter
from autopilot.core.progress import Position
from autopilot.core.trainer import Trainer
from autopilot.core.types import Datum
from autopilot.data import DataLoader
from autopilot.engine.fresh import ItemLimits
from autopilot.engine.jobs import ForkedJobs
from autopilot.tracking.git_store import GitStore
from tests.benchmarks.report import Report, pairs
from tests.benchmarks.repos import RULES, make_repository, rule_name, rule_text


class Counter(Optimizer):
    """Changes the one parameter in every step."""

    def __init__(self, parameter: Parameter) -> None:
        super().__init__([parameter])
        self.steps = 0

    def step(self) -> Step:
        self.steps += 1
        parameter = self.parameters[0]
        if isinstance(parameter, PathParameter):
            (parameter.root / rule_name(0)).write_text(rule_text(0, self.steps))
        else:
            parameter.data = self.steps
        return Step(f"step {self.steps}", "count")


class Nothing(AutoPilotModule):
    """A system without work: one item of ten fails; every other epoch is better than the best."""

    monitor = "score"

    def __init__(self, parameter: Parameter) -> None:
        super().__init__()
        self.parameter = parameter
        self.optimizer = Counter(parameter)
        self.inside_s = 0.0

    def forward(self, batch: Datum) -> Datum:
        started = time.perf_counter()
        steps = self.optimizer.steps
        score = float(steps if steps % 2 else 0)
        items = []
        for item in batch.items:
            failed = item.metadata["number"] % 10 == 0
            feedback = "wrong" if failed else None
            items.append(Datum(metrics={"score": score}, success=not failed, feedback=feedback))
        result = Datum(items=items)
        self.inside_s += time.perf_counter() - started
        return result

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer


class Clock(Callback):
    """How long each epoch after the baseline took, what `forward` took left out.

    Attributes:
        epochs_ms: One an epoch.
    """

    def __init__(self) -> None:
        self.epochs_ms: list[float] = []
        self._before_s: float | None = None

    def on_epoch_recorded(self, trainer: Trainer, module: Nothing, record: object) -> None:
        now_s = time.perf_counter() - module.inside_s
        if self._before_s is not None:
            self.epochs_ms.append((now_s - self._before_s) * 1000)
        self._before_s = now_s


_LIMITS = {"memory": "loop", "git": "loop, git"}


def loop(report: Report) -> None:
    """Epochs of 1, 100 and 10,000 items: in memory, in git, and in git in place."""
    top = make_repository(report.folder / "loop", report.count(20_000, 500), 1)
    rows, alone_ms = [], {}
    # Each in a process of its own, as runs are: objects that another one left cost time too.
    own = ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1)
    largest = (report.count(10_000, 200), 100)
    for size, batch in ((1, 1), (100, 1), (100, 20), (10_000, 1), (10_000, 100)):
        epochs = report.count({1: 400, 100: 100}.get(size, 8), 4)
        size = report.count(size, min(size, 200))
        cells = []
        for place in ("memory", "git", "in place"):
            epoch_ms = own.submit(_measure, top, place, size, batch, epochs).result()
            each_us = (epoch_ms - alone_ms.setdefault(place, epoch_ms)) / (2 * size) * 1000
            cells += [f"{epoch_ms:,.2f}", f"{each_us:.0f}" if size > 1 else ""]
            if (size, batch) == largest and place in _LIMITS:
                report.limit(_LIMITS[place], each_us)
        rows.append([f"{size:,} train and {size:,} val items, in batches of {batch}", *cells])
    own.shutdown()
    report.table(
        "Overhead of a whole epoch, what forward takes left out: medians",
        ("", "memory ms", "item us", "git ms", "item us", "git in place ms", "item us"),
        rows,
        "item: what the epoch takes beyond one of 1 item, divided by all train and val items.",
        "git: in a worktree of its own; in place, every batch is followed by a look for edits by",
        "hand. In both, a batch's result is in the file of progress before the next one starts.",
    )


def _measure(top: Path, place: str, size: int, batch: int, epochs: int) -> float:
    """Milliseconds of an epoch, half of them kept and half rejected."""
    parameter, experiment = Parameter(0), Experiment()
    if place != "memory":
        (top / RULES / rule_name(0)).write_text(rule_text(0, 0))
        parameter = PathParameter(top / RULES)
        slug = f"loop-{size}-{batch}-{place.replace(' ', '-')}"
        experiment = Experiment(GitStore(slug, top, in_place=place == "in place"))
    clock, module = Clock(), Nothing(parameter)
    items = [{"id": f"item-{number:05d}", "number": number} for number in range(size)]
    train, val = (DataLoader(items, batch_size=batch) for _ in range(2))
    result = Trainer([clock], experiment=experiment).fit(module, train, val, max_epochs=epochs)
    experiment.close()
    if result.kept != epochs // 2:
        raise AssertionError(f"{result.kept} of {epochs} epochs were kept")
    return statistics.median(pairs(clock.epochs_ms))


class Burns(AutoPilotModule):
    """A system that computes for some rounds an item."""

    def __init__(self, rounds: int) -> None:
        super().__init__()
        self.rounds = rounds

    def forward(self, batch: Datum) -> Datum:
        found = [sum(number * number for number in range(self.rounds)) for _ in batch.items]
        return Datum(items=[Datum(success=value >= 0) for value in found])


def jobs(report: Report) -> None:
    """Items in processes of their own: two at a time against one, and what a process costs."""
    times, rows, taken = report.count(7, 2), [], {}
    rounds, burning, idle = 1_000_000, report.count(24, 4), report.count(200, 20)
    for name, size, each in (("compute", burning, rounds), ("do nothing", idle, 0)):
        cells = []
        # In turn: a busy machine slows all of them down.
        found = [[_evaluate(size, each, number) for number in (0, 1, 2)] for _ in range(times)]
        for number in (0, 1, 2):
            taken[name, number] = statistics.median(each[number] for each in found) / size * 1000
            cells.append(f"{taken[name, number]:.2f}")
        rows.append([f"{size} items that {name}", *cells])
    report.table(
        f"Items of a batch, ms each: medians of {times}",
        ("", "one process", "--jobs 1", "--jobs 2"),
        rows,
    )
    report.limit("jobs", taken["compute", 1] / taken["compute", 2])
    report.limit("jobs, item", taken["do nothing", 1] - taken["do nothing", 0])


def _evaluate(size: int, rounds: int, number: int) -> float:
    """Seconds of a batch."""
    module, experiment = Burns(rounds), Experiment()
    experiment.open(module.parameters())
    experiment.jobs = ForkedJobs(ItemLimits(jobs=number), module, ()) if number else None
    batch = Datum(items=[Datum(id=f"i{n}") for n in range(size)])
    started = time.perf_counter()
    with no_grad():
        Evaluator(module, experiment, 0).run(Position("val", 0, 0), batch)
    return time.perf_counter() - started
