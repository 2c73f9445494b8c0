"""Commands on experiments as a whole: create, list, show, compare, delete, export, decide."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autopilot.cli import running
from autopilot.cli.completion import experiment_names
from autopilot.cli.context import Context
from autopilot.cli.output import own_stdout
from autopilot.cli.reading import Experiment

if TYPE_CHECKING:
    from autopilot.tracking.notebook import Notebook

Named = Annotated[
    str, typer.Argument(metavar="SLUG", help="The experiment.", autocompletion=experiment_names)
]


class Decision(StrEnum):
    """What a person decides."""

    promote = "promote"
    reject = "reject"


def create(
    context: Context,
    slug: Annotated[str, typer.Argument(metavar="SLUG", help="The new experiment's name.")],
    target: running.Target = None,
    idea: running.Idea = "",
    hypothesis: running.Hypothesis = "",
    max_epochs: running.MaxEpochs = None,
    monitor: running.Monitor = None,
    seed: running.Seed = 0,
    patience: running.Patience = None,
    hparam: running.Hparams = None,
    link: running.Links = None,
    in_place: running.InPlace = False,
    include_dirty: running.IncludeDirty = False,
) -> None:
    """Begin an experiment without running it.

    Its branch, start commit and manifest are written. Everything is checked as `autopilot run`
    does. `autopilot resume SLUG` measures the baseline and goes on.

    \b
    autopilot experiment create spelling support/classifier.py --idea "tolerate typos"
    autopilot resume spelling
    """
    from autopilot.engine.request import Options, Request
    from autopilot.engine.session import create as begin

    subject = context.subject(target, hparam)
    request = Request(
        folder=subject.folder,
        target=subject.target,
        slug=slug,
        project=context.project,
        seed=seed,
        hparams=subject.hparams,
        options=Options(max_epochs=max_epochs, monitor=monitor, patience=patience),
        in_place=in_place,
        links=tuple(link or ()),
        include_dirty=include_dirty,
        idea=idea,
        hypothesis=hypothesis,
    )
    with own_stdout(context.output) as output:
        session = begin(request)
        for note in session.notes:
            output.line(f"note: {note}")
        base = f"{session.manifest.base[:7]} ({session.manifest.base_branch})"
        output.line(f"{session.slug}: created on autopilot/{session.slug}, base {base}")
        output.line(f"nothing was run. Go on: autopilot resume {session.slug}")
        output.document(
            {
                "experiment": session.slug,
                "branch": f"autopilot/{session.slug}",
                "start": session.store.tip,
                "base": session.manifest.base,
            }
        )


def list_(context: Context) -> None:
    """List experiments with results, decisions and ideas.

    The newest comes first.

    \b
    autopilot experiment list
    autopilot experiment list -p my-project
    """
    from autopilot.cli.pages import experiment as experiment_page
    from autopilot.cli.pages import listing as pages

    output = context.output
    rows = pages.rows(context.repository(), context.project, experiment_page.row)
    output.document({"experiments": rows})
    if not rows:
        for line in pages.none_yet(context.project):
            output.line(line)
        return
    for line in experiment_page.table(rows):
        output.line(line)


def show(context: Context, slug: Experiment = None) -> None:
    """Show what an experiment is, came to, and what happened.

    \b
    autopilot experiment show
    autopilot experiment show classifier-1
    """
    from autopilot.cli.pages import experiment as experiment_page

    notebook, output = context.notebook(slug), context.output
    if output.as_json:
        output.document(experiment_page.document(notebook))
        return
    for line in experiment_page.page(notebook):
        output.line(line)


def compare(
    context: Context,
    first: Annotated[
        str, typer.Argument(metavar="SLUG", help="An experiment.", autocompletion=experiment_names)
    ],
    second: Annotated[
        str, typer.Argument(metavar="SLUG", help="Another one.", autocompletion=experiment_names)
    ],
) -> None:
    """Compare metrics, strategies, costs and best states.

    \b
    autopilot experiment compare classifier-1 classifier-2
    """
    from autopilot.cli.pages import experiment as experiment_page
    from autopilot.report.comparison import file_documents, input_differences

    one, other, output = context.notebook(first), context.notebook(second), context.output
    tips = (one.best_commit, other.best_commit)
    counts = one.counts(*tips)
    if output.as_json:
        files = file_documents(counts)
        document = {"experiments": [one.summary, other.summary], "commits": tips, "files": files}
        differ = input_differences(one, other)
        output.document(document | {"inputs": [one.inputs, other.inputs], "inputs_differ": differ})
        return
    for line in experiment_page.comparison(one, other, counts):
        output.line(line)
    if counts:
        output.line(f"see it: git diff {tips[0][:7]} {tips[1][:7]}")


def delete(
    context: Context,
    slug: Named,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete an experiment and all that belongs to it.

    Branch, review branches, tags, notes, snapshots, its report, and what a run left behind. It
    says what it removes, and asks. A running experiment and one whose branch is checked out are
    refused. Your own branches and files are never touched.

    \b
    autopilot experiment delete classifier-1
    """
    from autopilot.cli.pages import experiment as experiment_page
    from autopilot.tracking.upkeep import plan_removal, remove

    repo, output = context.repository(), context.output
    found = plan_removal(repo, context.full_slug(slug))
    output.line(f"deleting {found.slug} removes")
    for line in experiment_page.removal(found):
        output.line(f"  {line}")
    if not yes and not output.confirm("delete it? [y/N]", otherwise="add --yes to delete it"):
        output.line("nothing was removed")
        output.document({"experiment": found.slug, "deleted": False, "refs": found.refs})
        return
    remove(repo, found)
    output.line(f"deleted {found.slug}")
    for tip in found.branch.values():
        output.line(f"git keeps its commits for a while: git log {tip[:10]}")
    output.document({"experiment": found.slug, "deleted": True, "refs": found.refs})


