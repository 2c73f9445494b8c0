"""A run, looked at before it starts: `autopilot optimize preflight`, `autopilot run --dry-run`.

The checks are those of the run itself, made where it would work: in a worktree of its own, which
is gone afterwards. One item is evaluated. Nothing is written to the repository.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

from autopilot.core import graph
from autopilot.core.experiment import Experiment
from autopilot.core.failures import reason
from autopilot.core.figures import direction_words
from autopilot.core.items import as_batch
from autopilot.core.measured import SplitMetrics
from autopilot.core.module import name_parameters
from autopilot.core.outages import Outages, transient_errors_of
from autopilot.core.progress import Position
from autopilot.core.records.record import TASK
from autopilot.core.run import Run, running
from autopilot.core.setup_checks import check_gates
from autopilot.core.types import Datum
from autopilot.engine.board import Child
from autopilot.engine.loading import users_code
from autopilot.engine.request import Request, name_of
from autopilot.engine.session import Session
from autopilot.engine.target import committed_target
from autopilot.errors import (
    AgentError,
    AutopilotError,
    DataError,
    EvaluationError,
    ModuleError,
    ParameterError,
    TargetError,
)
from autopilot.git.repository import DEFAULT_IDENTITY, Repository
from autopilot.sandbox.offline import Offline
from autopilot.tracking.outputs import WrittenPath, output_lines, tell

CheckState = Literal["ok", "warning", "failed"]
LOOK_S = 600.0
"""How long a look may take where the user gave no time budget: it is no run, and must end."""
_ITEMS = 10


@dataclass(frozen=True, slots=True)
class Check:
    """One check and its result.

    Args:
        state: "ok", "warning" (a run starts nevertheless) or "failed".
        mend: How to mend it; "" where nothing is to be mended.
    """

    name: str
    state: CheckState
    detail: str
    mend: str = ""

    @classmethod
    def of(cls, name: str, error: AutopilotError) -> Check:
        """A failed check."""
        return cls(name, "failed", error.message, error.hint)

    def line(self) -> str:
        """For a person."""
        return f"{self.state:<8} {self.name}: {self.detail}"


_CHECK_OF: dict[type[AutopilotError], str] = {
    TargetError: "module",
    ParameterError: "parameters",
    DataError: "data",
    ModuleError: "set-up",
}


def preflight(request: Request, child: Child | None = None) -> list[Check]:
    """Checks everything in the order of a run, up to the first check that fails."""
    checks, lines = list[Check](), list[str]()
    with contextlib.closing(_checks(_in_time(request), child, lines)) as found:
        for check in found:
            checks.append(check)
            if check.state == "failed":
                break
    return [*checks, *(Check("outputs", "ok", line) for line in lines)]


def _in_time(request: Request) -> Request:
    """The request with an end of the look, where the user gave none."""
    seconds = request.options.budget_seconds
    options = replace(request.options, budget_seconds=LOOK_S if seconds is None else seconds)
    return replace(request, options=options)


def _checks(request: Request, child: Child | None, lines: list[str]) -> Generator[Check]:
    try:
        user = Repository.discover(request.folder)
        base = user.head_commit()
        yield Check("repository", "ok", f"{user.workdir}, {base[:7]} ({user.head_name()})")
        if user.identity() == DEFAULT_IDENTITY:
            yield Check(
                "identity", "warning", "git does not know who you are", "git config user.name NAME"
            )
    except AutopilotError as error:
        yield Check.of("repository", error)
        return
    try:
        target = committed_target(user, base, request.folder, request.target)
        if target.text != TASK:
            yield Check("target", "ok", f"{target.text} is committed")
        yield Check("experiment", "ok", f"it would be {name_of(user, target, request)}")
    except AutopilotError as error:
        yield Check.of("target", error)
        return
    try:
        session = Session.start(request, child=child)
    except AutopilotError as error:
        name = next((name for kind, name in _CHECK_OF.items() if isinstance(error, kind)), "start")
        lines += getattr(error, "__notes__", ())
        yield Check.of(name, error)
        return
    try:
        yield from _of_session(session)
    finally:
        session.discard(keep=False)
        lines += output_lines(session.outputs)


def _of_session(session: Session) -> Iterator[Check]:
    module = session.module
    name_parameters(module)
    listed = ", ".join(f"{scope.path} ({len(scope.files())})" for scope in session.bench.scopes)
    yield Check("module", "ok", f"{type(module).__name__} loads in a worktree of its own")
    yield Check("parameters", "ok", f"tracked and clean: {listed}")
    for detail in module.details():
        yield Check("command", "ok", detail)
    train, val = session.split_sizes
    yield Check("data", "ok", f"{train} train, {val} val items")
    for note in session.notes:
        yield Check("data", "warning", note)
    if session.bench.lessons:
        yield Check("memory", "ok", session.bench.lessons.removeprefix("memory: "))
    kinds = (session.setup.optimizer, session.setup.loss, session.setup.policy)
    yield Check("set-up", "ok", ", ".join(type(each).__name__ for each in kinds))
    yield Check("limits", "ok", str(session.limits))
    try:
        with session.workspace.explained(), users_code(session.manifest.target):
            yield from one_item(session)
    except AutopilotError as error:
        yield Check.of("evaluation", error)


def one_item(session: Session, *, live: bool = True) -> Iterator[Check]:
    """Evaluates the first val item, or the first train item where there is no val split.

    Where it has no score, and no model was asked, the next items are evaluated until one has.

    Args:
        live: Whether model calls are made.

    Raises:
        ReplayMissError: a model call is needed and not live.
        EvaluationError: nothing scores it.
    """
    module, trainer = session.module, session.trainer
    val, train = module.val_dataloader(), module.train_dataloader()
    split, loader = ("val", val) if val is not None else ("train", train)
    assert loader is not None, "the session's start looks at that"
    # One in memory: nothing of this evaluation is recorded.
    experiment = Experiment()
    experiment.only_recorded = not live
    experiment.jobs = trainer.experiment.jobs
    experiment.open(module.parameters())
    experiment.positions = session.child.board
    session.limits.hold_on(session.child.board)
    outages = Outages(types=transient_errors_of(module))
    run, started = Run(experiment, outages=outages), time.perf_counter()
    measured = SplitMetrics(module, keep_items=True)
    with graph.no_grad(), running(run):
        module.eval()
        evaluator = trainer.evaluator(module, experiment)
        for index, batch in enumerate(_first_items(split, loader)):
            measured.update(evaluator.run(Position(split, 0, index), batch))
            item = measured.items[-1]
            scored = measured.is_scored(trainer.monitor)
            if scored or item.outcome != "unscored" or run.ledger.total().calls:
                break
    seconds = (time.perf_counter() - started) / (index + 1)
    if item.outcome in ("error", "unmeasured"):
        lacks = session.workspace.lacks(f"{item.error_message}\n{session.child.absent()}")
        mend = "; ".join(lacks) or "mend the evaluation and commit it"
        yield Check("evaluation", "failed", f"{split} item {item.id}: {reason(item)}", mend)
        return
    metrics, monitor = measured.compute(), trainer.monitor
    measured.check_scored(split, monitor)
    verdict = {"passed": "passed", "failed": "did not pass"}.get(
        item.outcome, "has a score" if monitor in metrics else "has no score"
    )
    yield Check("evaluation", "ok", f"{split} item {item.id} {verdict}, {seconds:.2f} s")
    if val is not None and monitor not in metrics:
        names = ", ".join(sorted(metrics)) or "none"
        yield Check(
            "monitor", "failed", f"there is no metric {monitor!r}", f"monitor one of: {names}"
        )
        return
    try:
        check_gates(session.setup.policy, {split: metrics}, monitor)
    except AutopilotError as error:
        yield Check.of("gates", error)
        return
    yield Check("monitor", "ok", trainer.judges_by())
    yield _cost(session, run, seconds)


def _first_items(split: str, loader: Iterable[Any]) -> list[Datum]:
    for batch in islice(loader, 1):
        first = as_batch(batch)
        if not first.items:
            return [first]
        items = islice(first.leaves(), _ITEMS)
        return [Datum(items=[item], metadata=dict(first.metadata)) for item in items]
    raise DataError(f"the {split} split is empty", hint=f"look at {split}_dataloader()")


def _cost(session: Session, run: Run, seconds: float) -> Check:
    """The cost of an epoch and of the longest run, if all items cost the same as this one."""
    sizes = [int(size) for size in session.split_sizes if size.isdigit()]
    if session.module.ends_items:  # a split is one evaluation
        sizes += [1] * session.split_sizes.count("?")
    items, epochs = sum(sizes), session.max_epochs
    spent = run.ledger.total()
    parts = [f"{items:,} evaluations", _long(seconds * items)]
    if spent.tokens:
        parts.append(f"{spent.tokens * items:,} tokens, ${spent.cost_usd * items:.2f}")
    whole = f"at most {epochs} epochs: {_long(seconds * items * epochs)}"
    return Check("cost", "ok", f"an epoch: about {', '.join(parts)}; {whole}, steps not counted")


def _long(seconds: float) -> str:
    """A time in words, roughly."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class Forecast:
    """A run in the future, as a dry run prints it.

    Args:
        parameters: Repository path to the number of its files.
        train_items: "?" where unknown.
        first_item: The result of the first item, in words.
        limits: What an item may take, in words.
        outputs: The item's, which are gone.
        notes: Lines that the user should read before a run.
        details: How it is measured and changed, in the module's words.
    """

    experiment: str
    base: str
    parameters: Mapping[str, int]
    train_items: str
    val_items: str
    first_item: str
    monitor: str
    mode: str
    max_epochs: int
    worktree: str
    limits: str
    repeat: int = 1
    outputs: Sequence[WrittenPath] = ()
    notes: Sequence[str] = ()
    details: Sequence[str] = ()

    def lines(self) -> list[str]:
        """For a person."""
        often = f", val {self.repeat} times" if self.repeat > 1 else ""
        return [
            f"dry run: nothing was changed. {self.experiment} would",
            f"  start from {self.base[:7]} and work in {self.worktree}",
            *(f"  optimize {path} (files: {n})" for path, n in self.parameters.items()),
            *(f"  {detail}" for detail in self.details),
            f"  evaluate {self.train_items} train and {self.val_items} val items an epoch{often}",
            f"  begin with an item: {self.first_item}",
            f"  end an item by its limits: {self.limits}",
            f"  keep an epoch by val {self.monitor} ({direction_words(self.mode)}), "
            f"for at most {self.max_epochs} epochs",
            f"  commit each step to autopilot/{self.experiment}",
            *(f"  note: {note}" for note in self.notes),
            *output_lines(self.outputs),
        ]


