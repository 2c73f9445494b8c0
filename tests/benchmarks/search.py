"""A search over numbers against plain Optuna: the same values, and the time that a trial costs.

And what a candidate of several costs beside an epoch, and the selection among many states.
"""

from __future__ import annotations

import gc
import json
import math
import os
import random
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import MethodType
from typing import Any

import optuna

from autopilot import (
    AutoPilotModule,
    Choice,
    ConfigParameter,
    DataLoader,
    Datum,
    PathParameter,
    Range,
    SearchOptimizer,
    Trainer,
)
from autopilot.core.experiment import Experiment
from autopilot.core.loop import EpochLoop
from autopilot.core.search import SearchLoop
from autopilot.core.selection import FrontierSelection, Pool, State
from autopilot.git import refs
from autopilot.git.repository import Repository
from autopilot.git.worktrees import add_worktree, remove_worktree
from autopilot.tracking import GitMemory, GitStore
from autopilot.tuning.spaces import Space, holds
from tests.benchmarks.loop import Nothing
from tests.benchmarks.report import Report
from tests.benchmarks.repos import RULES, git, make_repository, rule_name, rule_text

SEED = 11
Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """A function to be minimized, of the kinds that Optuna's own tests and benchmarks have.

    Args:
        first: The values that the search starts from.
    """

    function: Callable[[Values], float]
    spaces: Mapping[str, Space]
    first: Values


def _numbers(values: Values) -> list[float]:
    return [float(value) for value in values.values()]


def sphere(values: Values) -> float:
    """A bowl."""
    return sum(x * x for x in _numbers(values))


def rosenbrock(values: Values) -> float:
    """A bent valley."""
    x = _numbers(values)
    return sum(100 * (b - a * a) ** 2 + (1 - a) ** 2 for a, b in pairwise(x))


def rastrigin(values: Values) -> float:
    """A bowl with many dents."""
    return sum(10 + x * x - 10 * math.cos(2 * math.pi * x) for x in _numbers(values))


def ackley(values: Values) -> float:
    """A plain with a hole in its middle."""
    x = _numbers(values)
    far = math.exp(-0.2 * math.sqrt(sum(a * a for a in x) / len(x)))
    return 20 - 20 * far + math.e - math.exp(sum(math.cos(2 * math.pi * a) for a in x) / len(x))


def mixed(values: Values) -> float:
    """Numbers of all kinds, and a choice."""
    far = (math.log10(values["rate"]) + 2) ** 2 + (values["width"] - 25) ** 2 / 100
    return float(
        far + (values["share"] - 0.4) ** 2 + {"a": 0.0, "b": 1.0, "c": 0.5}[values["kind"]]
    )


def conditional(values: Values) -> float:
    """A choice with a number of its own for each side."""
    if values["kind"] == "deep":
        return float((values["depth"] - 7) ** 2 + 0.5)
    return float((values["width"] - 0.2) ** 2)


def _cube(low: float, high: float, size: int) -> dict[str, Space]:
    return {f"x{number}": Range(low, high) for number in range(size)}


PROBLEMS = {
    "sphere": Problem(sphere, _cube(-5.0, 5.0, 3), {f"x{n}": 3.0 for n in range(3)}),
    "rosenbrock": Problem(rosenbrock, _cube(-2.0, 2.0, 3), {f"x{n}": -1.0 for n in range(3)}),
    "rastrigin": Problem(rastrigin, _cube(-5.12, 5.12, 2), {f"x{n}": 4.0 for n in range(2)}),
    "ackley": Problem(ackley, _cube(-32.0, 32.0, 2), {f"x{n}": 20.0 for n in range(2)}),
    "mixed": Problem(
        mixed,
        {
            "rate": Range(1e-5, 1.0, log=True),
            "width": Range(1, 100),
            "share": Range(0.0, 1.0, step=0.1),
            "kind": Choice(["a", "b", "c"]),
        },
        {"rate": 0.5, "width": 3, "share": 0.5, "kind": "b"},
    ),
    "conditional": Problem(
        conditional,
        {
            "kind": Choice(["deep", "wide"]),
            "depth": Range(1, 64, log=True, when={"kind": "deep"}),
            "width": Range(0.0, 1.0, when={"kind": "wide"}),
        },
        {"kind": "deep", "depth": 32, "width": 0.9},
    ),
}


