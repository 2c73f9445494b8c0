"""Operations on experiments in git: snapshots, checkouts, forks, merges, exports, removals."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from autopilot.core.experiment import Experiment
from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.parameter import PathParameter
from autopilot.core.policy import Decision
from autopilot.core.records.record import Lesson
from autopilot.errors import (
    ExperimentError,
    LockHeldError,
    ParameterError,
    RepositoryError,
    SlugError,
    UsageError,
)
from autopilot.git.commands import run_git
from autopilot.git.locks import ExclusiveLock
from autopilot.git.repository import Repository
from autopilot.git.worktrees import add_worktree, remove_worktree
from autopilot.tracking import GitMemory, GitStore
from autopilot.tracking.callbacks import export
from autopilot.tracking.checkout import Checkout, find_state, snapshots
from autopilot.tracking.holding import (
    decide,
    fork,
    memory_of,
    memory_of_all,
    memory_to_change,
    merge,
)
from autopilot.tracking.layout import Layout
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.upkeep import plan_removal, remove

EXECUTABLE = 0o755


@pytest.fixture
def top(repository):
    """The user's checkout: rules/a.txt, rules/b.txt of ten lines, and a file that is no rule."""
    top = Path(repository.workdir)
    (top / "rules" / "b.txt").write_text("".join(f"{n}\n" for n in range(10)))
    (top / "rules" / "notes.md").write_text("not a parameter\n")
    (top / ".gitignore").write_text("*.log.txt\n")
    git(top, "add", "--all")
    git(top, "commit", "--quiet", "--message=rules")
    return top


def git(top, *arguments, **options):
    return run_git(list(arguments), cwd=top, **options).stdout.decode().rstrip("\n")


class Write(Optimizer):
    """Writes files; None removes one."""

    files = {}  # noqa: RUF012

    def step(self):
        (rules,) = self.parameters
        for name, text in self.files.items():
            if text is None:
                (rules.root / name).unlink()
            else:
                (rules.root / name).write_bytes(text.encode())
        return Step(f"write {', '.join(self.files)}", "write")


def make(top, slug="demo", epochs=(), baseline=0.25):
    """An experiment in a worktree of its own; an epoch is files and a value."""
    user = Repository.discover(top)
    place = top.parent / "worktrees" / slug
    repo = add_worktree(user, place, user.head_commit())
    store = GitStore(slug, repo.workdir, in_place=False)
    rules = PathParameter(repo.workdir / "rules", "*.txt")
    experiment = Experiment(store, GitMemory(store))
    experiment.open([rules])
    experiment.on_epoch_complete(0, val(baseline), Decision("baseline", ("measured",)))
    optimizer, best = Write([rules]), baseline
    for number, (files, value) in enumerate(epochs, 1):
        optimizer.files = files
        experiment.commit_step(optimizer, number, 1, optimizer.step())
        kept = value > best
        best = max(best, value)
        verdict = Decision("kept" if kept else "rejected", (f"it is {value}",))
        experiment.on_epoch_complete(number, val(value), verdict)
    experiment.on_loop_complete("stopped", "enough")
    experiment.close()
    remove_worktree(user, place)
    return Notebook(user, slug)


def val(value):
    return {"val": {"accuracy": value}}


def again(notebook):
    return Notebook(Repository.discover(notebook.repo.workdir), notebook.slug)


class Untouched:
    """HEAD, index and the user's files, before and after."""

    def __init__(self, top):
        self.top = top
        self.before = self.look()

    def look(self):
        files = {
            path.relative_to(self.top).as_posix(): (path.stat().st_mode, path.read_bytes())
            for path in self.top.rglob("*")
            if path.is_file() and ".git" not in path.relative_to(self.top).parts
        }
        head = (self.top / ".git" / "HEAD").read_text(), git(self.top, "rev-parse", "HEAD")
        return files, head, (self.top / ".git" / "index").read_bytes()

    def check(self, *, but_files=False):
        after = self.look()
        assert after[1:] == self.before[1:]
        assert but_files or after == self.before


