"""A process whose interpreter has seen one state only, and the limits of the items in it.

At the next state another process goes on.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from autopilot.core.experiment import Experiment
from autopilot.core.interpreter import Fresh, Interpreter, Restart, is_importable
from autopilot.core.module import AutoPilotModule
from autopilot.core.outages import infrastructure_in
from autopilot.core.progress import Position
from autopilot.core.records.record import Manifest
from autopilot.core.setup_checks import imported_once
from autopilot.engine.board import Board, Child, check_timeout, parse_size, size_text
from autopilot.engine.options import Options
from autopilot.errors import AutopilotError, OutageError, UsageError
from autopilot.git import commits, objects
from autopilot.git.objects import Entry
from autopilot.git.repository import Repository
from autopilot.sandbox.workspace import Workspace
from autopilot.text import counted, flag
from autopilot.tracking.checkout import check_out, undo_killed_step
from autopilot.tracking.layout import Layout
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.parameters import ParameterFiles, entries_at, manifest_paths


class OneState(Interpreter):
    """This process, as the interpreter of one state.

    Args:
        how: "auto": another one at other Python files; "always": at any other file.
    """

    def __init__(
        self,
        child: Child,
        imported: Mapping[str, Entry],
        entries: Callable[[str], Mapping[str, Entry]],
        how: Fresh,
    ) -> None:
        self._child, self._entries, self._how = child, entries, how
        self._imported, self._state = self._of_interest(imported), ""

    def check(self, state: str) -> str:
        if state in self._child.broken:
            return self._child.broken[state]
        if state != self._state and self._of_interest(self._entries(state)) != self._imported:
            self._child.board.leave_to_next(state)
            raise Restart
        self._state = state
        return ""

    def _of_interest(self, entries: Mapping[str, Entry]) -> dict[str, Entry]:
        every = self._how == Fresh.always
        return {name: entry for name, entry in entries.items() if every or is_importable(name)}


def take_over(
    experiment: Experiment,
    child: Child,
    files: ParameterFiles,
    how: str | None,
    imported: Mapping[str, Entry] | None = None,
) -> None:
    """Makes a child the process of an experiment.

    Args:
        how: When a new process evaluates: as the options or else the module say; None: "auto".
        imported: The files as they were imported; None: as they are now.
    """
    experiment.positions, experiment.is_replacement = child.board, child.since_s > 0
    fresh = Fresh(how or Fresh.auto)
    if child.is_supervised and fresh != Fresh.never:
        present = files.present(write=False) if imported is None else imported
        experiment.interpreter = OneState(child, present, files.entries, fresh)


def alone(child: Child | None, module: AutoPilotModule, options: Options) -> list[str]:
    """Sentences on a run in one process: as it was asked for, or since this one has threads.

    Raises:
        UsageError: an option that only another process can keep.
    """
    if child is None or child.is_supervised:
        return imported_once(module) if options.fresh == Fresh.never else []
    names = [each.name for each in threading.enumerate() if each is not threading.main_thread()]
    why = f"this process has other threads ({', '.join(names[:3])})"
    given = [n for n in ("item_timeout", "memory") if getattr(options, n) is not None]
    given += ["fresh"] if options.fresh == Fresh.always else []
    for name in given:
        raise UsageError(
            f"{flag(name)} needs a process for the evaluation, and {why}",
            hint="start threads only after the command line is called, or leave the option out",
        )
    sentence = f"{why}: the run is not supervised, and whatever ends its process ends it"
    return [sentence, *imported_once(module)]


def approved_state(user: Repository, slug: str, options: Options, tip: str | None) -> str:
    """The state to import in the place of an edit that waits for a decision; "": there is none."""
    held = Notebook(user, slug, tip).undecided if options.review and tip else None
    if held is None:
        return ""
    before = commits.read_commit(user, held[0]).parents[0]
    return objects.tree_of(user, before)


@contextlib.contextmanager
def importing_state(
    child: Child, workspace: Workspace, manifest: Manifest, commit: str | None
) -> Iterator[list[str]]:
    """Writes the files of a state, and lets the body import them.

    An edit that cannot be imported ends no run: another process imports the baseline's files, and
    the items of the edit's state are errors.

    Args:
        commit: The state, unless the child was started for another one; None: it has not begun.

    Yields:
        The snapshot of what a step that was killed had written there, if there is one.

    Raises:
        Restart: the body failed, and the state has other files than the baseline.
        OutageError: a service did not answer while it was imported.
        ParameterError: a file cannot be written.
    """
    if commit is None:
        yield []
        return
    repo, slug, in_place = workspace.repo, manifest.slug, workspace.in_place
    places, newest = manifest_paths(manifest), objects.tree_of(repo, commit)
    kept = undo_killed_step(repo, slug, places) if in_place else ""
    state, instead = child.state or newest, ""
    check_out(repo, places, state, newest, in_place=in_place)
    baseline = commits.read_tag(repo, Layout(slug).tag_name(0))
    if child.is_supervised and baseline is not None:
        first = objects.tree_of(repo, baseline.commit)
        if entries_at(repo, first, places) != entries_at(repo, state, places):
            instead = first
    child.board.loads(state, instead)
    try:
        yield [kept] if kept else []
    except AutopilotError as error:
        if not instead:
            raise
        if infrastructure_in(error.__cause__ or error) is not None:
            # A service that does not answer says nothing about the edit.
            raise OutageError(error.message, hint=f"then: autopilot resume {slug}") from error
        # The same words wherever the checkout is.
        why = error.message.replace(f"{repo.workdir}/", "")
        child.board.leave_to_next(instead, why)
        raise Restart from error
    child.board.at(Position("load"))


@dataclass(frozen=True, slots=True)
class ItemLimits:
    """The most that an item may take.

    Args:
        item_timeout_s: Seconds of wall clock.
        memory: Bytes that the evaluation, with all that it started, may take.
        jobs: How many items have a process of their own at a time; 0: all run in one process.
        is_modules: The module ends its items by time itself.
    """

    item_timeout_s: float = math.inf
    memory: float = math.inf
    jobs: int = 0
    is_modules: bool = False

    @classmethod
    def of(cls, options: Options, module: AutoPilotModule | None = None) -> ItemLimits:
        """The limits of a run; an option counts before the module's own, once that is loaded.

        Raises:
            UsageError: the module's is no number of seconds.
        """
        seconds = options.item_timeout
        if seconds is None and module is not None and module.item_timeout_s is not None:
            name = f"{type(module).__name__}.item_timeout_s"
            seconds = check_timeout(module.item_timeout_s, name)
        memory = math.inf if options.memory is None else parse_size(options.memory)
        is_modules = module is not None and module.ends_items
        if module is not None and is_modules:
            module.item_timeout_s = seconds
        timeout_s = math.inf if seconds is None else seconds
        return cls(timeout_s, memory, options.jobs or 0, is_modules)

    def hold_on(self, board: Board) -> ItemLimits:
        """Lets the parent of a supervised process hold them; returns them."""
        board.limit(math.inf if self.is_modules else self.item_timeout_s, self.memory)
        return self

    def __str__(self) -> str:
        is_timed, is_bound = self.item_timeout_s < math.inf, self.memory < math.inf
        time_limit = f"item timeout {self.item_timeout_s:g} s" if is_timed else "no item timeout"
        bound = f"memory limit {size_text(self.memory)}" if is_bound else "no memory limit"
        return f"{time_limit}, {bound}" + (f", {counted(self.jobs, 'job')}" if self.jobs else "")
