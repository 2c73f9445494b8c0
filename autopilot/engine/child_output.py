"""The end of a supervised process: its last output, where it stood, and what it leaves running."""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import os
import select
import signal
import struct
import sys
import tempfile
import termios
import time
import traceback
import tty
import warnings
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from autopilot.core.failures import place_in_stacks
from autopilot.engine.board import size_text
from autopilot.sandbox.processes import die_with_parent, listed
from autopilot.text import clean, hide, redact

MEMORY = "killed for memory"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LINES = 50
_KEPT_BYTES = 16 * 1024
_LOOK_S, _SWEEP_S, _SWEEPS = 0.5, 0.01, 3
_BEHIND_S = 1.0
_NO_FILE = b"o such file or directory"
_enabled: list[bool] = []
# Realtime signals are hardly used by anyone; the system's own are below SIGRTMIN.
_STACK_SIGNAL = int(getattr(signal, "SIGRTMIN", signal.SIGUSR2 - 7)) + 7


class ChildOutput:
    """Passes the stderr of a child on, and keeps its end.

    The parent makes it before the fork; the child calls `take_over`, the parent `relay` whenever
    `reader` is readable, and `close`. Where stderr is a terminal, the child's is one too.

    Attributes:
        reader: A file descriptor for `select`; -1 where there is no stderr.
    """

    def __init__(self) -> None:
        self._tail = b""
        self.reader = self._writer = self._unread = -1
        self._stacks = tempfile.TemporaryFile()  # noqa: SIM115  # both processes write to it
        self._absent = tempfile.TemporaryFile()  # noqa: SIM115  # the child reads it
        with contextlib.suppress(OSError):
            self.reader, self._writer = _terminal() if os.isatty(2) else _pipe()
            os.set_blocking(self.reader, False)

    def take_over(self) -> None:
        """In the child: stderr goes to the parent, and a signal writes where the threads stand."""
        if self._writer >= 0:
            os.dup2(self._writer, 2)
            # Of a pipe both ends know what the parent has not read yet, of a terminal only its own.
            self._unread = self.reader if os.isatty(2) else self._writer
            os.close(self._writer if os.isatty(2) else self.reader)
        faulthandler.register(_STACK_SIGNAL, self._stacks, all_threads=True)
        # One that a process before enabled writes to that one's file.
        if not faulthandler.is_enabled() or _enabled:
            faulthandler.enable(self._stacks)
            _enabled.append(True)

    def started(self) -> None:
        """In the parent: the child has its end."""
        if self._writer >= 0:
            os.close(self._writer)

    def relay(self) -> None:
        """Passes on what the child has written so far."""
        while self.reader >= 0:
            fcntl.lockf(self._absent, fcntl.LOCK_EX)  # the child waits for what is read here
            try:
                written = os.read(self.reader, 1 << 16)
                self._note_absent(written)
            except BlockingIOError:
                return
            except OSError:  # a terminal has no end of file
                written = b""
            finally:
                fcntl.lockf(self._absent, fcntl.LOCK_UN)
            if not written:
                os.close(self.reader)
                self.reader = -1
            self._tail = (self._tail + written)[-_KEPT_BYTES:]
            with contextlib.suppress(OSError):  # the user's terminal may be gone
                while written:
                    written = written[os.write(2, written) :]

    def _note_absent(self, written: bytes) -> None:
        # A read may end within a line.
        recent = self._tail[self._tail.rfind(b"\n") + 1 :] + written
        if _NO_FILE in recent and self._absent.tell() < _KEPT_BYTES:
            lines = [line for line in recent.splitlines() if _NO_FILE in line]
            self._absent.write(b"\n".join([*lines[-20:], b""]))
            self._absent.flush()

    def absent(self) -> str:
        """In the child: the lines that were printed so far on files that do not exist.

        What the parent has not read yet is waited for; a parent that does not read, a moment only.
        """
        deadline = time.monotonic() + _BEHIND_S
        while self._is_behind() and time.monotonic() < deadline:
            time.sleep(0.001)
        return os.pread(self._absent.fileno(), 2 * _KEPT_BYTES, 0).decode("utf-8", "replace")

    def _is_behind(self) -> bool:
        look = select.poll()
        with contextlib.suppress(OSError, ValueError):
            look.register(self._unread, select.POLLIN)
            look.poll(0)  # what was written to a terminal arrives a little later without it
            if any(fcntl.ioctl(self._unread, termios.FIONREAD, bytes(4))):
                return True
        # What was read is noted while the parent has the lock.
        try:
            fcntl.lockf(self._absent, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.lockf(self._absent, fcntl.LOCK_UN)
        except OSError:
            return True
        return False

    def place(self, pid: int, wait_s: float = 0.5) -> str:
        """The function and line that the child stands in, from C code too; "" if not known.

        It is asked, and its answer is waited for so long at most.
        """
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, _STACK_SIGNAL)
        deadline, size = time.monotonic() + wait_s, 0
        while time.monotonic() < deadline:
            time.sleep(0.01)
            before, size = size, os.fstat(self._stacks.fileno()).st_size
            if size and size == before:
                break
        return place_in_stacks(self._stack())

    def end_child(self, pid: int, why: str, memory: float) -> str:
        """Ends the child, which is over a limit; returns the reason, with the place where it stood.

        Args:
            why: The reason; "" if it takes too much memory.
            memory: The bytes that it may take.
        """
        # Memory is taken while it is asked where it stands.
        place = self.place(pid, 0.5 if why else 0.1)
        os.kill(pid, signal.SIGKILL)
        why = why or f"{MEMORY}: over {size_text(memory)}"
        return f"{why}, in {place}" if place else why

    def _stack(self) -> str:
        return os.pread(self._stacks.fileno(), _KEPT_BYTES, 0).decode("utf-8", "replace")

    def last(self) -> str:
        """The last lines that the child printed, and where it stood, without secrets."""
        self.relay()
        lines = self._tail.decode("utf-8", "replace").splitlines()[-_LINES:]
        return redact(clean(hide("\n".join([*lines, *self._stack().splitlines()[:_LINES]]))))

    def close(self) -> None:
        """Passes the rest on, and gives up the pipe."""
        self.relay()
        if self.reader >= 0:
            os.close(self.reader)
            self.reader = -1
        self._stacks.close()
        self._absent.close()


