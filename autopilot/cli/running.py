"""Commands that run experiments: run, resume."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

from autopilot import audit
from autopilot.ai.prices import use_prices
from autopilot.cli import arguments
from autopilot.cli.arguments import option
from autopilot.cli.context import Context
from autopilot.cli.output import FAILED, INTERRUPTED, Output, guarded, own_stdout
from autopilot.cli.pages.progress import ChildReporter, Reporter
from autopilot.cli.people import HeldEdits
from autopilot.command.options import TaskOptions
from autopilot.core.failures import never_measured, reason
from autopilot.core.figures import changed_settings, progressed, test_gain
from autopilot.core.people import PAUSED
from autopilot.core.records.index import Judged
from autopilot.core.records.message import one_line
from autopilot.core.records.record import TASK, TraceRecord
from autopilot.core.rules import ALL_BLOCKED
from autopilot.core.types import Datum, Result
from autopilot.engine.beside import Beside, Prepare, resuming, run_command, start_or_resume
from autopilot.engine.board import Attendant, Child
from autopilot.engine.executors import hosting
from autopilot.engine.options import CHANGEABLE, Options, options_of
from autopilot.engine.preflight import forecast
from autopilot.engine.session import Session
from autopilot.engine.supervisor import Supervisor
from autopilot.errors import ExperimentError
from autopilot.git.commands import looking
from autopilot.report.comparison import picked
from autopilot.sandbox.workspace import remove_leftover
from autopilot.text import counted, jsonable, redact, shorten
from autopilot.tracking.memory import unblocked_by
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.outputs import output_lines, tell

_TIME_UP = "time budget: an item did not end"
_MORE_TIME = " --budget-seconds N"
Notify = Annotated[
    str | None, option("Run it in a shell at the end: AUTOPILOT_STATE says how.", metavar="CMD")
]


def supervised(
    output: Output,
    work: Callable[[Child], int],
    folder: Path,
    slug: str = "",
    *,
    again: str = "autopilot resume",
    ended: Callable[[str, int], None] = lambda *_: None,
) -> int:
    """Does work that runs the user's code in a process of its own; returns its exit code.

    Args:
        again: The command that goes on where it was ended, up to the experiment's name.
        ended: Called at the end, however it ends, with the experiment's name and the exit code.

    Raises:
        EvaluationError: the process died, and cannot be gone on with.
    """
    reports = ChildReporter(output, folder)

    def guard(child: Child) -> int:
        def how() -> str:
            return (name := child.board.slug or slug) and f"go on: {again} {name}"

        return guarded(output, lambda: work(child), how)

    supervisor = Supervisor(guard, reports, slug)
    code: int | None = FAILED
    try:
        code = supervisor.run()
    finally:
        ended(supervisor.slug, INTERRUPTED if code is None else code)
    if code is None:
        output.line(f"the item was killed; go on: {again} {reports.late}{_MORE_TIME}")
        output.document(experiment=reports.late, interrupted=True, stop_reason=_TIME_UP)
        return INTERRUPTED
    audit.end()  # the process that did the work has printed what was executed
    return code


def _start_words(slug: str | None, start: arguments.StartOptions) -> list[str]:
    """The options of a new experiment that a written class does not hold, as they are typed."""
    given = {"slug": slug, "seed": start.seed, "idea": start.idea, "hypothesis": start.hypothesis}
    found = [word for name, value in given.items() if value for word in (f"--{name}", str(value))]
    found += [word for link in start.links or () for word in ("--link", link)]
    flags = {"--in-place": start.in_place, "--include-dirty": start.include_dirty}
    return found + [flag for flag, is_on in flags.items() if is_on]


def run(
    context: Context,
    target: arguments.Target = None,
    slug: arguments.NewName = None,
    *,
    task: TaskOptions,
    options: Options,
    start: arguments.StartOptions,
    dry_run: arguments.DryRun = False,
    notify: Notify = None,
    write: Annotated[
        str | None, option("Without Python: write the run as a module instead.", metavar="FILE")
    ] = None,
) -> int:
    """Optimize TARGET in git.

    Without Python: the files of --edit, measured by the command of --eval.

    Every step is a commit on autopilot/NAME, every kept epoch a tag. Your checkout, branch and
    index stay as they are: the run works in a worktree of its own.

    \b
    autopilot run support/classifier.py
    autopilot run support/classifier.py -e spelling --max-epochs 30 -H threshold=0.5
    autopilot run --edit 'src/**/*.py' --eval 'python bench.py' --metric seconds --mode min
    --agent claude-code --goal 'make it faster'
    autopilot -p my-project run
    autopilot optimize loop support/classifier.py      the same, by its other name
    """
    request = context.run_request(target, task, options, slug=slug, **asdict(start))
    if write is not None:
        from autopilot.command.writing import write_module

        words = replace(options, mode=None, goal=None).words() + _start_words(slug, start)
        held = request.options.mode, request.options.goal
        context.output.lines(write_module(task, context.folder, write, words, *held))
        context.output.document(written=write, options=words)
        return 0
    with own_stdout(context.output) as output:
        if not dry_run:
            return run_session(output, start_or_resume(request), notify=notify)

        def look(child: Child) -> int:
            expected = forecast(request, child)
            output.lines(expected.lines())
            output.document(jsonable(expected))
            return 0

        return supervised(output, look, request.folder)


def resume(
    context: Context,
    name: arguments.Name = None,
    notify: Notify = None,
    *,
    changes: Annotated[Options, *CHANGEABLE],
) -> int:
    """Go on with a run, exactly where it was.

    Options take the place of those that it was started with: a finished run goes on when its limit
    is raised.

    \b
    autopilot resume classifier-1
    autopilot resume classifier-1 --max-epochs 60
    """
    use_prices(changes.prices or ())
    with looking():  # the process that goes on with it knows its repository
        notebook = context.notebook(name)
    with own_stdout(context.output) as output:
        if changes.given():
            check_unblocked(notebook, changes.block_after)
        elif _already_finished(notebook, output):
            return 0
        prepare = resuming(context.working_folder(), notebook, changes)
        return run_session(output, prepare, notebook.slug, notify=notify)


def run_session(
    output: Output,
    prepare: Prepare,
    slug: str = "",
    *,
    score_test: bool = True,
    after: Callable[[Session], None] = lambda _: None,
    summarize: Callable[[Output, Session, Result], None] | None = None,
    notify: str | None = None,
) -> int:
    """Runs a session in a process of its own and prints its progress; 130 if interrupted.

    Args:
        slug: The experiment's name where it exists.
        after: Called with a session that was not interrupted.
        summarize: Prints the result, and its document; `print_summary` if not given.
        notify: A command of the shell, for the end.
    """
    beside = Beside(prepare)

    def work(child: Child) -> int:
        reporter = Reporter(output, is_first=child.is_first)
        callbacks = [reporter, Attendant(child), *beside.callbacks(), HeldEdits(output)]
        session = prepare.session(callbacks, child)
        # What a resumed run was started with holds too.
        use_prices(session.options.prices or ())
        reporter.max_epochs, reporter.rescued = session.max_epochs, session.store.rescued
        reporter.as_users, reporter.sizes = session.workspace.as_users, session.split_sizes
        killed = session.workspace.outputs
        with discarded_on_failure(session, reporter):
            output.lines(output_lines(killed, "removed with the worktree of the killed run"))
            if child.is_first:
                output.lines(f"note: {note}" for note in session.notes)
                output.lines(filter(None, (_headline(session), session.bench.lessons)))
                if session.split_sizes[1] != "no":
                    output.line(session.trainer.judges_by())
            result = session.run(score_test=score_test)
        output.lines(output_lines(session.outputs))
        (summarize or print_summary)(output, session, result)
        if result.interrupted:
            return INTERRUPTED
        after(session)
        return 0

    def end(name: str, code: int) -> None:
        output.lines(beside.end())
        if notify and (wrong := run_command(notify, prepare.folder, name, code)):
            output.warning(wrong)

    with hosting(prepare.executor):
        return supervised(output.go_on(), work, prepare.folder, slug, ended=end)


@contextlib.contextmanager
def discarded_on_failure(session: Session, reporter: Reporter) -> Iterator[None]:
    """Ends the reporter, and the session if the body fails; an error names what it has written."""
    try:
        yield
    except BaseException as error:
        session.discard()
        tell(error, session.outputs)
        raise
    finally:
        reporter.stop()


def _headline(session: Session) -> str:
    manifest = session.manifest
    parameters = session.module.parameters()
    files = sum(len(p.files()) for p in parameters if hasattr(p, "files"))
    tracked = f"{counted(len(parameters), 'parameter')} ({counted(files, 'tracked file')})"
    train, val = session.split_sizes
    by = f"measured by `{shorten(manifest.title, 60)}`, " if manifest.target == TASK else ""
    return (
        f"{session.slug}: {tracked}, base {manifest.base[:7]} ({manifest.base_branch}), {by}"
        f"{train} train / {val} val items, {session.limits}"
    )


def print_summary(output: Output, session: Session, result: Result) -> None:
    """The result of a run, and what to do with it."""
    _summarize(output, session, result)
    output.document(_document(session, result))


def _summarize(output: Output, session: Session, result: Result) -> None:
    slug, epochs = session.slug, session.trainer.experiment.history
    ledger, spent_s = session.trainer.ledger, result.cost.seconds
    if result.interrupted:
        spent_s = max(spent_s, ledger.elapsed_s())  # the epoch that it left is in no record
    counts = f"{counted(result.epochs, 'epoch')}, {result.kept} kept, {spent_s:.1f} s"
    if result.interrupted:
        how = "" if result.stop_reason.startswith(PAUSED) else "interrupted "
        output.line(f"{how}{result.stop_reason}: {counts}", "yellow")
        _tell_spending(output, session)
        more = _MORE_TIME if ledger.elapsed_s() > ledger.limits.seconds else ""
        output.line(f"go on: autopilot resume {slug}{more}")
        return
    output.line(f"stopped: {result.stop_reason}. {counts}")
    if result.cost.saved:
        by = " and ".join(x for x in ("--screen", "--race") if x in session.options.words())
        output.line(f"saved: {counted(result.cost.saved, 'val item')} not measured, by {by}")
    if result.cost.known:
        output.line(f"known: {counted(result.cost.known, 'result')} (--no-cache measures them)")
    _tell_spending(output, session)
    best, trainer = f"best: epoch {result.best_epoch}", session.trainer
    if result.best is not None:
        best += f", {progressed(trainer.monitor, result.baseline, result.best, trainer.mode)}"
    untested = "no test split (--test-eval)" if session.manifest.target == TASK else ""
    best += f", {tested}" if (tested := test_gain(result.test) or untested) else ""
    output.line(best, "bold")
    if changes := changed_settings(epochs[0].values, epochs[result.best_epoch].values):
        output.line(f"values: {changes}")
    _tell_unmeasured(output, session)
    output.lines(f"note: {remark}" for remark in session.remarks)
    judged = [*session.trainer.experiment.epochs][1:]
    for verdict in ("kept", "rejected"):
        every = [each for each in judged if each.is_kept == (verdict == "kept")]
        if any(each.strategy for each in every):
            tried = Counter(_tried(session, each) for each in every)
            listed = ", ".join(f"{name} ({n}x)" if n > 1 else name for name, n in tried.items())
            output.line(f"{verdict}: {listed}")
    if blocked := session.trainer.experiment.memory.blocked():
        whys = set(blocked.values())
        why = f" ({whys.pop()})" if len(whys) == 1 else ""
        output.line(f"blocked: {', '.join(blocked)}{why}")
    base, branch, onto, into = session.manifest.base_branch, f"autopilot/{slug}", "", ""
    if base == "HEAD detached":
        base, onto, into = session.manifest.base[:7], " --onto BRANCH", " --into BRANCH"
    if result.best_epoch == 0:
        unsure = any(why.startswith("indecisive") for r in epochs for why in r.reasons)
        better = "was significantly better" if unsure else "was better"
        output.line(f"nothing {better} than the baseline: autopilot report {slug} --md says why")
        return
    output.line(f"read it:   git log -p {base}..{branch}")
    output.line(f"           autopilot log {slug} --graph")
    output.line(f"net change: git diff {base}...{branch}")
    if session.workspace.in_place:
        output.line("take it:   it is in your checkout: git diff, then git commit")
    else:
        output.line(f"review it: autopilot propose create {slug}{onto}")
        take = f"autopilot promote execute {arguments.name_before_epoch(slug)}{into}"
        output.line(f"take it:   {take}    (or git merge --squash {branch})")


def _tell_unmeasured(output: Output, session: Session) -> None:
    """The items that gave no result in any epoch, and what failed in the test split."""
    epochs, items = _never_measured(session)
    if items:
        whys = Counter(reason(item) for item in items)
        listed = session.workspace.as_users("; ".join(why for why, _ in whys.most_common(3)))
        experiment = session.trainer.experiment
        every = counted(len(experiment.val_of(experiment.best_epoch)[1]), "val item")
        some = f"{len(items)} of {every} gave no result in {counted(epochs, 'epoch')}"
        output.line(f"{some}: {redact(listed)}", "yellow")
    for text in session.trainer.failures.lines("test", tracebacks=output.verbose):
        output.line(redact(session.workspace.as_users(text)), "yellow")


def _never_measured(session: Session) -> tuple[int, list[Datum]]:
    experiment = session.trainer.experiment
    # What has a result in the best state is not among them: mostly, no record is read.
    if all(item.outcome not in ("error", "unmeasured") for item in experiment.best_items):
        return 0, []
    traces = [
        t for _, t in experiment.store.records(TraceRecord) if t.split == "val" and not t.repeat
    ]
    return never_measured(trace.data() for trace in reversed(traces))


def _tell_spending(output: Output, session: Session) -> None:
    """Prints the cost of model calls, in all and by role; nothing where there were none."""
    ledger = session.trainer.run.ledger
    roles = [f"  {role}: {spent.render()}" for role, spent in ledger.by_role().items()]
    if roles:
        output.lines([f"models: {ledger.total().render()}", *roles[len(roles) == 1 :]])


def _tried(session: Session, judged: Judged) -> str:
    known = judged.strategy or session.trainer.experiment.record_of(judged.number).outcome
    return one_line(known if judged.strategy or known in ("unchanged", "failed") else "unnamed")


def _document(session: Session, result: Result) -> dict[str, Any]:
    return {
        "experiment": session.slug,
        "branch": f"autopilot/{session.slug}",
        "base": session.manifest.base,
        "monitor": session.trainer.monitor,
        **picked(result, "stop_reason interrupted epochs kept best_epoch baseline best"),
        **picked(result, "metrics test cost"),
        "models": session.trainer.run.ledger.by_role(),
        "outputs": [*session.workspace.outputs, *session.outputs],
        "never_measured": [item.id for item in _never_measured(session)[1]],
    }


def _already_finished(notebook: Notebook, output: Output) -> bool:
    slug, status = notebook.slug, notebook.status
    if status.state != "finished":
        return False
    output.line(f"{slug} is finished: {status.detail}")
    keep = options_of(notebook, Options()).keep or ()
    left = remove_leftover(notebook.repo, notebook.manifest, keep)
    output.lines(output_lines(left, "removed with the worktree of the killed run"))
    if how := unblocked_by(notebook):
        output.line(f"allow a strategy first: {how}")
    if not notebook.manifest.by_hand:
        output.line(f"more of it: autopilot resume {slug} --max-epochs N, or --patience N")
    output.document(experiment=slug, finished=True, stop_reason=status.detail)
    return True


def check_unblocked(notebook: Notebook, block_after: int | None = None) -> None:
    """Stops a run from going on that would end at once.

    Raises:
        ExperimentError: it ended since every strategy is blocked, and they still are.
    """
    if how := unblocked_by(notebook, block_after):
        raise ExperimentError(f"{notebook.slug} cannot go on: {ALL_BLOCKED}", hint=how)
