"""A target in a checkout, ready to be evaluated: by a run, a measurement and a replay alike."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from autopilot.core.callback import Callback, RunView
from autopilot.core.experiment import Experiment
from autopilot.core.loop import Loop
from autopilot.core.module import AutoPilotModule
from autopilot.core.optimizer import Optimizer
from autopilot.core.outages import MAX_WAIT_S
from autopilot.core.records.record import Manifest, MetricsRecord
from autopilot.core.run import current_run
from autopilot.core.trainer import Trainer
from autopilot.core.trying import HandOptimizer, TryLoop
from autopilot.core.types import Datum
from autopilot.engine.board import Child
from autopilot.engine.fresh import ItemLimits
from autopilot.engine.options import Options
from autopilot.engine.target import load_target
from autopilot.errors import AutopilotError, MissingSourceError, ParameterError, UsageError
from autopilot.files import read_file, remove_file, replace_file
from autopilot.git.packing import start_packing
from autopilot.git.repository import Repository
from autopilot.git.worktrees import changed_files
from autopilot.sandbox.audit_hooks import Inputs
from autopilot.sandbox.children import Children, Watcher
from autopilot.sandbox.offline import Offline
from autopilot.sandbox.workspace import Workspace
from autopilot.text import counted, some
from autopilot.tracking.memory import lessons_before
from autopilot.tracking.parameters import (
    Scope,
    check_clean,
    check_tracked,
    dirty_files,
    in_submodule,
    scope_of,
    untracked,
)

if TYPE_CHECKING:
    from autopilot.engine.workers import Workers

_FEEDBACK_AT_MOST = 200


class Bench:
    """A target that is loaded in a checkout; the checkout becomes the process's working directory.

    Args:
        workspace: The checkout.
        manifest: The experiment's target, hyperparameters and seed.
        base: The commit whose files count as the evaluator's inputs.
        offline: Refuses network connections from before the import on; None: they are allowed.

    Attributes:
        manifest: The experiment's, with the places of the parameters.
        inputs: The files that the evaluation reads; open from before the import on.
        scopes: Where its parameters are, one each.
        children: The programs that the evaluation starts.
        redirected: What is imported from the checkout although it is installed from the user's.
        lessons: A line on the lessons that a new experiment begins with; "" without any.
        watchers: What takes down the evaluation's doings, in other processes too.

    Raises:
        AutopilotError: the target cannot be loaded, or is imported from another checkout.
    """

    def __init__(
        self, workspace: Workspace, manifest: Manifest, base: str, offline: Offline | None = None
    ) -> None:
        self.workspace, self.manifest, self.lessons = workspace, manifest, ""
        self.redirected = workspace.enter()
        links = [(link.name, link.source) for link in workspace.links]
        self.inputs = Inputs(workspace.repo, base, links, in_place=workspace.in_place)
        sources = [link.source for link in workspace.links]
        user, here = workspace.user.workdir, workspace.repo.workdir
        self.children = Children(user, here, self.redirected, sources)
        if not workspace.in_place:
            self.inputs.programs = self.children.hear
        self._workers: Workers | None = None
        # Before the import: the files that it reads and executes are inputs too.
        self.inputs.open()
        self.watchers: list[Watcher] = [self.inputs, self.children]
        if offline is not None:
            offline.begin()
            self.watchers.append(offline)
        self.load()

    def load(self) -> None:
        """Imports the target, or builds a new module for the files as they are now."""
        manifest, workspace = self.manifest, self.workspace
        self.module = load_target(
            manifest.target, workspace.folder, manifest.hparams, AutoPilotModule, workspace.repo
        )
        if manifest.by_hand:  # its own optimizer makes no step
            optimizer = partial(HandOptimizer, self.module.parameters())
            self.module.configure_optimizers = optimizer  # type: ignore[method-assign]
        workspace.check_imports()
        self.scopes = [scope_of(workspace.repo, p) for p in self.module.parameters()]
        # One that has just begun does not know them.
        parameters = {str(n): scope.path for n, scope in enumerate(self.scopes)}
        patterns = {str(n): scope.parameter.pattern for n, scope in enumerate(self.scopes)}
        self.manifest = replace(manifest, parameters=parameters, patterns=patterns)
        self.inputs.scopes = self.scopes

    def trainer(
        self,
        experiment: Experiment,
        options: Options,
        callbacks: Sequence[Callback] = (),
        loop: Loop | None = None,
        seed: int | None = None,
        max_wait_s: float | None = None,
    ) -> Trainer:
        """The trainer of an experiment.

        Args:
            options: The options of the run; the stop conditions are callbacks.
            seed: None: the manifest's.
            max_wait_s: Seconds to wait for a service that does not answer; None: as the options
                say.
        """
        limits = ItemLimits.of(options, self.module)
        if limits.jobs:
            # Few runs need it, and it imports what records model calls.
            from autopilot.engine.jobs import ForkedJobs

            experiment.jobs = ForkedJobs(limits, self.module, self.watchers)
        experiment.people.review = bool(options.review) and not experiment.only_recorded
        if max_wait_s is None:
            max_wait_s = MAX_WAIT_S if options.max_wait is None else options.max_wait
        return Trainer(
            callbacks=callbacks,
            loop=loop or (TryLoop() if self.manifest.by_hand else options.loop()),
            experiment=experiment,
            accumulate_grad_batches=options.accumulate,
            monitor=options.monitor,
            mode=options.mode,
            failed_value=options.failed_value,
            seed=self.manifest.seed if seed is None else seed,
            num_workers=options.num_workers or 0,
            measure_noise=options.measure_noise,
            repeat=options.repeat or 1,
            max_wait_s=max_wait_s,
        )

    def hire(self, options: Options, experiment: Experiment, *, is_checked: bool) -> None:
        """Lets workers measure, if the options say so, once one has shown that it can.

        Raises:
            UsageError: none answers, or it cannot.
        """
        if options.executor is None and options.origin:
            why = "--origin says where workers fetch commits, and the run has no workers"
            raise UsageError(why, hint="add --executor dask://ADDRESS, or leave out --origin")
        if options.executor is not None:
            # Few runs need it, and it imports what records model calls.
            from autopilot.engine.workers import workers_of

            place = self.module, self.workspace, self.manifest, self.inputs
            self._workers = experiment.machines = workers_of(options, experiment, *place)
            if self._workers is not None and not is_checked:
                self._workers.check()

    def close(self) -> None:
        """Listens no more, and ends workers."""
        self.inputs.close()
        if self._workers is not None:
            self._workers.close()

    def take_lessons(self, trainer: Trainer, optimizer: Optimizer) -> list[str]:
        """Lets a new experiment begin with the lessons of earlier ones; sentences for the user.

        Args:
            trainer: It knows what decides.

        Raises:
            ExperimentError: `--memory-from` names no experiment.
            UsageError: the optimizer does not choose by how its strategies did.
        """
        options, experiment = self.manifest.options, trainer.experiment
        if (ranking := options.get("strategies", "turn")) != "turn" and not optimizer.ranks:
            raise UsageError(
                f"--strategies {ranking}: {type(optimizer).__name__} goes by no ranking",
                hint="leave it out; rules and agents do, and an optimizer with ranks = True",
            )
        asked, names = options.get("memory_from", "all"), optimizer.strategies()
        metric, user = (trainer.monitor, trainer.mode), self.workspace.user
        taken, self.lessons, notes = lessons_before(user, asked, self.manifest, metric, names)
        experiment.manifest = replace(experiment.manifest, taken=tuple(taken))
        return notes


class Upkeep(Callback):
    """Packs the repository during a long run, and tells what the worktree lacks or is not used.

    Imports that are made late are checked; those of child processes are told.
    """

    def __init__(self, bench: Bench, child: Child) -> None:
        self._bench, self._child = bench, child
        self._feedback: list[str] = []
        self._told = set[str]()
        self._packing = 0
        self._began_s = time.time()

    def on_fit_start(self, trainer: RunView, module: AutoPilotModule) -> None:
        gc.freeze()  # what the target has imported: no search for cycles goes through it

    def on_validation_batch_end(
        self, trainer: RunView, module: object, outputs: Datum, batch: object, batch_idx: int
    ) -> None:
        if trainer.current_epoch == 0 and len(self._feedback) < _FEEDBACK_AT_MOST:
            self._feedback += [item.feedback for item in outputs.items if item.feedback]

    def on_validation_end(self, trainer: RunView, module: object) -> None:
        said = [*trainer.failures.lines("train", tracebacks=True), self._child.absent()]
        said += [*trainer.failures.lines("val", tracebacks=True), *self._feedback]
        if trainer.current_epoch == 0:
            said.append(self._bench.inputs.absent())
        self._feedback = []
        workspace = self._bench.workspace
        notes = [*workspace.lacks("\n".join(said)), *self._bench.children.strays()]
        notes += self._rewritten() if trainer.current_epoch == 0 else []
        for note in notes:
            # An earlier process of this run may have told it.
            told = note in self._told or any(note in r.reasons for r in trainer.experiment.history)
            self._told.add(note)
            if (run := current_run()) is not None and not told:
                run.note(note)

    def _rewritten(self) -> list[str]:
        """A sentence on tracked files of the worktree that an evaluation changed."""
        repo, changed = self._bench.workspace.repo, list[str]()
        if not self._bench.workspace.in_place:
            with contextlib.suppress(AutopilotError):  # git fails at a submodule that is a link
                changed = _changed_beside(repo, self._bench.scopes)
        found = [name for name in changed if _changed_s(repo.workdir / name) >= self._began_s]
        then = "the next ones find it so, a replay does not; write it where git ignores it"
        return [f"an evaluation changes {some(found)}: {then}"] if found else []

    def on_epoch_recorded(self, trainer: RunView, module: object, record: MetricsRecord) -> None:
        if record.epoch == 0:
            self._bench.workspace.check_imports()
        if not self._child.is_supervised:  # else the parent does it, for all of its children
            self._packing = start_packing(self._bench.workspace.user, self._packing)


def check_parameters(bench: Bench, *, include_dirty: bool) -> list[str]:
    """Makes sure that a run starts from the parameters as the user's checkout has them.

    Args:
        include_dirty: Uncommitted changes of them are copied into the worktree.

    Returns:
        Sentences that the user should read before it starts.

    Raises:
        ParameterError: a parameter cannot be optimized, or has uncommitted changes.
    """
    with bench.inputs.deaf():  # the user's checkout is no input
        workspace, scopes = bench.workspace, bench.scopes
        if not scopes:
            raise ParameterError(
                f"{type(bench.module).__name__} has no parameters",
                hint="declare what may change: self.rules = PathParameter('rules.txt')",
            )
        check_tracked(workspace.repo, bench.manifest.base, scopes)
        check_clean(workspace.user, scopes, include_dirty=include_dirty)
        if include_dirty and not workspace.in_place:
            # The start commit is made of the worktree's files.
            here = workspace.repo.workdir
            for name in dirty_files(workspace.user, scopes):
                source = workspace.user.workdir / name
                if source.is_symlink() or source.exists():
                    replace_file(here, name, read_file(source))
                else:
                    remove_file(here, name)
        if workspace.in_place:
            return []
        changed = _changed_beside(workspace.user, scopes)
        if not changed:
            return []
        files = f"{counted(len(changed), 'changed file')} ({some(changed)})"
        return [f"not part of the run, since not committed: {files}"]


def _changed_beside(repo: Repository, scopes: Sequence[Scope]) -> list[str]:
    """The tracked files that are not as in HEAD, of those that no parameter covers."""
    return [
        name
        for name, state in changed_files(repo, ["."]).items()
        if state in ("modified", "deleted", "conflicted")
        and not any(scope.covers(name) for scope in scopes)
    ]


def _changed_s(path: Path) -> float:
    """When a file was changed; 0 where there is none, as in a sparse checkout."""
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0


def explain_missing(workspace: Workspace, base: str, error: MissingSourceError) -> ParameterError:
    """Why a worktree lacks a parameter's source, by a look at the user's checkout."""
    user, here = workspace.user, workspace.repo.workdir
    if workspace.in_place or not Path(error.path).is_relative_to(here):
        return error
    name = Path(error.path).relative_to(here).as_posix()
    if not (user.workdir / name).exists():
        return ParameterError(
            f"the parameter {name} does not exist",
            hint="create and commit it, or correct the path: it starts at the folder that you are "
            "in, or at the target's with Path(__file__).parent",
        )
    inside = in_submodule(user, base, name)
    return inside or untracked(name, is_ignored=user.is_ignored(name))


def jobs_notes(jobs: int, loaders: Mapping[str, object]) -> list[str]:
    """A sentence for the user where processes find no items that they could share."""
    single = [s for s, loader in loaders.items() if getattr(loader, "batch_size", 0) == 1]
    if jobs < 2 or not single:
        return []
    return [
        f"--jobs {jobs} is for the items of a batch, and a batch of {', '.join(single)} has one: "
        f"DataLoader(..., batch_size={4 * jobs})"
    ]
