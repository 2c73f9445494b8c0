"""A run from its target to its summary: the work of `autopilot run` and `autopilot resume`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autopilot.core.callback import Callback
from autopilot.core.configuration import callbacks_of
from autopilot.core.experiment import Experiment
from autopilot.core.interpreter import Restart
from autopilot.core.items import leakage_notes
from autopilot.core.module import name_parameters
from autopilot.core.outages import infrastructure_in
from autopilot.core.records.history import environment_at
from autopilot.core.records.learnt import BLOCK_AFTER
from autopilot.core.records.record import Event, Manifest
from autopilot.core.setup_checks import check_module, check_setup, item_count, split_notes
from autopilot.core.stopping import StopCondition
from autopilot.core.types import Result
from autopilot.engine.bench import Bench, Upkeep, check_parameters, explain_missing, jobs_notes
from autopilot.engine.board import Child
from autopilot.engine.fresh import ItemLimits, alone, approved_state, importing_state, take_over
from autopilot.engine.known import know_others
from autopilot.engine.loading import described, users_code
from autopilot.engine.nursery import working_ahead
from autopilot.engine.options import DEFAULT_MAX_EPOCHS, Options, options_of
from autopilot.engine.request import Request, claim
from autopilot.engine.supervisor import interruptible
from autopilot.engine.target import committed_target
from autopilot.errors import (
    AutopilotError,
    BudgetExceededError,
    EmptySplitError,
    ExperimentError,
    MissingSourceError,
    NoKeyError,
    RepositoryError,
)
from autopilot.git import refs
from autopilot.git.locks import ExclusiveLock
from autopilot.git.repository import Repository
from autopilot.git.worktrees import remove_worktree
from autopilot.sandbox.confinement import guard_of
from autopilot.sandbox.environment import differing, told_apart
from autopilot.sandbox.workspace import open_workspace, undone_on_failure
from autopilot.tracking.checkout import drop_bytecode
from autopilot.tracking.finding import check_whole
from autopilot.tracking.git_store import GitStore
from autopilot.tracking.holding import refuse_torn
from autopilot.tracking.layout import Layout, hold
from autopilot.tracking.memory import GitMemory
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.outputs import WrittenPath, check_keep, keep_outputs
from autopilot.tracking.parameters import check_checked_out


class Session:
    """One run of an experiment in this process, from `start` or `resume` to `run` or `discard`.

    Attributes:
        setup: Optimizer, loss and policy.
        options: The options of now and of the start together.
        max_epochs: The number of the last epoch.
        limits: What an item may take.
        split_sizes: The numbers of train and val items, "?" where they cannot be known beforehand.
        notes: Lines that the user should read before it starts.
        remarks: Lines that the user should read once it has ended.
        outputs: What evaluations wrote into a worktree that is gone.
    """

    def __init__(
        self,
        user: Repository,
        slug: str,
        folder: Path,
        manifest: Manifest,
        options: Options,
        callbacks: Sequence[Callback],
        lock: ExclusiveLock,
        *,
        include_dirty: bool = False,
        child: Child | None = None,
    ) -> None:
        self.child = child or Child(is_supervised=False)
        self.user, self.slug, self.manifest, self.options = user, slug, manifest, options
        self._ahead = working_ahead(self.child, user, manifest, options, lock)
        self.notes: list[str] = []
        self.remarks: list[str] = []
        self._clean_up: Callable[[], None] = lambda: None
        if self.child.is_first:  # else those of the process before hold until there are new ones
            ItemLimits.of(options).hold_on(self.child.board)
            self.child.board.load(slug, options.budget_seconds)
        with undone_on_failure(user, manifest):
            keep = options.keep or ()
            check_keep(user, manifest, keep)
            self.workspace = open_workspace(
                user, folder, manifest, keep, is_replacement=self.child.since_s > 0
            )
            self.outputs = list[WrittenPath]()
            # The experiment's lock does not keep another experiment out of this checkout.
            self.place = self.workspace.hold()
            tip, held = refs.read_ref(user, Layout(slug).branch), self.place.released_on_failure()
            self.child.state = self.child.state or approved_state(user, slug, options, tip)
            importing = importing_state(self.child, self.workspace, manifest, tip)
            with held, self.workspace.explained(), importing as kept:
                self._load(callbacks, lock, include_dirty=include_dirty)
                self.store.rescued += kept
                self.notes += alone(child, self.module, options)

    @classmethod
    def start(
        cls, request: Request, callbacks: Sequence[Callback] = (), child: Child | None = None
    ) -> Session:
        """Prepares a new experiment: everything is checked before anything is written.

        Raises:
            AutopilotError: a check failed; nothing was changed.
        """
        base = (user := Repository.discover(request.folder)).head_commit()
        target = committed_target(user, base, request.folder, request.target)
        slug, lock = claim(user, target, request)
        with lock.released_on_failure():
            manifest = request.manifest(user, slug, target, base)
            folder, options, dirty = request.folder, request.options, request.include_dirty
            place = user, slug, folder, manifest, options, callbacks, lock
            return cls(*place, include_dirty=dirty, child=child)

    @classmethod
    def resume(
        cls,
        folder: Path,
        slug: str,
        changes: Options,
        callbacks: Sequence[Callback] = (),
        child: Child | None = None,
        *,
        held: Callable[[], None] | None = None,
    ) -> Session:
        """Prepares to continue an experiment as it was started.

        Args:
            changes: Options that replace those it was started with.
            held: Called once the experiment's lock is held, before anything is written; without
                it, an experiment that is driven by hand is refused.

        Raises:
            AutopilotError: it cannot be resumed; nothing was changed.
        """
        user = Repository.discover(folder)
        notebook = check_whole(Notebook(user, slug))
        notebook.need(Event)
        manifest = notebook.manifest
        if not manifest.target:
            raise ExperimentError(
                f"{slug} was not started by autopilot run",
                hint="go on with it from the program that started it: Trainer.fit continues it",
            )
        if manifest.by_hand and held is None:
            raise ExperimentError(f"the steps of {slug} are made by hand", hint=notebook.goes_on_by)
        if manifest.in_place:
            check_checked_out(user, manifest)
        if not (child and child.since_s):
            refuse_torn(notebook)
        lock = ExclusiveLock(Layout(slug).lock(user))
        hold(lock, slug)
        recorded = environment_at(notebook.events)
        differs = differing(recorded)
        with lock.released_on_failure(), told_apart(recorded):
            if held is not None:
                held()
            here, options = user.workdir / manifest.directory, options_of(notebook, changes)
            session = cls(user, slug, here, manifest, options, callbacks, lock, child=child)
        session.notes += [differs] if differs else []
        # An earlier process of the same run that recorded an epoch has gone on already.
        went_on = session.child.has_recorded
        session.trainer.experiment.ignore_stop = bool(changes.given()) and not went_on
        session.trainer.experiment.changes = changes.given()
        return session

    def _load(
        self, callbacks: Sequence[Callback], lock: ExclusiveLock, *, include_dirty: bool
    ) -> None:
        """Imports the target, checks it, and builds store and trainer."""
        workspace, manifest, options = self.workspace, self.manifest, self.options
        try:
            self.bench = bench = Bench(workspace, manifest, manifest.base)
        except MissingSourceError as error:
            raise explain_missing(workspace, manifest.base, error) from error
        self.module, self.inputs = bench.module, bench.inputs
        check_keep(self.user, bench.manifest, options.keep or ())
        self.notes += workspace.import_notes(bench.redirected)
        self.limits = ItemLimits.of(options, bench.module).hold_on(self.child.board)
        self.store = GitStore(
            self.slug,
            workspace.repo,
            in_place=workspace.in_place,
            include_dirty=include_dirty or not workspace.in_place,
            lock=lock,
        )
        is_new = not self.store.exists()
        with users_code(manifest.target):
            check_module(self.module)
            self.store.bind(self.module.parameters())
            imported = self.store.files.present(write=False)
            # What was not known to be a parameter is imported by another process then.
            for stale in drop_bytecode(workspace.repo, imported) if is_new else ():
                del imported[stale]
            if is_new:
                self.notes += check_parameters(bench, include_dirty=include_dirty)
            splits = "train", "val", "test"
            loaders = {split: getattr(self.module, f"{split}_dataloader")() for split in splits}
            self.notes += leakage_notes(loaders) if is_new else []
            self.notes += jobs_notes(self.limits.jobs, loaders)
            self.setup = check_setup(self.module, loaders, monitor=options.monitor)
            own = callbacks_of(self.module)
        self.notes += [] if manifest.by_hand else split_notes(loaders)
        self.split_sizes = _items(loaders["train"]), _items(loaders["val"])
        has_own = any(isinstance(callback, StopCondition) for callback in own)
        searches = not self.setup.optimizer.needs_gradient  # many epochs of it gain nothing
        alone = not (manifest.by_hand or searches or has_own)
        self.max_epochs = options.max_epochs or DEFAULT_MAX_EPOCHS
        block_after = BLOCK_AFTER if options.block_after is None else options.block_after
        experiment = Experiment(self.store, GitMemory(self.store, block_after), manifest)
        experiment.died = self.child.deaths
        how = options.fresh or self.module.fresh
        take_over(experiment, self.child, self.store.files, how, imported)
        conditions = options.conditions(alone=alone)
        heard = [*conditions, *callbacks, Upkeep(bench, self.child), *self._ahead]
        self.trainer = bench.trainer(experiment, options, heard)
        with users_code(manifest.target):
            self.trainer.prepare(self.module, self.setup.policy, loaders)
        self.notes += bench.take_lessons(self.trainer, self.setup.optimizer) if is_new else []
        bench.hire(options, experiment, is_checked=not self.child.is_first)
        experiment.guard = guard_of(workspace, self.slug, bench.scopes, self.inputs, self.store)
        self.notes += know_others(bench, options, experiment, self.child, imported)

    # --- running -------------------------------------------------------------------------------

    def discard(self, *, keep: bool = True) -> None:
        """Ends a session that was never run, without a trace in the repository.

        Args:
            keep: Whether outputs are moved to where a run keeps them; else they are only named.
        """
        self.bench.close()
        if not self.trainer.experiment.is_open:
            self.store.close()
            self.place.release()
            if self.workspace.is_new:
                self._remove(keep=keep)

    def _remove(self, *, keep: bool = True) -> None:
        """Removes the worktree, and keeps what is to be kept of it."""
        workspace = self.workspace
        if not workspace.in_place:
            paths = self.options.keep or () if keep else ()
            others = Layout(self.slug).worktrees_beside(self.user)
            for place in (workspace.repo.workdir, *others):
                self.outputs += keep_outputs(place, self.user, self.bench.manifest, paths)
            for place in others:
                remove_worktree(self.user, place)
        workspace.remove()

    def run(self, *, score_test: bool = True) -> Result:
        """Trains until there is a reason to stop, then scores baseline and best on the test split.

        Args:
            score_test: Without it the test split is left alone, and the experiment is not finished.

        Returns:
            The result; `interrupted` after Ctrl-C or SIGTERM.

        Raises:
            AutopilotError: it cannot continue; what was recorded can be resumed.
            UserCodeError: the user's code raised, outside the evaluation of an item.
        """
        try:
            with self.workspace.explained(self.inputs.absent):
                result = self._run(score_test=score_test)
        finally:
            self.child.board.epochs_over(math.inf)
            self.bench.close()
            self._clean_up()
            self.place.release()
        self.store.close()
        # A resumed run finds its files checked out, and edits by hand are made there.
        if not result.interrupted and (score_test or not self.manifest.by_hand):
            try:
                self._remove()
            except AutopilotError as error:
                # The result stands, and the worktree with what is in it: gc names and removes it.
                self.remarks.append(f"{error.message}; {error.hint}")
        return result

    def _run(self, *, score_test: bool) -> Result:
        experiment = self.trainer.experiment
        # After a death of the evaluation's process, its run continues in this one.
        begun = self.store.exists() and not experiment.died
        try:
            with interruptible():
                most = None if self.manifest.by_hand else self.max_epochs
                result = self.trainer.fit(self.module, max_epochs=most)
                if score_test and not result.interrupted:
                    result = self._test(result)
                if score_test and not result.interrupted:
                    experiment.on_loop_complete("finished", result.stop_reason)
        except Restart:
            self.store.close()
            raise
        except KeyboardInterrupt as interrupt:
            if not experiment.is_open:
                self.discard()
                raise
            where = f"in epoch {self.trainer.current_epoch}"
            detail = ", ".join(filter(None, (str(interrupt), where)))
            experiment.on_loop_complete("interrupted", detail)
            result = replace(self.trainer.result(), stop_reason=detail, interrupted=True)
        except BaseException as error:
            is_new = not begun and experiment.last_epoch < 0
            is_outage = infrastructure_in(error, self.trainer.run.outages.types) is not None
            detail = error.message if isinstance(error, AutopilotError) else described(error)
            # Later: the error is explained by a look at the worktree.
            if not experiment.is_open:
                self._clean_up = self.discard
            elif is_outage and not (is_new and type(error) is NoKeyError):
                # An outage says nothing about the system: what was measured and paid is kept.
                with contextlib.suppress(AutopilotError):
                    experiment.on_loop_complete("interrupted", detail)
            elif is_new:
                # Nothing was measured: an experiment without a baseline is of no use.
                self.store.abandon()
                self._clean_up = self._remove
            elif experiment.last_epoch >= 0:
                with contextlib.suppress(AutopilotError):
                    experiment.on_loop_complete("crashed", detail)
            self.store.close()
            hint = "the traceback is above"
            # An experiment that was abandoned above cannot be resumed.
            if self.store.exists():
                hint = f"if it can pass: autopilot resume {self.slug}; if the code must change, "
                hint += "commit the change and run again"
                by_place = is_outage or isinstance(error, RepositoryError)
                if by_place and isinstance(error, AutopilotError) and "resume" not in error.hint:
                    error.hint += f"; then: autopilot resume {self.slug}"
            with users_code(self.manifest.target, hint):
                raise
        return result

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
        test = experiment.test_gain(experiment.best_epoch)
        return replace(result, metrics=experiment.metrics[experiment.best_epoch], test=test)


def create(request: Request, child: Child | None = None) -> Session:
    """Begins an experiment without running it: its branch with the start commit, its manifest.

    All that `run` checks is checked. `resume` measures the baseline and goes on.

    Raises:
        AutopilotError: a check failed; nothing was changed.
    """
    session = Session.start(request, child=child)
    try:
        name_parameters(session.module)
        session.store.bind(session.module.parameters())
        start = session.store.begin(session.trainer.experiment.manifest)
        session.store.annotate(start, [Event(name="created").stamped()])
    finally:
        session.discard(keep=False)
    return session


def _items(loader: Any) -> str:
    if loader is None:
        return "no"
    count = item_count(loader)
    return "?" if count is None else str(count)
