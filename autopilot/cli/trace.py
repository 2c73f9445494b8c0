"""Commands on results item by item: `trace` collects and inspects, `diagnose` says what fails."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from autopilot.cli import arguments
from autopilot.cli.arguments import option
from autopilot.cli.context import Context
from autopilot.cli.output import Output
from autopilot.cli.pages.epoch import printed
from autopilot.cli.pages.listing import shorten_end
from autopilot.core.figures import figure, outcomes
from autopilot.core.records.record import MetricsRecord
from autopilot.core.types import count_outcomes, datum_document
from autopilot.data.dataset import write_jsonl
from autopilot.engine.options import Options
from autopilot.errors import ExperimentError, UsageError
from autopilot.text import align, as_json, counted, jsonable, shorten, some
from autopilot.tracking.attribution import named
from autopilot.tracking.diagnosis import Traces
from autopilot.tracking.journal import Journal
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.outputs import output_lines

_SIGNS = {"passed": "+", "failed": "x", "error": "!", "unmeasured": "?", "unscored": "-", None: "."}
_SHADES = " .:-=+*#%@"
_IDS = 12
_CHANGES = 20
_NAME = 24
_WIDTH = 100
_ROWS = 40


def collect(
    context: Context,
    name: arguments.Name = None,
    target: arguments.NameOrTarget = None,
    epoch: arguments.MaybeEpochOrOption = None,
    now: Annotated[bool, option("Measure the epoch's state instead of reading notes.")] = False,
    live: arguments.Live = False,
    split: arguments.Split = arguments.Scored.val,
    out: Annotated[Path | None, option("JSON Lines; stdout if not.", "-o", metavar="FILE")] = None,
    hparam: arguments.Hparams = None,
    link: arguments.Links = None,
    *,
    limits: Annotated[Options, *arguments.LIMITS],
) -> None:
    """Collect per-item results as JSON Lines: of an epoch, or of your checkout now.

    With a TARGET, or a project and no experiment, the checkout is measured as it is. Each line has
    the item's id, its outcome, metrics, metadata and feedback.

    \b
    autopilot trace collect classifier-1 best -o best.jsonl
    autopilot trace collect classifier-1 --now
    autopilot trace collect support/classifier.py
    """
    place = None if out is None else Path(os.path.abspath(context.working_folder() / out))
    own_checkout = target is None and name is None and epoch is None and context.project
    if target is not None or now or live or own_checkout:
        # Only this needs the engine; what is recorded is read without it.
        from autopilot.cli.optimize import measure_now

        if now or live:
            epoch = epoch or "best"
        notebook, found, measured = measure_now(
            context, split, name, target, epoch, live=live, hparam=hparam, link=link, limits=limits
        )
        items = list(measured.items.get(split, ()))
        # stdout may have the results.
        for line in output_lines(measured.outputs):
            context.output.warning(line)
    else:
        notebook = context.notebook(name)
        found = named(notebook, epoch or "best").number
        items = notebook.items(found, split)
    what = "your checkout"
    if notebook is not None:
        what = f"{notebook.slug} {notebook.epoch(found or 0).title}"
    if not items:
        raise ExperimentError(
            f"there are no {split} results of {what}", hint=_elsewhere(notebook, found, split)
        )
    # None: the item was not said to pass or to fail.
    own = {"split": split, "epoch": found, "success": None}
    rows = [own | datum_document(item) for item in items]
    output = context.output
    if place is not None:
        write_jsonl(place, rows)
        counts = outcomes(count_outcomes(items))
        output.line(f"{place}: {counted(len(rows), 'result')} of {what}, {split}: {counts}")
    elif not output.as_json:
        output.raw(b"".join(as_json(jsonable(row)).encode() + b"\n" for row in rows))
    output.document(
        experiment=notebook.slug if notebook else None,
        epoch=found,
        split=split,
        file=place,
        outcomes=count_outcomes(items),
        items=None if place else rows,
    )


def _elsewhere(notebook: Notebook | None, epoch: int | None, split: str) -> str:
    if notebook is None or epoch is None:
        return f"define {split}_dataloader()"
    records = Journal(notebook.repo, notebook.layout).read_on(
        notebook.epoch(epoch).commit, MetricsRecord
    )
    known = [r.reused for r in records if r.epoch == epoch and r.reused is not None]
    if known:
        return f"its state was measured in epoch {known[0]}: --epoch {known[0]}"
    return f"--now measures it, if the target has a {split} split"


def inspect(
    context: Context,
    item: Annotated[str, arguments.Word("ITEM", "An item's id, or its beginning.")],
    name: arguments.Name = None,
    split: arguments.Split = arguments.Scored.val,
) -> None:
    """Show one item over the epochs: how it went, its metrics, the feedback on it.

    \b
    autopilot trace inspect t17
    autopilot trace inspect classifier-1 t17
    """
    notebook, output = context.notebook(name), context.output
    traces = Traces(notebook, split)
    name = _item(item, [each.id for each in traces.items], f"{notebook.slug}, {split}")
    epochs = {epoch.number: epoch for epoch in notebook.epochs}
    history = [
        {"epoch": n, "verdict": epochs[n].verdict, **datum_document(items[name])}
        for n, items in traces.results.items()
        if name in items and n in epochs
    ]
    output.document(experiment=notebook.slug, item=name, split=split, epochs=history)
    went = Counter(row["outcome"] for row in history)
    passed, others = went.pop("passed", 0), outcomes(went) if len(went) > ("failed" in went) else ""
    title = f"{name}: passed in {passed} of {counted(len(history), 'epoch')}"
    output.line(f"{title} ({others})" if others else title, "bold")
    if len(history) > _ROWS:
        output.line(f"the last {_ROWS} of them; --json has all")
    rows = [_cells(row) for row in history[-_ROWS:]]
    table = align(["epoch", "verdict", "result", "metrics", "answer"], rows, ["epoch"])
    output.lines(shorten_end(line, output.width) for line in table)
    last = history[-1] if history else {}
    for key, value in last.get("metadata", {}).items():
        if key == "stderr":
            continue
        output.line(f"{key}: {shorten(str(value), output.width or _WIDTH)}")
    # What an optimizer hears: of what passed, too.
    for key in ("unmeasured", "error_message", "feedback"):
        if last.get(key):
            output.line(f"{key.partition('_')[0]} in epoch {last['epoch']}: {last[key]}")
    deaths = [(n, printed(items[name])) for n, items in traces.results.items() if name in items]
    for number, lines in [death for death in deaths if death[1]][-1:]:
        output.line(f"stderr in epoch {number}, the last lines:")
        output.lines(lines)


def _cells(row: Mapping[str, Any]) -> list[str]:
    metrics = ", ".join(f"{k} {figure(v)}" for k, v in row.get("metrics", {}).items())
    answer = (
        row.get("unmeasured")
        or row.get("error_message")
        or ", ".join(
            f"{key}={shorten(str(value), 30)}" for key, value in row.get("metadata", {}).items()
        )
    )
    return [str(row["epoch"]), row["verdict"], row["outcome"], metrics, shorten(answer, 70)]


def _item(name: str, ids: Sequence[str], what: str) -> str:
    """The id that is meant."""
    found = [name] if name in ids else [each for each in ids if each.startswith(name)]
    if len(found) == 1:
        return found[0]
    shown = ", ".join((found or ids)[:5]) or "none are recorded"
    many = f"{len(found)} items begin" if found else "no item begins"
    raise UsageError(f"{what}: {many} with {name!r}", hint=f"some ids: {shown}")


def run(
    context: Context, name: arguments.Name = None, split: arguments.Split = arguments.Scored.val
) -> None:
    """Say which items fail, flip or broke, and which modules got the feedback.

    From what was recorded; nothing is evaluated.

    \b
    autopilot diagnose run
    autopilot diagnose run classifier-1
    """
    traces, output = _traces(context, name, split), context.output
    found = traces.diagnosis()
    output.document(experiment=traces.notebook.slug, diagnosis=found)
    epochs = counted(len(traces.results), "epoch")
    output.line(f"{traces.notebook.slug}: {len(found.items)} {split} items over {epochs}", "bold")
    best = traces.notebook.best
    where = f"epoch {best.number}, the best" if best else "the best epoch"
    _ids(output, "never passed", found.always_failing)
    for title, ids in (("never measured", found.never_measured), ("never scored", found.unscored)):
        if ids:
            _ids(output, title, ids)
    if found.graded:
        text = f"graded by {traces.notebook.monitor[0]}, neither passed nor failed"
        output.line(f"{text}: {len(found.graded)}")
    _ids(output, "changed three times or more", found.flaky)
    _ids(output, f"passed at the baseline, not at {where}", found.regressed)
    _ids(output, f"failed at the baseline, passes at {where}", found.fixed)
    if found.changes:
        output.line("what each epoch did to the state before it:")
    if len(found.changes) > _CHANGES:
        output.line(f"  (the last {_CHANGES} of {len(found.changes)} epochs; --json has all)")
    for change in found.changes[-_CHANGES:]:
        broke = f", broke {len(change.broken)}" if change.broken else ""
        effect = f"fixed {len(change.fixed)}{broke}"
        if found.graded:
            effect = f"{len(change.better)} better, {len(change.worse)} worse"
        output.line(
            f"  epoch {change.epoch} ({change.verdict}): {effect}  {change.strategy}".rstrip()
        )
    if found.nodes:
        output.line("lines of feedback by module:")
    for node, row in sorted(found.nodes.items(), key=lambda pair: -sum(pair[1].values())):
        output.line(f"  {node}: {sum(row.values())} in {counted(len(row), 'epoch')}")
    if found.items:
        slug, of_split = traces.notebook.slug, "" if split == "val" else f" --split {split}"
        output.line(f"one item: autopilot trace inspect {slug} {found.items[0].id}{of_split}")
        output.line(f"draw it:  autopilot diagnose heatmap {slug}{of_split}")


def _ids(output: Output, title: str, ids: Sequence[str]) -> None:
    listed = f": {some(ids, _IDS, ', and')}" if ids else ""
    output.line(f"{title}: {len(ids)}{listed}")


def heatmap(
    context: Context,
    name: arguments.Name = None,
    split: arguments.Split = arguments.Scored.val,
    nodes: Annotated[bool, option("Modules by epochs: how much feedback each got.")] = False,
    count: Annotated[int, typer.Option("-n", min=1, help="At most so many rows.")] = 40,
) -> None:
    """Draw items by epochs, the most often failing first; or modules by epochs.

    What was not evaluated is a dot, which is not a failure: an epoch whose state was known has no
    results of its own.

    \b
    autopilot diagnose heatmap
    autopilot diagnose heatmap classifier-1 --nodes
    """
    traces, output = _traces(context, name, split), context.output
    notebook = traces.notebook
    numbers = [epoch.number for epoch in notebook.epochs]
    verdicts = {epoch.number: epoch.verdict for epoch in notebook.epochs}
    room = max((output.width or _WIDTH) - _NAME - 2, 10)
    shown = numbers[-room:]
    if nodes:
        rows = traces.nodes()
        output.document(experiment=notebook.slug, epochs=numbers, nodes=rows)
        most = max((n for row in rows.values() for n in row.values()), default=1)
        _axis(output, shown, numbers)
        for node, row in rows.items():
            shades = (-(-row.get(n, 0) * (len(_SHADES) - 1) // most) for n in shown)
            _row(output, node, "".join(_SHADES[shade] for shade in shades))
        output.line(f"darker: more lines of feedback in the epoch, at most {most}")
        return
    items = traces.items
    document = {item.id: {str(n): how for n, how in item.outcomes.items()} for item in items}
    output.document(experiment=notebook.slug, epochs=numbers, items=document)
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


def _traces(context: Context, name: str | None, split: str) -> Traces:
    traces = Traces(context.notebook(name), split)
    if not traces.results:
        raise ExperimentError(
            f"no {split} results of {traces.notebook.slug} are recorded here",
            hint="val is recorded by every epoch, test at the end; a clone gets them by fetching "
            "refs/notes/autopilot/*",
        )
    return traces


COMMANDS = {"collect": collect, "inspect": inspect}
DIAGNOSE = {"run": run, "heatmap": heatmap}
