"""Benchmarks: `python -m tests.benchmarks`, from the project's top folder.

Times are medians; ratios are of one run. A machine that does other work meanwhile shows in both.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from autopilot.git.commands import run_git
from tests.benchmarks.calls import calls
from tests.benchmarks.confinement import confinement
from tests.benchmarks.landscape import landscape
from tests.benchmarks.loop import jobs, loop
from tests.benchmarks.page import page
from tests.benchmarks.report import Report
from tests.benchmarks.repos import isolate, remove
from tests.benchmarks.runs import commands, growth, proposals, restarts, runs
from tests.benchmarks.search import candidates, search
from tests.benchmarks.startup import recall, startup
from tests.benchmarks.store import store
from tests.benchmarks.streaming import streaming

BENCHMARKS: dict[str, Callable[[Report], None]] = {
    "store": store,
    "loop": loop,
    "jobs": jobs,
    "confinement": confinement,
    "startup": startup,
    "streaming": streaming,
    "calls": calls,
    "page": page,
    "runs": runs,
    "commands": commands,
    "restarts": restarts,
    "growth": growth,
    "proposals": proposals,
    "candidates": candidates,
    "search": search,
    "landscape": landscape,
    "recall": recall,
}
_LONG = ("recall",)
_TOP = Path(__file__).parents[2]


def main() -> None:
    """Runs what was asked for and prints tables."""
    options = _arguments()
    names = options.names or [name for name in BENCHMARKS if options.long or name not in _LONG]
    place, kind = _place(options.folder)
    folder = Path(tempfile.mkdtemp(prefix="autopilot-bench-", dir=place))
    report = Report(folder, options.quick)
    try:
        isolate(folder / "home")
        print(f"{_machine()}\nfiles on {kind}; benchmarks: {', '.join(names)}")
        for name in names:
            started = time.perf_counter()
            with contextlib.chdir(_TOP):
                BENCHMARKS[name](report)
            print(f"  [{name}: {time.perf_counter() - started:.0f} s]", flush=True)
        report.conclude(everything=not options.names)
    finally:
        remove(folder)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description="Measure what autopilot itself costs."
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}; else all"
    )
    parser.add_argument("--quick", action="store_true", help="small: to see that it runs")
    parser.add_argument("--long", action="store_true", help=f"with {', '.join(_LONG)}, too")
    parser.add_argument("--folder", type=Path, help="where files go, else a tmpfs if there is one")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]}: choose from {', '.join(BENCHMARKS)}")
    return options


def _place(folder: Path | None) -> tuple[Path, str]:
    """Where files go, and how that is called."""
    if folder is not None:
        return folder, "the given folder"
    shared = Path("/dev/shm")
    if shared.is_dir() and os.access(shared, os.W_OK):
        return shared, "tmpfs"
    return Path(tempfile.gettempdir()), "the temporary folder (there is no tmpfs)"


def _machine() -> str:
    git = run_git(["--version"], cwd=Path.cwd()).stdout.decode().split()[-1]
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    cores = os.cpu_count()
    version = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{version}, git {git}, {platform.system()}, {cores} cores, load {load}"


if __name__ == "__main__":
    sys.exit(main())
