"""Loggers, recorders and exports write what a program can read."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from experiments import again, git, make, rules

from autopilot.core.module import AutoPilotModule
from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.parameter import Parameter, PathParameter
from autopilot.core.trainer import Trainer
from autopilot.core.types import Datum
from autopilot.errors import DataError, UsageError
from autopilot.tracking.callbacks import DataRecorder, JSONCheckpoint, JSONLogger, export
from autopilot.tracking.holding import decide


class Up(Optimizer):
    def step(self) -> Step:
        self.parameters[0].data += 1
        return Step("up", "up")


class Level(AutoPilotModule):
    def __init__(self) -> None:
        super().__init__()
        self.level = Parameter(1)

    def forward(self, batch: Datum) -> Datum:
        return Datum(items=[Datum(success=i.metadata["x"] < self.level.data) for i in batch.items])

    def configure_optimizers(self) -> Optimizer:
        return Up(self.parameters())

    def train_dataloader(self) -> list[list[dict[str, object]]]:
        return [[{"x": 0, "id": "a", "success": True, "outcome": "passed"}, {"x": 1, "id": "b"}]]

    val_dataloader = train_dataloader


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_logger_writes_an_epoch_a_line(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "metrics.jsonl"
    Trainer(logger=JSONLogger(path)).fit(Level(), max_epochs=1)
    assert lines(path) == [
        {"step": 0, "val/accuracy": 0.5},
        {"step": 1, "train/accuracy": 0.5, "val/accuracy": 1.0},
    ]


def test_the_recorder_writes_an_item_a_line(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    Trainer(callbacks=[DataRecorder(path)]).fit(Level(), max_epochs=1)
    assert lines(path) == [
        {"split": "val", "epoch": 0, "id": "a", "success": True, "outcome": "passed"},
        {"split": "val", "epoch": 0, "id": "b", "success": False, "outcome": "failed"},
        {"split": "train", "epoch": 1, "id": "a", "success": True, "outcome": "passed"},
        {"split": "train", "epoch": 1, "id": "b", "success": False, "outcome": "failed"},
        {"split": "val", "epoch": 1, "id": "a", "success": True, "outcome": "passed"},
        {"split": "val", "epoch": 1, "id": "b", "success": True, "outcome": "passed"},
    ]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write .*file/log.jsonl"):
        JSONLogger(tmp_path / "file" / "log.jsonl").log_metrics({}, 1)


def test_a_checkpoint_without_git(tmp_path: Path) -> None:
    class Both(Level):
        def __init__(self) -> None:
            super().__init__()
            self.files = PathParameter(tmp_path / "rules")

    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "a.bin").write_bytes(b"\0\xff")
    checkpoint, module = JSONCheckpoint(tmp_path / "kept"), Both()
    Trainer([checkpoint]).fit(module, max_epochs=3)
    # Level 1 lets one of two items pass, level 2 both; more is no better.
    assert sorted(p.name for p in (tmp_path / "kept").iterdir()) == [
        "epoch-0000.json",
        "epoch-0001.json",
    ]
    assert json.loads(checkpoint.path(1).read_text())["metrics"]["val"] == {"accuracy": 1.0}
    (tmp_path / "rules" / "a.bin").write_bytes(b"other")
    (tmp_path / "rules" / "b.txt").write_text("more")
    checkpoint.load(0, module)
    assert module.level.data == 1
    assert [p.name for p in (tmp_path / "rules").iterdir()] == ["a.bin"]
    assert (tmp_path / "rules" / "a.bin").read_bytes() == b"\0\xff"
    with pytest.raises(DataError, match=r"epoch-0007\.json is no checkpoint") as caught:
        checkpoint.load(7, module)
    assert caught.value.hint == "there are: epoch-0000.json, epoch-0001.json"


def test_a_logger_may_stand_among_the_callbacks(tmp_path: Path) -> None:
    Trainer(callbacks=[JSONLogger(tmp_path / "log.jsonl")]).fit(Level(), max_epochs=1)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1]


# --- a recorded experiment ---------------------------------------------------------------------


def test_an_export_has_what_the_notes_have(top, demo, tmp_path):
    decide(demo.repo, "demo", "promote", reason="better", reviewer="Charles")
    place = tmp_path / "out"
    written = export(again(demo), place)
    assert len(written) == len([p for p in place.rglob("*") if p.is_file()]) == 2 + 6 * 5
    assert json.loads((place / "manifest.json").read_text())["parameters"] == {"rules": "rules"}
    events = json.loads((place / "events.json").read_text())
    assert [event["name"] for event in events] == ["started", "stopped", "decided"]
    assert (events[2]["decision"], events[2]["reviewer"]) == ("promote", "Charles")

    metrics = json.loads((place / "epoch-0003" / "metrics.json").read_text())
    assert (metrics["epoch"], metrics["verdict"]) == (3, "kept")
    assert metrics["metrics"] == {"val": {"accuracy": 0.75}}
    assert metrics["tag"] == "autopilot/demo/epoch-0003"
    assert json.loads((place / "epoch-0002" / "metrics.json").read_text())["tag"] is None
    (step,) = json.loads((place / "epoch-0003" / "gradients.json").read_text())
    assert (step["strategy"], step["commit"]) == ("write", demo.after(3))
    (lesson,) = json.loads((place / "epoch-0002" / "memory.json").read_text())
    assert (lesson["outcome"], lesson["reason"]) == ("rejected", "it is 0.3")

    # Each patch applies to the epoch's predecessor and gives the epoch.
    work = tmp_path / "work"
    git(top, "worktree", "add", "--quiet", "--detach", str(work), demo.before(3))
    git(work, "apply", str(place / "epoch-0003" / "diff.patch"))
    assert rules(work)["a.txt"] == b"a3\n"
    assert "b.txt" not in rules(work)
    assert (place / "epoch-0000" / "diff.patch").read_bytes() == b""


def test_numbers_that_json_lacks_are_strings(top, tmp_path):
    notebook = make(top, "odd", [({"a.txt": "a1\n"}, math.nan)])
    export(notebook, tmp_path / "out")
    metrics = json.loads((tmp_path / "out" / "epoch-0001" / "metrics.json").read_text())
    assert metrics["metrics"] == {"val": {"accuracy": "NaN"}}


def test_an_export_never_writes_among_other_files(demo, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(UsageError, match="is not an empty folder"):
        export(demo, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