def flush_streams() -> None:
    """Writes what Python holds back of stdout and stderr."""
    for stream in (sys.stderr, sys.stdout):
        if stream is not None:
            stream.flush()


def forked(work: Callable[[], None], *, is_bound: bool = True) -> int:
    """Runs work in a process that never returns here, and gives its id.

    Args:
        is_bound: It is killed when this process ends.
    """
    flush_streams()  # else both processes would write what is in them
    parent = os.getpid()
    # A signal between the fork and the child's own handlers would run those of its parent.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    with warnings.catch_warnings():
        # Python warns of the parent's threads, which the child lacks.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if is_bound:
                die_with_parent(parent)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            work()
            flush_streams()
            code = 0
        except BaseException:  # noqa: BLE001  # nothing may go back through the parent's calls
            traceback.print_exc()
        finally:
            # Not as an interpreter ends: what is to be done at its exit is for the parent.
            os._exit(code)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pid


def end_of(status: int, killed: float) -> tuple[str, bool]:
    """The end of a process in words, and whether it is a kill that may come from outside.

    Args:
        status: As `waitpid` gives it.
        killed: How many processes the system had killed for lack of memory when it began.
    """
    if not os.WIFSIGNALED(status):
        return f"the evaluation died: exit code {os.WEXITSTATUS(status)} (os._exit)", False
    number = os.WTERMSIG(status)
    by_kill = number == signal.SIGKILL
    if by_kill and oom_kills() > killed:
        return f"{MEMORY}, by the system", False
    name = signal.Signals(number).name if number in set(signal.Signals) else "unknown"
    how = "was killed" if by_kill else "died"
    return f"the evaluation {how}: signal {number} ({name})", by_kill


def watch_over(parent: int, watched: Sequence[int], child: Callable[[], int], since: float) -> None:
    """Waits until a run is to end, and kills all of its processes but this one then.

    Args:
        parent: Who waits for the child, and adopts its orphans; this process's parent.
        watched: File descriptors; where one reaches its end, the run is to end.
        child: Gives the process id of the one that evaluates; 0 before there is one.
        since: What `adopt` returned.
    """
    own, group, adopted = os.getpid(), os.getpgrp(), set[int]()
    ends = select.poll()
    for descriptor in watched:
        ends.register(descriptor, 0)  # its end is told even so, and what can be read is not
    while not ends.poll(_LOOK_S * 1000):
        # When the parent is gone, its orphans cannot be told from those of others.
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
            adopted = set(map(int, text.split()))
    if os.getppid() == parent:
        os.kill(parent, signal.SIGKILL)
    if child():
        with contextlib.suppress(ProcessLookupError):
            os.kill(child(), signal.SIGSTOP)  # it starts no more
    for _ in range(_SWEEPS):
        family = {pid: fields for pid, fields in listed() if int(fields[19]) >= int(since)}
        left = {
            pid
            for pid, fields in family.items()
            if int(fields[1]) == os.getppid() and int(fields[2]) == group
        }
        for pid in _below({child(), *adopted, *left} - {0, own, parent}):
            if pid in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(_SWEEP_S)
    if child():
        with contextlib.suppress(ProcessLookupError):
            os.kill(child(), signal.SIGKILL)


def _below(tops: Collection[int]) -> list[int]:
    """Processes, those that they started, and so on (these on Linux)."""
    children = dict[int, list[int]]()
    for pid, fields in listed():
        children.setdefault(int(fields[1]), []).append(pid)
    found = list(tops)
    for pid in found:  # it grows meanwhile
        found += children.get(pid, ())
    return found


def _pipe() -> tuple[int, int]:
    os.fstat(2)  # without it, the pipe would get its number
    return os.pipe()


def _terminal() -> tuple[int, int]:
    reader, writer = os.openpty()
    tty.setraw(writer)
    size = fcntl.ioctl(2, termios.TIOCGWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
    fcntl.ioctl(writer, termios.TIOCSWINSZ, size)
    return reader, writer


def oom_kills() -> int:
    """How many processes the system has killed in this one's cgroup for lack of memory (Linux)."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, names, place = line.split(":", 2)
            if names in ("", "memory"):
                kind = "memory.oom_control" if names else "memory.events"
                # A container may see its own cgroup as the top one.
                for folder in (f"{names}{place}".strip("/"), names):
                    with contextlib.suppress(OSError, KeyError):
                        text = Path("/sys/fs/cgroup", folder, kind).read_text()
                        return int(dict(map(str.split, text.splitlines()))["oom_kill"])
    return 0
