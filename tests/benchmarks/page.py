"""How long a report takes: to write, and to open in a browser."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from autopilot.git.repository import Repository
from autopilot.report.collection import collect
from autopilot.report.rendering import page as html
from autopilot.tracking.notebook import Notebook
from tests.benchmarks.epochs import SLUG, Drill
from tests.benchmarks.report import Report
from tests.benchmarks.repos import make_repository
from tests.browser import chromium, find_chromium

# The best epoch's title, the list's rows and a drawn curve are there.
_THERE = "!!document.getElementById('detail-title') && !!document.querySelector('.row[id]')"
_VIEWS = {"an epoch's diff": "!!document.querySelector('.detail .diff')"}
_VIEWS |= {"#tree": "!!document.querySelector('.treebox canvas')"}
_VIEWS |= {"#items": "!!document.querySelector('.heatbox canvas')"}


def page(report: Report) -> None:
    """A report of 2,000 epochs: collected, written, opened in headless Chromium."""
    epochs, times = report.count(2000, 40), report.count(7, 2)
    top = report.folder / "page"
    drill = Drill(make_repository(top, 2000, 200), 200)
    drill.run(epochs)
    drill.close()
    started = time.perf_counter()
    text = html([collect(Notebook(Repository.discover(top), SLUG))])
    written_s = time.perf_counter() - started
    path = report.folder / "page.html"
    path.write_text(text, encoding="utf-8")
    rows = [["collected and written", f"{written_s:.2f}"]]
    note = f"The file: {len(text.encode()) / 1e6:.2f} MB."
    if find_chromium() is None:
        report.table(
            f"A report of {epochs:,} epochs, s", ("", "s"), rows, note, "No Chromium here."
        )
        return
    with chromium(report.folder / "profile") as browser:

        def opened(address: str, there: str) -> Callable[[], None]:
            def call() -> None:
                browser.open(address)
                browser.wait_for(there)

            return call

        first = _median(opened(path.as_uri(), _THERE), times)
        rows.append(["opened: list, curve and an epoch", f"{first:.2f}"])
        for name, there in _VIEWS.items():
            hash_ = name if name.startswith("#") else f"#epoch-{epochs - 1}"
            taken = _median(opened(f"{path.as_uri()}{hash_}", there), times)
            rows.append([f"opened on {name}", f"{taken:.2f}"])
    report.table(f"A report of {epochs:,} epochs: medians of {times}", ("", "s"), rows, note)
    report.limit("page", first)


def _median(call: Callable[[], None], times: int) -> float:
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)
