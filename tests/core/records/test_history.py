"""The history that records make: the best state, states that are known, and the summary."""

from __future__ import annotations

import pytest

from autopilot.core.records.history import History, Tally, summarize
from autopilot.core.records.index import Index
from autopilot.core.records.record import Event, Manifest, MetricsRecord, StepRecord
from autopilot.core.types import Cost, Gain


def val(epoch: int, value: float, verdict: str, **more) -> MetricsRecord:
    return MetricsRecord(
        epoch=epoch,
        split="val",
        metrics={"f1": value},
        verdict=verdict,
        monitor="f1",
        baseline=0.5,
        **{"tree": f"tree-{epoch}", "best": value, "best_epoch": epoch, **more},
    )


RECORDS = [
    val(0, 0.5, "baseline", inputs={"cases.json": "1"}, spent=Cost(evaluations=4)),
    val(1, 0.7, "kept", strategy="prune + add", inputs={"cases.json": "2"}),
    MetricsRecord(epoch=1, split="test", metrics={"f1": 0.6}, verdict="kept", test_gain=Gain(0.4)),
    val(2, 0.6, "rejected", strategy="add", best=0.7, best_epoch=1, spent=Cost(evaluations=12)),
]


@pytest.fixture
def history() -> History:
    index, kept = Index(), [(f"commit-{record.epoch}", record) for record in RECORDS]
    index.take(kept)
    history = History(lambda revision: [record for at, record in kept if at == revision])
    history.load_history(index)
    return history


def step(*, changed: bool = True, error: str = "") -> StepRecord:
    return StepRecord(step=1, changed=changed, error=error)


def test_the_last_record_says_what_is_best(history: History) -> None:
    assert (history.last_epoch, history.best_epoch) == (2, 1)
    assert (history.baseline_value, history.best_value) == (0.5, 0.7)
    assert history.spent == Cost(evaluations=12)
    assert history.record_of(1) is RECORDS[1]
    assert history.revision_of(2) == "commit-2"
    assert (history.test_gain(1), history.test_gain(2)) == (Gain(0.4), None)
    assert history.metrics[1] == {"val": {"f1": 0.7}, "test": {"f1": 0.6}}


def test_an_input_counts_as_it_was_first_read(history: History) -> None:
    assert history.inputs == {"cases.json": "1"}


@pytest.mark.parametrize(
    ("tree", "steps", "outcome", "reason"),
    [
        ("tree-1", [step(changed=False)], "unchanged", "the optimizer changed nothing"),
        ("tree-1", [step()], "repeated", "the same state as epoch 1 (kept)"),
        ("tree-2", [step()], "repeated", "the same state as epoch 2 (rejected)"),
        ("tree-1", [step(error="no luck")], "failed", "no luck"),
    ],
)
def test_a_known_state_is_not_measured_again(history, tree, steps, outcome, reason) -> None:
    known = history.known(tree, steps)
    assert known is not None
    assert (known.outcome, known.reasons[0][: len(reason)]) == (outcome, reason)


def test_a_new_state_and_one_with_unmeasured_items_are_measured(history: History) -> None:
    assert history.known("tree-3", [step()]) is None
    history.add_epoch([val(3, 0.8, "rejected", unmeasured=1)], "commit-3")
    assert history.known("tree-3", [step()]) is None
    history.add_epoch([val(4, 0.8, "kept", tree="tree-3")], "commit-4")
    assert history.known("tree-3", [step()]).epoch == 4


def test_the_summary_is_of_the_judged_epochs() -> None:
    events = [
        Event(name="started", time="monday"),
        Event.decided("reject", "too early", "ada", 1, "commit-1"),
        Event(name="finished", time="tuesday"),
        Event.decided("promote", "now", "ada", 1, "commit-1"),
    ]
    refused = val(3, 0.6, "rejected", strategy="add", outcome="refused", best=0.7, best_epoch=1)
    index = Index().take((f"commit-{record.epoch}", record) for record in [*RECORDS, refused])
    summary = summarize(Manifest(slug="a", idea="less"), index, refused, {}, events)
    assert (summary.epochs, summary.kept, summary.best_epoch) == (3, 1, 1)
    assert summary.strategies == {"prune": Tally(1, 1), "add": Tally(2, 1)}
    assert summary.gain == pytest.approx(0.2)
    assert (summary.started, summary.ended) == ("monday", "finished")
    assert summary.decision.detail == "now"


def test_a_summary_of_nothing_has_no_numbers() -> None:
    summary = summarize(Manifest(slug="a"), Index(), None, {}, [Event(name="created")])
    assert (summary.epochs, summary.baseline, summary.gain, summary.mode) == (0, None, None, "max")
    assert (summary.started, summary.ended, summary.decision) == ("", "", None)
    history = History(lambda revision: [])
    assert (history.best_epoch, history.last_epoch, list(history.history)) == (0, -1, [])
