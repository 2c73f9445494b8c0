"""Model calls side by side, over a scripted server in a process of its own: the ratio to ideal."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

from tests.benchmarks.report import Report

WORKERS = 64
DELAY_S = 0.2
_SERVER = Path("tests", "server.py")


def calls(report: Report) -> None:
    """As many calls as a judge of a large batch makes, each of 200 ms, over 64 threads."""
    from autopilot.ai.model import Model
    from autopilot.core.experiment import Experiment
    from autopilot.core.parameter import Parameter
    from autopilot.core.record import Manifest
    from autopilot.core.run import Run, running
    from autopilot.core.store import InMemoryStore

    number = report.count(640, 128)
    ideal_s = number / WORKERS * DELAY_S
    command = [sys.executable, str(_SERVER), "--delay", str(DELAY_S)]
    seconds: list[float] = []
    with (
        mock.patch.dict(os.environ, ANTHROPIC_API_KEY="any", no_proxy="127.0.0.1"),
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            model = Model("claude-haiku-4-5", base_url=process.stdout.readline().strip())
            store = InMemoryStore()
            store.bind([Parameter("x")])
            store.begin(Manifest(slug="calls"))
            with running(Run(Experiment(store))), ThreadPoolExecutor(WORKERS) as pool:
                list(pool.map(lambda n: model.complete(f"warm {n}"), range(WORKERS)))
                for attempt in range(report.count(5, 2)):
                    started = time.perf_counter()
                    asked = [f"question {attempt} {n}" for n in range(number)]
                    assert all(r.output == "ok" for r in pool.map(model.complete, asked))
                    seconds.append(time.perf_counter() - started)
        finally:
            process.terminate()
    ratios = sorted(taken / ideal_s for taken in seconds)
    cells = [f"{ideal_s:.2f}", f"{min(seconds):.2f}", f"{ratios[0]:.2f}", f"{ratios[-1]:.2f}"]
    report.table(
        f"{number} model calls of {DELAY_S * 1000:.0f} ms over {WORKERS} threads, recorded and "
        f"budgeted; {len(seconds)} times",
        ("", "ideal, s", "best, s", "best / ideal", "worst / ideal"),
        [["", *cells]],
    )
    report.limit(f"{number} calls over {WORKERS} threads, best / ideal", ratios[0], 1.25, "x")
