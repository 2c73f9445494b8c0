"""Callbacks and loggers that write files: JSON Lines, appended and flushed line by line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopilot.core.callback import Callback
from autopilot.core.types import Datum, datum_to_json
from autopilot.errors import DataError

if TYPE_CHECKING:
    from autopilot.core.module import AutoPilotModule
    from autopilot.core.trainer import Trainer


class JSONLogger:
    """A Trainer's logger: one line an epoch, {"step": 3, "val/accuracy": 0.7}.

    Args:
        path: Appended to; its folder is made.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Appends a line.

        Raises:
            DataError: the file cannot be written.
        """
        _append(self.path, {"step": step, **metrics})


class DataRecorder(Callback):
    """Records every item's result: one line an item, with split and epoch.

    Args:
        path: Appended to; its folder is made.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        module: AutoPilotModule,
        outputs: Datum,
        batch: Datum,
        batch_idx: int,
    ) -> None:
        self._record(outputs)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        module: AutoPilotModule,
        outputs: Datum,
        batch: Datum,
        batch_idx: int,
    ) -> None:
        self._record(outputs)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        module: AutoPilotModule,
        outputs: Datum,
        batch: Datum,
        batch_idx: int,
    ) -> None:
        self._record(outputs)

    def _record(self, outputs: Datum) -> None:
        for item in outputs.leaves():
            _append(self.path, {"split": item.split, "epoch": item.epoch, **datum_to_json(item)})


def _append(path: Path, value: Mapping[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(value, ensure_ascii=False) + "\n")
    except OSError as error:
        raise DataError(
            f"cannot write {path}: {error.strerror}", hint="make room or give write permission"
        ) from error
