"""Programs that are run to their end, or ended with everything that they started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autopilot import audit
from autopilot.errors import AgentError, AgentNotFoundError, AgentTimeoutError
from autopilot.text import clean, hide, redact

_GRACE_S = 2.0
_LOOK_S = 0.2


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
    """Runs a program in a process group of its own.

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
    with audit.executing("process", command, folder) as execution:
        finished = _run(command, stdin, folder, timeout_s, hint)
        execution.code = finished.code
    return finished


def _run(
    command: Sequence[str], stdin: str, folder: Path | None, timeout_s: float, hint: str
) -> Finished:
    name = command[0]
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    except FileNotFoundError as error:
        if folder is not None and not folder.is_dir():
            raise AgentError(f"the folder {folder} does not exist", hint="create it") from error
        raise AgentNotFoundError(f"the program {name} is not installed", hint=hint) from error
    except OSError as error:
        raise AgentError(f"cannot start {name}: {error.strerror}", hint=hint) from error
    try:
        stdout, stderr = _talk(process, clean(stdin), timeout_s)
    except subprocess.TimeoutExpired as error:
        raise AgentTimeoutError(
            f"{Path(name).name} did not answer within {timeout_s:g} s and was ended",
            hint="give it more time with timeout_s, or a smaller task",
        ) from error
    finally:
        # Also after an end of its own: what it left running would edit files later.
        _end_group(process)
    seconds = time.monotonic() - started
    return Finished(clean(hide(stdout)), clean(hide(stderr)), process.returncode, seconds)


def _talk(process: subprocess.Popen[str], stdin: str, timeout_s: float) -> tuple[str, str]:
    """What it writes until it ends: what it left running may hold its outputs open for longer.

    Raises:
        subprocess.TimeoutExpired: it does not end.
    """
    given: str | None = stdin
    deadline = time.monotonic() + timeout_s
    while True:
        left = deadline - time.monotonic()
        try:
            return process.communicate(given, timeout=max(min(left, _LOOK_S), 0.0))
        except subprocess.TimeoutExpired:
            given = None
            if process.poll() is not None:
                break
            if left <= 0:
                raise
    _signal_group(process)
    try:
        return process.communicate(timeout=_GRACE_S)
    except subprocess.TimeoutExpired as error:
        # Whoever left the group, too, is waited for no longer: all that it wrote is here.
        return _text(error.stdout), _text(error.stderr)


def _text(written: bytes | None) -> str:
    return (written or b"").decode("utf-8", "replace")


def _end_group(process: subprocess.Popen[str]) -> None:
    """Ends the group, and closes what it wrote to."""
    _signal_group(process)
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.close()


def _signal_group(process: subprocess.Popen[str]) -> None:
    """First politely, then for good. A group that is gone is fine."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_S
        while time.monotonic() < deadline:
            process.poll()
            os.killpg(process.pid, 0)
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
