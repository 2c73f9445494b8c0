"""Measuring a split several times: each time with other chance, and what that comes to together.

Measurement 0 is seeded as a run without repeats is; every further one has a seed of its own, from
which the order of items and the chance of each batch derive, as they differ between epochs. Model
calls of a further measurement are asked anew: its number is part of their names.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from autopilot.core.chance import seed_of
from autopilot.core.comparison import EpochView, Key, keyed
from autopilot.core.evaluation import Evaluator, SplitMetrics, batches
from autopilot.core.graph import no_grad
from autopilot.core.noise import FEWEST_GAINS, DefaultPolicy, compare, noise_sentence
from autopilot.core.records.record import TraceRecord
from autopilot.core.run import repeating
from autopilot.core.statistics import gain_of
from autopilot.core.stopping import Budget
from autopilot.core.types import Cost, Datum, Gain, Noise, count_outcomes, datum_from_json

if TYPE_CHECKING:
    from autopilot.core.experiment import Experiment
    from autopilot.core.loop import Fit
    from autopilot.core.module import AutoPilotModule
    from autopilot.core.store import Store
    from autopilot.core.trainer import Trainer


class Measured:
    """What one state came to on a split, in one measurement or several.

    Args:
        passes: The measurements, the first one first.

    Attributes:
        beside: Measurements that do not count in the means: the second one of the baseline.
    """

    def __init__(self, passes: Sequence[SplitMetrics]) -> None:
        self.passes, self.beside = list(passes), list[SplitMetrics]()

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
        return f"{len(values)} measurements: {monitor} {min(values):.4g} to {max(values):.4g}"


def measure(
    trainer: Trainer,
    module: AutoPilotModule,
    evaluator: Evaluator,
    split: str,
    epoch: int,
    loader: Iterable[Any] | None,
) -> Measured:
    """Measures a split: val as often as the trainer says, any other once.

    Callbacks are told of one pass, with the means as its metrics.
    """
    repeats = range(1, trainer.repeat if split == "val" and loader is not None else 1)
    place = trainer, module, evaluator, split, epoch, loader
    others = [evaluate_split(*place, repeat=number) for number in repeats]
    found = Measured([evaluate_split(*place, others=others), *others])
    if others:
        trainer.run.note(found.spread(trainer.monitor))
    return found


def evaluate_split(
    trainer: Trainer,
    module: AutoPilotModule,
    evaluator: Evaluator,
    split: str,
    epoch: int,
    loader: Iterable[Any] | None,
    repeat: int = 0,
    others: Sequence[SplitMetrics] = (),
) -> SplitMetrics:
    """One pass over a split without a graph, in eval mode.

    Args:
        trainer: Tells the callbacks.
        module: The system.
        evaluator: Runs the batches.
        split: "val" or "test".
        epoch: The epoch.
        loader: Its batches; None: there are none.
        repeat: The number of the measurement; of a further one, only the module hears.
        others: The further ones; the callbacks see the means.
    """
    call = trainer.call_module if repeat else trainer.call
    seed = seed_of(trainer.seed, repeat)
    moment = "validation" if split == "val" else split
    was_training = module.training
    module.eval()
    measured = SplitMetrics(module, keep_items=True)
    call(f"on_{moment}_start")
    call(f"on_{moment}_epoch_start")
    with no_grad(), repeating(repeat):
        given = () if loader is None else batches(loader, split, epoch, seed)
        for index, batch, _ in given:
            call(f"on_{moment}_batch_start", batch, index)
            data = evaluator.run(split, epoch, index, batch, repeat)
            call(f"on_{moment}_batch_end", data, batch, index)
            measured.update(data)
    if not repeat:
        passes = [measured.compute(), *(other.compute() for other in others)]
        trainer.callback_metrics[split] = means_of(passes)
    call(f"on_{moment}_epoch_end")
    call(f"on_{moment}_end")
    module.train(was_training)
    return measured


def means_of(measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Name to the mean over several measurements, of what all of them have.

    >>> means_of([{"f1": 0.5}, {"f1": 1.0, "recall": 1.0}])
    {'f1': 0.75}
    """
    first = measured[0]
    common = [name for name in first if all(name in values for values in measured)]
    return {name: sum(values[name] for values in measured) / len(measured) for name in common}


def measure_noise(fit: Fit, val: Measured) -> list[str]:
    """Measures the baseline's val split a second time, with other chance.

    The experiment gets what came out; the baseline's metrics stay those of the first measurement.

    Args:
        fit: What is measured.
        val: What the first measurement came to; the second is put beside it.

    Returns:
        What is to be said of it, in a sentence; nothing without a val split, or where it is
        switched off.
    """
    experiment = fit.trainer.experiment
    if fit.val is None or fit.trainer.measure_noise is False:
        return []
    experiment.noise = experiment.known_noise or _noise(fit, val)
    return [noise_sentence(experiment.noise, default=isinstance(fit.policy, DefaultPolicy))]


