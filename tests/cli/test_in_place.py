"""`autopilot run --in-place`: the user's own checkout is the workplace, and stays the user's."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from waiting import wait_for

if TYPE_CHECKING:
    from tests.cli.conftest import Place

RUN = ("run", "counter.py", "-e", "one", "--in-place", "--max-epochs", "4")


def _others(place: Place) -> dict[str, str]:
    """The checkout without what the run is there to change."""
    return {name: what for name, what in place.checkout().items() if name != "x.txt"}


def _waiting(place: Place, split: str, value: int) -> subprocess.Popen[str]:
    """A run that waits while it evaluates a split at a value of x, until there is a file `go`."""
    go, ready = place.top.parent / "go", place.top.parent / "ready"
    place.change(
        "counter.py",
        ("def forward(self, batch):", "def forward(self, batch):\n        self.wait()"),
        (
            "    def configure_optimizers",
            f"""    def wait(self):
        import os, time
        if self.training != {split == "train"} or self.x.read_text() != "{value}\\n":
            return
        while not os.path.exists({str(go)!r}):
            open({str(ready)!r}, "w").close()
            time.sleep(0.01)

    def configure_optimizers""",
        ),
    )
    process = place.start(*RUN)
    wait_for(lambda: ready.exists() or process.poll() is not None)
    return process


def test_the_best_state_is_left_in_the_checkout(place: Place) -> None:
    place.write("notes.txt", "mine\n")
    before = _others(place)

    done = place.run(*RUN, "--target", "0.4")

    assert place.read("x.txt") == "3\n"
    assert _others(place) == before
    assert place.git("status", "--porcelain") == " M x.txt\n?? notes.txt"
    assert "target reached" in done.out
    assert len(place.git("worktree", "list").splitlines()) == 1
    assert list(place.cache.iterdir()) == []


def test_a_rejected_epoch_is_rolled_back_in_the_checkout(place: Place) -> None:
    place.change("counter.py", ("int(x.read_text()) + 1", "int(x.read_text()) - 1"))

    place.run(*RUN)

    assert place.verdicts("one")[:2] == ["baseline", "rejected"]
    assert place.read("x.txt") == "1\n"
    assert place.git("status", "--porcelain") == ""


@pytest.mark.parametrize(("split", "value"), [("train", 3), ("val", 3), ("val", 5), ("train", 1)])
def test_an_edit_by_hand_stops_the_run_and_is_kept(place: Place, split: str, value: int) -> None:
    process = _waiting(place, split, value)
    place.write("x.txt", "7 or so\n")
    (place.top.parent / "go").touch()

    done = place.finish(process)

    assert done.code == 1, done
    assert "x.txt was edited during the run, not by the optimizer" in done.error, done
    assert "autopilot resume one" in done.hint, done
    assert place.read("x.txt") == "7 or so\n"
    # What was measured with the edit in it is no epoch.
    epoch = value - 1 if split == "val" else value
    assert len(place.judged("one")) == epoch
    place.refused(
        "resume",
        "one",
        says=("x.txt was edited by hand; the edit is kept",),
        hints=("commit it or git stash it",),
    )
    place.git("stash", "--quiet")
    place.run("resume", "one")
    assert place.verdicts("one") == ["baseline", "kept", "kept", "kept", "kept"]
    assert place.read("x.txt") == "5\n"
    place.check_sound()


def test_other_files_may_be_edited_meanwhile(place: Place) -> None:
    process = _waiting(place, "val", 3)
    place.write("notes.txt", "an idea\n")
    place.git("add", "notes.txt")
    before = _others(place)
    (place.top.parent / "go").touch()

    assert place.finish(process).code == 0
    assert place.verdicts("one") == ["baseline", "kept", "kept", "kept", "kept"]
    assert _others(place) == before


def test_a_baseline_that_fails_leaves_nothing(place: Place) -> None:
    place.change("counter.py", ("passed = int(", "passed = undefined or int("))

    place.refused(*RUN, says=("all 5 val items failed",), hints=("by hand",))


def test_another_commit_checked_out_before_a_resume(place: Place) -> None:
    place.run("run", "counter.py", "-e", "one", "--in-place", "--max-epochs", "1")
    # The files of the best state may be committed meanwhile; what measures them is the same.
    place.commit()
    place.run("resume", "one", "--max-epochs", "2")
    assert place.verdicts("one") == ["baseline", "kept", "kept"]

    place.write("notes.txt", "mine\n")
    place.commit()
    place.refused(
        *("resume", "one", "--max-epochs", "3"),
        says=("one runs in place on", "another notes.txt"),
        hints=("git switch",),
    )


def test_killed_and_resumed(place: Place) -> None:
    """At random moments; the checkout's other files, its index and HEAD are as they were."""
    place.change(
        "counter.py",
        ("def score(self, item):", "def score(self, item):\n        time.sleep(0.002)"),
        ("class Raise(", "import time\n\n\nclass Raise("),
    )
    before = _others(place)
    started = time.monotonic()
    place.run("run", "counter.py", "-e", "ref", "--in-place", "--max-epochs", "3")
    duration_s = time.monotonic() - started
    place.git("checkout", "--quiet", "x.txt")
    before = _others(place)
    chance = random.Random(3)
    for number in range(6):
        slug = f"run-{number}"
        command = ("run", "counter.py", "-e", slug, "--in-place", "--max-epochs", "3")
        process = place.start(*command)
        time.sleep(chance.uniform(0.2, duration_s))
        process.kill()
        process.communicate()
        begun = place.git("for-each-ref", f"refs/heads/autopilot/{slug}")
        done = place.run("resume", slug) if begun else place.run(*command)
        assert place.trees(slug) == place.trees("ref"), done
        assert place.verdicts(slug) == place.verdicts("ref")
        assert place.read("x.txt") == "4\n"
        place.write("x.txt", "1\n")
        place.git("update-index", "--refresh")
        assert {k: v for k, v in _others(place).items() if k != ".git/index"} == {
            k: v for k, v in before.items() if k != ".git/index"
        }
    place.check_sound()


