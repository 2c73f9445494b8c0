"""An experiment compared with its record: by evaluation, and by the whole loop."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from autopilot import audit
from autopilot.core.types import Datum
from autopilot.errors import EvaluationError, ExperimentError, NetworkRefusedError, UsageError
from autopilot.proof.measuring import Measurement, Measurer
from autopilot.proof.replay import (
    Replay,
    Settings,
    compare_inputs,
    compare_metrics,
    failed,
    is_same,
    moved,
    parted,
)
from autopilot.proof.rerun import Rerun
from autopilot.tracking.integrity import Difference
from autopilot.tracking.notebook import Notebook


def test_values_agree_within_the_tolerance() -> None:
    nan = math.nan
    assert (
        is_same(0.5, 0.5 + 1e-10, 1e-9) and is_same(math.inf, math.inf, 0) and is_same(nan, nan, 0)
    )
    assert is_same(None, None, 0)
    for recorded, replayed in ((0.5, 0.6), (nan, 0.5), (0.5, nan), (None, 0.5), (0.5, None)):
        assert not is_same(recorded, replayed, 0.05)


def test_a_difference_of_the_tolerance_itself_is_none() -> None:
    assert is_same(0.5, 0.75, 0.25) and is_same(0.75, 0.5, 0.25)
    assert not is_same(0.5, math.nextafter(0.75, 1), 0.25)
    assert is_same(2.0, 2.0, 0.0) and not is_same(2.0, math.nextafter(2.0, 3), 0.0)
    settings = Settings(tolerance=0.25, shares={"latency": 0.5})
    recorded = {"f1": 0.5, "latency": 2.0}
    assert not compare_metrics(1, "val", recorded, {"f1": 0.75, "latency": 3.0}, settings)
    assert not compare_metrics(1, "val", {"latency": -2.0}, {"latency": -3.0}, settings)


def test_a_metric_that_only_one_side_has_is_a_difference() -> None:
    found = compare_metrics(3, "val", {"f1": 0.5, "old": 1.0}, {"f1": 0.5, "new": 2.0}, Settings())
    assert found == [
        Difference(3, "val old", 1.0, None),
        Difference(3, "val new", None, 2.0),
    ]
    nan = math.nan
    [now] = compare_metrics(3, "val", {"f1": 0.5}, {"f1": nan}, Settings(tolerance=9.0))
    assert now.recorded == 0.5 and math.isnan(now.found)
    [before] = compare_metrics(3, "val", {"f1": nan}, {"f1": 0.5}, Settings(shares={"f1": 9.0}))
    assert before.found == 0.5
    assert not compare_metrics(3, "val", {"f1": nan}, {"f1": nan}, Settings())


def test_items_that_turned_are_a_difference_under_an_equal_metric(finished: Notebook) -> None:
    replay, judged = Replay(finished, Settings()), finished.epoch(1)
    items = finished.data(1, "val")
    recorded = {item.id: item.outcome for item in items}
    passed, failed_ = (next(i for i in recorded if recorded[i] == o) for o in ("passed", "failed"))
    turned = tuple(
        replace(item, success=not item.success) if item.id in (passed, failed_) else item
        for item in items
    )
    same = Measurement(judged.commit, {"val": judged.metrics["val"]}, {"val": tuple(items)})
    assert replay._compare(1, judged, same) == ([], [])
    [found], noisy = replay._compare(1, judged, replace(same, items={"val": turned}))
    assert (found.epoch, found.what, noisy) == (1, "val items", [])
    assert set(found.why.split(", ")) == {f"{passed} fails now", f"{failed_} passes now"}
    worse = replace(
        same, metrics={"val": {**judged.metrics["val"], "accuracy": 0.25}}, items={"val": turned}
    )
    [metric], _ = replay._compare(1, judged, worse)
    assert (metric.what, metric.recorded, metric.found) == ("val accuracy", 0.5, 0.25)
    assert f"{passed} fails now" in metric.why
    with pytest.raises(ExperimentError, match=r"no epoch 9\b"):
        Replay(finished, Settings(epochs=[1, 9]))


def test_an_epoch_that_differs_is_measured_anew_with_the_same_seed(finished: Notebook) -> None:
    class Worse(Measurer):
        is_used = True

        def __init__(self) -> None:
            self.asked: list[object] = []

        def renew(self) -> None:
            self.asked.append("a new process")

        def measure(self, commit: str, splits: Sequence[str] = (), **how: Any) -> Measurement:
            self.asked.append((commit, how))
            return Measurement(commit, {"val": {"accuracy": 0.0}}, {})

    replay, measurer = Replay(finished, Settings(epochs=[0, 1, 2])), Worse()
    replay._is_noisy = True
    replay._measure(measurer, 1)
    measured = (finished.epoch(1).commit, {"epoch": 1, "state": ""})
    assert measurer.asked == [measured, "a new process", measured, "a new process", measured]


def test_a_metric_may_have_a_tolerance_of_its_own() -> None:
    settings = Settings(shares={"latency": 0.5})
    recorded, replayed = {"latency": 2.0, "f1": 0.5}, {"latency": 2.9, "f1": 0.6}
    (difference,) = compare_metrics(1, "val", recorded, replayed, settings)
    assert difference == Difference(1, "val f1", 0.5, 0.6)
    assert len(compare_metrics(1, "val", recorded, {"latency": 3.1}, settings)) == 2


def test_noisy_values_do_not_count_unless_they_have_a_tolerance() -> None:
    found = [Difference(1, "val latency", 1.0, 2.0), Difference(1, "val f1", 0.5, 0.6)]
    noisy = frozenset({"val latency"})
    assert parted(found, noisy, Settings()) == (found[1:], found[:1])
    assert parted(found, noisy, Settings(shares={"latency": 0.1})) == (found, [])


def test_where_outcomes_differ_every_metric_is_noisy() -> None:
    def measurement(value: float, *, success: bool) -> Measurement:
        items = (Datum(id="a", success=success),)
        return Measurement("c", {"val": {"f1": value, "n": 1.0}}, {"val": items})

    once = measurement(0.5, success=True)
    assert moved(once, measurement(0.5, success=True)) == frozenset()
    assert moved(once, measurement(0.6, success=True)) == {"val f1"}
    assert moved(once, measurement(0.5, success=False)) == {"val f1", "val n", "val items"}


def test_inputs_are_compared_where_both_read_them() -> None:
    (found,) = compare_inputs(2, {"a": "1" * 40, "b": "2" * 40}, {"a": "3" * 40, "c": "4" * 40})
    assert (found.what, found.recorded, found.found) == ("a", "1" * 7, "3" * 7)


def test_errors_that_affect_every_epoch_are_raised() -> None:
    with pytest.raises(UsageError):
        failed(1, UsageError("--link data: no such file"))
    assert failed(1, EvaluationError("no score", hint="mend")).why == "no score (mend)"
    assert failed(1, EvaluationError("no score")).why == "no score"
    assert failed(1, NetworkRefusedError("connects")).what == "network"


@pytest.fixture
def trail() -> Iterator[audit.Trail]:
    yield audit.begin()
    audit.end()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_replay_takes_a_process_for_each_job_and_one_for_the_last_state(
    finished: Notebook, trail: audit.Trail, jobs: int
) -> None:
    replay = Replay(finished, Settings(jobs=jobs))
    assert replay.branch() == []
    rows = list(replay.epochs())
    # What the states before left in a process is no part of the last one's proof.
    assert sum("proof.worker" in each.command for each in trail.executed) == jobs + 1
    assert [(row.number, row.recorded, row.replayed) for row in rows] == [
        (0, 0.25, 0.25),
        (1, 0.5, 0.5),
        (2, 0.75, 0.75),
    ]
    assert all(row.differences == () and row.error is None for row in rows)


def test_a_rerun_finds_the_same_steps_and_the_test_score(finished: Notebook) -> None:
    rerun = Rerun(finished, Settings())
    rows = list(rerun.epochs())
    assert [(row.number, row.split) for row in rows] == [
        (0, "val"),
        (1, "val"),
        (2, "val"),
        (2, "test"),
    ]
    assert all(row.differences == () for row in rows), rows
    assert rerun.ended == ""


@pytest.mark.parametrize("settings", [Settings(live=True), Settings(jobs=2)])
def test_a_rerun_refuses_what_does_not_go_with_it(finished: Notebook, settings: Settings) -> None:
    with pytest.raises(UsageError, match="does not go with --level full"):
        Rerun(finished, settings)
