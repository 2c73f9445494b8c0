"""Datasets as a user names them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autopilot.core.module import AutoPilotModule
from autopilot.data.loader import DataLoader
from autopilot.errors import DataError, UsageError
from autopilot.projects.datasets import (
    first,
    labelled,
    of_files,
    of_module,
    size,
    split_file,
    summarize,
)
from autopilot.projects.starting import rules_texts

ROWS = [
    {"id": f"i{n}", "text": f"text {n}", "label": "spam" if n % 3 else "fine"} for n in range(9)
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "all.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    return path


def test_files_and_folders_are_datasets(file: Path) -> None:
    (name,) = of_files([file.parent])
    assert name == str(file)
    items = of_files([file])[name]
    assert size(items) == 9
    assert first(items, 2) == ROWS[:2]
    (file.parent / "empty").mkdir()
    with pytest.raises(DataError, match=r"no \*\.jsonl"):
        of_files([file.parent / "empty"])


def test_a_summary_counts_classes_and_not_ids(file: Path) -> None:
    (items,) = of_files([file]).values()
    found = summarize("all", items)
    assert (found.name, found.items) == ("all", 9)
    assert found.columns["label"].classes == {"spam": 6, "fine": 3}
    assert found.columns["text"].types == {"str": 9}
    assert found.columns["text"].classes == {}


def test_the_splits_of_a_module_are_its_loaders_items() -> None:
    class Module(AutoPilotModule):
        def train_dataloader(self):
            return DataLoader([{"id": "a"}, {"id": "b"}], 2)

        def val_dataloader(self):
            return None

        test_dataloader = val_dataloader

    assert {name: size(items) for name, items in of_module(Module(), "t").items()} == {"train": 2}


def test_a_split_is_the_same_for_a_seed_and_keeps_proportions(file: Path, tmp_path: Path) -> None:
    shares = {"train": 2 / 3, "val": 1 / 3}
    made = split_file(file, tmp_path / "a", shares, "label", 1, force=False)
    assert list(made.values()) == [6, 3]
    val = summarize("val", of_files([tmp_path / "a" / "val.jsonl"]).popitem()[1])
    assert val.columns["label"].classes == {"spam": 2, "fine": 1}
    split_file(file, tmp_path / "b", shares, "label", 1, force=False)
    for name in ("train.jsonl", "val.jsonl"):
        assert (tmp_path / "a" / name).read_text() == (tmp_path / "b" / name).read_text()
    with pytest.raises(UsageError, match="is there already"):
        split_file(file, tmp_path / "a", shares, None, 1, force=False)


def test_a_table_as_spreadsheets_write_it_has_its_first_column(
    tmp_path: Path,
) -> None:
    lines = ["text;label", *(f"{row['text']};{row['label']}" for row in ROWS)]
    (tmp_path / "t.csv").write_text("\r\n".join(lines), encoding="utf-8-sig", newline="")
    data = labelled(tmp_path, "t.csv")
    assert data and (data.text, data.classes) == ("text", ("fine", "spam"))
    code = rules_texts("optimize.py", tmp_path, data, None)["optimize.py"]
    assert 'csv.DictReader(Path("t.csv").open(encoding="utf-8-sig"), delimiter=";")' in code
