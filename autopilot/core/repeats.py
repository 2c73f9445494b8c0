"""The baseline measured several times: how far measurements of one state differ."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from autopilot.core.evaluation import Evaluator
from autopilot.core.known import is_same
from autopilot.core.measured import Measured, measure_once
from autopilot.core.noise import FEWEST_GAINS
from autopilot.core.run import Run
from autopilot.core.types import Cost, Noise


def measure_again(
    run: Run, evaluator: Evaluator, val: Measured, loader: Iterable[Any] | None
) -> None:
    """Measures the baseline a second time, beside the first, if it was measured once.

    Where its known results were others, nothing that is known counts, and it is measured anew.
    """
    if len(val.passes) > 1:
        return
    again = measure_once(run, evaluator, "val", 0, loader, repeat=1)
    val.beside.append(again)
    experiment, first = run.experiment, val.passes[0]
    if experiment.cache is None or is_same(first.items, again.items):
        return
    experiment.cache.is_off = experiment.progress.distrusts = True
    if first.known:
        run.note(f"{first.known} val items were known otherwise: measured anew")
        run.meter.add(Cost(known=-first.known))
        val.passes[0] = measure_once(run, evaluator, "val", 0, loader)


def measure_often(
    run: Run, evaluator: Evaluator, val: Measured, loader: Iterable[Any] | None
) -> Noise:
    """Measures the baseline, and every later state, so often that one noisy number has items.

    One measurement of each state could tell no gain from chance: no epoch would be kept.

    Args:
        val: The baseline; gets the further measurements, and those beside it become its own.

    Returns:
        How far all of them differ.
    """
    val.passes, val.beside = [*val.passes, *val.beside], []
    for number in range(len(val.passes), FEWEST_GAINS):
        val.passes.append(measure_once(run, evaluator, "val", 0, loader, number))
    run.experiment.repeat, run.metrics["val"] = FEWEST_GAINS, val.compute()
    assert run.experiment.monitored is not None, "the Trainer sets it"
    return val.noise(run.experiment.monitored)
