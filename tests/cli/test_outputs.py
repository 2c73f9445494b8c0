"""Files that an evaluation writes beside the parameters, and the environment it depends on."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
from importlib.metadata import version
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from autopilot.git.repository import Repository
from autopilot.git.worktrees import worktree_path

if TYPE_CHECKING:
    from pathlib import Path

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
        {"path": "mlruns/", "files": 2, "bytes": 2000, "kept": "", "option": "--keep mlruns"},
        {"path": "study.db", "files": 1, "bytes": 6, "kept": "", "option": "--keep study.db"},
    ]


def test_a_tracked_file_that_evaluations_change_is_named(writes: Place) -> None:
    writes.write("größe x.txt", "0\n")
    change = 'Path("größe x.txt").write_text(f"{os.urandom(8)}")\n        x = int('
    writes.write("writes.py", WRITES.replace("x = int(", change, 1))
    writes.commit()
    what = "an evaluation changes größe x.txt: the next ones find it so, a replay does not; "
    what += "write it where git ignores it"
    done = writes.run("run", "writes.py", "-e", "one", "--max-epochs", "2")
    assert done.out.count(what) == 1
    assert what in writes.judged("one")[0]["reasons"]
    assert "an evaluation changes" not in writes.run("run", "writes.py", "--in-place").out


def test_a_path_that_cannot_be_kept(writes: Place) -> None:
    for path in ("/etc", ".git/config", "."):
        done = writes.autopilot("run", "writes.py", "--keep", path)
        assert done.code == 2
        assert f"--keep {path} is no path inside the worktree" in done.error
        assert "name what the evaluation writes" in done.hint
    says, hints = ("--keep ../away is no path inside",), ("name what the evaluation writes",)
    writes.refused("run", "writes.py", "--keep", "../away", says=says, hints=hints, code=2)


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
    asked = writes.call("experiment", "delete", "two", code=2)
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
    assert f"would remove {said}" in writes.call("gc", "--dry-run").out
    assert (other / "study.db").exists()
    done = writes.call("gc", "--json")
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


def test_what_a_result_depends_on_is_recorded_once_and_what_differs_is_named(
    writes: Place,
) -> None:
    writes.change("writes.py", ("x > 1 or passed", "fast and x > 1"))
    writes.run("run", "writes.py", "-e", "one", "--max-epochs", "2", MODE="fast")
    (found,) = [e for e in writes.notes("one", "experiment") if e.get("environment")]
    environment = found["environment"]
    assert environment["python"] == platform.python_version()
    assert environment["platform"] == f"{platform.system()} {platform.machine()}"
    assert environment["pygit2"]
    assert {name for name in environment if name.startswith("$")} == {"$MODE", "$DIE_AT"}
    assert environment["$DIE_AT"] == ""
    assert "fast" not in json.dumps(environment)
    assert "$MODE" in writes.call("experiment", "show", "one").out
    differs = "not as it was measured: $MODE was set"
    done = writes.autopilot("replay", "one")
    assert done.code == 1
    assert f"{differs}\n" in done.out
    assert writes.autopilot("replay", "one", "--json").document["environment"] == [differs]
    # A resumed run records only what is new.
    done = writes.run("resume", "one", "--max-epochs", "3", MODE="fast")
    assert "not as it was measured" not in done.out
    done = writes.run("resume", "one", "--max-epochs", "4")
    assert f"note: {differs}\n" in done.out
    found, *more = [e for e in writes.notes("one", "experiment") if e.get("environment")]
    assert [(e["epoch"], e["environment"]) for e in more] == [(4, {"$MODE": ""})]
    assert os.environ.get("MODE") is None


WRITTEN = f"removed with the worktree: {GONE}; a run keeps it with --keep mlruns, or shares yours"


def test_a_dry_run_and_a_preflight_name_what_their_item_wrote(writes: Place) -> None:
    with writes.untouched():
        for arguments in (
            ("run", "writes.py", "-e", "one", "--dry-run", "--keep", "mlruns"),
            ("optimize", "preflight", "writes.py"),
        ):
            assert WRITTEN in writes.run(*arguments).out
    document = writes.run("run", "writes.py", "--dry-run", "--json").document
    assert [o["path"] for o in document["outputs"]] == ["mlruns/", "study.db"]
    assert not (writes.top / ".git" / "autopilot" / "one").exists()


def test_an_experiment_that_is_only_created_names_what_the_import_wrote(writes: Place) -> None:
    head = "from autopilot import AutoPilotModule"
    line = "open('early.log', 'w').write('x' * 10)"
    writes.change("writes.py", (head, f"{line}\n{head}"))
    done = writes.run("experiment", "create", "one", "writes.py")
    assert (
        "removed with the worktree: early.log (10 B); a run keeps it with --keep early" in done.out
    )
    document = writes.run("experiment", "create", "two", "writes.py", "--json").document
    assert [o["path"] for o in document["outputs"]] == ["early.log"]


def test_a_target_that_fails_names_what_it_wrote_until_then(writes: Place) -> None:
    head = "from autopilot import AutoPilotModule"
    writes.change(
        "writes.py", (head, f"open('early.log', 'w').write('x' * 10)\nraise SystemError\n{head}")
    )
    named = "removed with the worktree: early.log (10 B); a run keeps it with --keep early.log"
    done = writes.autopilot("run", "writes.py", "-e", "one")
    assert done.code == 2
    assert named in done.err
    (note,) = writes.autopilot("run", "writes.py", "-e", "one", "--json").document["notes"]
    assert named in note
    assert named in writes.autopilot("optimize", "preflight", "writes.py").out


def test_an_evaluation_that_fails_at_the_baseline_names_and_keeps(writes: Place) -> None:
    writes.change("writes.py", ("Datum(success=x > 1 or passed)", "Datum()"))
    done = writes.autopilot("run", "writes.py", "-e", "one", "--keep", "*.db")
    assert done.code == 1
    kept = writes.top / ".git" / "autopilot" / "one" / "kept" / "study.db"
    assert f"kept: study.db (6 B) in {kept}" in done.err
    assert "removed with the worktree: mlruns/ (2 files, 2.0 kB)" in done.err
    assert kept.read_text() == "trials"
    done = writes.autopilot("run", "writes.py", "-e", "one", "--json")
    assert f"removed with the worktree: {GONE}; a run keeps it" in done.document["notes"][0]


def test_an_interrupted_run_and_one_in_place_say_nothing_since_nothing_goes(writes: Place) -> None:
    writes.change(
        "writes.py",
        (
            "        if os.environ.get",
            # It waits: else the run could end before the signal is looked at.
            "        if x > 1: os.kill(os.getppid(), 2); __import__('time').sleep(20)\n"
            "        if os.environ.get",
        ),
    )
    done = writes.autopilot("run", "writes.py", "-e", "one", "--max-epochs", "4")
    assert done.code == 130, done
    (worktree,) = writes.cache.glob("autopilot/worktrees/*/one")
    assert (worktree / "study.db").exists()
    assert "removed" not in done.out + done.err
    writes.change("writes.py", ("if x > 1: os.kill", "if x > 9: os.kill"))
    done = writes.run("run", "writes.py", "-e", "two", "--max-epochs", "1", "--in-place")
    assert "removed" not in done.out + done.err
    assert (writes.top / "study.db").exists()


def test_measurements_name_what_their_evaluations_wrote(writes: Place) -> None:
    writes.run("run", "writes.py", "-e", "one", "--max-epochs", "1", MODE="slow")
    writes.call("propose", "create", "one")
    for arguments in (
        ("replay", "one"),
        ("replay", "one", "--level", "full", "--json"),
        ("propose", "verify", "one"),
        ("propose", "verify", "one", "--json"),
        ("optimize", "validate", "one"),
        ("optimize", "validate", "writes.py", "--json"),
    ):
        done = writes.autopilot(*arguments, MODE="slow")
        assert "not as it was measured" not in done.out
        if "--json" in arguments:
            named = [each["path"] for each in done.document["outputs"]]
            assert named == ["mlruns/", "study.db"], arguments
        else:
            assert done.out.count(WRITTEN) == 1, (arguments, done)
    done = writes.run("trace", "collect", "one", "--now")
    assert WRITTEN in done.err
    assert json.loads(done.out.splitlines()[0])["id"] == "i1"
    assert not list(writes.cache.glob("autopilot/worktrees/*"))


def test_a_measurement_that_was_killed_is_named_by_the_next_one_and_by_gc(writes: Place) -> None:
    writes.run("run", "writes.py", "-e", "one", "--max-epochs", "1")
    writes.change("writes.py", ("success=x > 1 or passed", "success=x > 1"))
    place = writes.cache / "autopilot" / "worktrees"
    done = writes.autopilot("run", "writes.py", "-e", "two", "--max-epochs", "3", DIE_AT="2")
    (two,) = place.glob("*/two")
    killed = two.with_name(".measure-0")
    for command in (("gc", "--dry-run"), ("replay", "one")):
        if not killed.exists():
            writes.git("worktree", "add", "--quiet", "--detach", str(killed), "main")
            shutil.copytree(two, killed, ignore=shutil.ignore_patterns(".git"), dirs_exist_ok=True)
            (killed / "only.log").write_text("l" * 30)
        done = writes.autopilot(*command)
        assert "only.log (30 B)" in done.out, done


def test_what_is_kept_survives_gc_and_goes_with_the_experiment(writes: Place) -> None:
    keep = ("--keep", "mlruns", "--keep", "*.db")
    kept = writes.top / ".git" / "autopilot" / "one" / "kept"
    with writes.untouched():
        done = writes.run("run", "writes.py", "-e", "one", "--max-epochs", "1", *keep)
    assert f"kept: mlruns/ (2 files, 2.0 kB) in {kept / 'mlruns'}" in done.out
    assert f"kept: study.db (6 B) in {kept / 'study.db'}" in done.out
    assert "removed with" not in done.out
    writes.call("gc")
    assert (kept / "mlruns" / "0" / "meta").read_text() == "m" * 1500
    listed = f"mlruns/ (2 files, 2.0 kB), study.db (6 B) in {kept}"
    assert listed in writes.call("experiment", "show", "one").out
    document = writes.call("experiment", "show", "one", "--json").document
    assert [o["kept"] for o in document["kept"]] == [str(kept / "mlruns/"), str(kept / "study.db")]
    # What was asked for at the start holds for a resumed run; what is kept already stays.
    writes.run("resume", "one", "--max-epochs", "2")
    assert (kept / "study.db").is_file()
    assert (kept / "study-2.db").read_text() == "trials"
    asked = writes.call("experiment", "delete", "one", code=2)
    assert asked.code == 2
    assert f"kept from its evaluations: mlruns/ (2 files, 2.0 kB) in {kept}/mlruns" in asked.out
    assert kept.exists()
    writes.call("experiment", "delete", "one", "--yes")
    assert not kept.parent.exists()


ODD = {"tab\tname.log": 1, "a b.log": 2, "zwölf.log": 3, "two\nlines.log": 4, "-x.log": 5}


def test_odd_names_are_shown_on_one_line_and_what_is_not_there_is_said(writes: Place) -> None:
    writes.change(
        "writes.py",
        (
            'Path("study.db")',
            f'[Path(n).write_text("x" * s) for n, s in {ODD!r}.items()]\n        Path("study.db")',
        ),
    )
    keep = ("--keep", "*.log", "--keep", "mlrun", "--keep", "mlruns/9/*", "--keep", "study.db")
    done = writes.run("run", "writes.py", "-e", "one", "--max-epochs", "1", *keep)
    assert "not kept: the evaluation wrote no mlrun\n" in done.out
    assert "not kept: the evaluation wrote no mlruns/9/*\n" in done.out
    assert "removed with the worktree: mlruns/ (2 files, 2.0 kB)" in done.out
    kept = writes.top / ".git" / "autopilot" / "one" / "kept"
    assert sorted(path.name for path in kept.iterdir()) == sorted([*ODD, "study.db"])
    for shown in ("tab\\tname.log", "a b.log", "zwölf.log", "two\\nlines.log", "-x.log"):
        assert done.out.count(f"kept: {shown} (") == 1
    done = writes.run("run", "writes.py", "-e", "two", "--max-epochs", "1", "--keep", "mlruns")
    assert (
        "removed with the worktree: study.db (6 B), -x.log (5 B), two\\nlines.log (4 B)" in done.out
    )


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("x.txt", "tracked by git, so that it is no output"),
        ("writes.py", "tracked by git, so that it is no output"),
        ("data", "linked: what is written there is written to your own"),
    ],
)
def test_a_path_that_is_no_output_is_refused(writes: Place, path: str, why: str) -> None:
    (writes.top / "data").mkdir()
    arguments = ("run", "writes.py", "--link", "data", "--keep", path)
    writes.refused(*arguments, says=(f"--keep {path} is {why}",), hints=("name what",), code=2)
    assert not list(writes.cache.glob("autopilot/worktrees/*"))


POOL = """\
def in_a_process(mode):
    import yaml
    return os.getenv("IN_POOL", mode)


