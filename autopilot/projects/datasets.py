"""Datasets as a user names them: JSON Lines files, folders of them, or what a module trains on."""

from __future__ import annotations

import contextlib
import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from autopilot.core.items import as_batch
from autopilot.core.module import AutoPilotModule
from autopilot.core.types import Datum, as_datum
from autopilot.data.dataset import ListDataset, StreamingDataset
from autopilot.data.loader import random_split, stratified_split
from autopilot.engine.loading import users_code
from autopilot.errors import DataError, UsageError

SPLITS = ("train", "val", "test")
_CLASSES = 12
_CLASS_LENGTH = 40
_ROWS = 2000
_LABELS = 20
_TEXT_NAMES = ("text", "question", "input", "message", "prompt", "body", "content", "sentence")
_LABEL_NAMES = (
    *("label", "category", "class", "target", "expected", "answer", "output", "sentiment"),
    *("intent", "topic", "type", "y"),
)


@dataclass(frozen=True, slots=True)
class Column:
    """A field of a dataset's items.

    Args:
        types: Name of a type to the number of items with such a value.
        classes: Value to the number of its items; empty where there are too many values.
    """

    types: Mapping[str, int]
    classes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DatasetSummary:
    """A dataset in numbers.

    Args:
        name: The file, or the split's name.
    """

    name: str
    items: int
    columns: Mapping[str, Column]


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """A data file whose rows have a text, and what is expected of it.

    Args:
        text: The name of the text's column.
        label: The name of the column with what is expected.
        classes: The different labels; empty where there are more than twenty.
    """

    file: str
    rows: int
    text: str
    label: str
    classes: tuple[str, ...] = ()


def of_files(paths: Sequence[Path]) -> dict[str, StreamingDataset[dict[str, Any]]]:
    """The datasets of files, and of all `*.jsonl` in folders, by their paths.

    Raises:
        DataError: a file or folder is missing, or a folder has none.
    """
    found: dict[str, StreamingDataset[dict[str, Any]]] = {}
    for path in paths:
        files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        if not files:
            raise DataError(f"there is no *.jsonl in {path}", hint="name a file, or another folder")
        for file in files:
            found[str(file)] = StreamingDataset(file)
    return found


def of_module(module: AutoPilotModule, text: str) -> dict[str, Iterable[Any]]:
    """The splits of a module; those of unknown length are read to their end.

    Raises:
        UserCodeError: a loader fails.
        DataError: there is no split.
    """
    with users_code(text):
        loaders = {split: getattr(module, f"{split}_dataloader")() for split in SPLITS}
    found = {name: _items(loader) for name, loader in loaders.items() if loader is not None}
    if not found:
        raise DataError(
            f"{text} has no split", hint="define train_dataloader() and val_dataloader()"
        )
    return found


def _items(loader: Any) -> Iterable[Any]:
    dataset = getattr(loader, "dataset", None)
    if isinstance(dataset, Iterable):
        return dataset
    # A loader without a dataset has only batches.
    return [item for batch in loader for item in as_batch(batch).leaves()]


def data_of(items: Iterable[Any]) -> Iterator[Datum]:
    """The items one by one."""
    for index, item in enumerate(items):
        yield from as_datum(item, index).leaves()


def first(items: Iterable[Any], count: int) -> list[dict[str, Any]]:
    """The first items, with their ids."""
    return [{"id": datum.id, **datum.metadata} for datum in islice(data_of(items), count)]


def summarize(name: str, items: Iterable[Any]) -> DatasetSummary:
    """Reads a dataset once, without holding its items."""
    count = 0
    types: dict[str, Counter[str]] = {}
    classes: dict[str, Counter[str] | None] = {}
    for datum in data_of(items):
        count += 1
        for key, value in datum.metadata.items():
            types.setdefault(key, Counter())[type(value).__name__] += 1
            seen = classes.setdefault(key, Counter())
            if seen is None:
                continue
            is_class = isinstance(value, str | bool | int) and len(str(value)) <= _CLASS_LENGTH
            if is_class:
                seen[str(value)] += 1
            if not is_class or len(seen) > _CLASSES:
                classes[key] = None
    columns: dict[str, Column] = {}
    for key, kinds in types.items():
        seen = classes[key] or Counter()
        # Values that differ in every item, such as ids, are no classes.
        is_telling = count == 1 or len(seen) < count
        columns[key] = Column(dict(kinds), dict(seen.most_common()) if is_telling else {})
    return DatasetSummary(name, count, columns)


