"""Model calls side by side, over a scripted server in a process of its own: the ratio to ideal."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from unittest import mock

from tests.benchmarks.report import Report

WORKERS = 64
DELAY_S = 0.2
_SERVER = Path("tests", "server.py")


def calls(report: Report) -> None:
    """As many calls as a judge of a large batch makes, each of 200 ms, over 64 threads.

    The client alone, without record and budget, is measured in turn: what it takes is the floor.
    """
    from autopilot.ai.model.model import Model
    from autopilot.core.experiment import Experiment
    from autopilot.core.parameter import Parameter
    from autopilot.core.records.record import Manifest
    from autopilot.core.run import Run, running
    from autopilot.core.store import InMemoryStore

    number = report.count(640, 128)
    ideal_s = number / WORKERS * DELAY_S
    command = [sys.executable, str(_SERVER), "--delay", str(DELAY_S)]
    with (
        mock.patch.dict(os.environ, ANTHROPIC_API_KEY="any", no_proxy="127.0.0.1"),
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            model = Model("claude-haiku-4-5", base_url=address, api_key="any")
            store = InMemoryStore()
            store.bind([Parameter("x")])
            store.begin(Manifest(slug="calls"))

            def alone(prompt: str) -> object:
                message = {"role": "user", "content": prompt}
                return model.client.messages.create(
                    model=model.name, max_tokens=model.max_tokens, messages=[message]
                )

            def recorded(prompt: str) -> object:
                return model.complete(prompt)

            ways: dict[str, Callable[[str], object]] = {"client": alone, "autopilot": recorded}
            taken: dict[str, list[float]] = {way: [] for way in ways}
            with running(Run(Experiment(store))), ThreadPoolExecutor(WORKERS) as pool:
                list(pool.map(recorded, [f"warm {n}" for n in range(WORKERS)]))
                for attempt in range(report.count(5, 2)):
                    for way, call in ways.items():
                        started = time.perf_counter()
                        asked = [f"question {attempt} {n}" for n in range(number)]
                        assert len(list(pool.map(call, asked))) == number
                        taken[way].append((time.perf_counter() - started) / ideal_s)
        finally:
            process.terminate()
    report.table(
        f"{number} calls of {DELAY_S * 1000:.0f} ms over {WORKERS} threads, {ideal_s:.2f} s at "
        f"best: times that; {len(taken['client'])} times in turn",
        ("", "best", "median", "worst"),
        [
            [way, f"{min(ratios):.2f}", f"{median(ratios):.2f}", f"{max(ratios):.2f}"]
            for way, ratios in taken.items()
        ],
    )
    best = min(taken["autopilot"])
    report.limit("calls", best)
