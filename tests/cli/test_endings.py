"""Whatever ends a command that evaluates, it ends in time, says so, and leaves no process."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkouts import copy_checkout, make_checkout
from waiting import wait_for

from tests.cli.conftest import COMMAND, Place, prepare_commands
from tests.cli.test_supervision import (  # noqa: F401  # a fixture
    COUNT,
    OPTIONS,
    Runs,
    is_alive,
    runs,
)

LOOKS = (("optimize", "preflight", "game.py"), ("run", "game.py", "--dry-run"))
STARTS = (("run", "game.py"), ("experiment", "create", "a", "game.py"))
DIED = r"error: the evaluation died: "
# The budget of up to a second, the five beside it, and what a loaded machine takes to look.
A_WHILE = r"([5-9]|[1-5]\d)\.\d s"
HAPPENED = r"in happen \(game.py:\d+\)"


def started_pids(those: Runs, *kinds: str) -> list[int]:
    """The processes that an evaluation has started: its program, its daemon."""
    pids = list[int]()
    for kind in kinds:
        file = Path(f"{those.log}.{kind}")
        wait_for(lambda file=file: file.exists() and file.read_text() != "")
        pids.append(int(file.read_text()))
        file.unlink()
    return pids


# --- before anything is recorded -----------------------------------------------------------------


def test_a_death_while_the_target_is_loaded(runs: Runs) -> None:  # noqa: F811
    before = runs.place.snapshot()
    # A look and a start each die at the import and after it.
    for command, fault, end in zip(
        (*LOOKS, *STARTS),
        ("import 0 - exit0", "configure 0 - segv", "configure 0 - abort", "import 0 - exit0"),
        (exits := "exit code 0 (os._exit)", "signal 11 (SIGSEGV)", "signal 6 (SIGABRT)", exits),
        strict=True,
    ):
        done = runs.place.autopilot(*command, FAULT=fault)

        assert done.code == 1, done
        assert done.error == f"error: the evaluation died: {end} while the target was loaded", done
    assert runs.place.snapshot() == before


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize(
    ("fault", "options", "error"),
    [
        ("val 0 0 exit0", (), rf"{DIED}exit code 0 \(os._exit\) in val batch 0 of epoch 0"),
        ("val 0 0 segv", (), rf"{DIED}signal 11 \(SIGSEGV\) in val batch 0 of epoch 0"),
        (
            "val 0 0 stubborn",
            ("--item-timeout", "0.5"),
            rf"error: no result within 0.5 s, {HAPPENED} in val batch 0 of epoch 0",
        ),
        (
            "val 0 0 stubborn",
            ("--budget-seconds", "1"),
            "error: the time budget was up after "
            rf"{A_WHILE}, {HAPPENED} in val batch 0 of epoch 0",
        ),
        (
            "import 0 - stubborn",
            ("--budget-seconds", "0.5"),
            rf"error: the time budget was up after {A_WHILE}, {HAPPENED} while the target was "
            "loaded",
        ),
        (
            "import 0 - memory",
            ("--memory", "300M"),
            rf"error: killed for memory: over 300 MiB, {HAPPENED} while the target was loaded",
        ),
    ],
)
def test_a_look_that_dies_or_hangs(
    runs: Runs,  # noqa: F811
    look: tuple[str, ...],
    fault: str,
    options: tuple[str, ...],
    error: str,
) -> None:
    before, began_s = runs.place.snapshot(), time.monotonic()
    done = runs.place.autopilot(*look, *options, FAULT=fault)

    assert time.monotonic() - began_s < 200
    assert done.code == 1, done
    assert re.fullmatch(error, done.error), done
    assert runs.place.snapshot() == before


def test_a_look_names_the_limits(runs: Runs) -> None:  # noqa: F811
    for look in LOOKS:
        assert "no item timeout, no memory limit" in runs.place.run(*look).out
        limited = runs.place.run(*look, "--item-timeout", "9", "--memory", "2G").out
        assert "item timeout 9 s, memory limit 2 GiB" in limited


@pytest.mark.parametrize("options", [(), ("--in-place",)])
def test_the_time_budget_holds_while_the_target_is_loaded(
    runs: Runs,  # noqa: F811
    options: tuple[str, ...],
) -> None:
    before = runs.place.snapshot()
    done = runs.run("import 0 - stubborn", "--budget-seconds", "1", *options)

    assert done.code == 1, done
    assert re.search(rf"the time budget was up after {A_WHILE}", done.error), done
    assert runs.place.snapshot() == before


def test_a_second_interruption_while_the_target_is_loaded(runs: Runs) -> None:  # noqa: F811
    before = runs.place.snapshot()
    fault = {"FAULT": "import 0 - stubborn"}
    process = runs.place.start("run", "game.py", "-e", "one", *OPTIONS, **fault)
    for heard in range(2):
        wait_for(lambda heard=heard: runs.interruptions() == heard)
        process.send_signal(signal.SIGTERM)
    done = runs.place.finish(process)

    assert done.code == -signal.SIGTERM, done
    assert runs.place.snapshot() == before


# --- limits hold wherever items are measured -----------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a finished run of the game, and its review branch."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        place = Place(folder / "repo", prepare_commands(patch, folder))
        patch.setenv("EVALUATIONS", str(folder / "evaluations.log"))
        make_checkout(place.top, {"game.py": COUNT, "x.txt": "0\n"})
        place.run("run", "game.py", "-e", "one", *OPTIONS)
        place.run("propose", "create", "one")
    return place.top


@pytest.fixture
def again(
    finished: Path, tmp_path: Path, git_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> Runs:
    """A copy of that repository."""
    log = tmp_path / "evaluations.log"
    monkeypatch.setenv("EVALUATIONS", str(log))
    top = copy_checkout(finished, tmp_path / "repo")
    return Runs(Place(top, prepare_commands(monkeypatch, git_environment)), log)


@pytest.mark.parametrize(
    ("command", "fault", "code", "found"),
    [
        ("replay one --best-only", "val 3 {at} {what}", 1, "i{at} raises now"),
        ("optimize validate one 3", "val 3 {at} {what}", 0, "1 of 6 val items failed with: {why}"),
        ("optimize test game.py", "test 0 {at} {what}", 0, "1 of 6 test items failed with: {why}"),
        ("trace collect one 3 --now", "val 3 {at} {what}", 0, '"error_message": "{why}'),
        ("propose verify one", "test 3 {at} {what}", 1, "not hold"),
    ],
)
def test_a_limit_of_what_is_measured_again(
    again: Runs, command: str, fault: str, code: int, found: str
) -> None:
    ends = {
        "daemon": (1, "no result within 3 s"),
        "much": (4, "killed for memory: over 300 MiB"),
    }
    faults = ",".join(fault.format(at=at, what=what) for what, (at, _) in ends.items())
    limits = ("--item-timeout", "3", "--memory", "300M")
    began_s = time.monotonic()
    done = again.place.autopilot(*command.split(), *limits, FAULT=faults)

    assert time.monotonic() - began_s < 200
    assert done.code == code, done
    for at, why in ends.values():
        assert found.format(at=at, why=why) in done.out, done
    assert not any(map(is_alive, started_pids(again, "pid")))


def test_a_limit_holds_in_training_for_some_epochs(runs: Runs) -> None:  # noqa: F811
    command = ("optimize", "train", "game.py", "-e", "one", "--epochs", "1")
    done = runs.place.autopilot(*command, "--item-timeout", "0.5", FAULT="val 1 1 deaf")

    assert done.code == 0, done
    assert "1 of 6 val items failed with: no result within 0.5 s" in done.out
    # What it was started with holds when it goes on.
    done = runs.place.autopilot("optimize", "train", "one", FAULT="val 2 1 deaf")
    assert "1 of 6 val items failed with: no result within 0.5 s" in done.out, done


def test_a_slow_import_is_no_slow_item(runs: Runs) -> None:  # noqa: F811
    runs.place.write("step.py", "number = 0\n")
    runs.place.change(
        "game.py",
        ("import os\n", "import os\nimport time\n\ntime.sleep(1)\nimport step\n"),
        ('PathParameter("x.txt")', 'PathParameter("step.py")'),
        ("int(x.read_text())", "int(x.read_text().split()[2])"),
        ("int(self.x.read_text())", "step.number"),
        ('f"{number + 1}', 'f"number = {number + 1}'),
    )
    done = runs.run("", "--item-timeout", "0.5")

    assert done.code == 0, done
    assert [r["metrics"]["accuracy"] for r in runs.place.judged("one")][-1] == 0.5


# --- no process is left --------------------------------------------------------------------------


# Beside the item that is a program's, a daemon of the item before.
STARTED = "val 1 1 leave,val 1 2 program"


@pytest.mark.parametrize("options", [(), ("--in-place",)])
def test_a_killed_run_leaves_no_process(runs: Runs, options: tuple[str, ...]) -> None:  # noqa: F811
    process = runs.start(STARTED, *options, wanted=9, pause_s=0)
    for who in ("parent", "both"):
        pids = [*started_pids(runs, "program", "pid"), runs.child()]
        time.sleep(1)  # a daemon is known to the run half a second after it began
        process.kill()
        if who == "both":
            with contextlib.suppress(ProcessLookupError):
                os.kill(pids[-1], signal.SIGKILL)
        process.communicate()
        wait_for(lambda pids=pids: not any(map(is_alive, pids)))
        process = runs.place.start("resume", "one", FAULT=STARTED if who == "parent" else "")

    assert runs.place.finish(process).code == 0
    assert [r["metrics"]["accuracy"] for r in runs.place.judged("one")][-1] == 0.5


def test_an_interrupted_run_leaves_no_process(runs: Runs) -> None:  # noqa: F811
    process = runs.start(STARTED, wanted=9, pause_s=0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        pids = started_pids(runs, "program", "pid")
        process.send_signal(number)
        done = runs.place.finish(process)

        assert done.code == (-number if number == signal.SIGHUP else 130), done
        wait_for(lambda pids=pids: not any(map(is_alive, pids)))
        process = runs.place.start(
            "resume", "one", FAULT="" if number == signal.SIGHUP else STARTED
        )
    assert runs.place.finish(process).code == 0


def test_a_terminal_that_is_closed_ends_the_run(runs: Runs) -> None:  # noqa: F811
    own, others = os.openpty()
    control = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)"
    command = [sys.executable, "-c", f"{control}; os.execv(sys.argv[1], sys.argv[1:])", *COMMAND]
    process = subprocess.Popen(
        [*command, "run", "game.py", "-e", "one", *OPTIONS],
        cwd=runs.place.top,
        env={**os.environ, "FAULT": "val 1 2 daemon"},
        stdin=others,
        stdout=others,
        stderr=others,
        start_new_session=True,
    )
    os.close(others)
    pids = [*started_pids(runs, "pid"), runs.child()]
    os.close(own)

    assert process.wait(30) == -signal.SIGHUP
    wait_for(lambda: not any(map(is_alive, pids)))
    assert runs.place.run("resume", "one").code == 0
    assert [r["metrics"]["accuracy"] for r in runs.place.judged("one")][-1] == 0.5


def test_a_killed_replay_leaves_no_process(again: Runs) -> None:
    process = again.place.start("replay", "one", "--best-only", FAULT="val 3 1 daemon")
    pids = [*started_pids(again, "pid"), again.child()]
    time.sleep(1)  # a daemon is known to the run half a second after it began
    process.kill()
    process.communicate()
    wait_for(lambda: not any(map(is_alive, pids)))


# --- many deaths, and what is seen of them -------------------------------------------------------


def test_many_deaths_in_one_run(runs: Runs) -> None:  # noqa: F811
    runs.place.change("game.py", ("range(6)], 3)", "range(16)], 8)"))
    faults = ",".join(f"val 1 {at} {'segv' if at % 2 else 'exit0'}" for at in range(12))
    began_s = time.monotonic()
    process = runs.place.start(
        *("run", "game.py", "-e", "one", "--max-epochs", "1", "--no-measure-noise"), FAULT=faults
    )
    done = runs.place.finish(process, 300)

    assert done.code == 0, done
    assert time.monotonic() - began_s < 250
    items = runs.items(1)
    assert [bool(item.get("error_message")) for item in items] == [True] * 12 + [False] * 4
    # The first item of a batch is run with the batch and alone; no other is run twice.
    times = [item for split, number, item in runs.evaluations() if (split, number) == ("val", "1")]
    assert sorted(times, key=int) == sorted([*map(str, range(16)), "0", "8"], key=int)


def test_what_was_printed_last_is_shown(runs: Runs) -> None:  # noqa: F811
    assert runs.run("val 2 1 loud").code == 0
    for command in ("show 2 -e one", "trace inspect one i1"):
        shown = runs.place.run(*command.split()).out.splitlines()
        lines = [line.strip() for line in shown]
        assert "line 9" not in lines
        assert [f"line {number}" for number in range(10, 60)] == lines[lines.index("line 10") :][
            :50
        ]


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A memory cgroup with a limit of 200 MiB."""
    tops = (("memory", "memory.limit_in_bytes"), ("", "memory.max"))
    top, limit = next(
        each for each in tops if not each[0] or Path("/sys/fs/cgroup/memory").is_dir()
    )
    place = Path("/sys/fs/cgroup", top, f"autopilot-test-{os.getpid()}")
    try:
        place.mkdir()
    except OSError:
        pytest.skip("memory cgroups cannot be made here")
    try:
        if not (place / limit).exists():
            pytest.skip("memory is not limited by cgroups here")
        (place / limit).write_text(str(200 << 20))
        yield place
        wait_for(lambda: not (place / "cgroup.procs").read_text())
    finally:
        place.rmdir()


def test_what_the_system_kills_for_memory_is_named(runs: Runs, cgroup: Path) -> None:  # noqa: F811
    script = f'echo $$ > {cgroup}/cgroup.procs; exec "$@"'
    command = [*COMMAND, "run", "game.py", "-e", "one", *OPTIONS]
    done = subprocess.run(
        ["sh", "-c", script, "sh", *command],
        cwd=runs.place.top,
        env={**os.environ, "FAULT": "val 2 1 memory"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done
    assert "1 of 6 val items failed with: killed for memory, by the system" in done.stdout, done
