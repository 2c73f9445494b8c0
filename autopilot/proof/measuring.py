"""Measuring a commit: checked out in a worktree of its own, evaluated in a fresh process.

An epoch of a run is measured with that epoch's seed, and recorded model calls answer.
"""

from __future__ import annotations

import contextlib
import pickle
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from autopilot.core.comparison import Key
from autopilot.core.interpreter import Fresh, is_importable
from autopilot.core.metric import MetricCollection
from autopilot.core.module import AutoPilotModule
from autopilot.core.records.record import Manifest
from autopilot.core.types import Datum
from autopilot.engine.options import NO_OPTIONS, Options, measured_as
from autopilot.engine.request import Request
from autopilot.engine.target import committed_target
from autopilot.errors import AutopilotError, EvaluationError, ExperimentError, LockHeldError
from autopilot.git import objects, worktrees
from autopilot.git.locks import ExclusiveLock
from autopilot.git.repository import Repository
from autopilot.sandbox.processes import Processes, tell_once
from autopilot.sandbox.workspace import Workspace, link_into
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.outputs import WrittenPath, find_outputs, merged, tell, unknown_outputs
from autopilot.tracking.parameters import manifest_paths

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Task:
    """Something for a fresh process to do with an experiment's checkout."""

    workspace: Workspace
    manifest: Manifest
    slug: str


@dataclass(frozen=True, slots=True)
class MeasureTask(Task):
    """Evaluate splits of the commit that is checked out. See Measurer.measure for the arguments.

    The answer is one Measurement.
    """

    splits: tuple[str, ...]
    epoch: int
    repeat: int
    live: bool
    state: str = ""


def answers(
    processes: Processes, task: Task, kind: type[T]
) -> Generator[T | AutopilotError, None, None]:
    """Gives a task to a fresh process.

    Yields:
        Its messages as they come; an error that ended it comes last, in the worktree's terms.

    Raises:
        EvaluationError: the process could not be started, or ended before its last message.
    """
    request, folder = pickle.dumps(task), task.workspace.folder
    for message in map(pickle.loads, processes.ask("autopilot.proof.worker", request, folder)):
        if isinstance(message, str):
            tell_once(message)
        elif isinstance(message, kind | AutopilotError):
            yield message


@dataclass(frozen=True, slots=True)
class Measurement:
    """The scores of a commit.

    Args:
        metrics: Split to metric name to value; empty for a split that the module does not have.
        items: Split to results, one Datum an item.
        valued: Split to those of them that have a value of the monitored metric.
        inputs: Repository path to blob id of the evaluator's and data files that were read.
        seconds: Wall clock of the evaluation, its process's start included.
        noisy: Names of metrics that no seed repeats, as "val latency".
        outputs: What evaluations in its worktree wrote until then; it goes with it.
        is_stale: The process had read parameters' files for an earlier state, and did not read
            them for this one: the result may be that of the earlier one.
    """

    commit: str
    metrics: Mapping[str, Mapping[str, float]]
    items: Mapping[str, tuple[Datum, ...]] = field(default_factory=dict)
    valued: Mapping[str, frozenset[Key]] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    noisy: frozenset[str] = frozenset()
    outputs: tuple[WrittenPath, ...] = ()
    is_stale: bool = False


def noisy_metrics(
    module: AutoPilotModule, metrics: Mapping[str, Mapping[str, float]]
) -> frozenset[str]:
    """The noisy ones of a module's metrics, as "val latency", and the numbers they read."""
    names: set[str] = set()
    for own, metric in module.named_metrics():
        parts = metric.items() if isinstance(metric, MetricCollection) else [(own, metric)]
        for name, part in parts:
            if part.noisy:
                names |= {name, str(getattr(part, "name", name))}
    return frozenset(
        f"{split} {name}"
        for split, values in metrics.items()
        for name in values
        if name in names or any(name.startswith(f"{each}_") for each in names)
    )


