"""The history that records make: the best state, states that are known, and the summary."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace
from hashlib import sha1

import pytest

from autopilot.core.memory import Memory
from autopilot.core.records.history import History, Tally, summarize
from autopilot.core.records.index import Index
from autopilot.core.records.record import Event, Lesson, Manifest, MetricsRecord, StepRecord
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


def test_a_state_is_not_taken_for_parts_of_two_others(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = {"ab": b"abababab", "ba": b"babababa", "c": b"c" * 8}
    monkeypatch.setattr("autopilot.core.records.history._digest", digests.__getitem__)
    for epoch in (3, 4):
        history.add_epoch([val(epoch, 0.1, "rejected", tree="ab", unmeasured=1)], f"c-{epoch}")
    assert history.measured("ba") is None
    assert history.measured("ab").number == 4
    history.add_epoch([val(5, 0.1, "rejected", tree="c", trees=("", "ba"))], "c-5")
    assert [history.measured(each).number for each in ("ba", "ab", "c")] == [5, 4, 5]


def test_what_a_run_keeps_of_an_epoch_is_small() -> None:
    history, memory = History(lambda _: ()), Memory(block_after=0)

    def bytes_after(epochs: range) -> int:
        for n in epochs:
            state, revision = (sha1(b"%d %d" % (n, kind)).hexdigest() for kind in (0, 1))
            verdict = "kept" if n % 2 else "rejected"
            history.add_epoch([val(n, n / 7, verdict, tree=state, strategy=f"s{n % 5}")], revision)
            lesson = Lesson(epoch=n, id=f"{n}", strategy=f"s{n % 5}", outcome=verdict, value=n / 7)
            memory.learn(replace(lesson, summary=f"edit {n}", reason=f"val f1 {n / 7:.5f}"))
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = bytes_after(range(320))
        assert (bytes_after(range(320, 1600)) - before) / 1280 < 150
    finally:
        tracemalloc.stop()
    for n in (0, 700, 1599):
        state, revision = (sha1(b"%d %d" % (n, kind)).hexdigest() for kind in (0, 1))
        assert (history.measured(state).number, history.revision_of(n)) == (n, revision)
        assert memory.lessons[n].summary == f"edit {n}"
