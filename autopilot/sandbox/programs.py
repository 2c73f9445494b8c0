"""Programs that are run to their end: agents, and commands. Their output never fills the memory."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from autopilot import audit
from autopilot.errors import AgentError, AgentNotFoundError, AgentTimeoutError
from autopilot.text import clean, hide, redact

_GRACE_S = 2.0
_LOOK_S = 0.1
_FIRST = 64 << 10
"""Bytes that are kept of the beginning of a program's output."""
_LAST = 448 << 10
"""Bytes that are kept of its end; some programs print their answer there, on one line."""
_PIPE = 64 << 10
_READS_AT_END = 32


@dataclass(frozen=True, slots=True)
class Finished:
    """A program that ended.

    Args:
        stdout: What it wrote, without the values of secret environment variables; of more than
            512 KiB, the beginning and the end, and how many bytes are missing.
    """

    stdout: str
    stderr: str
    code: int
    seconds: float

    def tail(self) -> str:
        """The last line that it wrote, errors first, without secrets."""
        lines = [line for line in (self.stderr.strip() or self.stdout.strip()).splitlines() if line]
        return redact(lines[-1])[-300:] if lines else "it wrote nothing"


class _Ends:
    """The beginning and the end of a program's output, however long it is."""

    def __init__(self) -> None:
        self._first, self._last, self._size = bytearray(), bytearray(), 0

    def add(self, written: bytes) -> None:
        self._size += len(written)
        room = _FIRST - len(self._first)
        self._first += written[:room]
        self._last += written[room:]
        if len(self._last) > 2 * _LAST:
            del self._last[:-_LAST]

    def text(self) -> str:
        """Both, without the values of secret environment variables."""
        last = self._last[-_LAST:]
        missing = self._size - len(self._first) - len(last)
        cut = b"\n[... %d bytes left out ...]\n" % missing if missing else b""
        # Line ends as a pipe in text mode reads them.
        text = (self._first + cut + last).decode("utf-8", "replace")
        return clean(hide(text.replace("\r\n", "\n").replace("\r", "\n")))


def run_process(
    command: Sequence[str],
    *,
    stdin: str,
    folder: Path | None,
    timeout_s: float,
    hint: str,
    env: Mapping[str, str] | None = None,
) -> Finished:
    """Runs a program in a process group of its own, and ends the group when the program ends.

    Args:
        timeout_s: After that the whole group is ended.
        hint: What to do where the program is missing.
        env: Its environment; None: that of this process.

    Raises:
        AgentNotFoundError: there is no such program.
        AgentTimeoutError: it took too long.
        AgentError: it cannot be started.
    """
    name, started = command[0], time.monotonic()
    outputs = _Ends(), _Ends()
    with (
        audit.executing("process", command, folder) as execution,
        tempfile.TemporaryFile() as given,
    ):
        given.write(clean(stdin).encode())
        given.seek(0)
        try:
            process = subprocess.Popen(
                command,
                bufsize=0,
                cwd=folder,
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=env,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            if folder is not None and not folder.is_dir():
                raise AgentError(f"the folder {folder} does not exist", hint="create it") from error
            raise AgentNotFoundError(f"the program {name} is not installed", hint=hint) from error
        except OSError as error:
            raise AgentError(f"cannot start {name}: {error.strerror}", hint=hint) from error
        with process, selectors.DefaultSelector() as pipes:
            for pipe, output in zip((process.stdout, process.stderr), outputs, strict=True):
                os.set_blocking(cast("IO[bytes]", pipe).fileno(), False)
                pipes.register(cast("IO[bytes]", pipe), selectors.EVENT_READ, output)
            try:
                _wait(process, pipes, timeout_s)
            finally:
                # Also after a normal end: a process that it left running would edit files later.
                _terminate_group(process)
                process.wait()
            # Who left the group may hold the pipes, and write without end.
            for _ in range(_READS_AT_END):
                _read(pipes, 0.0)
        execution.code = process.returncode
    out, errors = (output.text() for output in outputs)
    return Finished(out, errors, process.returncode, time.monotonic() - started)


def _wait(
    process: subprocess.Popen[bytes], pipes: selectors.BaseSelector, timeout_s: float
) -> None:
    """Waits until a program ends, and reads what it writes."""
    deadline = time.monotonic() + timeout_s
    while process.poll() is None:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            name = Path(str(cast("Sequence[str]", process.args)[0])).name
            raise AgentTimeoutError(
                f"{name} did not answer within {timeout_s:g} s and was ended",
                hint="give it more time with timeout_s, or a smaller task",
            )
        if pipes.get_map():
            _read(pipes, min(left_s, _LOOK_S))
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(left_s)


def _read(pipes: selectors.BaseSelector, timeout_s: float) -> None:
    """Takes in what is in the pipes, as soon as there is something."""
    for key, _ in pipes.select(timeout_s) if pipes.get_map() else ():
        written = os.read(key.fd, _PIPE)
        key.data.add(written)
        if not written:
            pipes.unregister(key.fileobj)


def _terminate_group(process: subprocess.Popen[Any]) -> None:
    """Sends SIGTERM, and SIGKILL to what is left after a grace period; an empty group is fine."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_S
        while time.monotonic() < deadline:
            # A zombie counts as a member: without poll the group would never be empty.
            process.poll()
            os.killpg(process.pid, 0)
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
