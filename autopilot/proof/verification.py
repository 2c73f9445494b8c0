"""Claims on record, tested: that a proposal is better, and that an epoch deserved its verdict.

A proposal's claim holds if the confidence interval of the paired difference of head and base is
above 0, and if head scores what is on record. Items are the unit: their repetitions are averaged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from autopilot.core.comparison import EpochView
from autopilot.core.configuration import policy_of
from autopilot.core.figures import figures, gained
from autopilot.core.policy import Decision, decide
from autopilot.core.records.history import environment_at
from autopilot.core.statistics import Pairing, pair, subset_interval
from autopilot.core.types import Metrics
from autopilot.engine.loading import users_code
from autopilot.engine.options import NO_OPTIONS, Options, measured_as
from autopilot.engine.target import load_here
from autopilot.errors import EvaluationError, ExperimentError
from autopilot.proof.measuring import Measurement, Measurer
from autopilot.proof.replay import TOLERANCE, is_same, moved
from autopilot.review.proposals import Proposal
from autopilot.sandbox.environment import differing, told_apart
from autopilot.text import some
from autopilot.tracking.attribution import candidates_of
from autopilot.tracking.epochs import Epoch
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.outputs import WrittenPath, merged

_SUBSETS = 20_000


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of `verify`.

    Args:
        split: "test", or "val" where there is no test split.
        base: The commit that the proposal stands on.
        epoch: The epoch that head is.
        before: The metric of base, one a repetition.
        after: The metric of head, one a repetition.
        recorded: The metric of the epoch as the run measured it; None where it did not.
        tolerance: The largest difference from that which counts as the same; None: not compared.
        measure: The value that items were compared by: the metric, or "success".
        difference: The mean difference of the items; positive is better.
        failures: Why the claim does not hold, a sentence each; none if it does.
        outputs: What the evaluations wrote into the worktree, which is gone.
    """

    slug: str
    split: str
    monitor: str
    mode: str
    base: str
    head: str
    epoch: int
    before: tuple[float | None, ...]
    after: tuple[float | None, ...]
    recorded: float | None
    tolerance: float | None
    measure: str
    items: int
    better: int
    worse: int
    difference: float
    low: float
    high: float
    confidence: float
    failures: tuple[str, ...]
    notes: tuple[str, ...]
    outputs: tuple[WrittenPath, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether head is better than base, and as good as was recorded."""
        return not self.failures


def verify(
    notebook: Notebook,
    proposal: Proposal,
    *,
    repeats: int = 1,
    confidence: float = 0.95,
    tolerance: float | None = None,
    live: bool = False,
    links: Sequence[str] = (),
    limits: Options = NO_OPTIONS,
) -> Verification:
    """Measures base and head of a proposal again, on the test split.

    Args:
        repeats: How often each is measured. The first has the run's own seed.
        tolerance: How far the score may be from the recorded one; None: not at all, but with live
            model calls or a noisy metric it is not compared.
        live: Ask models anew.
        links: Ignored paths that the evaluation needs, beside the manifest's.
        limits: See `measured_as`.

    Raises:
        ReplayMissError: a model's reply is not recorded.
        EvaluationError: the items of the two cannot be compared.
    """
    head, base, epoch = proposal.branch.tip, proposal.base, max(proposal.epochs, default=0)
    monitor, mode = notebook.monitor
    manifest, state = measured_as(notebook, limits), notebook.epoch(epoch).record.candidate_state
    measurer = Measurer(notebook.repo, manifest, notebook.slug, live=live, links=links)
    measured_in = environment_at(notebook.events, epoch)
    with told_apart(measured_in), measurer as it:
        for split in ("test", "val"):
            first = it.measure(head, [split], epoch=epoch, state=state)
            if first.items.get(split):
                break
        heads, bases = [first], [it.measure(base, [split], epoch=epoch)]
        for repeat in range(1, repeats):
            bases.append(it.measure(base, [split], epoch=epoch, repeat=repeat))
            heads.append(it.measure(head, [split], epoch=epoch, repeat=repeat))
        before, after = (
            tuple(measured.metrics.get(split, {}).get(monitor) for measured in side)
            for side in (bases, heads)
        )
        if split == "test":
            recorded = notebook.test_metrics(epoch).get(monitor)
        else:
            recorded = notebook.epoch(epoch).metrics.get("val", {}).get(monitor)
        unequal = ""
        if tolerance is None and live:
            unequal = "models were asked anew"
        elif tolerance is None:
            tolerance = TOLERANCE
            noisy, noise = first.noisy, notebook.noise
            if noise is not None and noise.is_noisy and not is_same(recorded, after[0], tolerance):
                # Values that no seed repeats differ between these two as well.
                noisy |= moved(first, it.measure(head, [split], epoch=epoch, state=state))
            if f"{split} {monitor}" in noisy:
                tolerance, unequal = None, f"no seed repeats {split} {monitor}"
    pairings = [paired_items(b, h, split, monitor, mode) for b, h in zip(bases, heads, strict=True)]
    whole = averaged_pairs(pairings)
    differences = whole.differences
    low, high = subset_interval(differences, confidence, _SUBSETS, Random(notebook.manifest.seed))
    failures = _failures(len(differences), low, confidence, after[0], recorded, tolerance)
    if whole.measure != monitor and monitor != "accuracy":
        failures += _unlike_the_items(f"{split} {monitor}", mode, before, after)
    return Verification(
        notebook.slug,
        split,
        monitor,
        mode,
        base,
        head,
        epoch,
        before,
        after,
        recorded,
        tolerance,
        whole.measure,
        len(differences),
        whole.wins,
        whole.losses,
        sum(differences) / len(differences),
        low,
        high,
        confidence,
        tuple(failures),
        (
            *_notes(proposal, notebook.manifest.base, split, recorded, unequal, monitor),
            *filter(None, [differing(measured_in) if failures else ""]),
        ),
        tuple(merged(it.outputs)),
    )


def paired_items(
    base: Measurement, head: Measurement, split: str, monitor: str, mode: str
) -> Pairing:
    """The items of two measurements beside one another, matched by id.

    Raises:
        EvaluationError: they have different items, or some lost their value.
    """
    # Each repetition may shuffle in its own way; items that share an id keep their order.
    items, best_items = (
        sorted(side.items.get(split, ()), key=lambda item: item.id) for side in (head, base)
    )
    found = pair(EpochView(0, {}, {}, {}, monitor, mode, items=items, best_items=best_items))
    reason = found.problem.replace("val item", f"{split} item")
    had, has = (it.valued.get(split, frozenset()) for it in (base, head))
    if lost := sorted(item_id for item_id, _ in had - has):
        reason = f"{len(lost)} {split} items have no {monitor} any more: {some(lost)}"
    if reason or not found.differences:
        reason = reason or "there are no items"
        raise EvaluationError(
            f"base and head cannot be compared on the {split} split: {reason}",
            hint="both must be scored on the same items, by the same ids",
        )
    return found


def averaged_pairs(pairings: Sequence[Pairing]) -> Pairing:
    """The mean of each item over repetitions; as in a run, those of a single item are the items."""
    items = list(zip(*(pairing.differences for pairing in pairings), strict=True))
    means = [math.fsum(each) / len(each) for each in items] if len(items) > 1 else items[0]
    return Pairing(tuple(means), pairings[0].measure)


def _failures(
    items: int,
    low: float,
    confidence: float,
    measured: float | None,
    recorded: float | None,
    tolerance: float | None,
) -> list[str]:
    found = []
    # Written so that a NaN is a failure.
    if not low > 0:
        sure = f"at {confidence:.0%}"
        if math.isinf(low):
            least = math.ceil(1 - math.log2(1 - confidence))
            more = f" (--repeats {least} measures it more often)" if items == 1 else ""
            found.append(f"too few items to tell {sure}: {items}{more}")
        else:
            found.append(f"that it is better is not shown {sure}: chance may do as well")
    if recorded is not None and tolerance is not None:
        if measured is None:
            found.append("the score on record was not measured again")
        elif not is_same(recorded, measured, tolerance):
            was, now = figures(recorded, measured)
            found.append(f"the record says {was}, and it is {now}")
    return found


def _unlike_the_items(
    name: str, mode: str, before: Sequence[float | None], after: Sequence[float | None]
) -> list[str]:
    """The failure of a metric of the whole split, whose items are compared by success."""
    values = [[value for value in side if value is not None] for side in (before, after)]
    if not all(values):
        return [f"{name} was not measured"]
    was, now = (math.fsum(side) / len(side) for side in values)
    if gained(was, now, mode) > 0:
        return []
    return [f"{name} itself is no better: {' -> '.join(figures(was, now))}"]


def _notes(
    proposal: Proposal, began: str, split: str, recorded: float | None, unequal: str, monitor: str
) -> list[str]:
    found = []
    if split == "val":
        found.append(
            "there is no test split: this is val, which the epochs were chosen by, so that the "
            "difference is likely too large"
        )
    if recorded is None:
        found.append(f"no {split} {monitor} of it is on record to compare with")
    elif unequal:
        found.append(f"{unequal}: the score on record was not compared (--tolerance)")
    if proposal.base != began:
        found.append(f"the record was measured on {began[:7]}, and this is on {proposal.base[:7]}")
    if proposal.merged.epoch is None and proposal.onto.tip != proposal.base:
        found.append(
            f"{proposal.onto.name} has moved since: autopilot propose create {proposal.slug} "
            "brings the proposal up to date"
        )
    return found


@dataclass(frozen=True, slots=True)
class Ruling:
    """The present policy's verdict on a recorded epoch.

    Args:
        epoch: The epoch that is judged, with the verdict of the run.
        against: The best epoch before it; None for the baseline.
    """

    epoch: Epoch
    against: int | None
    policy: str
    decision: Decision

    @property
    def differs(self) -> bool:
        """Whether the run decided otherwise: policy or gates have changed since then."""
        baseline = self.epoch.verdict == "baseline"
        return not baseline and self.decision.kept != (self.epoch.verdict == "kept")


def rule(notebook: Notebook, number: int) -> Ruling:
    """Judges an epoch again, by the policy of the user's checkout; nothing is evaluated.

    An epoch is compared with the best one before it, as in the run; the baseline only with gates.

    Raises:
        ExperimentError: it was not started by `autopilot run`, so its policy is not known.
        AutopilotError: the target cannot be loaded.
    """
    manifest = notebook.manifest
    if not manifest.target:
        raise ExperimentError(
            f"{notebook.slug} was not started by autopilot run: its policy is not known",
            hint="judge it in the program that started it: policy.judge(view)",
        )
    folder = notebook.repo.workdir / manifest.directory
    hparams = {key: str(value) for key, value in manifest.hparams.items()}
    module = load_here(folder, manifest.target, hparams, notebook.repo)
    epoch = notebook.epoch(number)
    against = None if epoch.origin is None else notebook.epoch(epoch.origin)
    monitor, mode = notebook.monitor
    items = notebook.data(number)
    view = EpochView(
        epoch=number,
        metrics=_without_test(epoch.metrics),
        baseline=_without_test(notebook.epoch(0).metrics) if against else {},
        best=_without_test(against.metrics) if against else {},
        monitor=monitor,
        mode=mode,
        items=items,
        best_items=notebook.data(against.number) if against else (),
        cost=epoch.record.cost,
        violations=notebook.violations(number),
        noise=notebook.noise,
        memorized=epoch.record.memorized,
    )
    # Equal candidates are measured once; one that was screened, refused or known was not.
    tried = [each.record for each in candidates_of(notebook, number)]
    states = {record.tree for record in tried if record.is_traced and record.reused is None}
    view = replace(view, candidates=max(len(states), 1))
    errors = [item.error_message or "" for item in items if item.outcome == "error"]
    with users_code(manifest.target):
        policy = policy_of(module)
        decision = decide(policy, view, errors if items and len(errors) == len(items) else ())
    if epoch.record.is_refused or epoch.record.is_stopped:  # there is nothing to judge
        decision = Decision("rejected", epoch.record.reasons)
    return Ruling(epoch, against.number if against else None, type(policy).__name__, decision)


def _without_test(metrics: Mapping[str, Mapping[str, float]]) -> Metrics:
    # A policy never sees the test split: it is scored after the last epoch.
    return {split: dict(values) for split, values in metrics.items() if split != "test"}
