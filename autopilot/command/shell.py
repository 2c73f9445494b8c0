"""Commands of the shell, and the tracked files that they must leave as they are."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autopilot.command.reading import last_lines, read_output
from autopilot.core.parameter import PathParameter
from autopilot.errors import RepositoryError, UsageError
from autopilot.git.objects import SUBMODULE, Entry, list_tree
from autopilot.git.repository import Repository
from autopilot.git.workfiles import Stamp, WorkFiles, stamps_of
from autopilot.git.worktrees import SET_UP
from autopilot.sandbox.processes import adopt, end_adopted
from autopilot.sandbox.programs import Finished, finish
from autopilot.sandbox.workspace import WORKTREE
from autopilot.text import shorten, some
from autopilot.tracking.parameters import edits, scope_of

_KEPT, _MOST = 16 << 20, 64 << 20
_NOT_FOUND = (126, 127)
_GRACE_S = 1.0
"""What a command starts may end so much later: the helpers of `multiprocessing` do."""


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that was run.

    Args:
        left: The processes that it left running, which were ended.
    """

    command: str
    finished: Finished
    timeout_s: float
    left: Sequence[str]

    @property
    def name(self) -> str:
        """The command as sentences have it."""
        return f"`{shorten(self.command, 60)}`"

    @property
    def is_cut_short(self) -> bool:
        """Whether it did not come to its own end."""
        finished = self.finished
        return bool(finished.ended_by or self.left) or finished.code < 0 or self.is_missing

    @property
    def is_missing(self) -> bool:
        """Whether the shell found no program of that name that can be executed."""
        return self.finished.code in _NOT_FOUND and not self.finished.ended_by

    def problem(self) -> str:
        """Why its output is no result; "" if it ended by itself with 0."""
        finished = self.finished
        if finished.ended_by == "time":
            return f"did not end within {self.timeout_s:g} s and was ended"
        if finished.ended_by == "output":
            return f"printed more than {_MOST >> 20} MiB and was ended"
        if self.is_missing:
            found = "was not found" if finished.code == _NOT_FOUND[1] else "cannot be executed"
            return f"{found} (exit code {finished.code})"
        if finished.code < 0:
            return f"was ended by signal {-finished.code}"
        if self.left:
            return f"left processes running, which were ended ({some(self.left, 1)})"
        return f"ended with exit code {finished.code}" if finished.code else ""

    @property
    def remedy(self) -> str:
        """The remedy where it did not come to its own end; "" where none is known."""
        if self.finished.ended_by == "time":
            return "give it more time with --item-timeout, or less to do"
        if self.finished.ended_by == "output":
            return "let it print less, or write to a file"
        if self.is_missing:
            return "correct the command, or install the program"
        return "let it wait for what it starts, or end it" if self.left else ""

    def explained(self) -> str:
        """The same, with the last lines of its output."""
        problem = self.problem()
        return (
            f"{problem}: {last_lines(self.finished.stderr.strip() or self.said)}" if problem else ""
        )

    @property
    def said(self) -> str:
        """Its output and its error output, for a person or an agent."""
        out, errors = self.finished.stdout.strip(), self.finished.stderr.strip()
        return f"{out}\n--- stderr\n{errors}" if out and errors else out or errors


def run_shell(command: str, variables: Mapping[str, str], timeout_s: float | None) -> Ran:
    """Runs a command by the shell in the working directory, and ends all that it leaves running.

    Args:
        variables: For it alone, beside those of this process.
        timeout_s: None: no limit.
    """
    limit = math.inf if timeout_s is None else timeout_s
    since = adopt(is_on=True)
    strays, grace_s = list[str](), 0.0
    try:
        finished = finish(
            ["sh", "-c", command],
            folder=Path.cwd(),
            timeout_s=limit,
            hint="a run without Python needs a POSIX shell",
            env={**os.environ, **variables},
            kept=_KEPT,
            most=_MOST,
            grace_s=_GRACE_S,
        )
        grace_s = 0.0 if finished.ended_by else _GRACE_S
    finally:
        # Of daemons, which leave the process group, this process becomes the parent.
        if _may_have_children():
            strays = end_adopted(since, grace_s=grace_s)
        adopt(is_on=False)
    left = () if finished.ended_by else (*finished.left, *strays)
    return Ran(command, finished, limit, left)


def _may_have_children() -> bool:
    """Whether this process has children; listing all processes takes twenty times as long."""
    with contextlib.suppress(OSError):
        # Twice: a child that ends while the list is read may hide another one.
        tasks = [task for _ in range(2) for task in Path("/proc/self/task").iterdir()]
        return any((task / "children").read_bytes() for task in tasks)
    return True