class Writes"""


def test_what_a_pool_reads_and_imports_is_recorded_in_place_too(writes: Place) -> None:
    writes.change(
        "writes.py",
        ("class Writes", POOL),
        (
            "        x = int(",
            "        import multiprocessing\n"
            "        with multiprocessing.get_context('fork').Pool(1) as pool:\n"
            "            pool.map(in_a_process, ['a'])\n"
            "        x = int(",
        ),
    )
    for slug, how in (("one", ()), ("two", ("--in-place",))):
        writes.run("run", "writes.py", "-e", slug, "--max-epochs", "1", *how)
        (found, *more) = [e for e in writes.notes(slug, "experiment") if e.get("environment")]
        environment = found["environment"]
        assert environment["pyyaml"] == version("pyyaml")
        assert environment["$IN_POOL"] == ""
        assert not more


def test_verify_names_what_differs_beside_what_failed(writes: Place) -> None:
    writes.change("writes.py", ("x > 1 or passed", "fast or x > 1"))
    writes.run("run", "writes.py", "-e", "one", "--max-epochs", "1", MODE="slow")
    writes.call("propose", "create", "one")
    done = writes.autopilot("propose", "verify", "one", MODE="fast")
    assert done.code == 1
    assert "note: not as it was measured: $MODE has another value here\n" in done.out
    notes = writes.autopilot("propose", "verify", "one", "--json", MODE="fast").document["notes"]
    assert notes[-1] == "not as it was measured: $MODE has another value here"


def test_a_replay_or_resume_that_fails_names_what_differs_in_junit_too(
    writes: Place, tmp_path: Path
) -> None:
    head = "from autopilot import AutoPilotModule"
    writes.change(
        "writes.py",
        ("x > 1 or passed", "fast or x > 1"),
        (head, f'import os\nlevel = os.environ["LEVEL"]\n{head}'),
    )
    writes.run("run", "writes.py", "-e", "one", "--max-epochs", "1", LEVEL="1", MODE="slow")
    page = tmp_path / "replay.xml"
    junit = ("--junit", str(page))
    done = writes.run("replay", "one", *junit, LEVEL="1", MODE="slow", TERM="vt100", COLUMNS="40")
    assert "not as it was measured" not in page.read_text() + done.out
    done = writes.autopilot("replay", "one", *junit, LEVEL="1", MODE="fast", GITHUB_ACTIONS="true")
    line = "not as it was measured: $MODE has another value here"
    assert f"\n{line}\n" in done.out
    assert f"::notice title=one::{line}\n" in done.out
    (failure,) = ElementTree.parse(page).iter("failure")
    assert str(failure.text).endswith(f"\n{line}")
    # What no epoch can be evaluated without is an error of the whole replay.
    done = writes.autopilot("replay", "one", MODE="slow")
    assert done.code, done
    assert "not as it was measured: $LEVEL was set" in done.out + done.err
    done = writes.autopilot("resume", "one", "--max-epochs", "2", MODE="slow")
    assert done.code == 2
    assert "LEVEL" in done.error
    assert done.hint.endswith("not as it was measured: $LEVEL was set")


def test_an_older_experiment_has_no_record_to_differ_from(writes: Place) -> None:
    writes.change("writes.py", ("x > 1 or passed", "fast or x > 1"))
    writes.run("run", "writes.py", "-e", "one", "--max-epochs", "1", MODE="fast")
    start = writes.git("rev-list", "--max-parents=1", "autopilot/one", "--not", "main").splitlines()
    ref = "--ref=autopilot/one/experiment"
    lines = [
        line
        for line in writes.git("notes", ref, "show", start[-1]).splitlines()
        if '"environment"' not in line
    ]
    writes.git("notes", ref, "add", "--force", "-m", "\n".join(lines), start[-1])
    done = writes.autopilot("replay", "one")
    assert (done.code, "not as it was measured" in done.out) == (1, False)
    assert "not as it was measured" not in writes.run("resume", "one", "--max-epochs", "2").out


def test_gc_moves_what_a_killed_run_was_to_keep(writes: Place) -> None:
    keep = ("--keep", "*.db")
    writes.autopilot("run", "writes.py", "-e", "one", "--max-epochs", "2", *keep, DIE_AT="2")
    (worktree,) = writes.cache.glob("autopilot/worktrees/*/one")
    writes.run("resume", "one", "--max-epochs", "2")
    # Killed between its last record and the removal of its worktree.
    writes.git("worktree", "add", "--quiet", "--detach", str(worktree), "main")
    (worktree / "study.db").write_text("more")
    (worktree / "mlruns").mkdir()
    (worktree / "mlruns" / "x").write_text("x")
    kept = writes.top / ".git" / "autopilot" / "one" / "kept"
    assert "but would keep *.db\n" in writes.call("gc", "--dry-run").out
    done = writes.call("gc")
    assert f"kept: study.db (4 B) in {kept / 'study-2.db'}" in done.out
    assert "removed with it: mlruns/ (1 B)" in done.out
    assert (kept / "study-2.db").read_text() == "more"
    assert not worktree.exists()


def test_what_cannot_be_kept_stays_in_its_worktree_and_the_result_stands(writes: Place) -> None:
    place = writes.top / ".git" / "autopilot" / "one"
    place.mkdir(parents=True)
    (place / "kept").write_text("a file is in the way")
    done = writes.run("run", "writes.py", "-e", "one", "--max-epochs", "1", "--keep", "study.db")
    (worktree,) = writes.cache.glob("autopilot/worktrees/*/one")
    why = f"cannot keep study.db: File exists; it is still in {worktree}"
    assert f"note: {why}" in done.out
    assert "best: epoch 1" in done.out
    assert (worktree / "study.db").read_text() == "trials"
    done = writes.call("gc", "--json", code=1)
    assert done.code == 1 and why.partition(";")[0] in done.error
    assert [each["kind"] for each in done.document["failed"]] == ["worktree"]
    (place / "kept").unlink()
    assert f"kept: study.db (6 B) in {place / 'kept' / 'study.db'}" in writes.call("gc").out
    assert not worktree.exists()
