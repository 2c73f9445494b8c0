"""The audit trail of `--expose`: the programs and calls of a command, their codes and durations.

Calls of git, programs and models are noted by the functions that make them. Programs that the
user's own code starts are noted by Python's audit hook, without exit codes. Nothing is kept unless
a trail was begun.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shlex
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from autopilot.text import HIDDEN, align, redact

R = TypeVar("R")
_SECRET_OPTION = re.compile(
    r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|AUTH|COOKIE|HEADER", re.IGNORECASE
)
_LOGIN = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_LONGEST_ARGUMENT = 200


@contextlib.contextmanager
def holding(variable: ContextVar[R], value: R) -> Iterator[None]:
    """In the body, a context variable has a value."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


@dataclass(slots=True)
class Execution:
    """One thing that was executed.

    Args:
        kind: "git", "process" or "model".
        command: As it would be typed, without secrets; of a model its role and name.
        folder: Where it ran; "" for a model.
        code: Exit code, or the service's status; None where it is not known, or not to its end.
        seconds: Wall clock; None where it is not known.
    """

    kind: str
    command: str
    folder: str = ""
    code: int | None = None
    seconds: float | None = None
    detail: str = ""


@dataclass(slots=True)
class Trail:
    """All executions since it was begun, in the order in which they started."""

    executed: list[Execution] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Wall clock since it was begun."""
        return time.monotonic() - self.started

    def lines(self) -> list[str]:
        """The executions as a table, after a line that counts them."""
        heading = f"executed in {self.seconds:.1f} s: {len(self.executed) or 'nothing'}"
        rows = [
            [
                each.kind,
                "-" if each.code is None else str(each.code),
                "-" if each.seconds is None else f"{each.seconds:.3f}",
                each.command + (f"  ({each.detail})" if each.detail else ""),
            ]
            for each in self.executed
        ]
        table = align(["kind", "code", "seconds", "command"], rows, ("code", "seconds"))
        return [heading, *(table if rows else [])]


_trail: Trail | None = None
_own = threading.local()
_hooked = False


def begin() -> Trail:
    """Begins a trail, in the place of an earlier one."""
    global _trail, _hooked  # one process, one trail
    _trail = Trail()
    if not _hooked:
        # A hook stays for good; it looks for a trail each time.
        sys.addaudithook(_on_event)
        _hooked = True
    return _trail


def current() -> Trail | None:
    """The trail, if one was begun."""
    return _trail


def end() -> None:
    """Ends the trail."""
    global _trail  # as above
    _trail = None


@contextlib.contextmanager
def executing(kind: str, command: Sequence[str], folder: Path | None = None) -> Iterator[Execution]:
    """Notes the execution of a program, or of a model call, by the body.

    The arguments are those of Execution; the body fills in the exit code.
    """
    execution = Execution(kind, "")
    if _trail is not None:
        execution = Execution(kind, redact_command(command), str(folder or ""))
        _trail.executed.append(execution)
    started = time.monotonic()
    # While it is set, no hook takes the processes of this call for those of the user's code.
    outer, _own.kind = own(), kind
    try:
        yield execution
    finally:
        _own.kind = outer
        execution.seconds = time.monotonic() - started


def own() -> str:
    """The kind of what this thread executes now; "" if it is nothing of ours."""
    return getattr(_own, "kind", "")


def _on_event(event: str, arguments: tuple[object, ...]) -> None:
    if event != "subprocess.Popen" or _trail is None or own():
        return
    program, given, folder, *_ = arguments
    command = [given] if isinstance(given, str | bytes) else given
    listed = [str(part) for part in command] if isinstance(command, Sequence) else [str(program)]
    execution = Execution("process", redact_command(listed), str(folder or ""))
    execution.detail = "started by the code that was run"
    _trail.executed.append(execution)


def redact_command(command: Sequence[str]) -> str:
    """A command as it would be typed, without secrets: also the logins of addresses, and values of
    options whose names tell that they are secret. What is long is shortened.

    >>> redact_command(["git", "push", "https://ada:pw@host/x.git"])
    'git push https://[hidden]@host/x.git'
    >>> redact_command(["agent", "--api-key", "a b", "--token=c"])
    'agent --api-key [hidden] --token=[hidden]'
    """
    shown: list[str] = []
    follows = False
    for argument in command:
        name, equals, value = argument.partition("=")
        is_option = argument.startswith("-")
        secret = bool(_SECRET_OPTION.search(name) or value.lower().startswith("authorization"))
        if follows and not is_option:
            shown.append(HIDDEN)
        elif secret and equals:
            shown.append(f"{name}={HIDDEN}")
        else:
            text = _LOGIN.sub(HIDDEN, redact(argument))
            rest = len(text) - _LONGEST_ARGUMENT
            cut = f"{text[:_LONGEST_ARGUMENT]}... ({rest} more characters)" if rest > 0 else text
            shown.append(cut if HIDDEN in cut else shlex.quote(cut))
        follows = is_option and secret and not equals
    return " ".join(shown)


# --- processes that the user's code forks --------------------------------------------------------


def run_here(function: Callable[..., R], *args: Any) -> R:
    """Calls the user's code; a process that it forked ends where it would leave the code.

    It would go on with the loop, beside this process.
    """
    own = os.getpid()
    try:
        result = function(*args)
    except BaseException as error:
        if os.getpid() == own:
            raise
        code = error.code if isinstance(error, SystemExit) else 1
        if not isinstance(error, SystemExit) or isinstance(code, str):
            traceback.print_exc()
        _leave(code if isinstance(code, int) else int(code is not None))
    if os.getpid() != own:
        _leave(0)
    return result


def leave(code: int) -> NoReturn:
    """Ends this process as an interpreter does, but without a return through its caller's calls.

    Its objects are not freed one by one: that takes longer than many a command.
    """
    with contextlib.suppress(BaseException):
        vars(threading)["_shutdown"]()
        vars(atexit)["_run_exitfuncs"]()
    _leave(code)


def _leave(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):  # it may be closed
            stream.flush()
    os._exit(code & 0xFF)
