"""autopilot.cli.pages.progress: the table of epochs, failures of items, and the direction."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from typing import TYPE_CHECKING

import pytest

from autopilot.cli.output import Output
from autopilot.cli.pages.progress import ChildReporter, EpochTable
from autopilot.core.records.record import MetricsRecord

if TYPE_CHECKING:
    from tests.cli.conftest import Place

LONG = "seconds_per_request_over_the_whole_split"


def record(epoch: int, value: float, best: float, monitor: str, mode: str) -> MetricsRecord:
    return MetricsRecord(
        epoch=epoch,
        id=f"{epoch}-val",
        split="val",
        metrics={monitor: value},
        verdict="baseline" if not epoch else "kept" if value == best else "rejected",
        monitor=monitor,
        mode=mode,
        best=best,
        strategy="up" if epoch else "",
    )


def table(values: list[float], monitor: str = "accuracy", mode: str = "max") -> list[str]:
    choose = max if mode == "max" else min
    bests = [choose(values[: n + 1]) for n in range(len(values))]
    rows = [record(n, v, bests[n], monitor, mode) for n, v in enumerate(values)]
    drawn = EpochTable(rows[0])
    lines = [drawn.head()]
    for n, row in enumerate(rows):
        revision = "abcdef1" if row.verdict != "rejected" else ""
        lines.append(drawn.row(row, bests[n - 1] if n else None, revision, row.strategy))
    return [line.rstrip() for line in lines]


def test_ordinary_values_look_as_in_the_readme() -> None:
    assert table([0.5833, 0.717, 0.692]) == [
        "epoch  val accuracy        best  verdict   strategy                  commit",
        "    0  0.583              0.583  baseline                            abcdef1",
        "    1  0.717  +0.134      0.717  kept      up                        abcdef1",
        "    2  0.692  -0.025      0.717  rejected  up                        -",
    ]


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize(
    "values",
    [
        [0.5, 0.6, 0.4],
        [1234567.891, 1234567.892, 1234567.890],
        [1e-7, 1.5e-7, 0.5e-7],
        [123456789012.0, 123456789013.0, 123456789011.0],
        [1e20, 2e20, 5e19],
        [0.0, 1e-9, -1e-9],
        [-1234.5, -1234.25, -1300.0],
        [0.00012, 0.00013, 0.00011],
    ],
)
@pytest.mark.parametrize("monitor", ["f1", LONG])
def test_columns_never_touch(values: list[float], monitor: str, mode: str) -> None:
    head, *rows = table(values, monitor, mode)
    columns = re.split(r" {2,}", head.strip())
    said = f"val {monitor}" + (" (lower is better)" if mode == "min" else "")
    assert columns == ["epoch", said, "best", "verdict", "strategy", "commit"]
    for n, row in enumerate(rows):
        cells = re.split(r" {2,}", row.strip())
        assert len(cells) == (5 if n == 0 else 7), row
        assert float(cells[1]) == pytest.approx(values[n], rel=1e-2)
        # What differs reads differently, and a value that is the best reads as the best.
        if n:
            best = (max if mode == "max" else min)(values[: n + 1])
            assert (cells[1] == cells[3]) == (values[n] == best), row
            assert float(cells[2]) != 0, row
    assert head.index("verdict") == rows[0].index("baseline")


MINUTES = """\
from autopilot import AutoPilotModule, DataLoader, Datum, Optimizer, PathParameter, Step


class Raise(Optimizer):
    def step(self):
        x = self.parameters[0]
        x.write_text(f"{int(x.read_text()) + 1}\\n")
        return Step("add one", "up")


class Slow(AutoPilotModule):
    monitor = "latency"
    mode = "min"

    def __init__(self):
        super().__init__()
        self.x = PathParameter("x.txt")

    def forward(self, batch):
        level = int(self.x.read_text())
        return Datum(items=[
            Datum(metrics={"latency": item.metadata["at"] * 1e-4 / min(level, 4 - level)})
            for item in batch.items
        ])

    def configure_optimizers(self):
        return Raise(self.parameters())

    def train_dataloader(self):
        return DataLoader([{"id": f"i{n}", "at": n} for n in range(1, 10)], 4)

    val_dataloader = test_dataloader = train_dataloader
