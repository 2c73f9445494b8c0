"""Commands for the person beside a run: steer, pause, review; and the question of a run that waits.

A run and these commands are two processes. What is said goes into the git folder, and the run
takes it in at its next safe point: see `tracking.holding.hand_over`.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import sys
import termios
import time
from typing import Annotated

from autopilot.cli import arguments
from autopilot.cli.arguments import option
from autopilot.cli.context import Context
from autopilot.cli.output import Output
from autopilot.core.callback import Callback, RunView
from autopilot.core.people import APPROVE, PAUSED, REFUSE, STEERED, reviewed
from autopilot.core.records.message import one_line
from autopilot.core.records.record import Event, ProgressNote, StepRecord
from autopilot.errors import ExperimentError, UsageError
from autopilot.git.locks import Holder, is_alive
from autopilot.report.comparison import picked
from autopilot.sandbox.processes import mark
from autopilot.text import hide
from autopilot.tracking.git_store import GitStore
from autopilot.tracking.holding import hand_over
from autopilot.tracking.journal import ProgressFile
from autopilot.tracking.notebook import Notebook, Status

_AT_MOST = 4000
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_QUESTION = "approve this edit? [y]es, or [n]o and why:"
_WHY = "why not?"
_LOOK_S = 0.1


def steer(
    context: Context,
    text: Annotated[str, arguments.Word("TEXT", "What to say, as one word of the shell.")],
    name: arguments.Name = None,
) -> None:
    """Say something to the agent of a run.

    It is in the next prompt of the agent, as the word of its user, and once only. A run that goes
    on takes it in before its next step, one that has ended when it is resumed. It is written down
    among the experiment's events, with the step that it reached.

    \b
    autopilot steer "prefer short rules over many examples"
    autopilot steer classifier-1 "leave the spelling rules alone"
    """
    notebook, output = _of_person(context, name), context.output
    said = _text(text)
    if not notebook.manifest.steerable:
        raise ExperimentError(
            f"the optimizer of {notebook.slug} reads no words: it is no agent",
            hint="rules and searches go by the feedback alone; see: autopilot memory --help",
        )
    status = notebook.status
    event = Event(name=STEERED, detail=said, reviewer=_who(notebook)).stamped()
    hand_over(notebook, event)
    when = f"when it goes on: {notebook.goes_on_by}"
    if status.state == "running":
        when = "before its next step"
    elif status.state == "finished":
        when = f"when it goes on: {notebook.goes_on_by} --max-epochs N"
    output.line(f"{notebook.slug} reads it {when}")
    output.document(experiment=notebook.slug, said=hide(said), event=event.id)


def pause(
    context: Context,
    name: arguments.Name = None,
    wait: Annotated[
        bool, option("Wait until it has ended, or only ask for it.", "--wait/--no-wait")
    ] = True,
) -> None:
    """End a run at its next safe point; resume goes on.

    The item that is being measured, or the agent's step, comes to its end first: nothing that was
    paid gets lost. It is for a run on this machine, at whatever terminal or at none.

    \b
    autopilot pause
    autopilot pause classifier-1
    autopilot resume classifier-1
    """
    notebook, output = _of_person(context, name), context.output
    status, slug = notebook.status, notebook.slug
    holder = _holder(notebook, status)
    event = Event(name=PAUSED, reviewer=_who(notebook), process=holder.pid).stamped()
    hand_over(notebook, event)
    output.line(f"{slug}: process {holder.pid} ends after {_going_on(notebook)}")
    while wait:
        now = Notebook(notebook.repo, slug).status
        if now.holder is None and (now.is_over or not is_alive(holder.pid)):
            status = now
            break
        time.sleep(_LOOK_S)
    if wait:
        output.line(f"{slug} is {status.state}: {status.detail}")
    if status.state not in ("finished", "stopped"):
        output.line(f"go on: {notebook.goes_on_by}")
    output.document(
        experiment=slug,
        process=holder.pid,
        state=status.state,
        detail=status.detail,
        goes_on_by=notebook.goes_on_by,
    )


def review(
    context: Context,
    name: arguments.Name = None,
    approve: Annotated[bool, option("Let it be measured.")] = False,
    refuse: Annotated[
        str | None, option("Take it back; the agent reads why.", metavar="WHY")
    ] = None,
) -> None:
    """Approve or refuse the edit that a run holds.

    A run with --review holds each edit before it is measured. This shows it; without an option, it
    asks at a terminal. A refused edit is taken back, and its reason is in the agent's next prompt.

    \b
    autopilot review
    autopilot review classifier-1 --approve
    autopilot review classifier-1 --refuse "too long: one rule is enough"
    """
    notebook, output = _of_person(context, name), context.output
    if approve and refuse is not None:
        raise UsageError("--approve and --refuse do not go together", hint="leave one of them out")
    if (found := notebook.held) is None:
        how = f"autopilot resume {notebook.slug} --review holds each edit"
        is_busy = notebook.is_reviewed and notebook.status.state == "running"
        raise ExperimentError(
            f"{notebook.slug} holds no edit that waits for a decision",
            hint="it may be measuring, or the agent at work" if is_busy else how,
        )
    commit, record = found
    _show(output, notebook, commit, record)
    event = None
    if approve or refuse is not None or output.can_ask:
        decision, reason = _decision(output, refuse, is_approved=approve)
        event = reviewed(decision, reason, _who(notebook), record, commit)
        hand_over(notebook, event)
        did = "approved" if decision == APPROVE else f"refused: {event.detail}"
        output.line(f"{notebook.slug}: the edit of epoch {event.epoch} is {did}")
    else:
        output.line('decide: autopilot review --approve, or --refuse "why"')
    output.document(_document(notebook, commit, record, event))


def _decision(output: Output, refuse: str | None, *, is_approved: bool) -> tuple[str, str]:
    """The decision that the options state, or else a person's, and its reason."""
    if is_approved:
        return APPROVE, ""
    answer = None if refuse is None else (REFUSE, refuse)
    while answer is None:
        answer = _answer(output.ask(_QUESTION))
    while answer == (REFUSE, "") and refuse is None:
        answer = REFUSE, output.ask(_WHY)
    return answer[0], _text(answer[1]) if answer[0] == REFUSE else ""