@pytest.fixture
def demo(top):
    """Five epochs; the second and the fourth are rejected."""
    epochs = [
        ({"a.txt": "a1\n"}, 0.5),
        ({"a.txt": "a2\n", "c.txt": "new\n"}, 0.3),
        ({"a.txt": "a3\n", "b.txt": None}, 0.75),
        ({"a.txt": "a4\n"}, 0.5),
        ({"c.txt": "c5\r\n"}, 0.875),
    ]
    return make(top, epochs=epochs)


def rules(top):
    return {path.name: path.read_bytes() for path in (top / "rules").iterdir()}


# --- snapshots ---------------------------------------------------------------------------------


def test_a_snapshot_keeps_the_parameters_and_touches_nothing(top, demo):
    (top / "rules" / "a.txt").write_text("mine\n")
    (top / "rules" / "new.txt").write_text("untracked\n")
    (top / "rules" / "run.log.txt").write_text("ignored\n")
    (top / "rules" / "notes.md").write_text("edited, and no parameter\n")
    git(top, "add", "rules/notes.md")
    untouched, tip = Untouched(top), demo.tip

    commit, is_new = Checkout(demo).snapshot("before lunch")
    assert is_new
    untouched.check()
    assert git(top, "rev-parse", "autopilot/demo") == tip
    assert git(top, "rev-parse", f"{commit}^") == tip
    listed = git(top, "ls-tree", "--name-only", commit, "rules/").split()
    assert listed == ["rules/a.txt", "rules/b.txt", "rules/new.txt", "rules/notes.md"]
    assert git(top, "show", f"{commit}:rules/a.txt") == "mine"
    assert git(top, "show", f"{commit}:rules/notes.md") == "not a parameter"
    assert "before lunch" in git(top, "log", "-1", "--format=%b", commit)
    assert git(top, "fsck", "--strict", "--no-dangling") == ""


def test_a_snapshot_survives_garbage_collection_and_is_kept_once(top, demo):
    (top / "rules" / "a.txt").write_text("mine\n")
    commit, _ = Checkout(demo).snapshot()
    assert Checkout(again(demo)).snapshot() == (commit, False)
    git(top, "gc", "--quiet", "--prune=now")
    assert [found.id for found in snapshots(again(demo))] == [commit]
    assert find_state(again(demo), commit[:8]).commit == commit


# --- checkouts ---------------------------------------------------------------------------------


def test_a_checkout_is_exact_and_writes_only_parameters(top, demo):
    (top / "rules" / "notes.md").write_text("edited, and no parameter\n")
    (top / "README.md").write_text("edited\n")
    (top / "rules" / "run.log.txt").write_text("ignored\n")
    untouched, others = Untouched(top), {"notes.md", "run.log.txt"}
    expected = {
        0: {"a.txt": b"a\n", "b.txt": b"".join(b"%d\n" % n for n in range(10))},
        2: {"a.txt": b"a2\n", "b.txt": b"".join(b"%d\n" % n for n in range(10)), "c.txt": b"new\n"},
        3: {"a.txt": b"a3\n"},
        5: {"a.txt": b"a3\n", "c.txt": b"c5\r\n"},
    }
    for epoch in (5, 3, 2, 0, 5):
        changed, kept = Checkout(demo).set_to(demo.after(epoch))
        assert changed
        assert kept == ""
        found = {name: text for name, text in rules(top).items() if name not in others}
        assert found == expected[epoch]
        assert epoch in [state.epoch for state in Checkout(demo).is_at()]
        untouched.check(but_files=True)
    assert rules(top)["notes.md"] == b"edited, and no parameter\n"
    assert (top / "README.md").read_text() == "edited\n"
    assert Checkout(demo).set_to(demo.after(5)) == ([], "")


