"""autopilot ai: datasets that a DataGenerator makes, and that a Judge judges; both resumable."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from autopilot.ai.datasets.checkpoint import Checkpoint, Distribution
from autopilot.ai.datasets.generator import DataGenerator
from autopilot.ai.datasets.judging import Judging, JudgingSummary
from autopilot.ai.datasets.worklist import Origin, Watch
from autopilot.ai.judge import Judge
from autopilot.ai.model.recording import spent_beside
from autopilot.ai.prices import use_prices
from autopilot.cli.arguments import Hparams, option
from autopilot.cli.context import CommandGroup, Commands, Context
from autopilot.cli.output import INTERRUPTED, Output, own_stdout
from autopilot.cli.pages import dataset as pages
from autopilot.core.records.ledger import Ledger, Limits
from autopilot.engine.options import BUDGETS, Options
from autopilot.engine.supervisor import interruptible
from autopilot.engine.target import load_target, parse_hparams
from autopilot.errors import BudgetExceededError, UsageError
from autopilot.text import flag

K = TypeVar("K")

_EVERY_S = 5.0
_TARGET = (
    "path/to/file.py, path/to/file.py:Name or package.module:Name: a {}, or a callable that "
    "returns one; the project's own if none is named."
)

_LIMITS = "budget_usd", "budget_tokens", "budget_calls", "budget_seconds", "prices"
GeneratorTarget = Annotated[
    str, typer.Argument(metavar="TARGET", help=_TARGET.format("DataGenerator"), show_default=False)
]
JudgeTarget = Annotated[
    str, typer.Argument(metavar="TARGET", help=_TARGET.format("Judge"), show_default=False)
]
_NAMED = "The path that `run --out` named."
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help=_NAMED, show_default=False)]
Verdicts = Annotated[Path, typer.Argument(metavar="FILE", help=_NAMED, show_default=False)]


# --- generate ----------------------------------------------------------------------------------


def generate(
    context: Context,
    target: GeneratorTarget = "",
    count: Annotated[int, option("Items to make.", "-n", min=1)] = 100,
    out: Annotated[Path, option("Where the files go.", "-o", metavar="FOLDER")] = Path("dataset"),
    hparam: Hparams = None,
    *,
    limits: Annotated[Options, *_LIMITS],
) -> int:
    """Make a dataset.

    Every item gets a slot with a value of each variable and a split. FOLDER gets one JSON Lines
    file a split, a checkpoint, and the model calls, which are never paid twice.

    \b
    autopilot ai generate run questions.py --count 200 --out data
    autopilot ai generate run questions.py:hard -n 50 -o data/hard --budget-usd 2
    """
    budget = _budget(limits)
    origin = Origin(target=target, hparams=parse_hparams(hparam or []))

    def work(generator: DataGenerator, watch: Watch) -> Distribution:
        return generator.run(count, out, budget=budget, origin=origin, watch=watch)

    return _resumable(context, "generate", out, origin, DataGenerator, work)


def resume_generate(
    context: Context, dataset: Folder, *, limits: Annotated[Options, *_LIMITS]
) -> int:
    """Go on with a dataset, exactly where it was.

    Nothing is paid twice; slots that failed are tried again. A budget replaces the one of earlier
    sessions.

    \b
    autopilot ai generate resume data
    autopilot ai generate resume data --budget-usd 5
    """
    budget = _budget(limits)
    origin = Checkpoint(context.working_folder() / dataset).first_line().origin

    def work(generator: DataGenerator, watch: Watch) -> Distribution:
        return generator.resume(dataset, budget=budget, watch=watch)

    return _resumable(context, "generate", dataset, origin, DataGenerator, work)


def summarize_generate(context: Context, dataset: Folder) -> None:
    """Show how many items of a dataset were made, rejected and why, and the model calls' cost.

    \b
    autopilot ai generate summarize data
    """
    checkpoint = Checkpoint(context.working_folder() / dataset)
    output, made, spent = context.output, checkpoint.distribution(), spent_beside(checkpoint.calls)
    output.line(made.render())
    for split, share in made.splits.items():
        file = dataset / f"{split}.jsonl"
        shown = f"  {file}" if (context.folder / file).exists() else ""
        output.line(f"  {split}: {share.made} of {share.planned}{shown}")
    if spent.calls:
        output.line(f"cost: {spent.render()}")
    output.lines(pages.counts(made.reasons, output.width))
    if made.missing:
        output.line(f"go on: {_next('generate', dataset)}")
    output.document(pages.document(dataset, made), spent=spent)


def distribution_generate(context: Context, dataset: Folder) -> None:
    """Show a dataset's items by variable and split.

    \b
    autopilot ai generate distribution data
    """
    made, output = Checkpoint(context.working_folder() / dataset).distribution(), context.output
    output.lines(pages.distribution(made))
    output.document(pages.document(dataset, made))


# --- judge -------------------------------------------------------------------------------------


def judge(
    context: Context,
    target: JudgeTarget = "",
    data: Annotated[
        list[Path] | None,
        option("JSON Lines, an item a line; may be repeated.", "-d", metavar="FILE"),
    ] = None,
    out: Annotated[Path, option("Where the verdicts go.", "-o", metavar="FILE")] = Path(
        "verdicts.jsonl"
    ),
    hparam: Hparams = None,
    *,
    limits: Annotated[Options, *_LIMITS],
) -> int:
    """Judge a dataset.

    Each item gets a verdict, a score and feedback, a line in FILE; the model calls are kept beside
    it and never paid twice. An item's split is its own "split", or else its file's name.

    \b
    autopilot ai judge run tone.py --data answers.jsonl
    autopilot ai judge run tone.py:Strict -d data/val.jsonl -d data/test.jsonl -o strict.jsonl
    """
    if not data:
        raise UsageError("there is nothing to judge", hint="name a dataset: --data items.jsonl")
    budget = _budget(limits)
    origin = Origin(target=target, hparams=parse_hparams(hparam or []))

    def work(judge: Judge, watch: Watch) -> JudgingSummary:
        return Judging(out).run(judge, data, budget=budget, origin=origin, watch=watch)

    return _resumable(context, "judge", out, origin, Judge, work)


def resume_judge(context: Context, file: Verdicts, *, limits: Annotated[Options, *_LIMITS]) -> int:
    """Judge the items that have no verdict yet.

    Nothing is paid twice; items that could not be judged are tried again, and lines that were added
    to the data are judged too. A budget replaces the one of earlier sessions.

    \b
    autopilot ai judge resume verdicts.jsonl
    autopilot ai judge resume verdicts.jsonl --budget-calls 500
    """
    budget = _budget(limits)
    origin = Judging(context.working_folder() / file).first_line().origin

    def work(judge: Judge, watch: Watch) -> JudgingSummary:
        return Judging(file).resume(judge, budget=budget, watch=watch)

    return _resumable(context, "judge", file, origin, Judge, work)


def summarize_judge(context: Context, file: Verdicts) -> None:
    """Show how many items passed, their mean score, and the most frequent feedback.

    \b
    autopilot ai judge summarize verdicts.jsonl
    """
    judging, output = Judging(context.working_folder() / file), context.output
    found, spent = judging.summary(), spent_beside(judging.calls)
    output.lines(pages.judged(found, output.width))
    if spent.calls:
        output.line(f"cost: {spent.render()}")
    output.document(pages.document(file, found), spent=spent)


def distribution_judge(
    context: Context,
    file: Verdicts,
    by: Annotated[str, option("A field of the items to group them by.", metavar="FIELD")] = "split",
    bins: Annotated[int, option("Bars from the lowest score to the highest.", min=1, max=100)] = 10,
) -> None:
    """Show how often which score was given, by split or by a field of the items.

    \b
    autopilot ai judge distribution verdicts.jsonl
    autopilot ai judge distribution verdicts.jsonl --by topic
    """
    output = context.output
    found = Judging(context.working_folder() / file).histograms(by, bins)
    if not found:
        output.line("no item was judged")
    for histogram in found:
        output.line(f"{by} {histogram.group}: {pages.rates(histogram.rates)}", "bold")
        output.lines(pages.bars(histogram))
    output.document(file=str(file), by=by, bins=bins, groups=found)


COMMANDS: Commands = {
    "generate": CommandGroup(
        "Make a dataset, slot by slot.",
        {
            "run": generate,
            "resume": resume_generate,
            "summarize": summarize_generate,
            "distribution": distribution_generate,
        },
    ),
    "judge": CommandGroup(
        "Judge a dataset, item by item.",
        {
            "run": judge,
            "resume": resume_judge,
            "summarize": summarize_judge,
            "distribution": distribution_judge,
        },
    ),
}


def _next(command: str, path: Path) -> str:
    return f"autopilot ai {command} resume {shlex.quote(str(path))}"


def _budget(limits: Options) -> Limits | None:
    """The limits of the options; None if none is given. The prices hold from now on."""
    use_prices(limits.prices or ())
    names = "budget_calls", "budget_tokens", "budget_usd", "budget_seconds"
    given = [getattr(limits, name) for name in names]
    if all(limit is None for limit in given):
        return None
    return Limits(*(math.inf if limit is None else limit for limit in given))


def _resumable(
    context: Context,
    command: str,
    path: Path,
    origin: Origin,
    kind: type[K],
    work: Callable[[K, Watch], Distribution | JudgingSummary],
) -> int:
    """Does work that Ctrl-C or a spent budget ends, to be resumed then; 1 if items are missing."""
    resume, verb = _next(command, path), "made" if command == "generate" else "judged"
    with own_stdout(context.output) as output, interruptible():
        try:
            worker = _find(context, origin, kind)
            with _watched(output, verb) as watch:
                found = work(worker, watch)
            for number, line in enumerate(pages.lines(path, found, output.width)):
                output.line(line, "" if number else "bold")
            if found.missing:
                output.line(f"go on: {resume}")
            output.document(pages.document(path, found))
            return 1 if found.missing else 0
        except KeyboardInterrupt:
            output.line("interrupted: nothing that was paid is lost", "yellow")
            output.line(f"go on: {resume}")
            output.document(interrupted=True, resume=resume)
        except BudgetExceededError as spent:
            output.line(f"stopped: {spent.message}", "yellow")
            option = BUDGETS.get(spent.message.partition(" ")[0])
            output.line(f"go on: {resume}" + (f" {flag(option)} MORE" if option else ""))
            output.document(interrupted=True, reason=spent.message, resume=resume)
    return INTERRUPTED


def _find(context: Context, origin: Origin, kind: type[K]) -> K:
    """The generator or judge. Changes the working directory to the context's."""
    folder = context.working_folder()
    os.chdir(folder)
    if origin.target:
        sys.path.insert(0, str(folder))
        return load_target(origin.target, folder, origin.hparams, kind)
    noun = "generator" if kind.__name__ == "DataGenerator" else "judge"
    project = context.own_cli() if context.project else context.cli
    own = getattr(project, noun, None)
    if not isinstance(own, kind):
        owner = f"the project {context.project}" if context.project else "the command line"
        raise UsageError(
            f"no TARGET is given, and {owner} has no {noun} of its own",
            hint=f"name one: path/to/file.py or path/to/file.py:Name, a {kind.__name__}",
        )
    if origin.hparams:
        raise UsageError("-H is for a TARGET", hint="the project's own is made already")
    return own


@contextlib.contextmanager
def _watched(output: Output, verb: str) -> Iterator[Watch]:
    """Shows the progress: on a terminal in a live line, elsewhere in a line now and then."""
    status: Any = None
    shown_s = time.monotonic()

    def watch(done: int, total: int, ledger: Ledger) -> None:
        nonlocal status, shown_s
        spent = ledger.total()
        text = f"{done} of {total} {verb}" + (f", {spent.render()}" if spent.calls else "")
        if output.is_terminal and not output.as_json:
            if status is None:
                status = output.console.status(text)
                status.start()
            status.update(text)
        elif done < total and time.monotonic() - shown_s >= _EVERY_S:
            shown_s = time.monotonic()
            output.line(text)

    try:
        yield watch
    finally:
        if status is not None:
            status.stop()
