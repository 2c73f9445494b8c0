"""Promotion: the gates, the three methods, and the decision on record."""

from __future__ import annotations

import pytest
from experiments import again, git

from autopilot.errors import ExperimentError
from autopilot.review.promotion import Requirement, plan, promote
from autopilot.tracking.holding import decide


def gates(found):
    return {gate.name: gate.passed for gate in found.gates}


def test_a_plan_moves_nothing(top, demo):
    before = git(top, "for-each-ref")
    found = plan(demo)
    assert git(top, "for-each-ref") == before
    assert (found.epoch.number, found.onto.name, found.method) == (5, "main", "squash")
    assert sorted(found.counts) == ["rules/a.txt", "rules/b.txt", "rules/c.txt"]
    assert (found.score.before, found.score.after) == (0.25, 0.875)
    assert gates(found) == dict.fromkeys(
        ("verdict", "decision", "merge", "checkout", "running"), True
    )


@pytest.mark.parametrize("epoch", ["0", "2"])
def test_only_a_kept_epoch_is_taken_over(top, demo, epoch):
    assert not gates(plan(demo, epoch=epoch))["verdict"]
    before = git(top, "for-each-ref")
    with pytest.raises(ExperimentError, match="is not taken over into main"):
        promote(demo.repo, "demo", epoch=epoch)
    assert git(top, "for-each-ref") == before


def test_the_latest_decision_of_a_person_holds(demo):
    decide(demo.repo, "demo", "reject", epoch="5", reason="too long")
    (gate,) = plan(again(demo)).failed
    assert gate.name == "decision"
    assert "too long" in gate.detail
    decide(demo.repo, "demo", "promote", epoch="5")
    assert plan(again(demo)).failed == []


def test_a_further_gate_counts(demo):
    gate = Requirement("audit", False, "nobody looked", "look")
    with pytest.raises(ExperimentError, match="nobody looked"):
        promote(demo.repo, "demo", more=[gate])


@pytest.mark.parametrize(("method", "parents"), [("squash", 1), ("no-ff", 2), ("ff-only", 1)])
def test_an_epoch_is_taken_over_once(top, demo, method, parents):
    done = promote(demo.repo, "demo", method=method, reason="good", reviewer="Bo")
    assert git(top, "rev-parse", "main") == done.commit
    assert len(git(top, "log", "-1", "--format=%P", "main").split()) == parents
    assert git(top, "rev-parse", "main:rules") == git(top, "rev-parse", "autopilot/demo:rules")
    # The branch is checked out: its files came along.
    assert (done.updated, git(top, "status", "--short")) == (str(top), "")
    assert (done.event.decision, done.event.reviewer, done.event.into) == ("promote", "Bo", "main")
    twice = promote(demo.repo, "demo", method=method)
    assert (twice.commit, twice.event) == (done.commit, None)


def test_a_fast_forward_needs_a_branch_that_stood_still(top, demo):
    git(top, "commit", "--quiet", "--allow-empty", "--message=meanwhile")
    assert not gates(plan(demo, method="ff-only"))["merge"]
    assert gates(plan(demo, method="no-ff"))["merge"]
