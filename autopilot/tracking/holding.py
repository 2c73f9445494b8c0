"""Holding an experiment that nobody runs, to write to its notes or refs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from autopilot.errors import LockHeldError
from autopilot.git import refs
from autopilot.git.locks import ExclusiveLock
from autopilot.git.repository import Repository
from autopilot.tracking.layout import Layout
from autopilot.tracking.notebook import Notebook


@contextmanager
def stopped(repo: Repository, slug: str) -> Iterator[Notebook]:
    """Holds an experiment for the time of the body: no run of it can start meanwhile.

    Raises:
        ExperimentError: there is no such experiment.
        LockHeldError: it is running.
    """
    Notebook(repo, slug)  # a name that does not exist leaves no lock file behind
    layout = Layout(slug)
    with held(repo, slug):
        refs.clear_stale_locks(repo, layout.namespaces())
        yield Notebook(repo, slug)


@contextmanager
def held(repo: Repository, slug: str) -> Iterator[None]:
    """Holds a name, whether there is an experiment of it or not.

    Raises:
        LockHeldError: a run holds it.
    """
    lock = ExclusiveLock(Layout(slug).lock(repo))
    try:
        lock.acquire()
    except LockHeldError as error:
        raise LockHeldError(
            f"the experiment {slug} is running: {error.message}",
            hint="wait until it has ended, or stop it with Ctrl-C: it can be resumed",
        ) from error
    try:
        yield
    finally:
        lock.release()
