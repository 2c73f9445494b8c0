"""Files that an evaluation writes beside the parameters, and the environment it depends on."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from autopilot.git.repository import Repository
from autopilot.git.worktrees import worktree_path

if TYPE_CHECKING:
    from tests.cli.conftest import Place

WRITES = """\
from autopilot import AutoPilotModule, DataLoader, Datum, Optimizer, PathParameter, Step
import os
import signal
from pathlib import Path


class Raise(Optimizer):
    def step(self):
        x = self.parameters[0]
        x.write_text(f"{int(x.read_text()) + 1}\\n")
        return Step("add one", "up")


class Writes(AutoPilotModule):
    def __init__(self):
        super().__init__()
        self.x = PathParameter("x.txt")

    def forward(self, batch):
        Path("mlruns/0").mkdir(parents=True, exist_ok=True)
        Path("mlruns/0/meta").write_text("m" * 1500)
        Path("mlruns/log").write_text("l" * 500)
        Path("study.db").write_text("trials")
        Path("pkg/__pycache__").mkdir(parents=True, exist_ok=True)
        Path("pkg/__pycache__/a.cpython-311.pyc").write_text("bytecode")
        x = int(self.x.read_text())
        if os.environ.get("DIE_AT") == str(x):
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        fast = os.environ.get("MODE") == "fast"
        passed = x > 2 if fast else x > 99
        return Datum(items=[Datum(success=x > 1 or passed) for _ in batch.items])

    def configure_optimizers(self):
        return Raise(self.parameters())

    def train_dataloader(self):
        return DataLoader([{"id": "i1"}, {"id": "i2"}], 2)

    val_dataloader = train_dataloader
