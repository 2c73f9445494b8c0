"""autopilot report: an experiment as a page for the browser, or as Markdown."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autopilot.cli.context import Context
from autopilot.cli.output import Output
from autopilot.cli.reading import Experiment
from autopilot.text import whole

if TYPE_CHECKING:
    from autopilot.git.repository import Repository


def report(
    context: Context,
    slug: Experiment = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option("--compare", metavar="A B", help="Two experiments in one page."),
    ] = None,
    md: Annotated[
        bool, typer.Option("--md", help="A short summary in Markdown, on stdout without -o.")
    ] = False,
    to: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Where; else in the git folder."),
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write an experiment as a page to read in a browser.

    One HTML file that loads nothing: curves, the tree, each epoch's diff and reasons, items,
    cost, memory. It goes into the git folder, where it dirties nothing, unless -o names a file.
    With --md a short summary is printed instead, as CI shows it beside a job.

    \b
    autopilot report --open
    autopilot report classifier-1 -o classifier-1.html
    autopilot report --compare classifier-1 classifier-2
    autopilot report --md >> "$GITHUB_STEP_SUMMARY"
    """
    from autopilot.errors import UsageError

    if compare and (slug or md):
        extra = f"the experiment {slug}" if slug else "--md"
        raise UsageError(f"--compare and {extra} do not go together", hint="leave one of them out")
    if md and open_it:
        raise UsageError("--md and --open do not go together", hint="leave one of them out")
    if md:
        _markdown(context, slug, to)
        return
    _page(context, list(compare or [slug]), to, open_it=open_it)


def _markdown(context: Context, slug: str | None, to: Path | None) -> None:
    from autopilot.core.types import datum_document
    from autopilot.report.markdown import best_items, markdown
    from autopilot.tracking.layout import Layout

    notebook, output = context.notebook(slug), context.output
    text = whole(markdown(notebook))
    if to is None:
        if not output.as_json:
            output.raw(text.encode())
        items = [datum_document(item) for item in best_items(notebook)]
        output.document({"experiment": notebook.slug, "markdown": text, "items": items})
        return
    name = Layout(notebook.slug).report(notebook.repo).with_suffix(".md").name
    path = _place(context, to, name)
    _write(path, text)
    output.line(f"{notebook.slug}: wrote {path}")
    _tell(output, notebook.repo, path)
    output.document({"experiment": notebook.slug, "path": str(path)})


def _page(context: Context, slugs: list[str | None], to: Path | None, *, open_it: bool) -> None:
    from autopilot.report.collection import between, collect
    from autopilot.report.contents import DiffPool
    from autopilot.report.page import left_out, page
    from autopilot.tracking.layout import Layout

    output = context.output
    notebooks = [context.notebook(slug) for slug in slugs]
    repo, names = notebooks[0].repo, [notebook.slug for notebook in notebooks]
    pool = DiffPool(repo)
    # First, so that the limits on diffs leave it in.
    compared = between(notebooks[0], notebooks[1], pool) if len(notebooks) > 1 else None
    reports = [collect(notebook, pool) for notebook in notebooks]
    text = whole(page(reports, compared))
    pages = [Layout(name).report(repo) for name in names]
    path = pages[0].with_stem("..".join(page.stem for page in pages))
    path = _place(context, to, path.name) if to else path
    _write(path, text)
    size = len(text.encode())
    epochs = ", ".join(
        f"{n.slug}: {_epochs(len(r.rows))}" for n, r in zip(notebooks, reports, strict=True)
    )
    output.line(f"{epochs}; wrote {path} ({_size(size)})")
    missing = left_out(reports)
    for sentence in missing:
        output.line(f"left out: {sentence}")
    if to:
        _tell(output, repo, path)
    if open_it:
        _open(output, path)
    else:
        output.line(f"read it: {path.as_uri()}")
    output.document({"experiments": names, "path": str(path), "bytes": size, "left_out": missing})


def _epochs(stories: int) -> str:
    judged = max(stories - 1, 0)
    return f"{judged:,} epoch{'' if judged == 1 else 's'}"


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{max(size // 1000, 1)} kB"


def _place(context: Context, to: Path, name: str) -> Path:
    path = Path(os.path.abspath(context.working_folder() / to))
    return path / name if path.is_dir() else path


def _write(path: Path, text: str) -> None:
    """Whole or not at all: a browser that has it open reads no half of it."""
    from autopilot.errors import UsageError

    new = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(text.encode())
        new.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink()
        raise UsageError(
            f"cannot write {path}: {error.strerror}", hint="name another file with -o"
        ) from error


def _tell(output: Output, repo: Repository, path: Path) -> None:
    """Says when the file is one that git sees."""
    if not path.is_relative_to(repo.workdir):
        return
    name = path.relative_to(repo.workdir).as_posix()
    if not name.startswith(".git/") and not repo.is_ignored(name):
        output.line(f"note: {name} is in your repository and not ignored: git status names it")


def _open(output: Output, path: Path) -> None:
    import webbrowser

    if not webbrowser.open(path.as_uri()):
        output.warning(f"no browser was found; open it by hand: {path.as_uri()}")
