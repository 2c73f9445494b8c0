"""Programs that are run to their end: agents, and commands. Their output never fills the memory."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import selectors
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from autopilot import audit
from autopilot.core.run import current_run
from autopilot.errors import AgentError, AgentNotFoundError, AgentTimeoutError
from autopilot.sandbox.processes import listed, name_of
from autopilot.text import clean, hide, redact, shorten

_GRACE_S = 2.0
_LOOK_S = 0.1
_FIRST = 64 << 10
"""Bytes that are kept of the beginning of a program's output."""
_LAST = 448 << 10
"""Bytes that are kept of its end; some programs print their answer there, on one line."""
_PIPE = 64 << 10
_ENDLESS = 1 << 30
"""Bytes of output after which a program is ended, since it will not end by itself."""
_READS_AT_END = 32
_HEARD, _NOTE_S = 600, 1.0
_NOT_RUNNABLE = {
    errno.EACCES: "make it executable: chmod +x {name}",
    errno.ENOEXEC: "let its first line name its interpreter, as in #!/bin/sh",
}
_MOST = 1 << 62


@dataclass(frozen=True, slots=True)
class Finished:
    """A program that ended.

    Args:
        stdout: What it wrote, without the values of secret environment variables; of more than
            512 KiB, the beginning and the end, and how many bytes are missing.
        ended_by: The limit by which it was ended: "time", "output"; "" where it ended by itself.
        left: The processes of its group that were still running when it had ended.
    """

    stdout: str
    stderr: str
    code: int
    seconds: float
    ended_by: str = ""
    left: Sequence[str] = ()

    @property
    def end(self) -> str:
        """How it ended, in words.

        >>> Finished("", "", 3, 0.1).end, Finished("", "", -9, 0.1).end
        ('ended with code 3', 'was ended by signal 9 (SIGKILL)')
        """
        if self.code >= 0:
            return f"ended with code {self.code}"
        known = -self.code in set(signal.Signals)
        named = f" ({signal.Signals(-self.code).name})" if known else ""
        return f"was ended by signal {-self.code}{named}"

    def tail(self) -> str:
        """The last line that it wrote, errors first, without secrets."""
        lines = [line for line in (self.stderr.strip() or self.stdout.strip()).splitlines() if line]
        return redact(lines[-1])[-300:] if lines else "it wrote nothing"


def called(command: Sequence[str]) -> str:
    """A program's name for a person; of a shell's line, the line.

    >>> called(["/usr/bin/aider", "--yes"]), called(["sh", "-c", "make edit"])
    ('aider', '`make edit`')
    """
    if list(command[:2]) == ["sh", "-c"] and len(command) > 2:
        return f"`{shorten(command[2], 60)}`"
    return Path(command[0]).name


def _is_file(name: str, folder: Path | None) -> bool:
    return "/" in name and Path(folder or ".", name).is_file()


class _Ends:
    """The beginning and the end of a program's output, however long it is."""

    def __init__(self, last: int, heard: Callable[[bytes], None]) -> None:
        self._first, self._last, self.size = bytearray(), bytearray(), 0
        self._most, self._heard = last, heard

    def add(self, written: bytes) -> None:
        self._heard(written)
        self.size += len(written)
        room = _FIRST - len(self._first)
        self._first += written[:room]
        self._last += written[room:]
        if len(self._last) > 2 * self._most:
            del self._last[: -self._most]

    def text(self) -> str:
        """Both, without the values of secret environment variables."""
        last = self._last[-self._most :]
        missing = self.size - len(self._first) - len(last)
        cut = b"\n[... %d bytes left out ...]\n" % missing if missing else b""
        # Line ends as a pipe in text mode reads them.
        text = (self._first + cut + last).decode("utf-8", "replace")
        return clean(hide(text.replace("\r\n", "\n").replace("\r", "\n")))


class _Heard:
    """Notes the last lines of a step's agent, once a second at most, for those who watch."""

    def __init__(self) -> None:
        self._run, self._last, self._noted_s = current_run(), b"", -math.inf

    def __call__(self, written: bytes) -> None:
        run, now = self._run, time.monotonic()
        if run is None or not run.step_number:
            return
        self._last = (self._last + written)[-_HEARD:]
        if now - self._noted_s >= _NOTE_S and self._last.strip():
            self._noted_s = now
            text = clean(self._last.decode("utf-8", "replace"))
            run.experiment.progress.note_said(run.epoch, run.step_number, text)


def run_process(command: Sequence[str], *, timeout_s: float, **how: Any) -> Finished:
    """Runs a program to its end, as `finish`; one that is too long about it is an error.

    Args:
        how: See `finish`: `folder`, `hint`, `stdin`, `env`.

    Raises:
        AgentTimeoutError: it took too long, or wrote a gibibyte.
        AgentNotFoundError: there is no such program.
        AgentError: it cannot be started.
    """
    finished = finish(command, timeout_s=timeout_s, most=_ENDLESS, heard=_Heard(), **how)
    if finished.ended_by == "output":
        raise AgentTimeoutError(
            f"{Path(command[0]).name} wrote {_ENDLESS >> 20} MiB without an end and was ended",
            hint="run it by hand in the same folder",
        )
    if finished.ended_by:
        raise AgentTimeoutError(
            f"{called(command)} did not answer within {timeout_s:g} s and was ended",
            hint="give it more time with timeout_s, or a smaller task",
        )
    return finished


