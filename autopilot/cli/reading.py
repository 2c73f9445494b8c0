"""Commands that read experiments: log, show, diff, status, report. They take no lock."""

from __future__ import annotations

import contextlib
import gc
import os
import time
import webbrowser
from pathlib import Path
from typing import Annotated, Any

from autopilot.cli.arguments import Epoch, MaybeEpoch, Name, Stat, option
from autopilot.cli.context import Context
from autopilot.cli.output import Output
from autopilot.cli.pages import epoch as epoch_page
from autopilot.cli.pages import listing as pages
from autopilot.cli.pages.experiment import frontier_document, frontier_lines
from autopilot.cli.pages.progress import STYLES
from autopilot.core.figures import lower_note
from autopilot.errors import UsageError, translated_as
from autopilot.files import replacing
from autopilot.git.repository import Repository
from autopilot.text import whole
from autopilot.tracking.attribution import (
    candidate_of,
    candidates_of,
    named,
    recorded_states,
)
from autopilot.tracking.notebook import Notebook

_CHART_WIDTH, _SLICE_WIDTH = 100, 60
_SHOWN = 30


def log(
    context: Context,
    name: Name = None,
    graph: Annotated[
        bool, option("Draw the metric over the epochs, and over each number that is searched.")
    ] = False,
    count: Annotated[
        int | None,
        option(
            f"Only the last so many epochs; in a table {_SHOWN} unless given.",
            "--max-count",
            "-n",
            min=1,
        ),
    ] = None,
    show_all: Annotated[bool, option("All epochs in the table.", "--all")] = False,
    candidates: Annotated[
        bool, option("Candidates too, of epochs that have several.", "-v")
    ] = False,
    reverse: Annotated[bool, option("Newest epoch first.")] = False,
    frontier: Annotated[
        bool,
        option(
            "Instead, the states that no other one is as good as on all items, and better on one."
        ),
    ] = False,
) -> None:
    """Show the epochs of an experiment.

    Scores, verdicts, strategies, commits. The table has the last 30; --graph and --json have all.

    \b
    autopilot log                  the newest experiment
    autopilot log classifier-1 -n 20
    autopilot log --graph
    autopilot log -v
    autopilot log --frontier       what --select frontier samples
    """
    if frontier:
        others = {"--graph": graph, "-n": count, "-v": candidates, "--reverse": reverse}
        for other in (name for name, is_given in others.items() if is_given):
            raise UsageError(f"--frontier and {other} do not go together", hint="leave one out")
        notebook, output = context.notebook(name), context.output
        states = recorded_states(notebook)
        output.document(pages.overview(notebook), frontier=frontier_document(states))
        output.lines([*pages.head(notebook), *frontier_lines(notebook, states, show_all=show_all)])
        return
    if count and show_all:
        raise UsageError("-n and --all do not go together", hint="leave one of them out")
    notebook, output = context.notebook(name), context.output
    is_short = not (count or show_all or output.as_json)
    epochs = notebook.newest(count or _SHOWN) if count or is_short else notebook.epochs
    if candidates:
        epochs = [each for x in epochs for each in (x, *candidates_of(notebook, x.number))]
    if output.as_json:
        ordered = epochs[::-1] if reverse else epochs
        output.document(pages.overview(notebook), log=epoch_page.epochs(notebook, ordered))
        return
    output.lines(pages.head(notebook))
    if graph:
        points = notebook.index.epochs[-(count or 0) :]
        width = min(output.width or _CHART_WIDTH, _CHART_WIDTH)
        monitor, mode = notebook.monitor
        output.lines(pages.chart(points, f"val {monitor}{lower_note(mode)}", width=width))
        output.lines(pages.slices(notebook, width=min(width, _SLICE_WIDTH)))
    elif epochs:
        heading, *rows = pages.table(notebook, epochs, output.width)
        output.line(heading, "bold")
        lines = list(zip(rows, epochs, strict=True))
        for line, epoch in lines[::-1] if reverse else lines:
            output.line(line, STYLES[epoch.verdict])
        earlier = epochs[0].number
        if is_short and earlier:
            which = "1 earlier epoch is" if earlier == 1 else f"{earlier:,} earlier epochs are"
            output.line(f"{which} not shown: autopilot log {notebook.slug} --all")
    output.lines(pages.foot(notebook))