def repository_here() -> Repository | None:
    """The repository of the working directory; None outside of one."""
    try:
        return Repository.discover(Path.cwd())
    except RepositoryError:
        return None


class TrackedFiles:
    """The files that git tracks, looked at before and after a command.

    Args:
        parameters: Their files are put back to how they were before the command.

    Attributes:
        puts_back: Whether the other ones are put back, too, since nothing there is the user's: in a
            worktree of the run's own. Else they are only named.
        marker: A file that says that the worktree is set up; it goes with it. None: there is none.
    """

    def __init__(self, repo: Repository, parameters: Sequence[PathParameter]) -> None:
        self._scopes = [scope_of(repo, parameter) for parameter in parameters]
        self._root = repo.workdir
        self.puts_back = os.environ.get(WORKTREE) == str(repo.workdir)
        self.marker = repo.git_dir / SET_UP if self.puts_back else None
        tree = list_tree(repo, repo.head_commit())
        covers = [scope.covers for scope in self._scopes]
        self._others = {
            name: entry
            for name, entry in tree.items()
            if entry.mode != SUBMODULE and not any(covered(name) for covered in covers)
        }
        self._files = WorkFiles(repo, repo.workdir)
        self._stamps = dict(stamps_of(self._root, self._others))
        self._entries: dict[str, Entry] = {}

    def look(self) -> Mapping[str, Stamp]:
        """Remembers the parameters' files; returns stamps that tell their state."""
        names = [name for scope in self._scopes for name in scope.files()]
        self._entries = self._hashed(names)
        return dict(stamps_of(self._root, names))

    def changed(self) -> tuple[list[str], list[str]]:
        """The files that a command changed, made or removed, and that are put back.

        Returns:
            Those of the parameters, and the other ones.
        """
        stamps = dict(stamps_of(self._root, self._others))
        touched = [n for n in self._others if stamps.get(n) != self._stamps.get(n)]
        now = self._hashed(touched)
        others = {n: self._others[n] for n in touched if now.get(n) != self._others[n]}
        if others and self.puts_back:
            self._files.restore(others)
            stamps |= dict(stamps_of(self._root, others))
        self._stamps = stamps
        present = self._hashed([name for scope in self._scopes for name in scope.files()])
        own = edits(present, self._entries)
        if own:
            self._files.restore(own)
        return sorted(own), sorted(others)

    def _hashed(self, names: Sequence[str]) -> dict[str, Entry]:
        found = self._files.hash(names, write=False)
        return {name: entry for name, entry in found.items() if entry is not None}


# --- once, before a run is made of it ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Numbers:
    """The metrics that a command printed.

    Args:
        metrics: By name, with the accuracy of its items; empty where its exit code alone decides.
        has_accuracy: Whether it printed items with a success.
    """

    command: str
    metrics: Mapping[str, float]
    has_accuracy: bool = False


def run_once(command: str, folder: Path, timeout_s: float) -> Ran:
    """Runs a command by the shell in a folder, as a run would."""
    # Not in a worktree: bytecode would stay with the user's files.
    variables = {"AUTOPILOT_SPLIT": "val", "AUTOPILOT_SEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    with contextlib.chdir(folder):
        return run_shell(command, variables, timeout_s)


def measure_once(
    command: str, folder: Path, timeout_s: float, *, may_fail: bool = False
) -> Numbers:
    """Runs a command in a folder, and reads its metrics.

    Args:
        may_fail: Its exit code is a result: it is a test suite.

    Raises:
        UsageError: it fails, or prints no metric.
    """
    ran = run_once(command, folder, timeout_s)
    if may_fail and not ran.finished.ended_by and not ran.is_missing:
        return Numbers(command, {})
    if ran.problem():
        raise UsageError(
            f"{ran.name} {ran.explained()}",
            hint="name a command that ends with 0 in this folder, with all that it starts",
        )
    printed = read_output(ran.finished.stdout, None)
    metrics = {name: value for item in printed.items for name, value in item.metrics.items()}
    metrics |= printed.metrics
    outcomes = [item.outcome for item in printed.items if item.outcome != "unscored"]
    if outcomes:
        metrics = {"accuracy": outcomes.count("passed") / len(outcomes), **metrics}
    if not metrics:
        raise UsageError(
            f"{ran.name} printed no metric: {last_lines(ran.finished.stdout)}",
            hint="let it print a line such as METRIC seconds=1.5, or a JSON object at the end",
        )
    return Numbers(command, metrics, bool(outcomes))