def test_what_is_kept_nowhere_is_not_replaced(top, demo):
    (top / "rules" / "a.txt").write_text("mine\n")
    (top / "rules" / "x.txt").write_text("untracked\n")
    untouched = Untouched(top)
    with pytest.raises(ParameterError, match=r"rules/a\.txt has changes that are not committed \("):
        Checkout(demo).set_to(demo.after(3))
    untouched.check()

    changed, kept = Checkout(demo).set_to(demo.after(3), force=True)
    assert changed == ["rules/a.txt", "rules/b.txt", "rules/x.txt"]
    assert set(rules(top)) == {"a.txt", "notes.md"}
    Checkout(again(demo)).set_to(find_state(again(demo), kept).commit)
    assert rules(top)["a.txt"] == b"mine\n"
    assert rules(top)["x.txt"] == b"untracked\n"


def test_a_file_that_was_deleted_by_hand_comes_back(top, demo):
    (top / "rules" / "a.txt").unlink()
    assert Checkout(demo).unsaved() == []
    Checkout(demo).set_to(demo.after(1))
    assert rules(top)["a.txt"] == b"a1\n"


def test_modes_and_links_are_content(top):
    (top / "rules" / "run.txt").write_text("run\n")
    (top / "rules" / "run.txt").chmod(EXECUTABLE)
    (top / "rules" / "link.txt").symlink_to("a.txt")
    git(top, "add", "--all")
    git(top, "commit", "--quiet", "--message=special")
    notebook = make(top, "special", [({"a.txt": "a1\n"}, 0.5)])
    (top / "rules" / "run.txt").chmod(0o644)
    (top / "rules" / "link.txt").unlink()
    (top / "rules" / "link.txt").write_text("a file now\n")
    assert Checkout(notebook).unsaved() == ["rules/link.txt", "rules/run.txt"]
    Checkout(notebook).set_to(notebook.after(1), force=True)
    assert os.access(top / "rules" / "run.txt", os.X_OK)
    assert (top / "rules" / "link.txt").is_symlink()


def test_a_state_is_an_epoch_or_a_snapshot(top, demo):
    assert find_state(demo, "best").epoch == 5
    assert find_state(demo, "2").title == "epoch 2"
    assert find_state(demo, "autopilot/demo/epoch-0003").epoch == 3
    with pytest.raises(ExperimentError, match="has no epoch 9"):
        find_state(demo, "9")
    with pytest.raises(ExperimentError, match="'abcdef' is no epoch of demo"):
        find_state(demo, "abcdef")


# --- forks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("epoch", [0, 2, 3, 5])
def test_a_fork_starts_from_any_epochs_state(top, demo, epoch):
    untouched, tip = Untouched(top), demo.tip
    made = fork(demo, epoch, "other", idea="another way")
    untouched.check()
    tree = git(top, "rev-parse", f"{demo.after(epoch)}^{{tree}}")
    assert git(top, "rev-parse", "autopilot/other^{tree}") == tree
    assert git(top, "rev-parse", "autopilot/other^") == demo.after(epoch) == made.base
    assert git(top, "rev-parse", "autopilot/demo") == tip
    notebook = Notebook(demo.repo, "other")
    assert notebook.start == made.start
    assert notebook.manifest.forked_from == f"demo@{epoch}"
    assert notebook.manifest.idea == "another way"
    assert notebook.manifest.patterns == {"rules": "*.txt"} == demo.manifest.patterns
    assert [event.name for event in notebook.events] == ["created"]
    assert notebook.status.state == "created"
    assert notebook.epochs == []
    assert f"Forked from: demo epoch {epoch}" in git(top, "log", "-1", "--format=%b", made.start)
    assert git(top, "fsck", "--strict", "--no-dangling") == ""


def test_a_fork_goes_on_as_an_experiment_of_its_own(top, demo):
    made = fork(demo, 3, "other")
    place = add_worktree(demo.repo, top.parent / "goes-on", made.base)
    store = GitStore("other", place.workdir, in_place=False)
    parameter = PathParameter(place.workdir / "rules", "*.txt")
    experiment = Experiment(store, GitMemory(store))
    experiment.open([parameter])
    assert experiment.last_epoch == -1
    assert experiment.memory.lessons == []
    assert parameter.files() == ["a.txt"]
    experiment.on_epoch_complete(0, val(0.75), Decision("baseline", ()))
    optimizer = Write([parameter])
    optimizer.files = {"d.txt": "d\n"}
    experiment.commit_step(optimizer, 1, 1, optimizer.step())
    experiment.on_epoch_complete(1, val(0.9), Decision("kept", ()))
    experiment.close()
    found = Notebook(demo.repo, "other")
    assert [epoch.verdict for epoch in found.epochs] == ["baseline", "kept"]
    assert found.manifest.base_branch == "autopilot/demo"
    assert git(top, "diff", "--name-only", "autopilot/demo...autopilot/other") == "rules/d.txt"
    assert len(again(demo).epochs) == 6


