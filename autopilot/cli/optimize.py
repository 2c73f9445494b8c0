"""Commands that drive the loop step by step: check, train, measure, set hyperparameters."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Annotated, Any

import typer

from autopilot.cli import arguments, running
from autopilot.cli.arguments import option
from autopilot.cli.context import Context, in_child
from autopilot.cli.output import own_stdout
from autopilot.cli.workspace import report
from autopilot.command.options import TaskOptions
from autopilot.core.failures import failure_lines
from autopilot.core.figures import figures, outcomes
from autopilot.core.types import count_outcomes
from autopilot.engine.beside import resuming, start_or_resume
from autopilot.engine.options import NO_OPTIONS, Options
from autopilot.engine.preflight import preflight as look
from autopilot.engine.session import Session
from autopilot.engine.supervisor import interruptible
from autopilot.engine.target import load_here, parse_hparams
from autopilot.errors import ExperimentError, UsageError
from autopilot.projects.project import read_hparams, write_hparams
from autopilot.proof.measuring import Measurement, measure_checkout, measure_epoch
from autopilot.report.comparison import picked
from autopilot.text import counted, redact
from autopilot.tracking.attribution import named
from autopilot.tracking.layout import experiments
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.outputs import output_lines


@in_child
def preflight(
    context: Context,
    target: arguments.Target = None,
    *,
    task: TaskOptions,
    options: Annotated[
        Options, "monitor", "mode", "item_timeout", "memory", "jobs", "budget_seconds"
    ],
    seed: arguments.Seed = 0,
    hparam: arguments.Hparams = None,
    link: arguments.Links = None,
) -> int:
    """Check all that a run needs, before it starts.

    Target, parameters, data, optimizer, and one item that is evaluated where the run would work; at
    the end what an epoch would cost. Nothing is changed. Exit code 1 if a run would not start.

    \b
    autopilot optimize preflight support/classifier.py
    autopilot -p my-project optimize preflight
    """
    request = context.run_request(target, task, options, hparams=hparam, links=link, seed=seed)
    with own_stdout(context.output) as output:
        return report(output, look(request, context.child), target=request.target)


def train(
    context: Context,
    name: arguments.Name = None,
    target: Annotated[
        str | None,
        arguments.Word("TARGET", "Begins a new experiment, which -e may name.", "target"),
    ] = None,
    epochs: Annotated[int, option("So many, then stop.", min=1)] = 1,
    seed: arguments.Seed = 0,
    hparam: arguments.Hparams = None,
    link: arguments.Links = None,
    *,
    limits: Annotated[Options, *arguments.LIMITS, "budget_seconds"],
) -> int:
    """Train an experiment for some epochs, then stop.

    The test split is left alone: `autopilot resume NAME` goes on to the end and scores it.

    \b
    autopilot optimize train support/classifier.py -e spelling     baseline and first epoch
    autopilot optimize train spelling --epochs 5                   five more
    autopilot -p my-project optimize train
    """
    notebook = None if target else _going_on(context, name)
    if notebook is None:
        options = replace(limits, max_epochs=epochs)
        request = context.request(target, hparam, link, slug=name, seed=seed, options=options)
        prepare = start_or_resume(request)
    else:
        if hparam or link:
            raise UsageError(
                f"{notebook.slug} exists: its hyperparameters and links stay as they are",
                hint="leave out -H and --link, or begin another with a TARGET",
            )
        running.check_unblocked(notebook)
        done = notebook.last
        changes = replace(limits, max_epochs=(done.epoch if done else 0) + epochs)
        prepare = resuming(context.working_folder(), notebook, changes)

    def after(session: Session) -> None:
        output.line(f"go on:     autopilot optimize train {session.slug} --epochs {epochs}")
        output.line(f"           autopilot resume {session.slug} --max-epochs 100   to its end")

    with own_stdout(context.output) as output:
        slug = notebook.slug if notebook else ""
        return running.run_session(output, prepare, slug, score_test=False, after=after)


def _going_on(context: Context, name: str | None) -> Notebook | None:
    """The experiment that goes on; None where a project gets its first one."""
    try:
        return context.notebook(name)
    except ExperimentError:
        if context.project and not experiments(context.repository(), context.project):
            return None
        raise


def validate(
    context: Context,
    name: arguments.Name = None,
    target: arguments.NameOrTarget = None,
    epoch: arguments.MaybeEpochOrOption = None,
    live: arguments.Live = False,
    seed: arguments.Seed = 0,
    hparam: arguments.Hparams = None,
    link: arguments.Links = None,
    *,
    limits: Annotated[Options, *arguments.LIMITS],
) -> None:
    """Measure the val split of your checkout, or of an epoch.

    The checkout is measured as it is, with uncommitted changes of tracked files, in a worktree of
    its own. Nothing is recorded.

    \b
    autopilot optimize validate support/classifier.py     your checkout
    autopilot -p my-project optimize validate             your checkout of its module
    autopilot optimize validate classifier-1 7
    autopilot optimize validate                           the best epoch of the newest experiment
    """
    how = {"live": live, "seed": seed, "hparam": hparam, "link": link, "limits": limits}
    _measure(context, "val", name=name, target=target, epoch=epoch, **how)


# It takes the arguments of validate.
@functools.wraps(validate, assigned=(), updated=())
def test(context: Context, **how: Any) -> None:
    """Measure the test split of your checkout, or of an epoch.

    As `validate` measures val. If you choose by its scores, the test split becomes one more
    val split.

    \b
    autopilot optimize test support/classifier.py         your checkout
    autopilot optimize test classifier-1 best
    """
    _measure(context, "test", **how)


def _measure(context: Context, split: str, **how: Any) -> None:
    notebook, number, measured = measure_now(context, split, **how)
    output, metrics = context.output, measured.metrics.get(split, {})
    items = measured.items.get(split, ())
    title = "your checkout"
    if notebook is not None:
        title = f"{notebook.slug} {notebook.epoch(number or 0).title}"
    if not metrics:
        raise UsageError(f"{title} has no {split} split", hint=f"define {split}_dataloader()")
    recorded = notebook.epoch(number or 0).metrics.get(split, {}) if notebook else {}
    counts = count_outcomes(items)
    passed = counts["passed"]
    scored = f"{passed} of {counted(len(items), 'item')} passed"
    if passed + counts["failed"] < len(items):
        scored = f"{counted(len(items), 'item')}: {outcomes(counts)}"
    output.line(f"{title}, {split}: {scored}")
    for metric, value in metrics.items():
        now, known = figures(value, recorded.get(metric))
        was = f"  (recorded: {known})" if metric in recorded else ""
        output.line(f"  {metric} {now}{was}")
    output.lines(f"  {redact(text)}" for text in failure_lines(split, items))
    output.lines(output_lines(measured.outputs))
    output.document(
        experiment=notebook.slug if notebook else None,
        epoch=number,
        **picked(measured, "commit seconds outputs"),
        split=split,
        metrics=metrics,
        recorded=recorded or None,
        items=len(items),
        passed=passed,
        outcomes=counts,
    )


def measure_now(
    context: Context,
    split: str,
    name: str | None,
    target: str | None,
    epoch: str | None,
    *,
    live: bool,
    seed: int = 0,
    hparam: list[str] | None = None,
    link: list[str] | None = None,
    limits: Options = NO_OPTIONS,
) -> tuple[Notebook | None, int | None, Measurement]:
    """Measures an epoch of an experiment, or the checkout of a target: the epoch is None then."""
    with interruptible():
        # With a project, its module in the checkout; with nothing at all, the newest experiment.
        if name is None and epoch is None and (target or context.project):
            request = context.request(target, hparam, link, seed=seed, options=limits)
            return None, None, measure_checkout(request, split)
        if target is not None or hparam:
            raise UsageError(
                "an epoch has a target and hyperparameters of its own",
                hint="leave out TARGET and -H, or the experiment and the epoch",
            )
        notebook = context.notebook(name)
        number = named(notebook, epoch or "best").number
        place = notebook, number, split
        found = measure_epoch(*place, live=live, links=tuple(link or ()), limits=limits)
        return notebook, number, found


@in_child
def set_hparams(
    context: Context,
    pairs: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Arguments of the module.")
    ] = None,
    unset: Annotated[list[str] | None, option("Forget one.", metavar="KEY")] = None,
) -> None:
    """Set the hyperparameters that a project's new runs start with.

    They are kept in its experiments/hparams.json, checked against the module's signature; -H of a
    run comes before them. What an experiment began with stays in its manifest.

    \b
    autopilot optimize set-hparams -p my-project threshold=0.5
    autopilot optimize set-hparams -p my-project --unset threshold
    autopilot optimize set-hparams -p my-project                shows them
    """
    if not context.project:
        raise UsageError(
            "hyperparameters are kept by project, and none is named",
            hint="autopilot -p NAME optimize set-hparams KEY=VALUE; a run takes them by -H, and "
            "writes them down once, in its manifest",
        )
    project, output = context.own_project(), context.output
    before = read_hparams(project.hparams)
    given, gone = parse_hparams(pairs or ()), set(unset or ())
    for name in sorted(gone - before.keys()):
        raise UsageError(f"--unset {name}: it is not set", hint=f"set: {', '.join(before) or '-'}")
    after = {key: v for key, v in (before | given).items() if key not in gone}
    if after != before:
        with own_stdout(output):
            load_here(project.workspace, project.target, after)
        write_hparams(project.hparams, after)
    for key, value in after.items():
        was = f"  (was {before[key]})" if before.get(key, value) != value else ""
        output.line(f"{key} = {value}{was}")
    if not after:
        output.line("none is set: the module's own defaults hold")
    output.document(project=project.name, file=project.hparams, hparams=after)


COMMANDS = {
    "preflight": preflight,
    "train": train,
    "validate": validate,
    "test": test,
    "loop": running.run,
    "set-hparams": set_hparams,
}
