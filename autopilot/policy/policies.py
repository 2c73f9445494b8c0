"""Policies: how gates and improvement together make a verdict."""

from __future__ import annotations

import math

from autopilot.core.policy import Decision, EpochView, Policy
from autopilot.core.types import Verdict
from autopilot.policy.gates import BoundGate


class QualityFirstPolicy(Policy):
    """Quality before progress: an improvement counts only once every required gate passes.

    In this order:

    1. A required gate fails: rejected, for the gates' reasons; the monitored metric is not asked.
    2. All pass, and the best epoch's recorded metrics miss a required MinGate, MaxGate or
       RangeGate: kept, whatever the monitored metric says as long as it is a number, because what
       meets the bar beats what does not. It becomes the best.
    3. Otherwise: kept if the monitored val metric improved.

    So once a state that meets the bar is found, none that misses it replaces it. The plain Policy
    asks for improvement and gates at once: from a best that misses the bar but scores high, it
    cannot step down to one that meets it. (Point 2 is feasibility before objective, after Deb, "An
    efficient constraint handling method for genetic algorithms", 2000.)

    Args:
        gates: The quality bar.

    >>> from autopilot.policy import MinGate
    >>> policy = QualityFirstPolicy([MinGate("recall", 0.7)])
    >>> best = {"val": {"f1": 0.80, "recall": 0.60}}
    >>> policy.judge(EpochView(1, {"val": {"f1": 0.75, "recall": 0.72}}, {}, best, "f1")).explain()
    'the first epoch that passes every gate (the best so far: val recall 0.600 is below 0.700)'
    >>> policy.judge(EpochView(1, {"val": {"f1": 0.90, "recall": 0.65}}, {}, best, "f1")).explain()
    'val recall 0.650 is below 0.700'
    """

    def judge(self, view: EpochView) -> Decision:
        """The verdict on an epoch; its first reason is the decisive one."""
        results = tuple(gate.check(view) for gate in self.gates)
        failed = tuple(r.reason for r in results if not r.passed and r.required)
        warned = tuple(f"warning: {r.reason}" for r in results if not r.passed and not r.required)
        if failed:
            return Decision("rejected", failed + warned, results)
        measured = view.value is not None and math.isfinite(view.value)
        if measured and (shortfall := self._shortfall_of_best(view)):
            reason = f"the first epoch that passes every gate (the best so far: {shortfall})"
            return Decision("kept", (reason, *warned), results)
        improvement = self.improved(view)
        verdict: Verdict = "kept" if improvement.passed or not improvement.required else "rejected"
        return Decision(verdict, (improvement.reason, *warned), (*results, improvement))

    def _shortfall_of_best(self, view: EpochView) -> str:
        """Why the best epoch misses the bar; empty when it meets it or nothing is known."""
        # Only these gates: a CustomGate may cost money to ask, and none of the others sets a bar.
        bars = (gate for gate in self.gates if isinstance(gate, BoundGate) and gate.required)
        return "; ".join(filter(None, (bar.shortfall(view.best) for bar in bars)))
