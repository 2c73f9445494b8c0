"""The output of a run: a line for each epoch, and a live line on a terminal."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Sequence
from functools import partialmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopilot.cli.output import PROGRESS, Output
from autopilot.cli.pages.epoch import commit_cell, tried
from autopilot.core.callback import Callback, RunView
from autopilot.core.figures import figure, figures, lower_note, signed
from autopilot.core.people import REFUSE
from autopilot.core.progress import Death
from autopilot.core.records.message import one_line, worst_first
from autopilot.engine.board import Observer
from autopilot.errors import AutopilotError, EvaluationError
from autopilot.git import refs
from autopilot.git.commands import looking
from autopilot.git.packing import start_packing
from autopilot.git.repository import Repository
from autopilot.git.worktrees import worktree_path
from autopilot.sandbox.workspace import abandon
from autopilot.text import display_width, redact, visible
from autopilot.tracking.layout import Layout
from autopilot.tracking.lines import prepare
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.outputs import output_lines

if TYPE_CHECKING:
    from rich.progress import Progress

    from autopilot.core.outages import Waiting
    from autopilot.core.records.record import Event, MetricsRecord, StepRecord
    from autopilot.core.store import Side
    from autopilot.core.types import Datum

STYLES = {"kept": "green", "rejected": "red", "baseline": "cyan"}
_STRATEGY_WIDTH, _VALUES_WIDTH = 24, 36
_NOTE_WIDTH = 200
_INDENT = " " * 7


class Reporter(Callback):
    """Prints a run.

    Args:
        is_first: False where an earlier process printed the beginning of the run.

    Attributes:
        max_epochs: For the time that is left.
        sizes: The numbers of train and val items.
        rescued: Commits with what was about to be overwritten; more may come while it runs.
        as_users: Makes a worktree's paths in a text those of the user's checkout.
    """

    def __init__(self, output: Output, *, is_first: bool) -> None:
        self.output, self._is_first = output, is_first
        self.max_epochs: int | None = None
        self._live: Progress | None = None
        self._task: Any = None
        self._started_s = self._judged_s = time.monotonic()
        self._first_epoch = 0
        self.sizes: Sequence[int | str] = ("?", "?")
        self._split_items = self._batch_items = 0
        self._told_s = -math.inf if os.environ.get(PROGRESS) else math.inf
        self._table: EpochTable | None = None
        self.rescued: list[str] = []
        self.as_users: Callable[[str], str] = str
        self._shown_rescues = 0
        self._tried: list[str] = []
        self._has_step = False
        self._is_waiting = self._is_held = False

    def on_fit_start(self, trainer: RunView, module: object) -> None:
        self._started_s = self._judged_s = time.monotonic()
        self._first_epoch = trainer.experiment.last_epoch
        if self._first_epoch >= 0 and self._is_first:
            best = f"epoch {trainer.experiment.best_epoch}, {figure(trainer.experiment.best_value)}"
            self._line(f"going on after epoch {self._first_epoch}; best so far: {best}")
            self._tell_noise(trainer.experiment.history[0])
        self._tell_rescued()
        if self.output.is_terminal and not self.output.as_json:
            self._live = _live(self.output, trainer)
            self._task = self._live.add_task("", total=None, speed="", best="", left="")
            self._live.start()

    def _advance(
        self,
        split: str,
        trainer: RunView,
        module: object,
        outputs: object,
        batch: Datum,
        batch_idx: int,
    ) -> None:
        """Moves the live line on, at the end of a batch of any split."""
        if self._live is None:
            self._tell_progress(split, trainer.current_epoch, batch, batch_idx)
            return
        elapsed_s = max(time.monotonic() - self._started_s, 1e-9)
        self._split_items += len(batch)
        self._live.update(
            self._task,
            description=f"epoch {trainer.current_epoch} {split} batch {batch_idx + 1}",
            speed=f"{self._split_items / elapsed_s:.0f} items/s",
            best=f"best {figure(trainer.experiment.best_value)}",
            left=self._time_left(trainer.experiment.last_epoch),
        )

    on_train_batch_end = partialmethod(_advance, "train")
    on_validation_batch_end = partialmethod(_advance, "val")
    on_test_batch_end = partialmethod(_advance, "test")

    def _tell_progress(self, split: str, epoch: int, batch: Datum, batch_idx: int) -> None:
        """A line a second for a program that waits, where it has asked for that."""
        self._batch_items = len(batch) + (self._batch_items if batch_idx else 0)
        now = time.monotonic()
        if now - self._told_s >= 1:
            self._told_s = now
            size = dict(zip(("train", "val"), self.sizes, strict=True)).get(split, "?")
            of = f" of {size}" if size != "?" else ""
            self.output.line(f"epoch {epoch} {split}: {self._batch_items}{of} items")

    def on_candidates(self, trainer: RunView, module: object, sides: Sequence[Side]) -> None:
        if self._live is not None:
            origins = ", ".join(dict.fromkeys(name for side in sides for name in side.parents))
            what = f"epoch {trainer.current_epoch}: {len(sides)} candidates, from {origins}"
            self._live.update(self._task, description=what)

    def on_step_committed(self, trainer: RunView, module: object, step: StepRecord) -> None:
        self._tried = worst_first([*self._tried, *step.violations])
        self._has_step |= step.changed

    def on_review(self, trainer: RunView, module: object, step: StepRecord) -> None:
        if self._live is not None and not self._is_held:
            self._live.stop()  # the terminal is for the question
        self._is_held = True

    def on_review_end(self, trainer: RunView, module: object, decision: Event) -> None:
        if self._is_held:  # else it was decided before this process began
            why = f": {one_line(decision.detail, _NOTE_WIDTH)}" if decision.detail else ""
            did = "refused" if decision.decision == REFUSE else "approved"
            self.output.line(f"{_INDENT}the edit of epoch {decision.epoch} is {did}{why}")
            self._is_held = False
            if self._live is not None:
                self._live.start()

    def on_epoch_recorded(self, trainer: RunView, module: object, record: MetricsRecord) -> None:
        if self._table is None:
            self._table = EpochTable(record)
            if record.epoch == 0:
                self._tell_noise(record)
            if self._is_first or record.epoch == 0:
                self._line(self._table.head())
        self._judged_s = time.monotonic()
        has_commit, self._has_step = self._has_step or record.verdict != "rejected", False
        revision = trainer.experiment.revision_of(record.epoch) if has_commit else ""
        if record.revisions and record.verdict == "rejected":
            # The commit that ends the epoch has the best state.
            revision = record.revisions[record.candidate - 1]
        record_of = trainer.experiment.record_of
        before = record_of(record.epoch - 1) if record.epoch else None
        what = tried(record, record_of(before.best_epoch).values if before else {})
        row = self._table.row(record, before.best if before else None, revision, what)
        self._line(row, record.verdict)
        failed = record.reasons[:1] if record.outcome in ("failed", "refused") else ()
        known = record.known if record.epoch == 0 else ""  # the summary counts those of all epochs
        said = (*failed, record.memorized, known, *trainer.notes)
        for text in dict.fromkeys(filter(None, said)):
            self._line(f"{_INDENT}{redact(one_line(text, _NOTE_WIDTH))}")
        self._tell_failures(trainer)
        if self._tried:
            more = f" (and {len(self._tried) - 1} more)" if len(self._tried) > 1 else ""
            self._line(f"{_INDENT}outside of the parameters: {one_line(self._tried[0], 200)}{more}")
            self._tried = []

    def on_outage(self, trainer: RunView, module: object, waiting: Waiting) -> None:
        what = f"waiting for an answer: {waiting.reason}"
        most = f"up to {_time(waiting.max_wait_s)}"
        if self._live is not None:
            next_try = f"next try in {waiting.pause_s:.0f} s, {most}"
            self._live.update(self._task, description=visible(f"{what} ({next_try})"))
        elif not self._is_waiting:
            self._line(f"       {what} ({most})")
        self._is_waiting = True

    def on_outage_end(self, trainer: RunView, module: object, waited_s: float) -> None:
        self._is_waiting = False
        self._line(f"       it answers again, after {_time(waited_s)}")

    def _tell_failures(self, trainer: RunView) -> None:
        """A line for each kind of failure among the items; the user's own tracebacks if verbose."""
        for split in ("train", "val"):
            for text in trainer.failures.lines(split, tracebacks=self.output.verbose):
                self._line(f"{_INDENT}{redact(self.as_users(text))}")

    def on_fit_end(self, trainer: RunView, module: object) -> None:
        self.stop()

    def on_exception(self, trainer: RunView, module: object, exception: BaseException) -> None:
        self.stop()
        # An epoch that fails as a whole has no row; its items' failures are printed nevertheless.
        if isinstance(exception, EvaluationError):
            self._tell_failures(trainer)

    def stop(self) -> None:
        """Ends the live line."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._tell_rescued()

    def _tell_noise(self, baseline: MetricsRecord) -> None:
        """The result of the second measurement of the baseline, and what follows from it."""
        if baseline.noise is not None:
            self._line(f"val: {baseline.reasons[1]}")

    def _tell_rescued(self) -> None:
        for commit in self.rescued[self._shown_rescues :]:
            self._line(
                "note: a step was undone; what the files held, edits by hand included, is kept: "
                f"git show {commit[:10]}"
            )
        self._shown_rescues = len(self.rescued)

    def _line(self, text: str, verdict: str = "") -> None:
        if self._live is not None:
            from rich.text import Text

            self._live.console.print(Text(visible(text), style=STYLES.get(verdict, "")))
        else:
            self.output.line(text)

    def _time_left(self, judged: int) -> str:
        """The time that further epochs may take, by those that this session has judged."""
        done = judged - self._first_epoch
        if self.max_epochs is None or done < 1:
            return ""
        each_s = (self._judged_s - self._started_s) / done
        left_s = each_s * (self.max_epochs - judged) - (time.monotonic() - self._judged_s)
        minutes, seconds = divmod(round(max(left_s, 0)), 60)
        return f"at most {minutes}:{seconds:02d} left"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


class EpochTable:
    """The table of epochs, a row at a time; columns grow with what the rows hold."""

    def __init__(self, record: MetricsRecord) -> None:
        self._title = f"val {record.monitor}{lower_note(record.mode)}"
        self._value = self._best = 0
        self._room = _VALUES_WIDTH if record.values else _STRATEGY_WIDTH
        self._grow(figure(record.metrics.get(record.monitor)), figure(record.best))

    def head(self) -> str:
        """The table's head."""
        padding = " " * (self._what - display_width(self._title))
        best = f"{'best':>{self._best}}"
        return (
            f"epoch  {self._title}{padding}  {best}  verdict   {'strategy':<{self._room}}  commit"
        )

    def row(self, record: MetricsRecord, before: float | None, revision: str, tried: str) -> str:
        """One epoch."""
        value, change = record.metrics.get(record.monitor), ""
        shown, best, _ = figures(value, record.best, before)
        if before is not None and value is not None:
            change = signed(value - before, of=before)
        self._grow(shown, best)
        what = f"{shown:<{self._value}}  {change}"
        strategy = one_line(tried, self._room)
        return (
            f"{record.epoch:>5}  {what:<{self._what}}  {best:>{self._best}}  {record.verdict:<8}  "
            f"{strategy:<{self._room}}  {commit_cell(record, revision)}"
        )

    @property
    def _what(self) -> int:
        # A change is as long as its value and has a sign.
        return max(16, 2 * self._value + 3, display_width(self._title))

    def _grow(self, value: str, best: str) -> None:
        self._value = max(5, self._value, len(value))
        self._best = max(6, self._best, len(best))


