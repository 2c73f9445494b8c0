"""The baseline measured several times: how far measurements of one state differ."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from autopilot.core.evaluation import Evaluator
from autopilot.core.known import is_same
from autopilot.core.measured import Measured, measure_once
from autopilot.core.noise import fewest_gains
from autopilot.core.run import Run
from autopilot.core.types import Cost, Noise


def measure_again(
    run: Run, evaluator: Evaluator, val: Measured, loader: Iterable[Any] | None
) -> None:
    """Measures the baseline a second time, beside the first, if it was measured once.

    Where its known results were others, nothing that is known counts.
    """
    if len(val.passes) == 1:
        val.beside.append(measure_once(run, evaluator, "val", 0, loader, repeat=1))
    if not is_same(val.passes[0].items, [*val.passes, *val.beside][-1].items):
        distrust(run, evaluator, val, loader)


def distrust(run: Run, evaluator: Evaluator, val: Measured, loader: Iterable[Any] | None) -> None:
    """Lets nothing count that is known, and measures what is known of the baseline anew."""
    experiment = run.experiment
    if experiment.cache is None:
        return
    experiment.cache.is_off = experiment.progress.distrusts = True
    # The first one last: callbacks hear of it, with the means.
    for number in reversed([n for n, each in enumerate(val.passes) if each.known]):
        known, others = val.passes[number].known, () if number else val.passes[1:]
        run.note(f"{known} val items were known, but no second measurement says so: measured anew")
        run.meter.add(Cost(known=-known))
        again = measure_once(run, evaluator, "val", 0, loader, number, others)
        val.passes[number] = again


def measure_often(
    run: Run,
    evaluator: Evaluator,
    val: Measured,
    loader: Iterable[Any] | None,
    candidates: int,
) -> Noise:
    """Measures the baseline, and every later state, so often that one noisy number has items.

    One measurement of each state could tell no gain from chance: no epoch would be kept.

    Args:
        val: The baseline; gets the further measurements, and those beside it become its own.
        candidates: How many an epoch has: each must show that much more.

    Returns:
        How far all of them differ.
    """
    val.passes, val.beside = [*val.passes, *val.beside], []
    often = fewest_gains(candidates)
    for number in range(len(val.passes), often):
        val.passes.append(measure_once(run, evaluator, "val", 0, loader, number))
    run.experiment.repeat, run.metrics["val"] = often, val.compute()
    assert run.experiment.monitored is not None, "the Trainer sets it"
    return val.noise(run.experiment.monitored, candidates)
