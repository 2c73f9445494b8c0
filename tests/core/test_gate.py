"""The contract of a gate: what a plug-in inherits."""

from __future__ import annotations

import pytest

from autopilot.core.comparison import EpochView
from autopilot.core.gate import Gate
from autopilot.core.policy import Policy
from autopilot.core.types import GateResult


class Brief(Gate):
    """A plug-in as users write one: a check, and nothing else."""

    def check(self, view):
        words = view.metrics["val"]["words"]
        return self.result(passed=words < 50, reason=f"answers have {words:.0f} words")


def view(words):
    now = {"val": {"f1": 0.8, "words": float(words)}}
    return EpochView(1, now, {}, {"val": {"f1": 0.7}}, monitor="f1")


def test_a_plug_in_needs_a_check_and_nothing_else():
    gate = Brief()
    assert gate.check(view(62)) == GateResult("Brief", False, "answers have 62 words")
    assert list(gate.reads()) == []
    assert repr(gate) == "Brief()"
    with pytest.raises(TypeError, match="abstract"):
        Gate()


def test_a_required_gate_rejects_and_an_optional_one_warns():
    assert Policy([Brief()]).judge(view(20)).kept
    rejected = Policy([Brief()]).judge(view(62))
    assert (rejected.verdict, rejected.reasons) == ("rejected", ("answers have 62 words",))
    warned = Policy([Brief(required=False)]).judge(view(62))
    assert warned.kept
    assert warned.reasons[1:] == ("warning: answers have 62 words",)