class Measurer:
    """Measures commits, one after the other, in a worktree of its own.

    A context manager: the first measurement makes the worktree, the end of the body removes it,
    also after Ctrl-C. Each Measurer has a worktree of its own; one that a kill left behind is
    reused. The user's checkout, index and refs stay as they are.

    Args:
        slug: The experiment whose recorded model calls answer.
        live: Model calls are made anew and may cost money; the evaluation may use the network.
        links: Ignored paths that the evaluation needs, beside the manifest's.
        is_lasting: One process evaluates states that differ in no file that Python may import.

    Attributes:
        is_used: Whether the process of the last measurement had evaluated another one before.
        outputs: What each evaluation wrote; an error that ends the body has a note on it.

    Raises:
        ExperimentError: it was not started by `autopilot run`, so that it has no target.

    Example:
        with Measurer(repo, notebook.manifest, "classifier-1") as measurer:
            before = measurer.measure(notebook.manifest.base, ["test"])
            after = measurer.measure(notebook.best.commit, ["test"], repeat=1)
    """

    def __init__(
        self,
        user: Repository,
        manifest: Manifest,
        slug: str,
        *,
        live: bool = False,
        links: Sequence[str] = (),
        is_lasting: bool = False,
    ) -> None:
        if not manifest.target:
            raise ExperimentError(
                f"{slug} was not started by autopilot run, so it is not known what to evaluate",
                hint="evaluate it with the program that started it: Trainer.validate",
            )
        self.user, self.slug, self.live = user, slug, live
        self.manifest = replace(manifest, links=tuple(dict.fromkeys([*manifest.links, *links])))
        self.outputs: list[WrittenPath] = []
        self._processes = Processes()
        self._worktree: MeasuringWorktree | None = None
        self._is_lasting = is_lasting and manifest.options.get("fresh") != Fresh.always
        self._answers: Generator[Any, None, None] | None = None
        self._workspace: Workspace | None = None
        self._imported, self.is_used = "", False

    def measure(
        self,
        commit: str,
        splits: Sequence[str] = ("val",),
        *,
        epoch: int = 0,
        repeat: int = 0,
        state: str = "",
    ) -> Measurement:
        """Evaluates a commit.

        Args:
            splits: "val", "test" or both.
            epoch: Seeds shuffling and chance, together with the manifest's seed.
            repeat: 0: with the seed of the run. Every other number has a seed of its own, and asks
                models anew, since a recorded reply is one sample.
            state: That of one of several candidates of the epoch, whose recorded calls answer.

        Raises:
            ReplayMissError: a model call is not recorded, or the evaluation uses the network.
            AutopilotError: the target cannot be loaded or evaluated; it names the user's own files.
        """
        if repeat or not (self._is_lasting and self._has_imported(commit)):
            self.renew()
        how, started = (tuple(splits), epoch, repeat, self.live, state), time.monotonic()
        workspace = self._check_out(commit)
        task = MeasureTask(workspace, self.manifest, self.slug, *how)
        try:
            found = self._ask(task, Measurement)
            self._imported = "" if repeat else commit
            seconds = time.monotonic() - started
        finally:
            self.outputs += find_outputs(workspace.repo.workdir, self.user, self.manifest, commit)
        with workspace.explained():
            if isinstance(found, AutopilotError):
                raise found
        return replace(found, seconds=seconds, outputs=tuple(merged(self.outputs)))

    def ask(self, commit: str, task_of: Callable[[Workspace], Task], kind: type[T]) -> T:
        """Gives a task to a process that has a commit's files; the last one, where it has them.

        Raises:
            AutopilotError: the process could not do it.
        """
        if self._imported != commit or self._workspace is None:
            if not self._has_imported(commit):
                self.renew()
            self._check_out(commit)
        assert self._workspace is not None, "just made"
        found = self._ask(task_of(self._workspace), kind)
        self._imported = commit
        with self._workspace.explained():
            if isinstance(found, AutopilotError):
                self.renew()
                raise found
        return found

    def _check_out(self, commit: str) -> Workspace:
        if self._worktree is None:
            self._worktree = MeasuringWorktree.take(self.user)
            self.outputs += self._worktree.outputs
        repo, manifest = self._worktree.check_out(commit), self.manifest
        made = workspace_at(self.user, repo, manifest.directory, commit, manifest.links)
        self._workspace = made
        return made

    def _ask(self, task: Task, kind: type[T]) -> T | AutopilotError:
        self.is_used = self._answers is not None
        if self._answers is not None:
            self._processes.ask_more(pickle.dumps(task))
            with contextlib.suppress(EvaluationError):
                found = next(self._answers, None)
                is_stale = isinstance(found, Measurement) and found.is_stale
                if isinstance(found, kind) and not is_stale:
                    return found
                self._is_lasting = not is_stale
            # An error may be due to the states before.
            self.renew()
        self._answers = answers(self._processes, task, kind)
        found = next(self._answers, None)
        if not self._is_lasting:
            self.renew()
        return found or EvaluationError("the evaluation gave no result", hint="run it again")

    def _has_imported(self, commit: str) -> bool:
        """Whether a commit differs from the last one in parameters' files only, and in no code."""
        if not self._imported:
            return False
        places = manifest_paths(self.manifest)
        return all(
            not is_importable(name) and any(place.covers(name) for place in places)
            for name in objects.diff_trees(self.user, self._imported, commit)
        )

    def renew(self) -> None:
        """Lets the next measurement have a new process."""
        if self._answers is not None:
            self._processes.ask_more(b"")
            with contextlib.suppress(EvaluationError):  # the result is there already
                for _ in self._answers:
                    pass
        self._answers, self._imported, self.is_used = None, "", False

    def stop(self) -> None:
        """Ends the evaluation that runs in another thread, with all that it started."""
        self._processes.stop()

    def close(self) -> None:
        """Ends a running evaluation, and removes the worktree."""
        self._processes.stop()
        if self._answers is not None:
            self._answers.close()
            self._answers = None
        if self._worktree is not None:
            self._worktree.leave()
            self._worktree = None

    def __enter__(self) -> Measurer:
        return self

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        self.close()
        if error is not None:
            tell(error, merged(self.outputs))


