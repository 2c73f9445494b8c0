"""At a worker: the way from a block to its answer. The clone, the worktree, and the process."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections import defaultdict
from functools import partial
from multiprocessing.util import Finalize
from pathlib import Path

from autopilot.engine.wire import Answer, Block, this_machine
from autopilot.errors import AutopilotError, GitCommandError, RepositoryError
from autopilot.git import objects
from autopilot.git.commands import run_git
from autopilot.git.locks import one_at_a_time
from autopilot.git.remotes import remote_error, shown
from autopilot.git.repository import Repository
from autopilot.git.worktrees import cache_folder
from autopilot.proof.measuring import Measurer
from autopilot.proof.states import BlockTask
from autopilot.tracking.layout import Layout

_IDLE_S = 60.0
_idle: dict[str, list[tuple[Measurer, threading.Timer]]] = defaultdict(list)
_lock = threading.Lock()
_owner = 0


def answer(block: Block) -> Answer:
    """Evaluates a block in a worktree and a process that are kept for the next one, for a while.

    Raises:
        AutopilotError: this worker cannot.
    """
    global _owner
    with _lock:
        if _owner != os.getpid():
            # A forked process has none of those; the workers of a pool end without `atexit`.
            _owner = os.getpid()
            _idle.clear()
            Finalize(None, _close_all, exitpriority=1)
    user = _repository(block)
    if not block.parts:
        objects.tree_of(user, block.commit)
        return Answer()
    key, slug = f"{user.workdir} {block.manifest!r}", block.manifest.slug
    with _lock:
        measurer, timer = _idle[key].pop() if _idle[key] else (None, None)
    if timer is not None:
        timer.cancel()
    if measurer is None:
        measurer = Measurer(user, block.manifest, slug, live=True, is_lasting=True)
    try:
        task_of = partial(BlockTask, manifest=block.manifest, slug=slug, block=block)
        found = measurer.ask(block.commit, task_of, Answer)
    except BaseException:
        measurer.close()
        raise
    timer = threading.Timer(_IDLE_S, _close, (key, measurer))
    timer.daemon = True
    with _lock:
        _idle[key].append((measurer, timer))
    timer.start()
    return found


def _close(key: str, measurer: Measurer) -> None:
    with _lock:
        several = _idle[key]
        _idle[key] = [each for each in several if each[0] is not measurer]
        is_idle = len(_idle[key]) < len(several)
    if is_idle:
        measurer.close()


def _close_all() -> None:
    for key, several in [*_idle.items()]:
        for measurer, timer in several:
            timer.cancel()
            with contextlib.suppress(AutopilotError):
                _close(key, measurer)


def _repository(block: Block) -> Repository:
    """The run's repository, where it is on this machine; otherwise a clone. It has the commit.

    Raises:
        RepositoryError: there is no way to it.
    """
    origin = block.origin
    if not origin.address and origin.machine == this_machine():
        return Repository.discover(Path(origin.folder))
    address = origin.address or origin.folder
    name = hashlib.sha256(address.encode()).hexdigest()[:12]
    place = cache_folder() / "workers" / name
    place.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(place):
        if not (place / ".git").exists():
            run_git(["init", "--quiet"], cwd=place)
            # Packing would remove what no ref names: the states of other runs.
            run_git(["config", "gc.auto", "0"], cwd=place)
            run_git(["remote", "add", "origin", address], cwd=place)
        repo = Repository.discover(place)
        if not objects.has_object(repo, block.commit):
            notes = Layout(block.manifest.slug).notes("llm")
            state = origin.ref(block.commit) if origin.address else block.commit
            replies = origin.ref("llm") if origin.address else notes
            _fetch(repo, address, f"+{state}:refs/heads/state")
            with contextlib.suppress(GitCommandError, RepositoryError):  # no model was called yet
                _fetch(repo, address, f"+{replies}:{notes}")
            repo = Repository.discover(place)
    return repo


def _fetch(repo: Repository, address: str, refspec: str) -> None:
    # The history is of no use here.
    command = ["fetch", "--quiet", "--no-tags", "--depth=1", address, refspec]
    done = run_git(command, cwd=repo.workdir, check=False)
    if done.returncode:
        error = remote_error(address, [address], done)
        error.message = f"cannot reach the repository {shown(address)}: {error.message}"
        raise error
