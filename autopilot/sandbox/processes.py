"""Child processes: fresh processes of Python, what agents and evaluations left running, memory.

Each runs in a process group of its own, so that it can be ended with everything that it started.
Processes that left the group are found by its mark or by its parent (Linux).
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator
from pathlib import Path
from typing import IO, Any, cast

from autopilot import audit
from autopilot.errors import EvaluationError
from autopilot.git.commands import for_git, withdraw
from autopilot.text import redact, shorten

_GRACE_S = 2.0
_LAST = b""
"""The frame that a process of Python sends last."""
_MARK = "AUTOPILOT_AGENT_IN"
_ATTEMPTS = 3
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_LOOK_MEMORY_S, _LOOK_AT_LEAST_S = 0.2, 1.0
_FILLED_A_SECOND = 4 << 30  # more than one core fills
_COST_TO_PAUSE = 250
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_ADOPT = 36  # PR_SET_CHILD_SUBREAPER of Linux' prctl
_LOOK_S = 0.5
_starting = threading.Lock()
_asked: set[int] = set()  # the processes that answer at present, of all threads
_adopting = 0
apart = {0}  # children that no limit is for, with what they start

# --- fresh processes of Python ------------------------------------------------------------------


class Processes:
    """Runs modules of Python, one at a time, each in a process and a process group of its own.

    Requests and answers are framed by their length: others may hold the pipes, too. What the
    modules print goes to stderr.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def ask(self, module: str, request: bytes, folder: Path) -> Iterator[bytes]:
        """Runs a module until it ends or the caller stops; ends the processes that it leaves.

        Args:
            module: Its dotted name; it calls `answer_with`.

        Raises:
            EvaluationError: it cannot be started, ended before its last answer, or `stop` was
                called.
        """
        # -P as the console script: the working directory is not where autopilot comes from.
        command = [sys.executable, "-P", "-m", module]
        # The user's settings for git, which `answer_with` takes out of the environment again.
        environment = {**for_git(), "PYTHONDONTWRITEBYTECODE": "1"}
        stopped = EvaluationError("the evaluation was ended", hint="run the command again")
        with audit.executing("process", command, folder) as execution:
            try:
                with self._lock, _starting:
                    if self._stopped:
                        raise stopped
                    # What is left of a process that is killed becomes a child of this one.
                    since = adopt(is_on=True)
                    process = self._running = subprocess.Popen(
                        command,
                        cwd=folder,
                        env=environment,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        start_new_session=True,
                    )
                    _asked.add(process.pid)
            except OSError as error:
                raise EvaluationError(
                    f"cannot start {sys.executable}: {error.strerror}", hint="see that Python runs"
                ) from error
            try:
                is_whole = yield from _answers(process, request)
            finally:
                _kill_group(process)
                execution.code = process.returncode
                with self._lock, _starting:
                    self._running = None
                    end_adopted(since, but=_asked)
                    _asked.discard(process.pid)
                    adopt(is_on=False)
        if self._stopped:
            raise stopped
        if not is_whole:
            code = process.returncode
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise EvaluationError(
                f"the evaluation ended with {how} before it gave a result",
                hint="what it printed is above",
            )

    def ask_more(self, request: bytes) -> None:
        """Gives the process that is running a further request; its answers come as the first's."""
        if (process := self._running) is not None and process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                _write_frame(process.stdin, request)

    def stop(self) -> None:
        """Ends what is running, from any thread; nothing is started any more."""
        with self._lock:
            self._stopped = True
            if self._running:
                _kill_group(self._running)


Send = Callable[[bytes], None]
_notes: set[str] = set()


def tell_once(note: str) -> None:
    """Prints a note of such a process, where its own output goes: others have the same ones."""
    if note not in _notes:
        _notes.add(note)
        sys.stderr.write(f"note: {redact(note)}\n")


def further_request(asker: int) -> bytes:
    """Waits for a further request, by the descriptor of `answer_with`; empty: there is none."""
    with os.fdopen(os.dup(asker), "rb") as pipe:
        return _read_frame(pipe) or b""