class Uneven(Nothing):
    """Each state passes other items, so most of them stay."""

    def forward(self, batch: Datum) -> Datum:
        given = super().forward(batch)
        for at, item in enumerate(given.items):
            chance = random.Random(f"{self.optimizer.steps} {at}")
            item.metrics["score"] = float(chance.random() < 0.5)
        return given


class TimedStore(GitStore):
    """A store that knows how long its calls took, of whatever thread, in the processor's time."""

    spent_s = 0.0
    _is_inside = False

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name.startswith("_") or not isinstance(found, MethodType):
            return found

        def timed(*given: Any, **named: Any) -> Any:
            if self._is_inside:
                return found(*given, **named)
            self._is_inside, began = True, time.process_time()
            try:
                return found(*given, **named)
            finally:
                self._is_inside = False
                self.spent_s += time.process_time() - began

        return timed


def candidates(report: Report) -> None:
    """What candidates cost the store, made in this process, and the choice among 2,000 states."""
    top = make_repository(report.folder / "candidates", report.count(20_000, 500), 1)
    epochs, many = report.count(20, 4), 9
    spent_ms, more, times = defaultdict[str, list[float]](list), many - 1, report.count(5, 1)
    stayed = dict[str, int]()
    for number in range(times):
        loops = {"one": EpochLoop(), "best": SearchLoop(many)}
        loops["frontier"] = SearchLoop(many, 3, FrontierSelection(), None)
        for name, loop in loops.items():
            (top / RULES / rule_name(0)).write_text(rule_text(0, 0))
            store = TimedStore(f"c-{name}-{number}", top, in_place=False)
            numbers = range(20), range(20, 40)
            items = ([{"number": number} for number in each] for each in numbers)
            train, val = (DataLoader(each, batch_size=20) for each in items)
            experiment = Experiment(store, GitMemory(store))
            module = (Uneven if name == "frontier" else Nothing)(PathParameter(top / RULES))
            Trainer(experiment=experiment, loop=loop).fit(module, train, val, max_epochs=epochs)
            experiment.close()
            spent_ms[name].append(store.spent_s * 1000 / epochs)
            stayed[name] = len(refs.names_in(store.repo, store.layout.tags))
            # All repositories of a process share one cache: this one's would be left in it.
            del store, experiment
            gc.collect()
    least = {name: min(found) for name, found in spent_ms.items()}
    each = {name: (least[name] - least["one"]) / more for name in ("best", "frontier")}
    chance, many = random.Random(SEED), report.count(2000, 200)
    rows = [tuple(float(chance.random() < 0.5) for _ in range(500)) for _ in range(many + 9)]
    states = [State(f"s{at}", sum(row), row, -at) for at, row in enumerate(rows)]
    pool, chosen = Pool(states[:many]), list[float]()
    for state in states[many:]:  # as an epoch does: choose, try candidates out, take one in
        began = time.process_time()
        FrontierSelection().choose(pool, 3, chance)
        pool.frontier.copy().add(state)
        pool.add(state)
        chosen.append((time.process_time() - began) * 1000)
    report.table(
        f"The store's work in an epoch, the least of {times} means of {epochs}; processor time",
        ("", "ms"),
        [
            ["an epoch with one candidate", f"{least['one']:.2f}"],
            ["each further candidate", f"{each['best']:.2f}"],
            [f"the same, {stayed['frontier'] / epochs:.1f} states stay", f"{each['frontier']:.2f}"],
            [f"selection among {many:,} states of 500 items", f"{median(chosen):.2f}"],
        ],
    )
    report.limit("candidate", max(each.values()) / least["one"])
    report.limit("frontier", max(chosen))


