"""--expose: what was executed is told, secrets are not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autopilot import audit
from autopilot.cli.main import AutoPilotCLI
from autopilot.errors import GitCommandError
from autopilot.git.commands import run_git
from autopilot.git.repository import Repository
from autopilot.sandbox.programs import run_process


@pytest.fixture
def trail():
    yield audit.begin()
    audit.end()


def test_git_and_programs_are_told_with_code_and_duration(
    trail: audit.Trail, repository: Repository
) -> None:
    run_git(["rev-parse", "HEAD"], cwd=repository.workdir)
    with pytest.raises(GitCommandError):
        run_git(["rev-parse", "--verify", "nothing"], cwd=repository.workdir)
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    run_process(command, stdin="", folder=None, timeout_s=20, hint="")
    executed = trail.executed[-3:]
    told = [(each.kind, each.code) for each in executed]
    assert told == [("git", 0), ("git", 128), ("process", 3)]
    assert executed[0].command == "git rev-parse HEAD"
    assert executed[0].folder == str(repository.workdir)
    assert all((each.seconds or 0) > 0 for each in executed)


def test_a_program_of_the_users_own_code_is_told_once(trail: audit.Trail) -> None:
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    (told,) = trail.executed
    assert (told.kind, told.code, told.seconds) == ("process", None, None)
    assert told.command.endswith("-c pass")


def test_without_a_trail_nothing_is_kept() -> None:
    with audit.executing("git", ["git", "status"]) as execution:
        execution.code = 0
    assert audit.current() is None
    assert execution.command == ""


def test_secrets_are_hidden(trail: audit.Trail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "very-secret-value")
    commands = [
        ["git", "push", "https://ada:hunter22@example.com/x.git"],
        ["agent", "--token", "hunter22", "--password=hunter22", "say very-secret-value"],
        ["git", "-c", "http.extraHeader=Authorization: Basic hunter22"],
    ]
    for command in commands:
        with audit.executing("process", command, Path()):
            pass
    told = " ".join(each.command for each in trail.executed)
    assert "hunter22" not in told
    assert "very-secret-value" not in told
    assert "https://[hidden]@example.com/x.git" in told


def test_the_option_on_commands(repository: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(repository.workdir)
    assert AutoPilotCLI().run(["-C", folder, "status", "--expose"]) == 0
    told = capsys.readouterr()
    assert "no experiments yet" in told.out
    assert "git config --list -z" not in told.out
    assert "git config --list -z" in told.err
    assert AutoPilotCLI().run(["-C", folder, "status", "--expose", "--json"]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert '"kind": "git"' in told.out
    assert AutoPilotCLI().run(["-C", folder, "--expose", "status", "nothing"]) == 1
    assert "git config --list -z" in capsys.readouterr().err
    assert audit.current() is None


def test_a_process_that_leaves_does_what_an_interpreter_does_at_its_end() -> None:
    program = """
import atexit, threading, time
from autopilot.audit import leave
atexit.register(print, "at exit")
threading.Thread(target=lambda: time.sleep(0.05) or print("thread", end=", ")).start()
leave(3)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, "thread, at exit\n", "")
