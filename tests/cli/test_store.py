"""autopilot store: states taken, kept, forked and merged from the command line."""

from __future__ import annotations

import pytest


@pytest.fixture
def demo(place):
    """counter.py, three epochs: x.txt goes from 1 to 4."""
    place.run("run", "counter.py", "-e", "demo", "--max-epochs", "3")
    return place


def refs(place):
    return place.git("for-each-ref", "--format=%(refname) %(objectname)").splitlines()


# --- status, checkout, snapshot, diff ------------------------------------------------------------


def test_status_says_where_the_checkout_stands(demo):
    with demo.untouched():
        done = demo.run("store", "status")
    tip = demo.git("rev-parse", "--short=7", "autopilot/demo")
    assert done.out.splitlines() == [
        f"demo: 4 commits, 4 states, 4 tags, 0 snapshots, tip {tip}",
        "your checkout: the parameters are as in epoch 0",
    ]
    demo.write("x.txt", "17\n")
    assert demo.run("store", "status").out.splitlines()[1:] == [
        "your checkout: 1 file differs from the best state (x.txt)",
        "neither committed nor kept: x.txt",
        "keep it: autopilot store snapshot",
    ]
    document = demo.run("store", "status", "--json").document
    assert document["checkout"] == {
        "epochs": [],
        "differs_from_best": ["x.txt"],
        "unsaved": ["x.txt"],
    }


def test_checkout_writes_the_parameters_and_nothing_else(demo):
    demo.write("counter.py", "# being edited\n")
    demo.git("add", "counter.py")
    before = demo.checkout()
    for epoch, content in [("2", "3\n"), ("best", "4\n"), ("baseline", "1\n"), ("1", "2\n")]:
        done = demo.run("store", "checkout", epoch)
        assert demo.read("x.txt") == content
        assert done.out.splitlines()[1:] == [
            "see it:       git diff -- x.txt",
            "back to HEAD: git restore -- x.txt",
        ]
    after = demo.checkout()
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert changed == {"x.txt"}
    assert demo.run("store", "checkout", "1").out == "your checkout is at epoch 1 of demo already\n"
    demo.git("restore", "--", "x.txt")
    assert demo.read("x.txt") == "1\n"


def test_checkout_keeps_what_is_kept_nowhere(demo):
    demo.write("x.txt", "mine\n")
    demo.refused(
        *("store", "checkout", "2"),
        says=("x.txt has changes that are not committed",),
        hints=("--force", "snapshot"),
    )
    done = demo.run("store", "checkout", "2", "--force", "--json")
    assert demo.read("x.txt") == "3\n"
    kept = done.document["snapshot"]
    assert done.document["changed"] == ["x.txt"]
    assert demo.git("show", f"{kept}:x.txt") == "mine"
    done = demo.run("store", "checkout", kept[:10])
    assert done.out.splitlines()[0] == f"set to snapshot {kept[:7]} of demo: x.txt"
    assert demo.read("x.txt") == "mine\n"


def test_snapshot_prints_the_id_of_a_commit_that_git_keeps(demo):
    demo.write("x.txt", "mine\n")
    with demo.untouched():
        commit = demo.run("store", "snapshot", "-m", "before lunch").out.strip()
    assert demo.git("cat-file", "-t", commit) == "commit"
    assert demo.git("rev-parse", f"{commit}^") == demo.git("rev-parse", "autopilot/demo")
    assert f"refs/autopilot/demo/snapshots/{commit[:10]} {commit}" in refs(demo)
    document = demo.run("store", "snapshot", "--json").document
    assert (document["commit"], document["new"]) == (commit, False)
    assert document["files"] == ["x.txt"]
    demo.check_sound()


def test_diff_compares_the_checkout_or_two_states(demo):
    demo.write("x.txt", "mine\n")
    demo.write("counter.py", "# no parameter\n")
    with demo.untouched():
        patch = demo.run("store", "diff").out
        stat = demo.run("store", "diff", "1", "best", "--stat").out
        document = demo.run("store", "diff", "1", "--json").document
    assert [x for x in patch.splitlines() if x[:1] in "+-"][2:] == ["-4", "+mine"]
    assert stat.splitlines()[0] == "demo: epoch 1 -> epoch 3"
    assert document["title"] == "demo: epoch 1 -> your checkout"
    assert document["files"] == [{"path": "x.txt", "added": 1, "removed": 1, "binary": False}]
    done = demo.run("store", "diff", "2", "2")
    assert (done.out, done.err) == ("", "warning: demo: epoch 2 -> epoch 2: no difference\n")