def test_a_name_that_cannot_be_had_writes_nothing(top, demo):
    before = git(top, "for-each-ref")
    for slug, error, said in [
        ("demo", ExperimentError, "the experiment demo exists already"),
        ("demo/sub", SlugError, "'autopilot/demo/sub' cannot be created"),
        ("Big Name", SlugError, "cannot be an experiment's name"),
    ]:
        with pytest.raises(error, match=said):
            fork(demo, 1, slug)
    with pytest.raises(ExperimentError, match="demo has no epoch 7"):
        fork(demo, 7, "other")
    with (
        ExclusiveLock(Layout("other").lock(demo.repo)),
        pytest.raises(LockHeldError, match="the experiment other is running"),
    ):
        fork(demo, 1, "other")
    assert git(top, "for-each-ref") == before


# --- merges ------------------------------------------------------------------------------------


def lines(*, first="0", last="9"):
    return "".join(f"{n}\n" for n in [first, *range(1, 9), last])


def test_a_merge_is_gits_three_way_merge_of_the_best_states(top):
    ours = make(top, "ours", [({"b.txt": lines(first="ours")}, 0.5), ({"b.txt": "bad\n"}, 0.1)])
    theirs = make(top, "theirs", [({"b.txt": lines(last="theirs"), "c.txt": "c\n"}, 0.5)])
    untouched = Untouched(top)
    made = merge(ours, theirs, "both")
    untouched.check()
    assert git(top, "show", "autopilot/both:rules/b.txt") + "\n" == lines(
        first="ours", last="theirs"
    )
    assert git(top, "show", "autopilot/both:rules/c.txt") == "c"
    by_git = git(top, "merge-tree", "--write-tree", ours.after(1), theirs.after(1))
    assert git(top, "rev-parse", f"{made.start}^{{tree}}") == by_git
    assert git(top, "rev-parse", f"{made.base}^1", f"{made.base}^2").split() == [
        ours.after(1),
        theirs.after(1),
    ]
    found = Notebook(ours.repo, "both")
    assert (found.manifest.forked_from, found.manifest.merged_with) == ("ours@1", "theirs@1")
    assert [commit.id for commit in found.commits] == [made.start]
    assert git(top, "fsck", "--strict", "--no-dangling") == ""


def test_conflicts_are_named_and_nothing_is_written(top):
    ours = make(top, "ours", [({"a.txt": "ours\n", "b.txt": lines(first="ours")}, 0.5)])
    theirs = make(top, "theirs", [({"a.txt": "theirs\n", "b.txt": None}, 0.5)])
    before, objects = git(top, "for-each-ref"), git(top, "count-objects")
    with pytest.raises(
        ExperimentError, match=r"conflict in rules/a\.txt, rules/b\.txt; nothing was written"
    ):
        merge(ours, theirs, "both")
    assert git(top, "for-each-ref") == before
    assert git(top, "count-objects") == objects


def test_what_is_there_already_is_not_merged(top, demo):
    made = fork(demo, 5, "other")
    assert made.start
    other = make(top, "nothing")
    assert merge(demo, other, "both") is None
    with pytest.raises(ExperimentError, match="other has no judged epoch yet"):
        merge(demo, Notebook(demo.repo, "other"), "both")
    assert "refs/heads/autopilot/both" not in git(top, "for-each-ref")


# --- removal -----------------------------------------------------------------------------------


