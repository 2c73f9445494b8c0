"""The messages of the fresh processes."""

from __future__ import annotations

import json
from dataclasses import asdict

from pydantic import TypeAdapter

from autopilot.core.metrics import Mean
from autopilot.core.module import AutoPilotModule
from autopilot.core.records.record import Manifest
from autopilot.proof.rerun import RerunTask
from autopilot.proof.tasks import MeasureTask, Site, noisy_metrics


def test_a_task_says_by_its_fields_which_it_is() -> None:
    site = Site(
        "/user", "/worktree", (("data", "/user/data"),), Manifest(slug="own", seed=3), "own"
    )
    for task in (MeasureTask(site, ("val",), 2, 0, False), RerunTask(site, "c" * 40, 3, True)):
        text = json.dumps(asdict(task))
        assert TypeAdapter(MeasureTask | RerunTask).validate_json(text) == task


class Latency(Mean):
    noisy = True


def test_the_names_of_noisy_metrics_cover_their_parts() -> None:
    class Module(AutoPilotModule):
        def __init__(self) -> None:
            super().__init__()
            self.latency = Latency("latency")
            self.length = Mean("length")

    metrics = {"val": {"latency": 1.0, "latency_p50": 1.0, "length": 2.0}}
    assert noisy_metrics(Module(), metrics) == ("val latency", "val latency_p50")