def forecast(request: Request, child: Child | None = None) -> Forecast:
    """Starts a run in a worktree that is gone afterwards, and evaluates one item.

    The item is evaluated only as far as that costs nothing: without network and programs.

    Raises:
        AutopilotError: the run would be refused, or its baseline would stop it.
    """
    session = Session.start(_in_time(request), child=child)
    try:
        train, val = session.split_sizes
        expected = Forecast(
            experiment=session.slug,
            base=session.manifest.base,
            parameters={scope.path: len(scope.files()) for scope in session.bench.scopes},
            train_items=train,
            val_items=val,
            first_item=_first_item(session),
            monitor=session.trainer.monitor,
            mode=session.trainer.mode,
            repeat=session.trainer.repeat,
            max_epochs=session.max_epochs,
            worktree=str(session.workspace.repo.workdir),
            limits=str(session.limits),
            details=session.module.details(),
            notes=tuple(filter(None, (*session.notes, session.bench.lessons))),
        )
    except BaseException as error:
        session.discard(keep=False)
        tell(error, session.outputs)
        raise
    session.discard(keep=False)
    return replace(expected, outputs=session.outputs)


def _first_item(session: Session) -> str:
    """The result of one item, in words."""
    if session.module.ends_items:
        return "not evaluated in a dry run: it runs a command"
    offline = Offline(programs=True)
    offline.begin()
    session.bench.watchers.append(offline)
    try:
        checks = list(one_item(session, live=False))
    except AgentError:
        checks = []
    finally:
        offline.end()
    if offline.refused or not checks:
        why = f": it {offline.refused[0]}" if offline.refused else ": it asks a model"
        return f"not evaluated in a dry run{why}"
    for check in checks:
        if check.state == "failed":
            raise EvaluationError(check.detail, hint=check.mend)
    return checks[0].detail