"""


def test_where_lower_is_better_every_page_says_so(place: Place) -> None:
    place.write("slow.py", MINUTES)
    place.commit()
    ran = place.run("run", "slow.py", "-e", "s", "--max-epochs", "2").out.splitlines()
    moved = "val latency 0.0005 -> 0.00025 (lower is better)"
    assert any(line.startswith("epoch  val latency (lower is better)  ") for line in ran)
    kept = next(line for line in ran if line.startswith("    1  "))
    assert kept.split()[:5] == ["1", "0.00025", "-0.00025", "0.00025", "kept"]
    assert any(x.startswith(f"best: epoch 1, {moved}, test 0.0005 -> 0.00025 ") for x in ran)
    log = place.call("log", "s").out
    assert f"best: epoch 1, {moved}" in log
    assert "val latency (lower is better)" in log.splitlines()[2]
    assert "val latency (lower is better)" in place.call("log", "s", "--graph").out
    assert "val latency (lower is better)" in place.call("show", "1", "-e", "s").out
    assert "memory: strategy up: kept, gain +0.00025" in place.call("show", "1", "-e", "s").out
    assert "metric      val latency, lower is better" in place.call("status", "s").out
    assert "val latency (lower is better)" in place.call("status").out
    assert moved in place.call("experiment", "show", "s").out
    assert "(lower is better)" in place.call("experiment", "list").out
    assert "| val latency (lower is better) |" in place.call("report", "s", "--md").out
    assert moved in place.call("promote", "plan", "s").out
    created = place.call("propose", "create", "s").out
    assert f"s: {moved}" in created
    subject = place.git("log", "-1", "--format=%s", "autopilot-review/s")
    assert subject.endswith("(val latency 0.0005 -> 0.00025)")
    trailer = place.git(
        "log", "-1", "--format=%(trailers:key=Autopilot-Score)", "autopilot-review/s"
    )
    assert trailer.strip() == f"Autopilot-Score: {moved}"
    tag = place.git("tag", "--list", "--format=%(contents)", "autopilot/s/epoch-0001")
    assert "val latency against baseline -0.00025 (lower is better)" in tag
    verified = place.autopilot("propose", "verify", "s").out.splitlines()
    assert verified[0].startswith("s: test latency (lower is better), base ")
    assert verified[2].split() == ["1", "0.0005", "0.00025", "-0.00025"]
    gain = next(line for line in verified if line.startswith("paired gain"))
    assert gain.startswith("paired gain, by how much it is lower: +0.00025, 95% interval +0.000")
    assert gain.endswith("(above 0 is better)")


# --- failures of items ---------------------------------------------------------------------------

ANSWER = 'return Datum(success=passed, feedback="raise it")'


def test_verbose_shows_the_users_traceback_and_not_ours(place: Place) -> None:
    place.change("counter.py", (ANSWER, 'return Datum(success=item.metadata["label"])'))
    code = place.read("counter.py")
    code = code.replace('"at": at}', '"at": at, **({} if at == 4 else {"label": False})}')
    place.write("counter.py", code)
    place.commit()
    line = code.splitlines().index('        return Datum(success=item.metadata["label"])') + 1
    told = f"raised: KeyError 'label' (counter.py:{line})"
    quiet = place.run("run", "counter.py", "-e", "q", "--max-epochs", "1").out
    assert f"       1 of 5 val items {told}\n" in quiet
    assert f"       1 of 5 train items {told}\n" in quiet
    assert f"1 of 5 test items {told}" in quiet
    assert "Traceback" not in quiet
    assert f"1 of 5 val items gave no result in 2 epochs: {told[8:]}\n" in quiet
    loud = place.run("run", "counter.py", "-e", "l", "--max-epochs", "1", "--verbose").out
    assert f'         File "{place.top}/counter.py", line {line}, in score\n' in loud
    assert "       KeyError: 'label'\n" in loud
    assert "autopilot/core" not in loud and str(place.cache) not in loud
    document = place.run("run", "counter.py", "-e", "j", "--max-epochs", "1", "--json").document
    assert document["never_measured"] == ["i4"]


def test_a_train_split_that_raises_as_a_whole_is_shown_with_the_users_line(place: Place) -> None:
    place.change(
        "counter.py",
        (
            "    def configure_optimizers(self):",
            '    def training_step(self, batch):\n        return self.mistake["x"]\n\n'
            "    def configure_optimizers(self):",
        ),
    )
    done = place.autopilot("run", "counter.py", "-e", "t", "--max-epochs", "3")
    assert done.code == 1
    assert done.error.startswith("error: all 5 train items raised: AttributeError")
    assert f'File "{place.top}/counter.py"' in done.err
    assert 'self.mistake["x"]' in done.err
    assert "autopilot/core" not in done.err


def test_a_baseline_that_raises_as_a_whole_says_where(place: Place) -> None:
    place.change("counter.py", (ANSWER, "raise ValueError(item.id)"))
    line = next(
        n for n, text in enumerate(place.read("counter.py").splitlines(), 1) if "Err" in text
    )
    done = place.autopilot("run", "counter.py", "-e", "b")
    assert done.code == 1
    assert done.error.startswith("error: all 5 val items failed: ValueError: i1")
    assert f"       all 5 val items raised: ValueError i1 (counter.py:{line})\n" in done.out
    assert "Traceback" not in done.out + done.err
    loud = place.autopilot("run", "counter.py", "-e", "b", "--verbose")
    assert f'File "{place.top}/counter.py", line {line}, in score' in loud.out


def test_the_parent_of_a_run_has_the_user_s_repository_packed(place: Place) -> None:
    beside = ChildReporter(Output(), place.top).beside
    assert beside(0, "") == 0
    place.git("config", "gc.auto", "1")
    contents = (b"%d" % number for number in itertools.count())
    # Loose objects are counted by those in one folder.
    (place.top / "x").write_bytes(next(x for x in contents if blob_id(x).startswith("17")))
    place.git("hash-object", "-w", "x")
    pid = beside(0, "")
    assert pid > 0 and os.waitpid(pid, 0) == (pid, 0)
    assert list((place.top / ".git/objects/pack").glob("*.pack"))
    assert beside(pid, "") == 0


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