def test_log_lists_commits_states_tags_and_snapshots(demo):
    demo.write("x.txt", "mine\n")
    kept = demo.run("store", "snapshot").out.strip()
    lines = demo.run("store", "log").out.splitlines()
    tip = demo.git("rev-parse", "--short=7", "autopilot/demo")
    assert lines[0].split() == ["commit", "state", "tag", "what"]
    assert lines[1].split()[0] == tip
    assert lines[1].split()[2:] == ["epoch-0003", "epoch", "3:", "add", "one"]
    assert lines[4].split()[2:] == ["epoch-0000", "start", "counter.py"]
    assert lines[7].startswith(kept[:7])
    document = demo.run("store", "log", "--json", "-n", "2").document
    assert document["total"] == 4
    assert [x["tag"] for x in document["revisions"]] == [
        "autopilot/demo/epoch-0003",
        "autopilot/demo/epoch-0002",
    ]
    assert [x["commit"] for x in document["snapshots"]] == [kept]
    assert "2 older commits are not shown" in demo.run("store", "log", "-n", "2").out


# --- branch and merge ----------------------------------------------------------------------------


def test_a_fork_is_resumed_from_its_epoch(demo):
    tip = demo.git("rev-parse", "autopilot/demo")
    with demo.untouched():
        done = demo.run("store", "branch", "other", "--from", "1", "-e", "demo")
    start = demo.git("rev-parse", "--short=7", "autopilot/other")
    assert done.out.splitlines() == [
        "other: forked from demo, epoch 1 (val accuracy 0.200)",
        f"start commit {start} on autopilot/other; nothing was run",
        "go on: autopilot resume other",
    ]
    assert demo.run("status", "other").out.splitlines()[0] == (
        "other: created (forked from demo, epoch 1)"
    )
    with demo.untouched():
        demo.run("resume", "other", "--max-epochs", "2")
    assert demo.git("show", "autopilot/other:x.txt") == "4"
    judged = demo.run("log", "other", "--json").document["log"]
    assert [(e["verdict"], e["value"]) for e in judged] == [
        ("baseline", 0.2),
        ("kept", 0.4),
        ("kept", 0.6),
    ]
    assert demo.git("merge-base", "autopilot/demo", "autopilot/other") == demo.git(
        "rev-parse", "autopilot/demo/epoch-0001^{commit}"
    )
    assert demo.git("rev-parse", "autopilot/demo") == tip
    assert demo.git("diff", "--stat", "autopilot/demo...autopilot/other").startswith(" x.txt")
    demo.check_sound()


def test_a_fork_needs_a_free_name_and_an_epoch(demo):
    demo.refused(
        "store", "branch", "demo", says=("the experiment demo exists already",), hints=("another",)
    )
    demo.refused(
        *("store", "branch", "other", "--from", "9"),
        says=("demo has no epoch 9",),
        hints=("0 to 3",),
    )
    demo.refused("store", "branch", "Bad Name", says=("'Bad Name'",), hints=("small",), code=2)


PAIR = """\
from autopilot import AutoPilotModule, DataLoader, Datum, Optimizer, PathParameter, Step


class Raise(Optimizer):
    file = ""

    def step(self):
        (rules,) = self.parameters
        value = int(rules.read_text(self.file)) + 1
        rules.write_text(f"{value}\\n", self.file)
        return Step(f"make {self.file} {value}", "up")


class Pair(AutoPilotModule):
    def __init__(self, file: str = "a.txt"):
        super().__init__()
        self.rules = PathParameter("rules")
        self.file = file

    def forward(self, batch):
        return Datum(items=[self.score(item) for item in batch.items])

    def score(self, item):
        total = sum(int(self.rules.read_text(name)) for name in ("a.txt", "b.txt"))
        return Datum(success=total > item.metadata["at"], feedback="raise it")

    def configure_optimizers(self):
        optimizer = Raise(self.parameters())
        optimizer.file = self.file
        return optimizer

    def train_dataloader(self):
        return DataLoader([{"id": f"i{at}", "at": at} for at in range(1, 11)], 5)

    val_dataloader = train_dataloader
"""


@pytest.fixture
def pair(place):
    """`ones` raised rules/a.txt to 3, `twos` raised rules/b.txt to 4, `more` rules/a.txt to 2."""
    place.write("pair.py", PAIR)
    place.write("rules/a.txt", "1\n")
    place.write("rules/b.txt", "1\n")
    place.commit("pair")
    for slug, file, epochs in [("ones", "a.txt", 2), ("twos", "b.txt", 3), ("more", "a.txt", 1)]:
        options = ["-H", f"file={file}", "--max-epochs", str(epochs)]
        place.run("run", "pair.py", "-e", slug, *options)
    return place


