"""autopilot experiment: created, listed, shown, compared, deleted, exported, decided on."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess

import pytest
from waiting import wait_for

from tests.cli.conftest import COMMAND


@pytest.fixture
def demo(place):
    """counter.py, three epochs: x.txt goes from 1 to 4."""
    place.run("run", "counter.py", "-e", "demo", "--max-epochs", "3", "--idea", "count up")
    return place


def names(place):
    return set(place.git("for-each-ref", "--format=%(refname)").split())


# --- create ------------------------------------------------------------------------------------


def test_what_is_created_is_begun_and_not_run(place):
    options = ["--hypothesis", "more is better", "--max-epochs", "2", "--seed", "7", "-H", "size=3"]
    with place.untouched():
        done = place.run("experiment", "create", "demo", "counter.py", "--idea", "up", *options)
    base = place.git("rev-parse", "--short=7", "main")
    assert done.out.splitlines()[-2:] == [
        f"demo: created on autopilot/demo, base {base} (main)",
        "nothing was run. Go on: autopilot resume demo",
    ]
    assert place.line("demo") == [place.git("rev-parse", "autopilot/demo")]
    assert names(place) == {
        "refs/heads/main",
        "refs/heads/autopilot/demo",
        "refs/notes/autopilot/demo/experiment",
    }
    assert "autopilot" not in place.git("worktree", "list")
    manifest, created = place.notes("demo", "experiment")
    assert (manifest["idea"], manifest["hypothesis"]) == ("up", "more is better")
    assert (manifest["seed"], manifest["options"]) == (7, {"max_epochs": 2})
    assert (manifest["hparams"], manifest["target"]) == ({"size": "3"}, "counter.py")
    assert manifest["parameters"] == {"x": "x.txt"}
    assert created["name"] == "created"
    place.check_sound()

    assert place.run("status", "demo").out.splitlines()[0] == "demo: created (not run yet)"
    assert place.run("log", "demo", "--frontier").out.endswith("\nno epoch is judged yet\n")
    with place.untouched():
        place.run("resume", "demo")
    assert place.verdicts("demo") == ["baseline", "kept", "kept"]
    assert place.git("show", "autopilot/demo:x.txt") == "3"


def test_create_checks_what_run_checks(place):
    create = ("experiment", "create", "demo")
    place.refused(*create, "nope.py", says=("nope.py: no such file",), hints=("looked in",), code=2)
    place.write("x.txt", "9\n")
    place.refused(*create, "counter.py", says=("x.txt is modified",), hints=("--include-dirty",))
    place.git("restore", "x.txt")
    done = place.run(*create, "counter.py", "--json")
    assert done.document["start"] == place.git("rev-parse", "autopilot/demo")
    place.refused(*create, "counter.py", says=("demo exists already",), hints=("resume demo",))


# --- list, show, compare -----------------------------------------------------------------------


def test_list_shows_the_newest_first(demo):
    demo.run("experiment", "create", "later", "counter.py", "--idea", "later on")
    demo.run("experiment", "decide", "demo", "promote")
    rows = [line.split() for line in demo.run("experiment", "list").out.splitlines()]
    assert rows[0][:4] == ["experiment", "state", "epochs", "kept"]
    assert rows[1] == ["later", "created", "0", "0", "-", "later", "on"]
    assert rows[2] == [
        *("demo", "finished", "3", "3", "accuracy", "0.000", "->", "0.600"),
        *("promote", "count", "up"),
    ]
    found = demo.run("experiment", "list", "--json").document["experiments"]
    assert [(x["experiment"], x["decision"], x["idea"]) for x in found] == [
        ("later", None, "later on"),
        ("demo", "promote", "count up"),
    ]
    assert demo.run("experiment", "list", "-p", "shop").out.startswith(
        "no experiments of the project shop yet\n"
    )


def test_show_tells_manifest_result_decision_and_events(demo):
    demo.run("experiment", "decide", "demo", "reject", "--reason", "too slow", "--reviewer", "Bo")
    with demo.untouched():
        lines = demo.run("experiment", "show", "demo").out.splitlines()
    assert demo.run("experiment", "show").out.splitlines() == lines
    tip = demo.git("rev-parse", "--short=7", "autopilot/demo")
    assert lines[0] == "demo: finished (reached the maximum of 3 epochs)"
    facts = dict(line.split(None, 1) for line in lines[1 : lines.index("")])
    assert facts["idea"] == "count up"
    assert facts["result"] == (
        "3 epochs, 3 kept, val accuracy 0.000 -> 0.600 in epoch 3, test 0.000 -> 0.600"
    )
    assert facts["strategies"] == "up (3 of 3 kept)"
    assert facts["decision"] == f"epoch 3 ({tip}) rejected by Bo: too slow"
    events = lines[lines.index("") + 2 :]
    assert [line.split("  ")[1].strip() for line in events] == [
        "started",
        "measured",
        "stopped",
        "finished",
        "decided",
    ]
    document = demo.run("experiment", "show", "demo", "--json").document
    assert document["manifest"]["target"] == "counter.py"
    assert document["summary"]["strategies"] == {"up": {"used": 3, "kept": 3}}
    assert document["decision"]["revision"] == demo.git("rev-parse", "autopilot/demo")
    assert all(event["time"] for event in document["events"])


def test_compare_puts_two_side_by_side(demo):
    demo.run("run", "counter.py", "-e", "short", "--max-epochs", "1", "--seed", "3", "--no-cache")
    lines = demo.run("experiment", "compare", "demo", "short").out.splitlines()
    rows = {line[:21].strip(): line[21:].split() for line in lines}
    assert lines[0].split() == ["demo", "short", "change"]
    assert rows["seed"] == ["0", "3"]
    assert rows["kept"] == ["3", "1"]
    assert rows["best val accuracy"] == ["0.600", "0.200", "-0.400"]
    assert rows["best test accuracy"] == ["0.600", "0.200", "-0.400"]
    assert rows["strategy up"] == ["3", "of", "3", "kept", "1", "of", "1", "kept"]
    assert rows["evaluations"] == ["40", "20"]
    assert ["x.txt", "+1", "-1"] in [line.split() for line in lines]
    assert "measured with the same evaluator and data: 1 file" in lines
    document = demo.run("experiment", "compare", "demo", "short", "--json").document
    assert [x["best"] for x in document["experiments"]] == [0.6, 0.2]
    assert document["files"] == [{"path": "x.txt", "added": 1, "removed": 1, "binary": False}]
    done = demo.run("experiment", "compare", "demo", "demo")
    assert "the best states have the same content" in done.out.splitlines()


# --- delete ------------------------------------------------------------------------------------


def test_delete_says_what_it_removes_and_removes_that(demo):
    demo.run("run", "counter.py", "-e", "other", "--max-epochs", "1")
    demo.run("store", "snapshot", "-e", "demo")
    tip = demo.git("rev-parse", "autopilot/demo")
    others = {name for name in names(demo) if "autopilot/demo/" not in name + "/"}
    with demo.untouched():
        done = demo.run("experiment", "delete", "demo", "--yes")
    assert done.out.splitlines() == [
        "deleting demo removes",
        f"  the branch autopilot/demo, at {tip[:7]}",
        "  4 tags: autopilot/demo/epoch-0000 to epoch-0003",
        "  its notes: experiment, gradients, memory, metrics, traces",
        "  1 snapshot of your checkout",
        f"  the progress of the last epoch: {demo.top}/.git/autopilot/demo.progress.jsonl",
        "deleted demo",
        f"git keeps its commits for a while: git log {tip[:10]}",
    ]
    assert names(demo) == others
    assert demo.run("log", "other").code == 0
    demo.check_sound()
    demo.run("run", "counter.py", "-e", "demo", "--max-epochs", "1")


def test_delete_takes_the_worktree_of_an_interrupted_run(place):
    process = start_slowly(place)
    process.send_signal(signal.SIGKILL)
    place.finish(process)
    (worktree,) = [x.split()[0] for x in place.git("worktree", "list").splitlines()[1:]]
    done = place.run("experiment", "delete", "demo", "--yes")
    assert f"  the worktree {worktree}" in done.out.splitlines()
    assert not os.path.exists(worktree)
    assert len(place.git("worktree", "list").splitlines()) == 1
    assert names(place) == {"refs/heads/main"}


def test_delete_clears_the_lock_that_a_killed_git_left(demo):
    lock = demo.top / ".git/refs/notes/autopilot/demo/metrics.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text("")
    os.utime(lock, (1, 1))
    demo.run("experiment", "delete", "demo", "--yes")
    assert "autopilot/demo" not in demo.git("for-each-ref")


def test_delete_asks(demo):
    demo.refused(
        *("experiment", "delete", "demo"), says=("your confirmation",), hints=("--yes",), code=2
    )
    before = names(demo)
    for answer, gone in [("n\n", False), ("\n", False), ("y\n", True)]:
        said = typed(demo, answer, "experiment", "delete", "demo")
        assert "delete it? [y/N]" in said
        assert ("nothing was removed" in said) is not gone
        assert ("refs/heads/autopilot/demo" in names(demo)) is not gone
        assert gone or names(demo) == before


def test_delete_refuses_what_is_in_use(demo):
    demo.git("switch", "--quiet", "autopilot/demo")
    demo.refused(
        *("experiment", "delete", "demo", "--yes"),
        says=("autopilot/demo is checked out in",),
        hints=("git switch another branch",),
    )
    demo.git("switch", "--quiet", "main")
    demo.refused(
        *("experiment", "delete", "nope", "--yes"),
        says=("there is no experiment nope",),
        hints=("demo",),
    )
    process = start_slowly(demo, "running")
    try:
        done = demo.autopilot("experiment", "delete", "running", "--yes")
        assert (done.code, done.out) == (1, "")
        assert f"running is running: running is held by process {process.pid}" in done.error
    finally:
        process.send_signal(signal.SIGKILL)
        demo.finish(process)


def start_slowly(place, slug="demo"):
    """A run that is in its first epoch."""
    text = place.read("counter.py").replace(
        "    def score(self, item):\n", "    def score(self, item):\n        time.sleep(60)\n"
    )
    place.write("slow.py", f"import time\n\n{text}")
    place.commit("slow")
    process = place.start("run", "slow.py", "-e", slug)
    wait_for(lambda: place.git("for-each-ref", f"refs/heads/autopilot/{slug}"))
    return process


def typed(place, answer, *arguments):
    """What a command says to a person who answers at a terminal."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=place.top,
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        os.write(ours, answer.encode())
        return process.communicate(timeout=60)[0]
    finally:
        os.close(ours)
        os.close(theirs)


