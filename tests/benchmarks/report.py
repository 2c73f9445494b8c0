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
    """A number that must not be exceeded.

    Args:
        what: What was measured.
        measured: The measurement, in the limit's unit.
        limit: The most that it may be.
        unit: "ms", "s", "MB", "x" and the like.
    """

    what: str
    measured: float
    limit: float
    unit: str

    @property
    def holds(self) -> bool:
        """Whether the measurement is within the limit."""
        return self.measured <= self.limit

    def cells(self) -> list[str]:
        """The line of the table of limits."""
        measured, limit = (f"{value:,.4g} {self.unit}" for value in (self.measured, self.limit))
        return [self.what, measured, f"<= {limit}", "ok" if self.holds else "MISSED"]


@dataclass
class Report:
    """What the benchmarks share: where they work, how long they take, what they found.

    Args:
        folder: An empty folder for repositories and data.
        quick: Fewer repetitions and smaller repositories: to see that it runs, not to quote.
    """

    folder: Path
    quick: bool
    limits: list[Limit] = field(default_factory=list)

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

    def limit(self, what: str, measured: float, limit: float, unit: str) -> None:
        """Takes a measurement into the table of limits."""
        self.limits.append(Limit(what, measured, limit, unit))

    def conclude(self) -> None:
        """Prints all measurements that have a limit, and how busy the machine was."""
        if self.limits:
            rows = [limit.cells() for limit in self.limits]
            load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
            busy = f"Limits are meant for a quiet machine; the load of this one was {load}."
            self.table("Limits", ("what", "measured", "limit", ""), rows, busy)


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
