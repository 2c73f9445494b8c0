"""What tests of all packages share."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from autopilot.git import commands
from autopilot.git.commands import run_git
from autopilot.git.repository import Repository

sys.path.insert(0, str(Path(__file__).parent))

from server import KEY, MessagesServer, Reply, Script  # a script too, so not in a package

# Else each process that a test starts would compile all of the package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# How long an example takes says something about the machine, which others use too.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Half again as many as processors: most of its time, a test waits for other processes."""
    return (os.cpu_count() or 2) * 3 // 2


Serve = Callable[[Script | Sequence[Reply]], MessagesServer]


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> None:
    """It interrupts, also where a shell runs the tests in the background, and has it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup has ignored


@pytest.fixture(autouse=True)
def search_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that a test imports puts its folder first, for this test alone."""
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Starts a scripted server, and points the client at it with a key of its own."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.delenv("ANTHROPIC_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ExitStack() as stack:

        def start(script: Script | Sequence[Reply]) -> MessagesServer:
            server = stack.enter_context(MessagesServer(script))
            monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
            return server

        yield start


@pytest.fixture
def git_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own: no configuration, identity or cache of the machine is seen.

    Returns:
        The home folder; git's global configuration is `.gitconfig` in it.
    """
    home = tmp_path / "home"
    home.mkdir()
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(commands, "_kept", {})
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / ".cache"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / ".gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    return home


@pytest.fixture
def repository(tmp_path: Path, git_environment: Path) -> Repository:
    """A repository with one commit on `main`, of `README.md` and `rules/a.txt`."""
    top = tmp_path / "repo"
    (top / "rules").mkdir(parents=True)
    (top / "README.md").write_text("readme\n")
    (top / "rules" / "a.txt").write_text("a\n")
    for arguments in (
        ["init", "--quiet", "--initial-branch=main"],
        ["config", "user.name", "Ada Byron"],
        ["config", "user.email", "ada@example.com"],
        ["add", "--all"],
        ["commit", "--quiet", "--message=first"],
    ):
        run_git(arguments, cwd=top)
    return Repository.discover(top)
