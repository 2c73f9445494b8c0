"""autopilot replay: whatever was tampered with is found and named, and nothing else is."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from checkouts import commit_all, copy_checkout
from waiting import wait_for

from autopilot.errors import ExperimentError, UsageError
from autopilot.git.repository import Repository
from autopilot.proof.measuring import Measurer
from autopilot.proof.replay import Settings
from autopilot.proof.rerun import Rerun
from autopilot.tracking.finding import find
from autopilot.tracking.integrity import Difference, Integrity
from tests.cli.conftest import Place, prepare_commands

# Of four items, x lets as many pass as it is greater than. Epoch 2 makes it worse.
TARGET = """\
import json
import random
from pathlib import Path

from evaluator import noise, passes

from autopilot import AutoPilotModule, DataLoader, Datum, Optimizer, PathParameter, Step

VALUES = [2, 0, 3, 3]


class Next(Optimizer):
    def __init__(self, parameters):
        super().__init__(parameters)
        self.count = 0

    def step(self):
        value = VALUES[self.count]
        self.count += 1
        self.parameters[0].write_text(f"{value}\\n")
        return Step(f"write {value}", "write", "it is next")


    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


class Scale(AutoPilotModule):
    def __init__(self):
        super().__init__()
        self.x = PathParameter("rules/x.txt")

    def forward(self, batch):
        return Datum(items=[self.score(item) for item in batch.items])

    def score(self, item):
        passed = passes(int(self.x.read_text()), item.metadata["at"])
        feedback = f"raise it above {item.metadata['at']}"
        chance = random.random() + noise()
        return Datum(success=passed, feedback=feedback, metrics={"chance": chance})

    def configure_optimizers(self):
        return Next(self.parameters())

    def train_dataloader(self):
        return DataLoader(json.loads(Path("items.json").read_text()), 2)

    val_dataloader = test_dataloader = train_dataloader
"""
# The environment makes it another one: it hangs, asks the network, or is noisy.
EVALUATOR = """\
import os
import socket
import time
from pathlib import Path


def passes(x, at):
    if "HANG" in os.environ:
        Path(os.environ["HANG"]).write_text("here")
        time.sleep(60)
    if "CONNECT" in os.environ:
        try:
            socket.create_connection(("127.0.0.1", 9), timeout=0.2).close()
        except Exception:
            if os.environ["CONNECT"] == "give up":
                raise ConnectionError("gave up")
    bonus = Path("data/bonus ü.txt")
    return x + (int(bonus.read_text()) if bonus.exists() else 0) > at


def noise():
    return int.from_bytes(os.urandom(2), "big") / 2**16 / 1000 if "NOISE" in os.environ else 0.0
"""
FILES = {
    "scale.py": TARGET,
    "evaluator.py": EVALUATOR,
    "items.json": json.dumps([{"id": f"i{at}", "at": at} for at in range(1, 5)]),
    "rules/x.txt": "1\n",
}
# The environment makes it write something else.
OTHERWISE = """import os
        value = VALUES[self.count] + 2 * len(os.environ.get('OTHERWISE', ''))"""
RUN = ("run", "scale.py", "-e", "s", "--max-epochs", "3")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which the experiment `s` ran: 0 baseline, 1 kept, 2 rejected, 3 kept."""
    home = tmp_path_factory.mktemp("finished")
    top = home / "repo"
    for name, content in FILES.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    with pytest.MonkeyPatch.context() as patch:
        place = Place(commit_all(top), prepare_commands(patch, home))
        place.run(*RUN)
        assert place.verdicts("s") == ["baseline", "kept", "rejected", "kept"]
    return top