def answer_with(answer: Callable[[bytes, Send, int], None]) -> None:
    """The child's side: reads the request, and lets the function send answers to it.

    Meanwhile stdin is empty and what is printed, by child processes too, goes to stderr.

    Args:
        answer: Gets the request, the function that sends an answer, and the file descriptor that
            `further_request` reads; it reaches its end when the process that asked is gone.
    """
    withdraw()
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(nothing := os.open(os.devnull, os.O_RDONLY), 0)
    os.close(nothing)
    os.dup2(2, 1)
    request = _read_frame(requests) or b""
    answer(request, lambda content: _write_frame(answers, content), requests.fileno())
    sys.stdout.flush()
    _write_frame(answers, _LAST)


def _answers(process: subprocess.Popen[bytes], request: bytes) -> Generator[bytes, None, bool]:
    """Sends a request and yields the answers; returns whether the last one came.

    stdin stays open meanwhile: its end is how the process learns that this one is gone.
    """
    requests, answers = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
    # A process that it left running may hold the pipe: the end of the pipe is not waited for.
    os.set_blocking(answers.fileno(), False)
    try:
        with contextlib.suppress(BrokenPipeError):
            _write_frame(requests, request)
        while answer := _read_frame(answers, process):
            yield answer
        # Closing the pipe would end the process before it has ended by itself.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
        return answer == _LAST
    finally:
        answers.close()
        with contextlib.suppress(BrokenPipeError):
            requests.close()


def _write_frame(pipe: IO[bytes], content: bytes) -> None:
    pipe.write(len(content).to_bytes(8, "big") + content)
    pipe.flush()


def _read_frame(pipe: IO[bytes], process: subprocess.Popen[bytes] | None = None) -> bytes | None:
    """One frame; None where it was cut short, or the process ended."""
    head = _read(pipe, 8, process)
    size = int.from_bytes(head, "big")
    content = _read(pipe, size, process)
    return content if len(head) == 8 and len(content) == size else None


def _read(pipe: IO[bytes], size: int, process: subprocess.Popen[bytes] | None) -> bytes:
    found = b""
    while len(found) < size:
        ended = process is not None and process.poll() is not None
        if not ended:
            select.select([pipe], [], [], _LOOK_S)
        try:
            part = os.read(pipe.fileno(), size - len(found))
        except BlockingIOError:
            part = None
        if part == b"" or (ended and part is None):
            break
        found += part or b""
    return found


def _kill_group(process: subprocess.Popen[Any]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# --- what an agent left running -----------------------------------------------------------------


def mark(workdir: Path) -> dict[str, str]:
    """The variable that processes of agents and commands inherit: the worktree they work in."""
    return {_MARK: str(workdir)}


def end_marked(workdir: Path) -> None:
    """Ends the processes that bear a worktree's mark, where the system lists processes (Linux).

    They would write there later: during an evaluation, or, after a kill, in the resumed run.
    """
    wanted = os.fsencode(f"{_MARK}={workdir}")
    # A process that forks while /proc is read can be missed: look again until none is found.
    for _ in range(_ATTEMPTS):
        found = False
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    os.kill(int(folder.name), signal.SIGKILL)
                    found = True
        if not found:
            return


def adopt(*, is_on: bool) -> float:
    """Makes this process the parent of its descendants' orphans, or stops that (Linux).

    It finds processes that emptied their environment, and so bear no mark. Returns the time, in the
    system's ticks, for `end_adopted`.
    """
    global _adopting
    if not sys.platform.startswith("linux"):
        return 0.0
    _adopting += 1 if is_on else -1
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_ADOPT, int(_adopting > 0), 0, 0, 0)
    return time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")


