"""Measurements of a split: their metrics, and several of them beside one another.

Measurement 0 is seeded as a run without repeats is; every further one has a seed of its own, from
which the order of items and the chance of each batch derive, as they differ between epochs. Model
calls of a further measurement are asked anew: its number is part of their names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import Any

from autopilot.core import graph
from autopilot.core.callback import RunView
from autopilot.core.collection import ByName, compute_all, update_all
from autopilot.core.comparison import EpochView, Monitored, mean_items
from autopilot.core.evaluation import Evaluator
from autopilot.core.experiment import Experiment
from autopilot.core.figures import figures
from autopilot.core.graph import no_grad
from autopilot.core.interpreter import seed_of
from autopilot.core.items import Batch, batches
from autopilot.core.module import AutoPilotModule
from autopilot.core.noise import compare, fewest_gains
from autopilot.core.progress import Position
from autopilot.core.records.history import KnownState
from autopilot.core.run import Run
from autopilot.core.scoring import ItemMean
from autopilot.core.screening import Race
from autopilot.core.statistics import gain_of
from autopilot.core.types import Cost, Datum, Gain, Noise, count_outcomes
from autopilot.core.writing import recorded_passes
from autopilot.errors import EvaluationError
from autopilot.text import every


class SplitMetrics:
    """The metrics of one pass over a split: the item means, and the module's own Metrics.

    Args:
        module: Its Metric attributes are measured too, on copies.
        keep_items: Whether the results are kept, for the policy and the traces. Those of the train
            split are not: it may be endless.
        known: The metrics of results that are recorded, which `compute` returns.

    Attributes:
        items: The results.
        given: The batches with their results, where a screen needs them.
        known: How many results an earlier experiment measured.
    """

    def __init__(
        self, module: AutoPilotModule, *, keep_items: bool, known: Mapping[str, float] | None = None
    ) -> None:
        self._keep_items, self._known = keep_items, known
        self.means = ItemMean()
        self._own: ByName = {name: metric.clone() for name, metric in module.named_metrics()}
        for metric in self._own.values():
            metric.reset()
        self.items: list[Datum] = []
        self.given: list[tuple[Datum, Datum]] = []
        self.known = 0

    def update(self, data: Datum) -> None:
        """Takes in a batch's result."""
        self.means.update(data)
        update_all(self._own, data)
        if self._keep_items:
            self.items.extend(data.leaves())

    def compute(self) -> dict[str, float]:
        """Name to value; empty when there were no items."""
        if self._known is not None:
            return dict(self._known)
        return self.means.compute() | compute_all(self._own) if self.means.items else {}

    def check_scored(self, split: str, monitor: str) -> None:
        """Ends a run that compares nothing: no item has a success, and there is no such metric."""
        values, means = self.compute(), self.means
        value = values.get(monitor)
        if value is not None and not math.isfinite(value):
            # A metric of the whole split may read any number of an item.
            each = ((item.id, item.metrics) for item in self.items)
            read = [(i, [m[monitor]] if monitor in m else m.values()) for i, m in each]
            odd = [name for name, numbers in read if not all(map(math.isfinite, numbers))]
            where = f" (item {', '.join(odd[:3])})" if odd else ""
            raise EvaluationError(
                f"{split} {monitor} is {value}{where}: nothing can be compared with it",
                hint="make it a finite number for each item",
            )
        if self.means.is_judged or monitor in values:
            return
        items = f"the {means.items} {split} items" if means.items > 1 else f"the {split} item"
        if means.items and means.outcomes["unmeasured"] == means.items:
            why = f": {self.items[0].unmeasured}" if self.items else ""
            raise EvaluationError(
                f"nothing could be measured of {items}{why}",
                hint="look at what the measurement needs: the judge, or the service that is asked",
            )
        name = "score" if monitor == "accuracy" else monitor
        known = f"; or monitor one of: {', '.join(sorted(values))}" if values else ""
        raise EvaluationError(
            f"nothing scores {items}: none has a success, and there is no metric {monitor!r}",
            hint="return Datum(success=...) for each item, True or False; or a number,\n"
            f'  Datum(metrics={{"{name}": ...}}), and set monitor = "{name}" on the module{known}',
        )

    def is_scored(self, monitor: str) -> bool:
        """Whether an item passed or failed, or the metric has a value."""
        return self.means.is_judged or monitor in self.compute()

    def silence(self, split: str) -> str:
        """Why the items of the split say nothing to the optimizer."""
        outcomes, count = self.means.outcomes, self.means.items
        items = every(count, f"{split} item")
        if not count:
            why = f"no {split} results are recorded"
        elif outcomes["passed"] == count:
            why = f"{items} passed and none has feedback"
        elif outcomes["passed"] + outcomes["failed"] + outcomes["error"] == 0:
            why = f"{items} are unscored and none has feedback"
        else:
            counts = ", ".join(f"{n} {name}" for name, n in sorted(outcomes.items()))
            why = f"the loss has no feedback on {count} {split} items ({counts})"
        return f"{why}: nothing says what to improve"

    def errors(self) -> list[str]:
        """The error messages, if every item failed with one; else empty."""
        return self.means.errors if len(self.means.errors) == self.means.items else []


