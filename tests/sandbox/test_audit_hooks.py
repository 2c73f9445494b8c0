"""autopilot.sandbox.audit_hooks: the files that an evaluation reads, and what it may not reach."""

import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from autopilot.core.parameter import PathParameter
from autopilot.errors import NetworkRefusedError
from autopilot.git.commands import run_git
from autopilot.sandbox.audit_hooks import _SPAWNED, Inputs
from autopilot.sandbox.offline import Offline
from autopilot.tracking.parameters import scope_of


@pytest.fixture
def listening(repository, tmp_path):
    """Inputs of a repository in which README.md is tracked and rules/ is a parameter."""
    made = []

    def listen(*, links=(), in_place=False):
        inputs = Inputs(repository, repository.head_commit(), links, in_place=in_place)
        inputs.scopes = [scope_of(repository, PathParameter(repository.workdir / "rules"))]
        inputs.open()
        made.append(inputs)
        return inputs

    yield listen
    for inputs in made:
        inputs.close()


def blob(repository, name):
    out = run_git(
        ["hash-object", "--no-filters", str(repository.workdir / name)], cwd=repository.workdir
    )
    return out.stdout.decode().strip()


def test_tracked_files_count_and_parameters_do_not(repository, listening):
    inputs, top = listening(), repository.workdir
    (top / "README.md").read_text()
    (top / "rules" / "a.txt").read_text()
    (top / "new.txt").write_text("x")
    (top / "new.txt").read_text()
    assert inputs.names() == {"README.md"}
    assert inputs.blobs() == {"README.md": blob(repository, "README.md")}
    (top / "README.md").write_text("other\n")
    inputs.close()
    later = listening()
    assert later.blobs(["README.md"]) == {"README.md": blob(repository, "README.md")}
    (top / "README.md").unlink()
    assert later.blobs(["README.md"]) == {"README.md": ""}


def test_what_it_writes_itself_does_not_count(repository, listening):
    inputs, readme = listening(), repository.workdir / "README.md"
    readme.read_text()
    readme.write_text("written by the evaluation\n")
    assert inputs.blobs() == {}


def test_nothing_counts_while_it_does_not_listen(repository, listening):
    inputs = listening()
    inputs.listens = False
    (repository.workdir / "README.md").read_text()
    inputs.listens = True
    assert inputs.names() == set()


def test_a_file_on_a_child_process_command_line_counts(repository, listening):
    inputs = listening()
    code = "import sys; open(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, "README.md"], cwd=repository.workdir, check=True)
    assert inputs.names() == {"README.md"}


def test_words_of_our_own_git_are_no_files_of_the_evaluation(repository, listening):
    inputs = listening()
    run_git(["log", "--format=%H", "README.md"], cwd=repository.workdir)
    assert inputs.names() == set() and inputs.absent() == ""
    subprocess.run(["git", "log", "README.md"], cwd=repository.workdir, check=True)
    assert inputs.names() == {"README.md"}
    assert f"No such file: {repository.workdir}/log" in inputs.absent()


def test_links_are_known_by_their_names_in_the_worktree(repository, listening, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    (own / "cases.json").write_text("[]")
    (repository.workdir / "data").symlink_to(own)
    inputs = listening(links=[("data", own)])
    (own / "cases.json").read_text()
    assert inputs.blobs() == {"data/cases.json": blob(repository, "data/cases.json")}


def test_in_place_data_that_was_there_before_counts(repository, listening):
    old, new = (repository.workdir / name for name in ("old.csv", "new.csv"))
    old.write_text("1")
    time.sleep(0.05)
    inputs = listening(in_place=True)
    time.sleep(0.05)
    new.write_text("2")
    inputs.hear("open", (str(old), "r", 0))
    inputs.hear("open", (str(new), "r", 0))
    assert inputs.names() == {"old.csv"}


@pytest.fixture
def offline(request):
    guard = Offline(programs=getattr(request, "param", False))
    guard.begin()
    yield guard
    guard.end()


def test_connections_and_look_ups_are_refused(offline):
    with socket.socket() as here, pytest.raises(NetworkRefusedError, match=r"192\.0\.2\.1:80"):
        here.connect(("192.0.2.1", 80))
    with pytest.raises(NetworkRefusedError, match=r"looks up example\.org"):
        socket.getaddrinfo("example.org", 443)
    assert offline.refused == ["connects to 192.0.2.1:80", "looks up example.org"]
    with pytest.raises(NetworkRefusedError, match=r"192\.0\.2\.1"):
        offline.check()


def test_what_stays_on_the_machine_is_let_through(offline, tmp_path):
    with socket.socket(socket.AF_UNIX) as here, pytest.raises(FileNotFoundError):
        here.connect(str(tmp_path / "socket"))
    assert socket.getaddrinfo("127.0.0.1", 80)
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    offline.check()


@pytest.mark.parametrize("offline", [True], indirect=True)
def test_programs_are_refused_where_that_is_asked_for(offline):
    with pytest.raises(NetworkRefusedError, match="starts"):
        subprocess.run([sys.executable, "-c", "pass"], check=True)


def test_nothing_is_refused_afterwards():
    guard = Offline()
    guard.begin()
    guard.end()
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.connect(server.getsockname())
    guard.check()


def fork():
    os.waitpid(os.fork() or os._exit(0), 0)


def temporary_files():
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "made.txt").write_text("x")
        (Path(folder) / "made.txt").read_text()


USES = {
    "outside": lambda top: (top.parent / "beside.txt").read_text(),
    "network": lambda top: socket.getaddrinfo("localhost", 80),
    "programs": lambda top: subprocess.run(["true"], check=True),
    "programs too": lambda top: fork(),
    "outputs": lambda top: (top / "made.txt").write_text("x") and (top / "made.txt").read_text(),
    "outputs too": lambda top: (top / "README.md").write_text("other\n"),
    "outside too": lambda top: sqlite3.connect(top.parent / "beside.db").close(),
    "": lambda top: (temporary_files(), (top / "README.md").read_text(), os.urandom(1)),
}


@pytest.mark.parametrize("use", USES)
def test_what_a_result_depends_on_beside_files_of_the_commit(
    repository, listening, use, monkeypatch
):
    for name in _SPAWNED:  # another test may have started processes with them
        monkeypatch.delitem(sys.modules, name, raising=False)
    (repository.workdir.parent / "beside.txt").write_text("x")
    inputs = listening()
    USES[use](repository.workdir)
    assert inputs.look() == {use.removesuffix(" too")} - {""}
    # What happens in an item's own process comes with its result.
    told, other = inputs.gathered(), listening()
    other.take_in(told)
    assert other.uses == inputs.uses


def test_all_files_of_links_are_hashed(repository, tmp_path, listening):
    data, top = tmp_path / "data", repository.workdir
    data.mkdir()
    (data / "a.txt").write_text("a\n")
    (top / "data").symlink_to(data)
    assert listening(links=[("data", data)]).linked() == {
        "data/a.txt": blob(repository, "data/a.txt")
    }