def die_with_parent(parent: int) -> None:
    """Has SIGKILL sent to this process when its parent ends (Linux)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def end_adopted(
    since: float, *, everywhere: bool = False, but: Collection[int] = (), grace_s: float = 0.0
) -> list[str]:
    """Ends the children of this process that began since then and left its session (Linux).

    Args:
        everywhere: Those of its session too.
        but: Processes that go on.
        grace_s: Seconds in which they may end by themselves.

    Returns the names of those that it ended.
    """
    ended, own, own_session, count = set(but), os.getpid(), os.getsid(0), -1
    names, deadline = list[str](), time.monotonic() + grace_s
    # The children of a child that was ended become children of this process.
    with contextlib.suppress(ChildProcessError, AttributeError):
        while count != len(ended):
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # raises without any
            count = len(ended)
            for pid, fields in listed():
                parent, session, born = int(fields[1]), int(fields[3]), int(fields[19])
                is_meant = parent == own and (everywhere or session != own_session)
                if is_meant and born >= int(since) and pid not in ended:
                    if fields[0] != "Z":
                        if time.monotonic() < deadline:
                            time.sleep(0.02)
                            count = -1
                            continue
                        names.append(name_of(pid))
                    with contextlib.suppress(ProcessLookupError, ChildProcessError):
                        os.kill(pid, signal.SIGKILL)
                        os.waitpid(pid, 0)
                    ended.add(pid)
    return names


def name_of(pid: int) -> str:
    """The beginning of its command line (Linux)."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        return shorten(redact(b" ".join(words).decode("utf-8", "replace")), 40) or "a process"
    return "a process"


def listed() -> Iterator[tuple[int, list[str]]]:
    """All processes (Linux), each with its state, parent, group, session, and so on."""
    for folder in Path("/proc").glob("[0-9]*"):
        # A process that ends meanwhile has no line any more.
        with contextlib.suppress(OSError):
            yield int(folder.name), _fields(int(folder.name))


def _fields(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


# --- memory -------------------------------------------------------------------------------------


class MemoryWatch:
    """The resident memory of all that this process started, itself not included (Linux).

    Pages that processes share count in each of them, but above the limit, where it matters, once:
    that takes longer to find.

    Attributes:
        others: Processes that do not count, with what they start.
        pause_s: Seconds until the next look: the shorter, the nearer the limit is, but so long that
            looking takes no more than a few per mille of a core.
    """

    def __init__(self) -> None:
        self._started, self.others = set[int](), {*apart}
        self.pause_s = 0.0

    def is_over(self, limit: float) -> bool:
        """Whether they take more than so many bytes; False where no processes are listed."""
        if limit == math.inf:
            self.pause_s = math.inf
            return False
        began_s = time.thread_time()
        self._look()
        sizes = {pid: _resident(pid) for pid in self._started}
        taken = sum(sizes.values())
        if taken > limit:
            taken = sum(_proportional(pid, size) for pid, size in sizes.items())
        spent_s = time.thread_time() - began_s
        soonest_s = min((limit - taken) / _FILLED_A_SECOND, _LOOK_MEMORY_S)
        self.pause_s = min(max(soonest_s, spent_s * _COST_TO_PAUSE), _LOOK_AT_LEAST_S)
        return taken > limit

    def _look(self) -> None:
        """Finds what was started since the last look; the parents of the rest are known."""
        with contextlib.suppress(OSError):
            listed = {int(name) for name in os.listdir("/proc") if name.isdigit()}
            self._started &= listed
            self.others &= listed | {0}
            own, parents = os.getpid(), dict[int, int]()
            for pid in listed - self._started - self.others:
                with contextlib.suppress(OSError):
                    parents[pid] = int(_fields(pid)[1])
            parents.pop(own, None)
            known = -1
            # One whose parent began after the list was read is looked at next time.
            while known != len(self._started) + len(self.others):
                known = len(self._started) + len(self.others)
                for pid, parent in parents.items():
                    if parent == own or parent in self._started:
                        self._started.add(pid)
                    elif parent in self.others:
                        self.others.add(pid)


def _resident(pid: int) -> float:
    try:
        return float(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0.0


def _proportional(pid: int, resident: float) -> float:
    """A process's memory, of shared pages its part; its resident memory where that is unknown."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return float(text.partition("\nPss:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        return resident
