"""Commands on datasets: list, show, split, check."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autopilot.cli.context import Context
from autopilot.cli.output import own_stdout
from autopilot.cli.pages.listing import shorten_end
from autopilot.cli.running import Hparams
from autopilot.errors import UsageError
from autopilot.text import align, counted, shorten

if TYPE_CHECKING:
    from autopilot.projects.datasets import Column, DatasetSummary

Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCE...",
        help="JSON Lines files, folders of them, or a TARGET; the project's module if not given.",
    ),
]
_WIDTH = 100
_SHOWN = 20


def list_(context: Context, sources: Sources = None, hparam: Hparams = None) -> None:
    """List datasets with their sizes, fields and classes.

    Each is read once.

    \b
    autopilot dataset list support/classifier.py      the splits of a TARGET
    autopilot dataset list data/*.jsonl
    autopilot -p my-project dataset list
    """
    from autopilot.projects.datasets import summarize

    with own_stdout(context.output) as output:
        found = [summarize(name, it) for name, it in _datasets(context, sources, hparam).items()]
        rows = [[each.name, str(each.items), _columns(each)] for each in found]
        lines = align(["dataset", "items", "fields"], rows, ["items"])
        for line in lines:
            output.line(shorten_end(line, output.width))
        output.document({"datasets": found})


def show(
    context: Context,
    sources: Sources = None,
    split: Annotated[str | None, typer.Option(help="Only this split of a TARGET.")] = None,
    count: Annotated[int, typer.Option("-n", min=1, help="So many items.")] = 3,
    hparam: Hparams = None,
) -> None:
    """Show the first items of datasets.

    \b
    autopilot dataset show data/train.jsonl -n 5
    autopilot dataset show support/classifier.py --split val
    """
    from autopilot.projects.datasets import first

    with own_stdout(context.output) as output:
        datasets = _datasets(context, sources, hparam)
        if split is not None:
            if split not in datasets:
                raise UsageError(
                    f"there is no split {split}", hint=f"there are: {', '.join(datasets)}"
                )
            datasets = {split: datasets[split]}
        found = {name: first(items, count) for name, items in datasets.items()}
        for name, items in found.items():
            output.line(name, "bold")
            for item in items:
                output.line(f"  {item['id']}")
                for key, value in item.items():
                    if key != "id":
                        output.line(f"    {key}: {shorten(str(value), output.width or _WIDTH)}")
        output.document({"datasets": found})


def split(
    context: Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON Lines.")],
    shares: Annotated[
        str, typer.Option(metavar="NAME=SHARE,...", help="The splits; the shares add up to 1.")
    ] = "train=0.6,val=0.2,test=0.2",
    by: Annotated[
        str | None,
        typer.Option(metavar="FIELD", help="Each value of it in the same proportion everywhere."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the files go; FILE's if not given.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides who goes where.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files of an earlier split.")] = (
        False
    ),
) -> None:
    """Split a file into train, val and test.

    Who goes where follows from the seed alone. With --by, every class is in each split.

    \b
    autopilot dataset split data/all.jsonl --by label
    autopilot dataset split all.jsonl --shares train=0.8,val=0.2 --out data --seed 7
    """
    from autopilot.projects.datasets import split_file

    here = context.working_folder()
    folder = here / (out or file.parent)
    made = split_file(here / file, folder, _shares(shares), by, seed, force=force)
    for place, size in made.items():
        context.output.line(f"{place}: {counted(size, 'item')}")
    context.output.line(f"look at them: autopilot dataset check {folder}")
    files = [{"file": str(place), "items": size} for place, size in made.items()]
    context.output.document({"files": files, "seed": seed, "by": by})


def check(context: Context, sources: Sources = None, hparam: Hparams = None) -> int:
    """Look for items that stand twice, in one dataset or in several.

    Items are compared without their ids. Exit code 1 if any are found: a score on an item that was
    trained on tells of memory.

    \b
    autopilot dataset check data/train.jsonl data/val.jsonl
    autopilot dataset check support/classifier.py
    """
    from autopilot.core.items import find_duplicates, find_leakage
    from autopilot.projects.datasets import size

    with own_stdout(context.output) as output:
        datasets = _datasets(context, sources, hparam)
        sizes = {name: size(items) for name, items in datasets.items()}
        twice, leaks = find_duplicates(datasets), find_leakage(datasets)
        told = ", ".join(f"{name} {count}" for name, count in sizes.items())
        output.line(f"items: {told}")
        for name, count in sizes.items():
            if not count:
                output.line(f"{name} is empty", "yellow")
        for title, found in (("in several datasets", leaks), ("several times in one", twice)):
            if found:
                output.line(f"{counted(len(found), 'item')} {title}:", "red")
            for leak in islice(found, _SHOWN):
                output.line(f"  {leak.describe()}")
            if len(found) > _SHOWN:
                output.line(f"  and {len(found) - _SHOWN} more (--json has all)")
        ok = not leaks and not twice and all(sizes.values())
        if ok:
            output.line("no item stands twice")
        output.document({"ok": ok, "items": sizes, "leaks": leaks, "duplicates": twice})
        return 0 if ok else 1


def _datasets(
    context: Context, sources: list[str] | None, hparam: list[str] | None
) -> dict[str, Iterable[Any]]:
    """The datasets that are named: files and folders, or a TARGET's splits."""
    from autopilot.engine.target import load_here
    from autopilot.projects.datasets import of_files, of_module

    here = context.working_folder()
    paths = [here / name for name in sources or ()]
    if paths and not any(path.suffix == ".py" or ":" in path.name for path in paths):
        found = of_files(paths)
        return {_short(name, here): items for name, items in found.items()}
    if len(paths) > 1:
        raise UsageError("a TARGET stands alone", hint="name one TARGET, or JSON Lines files")
    subject = context.subject(sources[0] if sources else None, hparam)
    return of_module(load_here(subject.folder, subject.target, subject.hparams), subject.target)


def _short(name: str, folder: Path) -> str:
    return str(Path(name).relative_to(folder)) if Path(name).is_relative_to(folder) else name


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
    return "; ".join(f"{name} {_column(column)}" for name, column in summary.columns.items())


def _column(column: Column) -> str:
    if column.classes:
        return "(" + ", ".join(f"{value} {n}" for value, n in column.classes.items()) + ")"
    return "/".join(column.types)


COMMANDS = {"list": list_, "show": show, "split": split, "check": check}
