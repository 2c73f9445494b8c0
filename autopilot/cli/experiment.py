"""Commands on experiments as a whole: create, list, show, compare, delete, export, decide."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from autopilot.cli import arguments
from autopilot.cli.arguments import option
from autopilot.cli.context import Context, in_child
from autopilot.cli.output import own_stdout
from autopilot.cli.pages import experiment as experiment_page
from autopilot.cli.pages import listing as pages
from autopilot.engine.options import Options
from autopilot.errors import UsageError
from autopilot.report.comparison import decision_line, file_documents, input_differences, picked
from autopilot.text import counted
from autopilot.tracking.callbacks import export as write
from autopilot.tracking.holding import decide as write_down
from autopilot.tracking.layout import state_of_tag
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.outputs import output_lines
from autopilot.tracking.upkeep import plan_removal, remove

Choice = StrEnum("Choice", "promote reject")


@in_child
def create(
    context: Context,
    slug: Annotated[str, typer.Argument(metavar="NAME", help="The new experiment's name.")],
    target: arguments.Target = None,
    *,
    options: Annotated[Options, "max_epochs", "monitor", "patience"],
    start: arguments.StartOptions,
) -> None:
    """Begin an experiment without running it.

    Its branch, start commit and manifest are written. Everything is checked as `autopilot run`
    does. `autopilot resume NAME` measures the baseline and goes on.

    \b
    autopilot experiment create spelling support/classifier.py --idea "tolerate typos"
    autopilot resume spelling
    """
    # Only this command needs the engine: `list` and `show` start without it.
    from autopilot.engine.session import create as begin

    request = context.request(target, slug=slug, options=options, **asdict(start))
    with own_stdout(context.output) as output:
        session = begin(request, context.child)
        output.lines(f"note: {note}" for note in session.notes)
        base = f"{session.manifest.base[:7]} ({session.manifest.base_branch})"
        output.line(f"{session.slug}: created on autopilot/{session.slug}, base {base}")
        output.lines(filter(None, [session.bench.lessons]))
        output.line(f"nothing was run. Go on: autopilot resume {session.slug}")
        output.lines(output_lines(session.outputs))
        output.document(
            experiment=session.slug,
            branch=f"autopilot/{session.slug}",
            start=session.store.tip,
            base=session.manifest.base,
            outputs=session.outputs,
        )


def list_(context: Context) -> None:
    """List experiments with results, decisions and ideas.

    The newest comes first.

    \b
    autopilot experiment list
    autopilot experiment list -p my-project
    """
    output = context.output
    rows = pages.rows(context.repository(), context.project, experiment_page.row)
    output.document(experiments=rows)
    if not rows:
        output.lines(pages.none_yet(context.project))
        return
    output.lines(experiment_page.table(rows))


def show(context: Context, name: arguments.Name = None) -> None:
    """Show what an experiment is, came to, and what happened.

    \b
    autopilot experiment show
    autopilot experiment show classifier-1
    """
    notebook, output = context.notebook(name), context.output
    if output.as_json:
        output.document(experiment_page.document(notebook))
        return
    output.lines(experiment_page.page(notebook))


def compare(
    context: Context,
    other: Annotated[str, arguments.Word("OTHER", "Compare it with this experiment.")],
    name: arguments.Name = None,
) -> None:
    """Compare metrics, strategies, costs and best states.

    \b
    autopilot experiment compare classifier-1 classifier-2
    autopilot experiment compare classifier-1              the newest one with it
    """
    one, output = context.notebook(name), context.output
    two = context.notebook(context.full_slug(other))
    tips = (one.best_commit, two.best_commit)
    counts = one.counts(*tips)
    output.document(
        experiments=[one.summary, two.summary],
        commits=tips,
        files=file_documents(counts),
        inputs=[one.inputs, two.inputs],
        inputs_differ=input_differences(one, two),
    )
    if output.as_json:
        return
    output.lines(experiment_page.comparison(one, two, counts))
    if counts:
        output.line(f"see it: git diff {tips[0][:7]} {tips[1][:7]}")


def delete(
    context: Context,
    name: Annotated[str, arguments.Word("NAME", "The experiment.", "name")],
    yes: Annotated[bool, option("Do not ask.", "-y")] = False,
) -> None:
    """Delete an experiment and all that belongs to it.

    Branch, review branches, tags, notes, snapshots, its report, what --log-to wrote in the git
    folder, and what a run left behind. It says what it removes, and asks. A running experiment and
    one whose branch is checked out are refused. Your own branches and files are never touched.

    \b
    autopilot experiment delete classifier-1
    """
    repo, output = context.repository(), context.output
    found = plan_removal(repo, name)
    output.line(f"deleting {found.slug} removes")
    output.lines(f"  {line}" for line in experiment_page.removal(found))
    if not (yes or output.can_ask):
        raise UsageError(
            "this needs your confirmation, and there is no terminal to ask on",
            hint="add --yes to delete it",
        )
    if not yes and output.ask("delete it? [y/N]").lower() not in ("y", "yes"):
        output.line("nothing was removed")
        output.document(experiment=found.slug, deleted=False, refs=found.refs)
        return
    remove(repo, found)
    output.line(f"deleted {found.slug}")
    for tip in found.branch.values():
        output.line(f"git keeps its commits for a while: git log {tip[:10]}")
    output.document(experiment=found.slug, deleted=True, **picked(found, "refs outputs kept"))


def export(
    context: Context,
    to: Annotated[Path, arguments.Word("DIR", "A folder that is empty or does not exist.")],
    name: arguments.Name = None,
) -> None:
    """Write an experiment to files.

    DIR/manifest.json, DIR/events.json, and in DIR/epoch-0003/ metrics.json, gradients.json,
    memory.json, traces.jsonl and diff.patch.

    \b
    autopilot experiment export classifier-1 out/classifier-1
    """
    notebook, output = context.notebook(name), context.output
    place = context.working_folder() / to
    files = write(notebook, place)
    epochs = counted(len(notebook.epochs), "epoch")
    output.line(f"wrote {epochs} of {notebook.slug} to {to}: {len(files)} files")
    names = [path.relative_to(place).as_posix() for path in files]
    output.document(experiment=notebook.slug, folder=str(place), files=names)


def decide(
    context: Context,
    decision: Annotated[Choice, arguments.Word("DECISION", "promote or reject.")],
    name: arguments.Name = None,
    epoch: Annotated[
        str, option("A number, best, last, tip, baseline, a tag or a commit.")
    ] = "best",
    reason: arguments.Reason = "",
    reviewer: arguments.Reviewer = "",
) -> None:
    """Write a decision down: promote or reject.

    The latest one holds. It is an event among the experiment's notes, with the commit that was
    decided on. No branch and no file moves: `autopilot promote execute` decides and merges, and
    refuses an epoch that was rejected here.

    \b
    autopilot experiment decide classifier-1 promote --reason "better on every category"
    """
    write_decision(context, context.notebook(name), decision.value, epoch, reason, reviewer)


def write_decision(
    context: Context, notebook: Notebook, decision: str, epoch: str, reason: str, reviewer: str
) -> None:
    """Writes a decision down and says so."""
    output = context.output
    event = write_down(
        notebook.repo, notebook.slug, decision, epoch=epoch, reason=reason, reviewer=reviewer
    )
    output.line(f"{notebook.slug}: {decision_line(event)}")
    if decision == "promote":
        state = epoch if state_of_tag(f"/{epoch}") else event.epoch  # of a candidate its name
        command = f"autopilot promote execute {notebook.slug} --epoch {state}"
        output.line(f"nothing was moved. Take it over: {command}")
    output.document(experiment=notebook.slug, decision=event)


COMMANDS = {
    "create": create,
    "list": list_,
    "show": show,
    "compare": compare,
    "delete": delete,
    "export": export,
    "decide": decide,
}
