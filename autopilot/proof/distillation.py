"""Which kept step earns its place: each is taken out of the best state, and that is measured.

A step is taken out as `git revert` does it, by a three-way merge of the files. Its contribution is
the paired difference of the best state and the state without it, positive if the step helps.

Each step is a decision of its own, with its own 2.5 % of chance: steps share it no more than
experiments do, since none is chosen because it did best. So that holds, noisy states are measured
with other chance than the run's, by which the best state was chosen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from autopilot.core.experiment import Experiment
from autopilot.core.figures import figures
from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.parameter import PathParameter
from autopilot.core.policy import Decision
from autopilot.core.records.message import plain_message
from autopilot.core.statistics import subset_interval
from autopilot.core.types import Datum, Metrics
from autopilot.engine.options import NO_OPTIONS, Options, measured_as
from autopilot.errors import ExperimentError
from autopilot.git import commits, objects, worktrees
from autopilot.proof.measuring import Measurement, Measurer
from autopilot.proof.verification import averaged_pairs, paired_items
from autopilot.text import some
from autopilot.tracking.attribution import lineage
from autopilot.tracking.epochs import Epoch
from autopilot.tracking.git_store import GitStore
from autopilot.tracking.layout import Layout
from autopilot.tracking.memory import GitMemory
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.parameters import EVERYTHING

_SUBSETS, _CONFIDENCE = 20_000, 0.95


@dataclass(frozen=True, slots=True)
class Contribution:
    """A kept epoch, and the best state without it.

    Args:
        value: The monitored metric of the best state without it, the mean over the repeats.
        difference: By how much the best state is better, the mean over the items.
        low: The lower end of the 95% interval of that; -inf where the items are too few.
        high: The upper end.
        better: How many items are better with it.
        worse: How many are worse with it.
        conflicts: The files in which later steps build on it, so that it cannot be taken out alone.
        is_noisy: Whether two measurements of the best state differ: then chance may do as well.
    """

    epoch: Epoch
    value: float | None = None
    difference: float = 0.0
    low: float = -math.inf
    high: float = math.inf
    better: int = 0
    worse: int = 0
    conflicts: tuple[str, ...] = ()
    is_noisy: bool = False

    @property
    def unknown(self) -> str:
        """Why it stays though nothing is known of it; "" if something is."""
        if self.conflicts:
            return f"later steps build on it in {some(self.conflicts)}"
        few = self.is_noisy and math.isinf(self.low)
        return "too few items to tell it from chance (one that is measured 6 times is enough)" * few

    @property
    def earns(self) -> bool:
        """Whether the state is better with it, beyond chance where there is any; or it stays."""
        return bool(self.unknown) or (self.low if self.is_noisy else self.difference) > 0


@dataclass(frozen=True, slots=True)
class Distillation:
    """The kept steps of an experiment, each with its contribution.

    Args:
        value: The monitored metric of the best state, the mean over the repeats.
        steps: The kept epochs, oldest first.
    """

    notebook: Notebook
    value: float | None
    steps: tuple[Contribution, ...]


def distill(
    notebook: Notebook, *, repeats: int = 1, live: bool = False, limits: Options = NO_OPTIONS
) -> Distillation:
    """Measures the best state, and that state without each kept step in turn, on the val split.

    Args:
        repeats: How often each state is measured. Where nothing is noisy, with the run's own seed.
        live: Ask models anew.
        limits: See `measured_as`.

    Raises:
        ExperimentError: no epoch was kept.
        ReplayMissError: a model's reply is not recorded: `live` asks anew.
    """
    repo, kept = notebook.repo, _kept(notebook)
    whole = notebook.best_commit
    manifest, found = measured_as(notebook, limits), list[Contribution]()
    with Measurer(repo, manifest, notebook.slug, live=live, is_lasting=True) as measurer:
        noise = notebook.noise
        is_noisy = live or (noise is not None and noise.is_noisy)
        # With the run's chance the best state is as lucky as it was when it was kept.
        first = kept[-1].record.repeat if is_noisy else 0

        def measured(commit: str) -> list[Measurement]:
            epoch = kept[-1].number
            return [
                measurer.measure(commit, ["val"], epoch=epoch, repeat=number)
                for number in range(first, first + repeats)
            ]

        best = measured(whole)
        if not is_noisy and _differ(notebook, best):
            # The baseline had no chance; this state has.
            is_noisy, first = True, kept[-1].record.repeat
            best = measured(whole)
        for epoch in kept:
            # `git revert`: from the state after it to the one before it, on top of the best one.
            parts = notebook.after(epoch.number), whole, notebook.before(epoch.number)
            without = commits.merge_trees(repo, *parts)
            if without.conflicts:
                step = Contribution(epoch, conflicts=without.conflicts)
            else:
                others = measured(_commit(notebook, without.tree, f"without epoch {epoch.number}"))
                step = _compared(notebook, epoch, best, others)
            found.append(replace(step, is_noisy=is_noisy))
    return Distillation(notebook, _mean(notebook, best), tuple(found))


def _kept(notebook: Notebook) -> list[Epoch]:
    kept = [epoch for epoch in lineage(notebook) if epoch.number and epoch.steps]
    if not kept:
        raise ExperimentError(
            f"no epoch of {notebook.slug} was kept: there is nothing to distill",
            hint=f"see what was tried: autopilot log {notebook.slug}",
        )
    return kept


def _commit(notebook: Notebook, tree: str, what: str) -> str:
    """A commit of a state that no branch has."""
    text = plain_message(notebook.slug, what)
    return commits.commit(notebook.repo, tree=tree, parents=[notebook.start], message=text)


def _differ(notebook: Notebook, measured: Sequence[Measurement]) -> bool:
    """Whether measurements of one state differ in the monitored metric of an item."""
    pairs = [paired_items(measured[0], each, "val", *notebook.monitor) for each in measured[1:]]
    return any(any(pairing.differences) for pairing in pairs)


def _mean(notebook: Notebook, measured: Sequence[Measurement]) -> float | None:
    values = [each.metrics.get("val", {}).get(notebook.monitor[0]) for each in measured]
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _compared(
    notebook: Notebook, epoch: Epoch, best: Sequence[Measurement], others: Sequence[Measurement]
) -> Contribution:
    pairings = [
        paired_items(without, whole, "val", *notebook.monitor)
        for without, whole in zip(others, best, strict=True)
    ]
    whole, chance = averaged_pairs(pairings), Random(notebook.manifest.seed)
    means = whole.differences
    low, high = subset_interval(means, _CONFIDENCE, _SUBSETS, chance)
    difference = math.fsum(means) / len(means)
    value = _mean(notebook, others)
    return Contribution(epoch, value, difference, low, high, whole.wins, whole.losses)


# --- the new experiment ------------------------------------------------------------------------


def apply(found: Distillation, slug: str, limits: Options = NO_OPTIONS) -> Notebook:
    """Begins and ends an experiment that has only the steps that earn their place.

    Each is an epoch, in the old order, on the base of the old experiment; its state is measured.

    Raises:
        ExperimentError: the name is taken, or a step cannot be made without one that is left out.
    """
    source, repo = found.notebook, found.notebook.repo
    Layout(slug).check_free(repo)
    states = list(_states(found))
    manifest = replace(
        source.manifest,
        slug=slug,
        in_place=False,
        forked_from=f"{source.slug}@0",
        idea=f"the steps of {source.slug} that earn their place",
        hypothesis="",
    )
    monitor, mode = source.monitor
    with Measurer(repo, measured_as(source, limits), source.slug, is_lasting=True) as measurer:
        measured = [measurer.measure(commit, ["val"], epoch=n) for n, _, commit in states]
    path = worktrees.worktree_path(repo, slug)
    here = worktrees.add_worktree(repo, path, manifest.base).workdir
    store = GitStore(slug, here, in_place=False)
    experiment = Experiment(store, GitMemory(store), manifest)

    def judge(number: int, items: Sequence[Datum], value: Metrics, decision: Decision) -> None:
        experiment.on_validation_complete({"val": [*items]}, [[*items]])
        val = {"val": value["val"]}
        experiment.on_epoch_complete(number, val, decision, monitor=monitor, mode=mode)

    try:
        parameters = list(_parameters(found, store))
        experiment.open(parameters)
        first = Decision("baseline", (f"the baseline of {source.slug}",))
        judge(0, source.data(0), source.epoch(0).metrics, first)
        optimizer = _Again(parameters)
        for (number, step, commit), result in zip(states, measured, strict=True):
            store.restore(commit)
            said = Step(
                step.epoch.record.summary, step.epoch.record.strategy, f"epoch {step.epoch.number}"
            )
            experiment.commit_step(optimizer, number, 1, said)
            decision = Decision("kept", (_reason(source, step),))
            judge(number, result.items["val"], result.metrics, decision)
        experiment.on_loop_complete("finished", f"distilled from {source.slug}")
    finally:
        experiment.close()
        worktrees.remove_worktree(repo, path)
    return Notebook(repo, slug)


class _Again(Optimizer):
    """Stands for the optimizers whose steps are made again."""


def _parameters(found: Distillation, store: GitStore) -> Iterator[PathParameter]:
    manifest = found.notebook.manifest
    for name, path in manifest.parameters.items():
        pattern = manifest.patterns.get(name, EVERYTHING)
        parameter = PathParameter(store.repo.workdir / path, pattern)
        parameter.name = name
        yield parameter


def _states(found: Distillation) -> Iterator[tuple[int, Contribution, str]]:
    """The steps that stay: their new epoch, and a commit with the state after each."""
    notebook, repo = found.notebook, found.notebook.repo
    state = objects.tree_of(repo, notebook.base or notebook.start)
    for number, step in enumerate((s for s in found.steps if s.earns), 1):
        old = step.epoch.number
        made = commits.merge_trees(repo, notebook.before(old), state, notebook.after(old))
        if made.conflicts:
            raise ExperimentError(
                f"epoch {old} cannot be made without a step that is left out: "
                f"{', '.join(made.conflicts)} conflict",
                hint=f"see it: autopilot show {notebook.slug} {old}",
            )
        state = made.tree
        yield number, step, _commit(notebook, state, f"distilled up to epoch {old}")


def _reason(source: Notebook, step: Contribution) -> str:
    old = f"epoch {step.epoch.number} of {source.slug}"
    if step.unknown:
        return f"{old}: {step.unknown}"
    with_it, _ = figures(step.difference, step.low)
    return f"{old}: without it, val {source.monitor[0]} is worse by {with_it}"