def _live(output: Output, trainer: RunView) -> Progress:
    from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
    from rich.text import Text

    class Spending(ProgressColumn):
        """The cost of model calls, by role; drawn many times a second, not once a batch."""

        def render(self, task: Task) -> Text:
            ledger = trainer.ledger
            return Text(ledger.render() if ledger.by_role() else "")

    names = ("description", "fields[speed]", "fields[best]", "fields[left]")
    what, *fields = [TextColumn(f"{{task.{name}}}", markup=False) for name in names]
    columns = [SpinnerColumn(), what, Spending(), *fields]
    return Progress(*columns, console=output.console, transient=True)


class ChildReporter(Observer):
    """Prints what happens to a supervised process.

    Attributes:
        late: The experiment of which an item did not end in time; "" before.
    """

    def __init__(self, output: Output, folder: Path) -> None:
        self._output, self._folder = output, folder
        self._due_s, self.late = 0.0, ""

    def died(self, death: Death) -> None:
        if self._output.is_terminal:
            self._output.console.show_cursor()  # a live line hid it
        self._output.line(f"       {death.reason} {death.position}; it goes on", "yellow")

    def overdue(self, past_s: float, slug: str) -> None:
        self.late = slug
        alone = "--item-timeout S would end it alone"
        text = f"time budget: over by {past_s:.0f} s, and an item does not end ({alone})"
        self._output.line(text, "yellow")

    def slow(self, seconds: float, place: str) -> None:
        where = f", in {place}" if place else ""
        text = f"nothing is recorded after {seconds:.0f} s{where}"
        self._output.line(f"{text}; --budget-seconds ends it", "yellow")

    def look(self, slug: str) -> None:
        with looking():
            user = Repository.discover(self._folder)
            notebook = Notebook(user, slug)
            for place in (user.workdir, worktree_path(user, slug)):
                if place.exists():
                    Repository.discover(place)
            prepare()
            notebook.index.epochs.place(0)

    def beside(self, before: int, slug: str) -> int:
        with contextlib.suppress(AutopilotError):
            user, now = Repository.discover(self._folder), time.monotonic()
            if slug and now >= self._due_s:
                # The first reader after a long run would wait. A twentieth of a processor at most.
                with contextlib.suppress(AutopilotError), looking(is_on=False):
                    _ = Notebook(user, slug).index
                self._due_s = now + 20 * (time.monotonic() - now)
            return start_packing(user, before)
        return before

    def abandoned(self, slug: str) -> bool:
        if not slug:
            return False
        user = Repository.discover(self._folder)
        self._output.lines(output_lines(abandon(user, slug)))
        return refs.read_ref(user, Layout(slug).branch) is not None
