"""Commands of `autopilot try`: you edit, it measures, keeps or takes back, and remembers."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, replace
from typing import Annotated, Any

from autopilot.ai.prices import use_prices
from autopilot.cli import arguments, running
from autopilot.cli.arguments import option
from autopilot.cli.context import Context
from autopilot.cli.output import INTERRUPTED, Output, own_stdout
from autopilot.cli.pages import trying as pages
from autopilot.cli.pages.progress import Reporter
from autopilot.command.options import TaskOptions
from autopilot.core.trying import LookLoop
from autopilot.core.types import Result
from autopilot.engine.beside import Prepare
from autopilot.engine.board import Attendant, Child
from autopilot.engine.options import BUDGETS, CHANGEABLE, NO_OPTIONS, Options
from autopilot.engine.session import Session
from autopilot.engine.trying import HOW, Trial, TryPlace, loop_of, open_trial, settle
from autopilot.errors import AutopilotError, ExperimentError, ModuleError, UsageError
from autopilot.git.repository import Repository
from autopilot.text import flag, redact
from autopilot.tracking.finding import open_tries, user_of
from autopilot.tracking.holding import stopped
from autopilot.tracking.notebook import Notebook

# An optimizer's patience and number of epochs are no limits for a person.
_OF_OPTIMIZERS = (
    *("max_epochs", "patience", "target", "plateau", "min_delta", "block_after", "accumulate"),
    *("boldness", "review", "log_to", "screen", "race"),
)
_STARTED_WITH = tuple(f.name for f in fields(Options) if f.name not in _OF_OPTIMIZERS)
_AGENTS = "agent", "model", "sampler"
_TASK = tuple(f.name for f in fields(TaskOptions) if f.name not in _AGENTS)
_CHANGEABLE = tuple(name for name in _STARTED_WITH if name in CHANGEABLE)
Name = Annotated[
    str | None,
    option(
        "The experiment; the one that is open here if not given.",
        "--slug",
        "-e",
        metavar="NAME",
        autocompletion=arguments.experiment_names,
    ),
]


def edit(
    context: Context,
    slug: Name = None,
    message: Annotated[
        str | None,
        option(
            "What you changed: measure it, and keep it or take it back. In 'cache: smaller', "
            "cache is its strategy.",
            "-m",
            metavar="TEXT",
        ),
    ] = None,
    undo: Annotated[
        bool,
        option(
            "Take back what you edited since the last verdict; without such edits, the last "
            "kept one."
        ),
    ] = False,
    *,
    changes: Annotated[Options, *_CHANGEABLE],
) -> int:
    """Edit by hand, and let it be measured, kept or taken back.

    `start` measures the baseline and prints where to edit. After each edit, -m measures it as an
    epoch: val decides, a better state is kept, any other is taken back and can be read all the
    same. Without -m it shows where the experiment stands.

    \b
    autopilot try start support/classifier.py
    autopilot try -m "rules: add words for billing"
    autopilot try --undo
    autopilot try done
    """
    if message is not None and undo:
        raise UsageError("-m and --undo do not go together", hint="leave one of them out")
    if message is not None and not message.strip():
        raise UsageError("the message is empty", hint=HOW)
    user, slug = _open(context, slug)
    if message is None and not undo:
        if changes.given():
            raise UsageError("nothing is measured without a message", hint=HOW)
        return _tell_status(context.output, user, slug)
    if undo:
        with stopped(user, slug):
            place = TryPlace(user, slug)
            names, kept = place.take_back()
        if names:
            return _tell_taken_back(context.output, place, names, kept)
    use_prices(changes.prices or ())
    with own_stdout(context.output.go_on()) as output, _own_hints(slug):
        return running.supervised(
            output,
            lambda child: _measure(output, user, slug, message or "", changes, child, undo=undo),
            user.workdir,
            slug,
            again=f"{HOW} -e",
        )


def start(
    context: Context,
    target: arguments.Target = None,
    slug: arguments.NewName = None,
    *,
    task: Annotated[TaskOptions, *_TASK],
    options: Annotated[Options, *_STARTED_WITH],
    more: arguments.StartOptions,
) -> int:
    """Begin an experiment whose steps are your edits: measure the baseline.

    You edit in a worktree, whose path is printed, or in your checkout with --in-place. With -e and
    no TARGET, one that was begun is made ready again.

    \b
    autopilot try start support/classifier.py
    autopilot try start support/classifier.py --in-place --budget-evaluations 2000
    autopilot try start --edit 'src/**/*.py' --eval 'python bench.py' --metric seconds --mode min
    """
    user, here = user_of(context.repository())
    known = context.full_slug(slug) if slug else None
    is_known = target is None and not task.given() and known in open_tries(user)
    if here is not None and not is_known:
        raise UsageError(
            f"{user.workdir} is where experiments begin, not a worktree of {here}",
            hint=f"cd {shlex.quote(str(user.workdir))}",
        )
    request = None
    if not is_known:
        options = replace(options, block_after=0)
        request = context.run_request(
            target, task, options, slug=slug, by_hand=True, **asdict(more)
        )

    def prepare(callbacks: Sequence[Any], child: Child) -> Session:
        if request is None or child.slug:
            name = child.slug or str(known)
            session, _ = open_trial(user, name, None, NO_OPTIONS, callbacks, child)
        else:
            session = Session.start(request, callbacks, child)
        if session.split_sizes[1] == "no":
            session.discard(keep=False)
            raise ModuleError(
                "there is no val split to judge an edit by", hint="define val_dataloader()"
            )
        return session

    def tell_ready(output: Output, session: Session, result: Result) -> None:
        settle(session.user, session.slug)
        place = TryPlace(session.user, session.slug)
        if result.interrupted:
            output.line(f"interrupted; go on: autopilot try start -e {session.slug}", "yellow")
        else:
            output.line(f"edit:   {', '.join(place.what)} in {place.path}")
            output.lines([f"then:   {HOW}", "end:    autopilot try done"])
        output.document(pages.standing(place))

    with own_stdout(context.output) as output:
        folder = user.workdir if request is None else request.folder
        how = Prepare(folder, prepare)
        slug = str(known) if is_known else ""
        return running.run_session(output, how, slug, score_test=False, summarize=tell_ready)


def status(context: Context, slug: Name = None) -> int:
    """Show where the experiment stands: the best, what was tried, what is left.

    \b
    autopilot try status
    """
    return _tell_status(context.output, *_open(context, slug))


def brief(
    context: Context,
    slug: Name = None,
    max_chars: Annotated[
        int, option("The largest number of characters.", metavar="N", min=2000)
    ] = 20_000,
    *,
    changes: Annotated[Options, *_CHANGEABLE],
) -> int:
    """Show what an editing agent would be told before its step.

    The goal, what may be edited, the score, failing items of the train split with input, output,
    expected and feedback, what worked and what failed. The train split is measured for it, once a
    state; without one, the feedback on val items stands in. Nothing else of a val item is shown.

    \b
    autopilot try context
    """
    user, name = _open(context, slug)
    with own_stdout(context.output) as output:
        if pages.look_at(Notebook(user, name)) is None:
            use_prices(changes.prices or ())
            with _own_hints(name):
                code = running.supervised(
                    output,
                    lambda child: _look(output, user, name, changes, child),
                    user.workdir,
                    name,
                    again="autopilot try context -e",
                )
            if code:
                return code
        text = redact(pages.context_of(TryPlace(user, name)).render(max_chars))
        if not output.as_json:
            output.raw(text.encode() + b"\n")
        output.document(experiment=name, markdown=text)
    return 0


def done(context: Context, slug: Name = None) -> int:
    """End the experiment: score the test split on baseline and best, remove the worktree.

    \b
    autopilot try done
    """
    user, name = _open(context, slug)

    def prepare(callbacks: Sequence[Any], child: Child) -> Session:
        session, _ = open_trial(user, name, None, NO_OPTIONS, callbacks, child)
        loop_of(session).reason = "ended by autopilot try done"
        return session

    def tell_end(output: Output, session: Session, result: Result) -> None:
        running.print_summary(output, session, result)
        if not result.interrupted:
            Notebook(user, name).layout.trying(user).unlink(missing_ok=True)

    with own_stdout(context.output) as output:
        how = Prepare(user.workdir, prepare)
        return running.run_session(output, how, name, summarize=tell_end)


COMMANDS = {"": edit, "start": start, "status": status, "context": brief, "done": done}


def _open(context: Context, slug: str | None) -> tuple[Repository, str]:
    """The user's checkout and the experiment that is meant.

    Raises:
        ExperimentError: there is none, it is finished, or its steps are not made by hand.
        UsageError: several are open.
    """
    user, here = user_of(context.repository())
    if slug is not None or here is not None:
        notebook = Notebook(user, context.full_slug(slug) if slug else str(here))
        state = notebook.status
        if not notebook.manifest.by_hand:
            raise ExperimentError(
                f"{notebook.slug} has an optimizer of its own",
                hint=f"go on with it: {notebook.goes_on_by}; begin one by hand: autopilot try "
                "start TARGET",
            )
        if state.state == "finished":
            raise ExperimentError(
                f"{notebook.slug} is finished",
                hint=f"read it: autopilot log {notebook.slug}; begin another: autopilot try start",
            )
        return user, notebook.slug
    tries = open_tries(user, context.project)
    if not tries:
        raise ExperimentError(
            "there is no experiment to try an edit in", hint="begin one: autopilot try start TARGET"
        )
    if len(tries) > 1:
        raise UsageError(
            f"{len(tries)} experiments are open: {', '.join(tries)}",
            hint=f"name one with -e, as in: autopilot try -e {tries[-1]}",
        )
    return user, tries[0]


@contextlib.contextmanager
def _own_hints(slug: str) -> Iterator[None]:
    """Errors of the body say how an edit is tried, where they would say how a run is resumed."""
    try:
        yield
    except AutopilotError as error:
        error.hint = error.hint.replace(f"autopilot resume {slug}", HOW)
        raise


# --- measuring an edit ----------------------------------------------------------------------------


class _Quiet(Reporter):
    """The live line alone: the answer follows."""

    def _line(self, text: str, verdict: str = "") -> None:
        pass


def _measure(
    output: Output,
    user: Repository,
    slug: str,
    message: str,
    changes: Options,
    child: Child,
    *,
    undo: bool,
) -> int:
    reporter = _Quiet(output, is_first=child.is_first)
    callbacks = [reporter, Attendant(child)]
    with _own_hints(slug):
        session, trial = open_trial(user, slug, message, changes, callbacks, child, undo=undo)
    assert trial is not None, "there is a message"
    try:
        with _own_hints(slug):
            result = _ended(session, reporter)
        place, spent, ended = TryPlace(user, slug), loop_of(session).spent, result.interrupted
        if (ended or spent) and not trial.has_verdict(place.notebook):
            why = f"interrupted {result.stop_reason}" if ended else spent
            _tell_unmeasured(output, place, trial, why, is_begun=ended)
            return INTERRUPTED if ended else 1
        output.lines(["interrupted, after the verdict"] * ended)
        known = pages.verdict(place, trial)
        first, *rest = pages.verdict_lines(place, trial, known)
        output.line(first, "green" if known["verdict"] == "kept" else "yellow")
        output.lines(rest)
        output.document(known)
    except KeyboardInterrupt as interrupt:
        if trial.has_verdict(Notebook(user, slug)):
            interrupt.add_note(f"the edit has its verdict: autopilot show {trial.epoch} -e {slug}")
        raise
    return INTERRUPTED if ended else 0


def _look(output: Output, user: Repository, slug: str, changes: Options, child: Child) -> int:
    """Gathers the facts on the best state that a context has beside the records."""
    reporter = _Quiet(output, is_first=child.is_first)
    with _own_hints(slug):
        callbacks = [reporter, Attendant(child)]
        session, _ = open_trial(user, slug, None, changes, callbacks, child, look=True)
        result = _ended(session, reporter)
    loop = session.trainer.loop
    if isinstance(loop, LookLoop) and loop.spent:
        output.warning(f"the train split is not measured: {loop.spent}")
    if result.interrupted:
        output.line(f"interrupted {result.stop_reason}; again: autopilot try context", "yellow")
        output.document(experiment=slug, interrupted=True)
        return INTERRUPTED
    return 0


def _ended(session: Session, reporter: Reporter) -> Result:
    """Runs a session; its files are then as whoever edits them expects."""
    use_prices(session.options.prices or ())
    reporter.sizes = session.split_sizes
    try:
        with running.discarded_on_failure(session, reporter):
            return session.run(score_test=False)
    finally:
        settle(session.user, session.slug)


def _tell_unmeasured(
    output: Output, place: TryPlace, trial: Trial, why: str, *, is_begun: bool
) -> None:
    option = flag(BUDGETS.get(why.partition(" ")[0], "budget_..."))
    then = f"{HOW} goes on" if is_begun else f"{HOW} {option} N"
    ways = f"{then}; autopilot try --undo takes it back; autopilot try done ends"
    output.line(f"{place.slug}: not measured: {why}", "yellow")
    output.line(f"your edit is in the files, and kept as {trial.revision[:10]}")
    output.line(f"next: {ways}")
    document = {"verdict": None, "why": why, "snapshot": trial.revision, "next": ways}
    output.document(pages.standing(place) | document)


def _tell_status(output: Output, user: Repository, slug: str) -> int:
    place = TryPlace(user, slug)
    standing = pages.standing(place)
    output.lines(pages.status_lines(place, standing))
    output.document(standing)
    return 0


def _tell_taken_back(output: Output, place: TryPlace, names: list[str], kept: str) -> int:
    output.line(
        f"taken back: {', '.join(names[: pages.NAMES])}; the edit is kept: git show {kept[:10]}"
    )
    output.line(f"next: edit, then {HOW}")
    after = TryPlace(place.user, place.slug)
    output.document(pages.standing(after), taken_back=names, snapshot=kept)
    return 0
