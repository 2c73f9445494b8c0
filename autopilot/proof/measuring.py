"""Measuring a commit again: checked out in a worktree of its own, evaluated in a fresh process.

Fresh, since trees differ in code and Python loads a module once. What is measured for an epoch of
a run is seeded as that epoch was, and model calls are answered from the experiment's notes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path
from types import TracebackType

from autopilot.core.comparison import Key, keyed
from autopilot.core.records.record import Manifest
from autopilot.core.types import Datum
from autopilot.errors import ExperimentError, LockHeldError
from autopilot.git.locks import ExclusiveLock
from autopilot.git.repository import Repository
from autopilot.git.worktrees import (
    add_worktree,
    borrow,
    check_out,
    private_path,
    remove_worktree,
    worktree_path,
)
from autopilot.proof.measuring_worker import Request, answer_of
from autopilot.sandbox.processes import Processes
from autopilot.sandbox.workspace import Workspace, link_into

_WORKER = "autopilot.proof.measuring_worker"


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a commit came to.

    Args:
        commit: What was measured.
        metrics: Split to metric name to value; empty for a split that the module does not have.
        items: Split to results, one Datum an item.
        valued: Split to those of them that have a value of the monitored metric.
        inputs: Repository path to blob id of the evaluator's and data files that were read; empty
            where that was not looked at.
        seconds: Wall clock of the evaluation, its process's start included.
        noisy: What may come out otherwise next time, as "val latency".
    """

    commit: str
    metrics: Mapping[str, Mapping[str, float]]
    items: Mapping[str, tuple[Datum, ...]] = field(default_factory=dict)
    valued: Mapping[str, frozenset[Key]] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    noisy: frozenset[str] = frozenset()


class Measurer:
    """Measures commits, one after the other, in a worktree of its own.

    As a context manager: the worktree is made by the first measurement, and is gone at the end,
    also after Ctrl-C. Side by side, each Measurer has its own; what a kill left is used up by the
    next one. The user's checkout, index and refs stay as they are.

    Args:
        user: The user's repository.
        manifest: How the experiment is run: target, hyperparameters, options, seed, folder, links.
        slug: The experiment whose recorded model calls answer.
        live: Model calls are made anew and may cost money; the evaluation may use the network.
        links: Ignored paths that the evaluation needs, beside the manifest's.

    Raises:
        ExperimentError: it was not started by `autopilot run`, so nobody knows what to run.

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
    ) -> None:
        if not manifest.target:
            raise ExperimentError(
                f"{slug} was not started by autopilot run, so it is not known what to evaluate",
                hint="evaluate it with the program that started it: Trainer.validate",
            )
        self.user, self.manifest, self.slug, self.live = user, manifest, slug, live
        self.links = tuple(dict.fromkeys([*manifest.links, *links]))
        self._processes = Processes()
        self._place: Place | None = None

    def measure(
        self,
        commit: str,
        splits: Sequence[str] = ("val",),
        *,
        epoch: int = 0,
        repeat: int = 0,
    ) -> Measurement:
        """Evaluates a commit.

        Args:
            commit: What is checked out.
            splits: "val", "test" or both.
            epoch: What shuffling and chance derive from, beside the seed.
            repeat: 0 is what the run did. Every other number has chance of its own; recorded model
                calls do not answer it, since they are one and the same sample.

        Raises:
            ReplayMissError: a model call is not recorded, or the evaluation uses the network.
            AutopilotError: the target cannot be loaded or evaluated; it names the user's own files.
        """
        if self._place is None:
            self._place = Place.take(self.user)
        repo = self._place.check_out(commit)
        workspace = workspace_at(self.user, repo, self.manifest.directory, commit, self.links)
        request = Request(
            links=tuple((link.name, str(link.source)) for link in workspace.links),
            user=str(self.user.workdir),
            place=str(workspace.repo.workdir),
            manifest=self.manifest,
            slug=self.slug,
            splits=tuple(splits),
            epoch=epoch,
            repeat=repeat,
            live=self.live,
        )
        started = time.monotonic()
        (told,) = self._processes.ask(_WORKER, request.encode(), workspace.folder)
        seconds = time.monotonic() - started
        with workspace.explained():
            answer = answer_of(told)
        data, noisy = answer.data(epoch), frozenset(answer.noisy)
        valued = {
            split: frozenset(compress(keyed(results), answer.valued.get(split, ())))
            for split, results in data.items()
        }
        return Measurement(commit, answer.metrics, data, valued, answer.inputs, seconds, noisy)

    def stop(self) -> None:
        """Ends the evaluation that is going on in another thread, with all that it started."""
        self._processes.stop()

    def close(self) -> None:
        """Ends what is going on, and removes the worktree."""
        self._processes.stop()
        if self._place is not None:
            self._place.leave()
            self._place = None

    def __enter__(self) -> Measurer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def workspace_at(
    user: Repository, repo: Repository, directory: str, commit: str, links: Iterable[str]
) -> Workspace:
    """A checkout of a commit as a run has it: with the ignored paths that the evaluation needs.

    Raises:
        UsageError: a link that does not exist, or is tracked.
    """
    workspace = Workspace(user, repo, directory)
    folder = user.workdir / directory
    made = tuple(link_into(workspace, folder, commit, link) for link in links)
    workspace.folder.mkdir(parents=True, exist_ok=True)
    return replace(workspace, links=made)


class Place:
    """A worktree that one process at a time measures in: the first of the numbered ones that is
    free.

    Args:
        user: The user's repository.
        path: The worktree's folder.
        lock: Held as long as it is in use.
    """

    def __init__(self, user: Repository, path: Path, lock: ExclusiveLock) -> None:
        self.user, self.path, self._lock = user, path, lock
        self._repo: Repository | None = None

    @classmethod
    def take(cls, user: Repository) -> Place:
        """The first free one; what a kill left in it is removed."""
        number = 0
        while True:
            # No slug begins with a dot.
            lock = ExclusiveLock(user.common_dir / "autopilot" / f".measure-{number}.lock")
            with contextlib.suppress(LockHeldError):
                lock.acquire()
                place = cls(user, worktree_path(user, f".measure-{number}"), lock)
                with lock.released_on_failure():
                    place._clear()
                return place
            number += 1

    def check_out(self, commit: str) -> Repository:
        """Checks a commit out, as a fresh clone would have it.

        Raises:
            GitCommandError: it cannot be checked out.
        """
        if self._repo is None:
            self._repo = add_worktree(self.user, self.path, commit)
        else:
            check_out(self._repo, commit)
        return self._repo

    def borrow(self, commit: str) -> Repository:
        """Checks a commit out in a repository of its own, with refs and notes to try things with.

        Raises:
            GitCommandError: it cannot be made.
        """
        self._clear()
        self._repo = borrow(self.user, self.path, commit)
        return self._repo

    def leave(self) -> None:
        """Removes the worktree and lets others have the place."""
        try:
            self._clear()
        finally:
            self._lock.release()

    def _clear(self) -> None:
        self._repo = None
        shutil.rmtree(private_path(self.path), ignore_errors=True)
        if os.path.lexists(self.path):
            if (self.path / ".git").is_dir():
                shutil.rmtree(self.path, ignore_errors=True)
            remove_worktree(self.user, self.path)
            shutil.rmtree(self.path, ignore_errors=True)
