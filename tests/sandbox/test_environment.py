"""The environment of an evaluation: variables that it reads by name, versions, the platform."""

from __future__ import annotations

import copy
import hashlib
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

import pytest

from autopilot.sandbox.environment import Environment, differences


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Environment]:
    """An evaluation that begins, with four variables."""
    for name, value in {"MODE": "fast", "SHOP_TOKEN": "t0p", "ODD": "\udce9"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DATABASE", "postgres://ada:lovelace1@host/db")
    monkeypatch.delenv("LEVEL", raising=False)
    environment = Environment(lambda: True)
    environment.open()
    yield environment
    environment.close()


def read(environment: Environment) -> dict[str, str]:
    return {name: value for name, value in environment.now().items() if name.startswith("$")}


def test_names_and_digests_of_what_is_read_by_name(watched: Environment) -> None:
    assert os.environ["MODE"] == "fast"
    assert os.getenv("LEVEL", "1") == "1"
    assert "ODD" in os.environ
    with pytest.raises(KeyError, match="NO_SUCH"):
        os.environ["NO_SUCH"]
    found = read(watched)
    assert list(found) == ["$LEVEL", "$MODE", "$NO_SUCH", "$ODD"]
    assert found["$LEVEL"] == found["$NO_SUCH"] == ""
    assert found["$MODE"] == hashlib.sha256(b"fast").hexdigest()[:12]
    assert len({found["$MODE"], found["$ODD"]}) == 2


def test_a_secret_is_recorded_by_its_name_only(watched: Environment) -> None:
    assert os.environ.get("SHOP_TOKEN") == "t0p"
    assert os.environ.get("DATABASE")
    assert read(watched) == {"$DATABASE": "secret", "$SHOP_TOKEN": "secret"}


def test_copies_read_nothing_by_name(watched: Environment) -> None:
    whole = dict(os.environ)
    for other in (
        os.environ.copy(),
        {**os.environ},
        dict(os.environ.items()),
        {name: os.environ[name] for name in os.environ},
        os.environ | {},
        copy.deepcopy(dict(os.environ)),
        dict(zip(os.environ, os.environ.values(), strict=True)),
    ):
        assert other == whole
    code = "import os, sys; sys.exit(os.environ['MODE'] != 'fast')"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert subprocess.run([sys.executable, "-c", code], env=whole, check=False).returncode == 0
    assert Path("~").expanduser() != Path("~")
    assert tempfile.gettempdir()
    assert read(watched) == {}
    # A reading by name counts right after a copy, too.
    dict(os.environ)
    os.getenv("MODE")
    assert list(read(watched)) == ["$MODE"]


def test_the_environment_stays_what_it_is(watched: Environment) -> None:
    same = os.environ
    assert isinstance(os.environ, os._Environ)
    with patch.dict(os.environ, {"MODE": "slow"}):
        code = "import os; print(os.environ['MODE'])"
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        assert told.stdout == b"slow\n"
    assert os.environ["MODE"] == "fast"
    assert os.environ.pop("MODE") == "fast"
    assert os.environ.setdefault("MODE", "new") == "new"
    del os.environ["MODE"]
    assert os.getenv("MODE") is None
    watched.close()
    assert os.environ is same
    assert type(os.environ) is os._Environ


def test_values_that_the_evaluation_sets_itself_do_not_count(watched: Environment) -> None:
    os.environ["LEVEL"] = "9"
    assert os.environ["LEVEL"] == "9"
    assert read(watched) == {"$LEVEL": ""}
    del os.environ["LEVEL"]


def test_nothing_is_read_while_an_optimizer_steps() -> None:
    listens = False
    environment = Environment(lambda: listens)
    environment.open()
    os.getenv("BEFORE")
    listens = True
    os.getenv("DURING")
    environment.close()
    os.getenv("AFTER")
    assert read(environment) == {"$DURING": ""}


def test_threads_that_copy_at_the_same_time_read_nothing(watched: Environment) -> None:
    def copies() -> None:
        for _ in range(200):
            dict(os.environ)

    threads = [threading.Thread(target=copies) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read(watched) == {}


def _in_a_pool(_: int) -> str:
    os.getenv("IN_POOL")
    return os.environ["MODE"]


def test_what_forked_processes_read_and_import_counts(watched: Environment) -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(_in_a_pool, range(4)) == ["fast"] * 4
    assert list(read(watched)) == ["$IN_POOL", "$MODE"]


def test_a_process_that_closed_its_files_writes_into_none(
    tmp_path: Path, watched: Environment
) -> None:
    pid = os.fork()
    if pid == 0:
        os.closerange(3, 256)
        for number in range(3, 256):
            os.open(tmp_path / f"{number}", os.O_WRONLY | os.O_CREAT)
        os.getenv("MODE")
        os._exit(0)
    os.waitpid(pid, 0)
    assert len(list(tmp_path.iterdir())) == 253
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 0
    assert read(watched) == {}


def test_a_full_pipe_holds_up_no_forked_process(watched: Environment) -> None:
    pid = os.fork()
    if pid == 0:
        for number in range(20_000):
            os.getenv(f"NAME_{number}")
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert len(read(watched)) > 1000


def test_what_threads_read_counts(watched: Environment) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: os.getenv(name), ("MODE", "LEVEL")))
    assert list(read(watched)) == ["$LEVEL", "$MODE"]


