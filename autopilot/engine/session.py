"""A run from its target to its summary: what `autopilot run` and `autopilot resume` do."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from autopilot import __version__
from autopilot.core.callback import Callback
from autopilot.core.experiment import Experiment
from autopilot.core.module import AutoPilotModule
from autopilot.core.record import Manifest, MetricsRecord
from autopilot.core.stopping import Budget, EarlyStopping, Plateau, StopCondition
from autopilot.core.trainer import Trainer
from autopilot.core.types import Result
from autopilot.data import find_leakage
from autopilot.engine.target import (
    Target,
    build_module,
    load_factory,
    parse_target,
    user_traceback,
)
from autopilot.engine.workspace import Workspace, open_workspace
from autopilot.errors import (
    AutopilotError,
    ExperimentError,
    MissingSourceError,
    ParameterError,
    TargetError,
    UserCodeError,
)
from autopilot.files import read_file, remove_file, replace_file
from autopilot.git import objects, refs
from autopilot.git.maintenance import count_loose, maintain
from autopilot.git.repository import Repository
from autopilot.git.worktrees import worktree_path
from autopilot.tracking.git_memory import GitMemory
from autopilot.tracking.git_store import GitStore
from autopilot.tracking.layout import Layout, free_slug
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.scope import check_clean, check_tracked, dirty_files, scope_of

DEFAULT_MAX_EPOCHS = 100
DEFAULT_PATIENCE = 10
_MAINTAIN_EVERY = 500
_LOOSE_OBJECTS = 4000
_LEAKAGE_LIMIT = 100_000


@dataclass(frozen=True, slots=True)
class Options:
    """How long a run goes on and what decides. None: not asked for.

    Args:
        max_epochs: The number of the last epoch.
        monitor: The val metric that decides.
        patience: Epochs in a row without improvement.
        target: Value of the monitored metric.
        plateau: Window of epochs in which the best must gain min_delta.
        min_delta: See plateau.
        budget_evaluations: Items evaluated.
        budget_seconds: Wall clock.
        budget_tokens: Model tokens.
        budget_usd: Dollars.
        accumulate: Batches between two optimizer steps.
    """

    max_epochs: int | None = None
    monitor: str | None = None
    patience: int | None = None
    target: float | None = None
    plateau: int | None = None
    min_delta: float | None = None
    budget_evaluations: int | None = None
    budget_seconds: float | None = None
    budget_tokens: int | None = None
    budget_usd: float | None = None
    accumulate: int | None = None

    def given(self) -> dict[str, Any]:
        """What was asked for."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def conditions(self, *, alone: bool) -> list[Callback]:
        """The stop conditions.

        Args:
            alone: The module brings none of its own: then the default patience holds.
        """
        found: list[Callback] = []
        patience = self.patience
        if patience is None and alone and self.max_epochs is None:
            patience = DEFAULT_PATIENCE
        if patience is not None or self.target is not None:
            found.append(EarlyStopping(patience, self.target))
        if self.plateau is not None:
            found.append(Plateau(self.plateau, 0.001 if self.min_delta is None else self.min_delta))
        budget = (
            self.budget_evaluations,
            self.budget_seconds,
            self.budget_tokens,
            self.budget_usd,
        )
        if any(limit is not None for limit in budget):
            found.append(Budget(*budget))
        return found


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for.

    Args:
        folder: Where the command was typed.
        target: As it was written, or a module that is there already (a project's own).
        slug: The experiment's name; None: the target's name and a number.
        project: Put in front of the name.
        seed: See Trainer.
        hparams: Constructor arguments.
        options: Stop conditions and the like.
        in_place: Work in the user's own checkout.
        links: Ignored paths that the evaluation needs.
        include_dirty: Take uncommitted content of the parameters into the start commit.
        idea: What is tried, in words.
    """

    folder: Path
    target: str
    slug: str | None = None
    project: str | None = None
    seed: int = 0
    hparams: Mapping[str, str] = field(default_factory=dict)
    options: Options = Options()
    in_place: bool = False
    links: Sequence[str] = ()
    include_dirty: bool = False
    idea: str = ""


class Session:
    """One run of an experiment in this process, from `start` or `resume` to `close`.

    Attributes:
        slug: The experiment's name.
        module: The module that is trained.
        trainer: The trainer.
        store: The store.
        notes: Lines that the user should read before it starts.
    """

    def __init__(self, user: Repository, slug: str, workspace: Workspace, manifest: Manifest):
        self.user, self.slug, self.workspace, self.manifest = user, slug, workspace, manifest
        self.notes: list[str] = []
        self.module: AutoPilotModule
        self.trainer: Trainer
        self.store: GitStore

    @classmethod
    def start(cls, request: Request, callbacks: Sequence[Callback] = ()) -> Session:
        """Prepares a new experiment: everything is checked before anything is written.

        Raises:
            AutopilotError: something is not as it should be; nothing was changed.
        """
        user = Repository.discover(request.folder)
        base = user.head_commit()
        target = _committed_target(user, base, request)
        slug = request.slug or free_slug(user, target.stem, request.project)
        if request.slug and request.project and "/" not in slug:
            slug = f"{request.project}/{slug}"
        layout = Layout(slug)
        if refs.read_ref(user, layout.branch) is not None:
            raise ExperimentError(
                f"the experiment {slug} exists already",
                hint=f"autopilot resume {slug}, or choose another name with --slug",
            )
        refs.check_free(user, layout.branch)
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
            base=base,
            base_branch=user.head_name(),
            directory=workspace.directory,
            links=tuple(request.links),
            in_place=request.in_place,
            versions={"autopilot": __version__, "python": platform.python_version()},
        )
        session = cls(user, slug, workspace, manifest)
        try:
            session._load(request.options, callbacks, include_dirty=request.include_dirty)
        except BaseException:
            workspace.remove()
            raise
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
        manifest = Notebook(user, slug).manifest
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
        workspace = open_workspace(
            user,
            user.workdir / manifest.directory,
            slug,
            manifest.base,
            in_place=manifest.in_place,
            links=manifest.links,
        )
        options = Options(**{**manifest.options, **changes.given()})
        session = cls(user, slug, workspace, manifest)
        session._load(options, callbacks, include_dirty=False)
        session.trainer.experiment.ignore_stop = bool(changes.given())
        return session

    def _load(
        self, options: Options, callbacks: Sequence[Callback], *, include_dirty: bool
    ) -> None:
        workspace, manifest = self.workspace, self.manifest
        workspace.enter()
        target = parse_target(manifest.target)
        factory = load_factory(target, workspace.folder)
        try:
            self.module = build_module(factory, manifest.hparams, manifest.target)
        except MissingSourceError as error:
            raise self._explain_missing(error) from error
        workspace.check_imports()
        self.store = GitStore(
            self.slug,
            workspace.repo.workdir,
            in_place=workspace.in_place,
            include_dirty=include_dirty or not workspace.in_place,
        )
        if not self.store.exists():
            self._check_parameters(include_dirty=include_dirty)
        own = self.module.configure_callbacks()
        alone = not any(isinstance(callback, StopCondition) for callback in own)
        conditions = options.conditions(alone=alone)
        self.max_epochs = options.max_epochs or DEFAULT_MAX_EPOCHS
        self.trainer = Trainer(
            callbacks=[*conditions, *callbacks, _Upkeep(self)],
            experiment=Experiment(self.store, GitMemory(self.store), manifest),
            accumulate_grad_batches=options.accumulate,
            monitor=options.monitor,
            seed=manifest.seed,
        )

    def _check_parameters(self, *, include_dirty: bool) -> None:
        """What the user sees in the own checkout is what the run starts from."""
        parameters = self.module.parameters()
        if not parameters:
            raise ParameterError(
                f"{type(self.module).__name__} has no parameters",
                hint="declare what may change: self.rules = PathParameter('rules.txt')",
            )
        scopes = [scope_of(self.workspace.repo, parameter) for parameter in parameters]
        tree = objects.tree_of(self.user, self.manifest.base)
        check_tracked(self.workspace.repo, tree, scopes)
        if not include_dirty:
            check_clean(self.user, scopes)
        elif not self.workspace.in_place:
            here = self.workspace.repo.workdir
            for name in dirty_files(self.user, scopes):
                source = self.user.workdir / name
                if source.is_symlink() or source.exists():
                    replace_file(here, name, read_file(source))
                else:
                    remove_file(here, name)
        if not self.workspace.in_place:
            self._mention_other_changes([scope.path for scope in scopes])
        self._mention_leakage()

    def _mention_leakage(self) -> None:
        loaders = {
            "train": self.module.train_dataloader(),
            "val": self.module.val_dataloader(),
            "test": self.module.test_dataloader(),
        }
        datasets = {name: getattr(loader, "dataset", None) for name, loader in loaders.items()}
        sized: dict[str, Any] = {n: d for n, d in datasets.items() if isinstance(d, Sized)}
        if sum(len(dataset) for dataset in sized.values()) > _LEAKAGE_LIMIT:
            return
        leaks = find_leakage(sized)
        if leaks:
            self.notes.append(
                f"leakage: {len(leaks)} items stand in several splits; {leaks[0].describe()}"
            )

    def _mention_other_changes(self, parameters: Sequence[str]) -> None:
        changed = [
            name
            for name, state in self.user.status(["."]).items()
            if state in ("modified", "deleted", "conflicted") and name not in parameters
        ]
        if changed:
            shown = ", ".join(changed[:3]) + (", ..." if len(changed) > 3 else "")
            self.notes.append(
                f"not part of the run, since not committed: {len(changed)} changed files ({shown})"
            )

    def _explain_missing(self, error: MissingSourceError) -> ParameterError:
        """The worktree lacks the source; the user's checkout may tell why."""
        here = self.workspace.repo.workdir
        if self.workspace.in_place or not Path(error.path).is_relative_to(here):
            return error
        name = Path(error.path).relative_to(here).as_posix()
        if not (self.user.workdir / name).exists():
            return ParameterError(
                f"the parameter {name} does not exist", hint="create and commit it, or correct it"
            )
        for depth in range(1, name.count("/") + 2):
            folder = "/".join(name.split("/")[:depth])
            tree = objects.tree_of(self.user, self.manifest.base)
            entry = objects.entry_at(self.user, tree, folder)
            if entry is not None and entry.mode == objects.SUBMODULE:
                return ParameterError(
                    f"the parameter {name} is in the submodule {folder}",
                    hint="run autopilot in the submodule's own repository",
                )
        if self.user.is_ignored(name):
            return ParameterError(
                f"the parameter {name} is ignored by git",
                hint=f"take it out of .gitignore, then: git add {name} && git commit",
            )
        return ParameterError(
            f"the parameter {name} is not tracked by git", hint=f"git add {name} && git commit"
        )

    def split_sizes(self) -> tuple[str, str]:
        """The numbers of train and val items, "?" where they cannot be known beforehand."""
        return _items(self.module.train_dataloader()), _items(self.module.val_dataloader())

    # --- running -------------------------------------------------------------------------------

    def run(self) -> Result:
        """Trains until there is a reason to stop, then scores the test split once.

        Returns:
            What it came to; `interrupted` after Ctrl-C or SIGTERM.

        Raises:
            AutopilotError: it cannot go on; what was recorded can be resumed.
            UserCodeError: the user's code raised, outside the evaluation of an item.
        """
        experiment = self.trainer.experiment
        begun = self.store.exists()
        try:
            with _interruptible():
                result = self.trainer.fit(self.module, max_epochs=self.max_epochs)
                result = self._test(result)
        except KeyboardInterrupt:
            if not self.store.exists():
                self.workspace.remove()
                raise
            detail = f"in epoch {self.trainer.current_epoch}"
            experiment.on_loop_complete("interrupted", detail)
            result = replace(self.trainer.result(), stop_reason=detail, interrupted=True)
        except BaseException as error:
            if not begun and experiment.last_epoch < 0 and self.store.exists():
                # Nothing was measured: an experiment of nothing is of no use.
                self.store.abandon()
                self.workspace.remove()
            elif experiment.last_epoch >= 0:
                with contextlib.suppress(AutopilotError):
                    experiment.on_loop_complete("crashed", f"{type(error).__name__}: {error}")
            self.store.close()
            if isinstance(error, AutopilotError) or not isinstance(error, Exception):
                raise
            raise self._users_fault(error) from error
        self.store.close()
        if not result.interrupted:
            self.workspace.remove()
        if count_loose(self.user) > _LOOSE_OBJECTS:
            maintain(self.user)
        return result

    def _test(self, result: Result) -> Result:
        experiment = self.trainer.experiment
        known = experiment.metrics.get(experiment.best_epoch, {})
        if "test" not in known:
            loader = self.module.test_dataloader()
            if loader is None:
                return result
            self.trainer.test(self.module, loader)
        return replace(result, metrics=experiment.metrics[experiment.best_epoch])

    def _users_fault(self, error: Exception) -> UserCodeError:
        resumable = self.store.exists()
        return UserCodeError(
            f"{self.manifest.target}: {type(error).__name__}: {error}",
            hint=f"if it can pass: autopilot resume {self.slug}; if the code must change, commit "
            "the change and run again"
            if resumable
            else "the traceback is above",
            user_traceback=user_traceback(error),
        )


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


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does; a second signal ends the process."""

    def interrupt(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt

    before = {}
    with contextlib.suppress(ValueError):  # not the main thread: signals are somebody else's
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _committed_target(user: Repository, base: str, request: Request) -> Target:
    """The target, relative to the folder; its file must be in the commit that the run starts from.

    Raises:
        TargetError: it is missing, outside the repository, or not committed.
    """
    target, folder = parse_target(request.target), request.folder
    if target.path is None:
        return target
    path = Path(os.path.abspath(folder / target.path))
    if not path.is_file():
        raise TargetError(f"{target.path}: no such file", hint=f"looked in {folder}")
    top = Path(os.path.realpath(user.workdir))
    path = Path(os.path.realpath(path.parent)) / path.name
    if not path.is_relative_to(top):
        raise TargetError(
            f"{target.path} is outside the repository {user.workdir}",
            hint="name a file of the repository, or use -C",
        )
    name = path.relative_to(top).as_posix()
    if objects.entry_at(user, objects.tree_of(user, base), name) is None:
        raise TargetError(
            f"{target.path} is not committed: the run would not have it",
            hint=f"git add {target.path} && git commit",
        )
    relative = Path(os.path.relpath(top / name, os.path.realpath(folder))).as_posix()
    text = relative + (f":{target.name}" if target.name else "")
    return replace(target, text=text, path=relative)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run would do.

    Args:
        experiment: The name that it would have.
        base: The commit that it would start from.
        parameters: Repository path to the number of its files.
        train_items: "?" where unknown.
        val_items: "?" where unknown.
        monitor: The metric that would decide.
        max_epochs: The number of the last epoch.
        worktree: Where it would work.
    """

    experiment: str
    base: str
    parameters: Mapping[str, int]
    train_items: str
    val_items: str
    monitor: str
    max_epochs: int
    worktree: str

    def lines(self) -> list[str]:
        """For a person."""
        return [
            f"dry run: nothing was changed. {self.experiment} would",
            f"  start from {self.base[:7]} and work in {self.worktree}",
            *(f"  optimize {path} (files: {n})" for path, n in self.parameters.items()),
            f"  evaluate {self.train_items} train and {self.val_items} val items an epoch",
            f"  keep an epoch by val {self.monitor}, for at most {self.max_epochs} epochs",
            f"  commit each step to autopilot/{self.experiment}",
        ]


def forecast(request: Request) -> Forecast:
    """What a run would do; reads the user's checkout, and changes nothing.

    Raises:
        AutopilotError: the run would be refused.
    """
    user = Repository.discover(request.folder)
    base = user.head_commit()
    target = _committed_target(user, base, request)
    slug = request.slug or free_slug(user, target.stem, request.project)
    layout = Layout(slug)
    refs.check_free(user, layout.branch)
    directory = request.folder.resolve().relative_to(user.workdir.resolve()).as_posix()
    workspace = Workspace(user, user, "" if directory == "." else directory)
    manifest = Manifest(slug=slug, target=target.text, hparams=request.hparams, base=base)
    session = Session(user, slug, workspace, manifest)
    with _no_bytecode():
        session._load(request.options, (), include_dirty=request.include_dirty)
    scopes = [scope_of(user, parameter) for parameter in session.module.parameters()]
    train, val = session.split_sizes()
    where = user.workdir if request.in_place else worktree_path(user, slug)
    return Forecast(
        experiment=slug,
        base=base,
        parameters={scope.path: len(scope.files()) for scope in scopes},
        train_items=train,
        val_items=val,
        monitor=request.options.monitor or session.module.monitor,
        max_epochs=session.max_epochs,
        worktree=str(where),
    )


@contextlib.contextmanager
def _no_bytecode() -> Iterator[None]:
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _items(loader: Any) -> str:
    if loader is None:
        return "no"
    dataset = getattr(loader, "dataset", None)
    if isinstance(dataset, Sized):
        return str(len(dataset))
    if isinstance(loader, list | tuple):
        return str(sum(len(batch) if isinstance(batch, Sized) else 1 for batch in loader))
    return "?"