def test_ctrl_c_leaves_a_state_that_was_committed(place: Place) -> None:
    process = _waiting(place, "val", 3)
    process.send_signal(signal.SIGINT)

    done = place.finish(process)

    assert done.code == 130, done
    assert place.read("x.txt") == "3\n"
    (place.top.parent / "go").touch()
    place.run("resume", "one")
    assert place.read("x.txt") == "5\n"
    assert place.verdicts("one") == ["baseline", "kept", "kept", "kept", "kept"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_edit_while_a_step_is_going_on_is_kept(place: Place, number: int) -> None:
    """Nobody can tell it from the step's own: the files are put back, and the edit has a ref."""
    ready = place.top.parent / "ready"
    place.change(
        "counter.py",
        (
            "x = self.parameters[0]",
            f"""x = self.parameters[0]
        import os, time
        if x.read_text() == "2\\n" and not os.path.exists({str(ready)!r}):
            open({str(ready)!r}, "w").close()
            time.sleep(60)""",
        ),
    )
    process = place.start(*RUN)
    wait_for(lambda: ready.exists() or process.poll() is not None)
    place.write("x.txt", "7 or so\n")
    process.send_signal(number)

    done = place.finish(process)
    if number == signal.SIGKILL:
        assert place.read("x.txt") == "7 or so\n"
        done = place.run("resume", "one", "--max-epochs", "2")
    else:
        assert done.code == 130, done
        assert place.read("x.txt") == "2\n"

    (note,) = [line for line in done.out.splitlines() if "a step was undone" in line]
    assert note.startswith("note: a step was undone; what the files held, edits by hand included,")
    kept = note.rpartition("git show ")[2]
    assert place.git("show", f"{kept}:x.txt") == "7 or so"
    assert place.git("for-each-ref", "--format=%(refname)", "refs/autopilot/one/")
    place.run("resume", "one", "--max-epochs", "4")
    assert place.verdicts("one") == ["baseline", "kept", "kept", "kept", "kept"]
    assert place.read("x.txt") == "5\n"


def test_code_in_the_checkout_leaves_no_bytecode(place: Place) -> None:
    place.write("rules/__init__.py", "LIMIT = 1\n")
    place.change(
        "counter.py",
        ("class Raise(", "import rules\n\n\nclass Raise("),
        ("self.size = size", 'self.size = size\n        self.r = PathParameter("rules")'),
    )

    place.run(*RUN)

    assert not list(place.top.rglob("__pycache__"))
    assert place.git("status", "--porcelain") == " M x.txt"


def test_two_runs_in_one_checkout(place: Place) -> None:
    process = _waiting(place, "val", 3)
    place.refused(
        "run",
        "counter.py",
        "-e",
        "two",
        "--in-place",
        says=("another run works in", f"process {process.pid}"),
        hints=("without --in-place",),
    )
    (place.top.parent / "go").touch()

    done = place.finish(process)

    assert "take it:   it is in your checkout: git diff, then git commit" in done.out
    assert "--squash" not in done.out
