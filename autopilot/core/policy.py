"""The policy: whether an epoch is kept.

`Policy` is the contract and the default at once: an epoch is kept if the monitored val metric
improved on the best so far. Gates add conditions; `autopilot.policy` has them ready-made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from autopilot.core.comparison import Comparison, EpochView, missing
from autopilot.core.figures import figure, figures
from autopilot.core.gate import Gate
from autopilot.core.signatures import as_call
from autopilot.core.types import GateResult, Verdict
from autopilot.errors import ModuleError, UsageError
from autopilot.text import some


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict and why.

    Args:
        verdict: "kept" or "rejected"; "baseline" for epoch 0.
        reasons: Sentences for a person, the decisive one first.
        is_measured: Whether anything was measured; if not, a person refused the edit.
        memorized: See `EpochView`; `decide` fills it.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    gates: tuple[GateResult, ...] = field(default=())
    is_measured: bool = True
    memorized: str = ""

    @property
    def kept(self) -> bool:
        """Whether the epoch's state stays."""
        return self.verdict != "rejected"

    def explain(self) -> str:
        """The reasons in one sentence."""
        return "; ".join(self.reasons)


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

    def __repr__(self) -> str:
        return as_call(self)

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
        before, after = figures(*(view.values() or (view.best_value, view.value)))
        change, fresh = f"val {view.monitor} {before} -> {after}", ""
        found = view.comparison
        if found is not None and found.fresh:
            change += f" over the {found.shared} items that have a value in both"
            fresh = f"{len(found.fresh)} items have a value that had none: {some(found.fresh)}"
        if gain > 0:
            return GateResult("improvement", True, change)
        # More items can be answered, and none of the others got worse: that is progress.
        if gain == 0 and fresh:
            return GateResult("improvement", True, f"val {view.monitor} stayed at {after}; {fresh}")
        if gain == 0:
            return GateResult("improvement", False, f"val {view.monitor} stayed at {after}")
        return GateResult("improvement", False, f"{change} is no improvement")

    def judge(self, view: EpochView) -> Decision:
        """The verdict on an epoch, with a reason from every gate that failed."""
        improvement = self.improved(view)
        results = [improvement, *(gate.check(view) for gate in self.gates)]
        failed, warned = objections(results)
        if failed:
            return Decision("rejected", failed + warned, tuple(results))
        return Decision("kept", (improvement.reason, *warned), tuple(results))


def objections(results: Sequence[GateResult]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The reasons of required gates that failed, and the warnings of optional ones."""
    failed = [result for result in results if not result.passed]
    required = tuple(result.reason for result in failed if result.required)
    return required, tuple(f"warning: {result.reason}" for result in failed if not result.required)


def decide(policy: Policy, view: EpochView, errors: Sequence[str] = ()) -> Decision:
    """The policy's verdict, after the rules that no policy may overrule.

    An epoch whose val items all failed with an error, whose monitored metric is missing or not
    finite, or in which an item has no value of it that it had in the best state, is rejected: it
    can never become the best. Without a val split the train items speak.

    Args:
        errors: The error messages of the items, if all of them failed with one.
    """
    val = view.metrics.get("val", {})
    if errors:
        split = "val" if val else "train"
        all_of = f"all {len(errors)} {split} items failed: " if len(errors) > 1 else ""
        return Decision("rejected", (f"{all_of}{errors[0]}",))
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
    if not view.memorized:
        return decision
    reasons = decision.reasons
    if not any(view.memorized in reason for reason in reasons):  # no gate has said it
        reasons = (*reasons, f"warning: {view.memorized}")
    return replace(decision, reasons=reasons, memorized=view.memorized)


def _lost(view: EpochView, found: Comparison) -> str:
    """Names the items that lost their value, with the first one's reason."""
    count = len(found.lost)
    # An item may be missing altogether: a dataset without ids of its own that changed.
    first = next((item for item in view.items if item.id == found.lost[0]), None)
    why = first and (first.error_message or first.unmeasured)
    return (
        f"{count} of {count + found.shared} val items {'has' if count == 1 else 'have'} no "
        f"{view.monitor} any more: {some(found.lost)}" + (f" ({why})" if why else "")
    )