def _of_person(context: Context, name: str | None) -> Notebook:
    notebook = context.notebook(name)
    if any(variable in os.environ for variable in mark(notebook.repo.workdir)):
        raise UsageError(
            "this is for the person beside the run: an agent of the run cannot do it",
            hint="answer with what you would say",
        )
    return notebook


def _who(notebook: Notebook) -> str:
    return notebook.repo.identity().name


def _text(text: str) -> str:
    """A person's text, without characters that would steer a terminal.

    Raises:
        UsageError: it is empty, or too long.
    """
    cleaned = _CONTROL.sub("", text.replace("\r\n", "\n")).strip()
    if not cleaned:
        raise UsageError("there is no text", hint='say what you want, such as "keep it short"')
    if len(cleaned) > _AT_MOST:
        raise UsageError(
            f"the text has {len(cleaned):,} characters; at most {_AT_MOST:,} are read",
            hint="say it shorter, or put it into a file that the agent may read, and name that",
        )
    return cleaned


def _holder(notebook: Notebook, status: Status) -> Holder:
    """The process that runs the experiment, on this machine."""
    holder, slug = status.holder, notebook.slug
    if holder is None:
        why = f"it is {status.state}" + (f" ({status.detail})" if status.detail else "")
        raise ExperimentError(f"{slug} is not running: {why}", hint="there is nothing to pause")
    if not holder.pid or holder.host != socket.gethostname():
        raise ExperimentError(
            f"{slug} runs on {holder.host or 'a machine that is not known'}, not here",
            hint="pause it there, or stop it there with Ctrl-C",
        )
    return holder