# --- export and decide -------------------------------------------------------------------------


def test_export_writes_a_folder_for_each_epoch(demo, tmp_path):
    place = tmp_path / "out" / "demo"
    with demo.untouched():
        done = demo.run("experiment", "export", "demo", str(place))
    assert done.out == f"wrote 4 epochs of demo to {place}: 22 files\n"
    assert sorted(path.name for path in place.iterdir()) == [
        *(f"epoch-000{n}" for n in range(4)),
        "events.json",
        "manifest.json",
    ]
    epoch = place / "epoch-0003"
    assert sorted(path.name for path in epoch.iterdir()) == [
        "diff.patch",
        "gradients.json",
        "memory.json",
        "metrics.json",
        "traces.jsonl",
    ]
    metrics = json.loads((epoch / "metrics.json").read_text())
    assert metrics["metrics"]["val"] == {"accuracy": 0.6}
    items = [json.loads(line) for line in (epoch / "traces.jsonl").read_text().splitlines()]
    assert [x["id"] for x in items if x["split"] == "val"] == ["i1", "i2", "i3", "i4", "i5"]
    assert [x["id"] for x in items if not x.get("success", True) and x["split"] == "val"] == [
        "i4",
        "i5",
    ]
    assert "+4\n" in (epoch / "diff.patch").read_text()
    demo.refused(
        *("experiment", "export", "demo", str(place)),
        says=("is not an empty folder",),
        hints=("new folder",),
        code=2,
    )
    document = demo.run("experiment", "export", "demo", "here", "--json").document
    assert document["folder"] == str(demo.top / "here")
    assert "epoch-0001/diff.patch" in document["files"]