def finish(
    command: Sequence[str],
    *,
    timeout_s: float,
    hint: str,
    stdin: str = "",
    folder: Path | None = None,
    env: Mapping[str, str] | None = None,
    kept: int = _LAST,
    most: int = _MOST,
    grace_s: float = 0.0,
    heard: Callable[[bytes], None] = lambda _: None,
) -> Finished:
    """Runs a program in a process group of its own, and ends the group when the program ends.

    Args:
        timeout_s: After that the whole group is ended.
        hint: What to do where the program is missing.
        env: Its environment; None: that of this process.
        kept: Bytes that are kept of the end of its output.
        most: Bytes of output after which the whole group is ended.
        grace_s: Seconds in which the rest of the group may end by itself, once it has ended.
        heard: Gets what it writes, at once.

    Raises:
        AgentNotFoundError: there is no such program.
        AgentError: it cannot be started.
    """
    name, started = command[0], time.monotonic()
    outputs = _Ends(kept, heard), _Ends(kept, heard)
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
            if not _is_file(name, folder):
                said = f"the program {name} is not installed"
                raise AgentNotFoundError(said, hint=hint) from error
            raise AgentNotFoundError(
                f"cannot start {name}: there is no such interpreter as its first line names",
                hint="correct that line, or install what it names",
            ) from error
        except OSError as error:
            said = f"cannot start {name}: {error.strerror}"
            if _is_file(name, folder) and error.errno in _NOT_RUNNABLE:
                hint = _NOT_RUNNABLE[error.errno].format(name=shlex.quote(name))
                raise AgentNotFoundError(said, hint=hint) from error
            raise AgentError(said, hint=hint) from error
        with process, selectors.DefaultSelector() as pipes:
            for pipe, output in zip((process.stdout, process.stderr), outputs, strict=True):
                os.set_blocking(cast("IO[bytes]", pipe).fileno(), False)
                pipes.register(cast("IO[bytes]", pipe), selectors.EVENT_READ, output)
            left: Sequence[str] = ()
            try:
                ended_by = _wait(process, pipes, timeout_s, outputs, most)
                deadline = time.monotonic() + (0.0 if ended_by else grace_s)
                while (is_left := _is_running(process)) and time.monotonic() < deadline:
                    _read(pipes, 0.0)
                    time.sleep(0.01)
                left = _names(process.pid) if is_left and not ended_by else ()
            finally:
                # Also after a normal end: a process that it left running would edit files later.
                terminate_group(process)
                process.wait()
            # Who left the group may hold the pipes, and write without end.
            for _ in range(_READS_AT_END):
                _read(pipes, 0.0)
        execution.code = process.returncode
    out, errors = (output.text() for output in outputs)
    seconds = time.monotonic() - started
    return Finished(out, errors, process.returncode, seconds, ended_by, left)


def _wait(
    process: subprocess.Popen[bytes],
    pipes: selectors.BaseSelector,
    timeout_s: float,
    outputs: Sequence[_Ends],
    most: int,
) -> str:
    """Waits until a program ends, and reads what it writes; returns the limit that it is over."""
    deadline = time.monotonic() + timeout_s
    while process.poll() is None:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return "time"
        if sum(output.size for output in outputs) > most:
            return "output"
        if pipes.get_map():
            _read(pipes, min(left_s, _LOOK_S))
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(left_s if left_s < math.inf else None)
    return ""


def _read(pipes: selectors.BaseSelector, timeout_s: float) -> None:
    """Takes in what is in the pipes, as soon as there is something."""
    for key, _ in pipes.select(timeout_s) if pipes.get_map() else ():
        written = os.read(key.fd, _PIPE)
        key.data.add(written)
        if not written:
            pipes.unregister(key.fileobj)


def terminate_group(process: subprocess.Popen[Any]) -> None:
    """Sends SIGTERM, and SIGKILL to what is left after a grace period; an empty group is fine."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_S
        while _is_running(process) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)


def _names(group: int) -> list[str]:
    """The command lines of its processes; of none that can be listed, a word for them."""
    found = [name_of(pid) for pid, fields in listed() if int(fields[2]) == group != pid]
    return found or ["processes"]


def _is_running(process: subprocess.Popen[Any]) -> bool:
    """Whether anything of its group is."""
    # A zombie counts as a member: without poll the group would never be empty. Those that lost
    # their parent may be this process's children.
    if process.poll() is not None:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-process.pid, os.WNOHANG)[0]:
                pass
    try:
        os.killpg(process.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
