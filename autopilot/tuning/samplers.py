"""Optuna's part of a search: its samplers, studies and trials, and how much each value matters."""

from __future__ import annotations

import copy
import functools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from autopilot.errors import UsageError
from autopilot.tuning.spaces import Choice, Range, Space, Value, parse_tune

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler
    from optuna.trial import Trial

_SAMPLERS = {
    "tpe": "TPESampler",
    "cmaes": "CmaEsSampler",
    "gp": "GPSampler",
    "random": "RandomSampler",
    "grid": "GridSampler",
    "qmc": "QMCSampler",
}
# Optuna imports these when it first draws.
_NEEDS = {"cmaes": ("cmaes",), "gp": ("torch", "scipy"), "qmc": ("scipy",)}
_LARGEST_GRID = 100_000


class Stop:
    """Takes note that a sampler has nothing left to propose."""

    called = False

    def __call__(self) -> None:
        self.called = True


def make_sampler(asked: str | BaseSampler, seed: int, spaces: Mapping[str, Space]) -> BaseSampler:
    """A sampler by its name, or a copy of one.

    Args:
        spaces: Name in the study to its space; a grid is laid out over them.

    Raises:
        UsageError: there is no such sampler, it is not installed, or it cannot lay out a grid.
    """
    try:
        from optuna import samplers
    except ImportError as error:
        raise UsageError(
            "optuna is not installed, which a SearchOptimizer asks",
            hint="pip install 'autopilot[optuna]'",
        ) from error
    if isinstance(asked, samplers.BaseSampler):
        return copy.deepcopy(asked)  # another study draws the same numbers
    if asked not in _SAMPLERS:
        raise UsageError(
            f"there is no sampler {asked!r}",
            hint=f"one of: {', '.join(_SAMPLERS)}; or a sampler of optuna.samplers",
        )
    if missing := [name for name in _NEEDS.get(asked, ()) if find_spec(name) is None]:
        raise UsageError(
            f"the sampler {asked!r} needs {' and '.join(missing)}, not installed here",
            hint=f"pip install {' '.join(missing)}; or use another one: tpe",
        )
    make: Any = getattr(samplers, _SAMPLERS[asked])
    if asked == "grid":
        make = functools.partial(make, _grid(spaces))
    elif asked in ("cmaes", "qmc"):
        make = functools.partial(make, warn_independent_sampling=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls some of its samplers experimental
        made: BaseSampler = make(seed=seed)
    return made


def _grid(spaces: Mapping[str, Space]) -> dict[str, Sequence[Any]]:
    grid: dict[str, Sequence[Any]] = {}
    for name, space in spaces.items():
        try:
            grid[name] = space.points()
        except UsageError as error:
            raise UsageError(f"{name}: {error.message}", hint=error.hint) from None
    if (size := math.prod(map(len, grid.values()))) > _LARGEST_GRID:
        raise UsageError(
            f"the grid has {size:,} combinations, and {_LARGEST_GRID:,} is the most",
            hint="give ranges a step, or use another sampler: tpe",
        )
    return grid


def new_study(sampler: BaseSampler, mode: str) -> Study:
    """A study whose `stop` may be called at any time; Optuna's own raises outside of `optimize`."""
    import optuna

    # Of the user's own studies, Optuna goes on saying what it says.
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            sampler=sampler, direction="minimize" if mode == "min" else "maximize"
        )
    finally:
        optuna.logging.set_verbosity(verbosity)
    study.stop = Stop()  # type: ignore[method-assign]
    return study


def is_over(study: Study) -> bool:
    """Whether the sampler has nothing left to propose."""
    return isinstance(study.stop, Stop) and study.stop.called


def tell_trial(
    study: Study, trial: Trial, value: float | None, *, is_stopped: bool = False
) -> None:
    """Tells a trial's value; None is a failure, or a trial that was stopped as hopeless."""
    from optuna.trial import TrialState

    state = TrialState.PRUNED if is_stopped else TrialState.FAIL
    study.tell(trial, value, state=state if value is None else TrialState.COMPLETE)


def suggested(trial: Trial, name: str, space: Space) -> Value:
    """A trial's value of a key, of Python's own types."""
    if isinstance(space, Choice):
        return space.options[space.options.index(trial.suggest_categorical(name, space.options))]
    spread = _distribution(space)
    suggest: Any = trial.suggest_int if space.is_int else trial.suggest_float
    value = suggest(name, spread.low, spread.high, step=spread.step, log=spread.log)
    return int(value) if space.is_int else float(value)


def add_trial(
    study: Study, values: Mapping[str, Value], spaces: Mapping[str, Space], value: float
) -> None:
    """Adds a trial that the study did not ask for."""
    from optuna.trial import create_trial

    distributions = {name: _distribution(spaces[name]) for name in values}
    made = create_trial(params=dict(values), distributions=distributions, value=value)
    study.add_trial(made)


def _distribution(space: Space) -> Any:
    from optuna import distributions

    if isinstance(space, Choice):
        return distributions.CategoricalDistribution(space.options)
    if space.is_int:
        step = 1 if space.step is None else int(space.step)
        return distributions.IntDistribution(int(space.low), int(space.last), space.log, step)
    return distributions.FloatDistribution(space.low, space.last, space.log, space.step)


# --- how much each number and choice matters ----------------------------------------------------

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
