"""What tests of all packages share."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from _pytest.assertion import rewrite
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import WorkStealingScheduling

from autopilot.core.run import freeze
from autopilot.git.repository import Repository

sys.path.insert(0, str(Path(__file__).parent))

import checkouts  # none of them is in a package: scripts use them too
from checkouts import make_checkout, own_home
from forks import ForkingPopen
from server import KEY, MessagesServer, Reply, Script

# Else each process that a test starts would compile all of the package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A guard that is pytest would load all plugins of this environment: a second of a processor each.
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"

# How long an example takes says something about the machine, which others use too. Draws are the
# same in each run, so that a red test is the fault of the change that it is red with; a number in
# AUTOPILOT_DRAWS looks for faults that nobody knows.
_draws = os.environ.get("AUTOPILOT_DRAWS")
settings.register_profile(
    "shared",
    deadline=None,
    derandomize=not _draws,
    max_examples=int(_draws or 50),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("shared")


# Files in memory: most of what the tests write is thousands of small files that live for a second.
_MEMORY = Path("/dev/shm")
if _MEMORY.is_dir() and "PYTEST_DEBUG_TEMPROOT" not in os.environ:
    _room = os.statvfs(_MEMORY)
    if not _room.f_flag & os.ST_NOEXEC and _room.f_bavail * _room.f_frsize > 6 << 30:
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(_MEMORY)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """More than processors: half of its time, a test waits for limits, and for other processes."""
    return (os.cpu_count() or 2) * 5 // 2


def pytest_xdist_make_scheduler(
    config: pytest.Config, log: Producer
) -> WorkStealingScheduling | None:
    """Each worker begins with a part of the files: what a few of them import or make, one pays."""
    return WorkStealingScheduling(config, log) if config.getvalue("dist") == "load" else None


def pytest_collection(session: pytest.Session) -> None:
    """Of a fresh clone's test files each is compiled once: every worker begins with another part.

    Each of them would compile all of them otherwise, six seconds of a processor. If pytest does it
    in another way one day, that is all that is lost.
    """
    worker, config = getattr(session.config, "workerinput", {}), session.config
    if len(config.args) < 2 or not worker:  # some files by name
        return
    files = sorted(Path(__file__).parent.rglob("test_*.py"))
    first = len(files) * int(worker["workerid"].removeprefix("gw")) // worker["workercount"]
    with suppress(Exception):
        for file in files[first:] + files[:first]:
            folder = rewrite.get_cache_dir(file)
            compiled = folder / f"{file.stem}{rewrite.PYC_TAIL}"
            if not compiled.exists() and rewrite.try_makedirs(folder):
                status, code = rewrite._rewrite_test(file, config)
                rewrite._write_pyc(config.stash[rewrite.assertstate_key], code, status, compiled)


def pytest_collection_finish() -> None:
    """No collection of garbage looks at thousands of tests again and again, and each comes late."""
    freeze()
    gc.set_threshold(5_000)  # below what a run sets


Serve = Callable[[Script | Sequence[Reply]], MessagesServer]


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> None:
    """It interrupts, also where a shell runs the tests in the background, and has it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup has ignored


@pytest.fixture(scope="session", autouse=True)
def kept_checkouts(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The repositories that are copied are in a folder of this session."""
    checkouts.FOLDER = str(tmp_path_factory.mktemp("checkouts"))


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
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that measure for this one are forked from it, see `forks.py`."""
    import autopilot.proof.worker  # noqa: F401  # which each of them would import anew

    monkeypatch.setattr(subprocess, "Popen", ForkingPopen)


@pytest.fixture
def git_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own: no configuration, identity or cache of the machine is seen.

    Returns:
        The home folder; git's global configuration is `.gitconfig` in it.
    """
    home = tmp_path / "home"
    home.mkdir()
    own_home(monkeypatch, home)
    return home


@pytest.fixture
def repository(tmp_path: Path, git_environment: Path) -> Repository:
    """A repository with one commit on `main`, of `README.md` and `rules/a.txt`."""
    files = {"README.md": "readme\n", "rules/a.txt": "a\n"}
    return Repository.discover(make_checkout(tmp_path / "repo", files, "first"))
