"""autopilot ai judge: what a Judge says of the items of a dataset."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
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
from autopilot.core.figures import figure, spending
from autopilot.text import counted, shorten

if TYPE_CHECKING:
    from autopilot.ai.datasets.judging import Histogram, Judging, JudgingSummary, Rates

Verdicts = Annotated[
    Path, typer.Argument(metavar="FILE", help="What `run --out` named.", show_default=False)
]
_MOST_FREQUENT = 5
_BAR = 40


def run(
    context: Context,
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="path/to/file.py, path/to/file.py:Name or package.module:Name: a Judge, or a "
            "callable that returns one; the project's own if none is named.",
            show_default=False,
        ),
    ] = "",
    data: Annotated[
        list[Path] | None,
        typer.Option(
            "--data", "-d", metavar="FILE", help="JSON Lines, an item a line; may be repeated."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="Where the verdicts go.")
    ] = Path("verdicts.jsonl"),
    hparam: Hparams = None,
    budget_usd: Dollars = None,
    budget_tokens: Tokens = None,
    budget_calls: Calls = None,
) -> int:
    """Judge a dataset.

    Each item gets a verdict, a score and feedback, a line in FILE; the model calls are kept beside
    it and never paid twice. An item's split is its own "split", or else its file's name.

    \b
    autopilot ai judge run tone.py --data answers.jsonl
    autopilot ai judge run tone.py:Strict -d data/val.jsonl -d data/test.jsonl -o strict.jsonl
    """
    from autopilot.ai.datasets.judging import Judging
    from autopilot.ai.datasets.worklist import Origin
    from autopilot.ai.judge import Judge
    from autopilot.engine.target import parse_hparams
    from autopilot.errors import UsageError

    if not data:
        raise UsageError("there is nothing to judge", hint="name a dataset: --data items.jsonl")
    origin = Origin(target=target, hparams=parse_hparams(hparam or []))
    budget = budget_of(budget_usd, budget_tokens, budget_calls)

    def work(output: Output) -> int:
        judge = find(context, origin, Judge)
        with watched(output, "judged") as watch:
            found = Judging(out).run(judge, data, budget=budget, origin=origin, watch=watch)
        return _print(output, out, found)

    return resumable(context, _again(out), work)


def resume(
    context: Context,
    file: Verdicts,
    budget_usd: Dollars = None,
    budget_tokens: Tokens = None,
    budget_calls: Calls = None,
) -> int:
    """Judge what has no verdict yet.

    Nothing is paid twice; items that could not be judged are tried again, and lines that the data
    got since are judged too. A budget takes the place of the one before.

    \b
    autopilot ai judge resume verdicts.jsonl
    autopilot ai judge resume verdicts.jsonl --budget-calls 500
    """
    from autopilot.ai.datasets.judging import Judging
    from autopilot.ai.judge import Judge

    budget = budget_of(budget_usd, budget_tokens, budget_calls)
    origin = _open(context, file).start.origin

    def work(output: Output) -> int:
        judge = find(context, origin, Judge)
        with watched(output, "judged") as watch:
            found = Judging(file).resume(judge, budget=budget, watch=watch)
        return _print(output, file, found)

    return resumable(context, _again(file), work)


def summarize(context: Context, file: Verdicts) -> None:
    """Show how many items passed, their mean score, and what is said most often.

    \b
    autopilot ai judge summarize verdicts.jsonl
    """
    from autopilot.ai.model.recording import spent_beside

    judging, output = _open(context, file), context.output
    _print_summary(output, judging.summary())
    spent = spent_beside(judging.calls)
    if spent.calls:
        output.line(f"cost: {spending(spent)}")
    output.document(_document(file, judging.summary()) | {"spent": spent})


def distribution(
    context: Context,
    file: Verdicts,
    by: Annotated[
        str, typer.Option("--by", metavar="FIELD", help="A field of the items to group them by.")
    ] = "split",
    bins: Annotated[
        int, typer.Option(min=1, max=100, help="Bars from the lowest score to the highest.")
    ] = 10,
) -> None:
    """Show how often which score was given, by split or by a field of the items.

    \b
    autopilot ai judge distribution verdicts.jsonl
    autopilot ai judge distribution verdicts.jsonl --by topic
    """
    from autopilot.ai.datasets.judging import histograms

    judging, output = _open(context, file), context.output
    found = histograms(judging.done.values(), by, bins)
    if not found:
        output.line("no item was judged")
    for histogram in found:
        output.line(f"{by} {histogram.group}: {_rates(histogram.rates)}", "bold")
        for line in _bars(histogram):
            output.line(line)
    output.document({"file": str(file), "by": by, "bins": bins, "groups": found})


COMMANDS: Commands = {
    "run": run,
    "resume": resume,
    "summarize": summarize,
    "distribution": distribution,
}


def _open(context: Context, file: Path) -> Judging:
    from autopilot.ai.datasets.judging import Judging

    judging = Judging(context.working_folder() / file)
    _ = judging.start  # refuses a file without verdicts
    return judging


def _again(file: Path) -> str:
    return f"autopilot ai judge resume {shlex.quote(str(file))}"


def _print(output: Output, file: Path, found: JudgingSummary) -> int:
    _print_summary(output, found)
    output.line(f"verdicts: {file}")
    if found.failed:
        missing = found.failed + found.all.items
        output.line(f"{found.failed} of {counted(missing, 'verdict')} are missing")
        output.line(f"go on: {_again(file)}")
    output.document(_document(file, found))
    return found.failed


def _print_summary(output: Output, found: JudgingSummary) -> None:
    output.line(_rates(found.all), "bold")
    if len(found.splits) > 1:
        for split, rates in found.splits.items():
            output.line(f"  {split}: {_rates(rates)}")
    if found.feedback:
        output.line("said most often of items that did not pass:")
        _print_counts(output, found.feedback)
    if found.failed:
        output.line(f"{counted(found.failed, 'item')} could not be judged:")
        _print_counts(output, found.reasons)


def _print_counts(output: Output, counts: Mapping[str, int]) -> None:
    for text, times in list(counts.items())[:_MOST_FREQUENT]:
        room = output.width and max(output.width - 8, 20)
        output.line(f"{times:>5}x  {shorten(text, room)}")
    if len(counts) > _MOST_FREQUENT:
        output.line(f"        ... and {len(counts) - _MOST_FREQUENT} more")


def _rates(rates: Rates) -> str:
    if rates.pass_rate is None:
        return "no item was judged"
    return (
        f"{rates.passed} of {counted(rates.items, 'item')} passed ({rates.pass_rate:.0%}), "
        f"mean score {figure(rates.mean_score)}"
    )


def _bars(histogram: Histogram) -> list[str]:
    counts, (low, high) = histogram.counts, histogram.score_range
    most, width = max(counts), (high - low) / len(counts)
    digits = 1 if len(counts) <= 10 and 10 % len(counts) == 0 else 2
    lines = []
    for place, count in enumerate(counts):
        bar = "#" * (round(count / most * _BAR) or 1) if count else ""
        span = f"{low + place * width:.{digits}f}-{low + (place + 1) * width:.{digits}f}"
        lines.append(f"  {span}  {count:>5}  {bar}".rstrip())
    return lines


def _document(file: Path, found: JudgingSummary) -> dict[str, Any]:
    whole = {"items": found.all.items, "passed": found.all.passed}
    return {
        "file": str(file),
        **whole,
        "pass_rate": found.all.pass_rate,
        "mean_score": found.all.mean_score,
        "splits": found.splits,
        "failed": found.failed,
        "feedback": found.feedback,
        "reasons": found.reasons,
    }
