"""Pages of the `ai` commands: datasets that were made, and datasets that were judged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autopilot.ai.datasets.checkpoint import Distribution, Share
from autopilot.ai.datasets.judging import Histogram, JudgingSummary, Rates
from autopilot.core.figures import figure
from autopilot.report.comparison import picked
from autopilot.text import align, counted, jsonable, shorten

_MOST = 5
_BAR = 40


def lines(path: Path, result: Distribution | JudgingSummary, width: int | None) -> list[str]:
    """The result of a generation or a judging, and how many items are missing.

    Args:
        path: The generation's folder, or the file of verdicts.
    """
    if isinstance(result, Distribution):
        page = [result.render(), *distribution(result), *counts(result.reasons, width)]
        total = counted(result.planned, "item")
    else:
        page = [*judged(result, width), f"verdicts: {path}"]
        total = counted(result.failed + result.all.items, "verdict")
    return page + ([f"{result.missing} of {total} are missing"] if result.missing else [])


def distribution(made: Distribution) -> list[str]:
    """A table of the items by variable and split."""
    splits = list(made.splits)

    def cells(shares: Mapping[str, Share]) -> list[str]:
        return [
            str(share.made) if share.made == share.planned else f"{share.made} of {share.planned}"
            for share in (shares[split] for split in splits)
        ]

    rows = [["all", "", *cells(made.splits)]]
    for name, values in made.variables.items():
        rows += [[name, value, *cells(shares)] for value, shares in values.items()]
    return align(["variable", "value", *splits], rows, right=splits)


def counts(texts: Mapping[str, int], width: int | None) -> list[str]:
    """The most frequent of some texts, with their counts."""
    room = width and max(width - 8, 20)
    lines = [f"{times:>5}x  {shorten(text, room)}" for text, times in list(texts.items())[:_MOST]]
    return lines + ([f"        ... and {len(texts) - _MOST} more"] if len(texts) > _MOST else [])


def judged(result: JudgingSummary, width: int | None) -> list[str]:
    """The rates of a judging, and why items did not pass or could not be judged."""
    lines = [rates(result.all)]
    if len(result.splits) > 1:
        lines += [f"  {split}: {rates(some)}" for split, some in result.splits.items()]
    if result.feedback:
        lines += ["said most often of items that did not pass:", *counts(result.feedback, width)]
    if result.failed:
        lines.append(f"{counted(result.failed, 'item')} could not be judged:")
        lines += counts(result.reasons, width)
    return lines


def rates(some: Rates) -> str:
    """The number of items that passed, and the mean score."""
    if some.pass_rate is None:
        return "no item was judged"
    return (
        f"{some.passed} of {counted(some.items, 'item')} passed ({some.pass_rate:.0%}), "
        f"mean score {figure(some.mean_score)}"
    )


def bars(histogram: Histogram) -> list[str]:
    """A bar for each bin of scores."""
    bins, (low, high) = histogram.counts, histogram.score_range
    most, width = max(bins), (high - low) / len(bins)
    digits = 1 if len(bins) <= 10 and 10 % len(bins) == 0 else 2
    lines = []
    for place, count in enumerate(bins):
        bar = "#" * (round(count / most * _BAR) or 1) if count else ""
        span = f"{low + place * width:.{digits}f}-{low + (place + 1) * width:.{digits}f}"
        lines.append(f"  {span}  {count:>5}  {bar}".rstrip())
    return lines


def document(path: Path, result: Distribution | JudgingSummary) -> dict[str, Any]:
    """A generation, with its folder, or a judging, with its file, for --json."""
    if isinstance(result, Distribution):
        files = {split: str(path / f"{split}.jsonl") for split in result.splits}
        return {"folder": str(path), "files": files, "distribution": result}
    document = {"file": str(path), **jsonable(result.all), "pass_rate": result.all.pass_rate}
    return document | picked(result, "splits failed feedback reasons")
