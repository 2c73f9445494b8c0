"""autopilot store branch and merge: new experiments from the states of others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from autopilot.cli.context import Context
from autopilot.cli.output import Output
from autopilot.cli.reading import SlugOption
from autopilot.cli.running import Hypothesis, Idea
from autopilot.core.figures import progressed

if TYPE_CHECKING:
    from autopilot.tracking.holding import Fork
    from autopilot.tracking.notebook import Notebook


def branch(
    context: Context,
    name: Annotated[str, typer.Argument(metavar="NEWSLUG", help="The new experiment's name.")],
    state: Annotated[
        str, typer.Option("--from", metavar="EPOCH", help="The epoch to start from, kept or not.")
    ] = "best",
    slug: SlugOption = None,
    idea: Idea = "",
    hypothesis: Hypothesis = "",
) -> None:
    """Fork an experiment from any epoch.

    The fork has the same target, arguments, options and seed, and nothing else: its baseline is
    measured anew, its memory is empty. Nothing is run; `autopilot resume NEWSLUG` goes on.

    \b
    autopilot store branch classifier-1b --from 3 -e classifier-1
    autopilot resume classifier-1b
    """
    from autopilot.tracking.holding import fork

    notebook, output = context.notebook(slug), context.output
    epoch = notebook.find(state)
    made = fork(notebook, epoch.number, context.full_slug(name), idea=idea, hypothesis=hypothesis)
    monitor, mode = notebook.monitor
    scored = progressed(monitor, epoch.value, None, mode)
    output.line(f"{made.slug}: forked from {notebook.slug}, epoch {epoch.number} ({scored})")
    _go_on(output, notebook, made)
    output.document(_fork(notebook, made, epoch.number))


def merge(
    context: Context,
    other: Annotated[str, typer.Argument(metavar="OTHER", help="The experiment to merge.")],
    slug: SlugOption = None,
    name: Annotated[
        str | None,
        typer.Option("--as", metavar="NEWSLUG", help="The new one's name; SLUG-merged-1 if not."),
    ] = None,
    idea: Idea = "",
    hypothesis: Hypothesis = "",
) -> None:
    """Merge the best states of two experiments into a new one.

    It is a three-way merge, as `git merge` does it. Neither of the two changes. If both changed
    the same lines, the files are named and nothing is written. The merged state is not measured
    yet: `autopilot resume NEWSLUG` does that first.

    \b
    autopilot store merge classifier-2 -e classifier-1
    autopilot store merge classifier-2 -e classifier-1 --as both
    """
    from autopilot.tracking.holding import merge as merge_bests
    from autopilot.tracking.layout import free_slugs
    from autopilot.tracking.notebook import Notebook

    ours, output = context.notebook(slug), context.output
    theirs = Notebook(ours.repo, context.full_slug(other))
    project, _, stem = ours.slug.rpartition("/")
    new = context.full_slug(name) if name else ""
    new = new or next(free_slugs(ours.repo, f"{stem}-merged", project or None))
    made = merge_bests(ours, theirs, new, idea=idea, hypothesis=hypothesis)
    if made is None:
        output.line(f"nothing to merge: {ours.slug} has all that {theirs.slug} changed")
        output.document({"experiment": None, "merged": [ours.slug, theirs.slug]})
        return
    output.line(f"{made.slug}: merged from {ours.slug} and {theirs.slug}, without conflict")
    if theirs.manifest.target != ours.manifest.target:
        output.line(f"note: it runs the target of {ours.slug}: {ours.manifest.target}")
    _go_on(output, ours, made)
    document = _fork(ours, made, ours.last.best_epoch if ours.last else 0)
    output.document(document | {"merged": [ours.slug, theirs.slug]})


def _go_on(output: Output, source: Notebook, made: Fork) -> None:
    output.line(f"start commit {made.start[:7]} on autopilot/{made.slug}; nothing was run")
    if source.manifest.target:
        output.line(f"go on: autopilot resume {made.slug}")
    else:
        output.line(
            f"go on in your program: Trainer(experiment=Experiment(GitStore({made.slug!r})))"
        )


def _fork(source: Notebook, made: Fork, epoch: int) -> dict[str, Any]:
    return {
        "experiment": made.slug,
        "branch": f"autopilot/{made.slug}",
        "start": made.start,
        "base": made.base,
        "forked_from": {"experiment": source.slug, "epoch": epoch},
    }
