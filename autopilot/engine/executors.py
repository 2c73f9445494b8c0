"""Executors of `--executor`, and the processes on this machine that are started for them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, InvalidStateError, ThreadPoolExecutor
from importlib.util import find_spec
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import Any, cast
from weakref import WeakSet

from autopilot.engine.wire import at_worker
from autopilot.errors import UsageError
from autopilot.sandbox.processes import apart

HERE = "here"
NO_WORKER_S, _END_S = 25.0, 10.0  # sooner than a run says that nothing goes on
_hosts: dict[str, tuple[str, str]] = {}
"""What was started for the executors of this run: the option to its address and key."""


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
        self._width, self._open = 1, WeakSet[Future[Any]]()
        self._connect()

    @property
    def has_ended(self) -> bool:
        """Whether it is the run's own cluster, whose process has ended: no other one comes."""
        with contextlib.suppress(ConnectionRefusedError):
            if self._spec in _hosts:
                self._knock()
            return False
        return True

    def _knock(self) -> None:
        """Raises OSError where no scheduler listens: a client would wait for one."""
        host, _, port = self._address.removeprefix("tcp://").rpartition(":")
        if self._address.startswith("tcp://"):
            socket.create_connection((host.strip("[]"), int(port)), NO_WORKER_S).close()

    def _connect(self) -> None:
        from distributed import Client as DaskClient  # an extra

        for name in ("distributed", "distributed.client", "tornado.application"):
            # Tracebacks of each lost connection: the run says in a line what it waits for.
            logging.getLogger(name).handlers[:] = [logging.NullHandler()]
        address = self._address
        try:
            self._knock()
            self._client = DaskClient(  # type: ignore[no-untyped-call]
                address, timeout=NO_WORKER_S, set_as_default=False
            )
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--executor {self._spec}: no scheduler answers there",
                hint="see that it runs, and that its address is right",
            ) from error

    @property
    def _max_workers(self) -> int:
        with contextlib.suppress(Exception):  # the scheduler is gone: who hands over learns it
            threads = _asked(self._client, "ncores").values()
            self._width = max(int(sum(threads)), 1)
        return self._width

    def submit(self, fn: Callable[..., Any], /, *args: Any, **more: Any) -> Future[Any]:
        if self._client.status != "running":  # it would wait a while, and then close itself
            self.shutdown()
            self._connect()
        self._open.add(answer := _followed(self._client, self._client.submit(fn, *args, **more)))
        return answer

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with contextlib.suppress(Exception):  # of a scheduler that does not answer
            self._client.close()
        for each in [*self._open]:
            with contextlib.suppress(InvalidStateError):  # it has ended
                each.set_exception(ConnectionError("its client is closed"))


def _asked(client: Any, what: str) -> Any:
    """The answer of a Dask scheduler; the client's own methods wait for one without end."""
    return client.sync(getattr(client.scheduler, what), callback_timeout=NO_WORKER_S)


def _followed(client: Any, task: Any) -> Future[Any]:
    """The outcome of a Dask task, whatever it is.

    A future of Dask's own executor stays open for ever where its result is lost on its way.
    """
    answer: Future[Any] = Future()
    # It runs: a task that was cancelled would lose what it has paid.
    answer.set_running_or_notify_cancel()

    async def follow() -> None:
        with contextlib.suppress(InvalidStateError):  # its client was closed
            try:
                answer.set_result(await task)
            except BaseException as error:  # noqa: BLE001  # also its cancellation
                answer.set_exception(error)

    client.loop.add_callback(follow)
    return answer


def submit(executor: Executor, fn: Callable[..., Any], *args: Any) -> Future[Any]:
    """As the executor's `submit`; of one of Dask's that a program gives, with an end."""
    if isinstance(executor, DaskWorkers) or not is_dask(executor):
        return executor.submit(fn, *args)
    client, options = vars(executor)["_client"], vars(executor).get("_kwargs", {})
    return _followed(client, client.submit(fn, *args, **options))


def is_dask(executor: Executor) -> bool:
    """Whether it is Dask's, our own or one that a program gives."""
    return hasattr(executor, "_client")


def has_worker(executor: Executor) -> bool:
    """Whether there is a worker, as far as an executor can tell."""
    if not is_dask(executor):
        return True
    client = vars(executor)["_client"]
    with contextlib.suppress(Exception):  # its scheduler is gone
        return client.status == "running" and bool(_asked(client, "ncores"))
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
                threads_per_worker=1, dashboard_address=":0", scheduler_port=0
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
