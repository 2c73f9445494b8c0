"""Commands that drive the loop step by step: check, train, measure, set hyperparameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autopilot.cli import measuring, running
from autopilot.cli.context import Context
from autopilot.cli.output import own_stdout
from autopilot.errors import ExperimentError, TargetError, UsageError

if TYPE_CHECKING:
    from autopilot.engine.session import Session
    from autopilot.tracking.notebook import Notebook


def preflight(
    context: Context,
    target: running.Target = None,
    monitor: running.Monitor = None,
    mode: running.Mode = None,
    seed: running.Seed = 0,
    hparam: running.Hparams = None,
    link: running.Links = None,
) -> int:
    """Check all that a run needs, before it starts.

    Target, parameters, data, optimizer, and one item that is evaluated where the run would work; at
    the end what an epoch would cost. Nothing is changed. Exit code 1 if a run would not start.

    \b
    autopilot optimize preflight support/classifier.py
    autopilot -p my-project optimize preflight
    """
    from autopilot.cli.project import report
    from autopilot.engine.preflight import preflight as look
    from autopilot.engine.request import Options, Request

    subject = context.subject(target, hparam)
    request = Request(
        subject.folder,
        subject.target,
        project=context.project,
        seed=seed,
        hparams=subject.hparams,
        options=Options(monitor=monitor, mode=mode),
        links=tuple(link or ()),
    )
    with own_stdout(context.output) as output:
        return report(output, look(request), target=subject.target)


def train(
    context: Context,
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="SLUG|TARGET",
            help="An experiment that goes on, or a TARGET that a new one begins with; the newest "
            "experiment if not given.",
        ),
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="So many, then stop.")] = 1,
    slug: Annotated[
        str | None, typer.Option("--slug", "-e", help="The name of a new experiment.")
    ] = None,
    seed: running.Seed = 0,
    hparam: running.Hparams = None,
    link: running.Links = None,
) -> int:
    """Train an experiment for some epochs, then stop.

    The test split is left alone: `autopilot resume SLUG` goes on to the end and scores it.

    \b
    autopilot optimize train support/classifier.py -e spelling     baseline and first epoch
    autopilot optimize train spelling --epochs 5                   five more
    autopilot -p my-project optimize train
    """
    from autopilot.engine.request import Options, Request
    from autopilot.engine.session import Session

    notebook = _going_on(context, what)
    if notebook is not None:
        if slug or hparam or link:
            raise UsageError(
                f"{notebook.slug} exists: its name, hyperparameters and links stay as they are",
                hint="leave out -e, -H and --link, or begin another with a TARGET",
            )
        running.check_unblocked(notebook)
        done, folder, name = notebook.last, context.working_folder(), notebook.slug
        changes = Options(max_epochs=(done.epoch if done else 0) + epochs)

        def resume(callbacks: Sequence[Any], slug: str) -> Session:
            return Session.resume(folder, slug or name, changes, callbacks)

        prepare: Callable[[Sequence[Any], str], Session] = resume
    else:
        subject = context.subject(what, hparam)
        request = Request(
            subject.folder,
            subject.target,
            slug,
            context.project,
            seed,
            subject.hparams,
            Options(max_epochs=epochs),
            links=tuple(link or ()),
        )
        prepare = running.start_or_resume(request)

    def after(session: Session) -> None:
        output.line(f"go on:     autopilot optimize train {session.slug} --epochs {epochs}")
        output.line(f"           autopilot resume {session.slug} --max-epochs 100   to its end")

    with own_stdout(context.output) as output:
        slug = notebook.slug if notebook is not None else ""
        return running.run_session(output, prepare, slug, score_test=False, after=after)


def _going_on(context: Context, what: str | None) -> Notebook | None:
    """The experiment that is meant; None where a new one is to begin."""
    from autopilot.engine.target import parse_target
    from autopilot.tracking.layout import experiments

    if what is None:
        try:
            return context.notebook(None)
        except ExperimentError:
            if context.project:
                return None
            raise
    if context.full_slug(what) in experiments(context.repository()):
        return context.notebook(what)
    try:
        parse_target(what)
    except TargetError:
        # No target: then it was meant as an experiment, and the error names those that there are.
        return context.notebook(what)
    return None


def set_hparams(
    context: Context,
    pairs: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Arguments of the module.")
    ] = None,
    unset: Annotated[
        list[str] | None, typer.Option("--unset", metavar="KEY", help="Forget one.")
    ] = None,
) -> None:
    """Set the hyperparameters that a project's new runs start with.

    They are kept in its experiments/hparams.json, checked against the module's signature; -H of a
    run comes before them. What an experiment began with stays in its manifest.

    \b
    autopilot optimize set-hparams -p my-project threshold=0.5
    autopilot optimize set-hparams -p my-project --unset threshold
    autopilot optimize set-hparams -p my-project                shows them
    """
    from autopilot.engine.target import load_here, parse_hparams
    from autopilot.projects.project import read_hparams, write_hparams

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
    output.document({"project": project.name, "file": project.hparams, "hparams": after})


COMMANDS = {
    "preflight": preflight,
    "train": train,
    "validate": measuring.validate,
    "test": measuring.test,
    "loop": running.run,
    "set-hparams": set_hparams,
}
