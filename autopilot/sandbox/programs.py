"""Programs that are run to their end: agents, and commands. Their output never fills the memory."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from autopilot import audit
from autopilot.errors import AgentError, AgentNotFoundError, AgentTimeoutError
from autopilot.text import clean, hide, redact

_GRACE_S = 2.0
_LOOK_S = 0.1
_KEPT = 4 << 20
"""Bytes that are kept of each end of a program's output."""
_WRITTEN_AT_MOST = 256 << 20


@dataclass(frozen=True, slots=True)
class Finished:
    """A program that ended.

    Args:
        stdout: What it wrote, without the values of secret environment variables.
        stderr: What it wrote there.
        code: Its exit code.
        seconds: Wall clock.
    """

    stdout: str
    stderr: str
    code: int
    seconds: float

    def tail(self) -> str:
        """The last line that it wrote, errors first, without secrets."""
        lines = [line for line in (self.stderr.strip() or self.stdout.strip()).splitlines() if line]
        return redact(lines[-1])[-300:] if lines else "it wrote nothing"


def run_process(
    command: Sequence[str], *, stdin: str, folder: Path | None, timeout_s: float, hint: str
) -> Finished:
    """Runs a program in a process group of its own, and ends the group when the program ends.

    Args:
        command: The program and its arguments.
        stdin: What it reads.
        folder: Its working directory.
        timeout_s: After that the whole group is ended.
        hint: What to do where the program is missing.

    Raises:
        AgentNotFoundError: there is no such program.
        AgentTimeoutError: it took too long.
        AgentError: it cannot be started.
    """
    name, started = command[0], time.monotonic()
    # Files, not pipes: neither a reader nor who else holds an end can keep the program or this one.
    with (
        audit.executing("process", command, folder) as execution,
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as stdout,
        tempfile.TemporaryFile() as stderr,
    ):
        given.write(clean(stdin).encode())
        given.seek(0)
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=given,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            if folder is not None and not folder.is_dir():
                raise AgentError(f"the folder {folder} does not exist", hint="create it") from error
            raise AgentNotFoundError(f"the program {name} is not installed", hint=hint) from error
        except OSError as error:
            raise AgentError(f"cannot start {name}: {error.strerror}", hint=hint) from error
        try:
            _wait(process, (stdout, stderr), timeout_s)
        finally:
            # Also after a normal end: a process that it left running would edit files later.
            _terminate_group(process)
            process.wait()
        execution.code = process.returncode
        out, errors = (clean(hide(_content(file))) for file in (stdout, stderr))
    return Finished(out, errors, process.returncode, time.monotonic() - started)


def _wait(process: subprocess.Popen[bytes], files: Sequence[IO[bytes]], timeout_s: float) -> None:
    """Waits until a program ends.

    Raises:
        AgentTimeoutError: it does not.
        AgentError: it writes without end.
    """
    name, deadline = (
        Path(str(cast("Sequence[str]", process.args)[0])).name,
        time.monotonic() + timeout_s,
    )
    while True:
        left = deadline - time.monotonic()
        try:
            process.wait(max(min(left, _LOOK_S), 0.0))
        except subprocess.TimeoutExpired:
            if sum(os.fstat(file.fileno()).st_size for file in files) > _WRITTEN_AT_MOST:
                raise AgentError(
                    f"{name} wrote more than {_WRITTEN_AT_MOST >> 20} MiB and was ended",
                    hint="make it print less: only its beginning and its end are kept anyway",
                ) from None
            if left <= 0:
                raise AgentTimeoutError(
                    f"{name} did not answer within {timeout_s:g} s and was ended",
                    hint="give it more time with timeout_s, or a smaller task",
                ) from None
        else:
            return


def _content(file: IO[bytes]) -> str:
    """The output of a program; of a long one, the beginning and the end."""
    length = os.fstat(file.fileno()).st_size
    if length <= 2 * _KEPT:
        return _text(os.pread(file.fileno(), length, 0))
    first, last = (os.pread(file.fileno(), _KEPT, at) for at in (0, length - _KEPT))
    return f"{_text(first)}\n[... {length - 2 * _KEPT} bytes left out ...]\n{_text(last)}"


def _text(content: bytes) -> str:
    # As a pipe in text mode reads them.
    text = content.decode("utf-8", "replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


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
