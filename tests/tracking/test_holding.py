"""Between the runs of an experiment: forks, merges, decisions."""

from __future__ import annotations

import json

import pytest
from experiments import Untouched, Write, again, git, lines, make, val

from autopilot.core.experiment import Experiment
from autopilot.core.parameter import PathParameter
from autopilot.core.policy import Decision
from autopilot.errors import (
    ExperimentError,
    LockHeldError,
    SlugError,
)
from autopilot.git.locks import ExclusiveLock
from autopilot.git.worktrees import add_worktree
from autopilot.tracking import GitMemory, GitStore
from autopilot.tracking.holding import decide, fork, merge
from autopilot.tracking.layout import Layout
from autopilot.tracking.notebook import Notebook


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
