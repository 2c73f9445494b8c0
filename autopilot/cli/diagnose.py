"""Commands that find what fails: run (in words), heatmap (items or modules by epochs)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from autopilot.cli.context import Context
from autopilot.cli.output import Output
from autopilot.cli.reading import Experiment
from autopilot.errors import ExperimentError
from autopilot.text import counted, shorten

if TYPE_CHECKING:
    from autopilot.tracking.diagnosis import Diagnosis, Traces

Split = Annotated[str, typer.Option(help="Of which the results are: val or test.")]
_SIGNS = {"passed": "+", "failed": "x", "error": "!", "unmeasured": "?", "unscored": "-", None: "."}
_SHADES = " .:-=+*#%@"
_WIDTH = 100
_IDS = 12
_CHANGES = 20
_NAME = 24


def run(context: Context, slug: Experiment = None, split: Split = "val") -> None:
    """Say which items fail, flip or broke, and which modules got the feedback.

    From what was recorded; nothing is evaluated.

    \b
    autopilot diagnose run
    autopilot diagnose run classifier-1
    """
    traces, output = _traces(context, slug, split), context.output
    found = traces.diagnosis()
    output.document({"experiment": traces.notebook.slug, "diagnosis": found})
    epochs = counted(len(traces.results), "epoch")
    output.line(f"{traces.notebook.slug}: {len(found.items)} {split} items over {epochs}", "bold")
    best = traces.notebook.best
    where = f"epoch {best.number}, the best" if best else "the best epoch"
    _ids(output, "never passed", found.always_failing)
    for title, ids in (("never measured", found.never_measured), ("never scored", found.unscored)):
        if ids:
            _ids(output, title, ids)
    if found.graded:
        told = f"graded by {traces.notebook.monitor[0]}, neither passed nor failed"
        output.line(f"{told}: {len(found.graded)}")
    _ids(output, "changed three times or more", found.flaky)
    _ids(output, f"passed at the baseline, not at {where}", found.regressed)
    _ids(output, f"failed at the baseline, passes at {where}", found.fixed)
    if found.changes:
        output.line("what each epoch did to the state before it:")
    if len(found.changes) > _CHANGES:
        output.line(f"  (the last {_CHANGES} of {len(found.changes)} epochs; --json has all)")
    for change in found.changes[-_CHANGES:]:
        broke = f", broke {len(change.broken)}" if change.broken else ""
        told = f"fixed {len(change.fixed)}{broke}"
        if found.graded:
            told = f"{len(change.better)} better, {len(change.worse)} worse"
        output.line(
            f"  epoch {change.epoch} ({change.verdict}): {told}  {change.strategy}".rstrip()
        )
    _nodes_in_words(output, found)
    if found.items:
        output.line(f"one item: autopilot trace inspect {found.items[0].id}")
        output.line(f"draw it:  autopilot diagnose heatmap {traces.notebook.slug}")


def _ids(output: Output, title: str, ids: Sequence[str]) -> None:
    more = f", and {len(ids) - _IDS} more" if len(ids) > _IDS else ""
    listed = f": {', '.join(ids[:_IDS])}{more}" if ids else ""
    output.line(f"{title}: {len(ids)}{listed}")


def _nodes_in_words(output: Output, found: Diagnosis) -> None:
    if found.nodes:
        output.line("lines of feedback by module:")
    for node, row in sorted(found.nodes.items(), key=lambda pair: -sum(pair[1].values())):
        output.line(f"  {node}: {sum(row.values())} in {counted(len(row), 'epoch')}")


def heatmap(
    context: Context,
    slug: Experiment = None,
    split: Split = "val",
    nodes: Annotated[
        bool, typer.Option("--nodes", help="Modules by epochs: how much feedback each got.")
    ] = False,
    count: Annotated[int, typer.Option("-n", min=1, help="At most so many rows.")] = 40,
) -> None:
    """Draw items by epochs, the most often failing first; or modules by epochs.

    What was not evaluated is a dot, which is not a failure: an epoch whose state was known has no
    results of its own.

    \b
    autopilot diagnose heatmap
    autopilot diagnose heatmap classifier-1 --nodes
    """
    traces, output = _traces(context, slug, split), context.output
    notebook = traces.notebook
    numbers = [epoch.number for epoch in notebook.epochs]
    verdicts = {epoch.number: epoch.verdict for epoch in notebook.epochs}
    room = max((output.width or _WIDTH) - _NAME - 2, 10)
    shown = numbers[-room:]
    if nodes:
        rows = traces.nodes()
        output.document({"experiment": notebook.slug, "epochs": numbers, "nodes": rows})
        most = max((n for row in rows.values() for n in row.values()), default=1)
        _axis(output, shown, numbers)
        for node, row in rows.items():
            cells = "".join(_shade(row.get(number, 0), most) for number in shown)
            _row(output, node, cells)
        output.line(f"darker: more lines of feedback in the epoch, at most {most}")
        return
    items = traces.items
    document = {item.id: {str(n): how for n, how in item.outcomes.items()} for item in items}
    output.document({"experiment": notebook.slug, "epochs": numbers, "items": document})
    _axis(output, shown, numbers)
    for item in items[:count]:
        cells = "".join(_SIGNS[item.outcomes.get(number)] for number in shown)
        _row(output, item.id, cells)
    if len(items) > count:
        output.line(f"and {len(items) - count} that failed less often (-n shows more)")
    signs = {"baseline": "b", "kept": "k", "rejected": "r"}
    _row(output, "", "".join(signs[verdicts[number]] for number in shown))
    output.line("item:  + passed  x failed  ! raised an error  . not evaluated")
    if any({"unmeasured", "unscored"} & set(item.outcomes.values()) for item in items):
        output.line("       ? could not be measured  - neither passed nor failed")
    output.line("epoch: b baseline  k kept  r rejected")


def _axis(output: Output, shown: Sequence[int], numbers: Sequence[int]) -> None:
    """The epochs' numbers, one every ten columns."""
    line = ""
    for at, number in enumerate(shown):
        if number % 10 == 0 or at == 0:
            line = line.ljust(at) + (str(number) if len(line) <= at else "")
    _row(output, "epoch", line)
    if len(shown) < len(numbers):
        output.line(f"the last {len(shown)} of {len(numbers)} epochs; --json has all")


def _row(output: Output, name: str, cells: str) -> None:
    output.line(f"{shorten(name, _NAME):<{_NAME}}  {cells}".rstrip())


def _shade(count: int, most: int) -> str:
    return _SHADES[-(-count * (len(_SHADES) - 1) // most)]


def _traces(context: Context, slug: str | None, split: str) -> Traces:
    from autopilot.tracking.diagnosis import Traces

    traces = Traces(context.notebook(slug), split)
    if not traces.results:
        raise ExperimentError(
            f"no {split} results of {traces.notebook.slug} are recorded here",
            hint="val is recorded by every epoch, test at the end; a clone gets them by fetching "
            "refs/notes/autopilot/*",
        )
    return traces


COMMANDS = {"run": run, "heatmap": heatmap}
