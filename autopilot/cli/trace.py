"""Commands on per-item results: collect them, inspect one item."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autopilot.cli import measuring, running
from autopilot.cli.context import Context
from autopilot.cli.diagnose import Split
from autopilot.cli.pages.listing import shorten_end
from autopilot.cli.reading import SlugOption
from autopilot.core.figures import figure, outcomes
from autopilot.errors import ExperimentError, UsageError
from autopilot.text import align, as_json, counted, jsonable, shorten

if TYPE_CHECKING:
    from autopilot.tracking.notebook import Notebook

_WIDTH = 100
_ROWS = 40


def collect(
    context: Context,
    target: running.Target = None,
    slug: SlugOption = None,
    epoch: Annotated[
        str | None,
        typer.Option("--epoch", metavar="EPOCH", help="Its recorded results; the best one's."),
    ] = None,
    now: Annotated[
        bool, typer.Option("--now", help="Measure the epoch's state instead of reading notes.")
    ] = False,
    live: measuring.Live = False,
    split: Split = "val",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="JSON Lines; stdout if not.")
    ] = None,
    hparam: running.Hparams = None,
    link: running.Links = None,
) -> None:
    """Collect per-item results as JSON Lines: of an epoch, or of your checkout now.

    With a TARGET, or a project and no experiment, the checkout is measured as it is. Each line has
    the item's id, its outcome, metrics, metadata and feedback.

    \b
    autopilot trace collect -e classifier-1 --epoch best -o best.jsonl
    autopilot trace collect -e classifier-1 --now
    autopilot trace collect support/classifier.py
    """
    from autopilot.core.types import count_outcomes, datum_document
    from autopilot.data.jsonl import write_jsonl

    place = None if out is None else Path(os.path.abspath(context.working_folder() / out))
    measures = target is not None or now or live
    if not measures and slug is None and epoch is None and context.project:
        measures = True
    if measures:
        notebook, found, measured = measuring.measure_now(
            context,
            split,
            target,
            slug,
            epoch or ("best" if now or live else None),
            live=live,
            hparam=hparam,
            link=link,
        )
        items = list(measured.items.get(split, ()))
    else:
        notebook = context.notebook(slug)
        found = notebook.find(epoch or "best").number
        items = notebook.items(found, split)
    what = "your checkout" if notebook is None else f"{notebook.slug} epoch {found}"
    if not items:
        raise ExperimentError(
            f"there are no {split} results of {what}", hint=_elsewhere(notebook, found, split)
        )
    # None: nobody said whether it passed.
    own = {"split": split, "epoch": found, "success": None}
    rows = [own | datum_document(item) for item in items]
    output = context.output
    if place is not None:
        write_jsonl(place, rows)
        counts = outcomes(count_outcomes(items))
        output.line(f"{place}: {counted(len(rows), 'result')} of {what}, {split}: {counts}")
    elif not output.as_json:
        output.raw(b"".join(as_json(jsonable(row)).encode() + b"\n" for row in rows))
    slug_ = notebook.slug if notebook else None
    output.document(
        {
            "experiment": slug_,
            "epoch": found,
            "split": split,
            "file": place,
            "outcomes": count_outcomes(items),
            "items": None if place else rows,
        }
    )


def _elsewhere(notebook: Notebook | None, epoch: int | None, split: str) -> str:
    if notebook is None or epoch is None:
        return f"define {split}_dataloader()"
    from autopilot.core.records.record import MetricsRecord
    from autopilot.tracking.journal import Journal

    records = Journal(notebook.repo, notebook.layout).read_on(
        notebook.epoch(epoch).commit, MetricsRecord
    )
    known = [r.reused for r in records if r.epoch == epoch and r.reused is not None]
    if known:
        return f"its state was measured in epoch {known[0]}: --epoch {known[0]}"
    return f"--now measures it; train results are not kept, and {split} may not be there"


def inspect(
    context: Context,
    item: Annotated[str, typer.Argument(metavar="ITEM", help="An item's id, or its beginning.")],
    slug: SlugOption = None,
    split: Split = "val",
) -> None:
    """Show one item over the epochs: how it went, its metrics, the feedback on it.

    \b
    autopilot trace inspect t17
    autopilot trace inspect t17 -e classifier-1
    """
    from autopilot.core.types import datum_document
    from autopilot.tracking.diagnosis import Traces

    notebook, output = context.notebook(slug), context.output
    traces = Traces(notebook, split)
    name = _item(item, [each.id for each in traces.items], f"{notebook.slug}, {split}")
    epochs = {epoch.number: epoch for epoch in notebook.epochs}
    history = [
        {"epoch": n, "verdict": epochs[n].verdict, **datum_document(items[name])}
        for n, items in traces.results.items()
        if name in items and n in epochs
    ]
    output.document({"experiment": notebook.slug, "item": name, "split": split, "epochs": history})
    went = Counter(row["outcome"] for row in history)
    passed, others = went.pop("passed", 0), outcomes(went) if len(went) > ("failed" in went) else ""
    told = f"{name}: passed in {passed} of {counted(len(history), 'epoch')}"
    output.line(f"{told} ({others})" if others else told, "bold")
    if len(history) > _ROWS:
        output.line(f"the last {_ROWS} of them; --json has all")
    rows = [_cells(row) for row in history[-_ROWS:]]
    for line in align(["epoch", "verdict", "result", "metrics", "answer"], rows, ["epoch"]):
        output.line(shorten_end(line, output.width))
    last = history[-1]
    for key, value in last.get("metadata", {}).items():
        output.line(f"{key}: {shorten(str(value), output.width or _WIDTH)}")
    # What an optimizer hears: of what passed, too.
    for key in ("unmeasured", "error_message", "feedback"):
        if last.get(key):
            output.line(f"{key.partition('_')[0]} in epoch {last['epoch']}: {last[key]}")


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
    """The id that is meant.

    Raises:
        UsageError: no item, or several, have an id that begins so.
    """
    found = [name] if name in ids else [each for each in ids if each.startswith(name)]
    if len(found) == 1:
        return found[0]
    shown = ", ".join((found or ids)[:5]) or "none are recorded"
    many = f"{len(found)} items begin" if found else "no item begins"
    raise UsageError(f"{what}: {many} with {name!r}", hint=f"some ids: {shown}")


COMMANDS = {"collect": collect, "inspect": inspect}