def show(
    context: Context,
    name: Name = None,
    epoch: Epoch = "last",
    stat: Stat = False,
    candidate: Annotated[
        int | None, option("One of several candidates of the epoch.", "-c", min=1, metavar="K")
    ] = None,
    prompt: Annotated[
        bool,
        option(
            "Print its agent's prompts instead, whole; the instructions that are the same "
            "before each are left out."
        ),
    ] = False,
) -> None:
    """Show one epoch.

    The change, its reason, scores and verdict, and the failures.

    \b
    autopilot show                 the last epoch of the newest experiment
    autopilot show 7               epoch 7 of the newest experiment
    autopilot show classifier-1 7
    autopilot show best --stat
    autopilot show 7 -c 2          its second candidate
    autopilot show 7 --prompt      what the agent was asked
    """
    notebook, output = context.notebook(name), context.output
    found = named(notebook, epoch)
    if candidate is not None:
        found = candidate_of(notebook, found.number, candidate)
    if prompt:
        asked = notebook.questions(found.number)
        output.lines(epoch_page.question_lines(notebook, found, asked))
        output.document(epoch_page.questions(notebook, found, asked))
        return
    before, after = notebook.before(found.number), notebook.after(found.number)
    if output.as_json:
        output.document(epoch_page.document(notebook, found, for_agent=output.is_for_agent))
        return
    first, *lines = epoch_page.lines(notebook, found, output.width)
    output.line(first, "yellow")
    for line in lines:
        output.line(line, STYLES[found.verdict] if line.startswith(f"{found.verdict}: ") else "")
    if before != after:
        _print_picture(output, notebook, before, after, stat=stat)


def diff(
    context: Context,
    name: Name = None,
    first: MaybeEpoch = None,
    second: MaybeEpoch = None,
    stat: Stat = False,
) -> None:
    """Show the changes of an experiment or an epoch.

    From the base to the best, in one epoch, or between the states of two. In a pipe it is exactly
    the patch.

    \b
    autopilot diff | git apply     take the best state into your working tree
    autopilot diff 7               the changes of epoch 7
    autopilot diff classifier-1 3 best --stat
    """
    notebook, output = context.notebook(name), context.output
    change = epoch_page.change(notebook, first, second)
    if output.as_json:
        output.document(epoch_page.change_document(notebook, change))
        return
    if notebook.counts(change.old, change.new):
        print_change(output, notebook, change.title, change.old, change.new, stat=stat)
    else:
        output.warning(f"{change.title}: no difference")


def status(context: Context, name: Name = None) -> None:
    """Show where the experiments stand.

    Of one, all about it and what to type next.

    \b
    autopilot status
    autopilot status classifier-1
    """
    output = context.output
    if name:
        notebook = context.notebook(name)
        if output.as_json:
            more: dict[str, Any] = {"manifest": notebook.manifest, "noise": notebook.noise}
            if notebook.last is not None:
                more["test"] = notebook.test_gain(notebook.last.best_epoch)
            output.document(pages.overview(notebook) | more)
            return
        output.lines(pages.status_page(notebook))
        return
    found = pages.rows(context.repository(), context.project, pages.overview)
    if output.as_json:
        output.document(experiments=found)
        return
    if not found:
        output.lines(pages.none_yet(context.project))
        return
    output.lines(pages.status_table(found, time.time(), output.width))
    left = ("finished", "stopped", "waiting", "running", "unreadable")
    if any(row["state"] not in left for row in found):
        output.line("go on with one: autopilot resume EXPERIMENT")


def print_change(
    output: Output, notebook: Notebook, title: str, old: str, new: str, *, stat: bool
) -> None:
    """Shows a change at a terminal; in a pipe prints exactly the patch."""
    if output.is_terminal:
        output.line(title, "yellow")
    if output.is_terminal or stat:
        _print_picture(output, notebook, old, new, stat=stat)
    else:
        output.raw(notebook.patch(old, new))


def _print_picture(output: Output, notebook: Notebook, old: str, new: str, *, stat: bool) -> None:
    """A diff as the user's own git shows it."""
    color = "--color=always" if output.is_terminal and output.color else "--no-color"
    options = [color, *([f"--stat={output.width or _CHART_WIDTH}"] if stat else [])]
    output.raw(notebook.picture(old, new, *options))


def report(
    context: Context,
    name: Name = None,
    compare: Annotated[
        tuple[str, str] | None, option("Two experiments in one page.", metavar="A B")
    ] = None,
    md: Annotated[bool, option("A short summary in Markdown, on stdout without -o.")] = False,
    to: Annotated[
        Path | None, option("Where; else in the git folder.", "-o", "--output", metavar="FILE")
    ] = None,
    open_it: Annotated[bool, option("Open it in the browser.", "--open")] = False,
    serve: Annotated[bool, option("Keep it up to date in the browser, until Ctrl-C.")] = False,
    port: Annotated[int, option("Of --serve; a free one unless given.", min=0)] = 0,
) -> None:
    """Write an experiment as a page to read in a browser.

    One HTML file that loads nothing: curves, the tree, each epoch's diff and reasons, items,
    cost, memory. It goes into the git folder, where it dirties nothing, unless -o names a file.
    With --md a short summary is printed instead, as CI shows it beside a job. With --serve nothing
    is written: a server on 127.0.0.1 shows the page with the run as it goes on.

    \b
    autopilot report --open
    autopilot report --serve --open
    autopilot report classifier-1 -o classifier-1.html
    autopilot report --compare classifier-1 classifier-2
    autopilot report --md >> "$GITHUB_STEP_SUMMARY"
    """
    if compare and (name or md):
        extra = f"the experiment {name}" if name else "--md"
        raise UsageError(f"--compare and {extra} do not go together", hint="leave one of them out")
    if md and open_it:
        raise UsageError("--md and --open do not go together", hint="leave one of them out")
    for other, is_given in (("--md", md), ("--compare", compare), ("-o", to)):
        if serve and is_given:
            raise UsageError(f"--serve and {other} do not go together", hint="leave one out")
    if serve:
        _serve(context, name, port, open_it=open_it)
        return
    if md:
        _markdown(context, name, to)
        return
    _page(context, [*map(context.full_slug, compare or ())] or [name], to, open_it=open_it)


