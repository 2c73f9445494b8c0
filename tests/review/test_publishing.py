"""Review branches on a remote, withdrawn, and taken back after a merge."""

from __future__ import annotations

import os

import pytest
from experiments import git

from autopilot.errors import ExperimentError
from autopilot.git.locks import ExclusiveLock
from autopilot.review.changes import target_branch
from autopilot.review.proposals import propose, standings
from autopilot.review.publishing import publish, take_back, unpublish, withdraw
from autopilot.tracking.layout import Layout


@pytest.fixture
def remote(top, tmp_path):
    place = tmp_path / "remote.git"
    git(top, "init", "--quiet", "--bare", str(place))
    git(top, "push", "--quiet", str(place), "main")
    return place


def test_a_proposal_is_published_with_its_experiment(top, demo, remote):
    made = propose(demo)
    publish(demo, made.branch, str(remote))
    there = git(remote, "for-each-ref", "--format=%(refname)").split()
    assert {"refs/heads/autopilot-review/demo", "refs/heads/autopilot/demo"} <= set(there)
    assert "refs/notes/autopilot/demo/metrics" in there
    publish(demo, made.branch, str(remote))
    assert unpublish(demo, str(remote))
    assert not unpublish(demo, str(remote))
    assert git(remote, "branch", "--list", "autopilot-review/*") == ""


def test_a_branch_goes_alone_where_that_is_asked_for(demo, remote):
    publish(demo, propose(demo).branch, str(remote), alone=True)
    assert git(remote, "branch", "--list", "autopilot*").split() == ["autopilot-review/demo"]


def test_a_commit_on_the_remote_is_not_replaced(top, demo, remote):
    made = propose(demo)
    git(top, "push", "--quiet", str(remote), "main:autopilot-review/demo")
    git(top, "commit", "--quiet", "--allow-empty", "--message=theirs")
    git(top, "push", "--quiet", str(remote), "main:autopilot-review/demo")
    with pytest.raises(ExperimentError, match=r"made or changed by hand: .*theirs"):
        publish(demo, made.branch, str(remote))
    with pytest.raises(ExperimentError, match="by hand"):
        unpublish(demo, str(remote))
    # The refs for looking at it are gone again.
    assert "theirs" not in git(top, "for-each-ref", "--format=%(refname)")


def test_before_a_merge_the_branch_is_withdrawn(top, demo):
    with pytest.raises(ExperimentError, match="there is no proposal of demo"):
        withdraw(demo)
    made = propose(demo)
    assert withdraw(demo) == made.branch.tip
    assert standings(demo.repo) == []


def test_a_lock_that_a_killed_git_left_on_the_branch_is_cleared(top, demo, remote):
    """A proposal needs no experiment that is held: it may be running."""
    review = Layout("demo").review

    def lock(name):
        path = top / ".git" / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (1, 1))

    with ExclusiveLock(Layout("demo").lock(demo.repo)):
        lock(review)
        made = propose(demo)
        publish(demo, made.branch, str(remote), alone=True)
        git(top, "update-ref", "-d", review)
        lock(f"{Layout('demo').incoming}/{review}")
        assert unpublish(demo, str(remote))
        propose(demo)
        lock(review)
        withdraw(demo)
    assert git(top, "branch", "--list", "autopilot-review/*") == ""


def test_after_a_merge_the_parameters_are_set_back_and_later_work_stays(top, demo):
    propose(demo)
    git(top, "merge", "--quiet", "--ff-only", "autopilot-review/demo")
    (top / "README.md").write_text("later\n")
    git(top, "commit", "--quiet", "--all", "--message=later")
    made = take_back(demo, target_branch(demo, None), 5, "worse")
    assert made.name == "autopilot-review/demo-revert"
    assert git(top, "rev-parse", f"{made.tip}^") == git(top, "rev-parse", "main")
    assert git(top, "show", f"{made.tip}:rules/a.txt") == "a"
    assert git(top, "show", f"{made.tip}:README.md") == "later"
    assert take_back(demo, target_branch(demo, None), 5, "worse") == made