def export(
    context: Context,
    slug: Named,
    to: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder that is empty or does not exist.")
    ],
) -> None:
    """Write an experiment to files.

    DIR/manifest.json, DIR/events.json, and in DIR/epoch-0003/ metrics.json, gradients.json,
    memory.json, traces.jsonl and diff.patch.

    \b
    autopilot experiment export classifier-1 out/classifier-1
    """
    from autopilot.tracking.callbacks import export as write

    notebook, output = context.notebook(slug), context.output
    place = context.working_folder() / to
    files = write(notebook, place)
    epochs = len(notebook.epochs)
    said = "1 epoch" if epochs == 1 else f"{epochs} epochs"
    output.line(f"wrote {said} of {notebook.slug} to {to}: {len(files)} files")
    names = [path.relative_to(place).as_posix() for path in files]
    output.document({"experiment": notebook.slug, "folder": str(place), "files": names})


def decide(
    context: Context,
    slug: Named,
    decision: Annotated[Decision, typer.Argument(metavar="DECISION", help="promote or reject.")],
    epoch: Annotated[
        str, typer.Option(help="A number, best, last, baseline, a tag or a commit.")
    ] = "best",
    reason: Annotated[str, typer.Option(help="Why; written down.")] = "",
    reviewer: Annotated[str, typer.Option(help="Who decides; you, as git knows you.")] = "",
) -> None:
    """Write a decision down: promote or reject.

    The latest one holds. It is an event among the experiment's notes, with the commit that was
    decided on. No branch and no file moves: `autopilot promote execute` decides and merges, and
    refuses an epoch that was rejected here.

    \b
    autopilot experiment decide classifier-1 promote --reason "better on every category"
    """
    notebook = context.notebook(slug)
    write_decision(context, notebook, decision.value, epoch, reason, reviewer)


def write_decision(
    context: Context, notebook: Notebook, decision: str, epoch: str, reason: str, reviewer: str
) -> None:
    """Writes a decision down and says so."""
    from autopilot.report.comparison import decision_line
    from autopilot.tracking.holding import decide as write

    output = context.output
    event = write(
        notebook.repo, notebook.slug, decision, epoch=epoch, reason=reason, reviewer=reviewer
    )
    output.line(f"{notebook.slug}: {decision_line(event)}")
    if decision == "promote":
        command = f"autopilot promote execute {notebook.slug} --epoch {event.epoch}"
        output.line(f"nothing was moved. Take it over: {command}")
    output.document({"experiment": notebook.slug, "decision": event})


COMMANDS = {
    "create": create,
    "list": list_,
    "show": show,
    "compare": compare,
    "delete": delete,
    "export": export,
    "decide": decide,
}
