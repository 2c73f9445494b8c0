"""The parameters in the user's checkout: snapshots and states."""

from __future__ import annotations

import os

import pytest
from checkouts import commit_all
from experiments import Untouched, again, git, make, rules

from autopilot.errors import (
    ExperimentError,
    ParameterError,
)
from autopilot.tracking.checkout import Checkout, find_state, snapshots

EXECUTABLE = 0o755


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
    notebook = again(demo)
    kept = snapshots(notebook.repo, notebook.layout)
    assert [found.id for found in kept] == [commit]
    assert find_state(again(demo), commit[:8]).commit == commit


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
    commit_all(top, "special")
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