@pytest.mark.parametrize(
    "name",
    ["PATH", "HOME", "TERM", "COLUMNS", "LC_CTYPE", "LC_TERMINAL", "https_proxy", "XDG_DATA_HOME"],
)
def test_variables_of_machine_session_and_terminal_do_not_count(
    watched: Environment, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.getenv(name)
    assert read(watched) == {}
    # Older records have some of them.
    monkeypatch.setenv(name, "another")
    assert differences({f"${name}": "0" * 12}) == []


@pytest.mark.parametrize("name", ["LANG", "LC_ALL", "TZ", "CI", "OPENAI_BASE_URL", "HOME_PAGE"])
def test_variables_that_a_result_may_depend_on_count(watched: Environment, name: str) -> None:
    os.getenv(name)
    assert list(read(watched)) == [f"${name}"]


def test_a_set_hash_seed_counts_since_the_interpreter_reads_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    assert read(Environment(lambda: True)) == {}
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    environment = Environment(lambda: True)
    environment.open()
    environment.close()
    assert list(read(environment)) == ["$PYTHONHASHSEED"]


def test_python_platform_and_versions_of_what_is_imported(watched: Environment) -> None:
    import numpy
    import pydantic_core  # noqa: F401
    import yaml

    found = watched.now()
    assert found["python"] == platform.python_version()
    assert found["platform"] == f"{platform.system()} {platform.machine()}"
    assert found["numpy"] == numpy.__version__
    # Its module has another name than the distribution.
    assert found["pyyaml"] == yaml.__version__
    assert found["pydantic-core"] == version("pydantic_core")
    assert "hatchling" not in found
    assert differences(found) == []


def test_differences_in_a_few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = {"python": "2.7", "numpy": "1.0", "no-such": "3", "$MODE": "0" * 12}
    recorded |= {"$LEVEL": "", "$SHOP_TOKEN": "secret", "$SIZE": "0" * 12}
    monkeypatch.delenv("MODE", raising=False)
    monkeypatch.setenv("LEVEL", "1")
    monkeypatch.setenv("SHOP_TOKEN", "another")
    monkeypatch.setenv("SIZE", "2")
    assert differences(recorded) == [
        f"Python 2.7 is {platform.python_version()} here",
        f"numpy 1.0 is {version('numpy')} here",
        "no-such 3 is not here",
        "$MODE was set",
        "$LEVEL is set here",
        "$SIZE has another value here",
    ]
