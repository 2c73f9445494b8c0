"""A run from its target to its summary: what `autopilot run` and `autopilot resume` do."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autopilot import __version__
from autopilot.core.callback import Callback
from autopilot.core.configuration import callbacks_of
from autopilot.core.experiment import Experiment
from autopilot.core.memory import BLOCK_AFTER
from autopilot.core.module import AutoPilotModule
from autopilot.core.outages import MAX_WAIT_S, infrastructure_in
from autopilot.core.records.record import Manifest, MetricsRecord
from autopilot.core.setup_checks import Setup, check_module, check_setup, item_count
from autopilot.core.stopping import StopCondition
from autopilot.core.trainer import Trainer
from autopilot.core.types import Result
from autopilot.engine.checks import check_parameters, explain_missing
from autopilot.engine.interrupts import interruptible
from autopilot.engine.loading import users_code
from autopilot.engine.request import (
    DEFAULT_MAX_EPOCHS,
    Options,
    Request,
    claim,
    committed_target,
)
from autopilot.engine.target import load_target
from autopilot.engine.workspace import Workspace, open_workspace, undone_on_failure
from autopilot.errors import (
    AutopilotError,
    BudgetExceededError,
    EmptySplitError,
    ExperimentError,
    LockHeldError,
    MissingSourceError,
    NoKeyError,
)
from autopilot.git.locks import ExclusiveLock
from autopilot.git.maintenance import count_loose, maintain
from autopilot.git.repository import Repository
from autopilot.sandbox.confinement import guard_of
from autopilot.sandbox.inputs import Inputs
from autopilot.tracking.git_memory import GitMemory
from autopilot.tracking.git_store import GitStore, hold
from autopilot.tracking.layout import Layout
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.scope import scope_of

_MAINTAIN_EVERY = 500
_LOOSE_OBJECTS = 4000


class Session:
    """One run of an experiment in this process, from `start` or `resume` to `close`.

    Attributes:
        slug: The experiment's name.
        module: The module that is trained.
        trainer: The trainer.
        store: The store.
        options: What was asked for, now and when it was started.
        split_sizes: The numbers of train and val items, "?" where they cannot be known beforehand.
        notes: Lines that the user should read before it starts.
        remarks: Lines that the user should read once it has ended.
    """

    def __init__(self, user: Repository, slug: str, workspace: Workspace, manifest: Manifest):
        self.user, self.slug, self.workspace, self.manifest = user, slug, workspace, manifest
        self.notes: list[str] = []
        self.remarks: list[str] = []
        self.setup: Setup
        self.place = workspace.lock
        self.module: AutoPilotModule
        self.trainer: Trainer
        self.store: GitStore
        self.split_sizes = ("?", "?")
        self.options = Options()

    @classmethod
    def start(cls, request: Request, callbacks: Sequence[Callback] = ()) -> Session:
        """Prepares a new experiment: everything is checked before anything is written.

        Raises:
            AutopilotError: something is not as it should be; nothing was changed.
        """
        user = Repository.discover(request.folder)
        base = user.head_commit()
        target = committed_target(user, base, request)
        slug, lock = claim(user, target, request)
        with lock.released_on_failure(), undone_on_failure(user, slug, in_place=request.in_place):
            workspace = open_workspace(
                user,
                request.folder,
                slug,
                base,
                in_place=request.in_place,
                links=request.links,
            )
            manifest = Manifest(
                slug=slug,
                target=target.text,
                hparams=dict(request.hparams),
                options=request.options.given(),
                seed=request.seed,
                idea=request.idea,
                hypothesis=request.hypothesis,
                base=base,
                base_branch=user.head_name(),
                directory=workspace.directory,
                links=tuple(request.links),
                in_place=request.in_place,
                versions={"autopilot": __version__, "python": platform.python_version()},
            )
            session = cls(user, slug, workspace, manifest)
            with session.place.released_on_failure(), workspace.explained():
                session.take_place()
                session.load(request.options, callbacks, lock, include_dirty=request.include_dirty)
            return session

    @classmethod
    def resume(
        cls, folder: Path, slug: str, changes: Options, callbacks: Sequence[Callback] = ()
    ) -> Session:
        """Prepares to go on with an experiment, as it was started.

        Args:
            folder: A folder in the repository.
            slug: The experiment's name.
            changes: Options that take the place of those it was started with.
            callbacks: See Trainer.

        Raises:
            AutopilotError: it cannot be resumed; nothing was changed.
        """
        user = Repository.discover(folder)
        notebook = Notebook(user, slug)
        manifest = notebook.manifest
        if not manifest.target:
            raise ExperimentError(
                f"{slug} was not started by autopilot run",
                hint="go on with it from the program that started it: Trainer.fit continues it",
            )
        if manifest.in_place and user.head_commit() != manifest.base:
            raise ExperimentError(
                f"{slug} runs in place on {manifest.base[:7]}, and {user.head_commit()[:7]} is "
                "checked out",
                hint=f"git switch {manifest.base_branch} (or git switch --detach "
                f"{manifest.base[:7]}), then resume",
            )
        if notebook.unnoted:
            raise ExperimentError(
                f"the notes of {slug} are older than its branch: none on {notebook.unnoted[0][:7]}",
                hint=f"a plain git fetch or pull leaves them behind: autopilot fetch {slug}",
            )
        lock = ExclusiveLock(Layout(slug).lock(user))
        hold(lock, slug)
        in_place = manifest.in_place
        with lock.released_on_failure(), undone_on_failure(user, slug, in_place=in_place):
            workspace = open_workspace(
                user,
                user.workdir / manifest.directory,
                slug,
                manifest.base,
                in_place=in_place,
                links=manifest.links,
            )
            given = dict(manifest.options)
            for event in notebook.events:
                given |= event.options
            options = Options(**(given | changes.given()))
            session = cls(user, slug, workspace, manifest)
            with session.place.released_on_failure(), workspace.explained():
                session.take_place()
                session.load(options, callbacks, lock, include_dirty=False)
        session.trainer.experiment.ignore_stop = bool(changes.given())
        session.trainer.experiment.changes = changes.given()
        return session

    def take_place(self) -> None:
        """Makes sure that no other run works in the same checkout.

        Raises:
            LockHeldError: one does; it says which process.
        """
        try:
            self.place.acquire()
        except LockHeldError as error:
            who = error.message.partition(" is held by ")[2]
            raise LockHeldError(
                f"another run works in {self.workspace.repo.workdir}: {who}",
                hint="wait for it, or run without --in-place: in a worktree of its own",
            ) from error

    def load(
        self,
        options: Options,
        callbacks: Sequence[Callback],
        lock: ExclusiveLock | None = None,
        *,
        include_dirty: bool,
    ) -> None:
        """Imports the target and puts trainer and store together."""
        workspace, manifest, self.options = self.workspace, self.manifest, options
        workspace.enter()
        links = [(link.name, link.source) for link in workspace.links]
        self.inputs = Inputs(workspace.repo, manifest.base, links, in_place=workspace.in_place)
        self.inputs.open()
        try:
            self.module = load_target(
                manifest.target, workspace.folder, manifest.hparams, AutoPilotModule
            )
        except MissingSourceError as error:
            raise explain_missing(workspace, manifest.base, error) from error
        workspace.check_imports()
        self.store = GitStore(
            self.slug,
            workspace.repo.workdir,
            in_place=workspace.in_place,
            include_dirty=include_dirty or not workspace.in_place,
            lock=lock,
        )
        scopes = [scope_of(workspace.repo, p) for p in self.module.parameters()]
        self.inputs.scopes = scopes
        with users_code(manifest.target):
            check_module(self.module)
            if not self.store.exists():
                self.notes += check_parameters(
                    workspace, self.module, manifest.base, include_dirty=include_dirty
                )
            loaders = {
                "train": self.module.train_dataloader(),
                "val": self.module.val_dataloader(),
                "test": self.module.test_dataloader(),
            }
            self.setup = check_setup(self.module, loaders, monitor=options.monitor)
            own = callbacks_of(self.module)
        if loaders["val"] is None:
            self.notes.append("there is no val split: an epoch is kept unless all its items fail")
        self.split_sizes = _items(loaders["train"]), _items(loaders["val"])
        alone = not any(isinstance(callback, StopCondition) for callback in own)
        conditions = options.conditions(alone=alone)
        self.max_epochs = options.max_epochs or DEFAULT_MAX_EPOCHS
        block_after = BLOCK_AFTER if options.block_after is None else options.block_after
        memory = GitMemory(self.store, block_after)
        self.trainer = Trainer(
            callbacks=[*conditions, *callbacks, _Upkeep(self)],
            experiment=Experiment(self.store, memory, manifest),
            accumulate_grad_batches=options.accumulate,
            monitor=options.monitor,
            mode=options.mode,
            failed_value=options.failed_value,
            seed=manifest.seed,
            num_workers=options.num_workers or 0,
            measure_noise=options.measure_noise,
            repeat=options.repeat or 1,
            max_wait_s=MAX_WAIT_S if options.max_wait is None else options.max_wait,
        )
        with users_code(manifest.target):
            self.trainer.prepare(self.module)
        self.trainer.experiment.guard = guard_of(
            workspace, self.slug, scopes, self.inputs, self.store
        )

    # --- running -------------------------------------------------------------------------------

    def discard(self) -> None:
        """Lets go of a session that was never run; nothing is left of it."""
        self.inputs.close()
        if not self.trainer.experiment.is_open:
            self.store.close()
            self.place.release()
            self.workspace.undo()

    def run(self, *, score_test: bool = True) -> Result:
        """Trains until there is a reason to stop, then scores baseline and best on the test split.

        Args:
            score_test: Without it the test split is left alone, and the experiment is not finished.

        Returns:
            What it came to; `interrupted` after Ctrl-C or SIGTERM.

        Raises:
            AutopilotError: it cannot go on; what was recorded can be resumed.
            UserCodeError: the user's code raised, outside the evaluation of an item.
        """
        try:
            with self.workspace.explained():
                result = self._run(score_test=score_test)
        finally:
            self.inputs.close()
            self.place.release()
        self.store.close()
        if not result.interrupted:
            self.workspace.remove()
        if count_loose(self.user) > _LOOSE_OBJECTS:
            maintain(self.user)
        return result

    def _run(self, *, score_test: bool) -> Result:
        experiment = self.trainer.experiment
        # Where the evaluation's process died before, the same run goes on.
        begun = self.store.exists() and not experiment.died
        try:
            with interruptible():
                result = self.trainer.fit(self.module, max_epochs=self.max_epochs)
                if score_test and not result.interrupted:
                    result = self._test(result)
                if score_test and not result.interrupted:
                    experiment.on_loop_complete("finished", result.stop_reason)
        except KeyboardInterrupt:
            if not experiment.is_open:
                self.discard()
                raise
            detail = f"in epoch {self.trainer.current_epoch}"
            experiment.on_loop_complete("interrupted", detail)
            result = replace(self.trainer.result(), stop_reason=detail, interrupted=True)
        except BaseException as error:
            is_new = not begun and experiment.last_epoch < 0
            if not experiment.is_open:
                self.workspace.undo()
            elif self._is_outage(error) and not (is_new and type(error) is NoKeyError):
                # It says nothing about the system: what was measured and paid so far is kept.
                with contextlib.suppress(AutopilotError):
                    experiment.on_loop_complete("interrupted", _told(error))
                if isinstance(error, AutopilotError):
                    error.hint += f"; then: autopilot resume {self.slug}"
            elif is_new:
                # Nothing was measured: an experiment of nothing is of no use.
                self.store.abandon()
                self.workspace.remove()
            elif experiment.last_epoch >= 0:
                with contextlib.suppress(AutopilotError):
                    experiment.on_loop_complete("crashed", _told(error))
            self.store.close()
            hint = "the traceback is above"
            if self.store.exists():
                hint = f"if it can pass: autopilot resume {self.slug}; if the code must change, "
                hint += "commit the change and run again"
            with users_code(self.manifest.target, hint):
                raise
        return result

    def _is_outage(self, error: BaseException) -> bool:
        return infrastructure_in(error, self.trainer.run.outages.types) is not None

    def _test(self, result: Result) -> Result:
        experiment = self.trainer.experiment
        if any("test" not in experiment.metrics[e] for e in (0, experiment.best_epoch)):
            loader = self.module.test_dataloader()
            if loader is None:
                return result
            try:
                self.trainer.test(self.module, loader)
            except EmptySplitError as error:
                # A stream shows only now that it is empty; the epochs count all the same.
                self.remarks.append(f"{error.message}: nothing was scored on it")
                return result
            except BudgetExceededError as spent:
                experiment.on_loop_complete("interrupted", spent.message)
                return replace(result, stop_reason=spent.message, interrupted=True)
        test = experiment.gains.get(experiment.best_epoch)
        return replace(result, metrics=experiment.metrics[experiment.best_epoch], test=test)


class _Upkeep(Callback):
    """Looks after the repository during a long run, and after imports that came late."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def on_epoch_recorded(
        self, trainer: Trainer, module: AutoPilotModule, record: MetricsRecord
    ) -> None:
        if record.epoch == 0:
            self._session.workspace.check_imports()
        if record.epoch and record.epoch % _MAINTAIN_EVERY == 0:
            maintain(self._session.user)


def _told(error: BaseException) -> str:
    return (
        error.message if isinstance(error, AutopilotError) else f"{type(error).__name__}: {error}"
    )


def _items(loader: Any) -> str:
    if loader is None:
        return "no"
    count = item_count(loader)
    return "?" if count is None else str(count)