class Searched(AutoPilotModule):
    """The function of a problem, whose values are a file."""

    monitor, mode = "loss", "min"

    def __init__(self, problem: Problem, sampler: str) -> None:
        super().__init__()
        self.config = ConfigParameter("config.json", problem.spaces)
        self.problem, self.sampler = problem, sampler

    def forward(self, batch: Datum) -> Datum:
        """One item: the function's value."""
        loss = self.problem.function(self.config.values())
        return Datum(items=[Datum(metrics={"loss": loss}) for _ in batch.items])

    def val_dataloader(self) -> Any:
        """One item."""
        return [["val"]]

    def configure_optimizers(self) -> SearchOptimizer:
        """The search."""
        return SearchOptimizer([self.config], self.sampler, seed=SEED)


def searched(problem: Problem, sampler: str, trials: int, folder: Path) -> list[float]:
    """The values of a run in git, in a worktree of its own, the baseline's first."""
    top = make_repository(folder, 20, 5)
    (top / "config.json").write_text(json.dumps(problem.first, indent=2) + "\n")
    git(top, "add", "--all")
    git(top, "commit", "--quiet", "--message=config")
    user, place = Repository.discover(top), folder.with_name(f"{folder.name}-worktree")
    repo = add_worktree(user, place, user.head_commit())
    here = Path.cwd()
    os.chdir(repo.workdir)
    try:
        store = GitStore("bench", repo.workdir, in_place=False)
        experiment = Experiment(store, GitMemory(store))
        trainer = Trainer(experiment=experiment, measure_noise=False)
        trainer.fit(Searched(problem, sampler), max_epochs=trials)
        experiment.close()
    finally:
        os.chdir(here)
        remove_worktree(user, place)
    return [record.metrics["loss"] for record in experiment.history]


def optimized(problem: Problem, sampler: Any, trials: int) -> list[float]:
    """The values of the same search by Optuna alone."""

    def objective(trial: optuna.Trial) -> float:
        values: dict[str, Any] = {}
        for name, space in problem.spaces.items():
            if not holds(space, values):
                continue
            if isinstance(space, Choice):
                values[name] = trial.suggest_categorical(name, space.options)
            elif space.is_int:
                low, high = int(space.low), int(space.high)
                values[name] = trial.suggest_int(name, low, high, log=space.log)
            else:
                low, high, step = space.low, space.high, space.step
                values[name] = trial.suggest_float(name, low, high, step=step, log=space.log)
        return problem.function(values)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=sampler(seed=SEED))
    first: dict[str, Any] = {}
    for name, space in problem.spaces.items():
        if holds(space, first):
            first[name] = problem.first[name]
    study.enqueue_trial(first)
    study.optimize(objective, n_trials=trials + 1)
    return [trial.value for trial in study.trials if trial.value is not None]


def search(report: Report) -> None:
    """The six functions by TPE."""
    trials, rows, more, different = report.count(500, 30), [], [], 0
    for name, problem in PROBLEMS.items():
        began = time.process_time()
        theirs = optimized(problem, optuna.samplers.TPESampler, trials)
        plain_ms = (time.process_time() - began) * 1000 / trials
        began = time.process_time()
        ours = searched(problem, "tpe", trials, report.folder / f"search-{name}")
        ours_ms = (time.process_time() - began) * 1000 / trials
        different += sum(a != b for a, b in zip(ours, theirs, strict=True))
        more.append(ours_ms - plain_ms)
        rows.append(
            [name, f"{min(theirs):.6g}", f"{min(ours):.6g}", f"{plain_ms:.1f}", f"{ours_ms:.1f}"]
        )
    header = ("", "best, Optuna", "best, search", "a trial, ms", "with git, ms")
    note = "In the processor's time: other work on the machine counts less."
    report.table(f"A search of {trials} trials by TPE", header, rows, note)
    report.limit("search", median(more))
    report.limit("search, values", different)