class Measured:
    """One state measured on a split, once or several times.

    Args:
        passes: The measurements, the first one first.

    Attributes:
        beside: Measurements that do not count in the means: the second one of the baseline.
        stopped: Why it ended before all items were measured, if it did.
    """

    def __init__(self, passes: Sequence[SplitMetrics]) -> None:
        self.passes, self.beside = list(passes), list[SplitMetrics]()
        self.stopped: KnownState | None = None

    @property
    def evaluations(self) -> int:
        """How many items went through the module."""
        return sum(measured.means.items for measured in (*self.passes, *self.beside))

    @property
    def results(self) -> list[list[Datum]]:
        """The items of each measurement."""
        return [measured.items for measured in (*self.passes, *self.beside)]

    def compute(self) -> dict[str, float]:
        """Name to the mean over the measurements."""
        return means_of([measured.compute() for measured in self.passes])

    @cached_property
    def items(self) -> list[Datum]:
        """The results, one Datum an item; of several measurements, see `mean_items`."""
        return mean_items([measured.items for measured in self.passes])

    def errors(self) -> list[str]:
        """The error messages, if every item of every measurement failed with one; else empty."""
        return [] if any(not m.errors() for m in self.passes) else self.passes[0].errors()

    def spread(self, monitor: str) -> str:
        """The values of the measurements in a sentence; "" where there is one."""
        values = [m.compute()[monitor] for m in self.passes if monitor in m.compute()]
        if len(values) < 2:
            return ""
        low, high = figures(min(values), max(values))
        return f"{len(values)} measurements: {monitor} {low} to {high}"

    def moving(self, objectives: Iterable[str]) -> tuple[str, ...]:
        """A sentence on objectives that differ from measurement to measurement; none if none do."""
        first, *others = (measured.compute() for measured in (*self.passes, *self.beside))
        each = [n for n in objectives if any(other.get(n) != first.get(n) for other in others)]
        said = f"{', '.join(each)}: two measurements of the baseline differ"
        return (f"{said}, so a state may be on the frontier by chance",) if each else ()

    def noise(self, monitored: Monitored, candidates: int = 1) -> Noise:
        """How far the measurements differ; `candidates` of an epoch share what chance may pass."""
        found = compare(self.results, monitored, len(self.passes), candidates)
        if len(self.passes) > 1 and found.items == 1:
            found = replace(found, items=len(self.passes), differing=0, repeats=True)
        every = (*self.passes, *self.beside)
        values = [m.compute().get(monitored.name, math.nan) for m in every]
        # The usual distance of two; between means of several it is so much smaller.
        apart = [
            # Sums in another order are not the same to the last bit.
            0.0 if math.isclose(a, b, rel_tol=1e-9) or not math.isfinite(a - b) else abs(a - b)
            for a, b in pairwise(values)
        ]
        shift = math.hypot(*apart) / math.sqrt(len(apart) * len(self.passes))
        smallest = share = self.share(monitored.name)
        if found.differing or shift:
            least = fewest_gains(candidates) * (share or 0.0)
            smallest = max(found.smallest or 0.0, least, shift)
        evaluations = sum(measured.means.items for measured in self.beside)
        return replace(found, shift=shift, smallest=smallest, evaluations=evaluations)

    def share(self, monitor: str) -> float | None:
        """One item's share of the accuracy; None where another metric decides."""
        items = self.passes[0].items
        if monitor != "accuracy" or any(monitor in item.metrics for item in items):
            return None
        counts = count_outcomes(items)
        scored = counts["passed"] + counts["failed"] + counts["error"]
        return 1 / scored if scored else None


def measure(
    run: Run,
    evaluator: Evaluator,
    split: str,
    epoch: int,
    loader: Iterable[Any] | None,
    race: Race | None = None,
) -> Measured:
    """Measures a split: val as often as the experiment says, any other once.

    Callbacks hear of one pass, with the means as its metrics.

    Args:
        race: May end it early; of a split that is measured once.
    """
    if race is not None:
        measured = Measured([measure_once(run, evaluator, split, epoch, loader, race=race)])
        measured.stopped = race.stopped
        return measured
    repeats = range(1, run.experiment.repeat if split == "val" and loader is not None else 1)
    others = [measure_once(run, evaluator, split, epoch, loader, number) for number in repeats]
    found = Measured([measure_once(run, evaluator, split, epoch, loader, others=others), *others])
    if others and run.experiment.monitored is not None:
        run.note(found.spread(run.experiment.monitored.name))
    return found


