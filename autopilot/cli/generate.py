"""autopilot ai generate: a dataset that a DataGenerator makes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autopilot.cli.components import (
    Calls,
    Dollars,
    Tokens,
    budget_of,
    find,
    resumable,
    watched,
)
from autopilot.cli.context import Commands, Context
from autopilot.cli.output import Output
from autopilot.cli.running import Hparams
from autopilot.core.figures import spending
from autopilot.text import counted

if TYPE_CHECKING:
    from autopilot.ai.datasets.checkpoint import Checkpoint, Distribution

Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="What `run --out` named.", show_default=False)
]
_REASONS = 5


def run(
    context: Context,
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="path/to/file.py, path/to/file.py:Name or package.module:Name: a DataGenerator, "
            "or a callable that returns one; the project's own if none is named.",
            show_default=False,
        ),
    ] = "",
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Items to make.")] = 100,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where the files go.")
    ] = Path("dataset"),
    hparam: Hparams = None,
    budget_usd: Dollars = None,
    budget_tokens: Tokens = None,
    budget_calls: Calls = None,
) -> int:
    """Make a dataset.

    Every item gets a slot with a value of each variable and a split. FOLDER gets one JSON Lines
    file a split, a checkpoint, and the model calls, which are never paid twice.

    \b
    autopilot ai generate run questions.py --count 200 --out data
    autopilot ai generate run questions.py:hard -n 50 -o data/hard --budget-usd 2
    """
    from autopilot.ai.datasets.generator import DataGenerator
    from autopilot.ai.datasets.worklist import Origin
    from autopilot.engine.target import parse_hparams

    origin = Origin(target=target, hparams=parse_hparams(hparam or []))
    budget = budget_of(budget_usd, budget_tokens, budget_calls)

    def work(output: Output) -> int:
        generator = find(context, origin, DataGenerator)
        with watched(output, "made") as watch:
            made = generator.run(count, out, budget=budget, origin=origin, watch=watch)
        return _print(output, out, made)

    return resumable(context, _again(out), work)


def resume(
    context: Context,
    dataset: Folder,
    budget_usd: Dollars = None,
    budget_tokens: Tokens = None,
    budget_calls: Calls = None,
) -> int:
    """Go on with a dataset, exactly where it was.

    Nothing is paid twice; slots that failed are tried again. A budget takes the place of the one
    before.

    \b
    autopilot ai generate resume data
    autopilot ai generate resume data --budget-usd 5
    """
    from autopilot.ai.datasets.generator import DataGenerator

    budget = budget_of(budget_usd, budget_tokens, budget_calls)
    origin = _open(context, dataset).start.origin

    def work(output: Output) -> int:
        generator = find(context, origin, DataGenerator)
        with watched(output, "made") as watch:
            made = generator.resume(dataset, budget=budget, watch=watch)
        return _print(output, dataset, made)

    return resumable(context, _again(dataset), work)


def summarize(context: Context, dataset: Folder) -> None:
    """Show what a dataset came to.

    How many items were made, rejected and why, and what the model calls cost.

    \b
    autopilot ai generate summarize data
    """
    from autopilot.ai.model.recording import spent_beside

    checkpoint = _open(context, dataset)
    output, made = context.output, checkpoint.distribution()
    spent = spent_beside(checkpoint.calls)
    output.line(made.render())
    for split, share in made.splits.items():
        file = dataset / f"{split}.jsonl"
        shown = f"  {file}" if (context.folder / file).exists() else ""
        output.line(f"  {split}: {share.made} of {share.planned}{shown}")
    if spent.calls:
        output.line(f"cost: {spending(spent)}")
    _print_reasons(output, made)
    if made.made < made.planned:
        output.line(f"go on: {_again(dataset)}")
    output.document(_document(dataset, made) | {"spent": spent})


def distribution(context: Context, dataset: Folder) -> None:
    """Show a dataset's items by variable and split.

    \b
    autopilot ai generate distribution data
    """
    made = _open(context, dataset).distribution()
    _print_table(context.output, made)
    context.output.document(_document(dataset, made))


COMMANDS: Commands = {
    "run": run,
    "resume": resume,
    "summarize": summarize,
    "distribution": distribution,
}


def _open(context: Context, folder: Path) -> Checkpoint:
    from autopilot.ai.datasets.checkpoint import Checkpoint

    return Checkpoint(context.working_folder() / folder)


def _again(folder: Path) -> str:
    return f"autopilot ai generate resume {shlex.quote(str(folder))}"


def _print(output: Output, folder: Path, made: Distribution) -> int:
    output.line(made.render(), "bold")
    _print_table(output, made)
    _print_reasons(output, made)
    missing = made.planned - made.made
    if missing:
        output.line(f"{missing} of {counted(made.planned, 'item')} are missing")
        output.line(f"go on: {_again(folder)}")
    output.document(_document(folder, made))
    return missing


def _print_table(output: Output, made: Distribution) -> None:
    splits = list(made.splits)
    rows = [["all", "", *(_share(made.splits[split]) for split in splits)]]
    for name, values in made.variables.items():
        rows += [
            [name, value, *(_share(shares[split]) for split in splits)]
            for value, shares in values.items()
        ]
    output.table(["variable", "value", *splits], rows, right=splits)


def _share(share: Any) -> str:
    return str(share.made) if share.made == share.planned else f"{share.made} of {share.planned}"


def _print_reasons(output: Output, made: Distribution) -> None:
    for reason, number in list(made.reasons.items())[:_REASONS]:
        output.line(f"  {number}x {' '.join(reason.split())}")
    if len(made.reasons) > _REASONS:
        output.line(f"  ... and {len(made.reasons) - _REASONS} other reasons")


def _document(folder: Path, made: Distribution) -> dict[str, Any]:
    files = {split: str(folder / f"{split}.jsonl") for split in made.splits}
    return {"folder": str(folder), "files": files, "distribution": made}
