"""The resumable worklist: lines that last, one process at a time, limits for all sessions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autopilot.ai.datasets.checkpoint import Checkpoint, Failed, GenerationPlan, Made
from autopilot.core.records.ledger import Limits
from autopilot.errors import DataError, LockHeldError

PLAN = GenerationPlan(count=2, seed=0, variables={}, splits={"all": 1.0})


def work_off(checkpoint: Checkpoint, done: list[int], **more) -> None:
    def do(slot: int) -> None:
        done.append(slot)
        checkpoint.append(Made(slot=slot, item={"n": slot}))

    given = {"limits": Limits(), "budget": None, "watch": lambda *_: None} | more
    checkpoint.work_off({0: 0, 1: 1}, do, 1, **given)


def test_a_line_with_odd_characters_lasts(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    with checkpoint.begin(PLAN):
        checkpoint.append(Failed(slot=0, reason="cut \ud83d here"))
        checkpoint.append(Failed(slot=1, reason="fine \0"))
    again = Checkpoint(tmp_path)
    assert again.first_line() == PLAN
    assert [again.failed[n].reason for n in (0, 1)] == ["cut \ufffd here", "fine \0"]


def test_only_what_is_left_is_done(tmp_path: Path) -> None:
    done: list[int] = []
    seen: list[tuple[int, int]] = []
    checkpoint = Checkpoint(tmp_path)
    with checkpoint.begin(PLAN):
        checkpoint.append(Made(slot=0, item={}))
        work_off(checkpoint, done, watch=lambda n, total, _: seen.append((n, total)))
    assert (done, seen) == ([1], [(2, 2)])
    assert Checkpoint(tmp_path).done.keys() == {0, 1}


def test_a_line_that_a_kill_cut_short_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.jsonl"
    with Checkpoint(tmp_path).begin(PLAN):
        pass
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"kind":"made","slot":0,"item":{}}')
    assert Checkpoint(tmp_path).done.keys() == {0}
    path.write_bytes(whole + b'{"kind":"made","sl')
    checkpoint = Checkpoint(tmp_path)
    with checkpoint.held():
        checkpoint.append(Failed(slot=1, reason="no"))
    assert len(path.read_bytes().splitlines()) == 2
    assert Checkpoint(tmp_path).failed.keys() == {1}


def test_the_budget_is_in_the_file_and_its_seconds_are_not(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    with checkpoint.begin(PLAN):
        work_off(checkpoint, [], budget=Limits(calls=5, seconds=60))
    line = json.loads((tmp_path / "checkpoint.jsonl").read_text().splitlines()[1])
    assert line == {"kind": "budget", "calls": 5.0, "tokens": None, "cost_usd": None}
    assert Checkpoint(tmp_path).limits == Limits(calls=5)


def test_the_loser_of_two_starts_leaves_the_winners_file(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    first, second = Checkpoint(folder), Checkpoint(folder)
    with first.begin(PLAN):
        with pytest.raises(LockHeldError), second.begin(PLAN):
            raise AssertionError("both hold it")
        first.append(Made(slot=0, item={}))
    # It read the file before there was anything in it.
    with pytest.raises(DataError, match="holds a generation already"), second.begin(PLAN):
        raise AssertionError("it is begun twice")
    assert Checkpoint(folder).done.keys() == {0}


def test_where_nothing_came_of_it_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(KeyError), Checkpoint(tmp_path / "new").begin(PLAN):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="does not hold a generation"):
        Checkpoint(tmp_path / "new").first_line()


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.jsonl").write_text('{"question": "x"}\n')
    with pytest.raises(DataError, match="line 1 cannot be read"):
        Checkpoint(tmp_path)
