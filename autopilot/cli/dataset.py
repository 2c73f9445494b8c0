"""Commands on datasets: list, show, split, check."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from autopilot.cli.arguments import Hparams, option
from autopilot.cli.context import Context, in_child
from autopilot.cli.output import own_stdout
from autopilot.cli.pages.listing import shorten_end
from autopilot.core.items import find_duplicates, find_leakage
from autopilot.engine.target import load_here
from autopilot.errors import UsageError
from autopilot.projects.datasets import (
    DatasetSummary,
    first,
    of_files,
    of_module,
    size,
    split_file,
    summarize,
)
from autopilot.text import align, counted, shorten

Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCE...",
        help="JSON Lines files, folders of them, or a TARGET, whose code in the checkout is run; "
        "the project's module if not given.",
    ),
]
_WIDTH = 100
_SHOWN = 20


@in_child
def list_(context: Context, sources: Sources = None, hparam: Hparams = None) -> None:
    """List datasets with their sizes, fields and classes.

    Each is read once. Of a TARGET, the code of your checkout is run.

    \b
    autopilot dataset list support/classifier.py      the splits of a TARGET
    autopilot dataset list data/*.jsonl
    autopilot -p my-project dataset list
    """
    with own_stdout(context.output) as output:
        found = [summarize(name, it) for name, it in _datasets(context, sources, hparam).items()]
        rows = [[each.name, str(each.items), _columns(each)] for each in found]
        lines = align(["dataset", "items", "fields"], rows, ["items"])
        output.lines(shorten_end(line, output.width) for line in lines)
        output.document(datasets=found)


@in_child
def show(
    context: Context,
    sources: Sources = None,
    split: Annotated[str | None, option("Only this split of a TARGET.")] = None,
    count: Annotated[int, typer.Option("-n", min=1, help="So many items.")] = 3,
    hparam: Hparams = None,
) -> None:
    """Show the first items of datasets.

    \b
    autopilot dataset show data/train.jsonl -n 5
    autopilot dataset show support/classifier.py --split val
    """
    with own_stdout(context.output) as output:
        datasets = _datasets(context, sources, hparam)
        if split is not None:
            if split not in datasets:
                known = f"there are: {', '.join(datasets)}"
                raise UsageError(f"there is no split {split}", hint=known)
            datasets = {split: datasets[split]}
        found = {name: first(items, count) for name, items in datasets.items()}
        for name, items in found.items():
            output.line(name, "bold")
            for item in items:
                output.line(f"  {item['id']}")
                for key, value in item.items():
                    if key != "id":
                        output.line(f"    {key}: {shorten(str(value), output.width or _WIDTH)}")
        output.document(datasets=found)


@in_child
def split(
    context: Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON Lines.")],
    shares: Annotated[
        str, option("The splits; the shares add up to 1.", metavar="NAME=SHARE,...")
    ] = "train=0.6,val=0.2,test=0.2",
    by: Annotated[
        str | None, option("Each value of it in the same proportion everywhere.", metavar="FIELD")
    ] = None,
    out: Annotated[
        Path | None, option("Where the files go; FILE's if not given.", metavar="FOLDER")
    ] = None,
    seed: Annotated[int, option("Decides who goes where.")] = 0,
    force: Annotated[bool, option("Overwrite files of an earlier split.")] = (False),
) -> None:
    """Split a file into train, val and test.

    Who goes where follows from the seed alone. With --by, every class is in each split.

    \b
    autopilot dataset split data/all.jsonl --by label
    autopilot dataset split all.jsonl --shares train=0.8,val=0.2 --out data --seed 7
    """
    here = context.working_folder()
    folder = here / (out or file.parent)
    made = split_file(here / file, folder, _shares(shares), by, seed, force=force)
    context.output.lines(f"{place}: {counted(items, 'item')}" for place, items in made.items())
    context.output.line(f"look at them: autopilot dataset check {folder}")
    files = [{"file": str(place), "items": items} for place, items in made.items()]
    context.output.document(files=files, seed=seed, by=by)


@in_child
def check(context: Context, sources: Sources = None, hparam: Hparams = None) -> int:
    """Look for items that stand twice, in one dataset or in several.

    Items are compared without their ids. Exit code 1 if any are found: a score on an item that was
    trained on tells of memory.

    \b
    autopilot dataset check data/train.jsonl data/val.jsonl
    autopilot dataset check support/classifier.py
    """
    with own_stdout(context.output) as output:
        datasets = _datasets(context, sources, hparam)
        sizes = {name: size(items) for name, items in datasets.items()}
        twice, leaks = find_duplicates(datasets), find_leakage(datasets)
        output.line("items: " + ", ".join(f"{name} {count}" for name, count in sizes.items()))
        for name, count in sizes.items():
            if not count:
                output.line(f"{name} is empty", "yellow")
        for title, found in (("in several datasets", leaks), ("several times in one", twice)):
            if found:
                output.line(f"{counted(len(found), 'item')} {title}:", "red")
            output.lines(f"  {leak.describe()}" for leak in islice(found, _SHOWN))
            if len(found) > _SHOWN:
                output.line(f"  and {len(found) - _SHOWN} more (--json has all)")
        ok = not leaks and not twice and all(sizes.values())
        if ok:
            output.line("no item stands twice")
        output.document(ok=ok, items=sizes, leaks=leaks, duplicates=twice)
        return 0 if ok else 1


def _datasets(
    context: Context, sources: list[str] | None, hparam: list[str] | None
) -> dict[str, Iterable[Any]]:
    """The datasets that are named: files and folders, or a TARGET's splits."""
    here = context.working_folder()
    paths = [here / name for name in sources or ()]
    if paths and not any(path.suffix == ".py" or ":" in path.name for path in paths):
        found = of_files(paths)
        # Names below the folder are short.
        return {name.removeprefix(f"{here}/"): items for name, items in found.items()}
    if len(paths) > 1:
        raise UsageError("a TARGET stands alone", hint="name one TARGET, or JSON Lines files")
    asked = context.request(sources[0] if sources else None, hparam)
    return of_module(load_here(asked.folder, asked.target, asked.hparams), asked.target)


def _shares(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, share = part.strip().partition("=")
        try:
            found[name] = float(share)
        except ValueError:
            equals = ""
        if not equals or not name or "/" in name:
            raise UsageError(f"--shares {text}: not NAME=SHARE,...", hint="train=0.8,val=0.2")
    return found


def _columns(summary: DatasetSummary) -> str:
    shown = []
    for name, column in summary.columns.items():
        classes = ", ".join(f"{value} {n}" for value, n in column.classes.items())
        shown.append(f"{name} ({classes})" if classes else f"{name} {'/'.join(column.types)}")
    return "; ".join(shown)


COMMANDS = {"list": list_, "show": show, "split": split, "check": check}