def test_the_latest_decision_holds(demo):
    demo.run("experiment", "decide", "demo", "reject", "--reason", "too slow")
    with demo.untouched():
        done = demo.run("experiment", "decide", "demo", "promote", "--epoch", "1", "--json")
    commit = demo.git("rev-parse", "autopilot/demo/epoch-0001^{commit}")
    event = done.document["decision"]
    assert (event["decision"], event["epoch"], event["revision"]) == ("promote", 1, commit)
    shown = demo.run("experiment", "show", "demo", "--json").document
    assert shown["decision"] == event
    assert shown["state"] == "finished"
    demo.refused(
        *("experiment", "decide", "demo", "maybe"), says=("'maybe'",), hints=("--help",), code=2
    )
    demo.refused(
        *("experiment", "decide", "demo", "promote", "--epoch", "8"),
        says=("demo has no epoch 8",),
        hints=("0 to 3",),
    )


@pytest.mark.parametrize("command", [("resume", "--max-epochs", "9"), ("replay", "--best-only")])
def test_a_manifest_names_no_code_outside_of_the_commit(levels, command):
    """It is a note: whoever may push one would else run anything on another machine."""
    evil, mark = levels.top.parent / "evil.py", levels.top.parent / "mark"
    evil.write_text(f"open({str(mark)!r}, 'w')\n")
    ref = "--ref=autopilot/levels/experiment"
    start = levels.git("notes", ref, "list").split()[1]
    note = levels.git("notes", ref, "show", start)
    assert '"target":"levels.py"' in note
    note = note.replace('"target":"levels.py"', f'"target":"{evil}"')
    levels.git("notes", ref, "add", "-f", "-m", note, start)
    done = levels.autopilot(command[0], "levels", *command[1:])
    assert done.code and f"{evil} is outside the repository" in done.out + done.err, done
    assert not mark.exists()


