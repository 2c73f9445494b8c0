"""The memory of a StreamingDataset over a million lines, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks.report import Report, peak_mb

_BATCH = 100


def streaming(report: Report) -> None:
    """Walks through a large JSON Lines file in batches."""
    lines = report.count(1_000_000, 20_000)
    path = report.folder / "lines.jsonl"
    text = "my invoice of last month is wrong, please look into it " * 2
    with path.open("w") as file:
        for number in range(lines):
            file.write(json.dumps({"id": f"t{number}", "text": text, "label": "billing"}) + "\n")
    # From the project's folder, as this process was started.
    command = [sys.executable, "-m", __name__, str(path), str(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    size_mb = path.stat().st_size / 1e6
    path.unlink()
    cells = [found["imported"], found["first"], found["peak"]]
    report.table(
        f"StreamingDataset over {lines:,} lines ({size_mb:,.0f} MB), in batches of {_BATCH}: "
        "peak of resident memory, MB",
        ("", "after imports", "after a tenth", "at the end", "lines/s"),
        [["", *(f"{cell:.1f}" for cell in cells), f"{lines / found['seconds']:,.0f}"]],
    )
    report.limit("streaming", found["peak"])
    report.limit("streaming, growth", found["peak"] - found["first"])


def walk(path: Path, lines: int) -> dict[str, float]:
    """The peak of memory after the imports, after a tenth of the lines, and at the end."""
    from autopilot.data import DataLoader, StreamingDataset

    found = {"imported": peak_mb(), "first": 0.0}
    seen, started = 0, time.perf_counter()
    for batch in DataLoader(StreamingDataset(path), batch_size=_BATCH):
        seen += len(batch.items)
        if seen * 10 >= lines and not found["first"]:
            found["first"] = peak_mb()
    if seen != lines:
        raise AssertionError(f"{seen} lines of {lines} were read")
    return found | {"peak": peak_mb(), "seconds": time.perf_counter() - started}


if __name__ == "__main__":
    print(json.dumps(walk(Path(sys.argv[1]), int(sys.argv[2]))))
