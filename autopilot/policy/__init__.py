"""Gates and policies: what an epoch has to show before its changes are kept.

`Policy`, `Gate`, `EpochView` and `Decision` are core's contract, repeated here so that one import
serves; the rest is ready-made. Gates only read: none touches disk, git or a model.
"""

from __future__ import annotations

from autopilot.core.comparison import EpochView
from autopilot.core.gate import Gate
from autopilot.core.noise import DefaultPolicy, SignificantImprovement
from autopilot.core.policy import Decision, Policy
from autopilot.policy.comparisons import GeneralizationGap, Improvement, NoRegression
from autopilot.policy.gates import (
    CostGate,
    CustomGate,
    MaxGate,
    MinGate,
    NoMemorizing,
    NoViolations,
    QualityFirstPolicy,
    RangeGate,
)

__all__ = ["CostGate", "CustomGate", "Decision", "DefaultPolicy", "EpochView", "Gate"]
__all__ += ["GeneralizationGap", "Improvement", "MaxGate", "MinGate", "NoRegression"]
__all__ += ["NoMemorizing", "NoViolations", "Policy", "QualityFirstPolicy", "RangeGate"]
__all__ += ["SignificantImprovement"]