def test_a_removal_takes_exactly_what_belongs_to_it(top, demo):
    make(top, "demo-2", [({"a.txt": "x\n"}, 0.5)])
    made = fork(demo, 3, "child")
    (top / "rules" / "a.txt").write_text("mine\n")
    Checkout(demo).snapshot()
    for name in ("autopilot-review/demo", "autopilot-review/demo-revert", "mine"):
        git(top, "branch", name, "autopilot/demo")
    # An experiment that is named so has its own.
    git(top, "branch", "autopilot-review/demo-2-revert", "autopilot/demo-2")
    make(top, "demo-2-revert", [({"a.txt": "x\n"}, 0.5)])
    page = Layout("demo").report(demo.repo)
    page.parent.mkdir(parents=True)
    page.write_text("<html>")
    before = set(git(top, "for-each-ref", "--format=%(refname)").split())
    untouched = Untouched(top)

    found = plan_removal(demo.repo, "demo")
    assert set(git(top, "for-each-ref", "--format=%(refname)").split()) == before
    assert sorted(name.rpartition("/")[2] for name in found.tags) == [
        f"epoch-000{n}" for n in (0, 1, 3, 5)
    ]
    remove(demo.repo, found)
    after = set(git(top, "for-each-ref", "--format=%(refname)").split())
    assert before - after == set(found.refs)
    assert after == {
        "refs/heads/main",
        "refs/heads/mine",
        *(name for name in before if "demo-2" in name or "child" in name),
    }
    untouched.check()
    assert not list((top / ".git" / "autopilot").glob("demo.progress*")) and not page.exists()
    remove(demo.repo, plan_removal(demo.repo, "demo-2"))
    assert git(top, "branch", "--list", "autopilot-review/*").split() == [
        "autopilot-review/demo-2-revert"
    ]
    # A fork keeps what it comes from.
    git(top, "gc", "--quiet", "--prune=now")
    assert Notebook(demo.repo, "child").start == made.start
    assert git(top, "fsck", "--strict", "--no-dangling") == ""
    with pytest.raises(ExperimentError, match="there is no experiment demo"):
        plan_removal(demo.repo, "demo")
    assert make(top, "demo").epochs


def test_a_running_or_checked_out_experiment_is_not_removed(top, demo):
    before = git(top, "for-each-ref")
    found = plan_removal(demo.repo, "demo")
    with ExclusiveLock(Layout("demo").lock(demo.repo)):
        for refused in (lambda: plan_removal(demo.repo, "demo"), lambda: remove(demo.repo, found)):
            with pytest.raises(LockHeldError, match="the experiment demo is running"):
                refused()
    git(top, "switch", "--quiet", "autopilot/demo")
    with pytest.raises(RepositoryError, match="autopilot/demo is checked out in"):
        remove(demo.repo, found)
    assert git(top, "for-each-ref") == before


def test_an_experiment_that_changed_meanwhile_is_not_removed(top, demo):
    found = plan_removal(demo.repo, "demo")
    decide(demo.repo, "demo", "promote")
    before = git(top, "for-each-ref")
    with pytest.raises(ExperimentError, match="demo was changed meanwhile; nothing was removed"):
        remove(demo.repo, found)
    assert git(top, "for-each-ref") == before


def test_what_a_deleted_branch_left_is_removed(top, demo):
    git(top, "branch", "-D", "autopilot/demo")
    found = plan_removal(demo.repo, "demo")
    assert found.branch == {}
    remove(demo.repo, found)
    assert git(top, "for-each-ref", "--format=%(refname)") == "refs/heads/main"


# --- export ------------------------------------------------------------------------------------


