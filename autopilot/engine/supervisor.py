"""A run in a process of its own, so that the death of that process costs one item, not the run.

The parent has none of the user's code: it forks before the target is loaded, and waits. The child
runs the loop and writes its position to shared memory. If it dies, the next child resumes the
experiment, and is given the position and the reason.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from autopilot.audit import leave
from autopilot.core.interpreter import Restart
from autopilot.core.progress import Death, Position
from autopilot.core.run import freeze
from autopilot.engine.board import Board, Child, Observer
from autopilot.engine.child_output import (
    MEMORY,
    SIGNALS,
    ChildOutput,
    end_of,
    flush_streams,
    oom_kills,
    watch_over,
)
from autopilot.errors import EvaluationError
from autopilot.git import locks
from autopilot.sandbox.processes import MemoryWatch, adopt, end_adopted

_REPLACED = 112
"""The exit code of a process that leaves its work to another one."""
_FORWARD_S = 0.005  # a child that was signaled too says so by then; if not, the two coalesce
_GRACE_S = 4.0
_LOOK_S, _SILENT_S = 0.5, 1.0
_SLOW_S, _BESIDE_S = 30.0, 5.0
_DEATHS_AT_MOST = 3
_WAITING = b"\nstopping once the calls are answered that are paid; Ctrl-C again stops at once\n"
# Called at each signal; a supervised child adds one.
_listeners: list[Callable[[], None]] = []


@dataclass(frozen=True, slots=True)
class _Excess:
    """Why a child was ended, when what it did then had begun, and if the time budget was up."""

    why: str
    began_s: float
    is_late: bool


class Supervisor:
    """Runs work in a child process, and in a new one each time that it dies.

    Where this process has threads, which a fork does not take along, it works itself.

    Args:
        until: File descriptors; where one reaches its end, all is ended.

    Attributes:
        slug: The experiment's name; "" before it is open.
    """

    def __init__(
        self,
        work: Callable[[Child], int],
        observer: Observer,
        slug: str = "",
        until: Sequence[int] = (),
    ) -> None:
        self._work, self._observer, self.slug, self._until = work, observer, slug, until
        self._received: list[int] = []
        self._received_s = self._overdue_s = 0.0
        self._forwarded = 0
        self._excess: _Excess | None = None
        self._memory, self._was_slow = MemoryWatch(), False
        self._beside, self._beside_s = 0, time.monotonic()

    @property
    def was_overdue(self) -> bool:
        """Whether the child was ended since the time was up."""
        return self._overdue_s > 0

    def run(self) -> int | None:
        """Runs the work to its end.

        Returns:
            The exit code; None where the child had to be killed since the time was up.

        Raises:
            EvaluationError: it died before it could be resumed, or too often at one position.
        """
        if threading.active_count() > 1 or not hasattr(os, "fork"):
            with interruptible():
                return self._work(Child(is_supervised=False))
        pending, seen = list[Death](), Counter[tuple[Position, str]]()
        child = Child(slug=self.slug)
        since = self._since = adopt(is_on=True)
        try:
            with self._listening():
                while True:
                    output, killed = ChildOutput(), oom_kills()
                    try:
                        status = self._one(child, output)
                        printed = output.last()
                    finally:
                        output.close()
                    end = child.board.code
                    self.slug = child.board.slug or self.slug
                    left_s = 0.0 if self.was_overdue else child.board.left_s
                    # What the evaluation started would write into the files of the next child, or
                    # outlive the run.
                    end_adopted(since, everywhere=True, but=(self._beside,))
                    # A moment before it is open, the experiment exists.
                    is_early = end is None and not self.slug
                    if is_early and self._observer.abandoned(child.board.claimed):
                        child.slug = self.slug = child.board.claimed
                    if end is None and self._received and not self.was_overdue:
                        break
                    if (end is not None and not left_s) or self.was_overdue:
                        return end
                    if child.board.slug:
                        pending = []
                    if left_s:
                        self._observer.look(self.slug)
                        # A signal that came too late for it is for the next one.
                        self._forwarded = 0
                        child = child.next(pending, child.board.wanted, left_s)
                        continue
                    position, excess = child.board.position, self._excess
                    if excess is not None and excess.began_s != child.board.began_s:
                        # It was over just before it was ended.
                        child = child.next(pending)
                        continue
                    why, by_kill = end_of(status, killed)
                    death = Death(position, excess.why if excess else why, printed)
                    state, instead = child.board.loaded
                    is_loading = position.split == "load" and position.is_running
                    seen[place := (position, state if is_loading else "")] += 1
                    times, is_own = seen[place], excess or not by_kill
                    instead = instead if is_loading else ""
                    is_last = times == _DEATHS_AT_MOST
                    if (excess and excess.is_late) or (not instead and (is_last or not self.slug)):
                        raise _given_up(death, self.slug, times)
                    self._observer.died(death)
                    state = child.state if is_loading else ""
                    if instead and (is_own or is_last):
                        child.board.leave_to_next(instead, f"{death.reason} {position}")
                        state = instead
                    # A kill from outside says nothing about the item: the first is no death of it.
                    elif not is_loading and position.is_running and (is_own or times > 1):
                        pending.append(death)
                    child = child.next(pending, state)
        finally:
            adopt(is_on=False)
        if os.WIFSIGNALED(status):
            # A shell that waits for this process sees the same signal as if it were the child.
            with contextlib.suppress(OSError):  # SIGKILL has no handler to be set
                signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
            os.kill(os.getpid(), os.WTERMSIG(status))
        return 128 + self._received[-1]

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Signals are noted: a terminal sends them to both, `kill` to the parent alone."""

        def note(number: int, _frame: FrameType | None) -> None:
            self._received.append(number)
            self._received_s = time.monotonic()

        reader, writer = os.pipe()
        # A full pipe must not block the signal handler; an empty one not the loop in `_wait`.
        os.set_blocking(writer, False)
        os.set_blocking(reader, False)
        self._reader, before = reader, dict[int, Any]()
        for number in SIGNALS:
            # What nohup ignores stays ignored.
            if number != signal.SIGHUP or signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, note)
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._handlers = before
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            _restore(self._handlers)
            os.close(reader)
            os.close(writer)

    def _one(self, child: Child, output: ChildOutput) -> int:
        """Runs one child; returns how it ended, as `waitpid` does."""
        flush_streams()  # else both processes would write what is in them
        self._excess = None
        # The second end is open in the parent alone: it closes when the parent is gone.
        parent, board, ends = os.getpid(), child.board, os.pipe()
        # A signal between the fork and the child's own handlers would be lost: it waits.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self._watch(board, *ends)
        freeze()  # what is here already is not looked at, and so not copied, in the child
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                board.claim()
                for end in ends:
                    os.close(end)
                # From now on it is ended with the parent; before, nobody knows of it.
                if os.getppid() != parent:
                    os._exit(1)
                output.take_over()
                child.absent = output.absent
                signal.set_wakeup_fd(-1)
                _restore(self._handlers)
                _listeners.append(board.hear)
                locks.signer.append(parent)  # a signal to the run goes to the parent
                with interruptible():
                    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                    code = self._work(child)
            except Restart:
                code = _REPLACED
            except KeyboardInterrupt:
                # It came before the work could tell it.
                code = 128 + signal.SIGINT
                os.write(2, b"interrupted\n")
            except BaseException:  # noqa: BLE001  # nothing may go back through the parent's calls
                traceback.print_exc()
            board.end(code)
            leave(code)
        output.started()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            return self._wait(pid, board, output, ends)
        finally:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(self._watcher, signal.SIGKILL)
                os.waitpid(self._watcher, 0)
            for end in ends:
                os.close(end)

    def _watch(self, board: Board, alive: int, watched: int) -> None:
        """Starts the process that ends all of this run when this process is gone."""
        parent, self._watcher = os.getpid(), os.fork()
        if self._watcher == 0:
            # What a terminal sends to all does not end it.
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            signal.set_wakeup_fd(-1)
            os.close(watched)
            try:
                watch_over(parent, (alive, *self._until), lambda: board.pid, self._since)
            finally:
                os._exit(1)

    def _wait(self, pid: int, board: Board, output: ChildOutput, ends: tuple[int, int]) -> int:
        while True:
            # Any process: adopted orphans of the evaluation have to be waited for, too.
            found, status = os.waitpid(-1, os.WNOHANG)
            if found == pid:
                return status
            if found == self._watcher:
                self._watch(board, *ends)
            if not found:
                readers = [fd for fd in (self._reader, output.reader) if fd >= 0]
                select.select(readers, [], [], self._attend(pid, board, output))
                output.relay()
                with contextlib.suppress(BlockingIOError):
                    os.read(self._reader, 1024)

    def _attend(self, pid: int, board: Board, output: ChildOutput) -> float:
        """Forwards signals and looks at the clock; returns the seconds until the next look."""
        now = time.monotonic()
        if now - self._beside_s > _BESIDE_S:
            slug, self._beside_s = board.slug or self.slug, now
            self._beside = self._observer.beside(self._beside, slug)
            self._memory.others.add(self._beside)
        if self._forwarded < len(self._received):
            if now - self._received_s < _FORWARD_S:
                return _FORWARD_S / 4
            if board.heard < len(self._received):
                os.kill(pid, self._received[-1])
            self._forwarded = len(self._received)
        if self._overdue_s:
            if now - self._overdue_s > _GRACE_S and board.code is None:
                os.kill(pid, signal.SIGKILL)
        elif not board.loading_s and board.overdue_s() > 0:
            self._overdue_s = now
            self._observer.overdue(board.past_deadline_s(), board.slug or self.slug)
            self._received.append(signal.SIGINT)
            self._forwarded = len(self._received)
            os.kill(pid, signal.SIGINT)
        return self._limit(pid, board, output)

    def _limit(self, pid: int, board: Board, output: ChildOutput) -> float:
        """Ends a child that is over a limit; returns the seconds until the next look."""
        if self._excess is not None:
            return _LOOK_S
        began_s, most, left_s = board.began_s, board.memory, math.inf
        if began_s and not self._received:
            left_s = began_s + board.timeout_s - time.monotonic()
        loading_s = board.loading_s
        if loading_s:
            left_s = min(left_s, -board.overdue_s())
            if loading_s > _SLOW_S and not self._was_slow:
                self._was_slow = True
                self._observer.slow(loading_s, output.place(pid))
        is_over = self._memory.is_over(most)
        if is_over or left_s <= 0:
            board.stop()
            is_late = loading_s > 0 and board.overdue_s() >= 0
            why = f"no result within {board.timeout_s:g} s"
            if is_late:
                why = f"the time budget was up after {loading_s:.1f} s"
            why = output.end_child(pid, "" if is_over else why, most)
            self._excess = _Excess(why, began_s, is_late)
        return max(min(_LOOK_S, self._memory.pause_s, left_s), 0.01)


