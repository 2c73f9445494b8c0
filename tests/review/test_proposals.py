"""Review branches: built from an experiment, brought up to date, and how they stand."""

from __future__ import annotations

import pytest
from experiments import Untouched, git, make

from autopilot.errors import ExperimentError
from autopilot.review.proposals import proposal_of, propose, standings


def test_a_proposal_is_a_commit_for_each_kept_epoch(top, demo):
    untouched = Untouched(top)
    made = propose(demo)
    untouched.check()
    assert (made.done, made.epochs, made.onto.name) == ("created", [1, 3, 5], "main")
    listed = git(top, "rev-list", "--reverse", "main..autopilot-review/demo").split()
    assert listed == [commit for _, commit in made.commits]
    tree = git(top, "rev-parse", "autopilot-review/demo:rules")
    assert tree == git(top, "rev-parse", "autopilot/demo:rules")
    assert proposal_of(demo).commits == made.commits


def test_the_same_proposal_again_keeps_its_commits(top, demo):
    first = propose(demo)
    again = propose(demo)
    assert again.done == "unchanged"
    assert again.commits == first.commits


def test_a_commit_by_hand_is_never_replaced(top, demo):
    propose(demo)
    git(top, "switch", "--quiet", "autopilot-review/demo")
    (top / "rules" / "a.txt").write_text("mine\n")
    git(top, "commit", "--quiet", "--all", "--message=mine")
    git(top, "switch", "--quiet", "main")
    before = git(top, "for-each-ref")
    with pytest.raises(ExperimentError, match=r"made or changed by hand: .*mine"):
        propose(demo)
    assert git(top, "for-each-ref") == before
    assert [found.state for found in standings(demo.repo)] == ["edited"]


def test_nothing_kept_is_nothing_to_propose(top):
    book = make(top, "flat", [({"a.txt": "worse\n"}, 0.1)])
    with pytest.raises(ExperimentError, match="no epoch of flat was kept"):
        propose(book)


def test_a_proposal_stands_open_then_merged(top, demo):
    assert standings(demo.repo) == []
    propose(demo)
    (found,) = standings(demo.repo)
    assert (found.slug, found.state, found.epochs) == ("demo", "open", (1, 3, 5))
    git(top, "merge", "--quiet", "--ff-only", "autopilot-review/demo")
    (found,) = standings(demo.repo)
    assert (found.state, found.detail) == ("merged", "main has epoch 5")


def test_a_proposal_that_no_longer_fits_says_where(top, demo):
    propose(demo)
    (top / "rules" / "a.txt").write_text("by hand\n")
    git(top, "commit", "--quiet", "--all", "--message=by hand")
    (found,) = standings(demo.repo)
    assert found.state == "conflicts"
    assert "epoch 1 of demo conflicts with main in rules/a.txt" in found.detail
    with pytest.raises(ExperimentError, match="nothing was written"):
        propose(demo)