def test_an_export_has_what_the_notes_have(top, demo, tmp_path):
    decide(demo.repo, "demo", "promote", reason="better", reviewer="Charles")
    place = tmp_path / "out"
    written = export(again(demo), place)
    assert len(written) == len([p for p in place.rglob("*") if p.is_file()]) == 2 + 6 * 5
    assert json.loads((place / "manifest.json").read_text())["parameters"] == {"rules": "rules"}
    events = json.loads((place / "events.json").read_text())
    assert [event["name"] for event in events] == ["started", "stopped", "decided"]
    assert (events[2]["decision"], events[2]["reviewer"]) == ("promote", "Charles")

    metrics = json.loads((place / "epoch-0003" / "metrics.json").read_text())
    assert (metrics["epoch"], metrics["verdict"]) == (3, "kept")
    assert metrics["metrics"] == {"val": {"accuracy": 0.75}}
    assert metrics["tag"] == "autopilot/demo/epoch-0003"
    assert json.loads((place / "epoch-0002" / "metrics.json").read_text())["tag"] is None
    (step,) = json.loads((place / "epoch-0003" / "gradients.json").read_text())
    assert (step["strategy"], step["commit"]) == ("write", demo.after(3))
    (lesson,) = json.loads((place / "epoch-0002" / "memory.json").read_text())
    assert (lesson["outcome"], lesson["reason"]) == ("rejected", "it is 0.3")

    # Each patch applies to the epoch's predecessor and gives the epoch.
    work = tmp_path / "work"
    git(top, "worktree", "add", "--quiet", "--detach", str(work), demo.before(3))
    git(work, "apply", str(place / "epoch-0003" / "diff.patch"))
    assert rules(work)["a.txt"] == b"a3\n"
    assert "b.txt" not in rules(work)
    assert (place / "epoch-0000" / "diff.patch").read_bytes() == b""


def test_numbers_that_json_lacks_are_strings(top, tmp_path):
    notebook = make(top, "odd", [({"a.txt": "a1\n"}, math.nan)])
    export(notebook, tmp_path / "out")
    metrics = json.loads((tmp_path / "out" / "epoch-0001" / "metrics.json").read_text())
    assert metrics["metrics"] == {"val": {"accuracy": "NaN"}}


