"""A generation's plan: values and splits by their weights; and what was made of it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from autopilot.ai.datasets.checkpoint import (
    Checkpoint,
    Failed,
    GenerationPlan,
    Made,
    Rejected,
    Share,
    check_weights,
    plan_slots,
)

SPLITS = {"train": 0.6, "val": 0.2, "test": 0.2}


def test_each_split_has_every_value_in_the_same_proportion() -> None:
    variables = {"a": list("abcd"), "b": list("wxyz"), "c": {"rare": 1, "common": 9}}
    slots = plan_slots(100, {n: check_weights(n, w) for n, w in variables.items()}, SPLITS, seed=2)
    assert Counter(slot.split for slot in slots) == {"train": 60, "val": 20, "test": 20}
    counts = Counter((slot.split, v) for slot in slots for v in slot.values.items())
    assert counts["val", ("c", "rare")] == counts["test", ("c", "rare")] == 2
    for (split, pair), count in counts.items():
        total = sum(n for (_, other), n in counts.items() if other == pair)
        assert abs(count - total * {"train": 0.6}.get(split, 0.2)) <= 2


@pytest.mark.parametrize("weights", [{}, {"a": 0}, {"a": -1, "b": 2}, []])
def test_weights_that_make_no_sense_are_refused(weights) -> None:
    with pytest.raises(ValueError, match="'tone' needs values"):
        check_weights("tone", weights)


def test_another_variable_leaves_the_values_of_the_first() -> None:
    one, two = {"a": {"x": 1.0, "y": 1.0}}, {"b": {"p": 1.0, "q": 3.0}}
    alone = [slot.values["a"] for slot in plan_slots(20, one, SPLITS, seed=1)]
    assert alone == [slot.values["a"] for slot in plan_slots(20, one | two, SPLITS, seed=1)]


def test_the_files_and_counts_are_those_of_the_lines(tmp_path: Path) -> None:
    plan = GenerationPlan(count=3, seed=0, variables={"tone": {"kind": 1.0}}, splits={"all": 1.0})
    checkpoint = Checkpoint(tmp_path)
    with checkpoint.begin(plan):
        checkpoint.append(Made(slot=2, item={"q": "c"}))
        checkpoint.append(Rejected(slot=0, attempt=0, reason="the same", duplicate=True))
        checkpoint.append(Rejected(slot=0, attempt=1, reason="too easy"))
        checkpoint.append(Failed(slot=1, reason="too easy"))
        checkpoint.append(Made(slot=0, item={"q": "a"}))
    checkpoint.write_splits()
    items = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert items == [
        {"id": "00000", "tone": "kind", "q": "a"},
        {"id": "00002", "tone": "kind", "q": "c"},
    ]
    again = Checkpoint(tmp_path)
    assert again.attempts(0) == (2, "too easy")
    found = again.distribution()
    assert (found.made, found.missing, found.failed) == (2, 1, 1)
    assert (found.duplicates, found.refused) == (1, 1)
    assert found.variables == {"tone": {"kind": {"all": Share(3, 2)}}}
    assert found.reasons == {"too easy": 2, "the same": 1}
    assert "1 slot failed, 1 duplicate rejected" in found.render()
