"""Candidates that are made and measured side by side, each in a worktree and a process of its own.

They work ahead of the loop: what they do is in the line and the progress of their candidate, where
the loop finds it when it comes to that candidate, as a resumed run finds what was done before. So
the loop is the same with and without them, and a kill of any of them loses nothing.

The process that starts them is forked before the target is loaded: each has an interpreter that
knows the state of its candidate alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import select
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from autopilot.core.callback import Callback, RunView
from autopilot.core.experiment import Experiment
from autopilot.core.fit import Fit
from autopilot.core.measured import Measured, SplitMetrics
from autopilot.core.optimizer import Optimizer
from autopilot.core.records.record import Manifest, StepRecord
from autopilot.core.run import current_run
from autopilot.core.search import SearchLoop, beside, charge, share
from autopilot.core.store import Side
from autopilot.engine.bench import Bench
from autopilot.engine.board import Child, Observer
from autopilot.engine.child_output import forked
from autopilot.engine.fresh import ItemLimits, importing_state, take_over
from autopilot.engine.known import know_others
from autopilot.engine.loading import users_code
from autopilot.engine.options import Options
from autopilot.engine.supervisor import Supervisor
from autopilot.errors import AutopilotError, ExperimentError
from autopilot.git import refs
from autopilot.git.commands import looking
from autopilot.git.locks import ExclusiveLock
from autopilot.git.repository import Repository
from autopilot.sandbox.confinement import guard_of
from autopilot.sandbox.workspace import open_workspace
from autopilot.tracking.git_store import GitStore
from autopilot.tracking.layout import Layout
from autopilot.tracking.lines import prepare
from autopilot.tracking.memory import GitMemory
from autopilot.tracking.notebook import Notebook

_LOOK_S = 0.02
# Each has a few processes: more of them would only wait for their turn, and for memory.
_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class AheadTask:
    """The candidates of an epoch, to be made and measured.

    Args:
        folder: The user's working folder.
        options: The options of the run as they hold now.
        block_after: As the run's memory has it.
    """

    folder: Path
    slug: str
    epoch: int
    sides: tuple[Side, ...]
    options: Options
    block_after: int


class Nursery:
    """The process that starts those of candidates, as the run's process sees it.

    Args:
        lock: The experiment's, which this process holds, and the candidates' do not.
    """

    def __init__(self, lock: ExclusiveLock) -> None:
        self._channel, theirs = Pipe()

        def serve() -> None:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            self._channel.close()
            lock.release()
            _serve(theirs)

        self._pid = forked(serve)
        theirs.close()

    def work(self, task: AheadTask) -> None:
        """Lets candidates be made and measured, as far as nothing stands in the way of one.

        Raises:
            ExperimentError: somebody has ended the process.
        """
        try:
            self._channel.send(task)
            try:
                self._channel.recv()
            except KeyboardInterrupt:
                self._channel.send(None)  # they end as a run does: paid calls are waited for
                self._channel.recv()
                raise
        except (EOFError, OSError) as error:
            raise ExperimentError(
                "the process that starts the candidates was ended from outside",
                hint=f"go on: autopilot resume {task.slug}",
            ) from error

    def close(self) -> None:
        """Ends it with all that it started."""
        self._channel.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)


def _serve(channel: Connection[Any, Any]) -> None:
    while True:
        try:
            task = channel.recv()
        except EOFError:
            return
        if task is None:
            continue
        with contextlib.suppress(AutopilotError), looking():
            # The forked processes have what is read here.
            notebook = Notebook(user := Repository.discover(task.folder), task.slug)
            _ = notebook.manifest, notebook.events, notebook.index.epochs.place(0)
            for place in Layout(task.slug).worktrees_beside(user):
                Repository.discover(place)
            prepare()
        alive, held = os.pipe()  # the second end is open here alone
        waiting, running = [*task.sides][::-1], set[int]()
        while waiting or running:
            while waiting and len(running) < max(_AT_ONCE, task.options.jobs or 1):
                running.add(_start(task, waiting.pop(), alive, held))
            running -= {pid for pid in running if os.waitpid(pid, os.WNOHANG)[0]}
            if running and select.select([channel], [], [], _LOOK_S)[0]:
                try:
                    channel.recv()
                except EOFError:
                    os.close(held)
                    for pid in running:
                        os.waitpid(pid, 0)
                    return
                waiting.clear()
                for pid in running:
                    os.kill(pid, signal.SIGINT)
        os.close(alive)
        os.close(held)
        channel.send(True)


def _start(task: AheadTask, side: Side, alive: int, held: int) -> int:
    def attempt(child: Child) -> int:
        with contextlib.suppress(Exception):  # the loop meets it too, and says it
            _make(task, side, child)
            return 0
        return 1

    def work() -> None:
        os.close(held)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with contextlib.suppress(AutopilotError):
            Supervisor(attempt, Observer(), task.slug, (alive,)).run()

    # Without this process, it ends by itself, with all that it started.
    return forked(work, is_bound=False)


def _make(task: AheadTask, side: Side, child: Child) -> None:
    """In a candidate's process: one attempt, from the state that it starts from."""
    user, options = Repository.discover(task.folder), task.options
    notebook = Notebook(user, task.slug)
    manifest = notebook.manifest
    ItemLimits.of(options).hold_on(child.board)
    place = f"{task.slug}@{side.number}"
    folder = user.workdir / manifest.directory
    workspace = open_workspace(user, folder, manifest, is_replacement=child.since_s > 0, name=place)
    tip = refs.read_ref(user, Layout(task.slug, side.name).branch) or side.base
    with workspace.explained(), importing_state(child, workspace, manifest, tip):
        bench = Bench(workspace, manifest, manifest.base)
        store = GitStore(task.slug, workspace.repo, in_place=False, is_guest=True)
        with users_code(manifest.target):
            store.bind(bench.module.parameters())
            imported = store.files.present(write=False)
        experiment = Experiment(store, GitMemory(store, task.block_after), manifest)
        experiment.is_guest, experiment.died = True, child.deaths
        take_over(experiment, child, store.files, options.fresh or bench.module.fresh, imported)
        experiment.is_replacement = True
        turns = _Turns(store, task, side, child)
        loop = _OneAttempt(task, side, turns)
        own = replace(options, jobs=options.jobs and max(1, options.jobs // len(task.sides)))
        conditions = options.conditions(alone=False)
        trainer = bench.trainer(experiment, own, [*conditions, turns], loop)
        ItemLimits.of(options, bench.module).hold_on(child.board)
        with users_code(manifest.target):
            trainer.prepare(bench.module)
        bench.hire(own, experiment, is_checked=True)
        experiment.guard = guard_of(workspace, task.slug, bench.scopes, bench.inputs, store)
        know_others(bench, options, experiment, child, imported)
        with contextlib.closing(bench), contextlib.closing(turns):
            trainer.fit(bench.module)


class _OneAttempt(SearchLoop):
    """Makes and measures one candidate, and judges nothing."""

    def __init__(self, task: AheadTask, side: Side, turns: _Turns) -> None:
        super().__init__()
        loop = task.options.loop()
        self.strategies, self.gates = loop.strategies, loop.gates
        self._task, self._side, self._turns = task, side, turns

    def run(self, fit: Fit) -> str:
        state = fit.optimizer.state_dict()
        fit.start_epoch(self._task.epoch)
        fit.ledger.leave(len(self._task.sides))  # so that all together keep within the budget
        charge(fit, [self._side])
        with beside(fit, self._side, self._task.sides, state) as attempt:
            self._attempt(fit, attempt, ())
        return ""

    def train(self, fit: Fit) -> SplitMetrics:
        self._turns.take(fit)
        return super().train(fit)

    def validate(self, fit: Fit) -> Measured:
        self._turns.take(fit)
        return super().validate(fit)


class _Turns(Callback):
    """Lets `--jobs` candidates measure at once, and those of one state one after the other.

    The second one of a state finds the results of the first. An agent at work measures nothing.
    """

    def __init__(self, store: GitStore, task: AheadTask, side: Side, child: Child) -> None:
        self._child, self._held = child, list[int]()
        self._others = [each for each in task.sides if each != side]
        self._folder = Layout(task.slug, side.name).progress(store.repo).parent
        self._slots = [f"slot-{number}" for number in range(task.options.jobs or 1)]

    def on_fit_start(self, trainer: RunView, module: object) -> None:
        self._child.board.opened(trainer.experiment.slug, math.inf)

    def on_before_optimizer_step(
        self, trainer: RunView, module: object, optimizer: Optimizer
    ) -> None:
        self.close()

    def on_step_committed(self, trainer: RunView, module: object, record: StepRecord) -> None:
        if isinstance(run := current_run(), Fit):
            self.take(run)

    def take(self, fit: Fit) -> None:
        """Waits for its turn to measure the present state."""
        self.close()
        self._wait([f"state-{fit.experiment.now.state}"])
        share(fit, self._others)
        self._wait(self._slots)

    def _wait(self, names: Sequence[str]) -> None:
        """Takes one of the locks."""
        self._folder.mkdir(parents=True, exist_ok=True)
        while True:
            for name in names:
                place = self._folder / f"{name}.lock"
                handle = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(handle)
                else:
                    self._held.append(handle)
                    return
            time.sleep(_LOOK_S)

    def close(self) -> None:
        """Gives all locks back."""
        while self._held:
            os.close(self._held.pop())


class Ahead(Callback):
    """Lets candidates be made and measured side by side, ahead of the loop."""

    def __init__(self, nursery: Nursery, folder: Path, options: Options) -> None:
        self._nursery, self._folder, self._options = nursery, folder, options

    def on_candidates(self, trainer: RunView, module: object, sides: Sequence[Side]) -> None:
        experiment = trainer.experiment
        for side in sides:  # so that each process finds its line
            experiment.store.enter(side)
        experiment.store.enter(None)
        block_after = experiment.memory.block_after
        epoch = trainer.current_epoch
        task = AheadTask(
            self._folder, experiment.slug, epoch, tuple(sides), self._options, block_after
        )
        self._nursery.work(task)

    def teardown(self, trainer: RunView, module: object, stage: str) -> None:
        self._nursery.close()


def working_ahead(
    child: Child, user: Repository, manifest: Manifest, options: Options, lock: ExclusiveLock
) -> list[Ahead]:
    """The callback of a run whose epochs have several candidates; none of any other run.

    To be called before there is anything of the user's in this process.
    """
    is_apart = child.is_supervised and not manifest.in_place
    if not is_apart or max(options.proposals or 1, options.parents or 1) == 1:
        return []
    return [Ahead(Nursery(lock), user.workdir, options)]