def test_an_export_never_writes_among_other_files(demo, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(UsageError, match="is not an empty folder"):
        export(demo, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


# --- decisions ---------------------------------------------------------------------------------


def test_a_decision_is_an_event_on_the_start_commit(top, demo):
    before = {x for x in git(top, "for-each-ref").splitlines() if "/notes/" not in x}
    event = decide(demo.repo, "demo", "reject", epoch="3", reason="too slow")
    assert {x for x in git(top, "for-each-ref").splitlines() if "/notes/" not in x} == before
    noted = git(top, "notes", "--ref=autopilot/demo/experiment", "show", demo.start)
    last = json.loads(noted.splitlines()[-1])
    assert last["decision"] == "reject"
    assert (last["reviewer"], last["detail"]) == ("Ada Byron", "too slow")
    assert (last["epoch"], last["revision"]) == (3, demo.after(3))
    assert again(demo).summary.decision == event
    assert again(demo).status.state == "stopped"
    with pytest.raises(ExperimentError, match="has no epoch 8"):
        decide(demo.repo, "demo", "promote", epoch="8")
    with (
        ExclusiveLock(Layout("demo").lock(demo.repo)),
        pytest.raises(LockHeldError, match="the experiment demo is running"),
    ):
        decide(demo.repo, "demo", "promote")


def test_a_summary_from_the_notes_is_that_of_the_experiment(top, demo):
    summary = demo.summary
    assert (summary.epochs, summary.kept, summary.best_epoch) == (5, 3, 5)
    assert (summary.baseline, summary.best, summary.gain) == (0.25, 0.875, 0.625)
    assert (summary.strategies["write"].used, summary.strategies["write"].kept) == (5, 3)
    assert summary.ended == "stopped"


# --- memory ------------------------------------------------------------------------------------


def reopened(top, slug="demo"):
    """The experiment as a resumed run has it."""
    user = Repository.discover(top)
    place = add_worktree(user, top.parent / "again", Notebook(user, slug).manifest.base)
    store = GitStore(slug, place.workdir, in_place=False)
    experiment = Experiment(store, GitMemory(store))
    experiment.open([PathParameter(place.workdir / "rules", "*.txt")])
    return experiment


def test_what_is_blocked_by_hand_is_blocked_when_the_run_goes_on(top, demo):
    untouched, tip = Untouched(top), demo.tip
    with memory_to_change(demo.repo, "demo") as memory:
        memory.block_strategy("write", "enough of it")
    untouched.check()
    assert git(top, "rev-parse", "autopilot/demo") == tip
    noted = git(top, "notes", "--ref=autopilot/demo/memory", "show", tip).splitlines()
    assert json.loads(noted[-1])["outcome"] == "blocked"
    assert memory_of(again(demo)).blocked() == {"write": "enough of it"}
    experiment = reopened(top)
    assert experiment.memory.blocked() == {"write": "enough of it"}
    experiment.close()
    with memory_to_change(demo.repo, "demo") as memory:
        memory.unblock("write")
    assert memory_of(again(demo)).blocked() == {}


def test_decisions_by_hand_keep_their_order(top, demo):
    for number in range(12):
        with memory_to_change(demo.repo, "demo") as memory:
            memory.block_strategy(f"s{number}")
            memory.unblock("s3")
    found = memory_of(again(demo))
    assert list(found.blocked()) == [f"s{n}" for n in range(12) if n != 3]
    assert found.recall(outcome="blocked", limit=1)[0].strategy == "s11"


def test_a_running_experiment_is_not_written_to(top, demo):
    with (
        ExclusiveLock(Layout("demo").lock(demo.repo)),
        pytest.raises(LockHeldError, match=r"the experiment demo is running: .*process"),
        memory_to_change(demo.repo, "demo"),
    ):
        pytest.fail("it was held")
    with (
        pytest.raises(ExperimentError, match="there is no experiment nope"),
        memory_to_change(demo.repo, "nope"),
    ):
        pytest.fail("there is none")
    assert not Layout("nope").lock(demo.repo).exists()


def test_memory_of_a_stopped_experiment_is_what_a_resumed_run_knows(top, demo):
    store = GitStore("demo", top)
    # A kill between an epoch's lesson and its record: the epoch comes again, and its lesson too.
    store.annotate(store.tip, [Lesson(epoch=6, id="6", strategy="late", outcome="rejected")])
    with memory_to_change(demo.repo, "demo") as memory:
        memory.record("prune", "failed", reason="I know it")
    found = memory_of(again(demo))
    experiment = reopened(top)
    assert found.context() == experiment.memory.context()
    assert "late" not in found.context().tried
    assert [x.outcome for x in found.recall(strategy="prune")] == ["failed"]
    experiment.close()


def test_the_lessons_of_all_experiments(top, demo):
    make(top, "shop/one", [({"a.txt": "x\n"}, 0.5)])
    make(top, "shop/two", [({"a.txt": "y\n"}, 0.1)])
    with memory_to_change(demo.repo, "shop/two") as memory:
        memory.block_strategy("write")
    found, missing = memory_of_all(demo.repo)
    assert missing == {}
    counts = {slug: len(found.recall(experiment=slug)) for slug in ("demo", "shop/one", "shop/two")}
    assert counts == {"demo": 5, "shop/one": 1, "shop/two": 2}
    assert len(found.lessons) == 8
    shop, _ = memory_of_all(demo.repo, "shop")
    assert {lesson.experiment for lesson in shop.lessons} == {"shop/one", "shop/two"}
    git(top, "update-ref", "-d", "refs/notes/autopilot/shop/one/experiment")
    found, missing = memory_of_all(demo.repo)
    assert list(missing) == ["shop/one"]
    assert len(found.lessons) == 7


def test_the_operations_of_the_store_itself(demo):
    store = GitStore("demo", demo.repo.workdir)
    assert store.status().state in ("finished", "stopped")
    assert store.diff(0, 1) == store.diff(store.tags()[0], store.tags()[1]) != ""
    with pytest.raises(ExperimentError, match="demo has no kept epoch 99"):
        store.diff(0, 99)
    other = store.branch("side", 0)
    assert (other.slug, other.exists(), other.status().state) == ("side", True, "created")
    best = store.branch("top")
    assert best.diff(best.log()[-1].id, store.tip) == ""
    kept = store.snapshot("as it is")
    assert store.diff(kept, store.tags()[0]) == ""
    event = store.promote(1, reason="audited", reviewer="Bo")
    assert (event.epoch, event.decision, event.reviewer) == (1, "promote", "Bo")