def test_a_merge_has_what_both_gained(pair):
    before = refs(pair)
    with pair.untouched():
        done = pair.run("store", "merge", "twos", "-e", "ones")
    start = pair.git("rev-parse", "--short=7", "autopilot/ones-merged-1")
    assert done.out.splitlines() == [
        "ones-merged-1: merged from ones and twos, without conflict",
        f"start commit {start} on autopilot/ones-merged-1; nothing was run",
        "go on: autopilot resume ones-merged-1",
    ]
    assert {x for x in refs(pair) if "ones-merged-1" not in x} == set(before)
    assert pair.git("show", "autopilot/ones-merged-1:rules/a.txt") == "3"
    assert pair.git("show", "autopilot/ones-merged-1:rules/b.txt") == "4"
    pair.run("resume", "ones-merged-1", "--max-epochs", "1")
    judged = pair.run("log", "ones-merged-1", "--json").document["log"]
    assert [epoch["value"] for epoch in judged] == [0.6, 0.7]
    pair.check_sound()


def test_a_merge_that_conflicts_names_the_files(pair):
    pair.refused(
        *("store", "merge", "more", "-e", "ones"),
        says=("more and ones conflict in rules/a.txt; nothing was written",),
        hints=("git diff", "rules/a.txt"),
    )
    done = pair.run("store", "merge", "ones", "-e", "ones", "--json")
    assert done.document["experiment"] is None
    done = pair.run("store", "merge", "twos", "-e", "ones", "--as", "both", "--json")
    assert done.document["merged"] == ["ones", "twos"]
    assert done.document["forked_from"] == {"experiment": "ones", "epoch": 2}


# --- promote -------------------------------------------------------------------------------------


def test_promote_writes_the_decision_and_moves_nothing(demo):
    before = [x for x in refs(demo) if "refs/notes" not in x]
    with demo.untouched():
        done = demo.run("store", "promote", "2", "--reason", "good enough")
    commit = demo.git("rev-parse", "autopilot/demo/epoch-0002^{commit}")
    assert done.out.splitlines() == [
        f"demo: epoch 2 ({commit[:7]}) promoted by Ada Byron: good enough",
        "nothing was moved. Take it over: autopilot promote execute demo --epoch 2",
    ]
    assert [x for x in refs(demo) if "refs/notes" not in x] == before
    assert demo.notes("demo", "experiment")[-1]["decision"] == "promote"
    # What it says works.
    demo.run("promote", "execute", "demo", "--epoch", "2")
    assert demo.read("x.txt") == "3\n"


# --- before the first epoch, in a project, elsewhere ---------------------------------------------


def test_an_experiment_without_epochs_has_one_state(place):
    place.run("experiment", "create", "demo", "counter.py")
    assert place.run("store", "status").out.splitlines()[0].startswith("demo: 1 commit, 1 state, ")
    assert place.run("store", "log").out.splitlines()[1].endswith("start counter.py")
    place.write("x.txt", "5\n")
    assert "+5" in place.run("store", "diff").out
    place.refused("store", "checkout", "1", says=("has no epoch 1",), hints=("no epoch",))
    place.git("restore", "x.txt")
    assert place.run("store", "checkout", "best").out.endswith("is at start of demo already\n")


def test_common_options_work_on_the_group_and_on_the_command(place):
    place.run("run", "counter.py", "-e", "demo", "-p", "shop", "--max-epochs", "1")
    top = str(place.top)
    for arguments in (
        ["store", "-C", top, "-p", "shop", "--json", "status", "-e", "demo"],
        ["-C", top, "store", "--json", "status", "-e", "demo", "-p", "shop"],
        ["-p", "shop", "--json", "store", "status", "-e", "demo", "-C", top],
    ):
        done = place.run(*arguments, cwd=place.cache)
        assert done.document["experiment"] == "shop/demo"
    done = place.run("-p", "shop", "store", "branch", "fork", "-e", "demo", "--json")
    assert done.document["experiment"] == "shop/fork"


def test_without_experiments_every_command_says_so(place):
    for command in (["status"], ["log"], ["diff"], ["snapshot"], ["checkout", "1"], ["promote"]):
        place.refused("store", *command, says=("there is no experiment in",), hints=("run",))


@pytest.mark.parametrize("group", ["store", "memory", "experiment"])
def test_every_command_has_help(place, group):
    done = place.autopilot(group)
    assert done.code == 2
    commands = [x.split()[0] for x in done.out.partition("Commands:\n")[2].splitlines()]
    assert len(commands) >= 6
    for command in commands:
        text = place.run(group, command, "--help").out
        assert f"autopilot {group} {command}" in text.partition("Options:")[0].partition("\n")[2]