def _noise(fit: Fit, val: Measured) -> Noise:
    trainer = fit.trainer
    monitor, share = trainer.monitor, _share(val.passes[0].items, trainer.monitor)
    if skipped := _reason_to_skip(fit, val):
        return Noise(smallest=share, skipped=skipped)
    if len(val.passes) == 1:
        place = trainer, fit.module, fit.evaluator, "val", 0, fit.val
        val.beside.append(evaluate_split(*place, repeat=1))
    found = compare(val.results, trainer.monitored, len(val.passes))
    values = [m.compute().get(monitor, math.nan) for m in (*val.passes, *val.beside)]
    # The usual distance of two; between means of several it is so much smaller.
    apart = [_apart(*neighbours) for neighbours in pairwise(values)]
    shift = math.hypot(*apart) / math.sqrt(len(apart) * len(val.passes))
    evaluations = sum(measured.means.items for measured in val.beside)
    smallest = share
    if found.differing or shift:
        smallest = max(found.smallest or 0.0, FEWEST_GAINS * (share or 0.0), shift)
    return replace(found, shift=shift, smallest=smallest, evaluations=evaluations)


def _apart(one: float, other: float) -> float:
    # Sums in another order are not the same to the last bit.
    same = math.isclose(one, other, rel_tol=1e-9) or not math.isfinite(one - other)
    return 0.0 if same else abs(one - other)


def mean_items(passes: Sequence[Sequence[Datum]]) -> list[Datum]:
    """The items of several measurements as one Datum an item, in the order of the first.

    Its metrics are the means; the share of passes is the metric "accuracy", where an item has none
    of that name. An item that failed with an error, or could not be measured, in one of them did so
    here, and has no metric that it lacks in one of them: what is missing must not flatter a mean.

    >>> mean_items([[Datum(id="a", success=True)], [Datum(id="a", success=False)]])[0].metrics
    {'accuracy': 0.5}
    """
    if len(passes) < 2:
        return [item for items in passes for item in items]
    grouped: dict[Key, list[Datum]] = {}
    for items in passes:
        for key, item in keyed(items).items():
            grouped.setdefault(key, []).append(item)
    return [_mean(items) for items in grouped.values()]


def _mean(items: Sequence[Datum]) -> Datum:
    worst = min(items, key=lambda item: _ORDER.index(item.outcome))
    mean = copy.copy(worst)
    mean.metrics = {
        name: sum(item.metrics[name] for item in items) / len(items)
        for name in items[0].metrics
        if all(name in item.metrics for item in items)
    }
    if all(item.outcome in ("passed", "failed") for item in items):
        passed = sum(item.outcome == "passed" for item in items)
        mean.metrics.setdefault("accuracy", passed / len(items))
    return mean


_ORDER = ("unmeasured", "error", "unscored", "failed", "passed")


def recorded_passes(store: Store, split: str, epoch: int) -> list[list[Datum]]:
    """The results of each measurement of a split, as they were recorded."""
    found = [t for _, t in store.records(TraceRecord) if (t.split, t.epoch) == (split, epoch)]
    return [
        [datum_from_json(item, split=split, epoch=epoch) for item in trace.items]
        for trace in sorted(found, key=lambda trace: trace.repeat)
    ]


def _reason_to_skip(fit: Fit, val: Measured) -> str:
    trainer = fit.trainer
    if len(val.passes) > 1:
        return ""
    if not val.evaluations:
        return "there are no val items"
    calls = trainer.experiment.store.calls() or trainer.run.ledger.total().calls
    if trainer.measure_noise is None and calls:
        return "the evaluation calls a model (--measure-noise)"
    # Room for the second measurement, and for the val split of one epoch.
    total = trainer.spent() + Cost(evaluations=3 * val.evaluations, seconds=3 * trainer.epoch_s())
    budgets = (callback.limits for callback in trainer.active if isinstance(callback, Budget))
    if any(total.evaluations > b.evaluations or total.seconds > b.seconds for b in budgets):
        return "the budget is too small for a second measurement"
    return ""


def _share(items: Sequence[Datum], monitor: str) -> float | None:
    """One item's share of the accuracy; None where something else decides."""
    if monitor != "accuracy" or any(monitor in item.metrics for item in items):
        return None
    counts = count_outcomes(items)
    scored = counts["passed"] + counts["failed"] + counts["error"]
    return 1 / scored if scored else None


def unscored(experiment: Experiment, loader: Iterable[Any]) -> list[int]:
    """The epochs whose test split is to be scored, the best one last.

    Where one of the two is scored, only the other: a kill came in between, or the best is a new
    one. A loader that gives its batches once is for the best.
    """
    best = experiment.best_epoch
    epochs = [best] if isinstance(loader, Iterator) or best == 0 else [0, best]
    return [n for n in epochs if "test" not in experiment.metrics.get(n, {})] or epochs


def test_gain(trainer: Trainer, measured: Measured) -> Gain:
    """What the best state gained on the baseline, on the test split.

    Args:
        trainer: Of the experiment.
        measured: The best state's test split; the baseline's is recorded.
    """
    experiment, monitor = trainer.experiment, trainer.monitor
    metrics = measured.compute()
    after = metrics.get(monitor)
    if experiment.best_epoch == 0:
        return Gain(after, after)
    if not (before := recorded_passes(experiment.store, "test", 0)):
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
        monitored=trainer.monitored,
    )
    return gain_of(view, "test", trainer.seed)
