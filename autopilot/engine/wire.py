"""More than one machine: blocks of items that a run leaves to the workers of an executor.

A block is a batch, or with `--jobs` some items of one. A worker needs Python, this version of
autopilot, git, and a way to the repository. It checks the state's commit out, evaluates the block
in a supervised process as a run does, and gives back the results, with the recorded replies of the
models that were called. The run takes them as if they were made here, in the order of the items: a
block that is lost is measured again, and none counts twice or in part. Nothing of the environment
travels: keys and links are those of the worker.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from autopilot import __version__
from autopilot.core.experiment import Experiment
from autopilot.core.progress import Position
from autopilot.core.records.ledger import Loan
from autopilot.core.records.record import LlmRecord, Manifest
from autopilot.errors import AutopilotError, RemoteError
from autopilot.git import objects, refs, remotes
from autopilot.git.repository import Repository
from autopilot.text import redact
from autopilot.tracking.layout import Layout

_NOWHERE, _NO_LOAN = Position(), Loan()
# An item may have another result on another Python.
_VERSIONS = "autopilot {} on Python {}.{}".format(__version__, *sys.version_info)


@dataclass(frozen=True, slots=True)
class CommitSource:
    """The way of a worker to the commits of a run.

    Args:
        folder: The repository, where the worker sees it.
        machine: Whose folder that is.
        address: A repository that has the commits at refs; "": the folder.
        refs: The beginning of their names.
    """

    folder: str
    machine: str
    address: str = ""
    refs: str = ""

    def ref(self, name: str) -> str:
        """The ref of a commit, or "llm": of the recorded replies."""
        return f"{self.refs}/{name[:12]}"


@dataclass(frozen=True, slots=True)
class Block:
    """A request to a worker.

    Args:
        parts: As `Machines.begin` has them, pickled; empty: the target is loaded, and no more.
        place: Epoch, candidate and step, for the records of model calls.
        line: See `Run.line`.
        calls: Recorded model calls that may answer; `known` are the names of all.
        loan: What its model calls may take.
        workdir: The worktree of the run, which the files that are read are named by.
    """

    origin: CommitSource
    commit: str
    manifest: Manifest
    position: Position = _NOWHERE
    parts: bytes = b""
    place: tuple[int, int, int] = (0, 0, 0)
    line: str = ""
    calls: tuple[LlmRecord, ...] = ()
    known: frozenset[str] = frozenset()
    loan: Loan = _NO_LOAN
    workdir: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A worker's answer to a block.

    Args:
        value: Results, what stands beside them, and the files that were read: see `relay.pickled`.
        error: What was raised instead, packed.
        calls: The model calls that were made.
        needs: Names of recorded calls that it has to be given.
    """

    value: bytes = b""
    error: bytes = b""
    calls: tuple[LlmRecord, ...] = ()
    needs: tuple[str, ...] = ()


def this_machine() -> str:
    """Names the machine, so that a folder of it is known to be one's own."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{socket.gethostname()} {boot}"
    return socket.gethostname()


def as_request(block: Block) -> bytes:
    """A request to `at_worker`. No two are alike: Dask gives equal requests one result."""
    return pickle.dumps((_VERSIONS, pickle.dumps(block), os.urandom(8)))


def at_worker(request: bytes) -> bytes:
    """Does a request at a worker; the answer is pickled, a refusal with its message and hint."""
    versions, content, _ = pickle.loads(request)
    worker = f"a worker on {socket.gethostname()}"
    if versions != _VERSIONS:
        why = f"{worker} has {_VERSIONS}, and the run is of {versions}"
        return pickle.dumps((None, why, "give all workers the run's versions"))
    try:
        # By its name: that room is built on this one.
        answer = import_module("autopilot.proof.blocks").answer(pickle.loads(content))
    except Exception as error:  # noqa: BLE001  # of this machine: items have their own processes
        why = redact(getattr(error, "message", "") or f"{type(error).__name__}: {error}")
        # Hints of errors are for a run's own machine.
        hint = "it needs git, a way to the repository, room for it, and all that the target imports"
        return pickle.dumps((None, f"{worker}: {why}".replace("\n", " "), hint))
    return pickle.dumps((answer, "", ""))


class Commits:
    """The way to the commits of a run, as the run's side sees it.

    Args:
        name: Where they are pushed to, among those of the experiment.
    """

    def __init__(self, repo: Repository, manifest: Manifest, name: str) -> None:
        folder, layout = str(repo.main_workdir or repo.workdir), Layout(manifest.slug)
        address = str(manifest.options.get("origin") or "")
        pushed = f"{layout.workers}/{name}"
        self.source = CommitSource(folder, this_machine(), address, pushed)
        self._repo, self._replies, self._sent = repo, layout.notes("llm"), dict[str, str]()

    def present(self, experiment: Experiment) -> str:
        """A commit that has the present state."""
        found, side = [experiment.store.tip], experiment.now.side
        found += [side.base] if side else []
        epochs = {0, experiment.best_epoch} if experiment.history else ()
        found += [experiment.revision_of(number) for number in epochs]
        state = experiment.now.state
        return next(each for each in found if objects.tree_of(self._repo, each) == state)

    def publish(self, commit: str) -> None:
        """Pushes a commit to the origin, and the recorded replies of models.

        Raises:
            RemoteError: it cannot be reached, or does not take them.
        """
        if not (address := self.source.address):
            return
        wanted = {self.source.ref(commit): commit}
        if (tip := refs.read_ref(self._repo, self._replies)) is not None:
            wanted[self.source.ref("llm")] = tip
        wanted = {name: oid for name, oid in wanted.items() if self._sent.get(name) != oid}
        if wanted:
            pushed = remotes.push_refs(self._repo, address, wanted)
            if pushed.rejected:
                why = f"does not take refs of autopilot: {pushed.reasons[0]}"
                hint = "name a repository with --origin that does"
                raise RemoteError(f"{remotes.shown(address)} {why}", hint=hint)
            self._sent |= wanted

    def clear(self) -> None:
        """Deletes what was pushed, also what a killed process of this run has left."""
        if not (address := self.source.address):
            return
        with contextlib.suppress(AutopilotError):
            left = remotes.remote_refs(self._repo, address, [f"{self.source.refs}/*"])
            for name, oid in left.items():
                remotes.replace_ref(self._repo, address, name, None, oid)
        self._sent.clear()
