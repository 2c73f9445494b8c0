"""The end of a supervised process: what it printed last, and where its threads stood."""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import os
import signal
import struct
import tempfile
import termios
import time
import tty

from autopilot.text import clean, hide, redact

_LINES = 50
_KEPT_BYTES = 16 * 1024
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
        self._tail, self.reader, self._writer = b"", -1, -1
        self._stacks = tempfile.TemporaryFile()  # noqa: SIM115  # both processes write to it
        with contextlib.suppress(OSError):
            self.reader, self._writer = _terminal() if os.isatty(2) else _pipe()
            os.set_blocking(self.reader, False)

    def take_over(self) -> None:
        """In the child: stderr goes to the parent, and a signal writes where the threads stand."""
        if self._writer >= 0:
            os.dup2(self._writer, 2)
            os.close(self._writer)
            os.close(self.reader)
        faulthandler.register(_STACK_SIGNAL, self._stacks, all_threads=True)
        if not faulthandler.is_enabled():
            faulthandler.enable(self._stacks)

    def started(self) -> None:
        """In the parent: the child has its end."""
        if self._writer >= 0:
            os.close(self._writer)

    def relay(self) -> None:
        """Passes on what the child has written so far."""
        while self.reader >= 0:
            try:
                written = os.read(self.reader, 1 << 16)
            except BlockingIOError:
                return
            except OSError:  # a terminal has no end of file
                written = b""
            if not written:
                os.close(self.reader)
                self.reader = -1
            self._tail = (self._tail + written)[-_KEPT_BYTES:]
            with contextlib.suppress(OSError):  # the user's terminal may be gone
                while written:
                    written = written[os.write(2, written) :]

    def stack(self, pid: int, wait_s: float) -> str:
        """Asks the child where its threads stand; it answers from C code too.

        Args:
            pid: The child.
            wait_s: So long at most.

        Returns:
            The stacks as faulthandler writes them; "" where it does not answer.
        """
        os.kill(pid, _STACK_SIGNAL)
        deadline, size = time.monotonic() + wait_s, 0
        while time.monotonic() < deadline:
            time.sleep(0.01)
            before, size = size, os.fstat(self._stacks.fileno()).st_size
            if size and size == before:
                break
        return self._stack()

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


def _pipe() -> tuple[int, int]:
    os.fstat(2)  # without it, the pipe would get its number
    return os.pipe()


def _terminal() -> tuple[int, int]:
    reader, writer = os.openpty()
    tty.setraw(writer)
    size = fcntl.ioctl(2, termios.TIOCGWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
    fcntl.ioctl(writer, termios.TIOCSWINSZ, size)
    return reader, writer