def _serve(context: Context, name: str | None, port: int, *, open_it: bool) -> None:
    from autopilot.report.serving import ReportServer

    notebook, output = context.notebook(name), context.output
    with ReportServer(notebook.repo.workdir, notebook.slug, port) as server:
        output.line(f"{notebook.slug}: {server.url} (Ctrl-C ends the server, and no run)")
        output.document(experiment=notebook.slug, url=server.url)
        if open_it:
            _open(output, server.url)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


def _open(output: Output, url: str) -> None:
    if not webbrowser.open(url):
        output.warning(f"no browser was found; open it by hand: {url}")


def _markdown(context: Context, name: str | None, to: Path | None) -> None:
    # These are loaded for a report alone: `status` and `log` start without them.
    from autopilot.core.types import datum_document
    from autopilot.report.rendering import best_items, markdown

    notebook, output = context.notebook(name), context.output
    text = whole(markdown(notebook, with_errors=not output.is_for_agent))
    if to is None:
        if not output.as_json:
            output.raw(text.encode())
        document: dict[str, object] = {"experiment": notebook.slug, "markdown": text}
        if not output.is_for_agent:
            document["items"] = [datum_document(item) for item in best_items(notebook)]
        output.document(document)
        return
    path = _place(context, to, notebook.layout.report(notebook.repo).with_suffix(".md").name)
    _write(path, text)
    output.line(f"{notebook.slug}: wrote {path}")
    _tell(output, notebook.repo, path)
    output.document(experiment=notebook.slug, path=str(path))


def _page(context: Context, names: list[str | None], to: Path | None, *, open_it: bool) -> None:
    from autopilot.report.collection import between, collect
    from autopilot.report.contents import DiffPool
    from autopilot.report.rendering import left_out, page

    gc.set_threshold(50_000, 20, 50)  # of many records, that search would be a sixth of the time
    output = context.output
    notebooks = [context.notebook(name) for name in names]
    repo, slugs = notebooks[0].repo, [notebook.slug for notebook in notebooks]
    pool = DiffPool(repo)
    # First, so that the limits on diffs leave it in.
    compared = between(notebooks[0], notebooks[1], pool) if len(notebooks) > 1 else None
    reports = [collect(notebook, pool) for notebook in notebooks]
    text = whole(page(reports, compared))
    path = notebooks[0].layout.report(repo)
    path = path.with_stem("..".join(n.layout.report(repo).stem for n in notebooks))
    path = _place(context, to, path.name) if to else path
    _write(path, text)
    size = len(text.encode())
    weight = f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{max(size // 1000, 1)} kB"
    judged = [max(len(report.rows) - 1, 0) for report in reports]
    epochs = [f"{n:,} epoch{'' if n == 1 else 's'}" for n in judged]
    text = ", ".join(f"{slug}: {each}" for slug, each in zip(slugs, epochs, strict=True))
    output.line(f"{text}; wrote {path} ({weight})")
    missing = left_out(reports)
    output.lines(f"left out: {sentence}" for sentence in missing)
    if to:
        _tell(output, repo, path)
    if open_it:
        _open(output, path.as_uri())
    else:
        output.line(f"read it: {path.as_uri()}")
    output.document(experiments=slugs, path=str(path), bytes=size, left_out=missing)


def _place(context: Context, to: Path, name: str) -> Path:
    path = Path(os.path.abspath(context.working_folder() / to))
    return path / name if path.is_dir() else path


def _write(path: Path, text: str) -> None:
    """Whole or not at all: a browser that has it open reads no half of it."""
    with translated_as(UsageError, f"cannot write {path}", "name another file with -o"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as created:
            created.write_bytes(text.encode())


def _tell(output: Output, repo: Repository, path: Path) -> None:
    """Says when the file is one that git sees."""
    if not path.is_relative_to(repo.workdir):
        return
    name = path.relative_to(repo.workdir).as_posix()
    if not name.startswith(".git/") and not repo.is_ignored(name):
        output.line(f"note: {name} is in your repository and not ignored: git status names it")
