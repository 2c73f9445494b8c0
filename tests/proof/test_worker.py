"""What the fresh processes say of a module's metrics."""

from __future__ import annotations

from autopilot.core.metrics import Mean
from autopilot.core.module import AutoPilotModule
from autopilot.proof.measuring import noisy_metrics


class Latency(Mean):
    noisy = True


def test_the_names_of_noisy_metrics_cover_their_parts() -> None:
    class Module(AutoPilotModule):
        def __init__(self) -> None:
            super().__init__()
            self.latency = Latency("latency")
            self.length = Mean("length")

    metrics = {"val": {"latency": 1.0, "latency_p50": 1.0, "length": 2.0}}
    assert noisy_metrics(Module(), metrics) == {"val latency", "val latency_p50"}