def _going_on(notebook: Notebook) -> str:
    """The work that comes to its end before a run pauses, as far as its notes tell."""
    notes = ProgressFile(notebook.layout.progress(notebook.repo)).read(ProgressNote)
    if notes and notes[-1].stepping > 0:
        return f"the agent's step of epoch {notes[-1].epoch}"
    return "the item that is measured"


# --- the edit that waits -----------------------------------------------------------------------


class HeldEdits(Callback):
    """Shows an edit that waits for a decision, and asks at the terminal if there is one."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._place: tuple[int, int] | None = None
        self._is_asking = self._is_refused = False

    def on_review(self, trainer: RunView, module: object, step: StepRecord) -> None:
        output, place = self._output, (step.epoch, step.step)
        store = trainer.experiment.store
        if self._place != place:
            self._place, self._is_refused = place, False
            self._is_asking = output.can_ask and output.is_terminal and _is_in_front()
            if self._is_asking and isinstance(store, GitStore):
                _show(output, Notebook(store.repo, store.slug), store.tip, step)
                with contextlib.suppress(OSError, ValueError, termios.error):
                    # What was typed before the edit was there is no decision on it.
                    termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
                self._ask(_QUESTION)
            else:
                what = f"epoch {step.epoch}: {one_line(step.summary, 60)}"
                output.line(
                    f"       waiting for a decision on {what}: autopilot review {store.slug}"
                )
        line = self._line() if self._is_asking and _is_in_front() else None
        if line is None:
            return
        answer = (REFUSE, line) if self._is_refused else _answer(line)
        if answer is None:
            self._ask(_QUESTION)
        elif answer == (REFUSE, ""):
            self._is_refused = True
            self._ask(_WHY)
        else:
            who = store.repo.identity().name if isinstance(store, GitStore) else ""
            text = _CONTROL.sub("", answer[1])[:_AT_MOST]
            trainer.experiment.people.decide(answer[0], text, who, step)

    def _ask(self, question: str) -> None:
        self._output.write(question, self._output.people, end=" ")  # no line yet

    def _line(self) -> str | None:
        """A line that was typed; None as long as there is none. Never waits."""
        with contextlib.suppress(OSError, ValueError):
            if select.select([sys.stdin], [], [], 0)[0]:
                if read := os.read(sys.stdin.fileno(), 4096):  # a terminal gives a whole line
                    return read.decode(errors="replace").strip()
                # Closed, as by Ctrl-D: another terminal decides.
                self._is_asking = False
                self._output.line("\nfrom another terminal: autopilot review")
        return None


def _is_in_front() -> bool:
    """Whether it may read from its terminal: a job in the background is stopped if it does."""
    with contextlib.suppress(OSError, ValueError):
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    return True  # not its controlling terminal: nothing stops it


def _answer(line: str) -> tuple[str, str] | None:
    """The decision in an answer, and its reason; None if it is none."""
    word, _, rest = line.strip().partition(" ")
    word = word.lower().rstrip(",:;")
    if word in ("y", "yes") and not rest:
        return APPROVE, ""
    return (REFUSE, rest.strip()) if word in ("n", "no") else None


def _show(output: Output, notebook: Notebook, commit: str, record: StepRecord) -> None:
    title = f"epoch {record.epoch} of {notebook.slug}: {one_line(record.summary, 200) or 'an edit'}"
    output.line(title, "yellow")
    if record.strategy:
        output.line(f"strategy: {one_line(record.strategy, 200)}")
    output.lines(record.rationale.strip().splitlines()[:20])
    if not output.as_json:
        color = "--color=always" if output.is_terminal and output.color else "--no-color"
        output.raw(notebook.picture(f"{commit}^", commit, color))


def _document(
    notebook: Notebook, commit: str, record: StepRecord, event: Event | None
) -> dict[str, object]:
    return {
        "experiment": notebook.slug,
        **picked(record, "epoch step strategy summary"),
        "commit": commit,
        "diff": notebook.picture(f"{commit}^", commit, "--no-color").decode(errors="replace"),
        "decision": event and event.decision,
        "reason": event.detail if event else "",
    }