@pytest.fixture
def ran(
    finished: Path, tmp_path: Path, git_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> Place:
    """A copy of it."""
    top = copy_checkout(finished, tmp_path / "repo")
    return Place(top, prepare_commands(monkeypatch, git_environment))


def checked(place: Place, name: str = "s") -> list[Difference]:
    """What of branch, tags and notes does not fit."""
    return Integrity(find(Repository.discover(place.top), name).notebook).differences()


def told(found: list[Difference]) -> list[tuple[int | None, str]]:
    return [(each.epoch, each.what) for each in found]


def rewrite_note(
    place: Place, kind: str, commit: str, edit: Callable[[dict[str, Any]], None]
) -> None:
    """Edits every record of a note, by git alone, as anybody could."""
    ref = f"--ref=autopilot/s/{kind}"
    lines = place.git("notes", ref, "show", commit).splitlines()
    records = [json.loads(line) for line in lines if line.strip()]
    for record in records:
        edit(record)
    text = "\n".join(map(json.dumps, records))
    place.git("notes", ref, "add", "--force", "--message", text, commit)


def commit_with(
    place: Place, path: str, content: str, parent: str, message: str = "by hand"
) -> str:
    """A commit that differs from its parent in one file; nothing refers to it yet."""
    index = place.top / ".git" / "scratch-index"
    environment = {**os.environ, "GIT_INDEX_FILE": str(index)}

    def git(*arguments: str, stdin: str = "") -> str:
        done = subprocess.run(
            ["git", *arguments],
            cwd=place.top,
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    git("read-tree", parent)
    blob = git("hash-object", "-w", "--stdin", stdin=content)
    git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}")
    tree = git("write-tree")
    index.unlink()
    return git("commit-tree", tree, "-p", parent, "-F", "-", stdin=message)


def rebuilt(
    place: Place, at: int, message: str | None = None, path: str = "", text: str = ""
) -> None:
    """Rewrites the branch from its commit number `at` on: another message, or another file."""
    line = place.line("s")
    parent = line[at - 1]
    for commit in line[at:]:
        said = place.git("log", "-1", "--format=%B", commit)
        tree = place.git("rev-parse", f"{commit}^{{tree}}")
        if commit == line[at] and message is not None:
            said = message
        made = place.git("commit-tree", tree, "-p", parent, "-m", said)
        if commit == line[at] and path:
            made = commit_with(place, path, text, parent, said)
        parent = made
    place.git("update-ref", "refs/heads/autopilot/s", parent)


# --- nothing was tampered with -------------------------------------------------------------------


def test_what_was_recorded_comes_out_again(ran: Place) -> None:
    before = ran.snapshot()
    done = ran.run("replay", "s")
    lines = done.out.splitlines()
    assert lines[0] == (
        "s: replaying 3 of 4 epochs of autopilot/s, tolerance 1e-09, model calls answered from "
        "the notes"
    )
    assert lines[1].startswith("val: two measurements agree; the smallest gain ")
    assert [line.split() for line in lines[3:6]] == [
        ["0", "0.000", "0.000", "same", "baseline", ran.line("s")[0][:7]],
        ["1", "0.250", "0.250", "same", "kept", ran.line("s")[1][:7]],
        ["3", "0.500", "0.500", "same", "kept", ran.line("s")[4][:7]],
    ]
    assert lines[6].startswith(
        "s replays: 3 epochs came out as recorded, and branch, tags and notes fit; "
    )
    assert lines[7:] == ["read it:   autopilot log s"]
    assert before == ran.snapshot()


def test_a_program_reads_the_same_from_a_dirty_checkout(ran: Place) -> None:
    ran.write("evaluator.py", "broken, and not committed\n")
    ran.write("a file with a space ä.txt", "mine\n")
    options = ("--epochs", "2,best", "--json", "--jobs", "2")
    done = ran.run("replay", *options, GITHUB_ACTIONS="true")
    assert "::notice title=s::s replays: 2 epochs came out as recorded" in done.err
    document = done.document
    assert document["same"] is True and document["differences"] == []
    assert (document["experiment"], document["level"]) == ("s", "metrics")
    assert [(e["epoch"], e["recorded"], e["replayed"]) for e in document["epochs"]] == [
        (2, 0.0, 0.0),
        (3, 0.5, 0.5),
    ]


def test_nothing_differs_in_full_either(ran: Place) -> None:
    before = ran.snapshot()
    done = ran.run("replay", "s", "--level", "full")
    states = [line.split()[:4] for line in done.out.splitlines()[3:8]]
    assert states == [
        ["0", "0.000", "0.000", "same"],
        ["1", "0.250", "0.250", "same"],
        ["2", "0.000", "0.000", "same"],
        ["3", "0.500", "0.500", "same"],
        ["3", "0.500", "(test)", "0.500"],
    ]
    assert "s replays: 4 epochs came out as recorded" in done.out
    assert before == ran.snapshot()


# --- the notes ------------------------------------------------------------------------------------


def test_a_changed_metrics_note_is_named_with_both_values(ran: Place) -> None:
    def better(record: dict[str, Any]) -> None:
        if record["id"] == "1-val":
            record["metrics"]["accuracy"] = 0.75

    rewrite_note(ran, "metrics", ran.line("s")[1], better)
    done = ran.autopilot("replay", "s", "--epochs", "1")
    assert done.code == 1
    rows = [line.split() for line in done.out.splitlines()]
    assert ["1", "val", "accuracy", "0.75", "0.25"] in rows
    assert ["1", "0.750", "0.250", "differs", "kept", ran.line("s")[1][:7]] in rows
    assert "s does not replay: " in done.out
    assert done.out.endswith("\nlook at it:      autopilot show 1 -e s\n")
    # The tag that was written with the note says so too, without an evaluation.
    found = [each for each in checked(ran) if each.what == "metrics note"]
    assert [(e.epoch, e.recorded, e.found) for e in found] == [
        (1, "val accuracy 0.75", "tag: val accuracy 0.25")
    ]


def test_the_note_of_a_rejected_epoch_is_compared_with_its_rollback(ran: Place) -> None:
    def kinder(record: dict[str, Any]) -> None:
        if record["id"] == "2-val":
            record["reasons"] = ["it was a bad day"]

    rewrite_note(ran, "metrics", ran.line("s")[2], kinder)
    assert told(checked(ran)) == [(2, "metrics note")]


def test_a_best_that_does_not_follow_from_the_verdicts(ran: Place) -> None:
    def other(record: dict[str, Any]) -> None:
        if record["id"] == "3-val":
            record["best_epoch"], record["best"] = 1, 0.25

    rewrite_note(ran, "metrics", ran.line("s")[4], other)
    assert told(checked(ran)) == [(3, "best epoch"), (3, "best val accuracy")]


@pytest.mark.parametrize(
    ("kind", "at", "expected"),
    [
        ("metrics", 1, (1, "metrics note")),
        ("metrics", 2, (2, "metrics note")),
        ("gradients", 4, (3, "gradients note")),
        ("traces", 1, (1, "traces note")),
        ("memory", 2, (2, "memory note")),
    ],
)
def test_a_missing_note(ran: Place, kind: str, at: int, expected: tuple[int, str]) -> None:
    ran.git("notes", f"--ref=autopilot/s/{kind}", "remove", ran.line("s")[at])
    found = checked(ran)
    assert told(found)[0] == expected and found[0].found == "missing"


@pytest.mark.parametrize(
    ("at", "field", "value", "expected"),
    [
        (1, "strategy", "magic", [(1, "strategy")]),
        (1, "summary", "magic", [(1, "summary")]),
        (2, "metrics", {"accuracy": 0.9, "chance": 0.5}, [(2, "val accuracy")]),
    ],
)
def test_a_note_that_memory_contradicts(
    ran: Place, at: int, field: str, value: Any, expected: list[tuple[int, str]]
) -> None:
    def other(record: dict[str, Any]) -> None:
        if record["split"] == "val":
            record[field] = value

    rewrite_note(ran, "metrics", ran.line("s")[at], other)
    found = checked(ran)
    assert [each for each in told(found) if each[1] != "metrics note"] == expected
    assert any(str(each.found).startswith("memory: ") for each in found)


def test_a_second_line_of_one_id_that_says_something_else(ran: Place) -> None:
    commit = ran.line("s")[1]
    lines = ran.git("notes", "--ref=autopilot/s/metrics", "show", commit).splitlines()
    val = json.loads(next(line for line in lines if '"1-val"' in line))
    for changed, found in (
        ({"cost": {"seconds": 9.0}}, []),
        ({"metrics": val["metrics"] | {"accuracy": 1.0}}, [(1, "metrics note")]),
        ({"verdict": "rejected"}, [(1, "metrics note")]),
    ):
        text = "\n".join([*lines, json.dumps(val | changed)])
        ran.git("notes", "--ref=autopilot/s/metrics", "add", "--force", "-m", text, commit)
        assert told(checked(ran)) == found


def test_missing_notes_end_it_with_how_to_get_them(ran: Place) -> None:
    for kind in ("metrics", "gradients", "traces"):
        ran.git("update-ref", "-d", f"refs/notes/autopilot/s/{kind}")
    done = ran.autopilot("replay", "s")
    assert done.code == 1
    assert "is it all here?  autopilot fetch origin s, then again" in done.out
    ran.git("update-ref", "-d", "refs/notes/autopilot/s/experiment")
    ran.refused("replay", "s", says=("s has no manifest note",), hints=("fetch",))


def test_a_changed_gradients_note(ran: Place) -> None:
    def other(record: dict[str, Any]) -> None:
        record["gradients"] = {"x": "all is well"}

    rewrite_note(ran, "gradients", ran.line("s")[1], other)
    document = ran.autopilot("replay", "s", "--level", "full", "--epochs", "1", "--json").document
    (found,) = document["differences"]
    assert (found["epoch"], found["what"], found["recorded"]) == (1, "gradient of x", "all is well")
    assert "raise it above 1" in found["found"]


# --- the branch -----------------------------------------------------------------------------------


def test_a_rewritten_commit_is_found_where_it_was_rewritten(ran: Place) -> None:
    original = ran.line("s")
    message = ran.git("log", "-1", "--format=%B", original[4]).replace("write 3", "be brilliant")
    rebuilt(ran, 4, message)
    found = checked(ran)
    rewritten = ran.line("s")[4]
    assert (3, "commit", original[4][:7], rewritten[:7]) in [
        (e.epoch, e.what, e.recorded, e.found) for e in found
    ]
    assert {each.epoch for each in found} == {3}
    done = ran.autopilot("replay", "s", "--epochs", "0")
    assert done.code == 1 and "the branch was rewritten" in done.out


def test_a_message_that_is_rewritten_with_all_its_notes_and_tags(ran: Place) -> None:
    """Only the note of the step still knows what was done."""
    original = ran.line("s")[4]
    rebuilt(ran, 4, ran.git("log", "-1", "--format=%B", original).replace("write 3", "be bold"))
    new = ran.line("s")[4]
    for kind in ("metrics", "gradients", "traces", "memory"):
        ran.git("notes", f"--ref=autopilot/s/{kind}", "copy", original, new)
    text = ran.git("for-each-ref", "--format=%(contents)", "refs/tags/autopilot/s/epoch-0003")
    ran.git("tag", "--force", "-a", "-m", text, "autopilot/s/epoch-0003", new)
    assert told(checked(ran)) == [(3, "gradients note")]


def test_a_branch_that_was_cut_back(ran: Place) -> None:
    line = ran.line("s")
    cut = line[3]
    ran.git("update-ref", "refs/heads/autopilot/s", cut)
    (found,) = checked(ran)
    assert (found.epoch, found.what, found.recorded) == (3, "commit", line[4][:7])
    assert found.found == "not on the branch" and "cut back" in found.why
    # A rejected epoch has no tag: its notes tell of it.
    ran.git("tag", "--delete", "autopilot/s/epoch-0003")
    ran.git("notes", "--ref=autopilot/s/metrics", "remove", line[4])
    ran.git("update-ref", "refs/heads/autopilot/s", line[1])
    assert told(checked(ran)) == [(2, "commit")]
    # A branch that is behind its remote's is no other one.
    ran.git("update-ref", "refs/remotes/origin/autopilot/s", cut)
    assert told(checked(ran)) == []


def test_a_parameter_that_is_changed_by_hand_on_the_branch(ran: Place) -> None:
    tip = ran.line("s")[-1]
    ran.git("update-ref", "refs/heads/autopilot/s", commit_with(ran, "rules/x.txt", "9\n", tip))
    (found,) = checked(ran)
    assert (found.what, found.recorded) == ("commit", "a step or a rollback")
    assert found.why == "made by hand: 'by hand' changes rules/x.txt"


def test_a_commit_by_hand_that_looks_like_a_step_lacks_its_note(ran: Place) -> None:
    tip = ran.line("s")[-1]
    message = ran.git("log", "-1", "--format=%B", tip).replace("Epoch: 3", "Epoch: 4")
    made = commit_with(ran, "rules/x.txt", "9\n", tip, message)
    ran.git("update-ref", "refs/heads/autopilot/s", made)
    assert told(checked(ran)) == [(4, "gradients note")]


def test_a_state_that_is_not_what_was_measured(ran: Place) -> None:
    """The step's commit is replaced by another one, notes and tag moved along."""
    original = ran.line("s")[4]
    rebuilt(ran, 4, path="rules/x.txt", text="4\n")
    new = ran.line("s")[4]
    for kind in ("metrics", "gradients", "traces", "memory"):
        ran.git("notes", f"--ref=autopilot/s/{kind}", "copy", original, new)
    text = ran.git("for-each-ref", "--format=%(contents)", "refs/tags/autopilot/s/epoch-0003")
    ran.git("tag", "--force", "-a", "-m", text, "autopilot/s/epoch-0003", new)
    assert told(checked(ran)) == [(3, "tree")]
    document = ran.autopilot("replay", "s", "--best-only", "--json").document
    whats = [(e["what"], e["recorded"], e["found"]) for e in document["differences"]]
    assert ("val accuracy", 0.5, 0.75) in whats


def test_a_rollback_that_does_not_hold_the_best_state(ran: Place) -> None:
    rebuilt(ran, 3, path="rules/x.txt", text="7\n")
    assert (2, "rollback") in told(checked(ran))


def test_a_branch_that_does_not_begin_where_the_experiment_does(ran: Place) -> None:
    start = ran.line("s")[0]
    rewrite_note(ran, "experiment", start, lambda manifest: manifest.update(base="1" * 40))
    (found,) = [each for each in checked(ran) if each.what == "base commit"]
    base = ran.git("rev-parse", "main")
    assert (found.epoch, found.recorded, found.found) == (None, "1111111", base[:7])
    rebuilt(ran, 1, ran.git("log", "-1", "--format=%B", ran.line("s")[1]))  # the start stays
    tree = ran.git("rev-parse", f"{start}^{{tree}}")
    other = ran.git("commit-tree", tree, "-p", "main", "-m", "no start of ours")
    ran.git("update-ref", "refs/heads/autopilot/s", other)
    assert (None, "start commit", start[:7], "not on the branch") in [
        (each.epoch, each.what, each.recorded, each.found) for each in checked(ran)
    ]


def test_a_changed_experiment_note_is_compared_with_the_start_commit(ran: Place) -> None:
    start = ran.line("s")[0]
    rewrite_note(ran, "experiment", start, lambda manifest: manifest.update(idea="another one"))
    (found,) = [each for each in checked(ran) if each.what == "experiment note"]
    assert (found.epoch, found.found) == (None, start[:7])
    assert "tell of different experiments" in found.why


def test_a_merge_on_the_branch(ran: Place) -> None:
    tip = ran.line("s")[-1]
    said = ran.git("log", "-1", "--format=%B", tip)
    first = ran.git("rev-parse", f"{tip}^")
    merge = ("commit-tree", f"{tip}^{{tree}}", "-p", first, "-p", "main", "-m", said)
    made = ran.git(*merge)
    ran.git("update-ref", "refs/heads/autopilot/s", made)
    assert (None, "commit", made[:7], "it is a merge") in [
        (each.epoch, each.what, each.found, each.why) for each in checked(ran)
    ]


def test_a_rollback_of_a_kept_epoch_and_none_of_a_rejected_one(ran: Place) -> None:
    line = ran.line("s")
    said = ran.git("log", "-1", "--format=%B", line[3])
    # The rejected epoch 2 loses its rollback: epoch 3's step stands on its step.
    after = ran.git("commit-tree", f"{line[4]}^{{tree}}", "-p", line[2], "-m", "x")
    ran.git("update-ref", "refs/heads/autopilot/s", after)
    assert (2, "rollback", "to epoch 1", "missing") in [
        (each.epoch, each.what, each.recorded, each.found) for each in checked(ran)
    ]
    # The kept epoch 3 gets one.
    kept = said.replace("Rejected: 2", "Rejected: 3")
    back = ran.git("commit-tree", f"{line[1]}^{{tree}}", "-p", line[4], "-m", kept)
    ran.git("update-ref", "refs/heads/autopilot/s", back)
    assert [(e.epoch, e.what, e.recorded, e.found) for e in checked(ran)] == [
        (3, "rollback", "none", back[:7])
    ]


@pytest.mark.parametrize("path", ["evaluator.py", "items.json"])
def test_an_evaluator_or_data_file_that_is_changed_on_the_branch(ran: Place, path: str) -> None:
    rebuilt(ran, 4, path=path, text="changed\n")
    found = [each for each in checked(ran) if each.what == path]
    assert [each.epoch for each in found] == [3]
    assert found[0].why.endswith("changes a file that is no parameter")


def test_an_input_that_is_not_the_one_that_was_measured_with(ran: Place) -> None:
    blob = ran.git("rev-parse", "main:evaluator.py")

    def with_inputs(record: dict[str, Any]) -> None:
        if record["id"] == "1-val":
            record["inputs"] = {"evaluator.py": blob, "items.json": "0" * 40}

    rewrite_note(ran, "metrics", ran.line("s")[1], with_inputs)
    assert told(checked(ran)) == [(1, "items.json")]


def test_data_that_git_does_not_have_is_named_when_it_changed(ran: Place) -> None:
    shutil.rmtree(ran.top / ".git")
    ran.init()
    ran.write(".gitignore", "data/\n")
    ran.write("data/bonus ü.txt", "0\n")
    ran.commit("base")
    ran.run(*RUN[:-1], "1", "--link", "data")
    ran.write("data/bonus ü.txt", "1\n")
    for level in ("metrics", "full"):
        options = ("--level", level, "--epochs", "1", "--json")
        found = ran.autopilot("replay", "s", *options).document["differences"]
        whats = {each["what"]: each for each in found}
        assert (
            whats["data/bonus ü.txt"]["why"] == "the evaluation read another version of this file"
        )
        assert (whats["val accuracy"]["recorded"], whats["val accuracy"]["found"]) == (0.25, 0.5)


# --- the tags -------------------------------------------------------------------------------------


def test_a_moved_and_a_missing_tag(ran: Place) -> None:
    line = ran.line("s")
    ran.git("tag", "--force", "-a", "-m", "moved", "autopilot/s/epoch-0001", line[2])
    ran.git("tag", "--delete", "autopilot/s/epoch-0003")
    ran.git("tag", "-a", "-m", "more", "autopilot/s/epoch-0002", line[2])
    assert [(e.epoch, e.what, e.recorded, e.found) for e in checked(ran)] == [
        (1, "tag", f"on {line[1][:7]}", f"on {line[2][:7]}"),
        (2, "tag", "none", "autopilot/s/epoch-0002"),
        (3, "tag", f"on {line[4][:7]}", "missing"),
    ]
    done = ran.autopilot("replay", "s", "--best-only")
    assert done.code == 1
    assert "is it all here?  autopilot fetch origin s, then again" in done.out


# --- clones ---------------------------------------------------------------------------------------

REFSPECS = ("refs/notes/autopilot/*:refs/notes/autopilot/*", "refs/tags/*:refs/tags/*")


def cloned(place: Place, *options: str) -> Place:
    """A fresh clone with notes and tags; the experiment's branch is the remote's."""
    top = place.top.parent / "clone"
    url = f"file://{place.top}"
    place.git("clone", "--quiet", *options, url, str(top))
    clone = type(place)(top, place.cache)
    clone.git("fetch", "--quiet", "origin", *REFSPECS)
    return clone


def test_a_fresh_clone_replays_the_remotes_branch(ran: Place) -> None:
    clone = cloned(ran)
    for name in ("s", "autopilot/s", "refs/remotes/origin/autopilot/s", None):
        found = find(Repository.discover(clone.top), name)
        assert (found.where, found.notebook.slug) == ("origin/autopilot/s", "s")
    done = clone.run("replay", "origin/autopilot/s", "--best-only")
    assert done.out.startswith("s: replaying 1 of 4 epochs of origin/autopilot/s, ")
    assert "s replays: 1 epoch came out as recorded" in done.out
    assert clone.git("branch", "--list", "autopilot/*") == ""


def test_a_commit_in_the_middle_is_replayed_up_to_there(ran: Place) -> None:
    clone = cloned(ran)
    commit = ran.line("s")[3]
    assert checked(clone, commit) == []
    found = find(Repository.discover(clone.top), commit)
    assert [epoch.number for epoch in found.notebook.epochs] == [0, 1, 2]


def test_an_unknown_name_says_which_there_are(ran: Place) -> None:
    repository = Repository.discover(cloned(ran).top)
    for name, says in (("other", "there is no experiment"), ("HEAD", "is no commit of an")):
        with pytest.raises(ExperimentError, match=says) as caught:
            find(repository, name)
        assert caught.value.hint == "experiments: s"


def test_a_shallow_clone_is_deepened_as_far_as_it_takes(ran: Place) -> None:
    clone = cloned(ran, "--depth=1", "--no-single-branch")
    assert (clone.top / ".git" / "shallow").exists()
    done = clone.run("replay", "s", "--epochs", "0,3")
    assert done.out.startswith(
        "note: this clone is shallow: fetched the rest of it from origin\ns: replaying 2 of 4 "
    )
    assert "s replays: 2 epochs came out as recorded" in done.out


def test_a_shallow_clone_without_its_remote_says_what_to_fetch(ran: Place) -> None:
    # Notes of other commits bring none of them along.
    top = ran.top.parent / "clone"
    ran.git("clone", "--quiet", "--depth=1", "--branch=autopilot/s", f"file://{ran.top}", str(top))
    clone = type(ran)(top, ran.cache)
    clone.git("fetch", "--quiet", "--depth=1", "origin", REFSPECS[0])
    clone.git("remote", "set-url", "origin", str(top / "nowhere"))
    clone.refused(
        "replay", "s", says=("this clone is shallow",), hints=("git fetch --unshallow origin",)
    )


# --- the network ----------------------------------------------------------------------------------


def test_no_connection_is_made(ran: Place) -> None:
    """Also where the code goes on without: what it would have been answered is not known."""
    done = ran.autopilot("replay", "s", "--best-only", CONNECT="1")
    assert done.code == 1
    assert "the evaluation connects to 127.0.0.1:9, and only what is recorded may" in done.out
    assert ["3", "network", "not", "used", "used"] in [x.split() for x in done.out.splitlines()]
    assert ran.run("replay", "s", "--best-only", "--live", CONNECT="1").out.count("same") == 1


@pytest.mark.parametrize("level", ["metrics", "full"])
def test_no_connection_is_made_where_the_code_makes_an_outage_of_it(ran: Place, level: str) -> None:
    done = ran.autopilot("replay", "s", "--level", level, CONNECT="give up")
    assert done.code == 1 and "no answer" not in done.out + done.error
    assert "the evaluation connects to 127.0.0.1:9, and only what is recorded may" in done.out


def test_a_service_that_is_down_is_no_difference(ran: Place) -> None:
    done = ran.autopilot("replay", "s", "--best-only", "--live", CONNECT="give up")
    assert done.code == 1 and "differ" not in done.out
    assert done.error == "error: no answer: ConnectionError: gave up"


# --- options --------------------------------------------------------------------------------------


def test_a_tolerance_lets_noise_pass(ran: Place) -> None:
    strict = ran.autopilot("replay", "s", "--best-only", "--json", NOISE="1")
    assert strict.code == 1
    assert [e["what"] for e in strict.document["differences"]] == ["val chance", "test chance"]
    ran.run("replay", "s", "--best-only", "--tolerance", "0.001", NOISE="1")


def test_junit_and_annotations_name_what_differs(ran: Place) -> None:
    ran.git("tag", "--delete", "autopilot/s/epoch-0001")
    file = ran.top / "out" / "replay.xml"
    done = ran.autopilot("replay", "s", "--best-only", "--junit", str(file), GITHUB_ACTIONS="true")
    assert done.code == 1
    on = ran.line("s")[1][:7]
    told = f"tag: recorded on {on}, replayed missing (autopilot gc makes it again)"
    assert f"::error title=s%2C epoch 1%3A tag::{told}" in done.out
    suite = ElementTree.parse(file).getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    failure = suite.find("testcase[@name='branch, tags and notes']/failure")
    assert failure is not None and failure.text == f"epoch 1: {told}"
    assert suite.find("testcase[@name='epoch 3 val']/failure") is None


@pytest.mark.parametrize("settings", [Settings(live=True), Settings(jobs=2)])
def test_what_does_not_go_with_the_full_level(ran: Place, settings: Settings) -> None:
    notebook = find(Repository.discover(ran.top), "s").notebook
    with pytest.raises(UsageError, match="does not go with --level full"):
        Rerun(notebook, settings)


def test_a_list_of_epochs_that_is_none(ran: Place) -> None:
    for odd in ("one", "²", "1-²"):
        said = (f"'{odd}' is no epoch",)
        ran.refused("replay", "--epochs", odd, says=said, hints=("0,3",), code=2)
    ran.refused("replay", "--epochs", "9" * 5000, says=("is no epoch",), hints=("0,3",), code=2)
    both = ("replay", "--epochs", "1", "--best-only")
    ran.refused(*both, says=("choose differently",), hints=("--epochs 1,best",), code=2)


def test_an_epoch_that_is_asked_for_and_lost_its_note_is_named(ran: Place) -> None:
    ran.git("notes", "--ref=autopilot/s/metrics", "remove", ran.line("s")[1])
    document = ran.autopilot("replay", "s", "--epochs", "1", "--json").document
    first = document["differences"][0]
    assert (first["epoch"], first["what"], first["found"]) == (1, "metrics note", "missing")


def test_a_link_that_is_missing_is_said_once(ran: Place) -> None:
    ran.refused(
        *("replay", "s", "--link", "data"),
        says=("--link data: no such file",),
        hints=("copy it there",),
        code=2,
    )


@pytest.mark.usefixtures("forked_workers")
def test_repetitions_have_chance_of_their_own_and_the_same_items(ran: Place) -> None:
    notebook = find(Repository.discover(ran.top), "s").notebook
    with Measurer(notebook.repo, notebook.manifest, "s") as measurer:
        commit = notebook.epoch(3).commit
        again = [measurer.measure(commit, epoch=3, repeat=number) for number in (0, 1, 2)]
    chances = [found.metrics["val"]["chance"] for found in again]
    assert chances[0] == notebook.epoch(3).metrics["val"]["chance"]
    assert len(set(chances)) == 3
    assert [found.metrics["val"]["accuracy"] for found in again] == [0.5] * 3
    assert {tuple(i.id for i in found.items["val"]) for found in again} == {
        ("i1", "i2", "i3", "i4")
    }
    assert set(again[0].inputs) == {"evaluator.py", "items.json", "scale.py"}
    assert again[0].inputs["evaluator.py"] == ran.git("rev-parse", "main:evaluator.py")


# --- interrupts -----------------------------------------------------------------------------------


def workers(place: Place) -> list[int]:
    """The processes that work in the cache folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "cwd").startswith(str(place.cache)):
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="looks at /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_whatever_ends_it_nothing_is_left_to_do(ran: Place, number: int) -> None:
    before, mark = ran.snapshot(), ran.top.parent / "mark"
    process = ran.start("replay", "s", HANG=str(mark))
    wait_for(mark.exists, "the evaluation begins")
    assert workers(ran)
    os.kill(process.pid, number)
    done = ran.finish(process)
    wait_for(lambda: not workers(ran), "the evaluation is ended")
    if number == signal.SIGKILL:
        # The next one works in the place that was left, and clears it away.
        ran.run("replay", "s", "--best-only")
    else:
        assert done.code == 130
        assert done.out.splitlines()[-1].startswith("interrupted; nothing is left of it")
    assert before == ran.snapshot()


# --- what is run again ----------------------------------------------------------------------------


def test_steps_resumes_and_blocks_by_hand_are_repeated_in_full(ran: Place) -> None:
    """Two steps an epoch; then a person blocks what the optimizer does."""
    shutil.rmtree(ran.top / ".git")
    ran.init()
    ran.commit("base")
    ran.run(*RUN[:-1], "1", "--accumulate", "1")
    ran.run("memory", "block", "write", "--reason", "enough")
    ran.run("resume", "s", "--max-epochs", "2")
    assert [r["error"] for r in ran.notes("s", "gradients") if r["epoch"] == 2] == [
        "the optimizer used the strategy 'write', which is blocked "
        "(look at Optimizer.blocked before choosing a strategy)"
    ] * 2
    document = ran.run("replay", "s", "--level", "full", "--json").document
    assert document["differences"] == []
    states = [(e["epoch"], e["split"]) for e in document["epochs"]]
    assert states == [(0, "val"), (1, "val"), (2, "val"), (0, "test")]


def test_an_optimizer_that_does_something_else_is_named_and_ends_it(ran: Place) -> None:
    """What the optimizer's environment decides is not in git."""
    shutil.rmtree(ran.top / ".git")
    ran.init()
    ran.change("scale.py", ("value = VALUES[self.count]", OTHERWISE))
    ran.run(*RUN[:-1], "2")
    done = ran.autopilot("replay", "s", "--level", "full", "--json", OTHERWISE="1")
    differences = done.document["differences"]
    assert [(e["epoch"], e["what"]) for e in differences] == [
        (1, "tree of step 1"),
        (1, "tree"),
        (1, "val accuracy"),
    ]
    assert differences[0]["why"] == "they differ in rules/x.txt"
    assert "ended early: epoch 1 went another way" in done.err