def workspace_at(
    user: Repository, repo: Repository, directory: str, commit: str, links: Iterable[str]
) -> Workspace:
    """A commit's checkout as a run has it, with the ignored paths; raises as `link_into`."""
    workspace = Workspace(user, repo, directory)
    made = tuple(link_into(workspace, user.workdir / directory, commit, link) for link in links)
    workspace.folder.mkdir(parents=True, exist_ok=True)
    return replace(workspace, links=made)


class MeasuringWorktree:
    """A numbered worktree that one process at a time measures in, while it holds the lock."""

    def __init__(self, user: Repository, path: Path, lock: ExclusiveLock) -> None:
        self.user, self.path, self._lock = user, path, lock
        # Of an evaluation that was killed.
        self.outputs = unknown_outputs(user, path)
        self._repo: Repository | None = None

    @classmethod
    def take(cls, user: Repository) -> MeasuringWorktree:
        """The first free one; files that a kill left in it are removed."""
        number = 0
        while True:
            # No slug begins with a dot.
            lock = ExclusiveLock(user.common_dir / "autopilot" / f".measure-{number}.lock")
            with contextlib.suppress(LockHeldError):
                lock.acquire()
                worktree = cls(user, worktrees.worktree_path(user, f".measure-{number}"), lock)
                with lock.released_on_failure():
                    worktree._clear()
                return worktree
            number += 1

    def check_out(self, commit: str) -> Repository:
        """Checks a commit out, as a fresh clone would have it."""
        if self._repo is None:
            self._repo = worktrees.add_worktree(self.user, self.path, commit)
        else:
            worktrees.check_out(self._repo, commit)
        return self._repo

    def borrow(self, commit: str) -> Repository:
        """Checks a commit out in a repository of its own, with refs and notes to try out."""
        # Refs and notes of a worktree are the user's: a repository of its own has others.
        self._clear()
        self._repo = worktrees.borrow(self.user, self.path, commit)
        return self._repo

    def leave(self) -> None:
        """Removes the worktree, and gives up its number."""
        try:
            self._clear()
        finally:
            self._lock.release()

    def _clear(self) -> None:
        self._repo = None
        shutil.rmtree(worktrees.private_path(self.path), ignore_errors=True)
        if (self.path / ".git").is_file():
            worktrees.remove_worktree(self.user, self.path)
        if self.path.exists():  # a borrowed repository, or half a worktree
            worktrees.remove_folder(self.path)
            worktrees.remove_worktree(self.user, self.path)


def measure_checkout(request: Request, split: str) -> Measurement:
    """Measures a split of the checkout, uncommitted changes of tracked files included.

    Model calls are made and may cost money.
    """
    user = Repository.discover(request.folder)
    commit = worktrees.commit_of_checkout(user)
    target = committed_target(user, commit, request.folder, request.target)
    manifest = request.manifest(user, "checkout", target, commit)
    with Measurer(user, manifest, manifest.slug, live=True) as measurer:
        return measurer.measure(commit, [split])


def measure_epoch(
    notebook: Notebook, epoch: int, split: str, limits: Options = NO_OPTIONS, **how: Any
) -> Measurement:
    """Measures a split of an epoch's state, with the seed of the run.

    Raises as `Measurer.measure`.

    Args:
        split: "val" or "test"; "train" is measured in training alone.
        limits: See `measured_as`.
        how: See Measurer: `live`, `links`.
    """
    manifest = measured_as(notebook, limits)
    with Measurer(notebook.repo, manifest, notebook.slug, **how) as measurer:
        state = notebook.epoch(epoch).record.candidate_state
        return measurer.measure(notebook.after(epoch), [split], epoch=epoch, state=state)
