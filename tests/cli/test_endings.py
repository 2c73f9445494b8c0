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
from waiting import wait_for

from tests.cli.conftest import COMMAND
from tests.cli.test_supervision import (  # noqa: F401  # a fixture
    OPTIONS,
    Runs,
    is_alive,
    runs,
)

LOOKS = (("optimize", "preflight", "game.py"), ("run", "game.py", "--dry-run"))
STARTS = (("run", "game.py"), ("experiment", "create", "a", "game.py"))
DIED = r"error: the evaluation died: "
HAPPENED = r"in happen \(game.py:\d+\)"


def started_pid(those: Runs) -> int:
    """The process that an evaluation has started."""
    file = Path(f"{those.log}.pid")
    wait_for(lambda: file.exists() and file.read_text() != "")
    return int(file.read_text())


# --- before anything is recorded -----------------------------------------------------------------


@pytest.mark.parametrize("look", [*LOOKS, *STARTS])
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("import 0 - exit0", rf"{DIED}exit code 0 \(os._exit\) while the target was loaded"),
        ("configure 0 - segv", rf"{DIED}signal 11 \(SIGSEGV\) while the target was loaded"),
        ("configure 0 - abort", rf"{DIED}signal 6 \(SIGABRT\) while the target was loaded"),
    ],
)
def test_a_death_while_the_target_is_loaded(
    runs: Runs,  # noqa: F811
    look: tuple[str, ...],
    fault: str,
    error: str,
) -> None:
    before = runs.place.snapshot()
    done = runs.place.autopilot(*look, FAULT=fault)

    assert done.code == 1, done
    assert re.fullmatch(error, done.error), done
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
            rf"[6-8]\.\d s, {HAPPENED} in val batch 0 of epoch 0",
        ),
        (
            "import 0 - stubborn",
            ("--budget-seconds", "0.5"),
            rf"error: the time budget was up after \d.\d s, {HAPPENED} while the target was loaded",
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
    assert re.search(r"the time budget was up after [678]\.\d s", done.error)
    assert runs.place.snapshot() == before


def test_a_second_interruption_while_the_target_is_loaded(runs: Runs) -> None:  # noqa: F811
    before = runs.place.snapshot()
    fault = {"FAULT": "import 0 - stubborn"}
    process = runs.place.start("run", "game.py", "-e", "one", *OPTIONS, **fault)
    wait_for(lambda: any(runs.place.cache.glob("autopilot/worktrees/*/one/game.py")))
    for _ in range(2):
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
    done = runs.place.finish(process)

    assert done.code == -signal.SIGTERM, done
    assert runs.place.snapshot() == before


# --- limits hold wherever items are measured -----------------------------------------------------


@pytest.mark.parametrize(
    ("command", "fault", "code", "found"),
    [
        ("replay one --best-only", "val 3 1 {}", 1, "i1 raises now"),
        ("optimize validate one 3", "val 3 1 {}", 0, "1 of 6 val items failed with: {}"),
        ("optimize test game.py", "test 0 1 {}", 0, "1 of 6 test items failed with: {}"),
        ("trace collect one 3 --now", "val 3 1 {}", 0, "{}"),
        ("propose verify one", "test 3 1 {}", 1, "not hold"),
    ],
)
@pytest.mark.parametrize(
    ("what", "options", "why"),
    [
        ("daemon", ("--item-timeout", "0.6"), "no result within 0.6 s"),
        ("memory", ("--memory", "300M"), "killed for memory: over 300 MiB"),
    ],
)
def test_a_limit_of_what_is_measured_again(
    runs: Runs,  # noqa: F811
    command: str,
    fault: str,
    code: int,
    found: str,
    what: str,
    options: tuple[str, ...],
    why: str,
) -> None:
    assert runs.run("").code == 0
    if "propose" in command:
        runs.place.run("propose", "create", "one")
    began_s = time.monotonic()
    done = runs.place.autopilot(*command.split(), *options, FAULT=fault.format(what))

    assert time.monotonic() - began_s < 200
    assert done.code == code, done
    assert found.format(why) in done.out, done
    if what == "daemon":
        assert not is_alive(started_pid(runs))


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


@pytest.mark.parametrize("options", [(), ("--in-place",)])
@pytest.mark.parametrize("who", ["parent", "both"])
@pytest.mark.parametrize("what", ["daemon", "program"])
def test_a_killed_run_leaves_no_process(
    runs: Runs,  # noqa: F811
    what: str,
    who: str,
    options: tuple[str, ...],
) -> None:
    process = runs.start(f"val 1 2 {what}", *options, wanted=9, pause_s=0)
    pids = [started_pid(runs), runs.child()]
    time.sleep(1)  # a daemon is known to the run half a second after it began
    process.kill()
    if who == "both":
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[1], signal.SIGKILL)
    process.communicate()

    wait_for(lambda: not any(map(is_alive, pids)))
    assert runs.place.run("resume", "one").code == 0
    assert [r["metrics"]["accuracy"] for r in runs.place.judged("one")][-1] == 0.5


@pytest.mark.parametrize("what", ["daemon", "program"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_leaves_no_process(runs: Runs, what: str, number: int) -> None:  # noqa: F811
    process = runs.start(f"val 1 2 {what}", wanted=9, pause_s=0)
    pid = started_pid(runs)
    process.send_signal(number)
    done = runs.place.finish(process)

    assert done.code == (-number if number == signal.SIGHUP else 130), done
    wait_for(lambda: not is_alive(pid))
    assert runs.place.run("resume", "one").code == 0


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
    pids = [started_pid(runs), runs.child()]
    os.close(own)

    assert process.wait(30) == -signal.SIGHUP
    wait_for(lambda: not any(map(is_alive, pids)))
    assert runs.place.run("resume", "one").code == 0
    assert [r["metrics"]["accuracy"] for r in runs.place.judged("one")][-1] == 0.5


def test_a_killed_replay_leaves_no_process(runs: Runs) -> None:  # noqa: F811
    assert runs.run("").code == 0
    process = runs.place.start("replay", "one", "--best-only", FAULT="val 3 1 daemon")
    pids = [started_pid(runs), runs.child()]
    time.sleep(1)
    process.kill()
    process.communicate()
    wait_for(lambda: not any(map(is_alive, pids)))


# --- many deaths, and what is seen of them -------------------------------------------------------


def test_a_hundred_deaths_in_one_run(runs: Runs) -> None:  # noqa: F811
    runs.place.change("game.py", ("range(6)], 3)", "range(110)], 55)"))
    faults = ",".join(f"val 1 {at} {'segv' if at % 2 else 'exit0'}" for at in range(100))
    began_s = time.monotonic()
    process = runs.place.start(
        *("run", "game.py", "-e", "one", "--max-epochs", "1", "--no-measure-noise"), FAULT=faults
    )
    done = runs.place.finish(process, 300)

    assert done.code == 0, done
    assert time.monotonic() - began_s < 250
    items = runs.items(1)
    assert [bool(item.get("error_message")) for item in items] == [True] * 100 + [False] * 10
    # The first item of a batch is run with the batch and alone; no other is run twice.
    times = [item for split, number, item in runs.evaluations() if (split, number) == ("val", "1")]
    assert sorted(times, key=int) == sorted([*map(str, range(110)), "0", "55"], key=int)


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
