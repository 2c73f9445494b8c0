"""Records made of what happened."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from autopilot import __version__
from autopilot.core.comparison import EpochView
from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.parameter import Parameter
from autopilot.core.policy import Decision
from autopilot.core.records import message
from autopilot.core.records.history import History, KnownState
from autopilot.core.records.record import (
    TOGETHER,
    Lesson,
    Manifest,
    MetricsRecord,
    StepRecord,
    TraceRecord,
)
from autopilot.core.store import R
from autopilot.core.types import Datum, Metrics, Verdict, datum_to_json, unlike_json
from autopilot.errors import DataError, StateError, UsageError
from autopilot.text import hide

_Facts = Mapping[tuple[str, int], TraceRecord]


def complete(manifest: Manifest) -> Manifest:
    """The manifest with the versions that it was begun with.

    Raises:
        UsageError: JSON cannot carry a hyperparameter; nothing is written.
    """
    hparams = manifest.hparams.items()
    odd = next(filter(None, (unlike_json(value, name) for name, value in hparams)), "")
    if odd:
        raise UsageError(
            f"the hyperparameter {odd}, which JSON cannot carry",
            hint="give text, numbers, lists or dicts in Manifest(hparams=...)",
        )
    versions = {"autopilot": __version__, "python": platform.python_version()}
    return replace(manifest, versions={**versions, **manifest.versions})


def check_states(states: Mapping[str, Any]) -> None:
    """Refuses what would not come back as it was when a run is resumed.

    Args:
        states: "optimizer" and others to their state_dict; "callbacks" to one for each.

    Raises:
        StateError: it names the place in the state_dict.
    """
    flat = {**states, **states.get("callbacks", {})}
    flat.pop("callbacks", None)
    for name, state in flat.items():
        odd = unlike_json(state, f"{name}.state_dict()")
        if odd:
            raise StateError(
                f"{odd}, which JSON does not give back as it was",
                hint="let state_dict() return text, numbers, lists and dicts with keys of text, "
                "and make it what it was in load_state_dict()",
            )


def step_record(
    optimizer: Optimizer,
    epoch: int,
    number: int,
    step: Step | None,
    error: str,
    violations: Sequence[str],
    budget_line: str,
    *,
    changed: bool,
) -> StepRecord:
    """One optimizer step, with the gradients that led to it; raises as `check_states`."""
    step, state = step or Step(), optimizer.state_dict()
    check_states({"optimizer": state})
    graded = [parameter for parameter in optimizer.parameters if parameter.grad is not None]
    return StepRecord(
        epoch=epoch,
        id=f"{epoch}-{number}",
        step=number,
        changed=changed,
        # Hidden before it is shortened: half a secret would not be found any more.
        strategy=hide(step.strategy),
        summary=hide(step.summary),
        rationale=hide(step.rationale),
        gradients=hide(_rendered(optimizer.parameters)),
        category=_together(p.grad.about() for p in graded if p.grad),
        node=_together(p.name.rpartition(".")[0] for p in graded),
        error=hide(error),
        violations=hide(tuple(message.worst_first(violations))),
        told=budget_line,
        cost=step.cost,
        state=state,
    )


def val_record(
    history: History,
    view: EpochView,
    decision: Decision,
    steps: Sequence[StepRecord],
    known: KnownState | None,
) -> MetricsRecord:
    """The verdict on an epoch with what led to it; the state of the run is still to be added."""
    kept, value = decision.kept, _finite(view.value)
    return MetricsRecord(
        epoch=view.epoch,
        id=f"{view.epoch}-val",
        split="val",
        metrics=view.metrics.get("val", {}),
        verdict=decision.verdict,
        monitor=view.monitor,
        mode=view.mode,
        baseline=value if view.epoch == 0 else history.baseline_value,
        best=value if kept and value is not None else history.best_value,
        best_epoch=view.epoch if kept else history.best_epoch,
        gain=view.gain() if view.epoch > 0 and known is None else None,
        reasons=hide(decision.reasons),
        strategy=_together(step.strategy for step in steps),
        summary="; ".join(step.summary for step in steps if step.summary),
        outcome=known.outcome if known else "kept" if kept else "rejected",
        reused=known.epoch if known else None,
        reused_candidate=known.candidate if known else 0,
        cost=view.cost,
        spent=history.spent + view.cost,
        unmeasured=unmeasured_in(view.items),
        noise=history.noise if view.epoch == 0 else None,
        memorized=decision.memorized,
    )


def unmeasured_in(items: Iterable[Datum]) -> int:
    """How many items could not be measured."""
    return sum(item.unmeasured is not None for item in items)


def other_records(epoch: int, metrics: Metrics, verdict: Verdict) -> list[MetricsRecord]:
    """The epoch's splits beside val."""
    return [
        MetricsRecord(
            epoch=epoch, id=f"{epoch}-{split}", split=split, metrics=values, verdict=verdict
        )
        for split, values in metrics.items()
        if split != "val" and values
    ]


def trace_record(
    epoch: int, split: str, items: Sequence[Datum], repeat: int = 0, facts: _Facts | None = None
) -> TraceRecord:
    """The results of a split in an epoch, one Datum an item; `repeat` numbers the measurement.

    Args:
        facts: Split and measurement to a record of where its results are from, without them.
    """
    name = f"{epoch}-{split}" + (f"-{repeat}" if repeat else "")
    values = tuple(datum_to_json(item, check=False) for item in items)
    if unlike_json(list(values), ""):
        values = tuple(map(_result, items))
    about = (facts or {}).get((split, repeat)) or TraceRecord(split=split, repeat=repeat)
    return replace(about, epoch=epoch, id=name, items=values)


def _result(item: Datum) -> dict[str, Any]:
    try:
        return datum_to_json(item)
    except DataError:
        # The user's payload is not JSON; the outcome is.
        return datum_to_json(replace(item, metadata={}))


def lesson_of(
    slug: str, record: MetricsRecord, view: EpochView, steps: Sequence[StepRecord]
) -> Lesson:
    """The lesson of an epoch for memory."""
    return Lesson(
        epoch=record.epoch,
        id=str(record.epoch),
        strategy=record.strategy,
        outcome=record.outcome,
        summary=record.summary,
        reason="; ".join(record.reasons),
        delta=view.gain() if record.reused is None else None,
        category=_together(step.category for step in steps),
        node=_together(step.node for step in steps),
        experiment=slug,
        value=_finite(view.value),
        mode=record.mode,
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _together(names: Iterable[str]) -> str:
    return TOGETHER.join(dict.fromkeys(name for name in names if name))


def _rendered(parameters: Sequence[Parameter]) -> dict[str, str]:
    """Name to gradient; in a manual loop names need not differ."""
    found: dict[str, str] = {}
    for number, parameter in enumerate(parameters):
        if parameter.grad is not None:
            name = parameter.name or f"parameter {number}"
            name = f"{name} ({number})" if name in found else name
            found[name] = parameter.grad.render()
    return found


class Read(Protocol):
    """Gives the records of a class on a revision."""

    def __call__(self, revision: str, kind: type[R], /) -> Iterable[R]: ...


def recorded_passes(read: Read, revision: str, split: str, epoch: int) -> list[list[Datum]]:
    """The results of each measurement of a split, as they were recorded on a revision."""
    traces = read(revision, TraceRecord)
    found = [trace for trace in traces if (trace.split, trace.epoch) == (split, epoch)]
    return [trace.data() for trace in sorted(found, key=lambda trace: trace.repeat)]
