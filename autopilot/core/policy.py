"""The policy: whether an epoch is kept.

`Policy` is the contract and the default at once: an epoch is kept if the monitored val metric
improved on the best so far. Gates add conditions; `autopilot.policy` has them ready-made.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from autopilot.core.comparison import Comparison, Monitored, compare, some
from autopilot.core.direction import gained
from autopilot.core.figures import apart, figure
from autopilot.core.types import Cost, Datum, GateResult, Metrics, Noise, Verdict
from autopilot.errors import ModuleError, UsageError


def missing(metrics: Metrics, split: str, metric: str) -> str:
    """The sentence that names a metric that was not measured, and those that were.

    >>> missing({"val": {"f1": 0.8, "accuracy": 0.9}}, "val", "recall")
    'val recall was not measured; val has accuracy, f1'
    """
    there = ", ".join(sorted(metrics.get(split, {}))) or "no metrics"
    return f"{split} {metric} was not measured; {split} has {there}"


def measured(metrics: Metrics, split: str, metric: str) -> float | str:
    """The metric, or the sentence that says why there is none: it is missing, or NaN."""
    value = metrics.get(split, {}).get(metric)
    if value is None:
        return missing(metrics, split, metric)
    return f"{split} {metric} is NaN" if math.isnan(value) else value


def nothing_to_compare(metric: str) -> str:
    """What a comparison says before there is a best value."""
    return f"there is no best val {metric} to compare with yet"


@dataclass(frozen=True, slots=True)
class EpochView:
    """What a policy sees of an epoch: its measurements beside those of the baseline and the best.

    Args:
        epoch: The epoch that is judged.
        metrics: Split to metric name to value; val is of the state after the step.
        baseline: The same for epoch 0.
        best: The same for the best epoch.
        monitor: The name of the val metric that decides.
        mode: "max" or "min".
        items: The val results, one Datum an item.
        best_items: The best epoch's val results; empty where they were not recorded.
        cost: What this epoch cost.
        violations: What the optimizer tried beside the parameters, a sentence each.
        monitored: How the monitored metric is computed from items.
        noise: What a second measurement of the baseline came to.
    """

    epoch: int
    metrics: Metrics
    baseline: Metrics
    best: Metrics
    monitor: str
    mode: str = "max"
    items: Sequence[Datum] = ()
    best_items: Sequence[Datum] = ()
    cost: Cost = field(default_factory=Cost)
    violations: Sequence[str] = ()
    monitored: Monitored | None = None
    noise: Noise | None = None
    _compared: list[Comparison | None] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    @property
    def comparison(self) -> Comparison | None:
        """The val items beside the best epoch's; None where one of them recorded none."""
        if not self._compared:  # once: the items may be many
            monitored = self.monitored or Monitored(self.monitor)
            self._compared.append(compare(monitored, self.items, self.best_items))
        return self._compared[0]

    @property
    def value(self) -> float | None:
        """The monitored val metric, None where it is missing."""
        return self.metrics.get("val", {}).get(self.monitor)

    @property
    def best_value(self) -> float | None:
        """The monitored val metric of the best epoch, None where it is missing or not finite."""
        value = self.best.get("val", {}).get(self.monitor)
        return value if value is not None and math.isfinite(value) else None

    def values(self) -> tuple[float, float] | None:
        """The monitored val metric of the best and of this epoch, over the same items.

        None where one of them is missing or not finite.
        """
        if self.value is None or self.best_value is None or not math.isfinite(self.value):
            return None
        found = self.comparison
        if found is None or found.value is None or found.other is None:
            return self.best_value, self.value
        if found.fresh or found.lost:
            return found.other, found.value
        return self.best_value, self.value

    def gain(self) -> float | None:
        """By how much the epoch is better than the best; positive is better in either mode.

        Both are taken over the items that have a value in both. None where one of them is missing
        or not finite.
        """
        values = self.values()
        if values is None:
            return None
        return gained(*values, self.mode)


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict and why.

    Args:
        verdict: "kept" or "rejected"; "baseline" for epoch 0.
        reasons: Sentences for a person, the decisive one first.
        gates: What each gate found.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    gates: tuple[GateResult, ...] = field(default=())

    @property
    def kept(self) -> bool:
        """Whether the epoch's state stays."""
        return self.verdict != "rejected"

    def explain(self) -> str:
        """The reasons in one sentence."""
        return "; ".join(self.reasons)


class Gate(ABC):
    """One condition on an epoch.

    Args:
        required: An optional gate only warns.
    """

    def __init__(self, *, required: bool = True) -> None:
        self.required = required

    @property
    def name(self) -> str:
        """How the gate is called in reasons."""
        return type(self).__name__

    @abstractmethod
    def check(self, view: EpochView) -> GateResult:
        """Looks at the epoch. A missing metric fails with its name."""

    def reads(self) -> Sequence[tuple[str, str | None]]:
        """The split and the name of each metric that it needs; None names the monitored one.

        A run that cannot have one of them is refused at its start.
        """
        return ()

    def result(self, *, passed: bool, reason: str) -> GateResult:
        """A result under this gate's name."""
        return GateResult(self.name, passed, reason, self.required)


