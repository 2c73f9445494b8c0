"""Experiments as plain files, for tools that read JSON, JSON Lines and patches.

Callbacks and a logger write them during a run; `export` writes a recorded experiment.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopilot.core.callback import Callback, RunView
from autopilot.core.records.message import epoch_tag
from autopilot.core.types import Datum, datum_document, unlike_json
from autopilot.errors import DataError, UsageError, translated_as
from autopilot.files import FileState, replacing
from autopilot.text import as_json, jsonable

if TYPE_CHECKING:
    from autopilot.core.module import AutoPilotModule
    from autopilot.core.records.record import MetricsRecord
    from autopilot.tracking.epochs import Epoch
    from autopilot.tracking.notebook import Notebook

_OF_EPOCH = ("verdict", "metrics", "value", "before", "delta", "commit", "rollback", "steps")
_OF_RECORD = (
    *("best", "best_epoch", "strategy", "summary", "reasons", "outcome", "reused", "cost"),
)


class JSONLogger:
    """A Trainer's logger: one line an epoch, {"step": 3, "val/accuracy": 0.7}."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Appends a line."""
        _append(self.path, {"step": step, **metrics})


class JSONCheckpoint(Callback):
    """Writes each kept epoch to its own file, parameters included: a checkpoint without git."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, epoch: int) -> Path:
        """Where an epoch is kept."""
        return self.folder / f"epoch-{epoch:04d}.json"

    def on_epoch_recorded(
        self, trainer: RunView, module: AutoPilotModule, record: MetricsRecord
    ) -> None:
        if record.verdict == "rejected":
            return
        state = {name: _state(value) for name, value in module.state_dict().items()}
        odd = next(filter(None, (unlike_json(value, name) for name, value in state.items())), "")
        if odd:
            raise DataError(
                f"the parameter {odd}, which cannot be written as JSON",
                hint="give it data of text, numbers, lists and dicts, or use a PathParameter",
            )
        document = {
            "epoch": record.epoch,
            "verdict": record.verdict,
            "metrics": trainer.experiment.metrics[record.epoch],
            "parameters": state,
        }
        path = self.path(record.epoch)
        with translated_as(DataError, f"cannot write {path}", "{remedy}"):
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(path) as created:
                created.write_text(as_json(document, indent=1, allow_nan=True), encoding="utf-8")

    def load(self, epoch: int, module: AutoPilotModule) -> None:
        """Puts the module's parameters into a kept epoch's state.

        Raises:
            DataError: the epoch is not kept there, or the file is damaged.
            StateError: it is another module's.
        """
        path = self.path(epoch)
        try:
            state = json.loads(path.read_text(encoding="utf-8"))["parameters"]
            values = {name: _restored(value) for name, value in state.items()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path} is no checkpoint: {error}", hint=f"there are: {self._kept()}"
            ) from error
        module.load_state_dict(values)

    def _kept(self) -> str:
        return ", ".join(sorted(path.name for path in self.folder.glob("epoch-*.json"))) or "none"


class DataRecorder(Callback):
    """Records every item's result: one line an item, with split and epoch."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def on_train_batch_end(
        self, trainer: RunView, module: object, outputs: Datum, batch: object, batch_idx: int
    ) -> None:
        for item in outputs.leaves():
            _append(self.path, {"split": item.split, "epoch": item.epoch, **datum_document(item)})

    on_validation_batch_end = on_test_batch_end = on_train_batch_end


def _append(path: Path, value: Mapping[str, Any]) -> None:
    with translated_as(DataError, f"cannot write {path}", "{remedy}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(as_json(jsonable(value)) + "\n")


def _state(value: Any) -> Any:
    """A parameter's state as JSON: files by name, with mode and content."""
    if not isinstance(value, Mapping) or not all(isinstance(f, FileState) for f in value.values()):
        return value
    return {
        "files": {
            name: {"mode": f"{file.mode:o}", "base64": base64.b64encode(file.content).decode()}
            for name, file in value.items()
        }
    }


def _restored(value: Any) -> Any:
    if not isinstance(value, dict) or list(value) != ["files"]:
        return value
    return {
        name: FileState(int(file["mode"], 8), base64.b64decode(file["base64"]))
        for name, file in value["files"].items()
    }


# --- a recorded experiment ---------------------------------------------------------------------


def export(notebook: Notebook, folder: Path) -> list[Path]:
    """Writes manifest.json, events.json, and a folder for each judged epoch; returns the files.

    An epoch's folder has metrics.json, gradients.json (its optimizer steps and their feedback),
    memory.json (its lessons), traces.jsonl (the results item by item) and diff.patch (its changes,
    as `git apply` takes them).

    Raises:
        UsageError: the folder is not empty, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not an empty folder", hint="name a new folder")
    written, hint = [], "{remedy}, or name another folder"
    with translated_as(UsageError, f"cannot write to {folder}", hint):
        for name, content in _contents(notebook):
            written.append(folder / name)
            written[-1].parent.mkdir(parents=True, exist_ok=True)
            written[-1].write_bytes(content)
    return written


def _contents(notebook: Notebook) -> Iterator[tuple[str, bytes]]:
    yield "manifest.json", _json(notebook.manifest)
    yield "events.json", _json(notebook.events)
    for epoch in notebook.epochs:
        place, number = epoch_tag(epoch.number), epoch.number
        before, after = notebook.before(number), notebook.after(number)
        yield f"{place}/metrics.json", _json(_metrics(notebook, epoch))
        steps = [
            {"commit": commit if step.changed else None, **jsonable(step)}
            for commit, step in notebook.steps(number)
        ]
        yield f"{place}/gradients.json", _json(steps)
        yield f"{place}/memory.json", _json(notebook.lessons(number))
        lines = [
            as_json(jsonable({"split": split, **datum_document(item)})) + "\n"
            for split in ("train", "val", "test")
            for item in notebook.items(number, split)
        ]
        yield f"{place}/traces.jsonl", "".join(lines).encode()
        yield f"{place}/diff.patch", notebook.patch(before, after) if before != after else b""


def _json(value: Any) -> bytes:
    return as_json(jsonable(value), indent=2).encode() + b"\n"


def _metrics(notebook: Notebook, epoch: Epoch) -> dict[str, Any]:
    record, (monitor, mode) = epoch.record, notebook.monitor
    tag = notebook.layout.tag_name(epoch.number) if epoch.verdict != "rejected" else None
    head = {"epoch": epoch.number, "monitor": monitor, "mode": mode, "tag": tag}
    own = {name: getattr(epoch, name) for name in _OF_EPOCH}
    return head | own | {name: getattr(record, name) for name in _OF_RECORD}
