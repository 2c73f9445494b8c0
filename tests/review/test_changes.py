"""The changes of kept epochs, put on a branch."""

from __future__ import annotations

import pytest
from experiments import git, lines, make

from autopilot.errors import ExperimentError
from autopilot.review.changes import (
    Conflict,
    MergedEpoch,
    ParameterHistory,
    apply_change,
    target_branch,
)


def commit(top, **files):
    for name, text in files.items():
        (top / "rules" / f"{name}.txt").write_text(text)
    git(top, "commit", "--quiet", "--all", "--message=by hand")
    return git(top, "rev-parse", "HEAD")


def test_each_kept_epoch_is_a_change_of_parameters_alone(top, demo):
    changes = ParameterHistory(demo).changes(git(top, "rev-parse", "main"))
    assert [change.number for change in changes] == [1, 3, 5]
    assert [score.after for change in changes for score in change.scores] == [0.5, 0.75, 0.875]
    # One starts where the other ends: the rejected epochs in between are no part of it.
    assert [c.before for c in changes[1:]] == [c.after for c in changes[:-1]]
    names = git(top, "diff", "--name-only", changes[0].before, changes[-1].after).split()
    assert names == ["rules/a.txt", "rules/b.txt", "rules/c.txt"]


def test_what_the_branch_changed_meanwhile_stays(top):
    book = make(top, "one", [({"b.txt": lines(first="ours")}, 0.5)])
    tip = commit(top, b=lines(last="theirs"), a="by hand\n")
    tree = apply_change(book.repo, tip, ParameterHistory(book).whole(tip, 1))
    both = lines(first="ours", last="theirs").rstrip("\n")
    assert git(top, "show", f"{tree}:rules/b.txt") == both
    assert git(top, "show", f"{tree}:rules/a.txt") == "by hand"


def test_a_conflict_names_the_epoch_and_the_files(top):
    book = make(top, "one", [({"a.txt": "ours\n"}, 0.5)])
    tip = commit(top, a="theirs\n")
    (change,) = ParameterHistory(book).changes(tip)
    found = apply_change(book.repo, tip, change)
    assert found == Conflict(1, ("rules/a.txt",))
    assert found.of("one", "main") == "epoch 1 of one conflicts with main in rules/a.txt"


def test_a_branch_has_the_epochs_that_are_merged_into_it(top, demo):
    history = ParameterHistory(demo)
    assert history.merged_into(git(top, "rev-parse", "main")) == MergedEpoch(None)
    git(top, "merge", "--quiet", "--ff-only", demo.after(3))
    assert history.merged_into(git(top, "rev-parse", "main")) == MergedEpoch(3, demo.after(3))


def test_a_squashed_epoch_is_known_by_its_trailers_until_it_is_reverted(top, demo):
    history, trailers = ParameterHistory(demo), "Autopilot-Experiment: demo\nAutopilot-Epoch: 3"
    git(top, "commit", "--quiet", "--allow-empty", f"--message=squashed\n\n{trailers}")
    tip = git(top, "rev-parse", "main")
    assert history.merged_into(tip) == MergedEpoch(3, tip)
    back = "Autopilot-Experiment: demo\nAutopilot-Reverts: 3"
    git(top, "commit", "--quiet", "--allow-empty", f"--message=back\n\n{back}")
    tip = git(top, "rev-parse", "main")
    assert history.merged_into(tip) == MergedEpoch(None, tip, reverted=True)


def test_the_branch_that_changes_are_meant_for(top, demo):
    assert target_branch(demo, None).name == "main"
    with pytest.raises(ExperimentError, match="there is no branch nope"):
        target_branch(demo, "nope")
    with pytest.raises(ExperimentError, match="belongs to an experiment"):
        target_branch(demo, "autopilot/demo")