class Policy:
    """Decides whether an epoch is kept: it improved, and every required gate passes.

    Args:
        gates: Conditions beside the improvement.

    Raises:
        UsageError: something among them is no Gate.

    >>> view = EpochView(1, {"val": {"f1": 0.8}}, {}, {"val": {"f1": 0.7}}, monitor="f1")
    >>> Policy().judge(view).explain()
    'val f1 0.700 -> 0.800'
    """

    def __init__(self, gates: Sequence[Gate] = ()) -> None:
        self.gates = list(gates)
        for gate in self.gates:
            if not isinstance(gate, Gate):
                raise UsageError(
                    f"{gate!r} is not a Gate",
                    hint="pass objects, as in Policy([MinGate(...)]); a function: CustomGate(...)",
                )

    def improved(self, view: EpochView) -> GateResult:
        """Whether the epoch is better than the best; subclasses may ask for more or less."""
        gain = view.gain()
        if view.value is None:
            if not view.metrics.get("val"):
                return GateResult("improvement", True, "there is no val split to judge by")
            return GateResult("improvement", False, missing(view.metrics, "val", view.monitor))
        if not math.isfinite(view.value):
            return GateResult("improvement", False, f"val {view.monitor} is {view.value}")
        if view.best_value is None or gain is None:
            return GateResult("improvement", True, f"val {view.monitor} is {figure(view.value)}")
        before, after = apart(*(view.values() or (view.best_value, view.value)))
        change, fresh = f"val {view.monitor} {before} -> {after}", ""
        found = view.comparison
        if found is not None and found.fresh:
            change += f" over the {found.shared} items that have a value in both"
            fresh = f"{len(found.fresh)} items have a value that had none: {some(found.fresh)}"
        if gain > 0:
            return GateResult("improvement", True, change)
        if gain == 0 and fresh:
            return GateResult("improvement", True, f"val {view.monitor} stayed at {after}; {fresh}")
        if gain == 0:
            return GateResult("improvement", False, f"val {view.monitor} stayed at {after}")
        return GateResult("improvement", False, f"{change} is no improvement")

    def judge(self, view: EpochView) -> Decision:
        """The verdict on an epoch, with a reason from every gate that failed."""
        improvement = self.improved(view)
        results = [improvement, *(gate.check(view) for gate in self.gates)]
        failed = [r for r in results if not r.passed and r.required]
        warned = tuple(f"warning: {r.reason}" for r in results if not r.passed and not r.required)
        if failed:
            return Decision("rejected", tuple(r.reason for r in failed) + warned, tuple(results))
        return Decision("kept", (improvement.reason, *warned), tuple(results))


def decide(policy: Policy, view: EpochView, errors: Sequence[str] = ()) -> Decision:
    """The policy's verdict, behind what no policy may overrule.

    An epoch whose val items all failed with an error, whose monitored metric is missing or not
    finite, or in which an item has no value of it that it had in the best state, is rejected: it
    can never become the best. Without a val split the train items speak.

    Args:
        policy: The user's.
        view: The epoch.
        errors: The error messages of the items, if all of them failed with one.
    """
    val = view.metrics.get("val", {})
    if errors:
        split = "val" if val else "train"
        return Decision("rejected", (f"all {len(errors)} {split} items failed: {errors[0]}",))
    if val and view.value is None:
        there = ", ".join(sorted(val))
        return Decision("rejected", (f"there is no val metric {view.monitor!r}, only {there}",))
    if view.value is not None and not math.isfinite(view.value):
        return Decision("rejected", (f"val {view.monitor} is {view.value}",))
    found = view.comparison
    if found is not None and found.lost:
        return Decision("rejected", (_lost(view, found),))
    decision: object = policy.judge(view)
    if not isinstance(decision, Decision):
        raise ModuleError(
            f"{type(policy).__name__}.judge returned {decision!r:.60}, not a Decision",
            hint='return Decision("kept", ("why",)) or Decision("rejected", ("why",))',
        )
    return decision


def _lost(view: EpochView, found: Comparison) -> str:
    """Which items have no value any more, and why the first of them has none."""
    count = len(found.lost)
    # An item may be missing altogether: a dataset without ids of its own that changed.
    first = next((item for item in view.items if item.id == found.lost[0]), None)
    why = first and (first.error_message or first.unmeasured)
    return (
        f"{count} of {count + found.shared} val items {'has' if count == 1 else 'have'} no "
        f"{view.monitor} any more: {some(found.lost)}" + (f" ({why})" if why else "")
    )