def test_a_branch_of_the_users_is_no_experiment(place):
    place.git("branch", "autopilot/mine")
    tip = place.git("rev-parse", "autopilot/mine")
    refusals = [("delete", "mine", "--yes"), ("show", "mine")]
    for command in (*(("experiment", *each) for each in refusals), ("log", "mine")):
        place.refused(*command, says=("no run made it",), hints=("git branch -m",))
    for command in (("diff", "mine"), ("promote", "plan", "mine")):
        own = ("it is a branch of your own: git branch -m renames it", "an epoch is a number")
        place.refused(*command, says=("'mine' is neither",), hints=own)
    place.refused(
        *("run", "counter.py", "-e", "mine"), says=("no run made it",), hints=("another name",)
    )
    assert "mine" not in place.call("status").out
    place.call("gc")
    assert place.git("rev-parse", "autopilot/mine") == tip


@pytest.mark.parametrize(
    ("command", "whose"),
    [
        (("policy", "explain"), "your checkout, whose code is run"),
        (("policy", "check"), "of your checkout"),
        (("dataset", "list"), "the code of your checkout is run"),
        (("replay",), "This runs the code of the branch, and of a run without Python the commands"),
    ],
)
def test_help_says_whose_code_a_command_runs(demo, command, whose):
    assert whose in " ".join(demo.call(*command, "--help").out.split())
