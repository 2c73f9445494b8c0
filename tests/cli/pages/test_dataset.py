"""Text of datasets: most frequent reasons, rates, bars, and what is missing."""

from __future__ import annotations

from pathlib import Path

from autopilot.ai.datasets.checkpoint import Distribution, Share
from autopilot.ai.datasets.judging import Histogram, JudgingSummary, Rates
from autopilot.cli.pages import dataset


def test_a_generation_is_a_table_with_its_reasons_and_the_missing_items() -> None:
    splits = {"train": Share(2, 1), "val": Share(1, 1)}
    made = Distribution(3, 2, 1, 0, 0, splits, {"tone": {"kind": splits}}, {"cut off": 4})
    lines = dataset.lines(Path("d"), made, None)
    assert "2 of 3 items made" in lines[0]
    assert [line.split() for line in lines[1:4]] == [
        ["variable", "value", "train", "val"],
        ["all", "1", "of", "2", "1"],
        ["tone", "kind", "1", "of", "2", "1"],
    ]
    assert "4x  cut off" in lines[4]
    assert lines[-1] == "1 of 3 items are missing"
    assert dataset.document(Path("d"), made)["files"] == {
        "train": "d/train.jsonl",
        "val": "d/val.jsonl",
    }


def test_of_many_texts_the_most_frequent_are_shown() -> None:
    lines = dataset.counts({f"reason {n}": 9 - n for n in range(7)}, 30)
    assert len(lines) == 6
    assert "reason 4" in lines[4] and "2 more" in lines[5]


def test_a_judging_without_verdicts_has_no_mean() -> None:
    none = Rates.of([])
    found = JudgingSummary(none, {}, 2, {}, {"no answer": 2})
    lines = dataset.lines(Path("v.jsonl"), found, None)
    assert lines[0] == "no item was judged"
    assert "2 of 2 verdicts are missing" in lines
    assert dataset.document(Path("v.jsonl"), found)["pass_rate"] is None


def test_the_longest_bar_is_that_of_the_most_items() -> None:
    found = Histogram("val", (0, 1, 80), Rates(81, 80, 0.9), (0.0, 3.0))
    bars = [line.count("#") for line in dataset.bars(found)]
    assert bars == [0, 1, 40]