def _restore(handlers: Mapping[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _given_up(death: Death, slug: str, times: int) -> EvaluationError:
    often = f" {times} times" if times > 1 else ""
    more = "more: --memory SIZE; " if death.reason.startswith(MEMORY) else ""
    hint = f"if it can pass: autopilot resume {slug}; if the code must change, commit the change "
    hint = f"{hint}and run again" if slug else "run the target by hand to see where it ends"
    return EvaluationError(f"{death.reason}{often} {death.position}", hint=f"{more}{hint}")


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """In the body, SIGTERM ends a run as Ctrl-C does; a second signal ends the process.

    A message appears where that takes longer, since calls that are paid are waited for.
    """

    def interrupt(number: int, _frame: FrameType | None) -> None:
        for listener in _listeners:
            listener()
        signal.signal(number, signal.SIG_DFL)
        # An alarm that is set already, such as a time limit on this process, is left alone.
        is_set = signal.getitimer(signal.ITIMER_REAL)[0] > 0
        if signal.getsignal(signal.SIGALRM) == signal.SIG_DFL and not is_set:
            signal.signal(signal.SIGALRM, tell)
            signal.setitimer(signal.ITIMER_REAL, _SILENT_S)
        raise KeyboardInterrupt

    def tell(_number: int, _frame: FrameType | None) -> None:
        os.write(2, _WAITING)  # a stream could be in the middle of a line

    before = dict[int, Any]()
    with contextlib.suppress(ValueError):  # not the main thread: it has no signals
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        _restore(before)
        if signal.getsignal(signal.SIGALRM) is tell:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
