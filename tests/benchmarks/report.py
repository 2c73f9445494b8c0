"""How the benchmarks measure, and how they print."""

from __future__ import annotations

import os
import resource
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Limit:
    """A number that must not be exceeded, or be reached.

    Args:
        what: What is measured.
        value: The most that it may be.
        unit: "ms", "s", "MB", "x" and the like.
        at_least: It is the least that it must be.
        shown_by: What shows it where it is no measurement.
    """

    what: str
    value: float
    unit: str
    at_least: bool = False
    shown_by: str = ""

    def cells(self, measured: float | None) -> list[str]:
        """The line of the table of limits."""
        sign = ">=" if self.at_least else "<="
        limit = f"{sign} {self.value:,.4g} {self.unit}".rstrip()
        if measured is None:
            return [self.what, "-", limit, self.shown_by or "not measured"]
        holds = measured >= self.value if self.at_least else measured <= self.value
        return [
            self.what,
            f"{measured:,.4g} {self.unit}".rstrip(),
            limit,
            "ok" if holds else "MISSED",
        ]


LIMITS = {
    "store": Limit("the store's cost of an epoch, 20k files", 5, "ms"),
    "growth": Limit("the store's last tenth of the epochs against a first", 1.2, "x"),
    "pause": Limit("the longest epoch beside which objects are packed", 50, "ms"),
    "rules": Limit("an epoch of a parameter of 1,000 files", 10, "ms"),
    "rules, worktree": Limit("the same in a worktree of its own", 10, "ms"),
    "large": Limit("an epoch at 100k files against 1k", 1.5, "x"),
    "disk": Limit("disk of an epoch after maintenance", 10, "kB"),
    "memory": Limit("memory of a run of 10,000 epochs against 300", 1.3, "x"),
    "loop": Limit("the loop's overhead an item, in memory", 10, "us"),
    "loop, git": Limit("the same with git", 20, "us"),
    "status, long": Limit("`status` at 10,000 epochs against 100", 1.3, "x"),
    "log, long": Limit("`log` the same", 1.3, "x"),
    "show, long": Limit("`show` the same", 1.3, "x"),
    "status": Limit("`status`", 0.5, "s"),
    "lessons": Limit("lessons of 10,000 epochs that a new experiment takes over", 20, "ms"),
    "help": Limit("`autopilot --help`", 0.2, "s"),
    "replay": Limit("replay of 150 states against the bare evaluation", 3, "x"),
    "supervised": Limit("start of a supervised run against one that is not", 50, "ms"),
    "supervised, epoch": Limit("an epoch of it", 1.02, "x"),
    "recording": Limit("recording what a result depends on, of a run of 1 epoch", 0.02, "x"),
    "restart": Limit("a restart for another state's files, at 2,000 epochs", 0.4, "s"),
    "restart, flat": Limit("the same against one at the start", 1.2, "x"),
    "command": Limit("an epoch of a run without Python over its command", 30, "ms"),
    "command, twice": Limit("its evaluations that are one too many", 0, ""),
    "jobs": Limit("--jobs 2 against 1, items that compute, 2 cores", 1.8, "x", at_least=True),
    "jobs, item": Limit("an item's process with --jobs", 20, "ms"),
    "proposals, 8": Limit("8 proposals at once, items that wait", 6, "x", at_least=True),
    "proposals, 2": Limit("2 proposals at once, 2 cores", 1.8, "x", at_least=True),
    "candidate": Limit("the store's cost of a candidate against that of an epoch", 1, "x"),
    "frontier": Limit("a frontier's selection at 2,000 candidates, 500 items", 20, "ms"),
    "streaming": Limit("StreamingDataset over 1,000,000 lines: memory", 150, "MB"),
    "streaming, growth": Limit("its growth after a tenth of them", 5, "MB"),
    "resume": Limit(
        "resumed runs with other trees or metrics", 0, "", shown_by="tests/cli/test_kill.py"
    ),
    "notes": Limit(
        "commits without their notes after kills", 0, "", shown_by="tests/cli/test_kill.py"
    ),
    "confinement": Limit("confining a step, 20k files, worktree", 500, "ms"),
    "confinement, in place": Limit("the same in place", 500, "ms"),
    "calls": Limit("640 model calls over 64 threads against the ideal", 1.25, "x"),
    "search": Limit("a trial of a search in git over plain Optuna's, at 500 trials", 10, "ms"),
    "search, values": Limit("its trials whose value is not that of plain Optuna", 0, ""),
    "landscape": Limit("frontier + merge to an optimum against GEPA's sampler", 1, "x"),
    "landscape, best only": Limit(
        "runs from the best state alone that leave a local optimum", 0, ""
    ),
    "page": Limit("a report of 2,000 epochs opens", 2, "s"),
}


@dataclass
class Report:
    """What the benchmarks share: where they work, how long they take, what they found.

    Args:
        folder: An empty folder for repositories and data.
        quick: Fewer repetitions and smaller repositories: to see that it runs, not to quote.
    """

    folder: Path
    quick: bool
    measured: dict[str, float] = field(default_factory=dict)

    def count(self, full: int, quick: int) -> int:
        """How many: the second with `--quick`."""
        return quick if self.quick else full

    def table(
        self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *notes: str
    ) -> None:
        """Prints a table: the first column to the left, the others to the right."""
        lines = [list(header), *(list(row) for row in rows)]
        widths = [max(len(line[place]) for line in lines) for place in range(len(header))]
        print(f"\n{title}")
        for line in lines:
            cells = [line[0].ljust(widths[0])]
            cells += [c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)]
            print("  " + "   ".join(cells).rstrip())
        for note in notes:
            print(f"  {note}")

    def limit(self, name: str, measured: float) -> None:
        """Takes a measurement into the table of limits.

        Args:
            name: A key of LIMITS.
            measured: In the limit's unit.
        """
        if name not in LIMITS:
            raise KeyError(name)
        self.measured[name] = measured

    def conclude(self, *, everything: bool) -> None:
        """Prints limits with what was measured, and how busy the machine was.

        Args:
            everything: Those that were not measured, too.
        """
        names = LIMITS if everything else self.measured
        rows = [LIMITS[name].cells(self.measured.get(name)) for name in names]
        load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
        notes = [f"Limits are meant for a quiet machine; the load of this one was {load}."]
        if self.quick:
            notes.append("With --quick everything is small: these figures only show that it runs.")
        self.table("Limits", ("what", "measured", "limit", ""), rows, *notes)


@dataclass(frozen=True, slots=True)
class Course:
    """A cost over many repetitions: does it grow?

    Args:
        median: Of all repetitions.
        first: Median of the first tenth.
        last: Median of the last tenth.
    """

    median: float
    first: float
    last: float

    @property
    def growth(self) -> float:
        """The last tenth against the first."""
        return self.last / self.first

    @classmethod
    def of(cls, values: Sequence[float]) -> Course:
        """The course of some measurements, in the order in which they were made."""
        tenth = max(1, len(values) // 10)
        median = statistics.median
        return cls(median(values), median(values[:tenth]), median(values[-tenth:]))


def pairs(values: Sequence[float]) -> list[float]:
    """Means of neighbours: of a kept and a rejected epoch, whose costs differ by nature."""
    return [statistics.mean(values[at : at + 2]) for at in range(0, len(values) - 1, 2)]


def peak_mb() -> float:
    """The most memory that this process has had in use, MB."""
    status = Path("/proc/self/status")
    if status.exists():
        # What getrusage says includes the parent's memory at the time of the fork.
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1000
