"""Fresh processes of Python: one request in, one answer out, and what they print goes to stderr.

Request and answer are framed by their length, so that nothing hangs on who else holds the pipes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from autopilot.errors import EvaluationError

_GRACE_S = 2.0


@dataclass(frozen=True, slots=True)
class Told:
    """How a process ended.

    Args:
        answer: What it wrote on the pipe; empty if it ended before.
        code: Its exit code; negative: the signal that ended it.
        seconds: Wall clock.
    """

    answer: bytes
    code: int
    seconds: float


class Processes:
    """Runs modules of Python, one at a time, each in a process and a process group of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def run(self, module: str, request: bytes, folder: Path) -> Told:
        """Runs a module to its end; what it leaves running is ended.

        Args:
            module: Its dotted name; it calls `answer_with`.
            request: What it reads.
            folder: Its working directory.

        Raises:
            EvaluationError: it cannot be started, or `stop` was called.
        """
        started = time.monotonic()
        # -P as the console script: the working directory is not where autopilot comes from.
        command = [sys.executable, "-P", "-m", module]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            with self._lock:
                if self._stopped:
                    raise _ended()
                process = self._running = subprocess.Popen(
                    command,
                    cwd=folder,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    start_new_session=True,
                )
        except OSError as error:
            raise EvaluationError(
                f"cannot start {sys.executable}: {error.strerror}", hint="see that Python runs"
            ) from error
        try:
            answer = _talk(process, request)
        finally:
            _end_group(process)
            with self._lock:
                self._running = None
        if self._stopped:
            raise _ended()
        return Told(answer, process.returncode, time.monotonic() - started)

    def stop(self) -> None:
        """Ends what is running, from any thread; nothing is started any more."""
        with self._lock:
            self._stopped = True
            if self._running is not None:
                _end_group(self._running)


def answer_with(answer: Callable[[bytes], bytes]) -> None:
    """The process's own side: reads the request, and sends what the function makes of it.

    Meanwhile stdin is empty and what is printed, by child processes too, goes to stderr. When the
    process that asked is gone, this one ends with all that it started.
    """
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    request = _read(requests)
    threading.Thread(target=_end_with, args=(requests,), daemon=True).start()
    told = answer(request)
    sys.stdout.flush()
    with contextlib.suppress(BrokenPipeError):
        _write(answers, told)


def _end_with(requests: IO[bytes]) -> None:
    requests.read()
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _talk(process: subprocess.Popen[bytes], request: bytes) -> bytes:
    """Sends a request and reads the answer.

    stdin stays open meanwhile: its end is how the process learns that this one is gone.
    """
    requests, answers = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
    try:
        with contextlib.suppress(BrokenPipeError):
            _write(requests, request)
        return _read(answers)
    finally:
        answers.close()
        # It would end the process before it has ended by itself.
        if process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_S)
        with contextlib.suppress(BrokenPipeError):
            requests.close()


def _write(pipe: IO[bytes], content: bytes) -> None:
    pipe.write(len(content).to_bytes(8, "big") + content)
    pipe.flush()


def _read(pipe: IO[bytes]) -> bytes:
    """One frame; nothing where it was cut short."""
    size = int.from_bytes(pipe.read(8), "big")
    content = pipe.read(size)
    return content if len(content) == size else b""


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _ended() -> EvaluationError:
    return EvaluationError("the evaluation was ended", hint="run the command again")