def size(items: Iterable[Any]) -> int:
    """The number of items; a stream is read to its end."""
    return len(items) if isinstance(items, Sized) else sum(1 for _ in data_of(items))


def split_file(
    path: Path,
    folder: Path,
    shares: Mapping[str, float],
    key: str | None,
    seed: int,
    *,
    force: bool,
) -> dict[Path, int]:
    """Splits a file into one per split; returns these with the numbers of their items.

    Args:
        shares: Split to its share; they add up to 1.
        key: The field whose values each split has in the same proportion; None: at random.

    Raises:
        UsageError: a file exists already; nothing is written.
        DataError: the file cannot be read, or an item lacks the field.
    """
    places = {name: folder / f"{name}.jsonl" for name in shares}
    there = [place for place in places.values() if place.exists()]
    if there and not force:
        raise UsageError(
            f"{there[0]} is there already", hint="name another folder with --out, or use --force"
        )
    dataset = ListDataset.from_jsonl(path)
    fractions = list(shares.values())
    if key is None:
        parts = random_split(dataset, fractions, seed)
    else:
        parts = stratified_split(dataset, fractions, key, seed)
    made = dict(zip(places.values(), parts, strict=True))
    for place, part in made.items():
        ListDataset(part).to_jsonl(place)
    return {place: len(part) for place, part in made.items()}


def labelled(folder: Path, file: str) -> LabelledFile | None:
    """A data file by its columns; None where it has no text or nothing that is expected."""
    rows = list(islice(_rows(folder / file), _ROWS))
    columns = dict.fromkeys(key for row in rows[:50] for key in row)
    values = {c: [row[c] for row in rows if row.get(c) not in (None, "")] for c in columns}
    full = {c: v for c, v in values.items() if len(v) > len(rows) // 2}
    texts = [c for c, v in full.items() if isinstance(v[0], str) and len(set(v)) > len(v) // 2]
    text = _likeliest(texts, _TEXT_NAMES, full)
    if text is None or len(rows) < 6:
        return None
    scalar = {c: v for c, v in full.items() if c != text and not isinstance(v[0], list | dict)}
    classes = {c: tuple(sorted(set(map(str, v)))) for c, v in scalar.items()}
    few = [c for c, own in classes.items() if 2 <= len(own) <= min(_LABELS, len(rows) // 2)]
    called = {c.lower(): c for c in classes}
    label = next((called[name] for name in _LABEL_NAMES if name in called), None)
    label = label or (few[0] if few else None)
    if label is None:
        return None
    return LabelledFile(file, len(rows), text, label, classes[label] if label in few else ())


def delimiter_of(path: Path) -> str:
    """The character between the columns of a table: the most frequent one of its first line."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return max(",;\t", key=file.readline(10_000).count)


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a data file, as far as they can be read."""
    with (
        contextlib.suppress(OSError, ValueError, csv.Error),
        path.open(encoding="utf-8-sig", newline="") as file,
    ):
        if path.suffix != ".jsonl":
            yield from csv.DictReader(file, delimiter=delimiter_of(path))
        for line in file:
            if line.strip() and isinstance(row := json.loads(line), dict):
                yield row


def _likeliest(
    columns: Sequence[str], names: Sequence[str], values: Mapping[str, Sequence[Any]]
) -> str | None:
    """The column that is called so; else the one with the longest texts."""
    for name in names:
        if found := next((column for column in columns if column.lower() == name), None):
            return found
    lengths = {c: sum(map(len, values[c])) / len(values[c]) for c in columns}
    longest = max(columns, key=lengths.__getitem__, default=None)
    return longest if longest is not None and lengths[longest] > 12 else None
