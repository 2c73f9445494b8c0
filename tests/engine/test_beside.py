"""What goes on beside a run: the command at its end, and the process that feeds a tracker."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from autopilot.engine.beside import Beside, Prepare, resuming, run_command
from autopilot.engine.options import Options
from autopilot.errors import UsageError
from autopilot.tracking.notebook import Notebook
from tests.cli.conftest import Place, place  # noqa: F401  # a fixture
from tests.waiting import wait_for

NOTE = 'printf "%s|%s|%s|%s|%s" "$AUTOPILOT_EXPERIMENT" "$AUTOPILOT_STATE" "$AUTOPILOT_EXIT_CODE"'
NOTE += ' "$AUTOPILOT_BEST" "$AUTOPILOT_DETAIL" > ../note; echo told; exit 3'


@pytest.mark.parametrize(
    ("options", "code", "note"),
    [
        (("--max-epochs", "1"), 0, "c|finished|0|0.2|reached the maximum of 1 epoch"),
        (("-H", "nothing=1"), 2, "|failed|2||"),
    ],
)
def test_notify_runs_at_the_end_however_it_ends(
    place: Place,  # noqa: F811
    options: tuple[str, ...],
    code: int,
    note: str,
) -> None:
    done = place.autopilot("run", "counter.py", "-e", "c", "--json", "--notify", NOTE, *options)

    assert done.code == code, done
    assert (place.top.parent / "note").read_text() == note
    assert done.document  # what the command prints is beside the answer
    assert "told" in done.err and "--notify `printf" in done.err and "code 3" in done.err
    assert "printf" not in str(place.notes("c", "experiment") if not code else "")


@pytest.mark.parametrize("said", ["did not end within 0.5 s", "was ended by Ctrl-C"])
def test_of_a_notify_command_that_hangs_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    monkeypatch.setattr("autopilot.engine.beside._NOTIFY_S", 0.5)
    if "Ctrl-C" in said:
        waits = iter([lambda *_: (wait_for((tmp_path / "pid").exists), _interrupt())])
        wait = subprocess.Popen.wait
        monkeypatch.setattr(subprocess.Popen, "wait", lambda *a: next(waits, wait)(*a))
    command = "sleep 600 & echo $! > new; mv new pid; wait"
    assert run_command(command, tmp_path, "", 0) == f"--notify `{command}` {said}"
    assert not Path("/proc", (tmp_path / "pid").read_text().strip(), "exe").exists()


def test_a_tracker_that_only_an_earlier_command_named_may_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    prepare = Prepare(tmp_path, lambda *_: pytest.fail("no session"), "wandb")
    beside = Beside(prepare)
    assert beside.callbacks() == [] and [*beside.end()] == [
        "wandb: not installed here, nothing is sent"
    ]
    with pytest.raises(UsageError):
        resuming(tmp_path, cast(Notebook, None), Options(log_to="wandb"))  # before it is read
    assert [*Beside(replace(prepare, tracker=None)).end()] == []


def _interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("event", "said"),
    [(int, "its process was ended"), (_interrupt, "it is still being sent")],
)
def test_the_end_is_told_whatever_becomes_of_the_tracker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, event: Callable[[], object], said: str
) -> None:
    monkeypatch.setattr("autopilot.engine.beside._DETACHED", "import os; os.fork() and os._exit(0)")
    beside = Beside(Prepare(tmp_path, lambda *_: pytest.fail("no session"), "tensorboard"))
    monkeypatch.setattr("select.select", lambda *_: (event(), ([True], [], []))[1])
    (line,) = beside.end()
    assert line.startswith(f"tensorboard: {said}")
    # One that takes longer than two seconds is waited for aloud.
    beside = Beside(Prepare(tmp_path, lambda *_: pytest.fail("no session"), "tensorboard"))
    looks = iter([([], [], []), ([True], [], [])])
    monkeypatch.setattr("select.select", lambda *_: next(looks))
    told = beside.end()
    assert next(told).startswith("tensorboard: the rest is sent, for 60 s (Ctrl-C")
    assert next(told).startswith("tensorboard: its process was ended") and not [*told]


def test_a_dry_run_looks_for_the_tracker_too(
    place: Place,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    done = place.call("run", "counter.py", "--log-to", "wandb", "--dry-run", code=2)
    assert "pip install wandb" in done.err
