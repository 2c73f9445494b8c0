"""What the store costs: time and disk of an epoch, against git's command line."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from autopilot.git.packing import maintain
from tests.benchmarks.epochs import Drill
from tests.benchmarks.report import Course, Report, pairs
from tests.benchmarks.repos import disk_bytes, git, make_repository

_TURN = 20


@dataclass(frozen=True, slots=True)
class Entrant:
    """A repository of the comparison, with its experiment.

    Args:
        drill: The experiment.
        files: How many files the repository has.
        empty: Bytes and blocks of its git folder before the first epoch.
    """

    drill: Drill
    files: int
    empty: tuple[int, int]

    @classmethod
    def make(cls, top: Path, files: int, rules: int, *, in_place: bool = True) -> Entrant:
        """Makes the repository and begins the experiment."""
        make_repository(top, files, rules)
        empty = disk_bytes(top / ".git")
        return cls(Drill(top, rules, in_place=in_place), files, empty)

    @property
    def name(self) -> str:
        """The first cell of its line."""
        where = "" if self.drill.store.in_place else ", in a worktree of its own"
        return f"{self.files:,} files, parameter of {self.drill.rules:,}{where}"

    @property
    def course(self) -> Course:
        """Milliseconds of an epoch: half of them are kept, half are rejected."""
        return Course.of(pairs(self.drill.costs_ms))

    def disk_kb(self) -> tuple[float, float]:
        """What an epoch takes: content, and blocks on the disk."""
        now, epochs = disk_bytes(self.drill.top / ".git"), len(self.drill.costs_ms)
        content, blocks = ((b - a) / epochs / 1000 for a, b in zip(self.empty, now, strict=True))
        return content, blocks


def store(report: Report) -> None:
    """Epochs of all repositories in turns, so that all see the same machine."""
    epochs, many = report.count(2000, 200), report.count(1000, 50)
    small, middle, large = (report.count(n, n // 50) for n in (1_000, 20_000, 100_000))
    plan = [(small, 1, True), (middle, 1, True), (large, 1, True)]
    plan += [(middle, many // 10, True), (middle, many, True), (middle, many, False)]
    entrants = [
        Entrant.make(report.folder / f"store-{number}", files, rules, in_place=in_place)
        for number, (files, rules, in_place) in enumerate(plan)
    ]
    tenth = epochs // 10
    _take_turns(entrants, epochs - tenth)
    # A fresh one beside the last tenth: what differs is how much was written before.
    fresh = Entrant.make(report.folder / "store-fresh", middle, 1)
    _take_turns([*entrants, fresh], tenth)
    growth = entrants[1].course.last / fresh.course.median
    for entrant in entrants:
        entrant.drill.close()
        maintain(entrant.drill.store.repo)
    disks = [entrant.disk_kb() for entrant in entrants]
    by_git = [_by_git(entrant.drill.top, report.count(30, 3)) for entrant in entrants[:3]]
    _print_times(report, entrants, fresh, growth)
    _print_disks(report, entrants, disks)
    _print_git(report, entrants, by_git)
    one, other, all_of_it = (entrant.course.median for entrant in entrants[:3])
    report.limit("store", other)
    report.limit("growth", growth)
    report.limit("large", all_of_it / one)
    for name, entrant in zip(("rules", "rules, worktree"), entrants[4:], strict=True):
        report.limit(name, entrant.course.median)
    report.limit("disk", disks[1][1])
    if beside := entrants[1].drill.beside_ms:  # of few epochs, there is nothing to pack
        report.limit("pause", max(beside))


def _take_turns(entrants: list[Entrant], epochs: int) -> None:
    for _ in range(epochs // _TURN):
        for entrant in entrants:
            entrant.drill.run(_TURN)


def _by_git(top: Path, epochs: int) -> list[float]:
    """Milliseconds that the command line takes for a step, a tag and one of the four notes."""
    name, taken = "src/00/00/module_000000.py", []
    for epoch in range(epochs):
        (top / name).write_text(f"VALUE = {epoch:06d}\n")
        started = time.perf_counter()
        # What `git commit` does in the background from time to time is not measured either.
        git(top, "add", name)
        git(top, "-c", "gc.auto=0", "commit", "--quiet", "-m", f"epoch {epoch}", "--", name)
        git(top, "tag", "-a", "-m", f"epoch {epoch} kept", f"by-git-{epoch:04d}")
        git(top, "notes", "add", "-m", '{"accuracy": 0.5}', "HEAD")
        taken.append((time.perf_counter() - started) * 1000)
    return taken


def _print_times(report: Report, entrants: list[Entrant], fresh: Entrant, growth: float) -> None:
    rows = []
    for entrant in entrants:
        costs, course = entrant.drill.costs_ms, entrant.course
        kept, rejected = statistics.median(costs[::2]), statistics.median(costs[1::2])
        processor = statistics.median(pairs(entrant.drill.processor_ms))
        looks = statistics.median(entrant.drill.looks_ms)
        cells = [kept, rejected, course.median, processor]
        cells += [course.first, course.last, course.growth, looks]
        rows.append([entrant.name, *(f"{cell:.2f}" for cell in cells)])
    report.table(
        f"The store's cost of an epoch: medians of {len(costs):,} epochs, ms",
        (
            "",
            "kept",
            "rejected",
            "both",
            "processor",
            "first tenth",
            "last tenth",
            "ratio",
            "edits by hand?",
        ),
        rows,
        "An epoch: commit with gradients note; traces, memory, metrics notes; tag, or rollback",
        "commit and the file put back. One file changes. The repositories take turns. processor:",
        "without what other work on the machine took. edits by hand?: the look before a step.",
        f"A fresh {fresh.files:,}-file repository, run in turns with the last tenth: "
        f"{fresh.course.median:.2f} ms, ratio {growth:.2f}.",
    )


def _print_disks(report: Report, entrants: list[Entrant], disks: list[tuple[float, float]]) -> None:
    report.table(
        f"Disk of an epoch after maintenance, over {len(entrants[0].drill.costs_ms):,} epochs",
        ("", "content kB", "blocks kB", "epochs beside packing", "median ms", "longest ms"),
        [
            [
                entrant.name,
                f"{content:.1f}",
                f"{blocks:.1f}",
                f"{len(beside):,}",
                f"{statistics.median(beside or [0]):.2f}",
                f"{max(beside, default=0):.2f}",
            ]
            for entrant, (content, blocks) in zip(entrants, disks, strict=True)
            for beside in [entrant.drill.beside_ms]
        ],
    )


def _print_git(report: Report, entrants: list[Entrant], by_git: list[list[float]]) -> None:
    rows = []
    for entrant, taken in zip(entrants, by_git, strict=False):
        theirs, ours = statistics.median(taken), entrant.course.median
        rows.append(
            [f"{entrant.files:,} files", f"{theirs:.1f}", f"{ours:.2f}", f"{theirs / ours:.0f} x"]
        )
    report.table(
        "git add + commit + tag + notes add (one note) by the command line, ms",
        ("", "command line", "store (four notes)", "ratio"),
        rows,
    )