def measure_once(
    run: Run,
    evaluator: Evaluator,
    split: str,
    epoch: int,
    loader: Iterable[Any] | None,
    repeat: int = 0,
    others: Sequence[SplitMetrics] = (),
    race: Race | None = None,
) -> SplitMetrics:
    """One pass over a split without a graph, in eval mode.

    Args:
        run: Has the callbacks, and gets the metrics and the cost.
        loader: Its batches; None: there are none.
        repeat: The number of the measurement; of a further one, only the module hears.
        others: The further ones; the callbacks see the means.
        race: Orders the batches, and may end it before the last one: then there are no metrics.
    """
    call = run.hooks.call_module if repeat else run.hooks.call
    moment, module = "validation" if split == "val" else split, evaluator.module
    was_training = module.training
    module.eval()
    measured = SplitMetrics(module, keep_items=True)
    call(f"on_{moment}_start")
    call(f"on_{moment}_epoch_start")
    with no_grad(), run.repeating(repeat):
        seed, experiment = seed_of(evaluator.seed, repeat), run.experiment
        at = Position(split, epoch, repeat=repeat)
        given: Iterator[Batch] = iter(())
        given = given if loader is None else batches(loader, split, epoch, seed)
        if experiment.cache is not None:
            # The last one of the baseline tells whether what is known of the others is right.
            is_counted = repeat == 0 or repeat < experiment.repeat - (epoch == 0)
            state = experiment.now.state
            given = experiment.cache.batches(at, state, given, is_counted=is_counted)
        given = race.order(given) if race is not None else given
        for index, batch, _ in evaluator.ahead(given, at):
            call(f"on_{moment}_batch_start", batch, index)
            data = evaluator.run(Position(split, epoch, index, repeat), batch)
            call(f"on_{moment}_batch_end", data, batch, index)
            if race is None:
                measured.update(data)
            else:
                race.add(index, data)
        for data in race.results() if race is not None else ():
            measured.update(data)
    known = measured.known = experiment.end_pass(at, measured.means.items)
    saved = race.saved if race is not None else 0
    run.meter.add(Cost(measured.means.items - known, known=known, saved=saved))
    if race is not None and race.stopped is not None:
        run.metrics[split] = {}
    elif not repeat:
        run.metrics[split] = means_of([m.compute() for m in (measured, *others)])
    call(f"on_{moment}_epoch_end")
    call(f"on_{moment}_end")
    module.train(was_training)
    return measured


def recorded_batches(
    evaluator: Evaluator, val: Iterable[Any] | None, recorded: Iterable[Datum], best: int
) -> Iterator[tuple[Datum, Datum]]:
    """The val results of an epoch, `best`, each batch with the items that it was given.

    Feedback on them goes to the module as a whole: the calls inside it are not recorded.
    """
    results = {item.id: item for item in recorded}
    # The epoch's number gives its order of items, and with it the ids of their batches.
    for _, batch, _ in batches(val or (), "val", best, evaluator.seed):
        ids = [item.id for item in batch.leaves()]
        # A module may return one result for a whole batch.
        found = [results.get(i) for i in ids] if results.keys() & ids else [results.get(batch.id)]
        if not batch.items and found == [None]:
            # How many items it has, the module says: all that no other batch has.
            found, results = [*results.values()], {}
        data = Datum(items=[item for item in found if item is not None], id=batch.id)
        data.split, data.epoch = "val", best
        if data.items:
            graph.attach(evaluator.module, batch, data)
            yield data, batch


def means_of(measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Name to the mean over several measurements, of what all of them have.

    >>> means_of([{"f1": 0.5}, {"f1": 1.0, "recall": 1.0}])
    {'f1': 0.75}
    """
    first = measured[0]
    common = [name for name in first if all(name in values for values in measured)]
    return {name: sum(values[name] for values in measured) / len(measured) for name in common}


def unscored(experiment: Experiment, loader: Iterable[Any]) -> list[int]:
    """The epochs whose test split is to be scored, the best one last.

    Where one of the two is scored, only the other: a kill came in between, or the best is a new
    one. A loader that gives its batches once is for the best.
    """
    best = experiment.best_epoch
    epochs = [best] if isinstance(loader, Iterator) or best == 0 else [0, best]
    return [n for n in epochs if "test" not in experiment.metrics.get(n, {})] or epochs


def test_gain(trainer: RunView, measured: Measured) -> Gain:
    """The gain of the best state on the baseline, on the test split.

    Args:
        measured: The best state's test split; the baseline's is recorded.
    """
    experiment, monitor = trainer.experiment, trainer.monitor
    metrics = measured.compute()
    after = metrics.get(monitor)
    if experiment.best_epoch == 0:
        return Gain(after, after)
    read = experiment.store.records_on
    if not (before := recorded_passes(read, experiment.revision_of(0), "test", 0)):
        return Gain(None, after)
    view = EpochView(
        experiment.best_epoch,
        {"test": metrics},
        experiment.metrics[0],
        {},
        monitor,
        trainer.mode,
        items=measured.items,
        best_items=before[0],
        monitored=experiment.monitored,
    )
    return gain_of(view, "test", trainer.seed)
