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
import json
import os
import pickle
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import Any, cast

from autopilot import __version__
from autopilot.core.progress import Position
from autopilot.core.records.ledger import Loan
from autopilot.core.records.record import LlmRecord, Manifest
from autopilot.errors import AutopilotError, RemoteError, UsageError
from autopilot.git import refs, remotes
from autopilot.git.repository import Repository
from autopilot.sandbox.processes import apart
from autopilot.tracking.layout import Layout

HERE = "here"
NO_WORKER_S, _END_S = 25.0, 10.0  # sooner than a run says that nothing goes on
_NOWHERE, _NO_LOAN = Position(), Loan()
_hosts: dict[str, tuple[str, str]] = {}
"""What was started for the executors of this run: the option to its address and key."""


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
        parts: As `Machines.begin` has them, pickled; empty: only the way to the commit is tried.
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


def at_worker(request: bytes) -> bytes:
    """Does a request at a worker; the answer is pickled, a refusal with its message and hint."""
    version, content, _ = pickle.loads(request)
    hint = "give all workers the run's version"
    if version != __version__:
        why = f"a worker has autopilot {__version__}, and the run is of {version}"
        return pickle.dumps((None, why, hint))
    try:
        # By its name: that room is built on this one.
        answer = import_module("autopilot.proof.blocks").answer(pickle.loads(content))
    except AutopilotError as error:
        where = f"a worker on {socket.gethostname()}"
        return pickle.dumps((None, f"{where}: {error.message}", error.hint))
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


# --- executors ----------------------------------------------------------------------------------


def check_executor(spec: str) -> None:
    """Checks the text of `--executor`.

    Raises:
        UsageError: it names no executor, or one that is not installed.
    """
    kind, _, rest = spec.partition(":")
    is_known = spec in (HERE, "processes", "dask") or (kind == "dask" and len(rest) > 2)
    if not is_known and not (kind == "processes" and rest.isdecimal() and int(rest)):
        raise UsageError(
            f"--executor {spec}: there is no such executor",
            hint="processes, processes:N, dask, dask://ADDRESS, or here for none",
        )
    if kind == "dask" and find_spec("distributed") is None:
        raise UsageError(
            f"--executor {spec}: dask is not installed", hint="pip install 'autopilot[dask]'"
        )


class _Distant(Executor):
    """The workers of the process that `hosting` started, as one of the run's processes sees them.

    Args:
        width: How many blocks it may have at once; the host has a limit for all.
    """

    def __init__(self, address: str, key: str, width: int) -> None:
        self._address, self._key = address, bytes.fromhex(key)
        self._max_workers, self._pool = width, ThreadPoolExecutor(width)
        self.has_ended = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        return self._pool.submit(self._ask, *args)

    def _ask(self, request: bytes) -> bytes:
        try:
            client = Client(self._address, authkey=self._key)
        except (ConnectionRefusedError, FileNotFoundError):
            self.has_ended = True
            raise
        with client as channel:
            channel.send_bytes(request)
            return channel.recv_bytes()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._pool.shutdown(wait, cancel_futures=cancel_futures)


class DaskWorkers(Executor):
    """The workers of a Dask cluster."""

    def __init__(self, address: str, spec: str) -> None:
        self._address, self._spec, self._client = address, spec, cast(Any, None)
        self._connect()

    def _connect(self) -> None:
        from distributed import Client as DaskClient  # an extra

        address = self._address
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        try:
            if address.startswith("tcp://"):  # it would wait for one that does not listen
                socket.create_connection((host.strip("[]"), int(port)), NO_WORKER_S).close()
            self._client = DaskClient(  # type: ignore[no-untyped-call]
                address, timeout=NO_WORKER_S, set_as_default=False
            )
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--executor {self._spec}: no scheduler answers there",
                hint="see that it runs, and that its address is right",
            ) from error
        self._executor = self._client.get_executor()

    @property
    def _max_workers(self) -> int:
        return max(int(sum(self._client.nthreads().values())), 1)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **more: Any) -> Future[Any]:
        if self._client.status == "closed":  # it closes itself once its scheduler is lost
            self._connect()
        return self._executor.submit(fn, *args, **more)  # type: ignore[no-any-return]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._client.close()


def is_dask(executor: Executor) -> bool:
    """Whether it is Dask's, our own or one that a program gives."""
    return hasattr(executor, "_client")


def has_worker(executor: Executor) -> bool:
    """Whether there is a worker, as far as an executor can tell."""
    with contextlib.suppress(OSError):  # its scheduler is gone
        return not is_dask(executor) or bool(vars(executor)["_client"].scheduler_info()["workers"])
    return False


def is_ready(spec: str) -> bool:
    """Whether there are workers; none are started for a look at a run before it starts."""
    return "//" in spec or spec in _hosts


def executor_of(spec: str, jobs: int | None) -> Executor:
    """The executor that an option names, within `hosting`.

    Raises:
        UsageError: there is none at that address.
    """
    kind, _, rest = spec.partition(":")
    if kind == "dask":
        return DaskWorkers(_hosts[spec][0] if spec in _hosts else f"tcp:{rest}", spec)
    address, key = _hosts[spec]
    return _Distant(address, key, jobs or int(rest or os.cpu_count() or 1))


@contextlib.contextmanager
def hosting(spec: str | None) -> Iterator[None]:
    """Starts the workers that an option asks for on this machine; they end with the body.

    Processes that are forked in it find them. They are none of the run's: its limits and its ends
    do not reach them.
    """
    if spec is None or spec == HERE or "//" in spec or spec in _hosts:
        yield
        return
    command = [sys.executable, "-P", "-m", "autopilot.engine.executors", spec]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, start_new_session=True, **pipes) as host:
        apart.add(host.pid)
        try:
            assert host.stdout and host.stdin
            if not (line := host.stdout.readline()):
                raise UsageError(f"--executor {spec}: it did not start", hint="its error is above")
            _hosts[spec] = tuple(json.loads(line))
            yield
        finally:
            _hosts.pop(spec, None)
            if host.stdin:
                host.stdin.close()
            try:
                host.wait(_END_S)
            except subprocess.TimeoutExpired:
                host.kill()


def _serve(width: int, folder: str) -> tuple[Listener, str]:
    """Serves requests from now on, so many at once; returns where, and the key."""
    key, busy = secrets.token_hex(), threading.Semaphore(width)
    listener = Listener(str(Path(folder, "socket")), "AF_UNIX", 64, bytes.fromhex(key))

    def attend(channel: Any) -> None:
        with contextlib.suppress(EOFError, OSError), channel:
            request = channel.recv_bytes()
            with busy:
                channel.send_bytes(at_worker(request))

    def listen() -> None:
        while True:
            with contextlib.suppress(Exception):  # one that went away, or has another key
                channel = listener.accept()
                threading.Thread(target=attend, args=(channel,), daemon=True).start()

    threading.Thread(target=listen, daemon=True).start()
    return listener, key


def main(spec: str) -> None:
    """The host of workers: until its stdin is closed, by whoever started it."""
    kind, _, rest = spec.partition(":")
    with contextlib.ExitStack() as stack:
        if kind == "dask":
            from distributed import LocalCluster  # an extra

            cluster: Any = LocalCluster(  # type: ignore[no-untyped-call]
                threads_per_worker=1, dashboard_address=None, scheduler_port=0
            )
            place = [stack.enter_context(cluster).scheduler_address, ""]
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="autopilot-"))
            listener, key = _serve(int(rest or os.cpu_count() or 1), folder)
            place = [str(stack.enter_context(listener).address), key]
        print(json.dumps(place), flush=True)  # noqa: T201  # to the run
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
