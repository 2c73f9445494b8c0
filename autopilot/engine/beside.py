"""How a run's process begins, and what goes on beside it: the process that sends its epochs to a
tracker, and the command that is run at its end."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autopilot.core.callback import Callback, RunView
from autopilot.core.module import AutoPilotModule
from autopilot.core.records.record import MetricsRecord
from autopilot.engine.board import Child
from autopilot.engine.options import Options, options_of
from autopilot.engine.request import Request
from autopilot.engine.session import Session
from autopilot.errors import AutopilotError
from autopilot.git.repository import Repository
from autopilot.sandbox.programs import terminate_group
from autopilot.text import redact, shorten
from autopilot.tracking.loggers import check_installed, is_installed
from autopilot.tracking.notebook import Notebook

_QUIET_S, _WAIT_S, _NOTIFY_S = 2.0, 60.0, 60.0
_DETACHED = "import os, sys; os.fork() and os._exit(0); "
_DETACHED += "from autopilot.tracking.loggers import main; main(*sys.argv[1:])"


@dataclass(frozen=True, slots=True)
class Prepare:
    """How the session of a process is made, its tracker, and the executor that it measures with."""

    folder: Path
    session: Callable[[Sequence[Any], Child], Session]
    tracker: str | None = None
    executor: str | None = None


def start_or_resume(request: Request) -> Prepare:
    """Prepares a new experiment, or, where its process died, goes on with it."""

    def prepare(callbacks: Sequence[Any], child: Child) -> Session:
        if child.slug:
            return Session.resume(request.folder, child.slug, Options(), callbacks, child)
        return Session.start(request, callbacks, child)

    return Prepare(request.folder, prepare, request.options.log_to, request.options.executor)


def resuming(folder: Path, notebook: Notebook, changes: Options) -> Prepare:
    """Prepares going on with an experiment, with options that take the place of its own.

    Raises:
        UsageError: they name a tracker that is not installed; an earlier one may be missing.
    """
    check_installed(changes.log_to)

    def prepare(callbacks: Sequence[Any], child: Child) -> Session:
        return Session.resume(folder, notebook.slug, changes, callbacks, child)

    options = options_of(notebook, changes)
    return Prepare(folder, prepare, options.log_to, options.executor)


class News(Callback):
    """Tells the process beside the run that there is something new to send."""

    def __init__(self, writer: int) -> None:
        self._writer = writer

    def on_fit_start(self, trainer: RunView, module: object) -> None:
        # It has fallen behind: what it reads next tells as much.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._writer, f"{trainer.experiment.slug}\n".encode())

    def on_epoch_recorded(
        self, trainer: RunView, module: AutoPilotModule, record: MetricsRecord
    ) -> None:
        self.on_fit_start(trainer, module)


class Beside:
    """Sends a run's epochs to a tracker, from a process of its own.

    That is nobody's child: neither the supervisor's limits nor its ends reach it, nor does a signal
    of the terminal. It ends when the run has ended.

    Args:
        prepare: The run; without a tracker, there is nothing to send.
    """

    def __init__(self, prepare: Prepare) -> None:
        kind = self._kind = prepare.tracker
        self._writer = self._answers = -1
        if kind is None or not is_installed(kind):
            return
        news, self._writer = os.pipe()
        self._answers, answers = os.pipe()
        os.set_blocking(self._writer, False)
        command = [sys.executable, "-P", "-c", _DETACHED, kind, str(prepare.folder)]
        subprocess.run(command, stdin=news, stdout=answers, start_new_session=True, check=True)
        os.close(news)
        os.close(answers)

    def callbacks(self) -> Sequence[Callback]:
        """For the run's own process."""
        return [] if self._writer < 0 else [News(self._writer)]

    def end(self) -> Iterator[str]:
        """Lets it send the rest; tells where that is, and first that it is waited for, if it is."""
        if self._writer < 0:
            if self._kind is not None:
                yield f"{self._kind}: not installed here, nothing is sent"
            return
        os.close(self._writer)
        with os.fdopen(self._answers, encoding="utf-8", errors="replace") as answers:
            rest = f"a resume with --log-to {self._kind} sends the rest"
            lines = ["it is still being sent, and goes on beside"]
            with contextlib.suppress(KeyboardInterrupt):  # it ends the wait; the run has ended
                if not select.select([answers], [], [], _QUIET_S)[0]:
                    yield f"{self._kind}: the rest is sent, for {_WAIT_S:g} s (Ctrl-C: no longer)"
                if select.select([answers], [], [], _WAIT_S)[0]:
                    lines = [*answers] or [f"its process was ended; {rest}"]
            yield from (f"{self._kind}: {line.rstrip()}" for line in lines)


def run_command(command: str, folder: Path, slug: str, code: int) -> str:
    """Runs a command of the user's at the end of a run; returns what is wrong with it, or "".

    Its environment has AUTOPILOT_EXPERIMENT ("" where none was begun), AUTOPILOT_STATE ("finished",
    "interrupted", ...), AUTOPILOT_DETAIL and AUTOPILOT_EXIT_CODE; with a judged epoch, also
    AUTOPILOT_MONITOR, AUTOPILOT_BASELINE, AUTOPILOT_BEST and AUTOPILOT_BEST_EPOCH.
    """
    facts: dict[str, object] = {"experiment": slug, "state": "failed", "detail": ""}
    facts["exit_code"] = code
    # Whatever the records are like, the command is run.
    with contextlib.suppress(AutopilotError):
        notebook = Notebook(Repository.discover(folder), slug) if slug else None
        if notebook is not None:
            facts["state"], facts["detail"] = notebook.status.state, notebook.status.detail
            if (last := notebook.last) is not None:
                facts |= {"monitor": last.monitor, "baseline": last.baseline}
                facts |= {"best": last.best, "best_epoch": last.best_epoch}
    told = {f"AUTOPILOT_{name.upper()}": str(value) for name, value in facts.items()}
    said = f"--notify `{shorten(redact(command), 60)}`"
    try:
        # The group leaves it the terminal; what it starts and does not wait for goes on.
        process = subprocess.Popen(
            command,
            shell=True,
            cwd=folder,
            env={**os.environ, **told},
            stdin=subprocess.DEVNULL,
            stdout=2,  # stdout has the answer of the run
            process_group=0,
        )
    except OSError as error:
        return f"{said}: {error.strerror}"
    with process:
        try:
            code = process.wait(_NOTIFY_S)
        except BaseException as error:
            terminate_group(process)  # one that hangs would keep this command's output open
            if isinstance(error, KeyboardInterrupt):  # the run has ended as it has
                return f"{said} was ended by Ctrl-C"
            if isinstance(error, subprocess.TimeoutExpired):
                return f"{said} did not end within {_NOTIFY_S:g} s"
            raise
    return f"{said} ended with code {code}" if code else ""
