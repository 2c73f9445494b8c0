"""An experiment as files, for tools that read files: JSON, JSON Lines and patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from autopilot.core.records.message import epoch_tag
from autopilot.core.types import datum_document
from autopilot.errors import UsageError
from autopilot.text import as_json, finite
from autopilot.tracking.notebook import Epoch, Notebook

_SPLITS = ("train", "val", "test")


def export(notebook: Notebook, folder: Path) -> list[Path]:
    """Writes manifest.json, events.json, and a folder for each judged epoch.

    An epoch's folder has metrics.json, gradients.json (its optimizer steps and what led to them),
    memory.json (what was learnt), traces.jsonl (the results item by item) and diff.patch (what the
    epoch changed, as `git apply` takes it).

    Args:
        notebook: The experiment.
        folder: It must be empty, or not exist.

    Returns:
        The files, in the order in which they were written.

    Raises:
        UsageError: the folder is not empty, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not an empty folder", hint="name a new one")
    try:
        return list(_write(notebook, folder))
    except OSError as error:
        raise UsageError(
            f"cannot write to {folder}: {error.strerror}",
            hint="make room or give write permission, or name another folder",
        ) from error


def _write(notebook: Notebook, folder: Path) -> Sequence[Path]:
    written = [
        _json(folder / "manifest.json", notebook.manifest),
        _json(folder / "events.json", notebook.events),
    ]
    for epoch in notebook.epochs:
        place = folder / epoch_tag(epoch.number)
        before, after = notebook.before(epoch.number), notebook.after(epoch.number)
        steps = notebook.steps(epoch.number)
        written += [
            _json(place / "metrics.json", _metrics(notebook, epoch)),
            _json(
                place / "gradients.json",
                [{"commit": commit if r.changed else None, **_plain(r)} for commit, r in steps],
            ),
            _json(place / "memory.json", notebook.lessons(epoch.number)),
            _lines(
                place / "traces.jsonl",
                [
                    {"split": split, **datum_document(item)}
                    for split in _SPLITS
                    for item in notebook.items(epoch.number, split)
                ],
            ),
            _bytes(place / "diff.patch", notebook.patch(before, after) if before != after else b""),
        ]
    return written


def _metrics(notebook: Notebook, epoch: Epoch) -> dict[str, Any]:
    monitor, mode = notebook.monitor
    tag = notebook.layout.tag_name(epoch.number) if epoch.verdict != "rejected" else None
    fields: dict[str, Any] = _plain(epoch)
    return {"epoch": fields.pop("number"), "monitor": monitor, "mode": mode, "tag": tag, **fields}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return finite(value)


def _json(path: Path, value: Any) -> Path:
    return _bytes(path, as_json(_plain(value), indent=2).encode() + b"\n")


def _lines(path: Path, values: Sequence[Any]) -> Path:
    return _bytes(path, "".join(f"{as_json(_plain(value))}\n" for value in values).encode())


def _bytes(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
