"""Fresh processes of Python: a request in, answers out, and what they print goes to stderr.

Requests and answers are framed by their length, so that nothing hangs on who else holds the pipes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import IO, cast

from autopilot import audit
from autopilot.errors import EvaluationError

_GRACE_S = 2.0


_WHOLE = b""
"""What a process sends last: an empty frame."""


class Processes:
    """Runs modules of Python, one at a time, each in a process and a process group of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def ask(self, module: str, request: bytes, folder: Path) -> Iterator[bytes]:
        """Runs a module to its end, or until nobody wants more; what it leaves running is ended.

        Args:
            module: Its dotted name; it calls `answer_with`.
            request: What it reads.
            folder: Its working directory.

        Yields:
            Each answer, as it comes.

        Raises:
            EvaluationError: it cannot be started, ended before its last answer, or `stop` was
                called.
        """
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
        with audit.executing("process", command, folder) as execution:
            try:
                whole = yield from _talk(process, request)
            finally:
                _end_group(process)
                execution.code = process.returncode
                with self._lock:
                    self._running = None
        if self._stopped:
            raise _ended()
        if not whole:
            code = process.returncode
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise EvaluationError(
                f"the evaluation ended with {how} before it gave a result",
                hint="what it printed is above",
            )

    def stop(self) -> None:
        """Ends what is running, from any thread; nothing is started any more."""
        with self._lock:
            self._stopped = True
            if self._running is not None:
                _end_group(self._running)


Send = Callable[[bytes], None]


def answer_with(answer: Callable[[bytes, Send], None]) -> None:
    """The process's own side: reads the request, and lets the function send answers to it.

    Meanwhile stdin is empty and what is printed, by child processes too, goes to stderr. When the
    process that asked is gone, this one ends with all that it started.
    """
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    request = _read(requests) or b""
    threading.Thread(target=_end_with, args=(requests,), daemon=True).start()
    answer(request, lambda told: _write(answers, told))
    sys.stdout.flush()
    _write(answers, _WHOLE)


def _end_with(requests: IO[bytes]) -> None:
    requests.read()
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _talk(process: subprocess.Popen[bytes], request: bytes) -> Generator[bytes, None, bool]:
    """Sends a request and reads the answers; returns whether the last one came.

    stdin stays open meanwhile: its end is how the process learns that this one is gone.
    """
    requests, answers = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
    try:
        with contextlib.suppress(BrokenPipeError):
            _write(requests, request)
        while answer := _read(answers):
            yield answer
        # Closing the pipe would end the process before it has ended by itself.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
        return answer == _WHOLE
    finally:
        answers.close()
        with contextlib.suppress(BrokenPipeError):
            requests.close()


def _write(pipe: IO[bytes], content: bytes) -> None:
    pipe.write(len(content).to_bytes(8, "big") + content)
    pipe.flush()


def _read(pipe: IO[bytes]) -> bytes | None:
    """One frame; None where it was cut short."""
    head = pipe.read(8)
    size = int.from_bytes(head, "big")
    content = pipe.read(size)
    return content if len(head) == 8 and len(content) == size else None


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _ended() -> EvaluationError:
    return EvaluationError("the evaluation was ended", hint="run the command again")
