"""Removing an experiment."""

from __future__ import annotations

import pytest
from experiments import Untouched, git, make

from autopilot.errors import (
    ExperimentError,
    LockHeldError,
    RepositoryError,
)
from autopilot.git.locks import ExclusiveLock
from autopilot.tracking.checkout import Checkout
from autopilot.tracking.holding import (
    decide,
    fork,
)
from autopilot.tracking.layout import Layout
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.upkeep import plan_removal, remove


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
