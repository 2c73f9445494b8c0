"""Commands that read experiments: log, show, diff, status. They take no lock and change nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autopilot.cli.completion import experiment_names
from autopilot.cli.context import Context
from autopilot.cli.output import Output
from autopilot.core.figures import lower_note

if TYPE_CHECKING:
    from autopilot.tracking.notebook import Notebook

Experiment = Annotated[
    str | None,
    typer.Argument(
        metavar="SLUG",
        help="The experiment; the newest one if none is named.",
        autocompletion=experiment_names,
    ),
]
SlugOption = Annotated[
    str | None,
    typer.Option("--slug", "-e", help="The experiment; the newest one if none is named."),
]
_EPOCH = "A number, best, last, baseline, a tag, or a commit of the experiment's branch"
_WORDS = ("best", "last", "baseline")
_CHART_WIDTH = 100


def log(
    context: Context,
    slug: Experiment = None,
    graph: Annotated[
        bool, typer.Option("--graph", help="Draw the metric over the epochs instead of a table.")
    ] = False,
    count: Annotated[
        int | None, typer.Option("--max-count", "-n", min=1, help="Only the last so many epochs.")
    ] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="Newest epoch first.")] = False,
) -> None:
    """Show the epochs of an experiment.

    Scores, verdicts, strategies, commits.

    \b
    autopilot log                  the newest experiment
    autopilot log classifier-1 -n 20
    autopilot log --graph
    """
    from autopilot.cli.pages import epoch as epoch_page
    from autopilot.cli.pages import listing as pages
    from autopilot.cli.pages.progress import STYLES

    notebook, output = _notebook(context, slug), context.output
    epochs = notebook.epochs[-count:] if count else notebook.epochs
    if output.as_json:
        ordered = epochs[::-1] if reverse else epochs
        output.document(pages.overview(notebook) | {"log": epoch_page.epochs(notebook, ordered)})
        return
    for line in pages.head(notebook):
        output.line(line)
    if graph:
        from autopilot.cli.pages.chart import Point, chart

        points = [Point(e.number, e.value, e.best, e.verdict != "rejected") for e in epochs]
        width = min(output.width or _CHART_WIDTH, _CHART_WIDTH)
        monitor, mode = notebook.monitor
        for line in chart(points, f"val {monitor}{lower_note(mode)}", width=width):
            output.line(line)
    elif epochs:
        heading, *rows = pages.table(notebook, epochs, output.width)
        output.line(heading, "bold")
        lines = list(zip(rows, epochs, strict=True))
        for line, epoch in lines[::-1] if reverse else lines:
            output.line(line, STYLES[epoch.verdict])
    for line in pages.foot(notebook):
        output.line(line)


def show(
    context: Context,
    epoch: Annotated[str, typer.Argument(metavar="EPOCH", help=f"{_EPOCH}.")] = "last",
    slug: SlugOption = None,
    stat: Annotated[
        bool, typer.Option("--stat", help="Name the changed files instead of the changes.")
    ] = False,
) -> None:
    """Show one epoch.

    What was changed, why, how it scored, the verdict, and what failed.

    \b
    autopilot show                 the last epoch of the newest experiment
    autopilot show 7 -e classifier-1
    autopilot show best --stat
    """
    from autopilot.cli.pages import epoch as epoch_page
    from autopilot.cli.pages.progress import STYLES

    notebook, output = _notebook(context, slug, epoch), context.output
    found = notebook.find(epoch)
    before, after = notebook.before(found.number), notebook.after(found.number)
    if output.as_json:
        output.document(epoch_page.document(notebook, found))
        return
    first, *lines = epoch_page.lines(notebook, found, output.width)
    output.line(first, "yellow")
    for line in lines:
        output.line(line, STYLES[found.verdict] if line.startswith(f"{found.verdict}: ") else "")
    if before != after:
        _print_picture(output, notebook, before, after, stat=stat)


def diff(
    context: Context,
    first: Annotated[str | None, typer.Argument(metavar="EPOCH", help=f"{_EPOCH}.")] = None,
    second: Annotated[
        str | None, typer.Argument(metavar="EPOCH", help="Compare the first with this one.")
    ] = None,
    slug: SlugOption = None,
    stat: Annotated[
        bool, typer.Option("--stat", help="Name the changed files instead of the changes.")
    ] = False,
) -> None:
    """Show what changed.

    From the base to the best, in one epoch, or between the states of two epochs. In a pipe it
    is exactly the patch.

    \b
    autopilot diff | git apply     take the best state into your working tree
    autopilot diff 7               what epoch 7 did
    autopilot diff 3 best -e classifier-1 --stat
    """
    from autopilot.cli.pages import epoch as epoch_page

    notebook, output = _notebook(context, slug, first), context.output
    change = epoch_page.change(notebook, first, second)
    if output.as_json:
        output.document(epoch_page.change_document(notebook, change))
        return
    if not notebook.counts(change.old, change.new):
        output.warning(f"{change.title}: no difference")
        return
    if output.is_terminal:
        output.line(change.title, "yellow")
    if output.is_terminal or stat:
        _print_picture(output, notebook, change.old, change.new, stat=stat)
    else:
        output.raw(notebook.patch(change.old, change.new))


def status(context: Context, slug: Experiment = None) -> None:
    """Show where the experiments stand.

    Of one, all about it and what to type next.

    \b
    autopilot status
    autopilot status classifier-1
    """
    from autopilot.cli.pages import listing as pages

    output = context.output
    if slug:
        notebook = _notebook(context, slug)
        if output.as_json:
            more: dict[str, Any] = {"manifest": notebook.manifest, "noise": notebook.noise}
            if notebook.last is not None:
                more["test"] = notebook.test_gain(notebook.last.best_epoch)
            output.document(pages.overview(notebook) | more)
            return
        for line in pages.status_page(notebook):
            output.line(line)
        return
    found = pages.rows(context.repository(), context.project, pages.overview)
    if output.as_json:
        output.document({"experiments": found})
        return
    if not found:
        for line in pages.none_yet(context.project):
            output.line(line)
        return
    for line in pages.status_table(found, time.time(), output.width):
        output.line(line)
    if any(row["state"] not in ("finished", "stopped", "running", "unreadable") for row in found):
        output.line("go on with one: autopilot resume EXPERIMENT")


def _notebook(context: Context, slug: str | None, epoch: str | None = None) -> Notebook:
    """The experiment that is named, or that the epoch belongs to, or the newest."""
    from autopilot.tracking.finding import experiment_of, latest
    from autopilot.tracking.notebook import Notebook

    repo = context.repository()
    if slug:
        return Notebook(repo, context.full_slug(slug))
    by_itself = epoch is None or epoch in _WORDS or (epoch.isdigit() and len(epoch) < 7)
    owner = None if epoch is None or by_itself else experiment_of(repo, epoch)
    return Notebook(repo, owner or latest(repo, context.project))


def _print_picture(output: Output, notebook: Notebook, old: str, new: str, *, stat: bool) -> None:
    """A diff as the user's own git shows it."""
    color = "--color=always" if output.is_terminal and output.color else "--no-color"
    options = [color, *([f"--stat={output.width or _CHART_WIDTH}"] if stat else [])]
    output.raw(notebook.picture(old, new, *options))