"""
GONE = "mlruns/ (2 files, 2.0 kB), study.db (6 B)"


@pytest.fixture
def writes(place: Place) -> Place:
    """A target whose evaluation writes files, of which git ignores some, and reads $MODE."""
    place.write("writes.py", WRITES)
    place.write(".gitignore", "*.db\n")
    place.commit()
    return place


def test_what_goes_with_the_worktree_is_named(writes: Place) -> None:
    done = writes.run("run", "writes.py", "-e", "one", "--max-epochs", "1")
    (line,) = [line for line in done.out.splitlines() if "removed" in line]
    assert line == (
        f"removed with the worktree: {GONE}; a run keeps it with --keep mlruns, "
        "or shares yours: --link PATH"
    )
    done = writes.run("run", "writes.py", "-e", "two", "--max-epochs", "1", "--json")
    assert done.document["outputs"] == [
        {"path": "mlruns/", "files": 2, "bytes": 2000, "kept": ""},
        {"path": "study.db", "files": 1, "bytes": 6, "kept": ""},
    ]


def test_keep_moves_it_to_the_git_folder(writes: Place) -> None:
    kept = writes.top / ".git" / "autopilot" / "one" / "kept"
    keep = ("--keep", "mlruns", "--keep", "study.db")
    with writes.untouched():
        done = writes.run("run", "writes.py", "-e", "one", "--max-epochs", "1", *keep)
    assert f"kept: mlruns/ (2 files, 2.0 kB) in {kept / 'mlruns'}" in done.out
    assert f"kept: study.db (6 B) in {kept / 'study.db'}" in done.out
    assert "removed with" not in done.out
    assert (kept / "mlruns" / "0" / "meta").read_text() == "m" * 1500
    # What was asked for at the start holds for a resumed run; what is kept already stays.
    done = writes.run("resume", "one", "--max-epochs", "2")
    assert (kept / "study.db").is_file()
    assert (kept / "study-2.db").read_text() == "trials"


@pytest.mark.parametrize("path", ["../away", "/etc", ".git/config", "."])
def test_a_path_that_cannot_be_kept(writes: Place, path: str) -> None:
    writes.refused(
        *("run", "writes.py", "--keep", path),
        says=(f"--keep {path} is no path inside the worktree",),
        hints=("name what the evaluation writes",),
        code=2,
    )


def test_keep_in_place_is_refused(writes: Place) -> None:
    says, hints = ("--keep goes with a worktree",), ("leave out --keep or --in-place",)
    arguments = ("run", "writes.py", "--keep", "mlruns", "--in-place")
    writes.refused(*arguments, says=says, hints=hints, code=2)


def test_outputs_of_a_worktree_that_is_made_anew_and_of_one_that_gc_removes(
    writes: Place,
) -> None:
    for slug in ("one", "two"):
        done = writes.autopilot("run", "writes.py", "-e", slug, "--max-epochs", "2", DIE_AT="2")
        assert done.code in (-signal.SIGKILL, 128 + signal.SIGKILL), done
    # An agent that was killed in a step may have written anything: its worktree is made anew.
    (worktree,) = writes.cache.glob("autopilot/worktrees/*/one")
    (worktree.with_name(".one.private") / "git").mkdir(parents=True)
    done = writes.run("resume", "one", "--keep", "study.db")
    assert f"kept: study.db (6 B) in {writes.top}/.git/autopilot/one/kept/study.db" in done.out
    how = "; a run keeps it with --keep mlruns, or shares yours: --link PATH\n"
    of_killed = "removed with the worktree of the killed run: mlruns/ (2 files, 2.0 kB)"
    assert f"{of_killed}{how}" in done.out
    assert f"removed with the worktree: mlruns/ (2 files, 2.0 kB){how}" in done.out
    asked = writes.autopilot("experiment", "delete", "two")
    assert asked.code == 2
    assert f"/two, with {GONE}\n" in asked.out
    # A killed run can be resumed: gc removes its worktree once it is recorded as finished.
    (other,) = writes.cache.glob("autopilot/worktrees/*/two")
    left = other.with_name("left")
    shutil.copytree(other, left, ignore=shutil.ignore_patterns(".git"))
    writes.run("resume", "two", "--max-epochs", "2")
    assert not other.exists()
    writes.git("worktree", "add", "--quiet", "--detach", str(other), "main")
    shutil.copytree(left, other, dirs_exist_ok=True)
    shutil.rmtree(left)
    said = f"with it: {GONE}; a run keeps it with --keep mlruns, or shares yours: --link PATH"
    assert f"would remove {said}" in writes.run("gc", "--dry-run").out
    assert (other / "study.db").exists()
    done = writes.run("gc", "--json")
    (litter,) = [x for x in done.document["removed"] if x["kind"] == "worktree"]
    assert [o["path"] for o in litter["outputs"]] == ["mlruns/", "study.db"]
    assert not other.exists()


def test_a_finished_run_that_was_killed_before_its_worktree_went(writes: Place) -> None:
    writes.run("run", "writes.py", "-e", "one", "--max-epochs", "1", "--keep", "study.db")
    worktree = worktree_path(Repository.discover(writes.top), "one")
    writes.git("worktree", "add", "--quiet", "--detach", str(worktree), "main")
    (worktree / "study.db").write_text("trials")
    (worktree / "new").write_text("n")
    done = writes.run("resume", "one")
    assert "one is finished" in done.out
    assert "removed with the worktree of the killed run: new (1 B)" in done.out
    assert (writes.top / ".git" / "autopilot" / "one" / "kept" / "study-2.db").exists()
    assert len(writes.git("worktree", "list").splitlines()) == 1


def test_what_a_result_depends_on_is_recorded_once(writes: Place) -> None:
    writes.run("run", "writes.py", "-e", "one", "--max-epochs", "4", MODE="fast")
    found = [e for e in writes.notes("one", "experiment") if e.get("environment")]
    assert len(found) == 1
    environment = found[0]["environment"]
    assert environment["python"] == platform.python_version()
    assert environment["platform"] == f"{platform.system()} {platform.machine()}"
    assert environment["pygit2"]
    assert {name for name in environment if name.startswith("$")} == {"$MODE", "$DIE_AT"}
    assert environment["$DIE_AT"] == ""
    assert "fast" not in json.dumps(environment)
    assert "$MODE" in writes.run("experiment", "show", "one").out


def test_replay_and_resume_name_what_differs(writes: Place) -> None:
    writes.change("writes.py", ("x > 1 or passed", "fast or x > 1"))
    writes.run("run", "writes.py", "-e", "one", "--max-epochs", "1", MODE="fast")
    assert "not as it was measured" not in writes.run("replay", "one", MODE="fast").out
    done = writes.autopilot("replay", "one")
    assert done.code == 1
    assert "not as it was measured: $MODE was set\n" in done.out
    assert writes.autopilot("replay", "one", "--json").document["environment"] == [
        "not as it was measured: $MODE was set"
    ]
    done = writes.run("resume", "one", "--max-epochs", "2")
    assert "note: not as it was measured: $MODE was set\n" in done.out
    assert os.environ.get("MODE") is None


def test_a_resumed_run_records_only_what_is_new(writes: Place) -> None:
    writes.run("run", "writes.py", "-e", "one", "--max-epochs", "1", MODE="fast")
    writes.run("resume", "one", "--max-epochs", "2", MODE="fast")
    writes.run("resume", "one", "--max-epochs", "3")
    found = [e for e in writes.notes("one", "experiment") if e.get("environment")]
    assert [(e["epoch"], e["environment"]) for e in found[1:]] == [(3, {"$MODE": ""})]


def test_a_resume_that_fails_names_what_differs(writes: Place) -> None:
    head = "from autopilot import AutoPilotModule"
    writes.change("writes.py", (head, f'import os\nlevel = int(os.environ["LEVEL"])\n{head}'))
    writes.run("run", "writes.py", "-e", "one", "--max-epochs", "1", LEVEL="1")
    done = writes.autopilot("resume", "one", "--max-epochs", "2")
    assert done.code == 2
    assert "LEVEL" in done.error
    assert done.hint.endswith("not as it was measured: $LEVEL was set")
