"""How much each number and choice matters for the metric that decides."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autopilot.errors import UsageError
from autopilot.tuning.samplers import add_trial, new_study
from autopilot.tuning.spaces import Choice, Range, Space, Value, parse_tune

FEWEST = 8
"""With fewer epochs, a share says nothing."""


@dataclass(frozen=True, slots=True)
class Importance:
    """The share of each parameter's number or choice in what makes an epoch good.

    Args:
        shares: Name to share, from 0 to 1; together 1. The largest first; empty where unknown.
        unknown: Why there are none, in a few words; "" where there are.
    """

    shares: Mapping[str, float] = field(default_factory=dict)
    unknown: str = ""


def importance(
    epochs: Sequence[tuple[Mapping[str, Value], float]], mode: str, spaces: Mapping[str, str]
) -> Importance:
    """Which values the better epochs have in common, by PED-ANOVA (Watanabe et al., 2023).

    Optuna does it. A value whose condition does not hold is missing in its epoch.

    Args:
        epochs: The values of each measured state, with its metric.
        mode: The metric's direction, "max" or "min".
        spaces: Name to space, as it is written on the command line, as far as it is known.
    """
    if len(epochs) < FEWEST:
        return Importance(unknown=f"it takes {FEWEST} measured states, and there are {len(epochs)}")
    try:
        from optuna.importance import PedAnovaImportanceEvaluator
        from optuna.samplers import RandomSampler
    except ImportError:
        return Importance(unknown="it takes optuna: pip install 'autopilot[optuna]'")
    names = dict.fromkeys(name for values, _ in epochs for name in values)
    known = {name: _space(name, epochs, spaces.get(name, "")) for name in names}
    searched = {name: space for name, space in known.items() if space is not None}
    with warnings.catch_warnings():
        # That it is new, and that some conditions held in a few states only.
        warnings.simplefilter("ignore")
        study = new_study(RandomSampler(seed=0), mode)
        for values, metric in epochs:
            add_trial(study, {n: v for n, v in values.items() if n in searched}, searched, metric)
        found = PedAnovaImportanceEvaluator().evaluate(study)
    total = sum(found.values())
    if not total:
        return Importance(unknown="the better states have no values in common")
    shares = {name: found.get(name, 0.0) / total for name in names}
    return Importance(dict(sorted(shares.items(), key=lambda pair: -pair[1])))


def space_of(text: str) -> Space | None:
    """A space as a manifest has it; None where it is not known."""
    try:
        return parse_tune(f"file:key={text}")[2] if text else None
    except UsageError:
        return None


def _space(
    name: str, epochs: Sequence[tuple[Mapping[str, Value], float]], text: str
) -> Space | None:
    """The space of a name, or one around its values; None where they are all the same."""
    values = [found[name] for found, _ in epochs if name in found]
    space = space_of(text)
    if space is not None and all(map(space.contains, values)):
        return space
    if len(set(values)) < 2:
        return None
    if any(isinstance(value, bool | str) for value in values):
        return Choice(list(dict.fromkeys(values)))
    return Range(float(min(values)), float(max(values)))
