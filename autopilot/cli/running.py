"""Commands that run experiments: run, resume."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autopilot.cli.completion import experiment_names
from autopilot.cli.context import Context
from autopilot.cli.output import INTERRUPTED, Output, own_stdout
from autopilot.core.figures import progressed, test_gain
from autopilot.errors import ExperimentError

if TYPE_CHECKING:
    from autopilot.core.records.record import MetricsRecord
    from autopilot.core.types import Datum, Result
    from autopilot.engine.board import Child
    from autopilot.engine.request import Request
    from autopilot.engine.session import Session
    from autopilot.tracking.notebook import Notebook


class Direction(StrEnum):
    """Of a metric."""

    max = "max"
    min = "min"


MaxEpochs = Annotated[
    int | None, typer.Option(min=1, help="Number of the last epoch; 100 unless given.")
]
Patience = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Stop after so many epochs in a row without improvement; 10 unless limits are given.",
    ),
]
Until = Annotated[
    float | None, typer.Option("--target", help="Stop when the monitored metric reaches this.")
]
Plateau = Annotated[
    int | None,
    typer.Option(min=1, help="Stop when the best gained under --min-delta in so many epochs."),
]
MinDelta = Annotated[
    float | None, typer.Option(help="The gain that --plateau asks for; 0.001 unless given.")
]
Evaluations = Annotated[
    int | None, typer.Option(min=1, help="Stop before more items than this are evaluated.")
]
Seconds = Annotated[float | None, typer.Option(min=0, help="Stop after so much wall clock.")]
Tokens = Annotated[int | None, typer.Option(min=1, help="Stop after so many model tokens.")]
Dollars = Annotated[float | None, typer.Option(min=0, help="Stop after so many dollars.")]
Calls = Annotated[int | None, typer.Option(min=0, help="Stop after so many model calls.")]

MaxWait = Annotated[
    float | None,
    typer.Option(
        min=0,
        metavar="SECONDS",
        help="Wait so long for a service that does not answer; 1800 unless given, 0: not at all.",
    ),
]
Prices = Annotated[
    list[str] | None,
    typer.Option(
        "--price",
        metavar="MODEL=IN/OUT",
        help="Dollars for a million tokens read and written, where the table is old or has none.",
    ),
]
BlockAfter = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Block a strategy that does nothing so many times in a row, or one of whose new "
        "states none is kept in ten times as many tries; 3 unless given, 0: never.",
    ),
]
Monitor = Annotated[
    str | None, typer.Option(help="The val metric that decides; the module's if not given.")
]
Mode = Annotated[
    Direction | None,
    typer.Option(help="Whether a higher or a lower value is better, where nothing states it."),
]
FailedValue = Annotated[
    float | None,
    typer.Option(
        help="What an item that raised counts as in the monitored metric; it has no value if not."
    ),
]
Seed = Annotated[int, typer.Option(help="Shuffling and evaluation derive from it.")]
Hparams = Annotated[
    list[str] | None,
    typer.Option("-H", metavar="KEY=VALUE", help="A constructor argument; may be repeated."),
]
Links = Annotated[
    list[str] | None,
    typer.Option(metavar="PATH", help="An ignored path that the evaluation needs."),
]
InPlace = Annotated[
    bool, typer.Option("--in-place", help="Work in this checkout, not in a worktree.")
]
IncludeDirty = Annotated[
    bool,
    typer.Option("--include-dirty", help="Start from the parameters' uncommitted content."),
]
Idea = Annotated[str, typer.Option(help="What is tried, in words; written down.")]
Hypothesis = Annotated[str, typer.Option(help="What is expected of it; written down.")]


Target = Annotated[
    str | None,
    typer.Argument(
        metavar="TARGET",
        help="path/to/file.py, path/to/file.py:Name or package.module:Name: an AutoPilotModule, or "
        "a callable that returns one; the module of the project (-p) if not given.",
    ),
]


def run(
    context: Context,
    target: Target = None,
    slug: Annotated[
        str | None,
        typer.Option("--slug", "-e", help="The experiment's name; TARGET's and a number if not."),
    ] = None,
    max_epochs: MaxEpochs = None,
    monitor: Monitor = None,
    mode: Mode = None,
    failed_value: FailedValue = None,
    seed: Seed = 0,
    patience: Patience = None,
    until: Until = None,
    plateau: Plateau = None,
    min_delta: MinDelta = None,
    budget_evaluations: Evaluations = None,
    budget_seconds: Seconds = None,
    budget_tokens: Tokens = None,
    budget_usd: Dollars = None,
    budget_calls: Calls = None,
    block_after: BlockAfter = None,
    max_wait: MaxWait = None,
    price: Prices = None,
    accumulate: Annotated[
        int | None,
        typer.Option(min=1, help="Batches between two optimizer steps; one step an epoch if not."),
    ] = None,
    num_workers: Annotated[
        int | None,
        typer.Option(min=1, help="Threads for the items of a batch, if they wait on a network."),
    ] = None,
    measure_noise: Annotated[
        bool | None,
        typer.Option(
            help="Measure the baseline's val split twice; unless given, where that calls no model."
        ),
    ] = None,
    repeat: Annotated[
        int | None,
        typer.Option(min=1, help="Measure each val item so often, and judge the means."),
    ] = None,
    hparam: Hparams = None,
    link: Links = None,
    in_place: InPlace = False,
    include_dirty: IncludeDirty = False,
    idea: Idea = "",
    hypothesis: Hypothesis = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would happen; change nothing.")
    ] = False,
) -> int:
    """Optimize TARGET in git.

    Every step is a commit on autopilot/SLUG, every kept epoch a tag. Your checkout, branch and
    index stay as they are: the run works in a worktree of its own.

    \b
    autopilot run support/classifier.py
    autopilot run support/classifier.py -e spelling --max-epochs 30 -H threshold=0.5
    autopilot -p my-project run
    autopilot optimize loop support/classifier.py      the same, by its other name
    """
    from autopilot.ai.model.prices import use_prices
    from autopilot.engine.request import Options, Request

    use_prices(price or ())
    subject = context.subject(target, hparam)
    request = Request(
        folder=subject.folder,
        target=subject.target,
        slug=slug,
        project=context.project,
        seed=seed,
        hparams=subject.hparams,
        options=Options(
            max_epochs=max_epochs,
            monitor=monitor,
            mode=mode.value if mode else None,
            failed_value=failed_value,
            patience=patience,
            target=until,
            plateau=plateau,
            min_delta=min_delta,
            budget_evaluations=budget_evaluations,
            budget_seconds=budget_seconds,
            budget_tokens=budget_tokens,
            budget_usd=budget_usd,
            budget_calls=budget_calls,
            block_after=block_after,
            accumulate=accumulate,
            num_workers=num_workers,
            max_wait=max_wait,
            prices=price or None,
            measure_noise=measure_noise,
            repeat=repeat,
        ),
        in_place=in_place,
        links=tuple(link or ()),
        include_dirty=include_dirty,
        idea=idea,
        hypothesis=hypothesis,
    )
    with own_stdout(context.output) as output:
        if dry_run:
            return _forecast(output, request)
        return run_session(output, start_or_resume(request))


def resume(
    context: Context,
    slug: Annotated[
        str, typer.Argument(metavar="SLUG", help="The experiment.", autocompletion=experiment_names)
    ],
    max_epochs: MaxEpochs = None,
    patience: Patience = None,
    until: Until = None,
    plateau: Plateau = None,
    min_delta: MinDelta = None,
    budget_evaluations: Evaluations = None,
    budget_seconds: Seconds = None,
    budget_tokens: Tokens = None,
    budget_usd: Dollars = None,
    budget_calls: Calls = None,
    block_after: BlockAfter = None,
    max_wait: MaxWait = None,
    price: Prices = None,
) -> int:
    """Go on with a run, exactly where it was.

    Options take the place of those that it was started with: a finished run goes on when its limit
    is raised.

    \b
    autopilot resume classifier-1
    autopilot resume classifier-1 --max-epochs 60
    """
    from autopilot.ai.model.prices import use_prices
    from autopilot.engine.request import Options
    from autopilot.engine.session import Session

    use_prices(price or ())
    changes = Options(
        max_epochs=max_epochs,
        patience=patience,
        target=until,
        plateau=plateau,
        min_delta=min_delta,
        budget_evaluations=budget_evaluations,
        budget_seconds=budget_seconds,
        budget_tokens=budget_tokens,
        budget_usd=budget_usd,
        budget_calls=budget_calls,
        block_after=block_after,
        max_wait=max_wait,
        prices=price or None,
    )
    name = context.full_slug(slug)
    with own_stdout(context.output) as output:
        if not changes.given() and _already_finished(context, output, name):
            return 0
        if changes.given():
            check_unblocked(context.notebook(name), block_after)
        folder = context.working_folder()
        return run_session(
            output, lambda callbacks, _: Session.resume(folder, name, changes, callbacks), name
        )


def start_or_resume(request: Request) -> Callable[[Sequence[Any], str], Session]:
    """Prepares a new experiment, or, where its process died, goes on with it."""
    from autopilot.engine.request import Options
    from autopilot.engine.session import Session

    def prepare(callbacks: Sequence[Any], slug: str) -> Session:
        if slug:
            return Session.resume(request.folder, slug, Options(), callbacks)
        return Session.start(request, callbacks)

    return prepare


def run_session(
    output: Output,
    prepare: Callable[[Sequence[Any], str], Session],
    slug: str = "",
    *,
    score_test: bool = True,
    after: Callable[[Session], None] = lambda _: None,
) -> int:
    """Runs a session to its end in a process of its own, told as it goes; 130 if interrupted.

    Args:
        output: Prints.
        prepare: Makes the session from the callbacks, and the experiment's name where it exists.
        slug: The experiment's name where it exists.
        score_test: See `Session.run`.
        after: Called with a session that was not interrupted.
    """
    from autopilot.cli.supervising import supervised

    def work(child: Child) -> int:
        return _run_session(output, child, prepare, score_test=score_test, after=after)

    return supervised(output, work, slug)


def _run_session(
    output: Output,
    child: Child,
    prepare: Callable[[Sequence[Any], str], Session],
    *,
    score_test: bool,
    after: Callable[[Session], None],
) -> int:
    from autopilot.ai.model.prices import use_prices
    from autopilot.cli.pages.progress import Reporter
    from autopilot.engine.board import Attendant

    reporter = Reporter(output, is_first=child.is_first)
    session = prepare([reporter, Attendant(child.board)], child.slug)
    experiment = session.trainer.experiment
    experiment.positions, experiment.died = child.board, child.deaths
    # What a resumed run was started with holds too.
    use_prices(session.options.prices or ())
    reporter.max_epochs, reporter.rescued = session.max_epochs, session.store.rescued
    reporter.as_users = session.workspace.as_users
    try:
        if child.is_first:
            for note in session.notes:
                output.line(f"note: {note}")
            output.line(_headline(session))
        if child.is_first and session.split_sizes[1] != "no":
            output.line(session.trainer.judges_by())
        result = session.run(score_test=score_test)
    except BaseException:
        session.discard()
        raise
    finally:
        reporter.stop()
    _summarize(output, session, result)
    output.document(_document(session, result))
    if result.interrupted:
        return INTERRUPTED
    after(session)
    return 0


def _headline(session: Session) -> str:
    manifest = session.manifest
    parameters = session.module.parameters()
    files = sum(len(p.files()) for p in parameters if hasattr(p, "files"))
    train, val = session.split_sizes
    return (
        f"{session.slug}: {_count(len(parameters), 'parameter')} ({_count(files, 'tracked file')})"
        f", base {manifest.base[:7]} ({manifest.base_branch}), {train} train / {val} val items"
    )


def _summarize(output: Output, session: Session, result: Result) -> None:
    slug, epochs = session.slug, session.trainer.experiment.history
    spent_s = f"{result.cost.seconds:.1f} s"
    counts = f"{_count(result.epochs, 'epoch')}, {result.kept} kept, {spent_s}"
    if result.interrupted:
        output.line(f"interrupted {result.stop_reason}: {counts}", "yellow")
        _tell_spending(output, session)
        output.line(f"go on: autopilot resume {slug}")
        return
    output.line(f"stopped: {result.stop_reason}. {counts}")
    _tell_spending(output, session)
    monitor = session.trainer.monitor
    best = f"best: epoch {result.best_epoch}"
    if result.best is not None:
        best += f", {progressed(monitor, result.baseline, result.best, session.trainer.mode)}"
    best += f", {tested}" if (tested := test_gain(result.test)) else ""
    output.line(best, "bold")
    _tell_unmeasured(output, session)
    for remark in session.remarks:
        output.line(f"note: {remark}")
    for verdict in ("kept", "rejected"):
        tried = Counter(_tried(r) for r in epochs if r.verdict == verdict)
        if tried:
            listed = ", ".join(f"{name} ({n}x)" if n > 1 else name for name, n in tried.items())
            output.line(f"{verdict}: {listed}")
    blocked = session.trainer.experiment.memory.blocked()
    if blocked:
        whys = set(blocked.values())
        why = f" ({whys.pop()})" if len(whys) == 1 else ""
        output.line(f"blocked: {', '.join(blocked)}{why}")
    base, branch = session.manifest.base_branch, f"autopilot/{slug}"
    onto, into = "", ""
    if base == "HEAD detached":
        base, onto, into = session.manifest.base[:7], " --onto BRANCH", " --into BRANCH"
    if result.best_epoch == 0:
        unsure = any(reason.startswith("indecisive") for r in epochs for reason in r.reasons)
        told = "was significantly better" if unsure else "was better"
        output.line(f"nothing {told} than the baseline: autopilot report {slug} --md says why")
        return
    output.line(f"read it:   git log -p {base}..{branch}")
    output.line(f"           autopilot log {slug} --graph")
    output.line(f"net change: git diff {base}...{branch}")
    if session.workspace.in_place:
        output.line("take it:   it is in your checkout: git diff, then git commit")
    else:
        output.line(f"review it: autopilot propose create {slug}{onto}")
        output.line(
            f"take it:   autopilot promote execute {slug}{into}    (or git merge --squash {branch})"
        )


def _tell_unmeasured(output: Output, session: Session) -> None:
    """The items that gave no result in any epoch, and what failed in the test split."""
    from autopilot.core.failures import reason
    from autopilot.text import redact

    epochs, items = _never_measured(session)
    if items:
        whys = Counter(reason(item) for item in items)
        listed = "; ".join(why for why, _ in whys.most_common(3))
        some = f"{len(items)} of {_count(len(session.trainer.experiment.best_items), 'val item')}"
        output.line(
            f"{some} could not be measured in {_count(epochs, 'epoch')}: {redact(listed)}", "yellow"
        )
    for text in session.trainer.failures.lines("test", tracebacks=output.verbose):
        output.line(redact(session.workspace.as_users(text)), "yellow")


def _never_measured(session: Session) -> tuple[int, list[Datum]]:
    from autopilot.core.failures import never_measured
    from autopilot.core.records.record import TraceRecord

    experiment = session.trainer.experiment
    # What has a result in the best state is not among them: mostly, no record is read.
    if all(item.outcome not in ("error", "unmeasured") for item in experiment.best_items):
        return 0, []
    traces = [
        t for _, t in experiment.store.records(TraceRecord) if t.split == "val" and not t.repeat
    ]
    return never_measured(trace.data() for trace in reversed(traces))


def _tell_spending(output: Output, session: Session) -> None:
    """What model calls cost, all of them and by role; nothing where there were none."""
    ledger = session.trainer.run.ledger
    if not ledger.by_role():
        return
    output.line(f"models: {ledger.total().render()}")
    for role, spent in ledger.by_role().items():
        output.line(f"  {role}: {spent.render()}")


def _tried(record: MetricsRecord) -> str:
    from autopilot.core.records.message import one_line

    without = record.outcome if record.outcome in ("unchanged", "failed") else "unnamed"
    return one_line(record.strategy) or without


def _document(session: Session, result: Result) -> dict[str, Any]:
    return {
        "experiment": session.slug,
        "branch": f"autopilot/{session.slug}",
        "base": session.manifest.base,
        "monitor": session.trainer.monitor,
        "stop_reason": result.stop_reason,
        "interrupted": result.interrupted,
        "epochs": result.epochs,
        "kept": result.kept,
        "best_epoch": result.best_epoch,
        "baseline": result.baseline,
        "best": result.best,
        "metrics": result.metrics,
        "test": result.test,
        "cost": result.cost,
        "models": session.trainer.run.ledger.by_role(),
        "never_measured": [item.id for item in _never_measured(session)[1]],
    }


def _forecast(output: Output, request: Any) -> int:
    from autopilot.engine.preflight import forecast

    found = forecast(request)
    for line in found.lines():
        output.line(line)
    output.document(found)
    return 0


def _already_finished(context: Context, output: Output, slug: str) -> bool:
    notebook = context.notebook(slug)
    status = notebook.status
    if status.state != "finished":
        return False
    output.line(f"{slug} is finished: {status.detail}")
    how = _unblocked_by(notebook)
    if how:
        output.line(f"allow a strategy first: {how}")
    output.line(f"more of it: autopilot resume {slug} --max-epochs N, or --patience N")
    output.document({"experiment": slug, "finished": True, "stop_reason": status.detail})
    return True


def check_unblocked(notebook: Notebook, block_after: int | None = None) -> None:
    """Stops a run from going on that would end at once.

    Args:
        notebook: The experiment.
        block_after: As it is resumed with.

    Raises:
        ExperimentError: it ended since every strategy is blocked, and they still are.
    """
    from autopilot.core.rules import ALL_BLOCKED

    how = _unblocked_by(notebook, block_after)
    if how:
        raise ExperimentError(f"{notebook.slug} cannot go on: {ALL_BLOCKED}", hint=how)


def _unblocked_by(notebook: Notebook, block_after: int | None = None) -> str:
    """What lets an experiment go on all of whose strategies are blocked; empty where one is not."""
    from autopilot.core.rules import ALL_BLOCKED
    from autopilot.tracking.holding import memory_of

    status = notebook.status
    if status.state not in ("finished", "stopped") or status.detail != ALL_BLOCKED:
        return ""
    strategies = set(notebook.manifest.strategies)
    blocked = memory_of(notebook, block_after).blocked()
    if not blocked or not strategies <= blocked.keys():
        return ""
    name = next((name for name in blocked if name in strategies), next(iter(blocked)))
    how = f"autopilot memory unblock {shlex.quote(name)} -e {notebook.slug} ({blocked[name]})"
    by_hand = memory_of(notebook, block_after=0).blocked()
    if not blocked.keys() <= by_hand.keys():
        how += f"; for all that failed: autopilot resume {notebook.slug} --block-after 0"
    return how


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
