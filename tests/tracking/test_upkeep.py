"""Removing an experiment."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import contextmanager

import pytest
from experiments import Untouched, git, make

from autopilot.core.parameter import PathParameter
from autopilot.core.records.record import ProgressNote
from autopilot.core.store import Side
from autopilot.errors import (
    ExperimentError,
    GitCommandError,
    LockHeldError,
    RepositoryError,
)
from autopilot.files import TEMPORARY
from autopilot.git import locks
from autopilot.git.locks import ExclusiveLock
from autopilot.git.packing import maintain
from autopilot.git.repository import Repository
from autopilot.git.worktrees import (
    add_worktree,
    check_out,
    commit_of_checkout,
    private_path,
    worktree_path,
)
from autopilot.sharing.fetching import fetch
from autopilot.sharing.hooks import hook_folder
from autopilot.sharing.pushing import push
from autopilot.tracking import GitStore, upkeep
from autopilot.tracking.checkout import Checkout
from autopilot.tracking.finding import find, user_of
from autopilot.tracking.holding import (
    decide,
    fork,
    make_tags,
    missing_tags,
    stopped,
)
from autopilot.tracking.integrity import Integrity
from autopilot.tracking.layout import PLACE_LOCK, Layout, experiments, held
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.upkeep import (
    clear,
    find_litter,
    plan_removal,
    remove,
    states_of,
)


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


def test_what_candidates_left_goes_with_their_experiment(top, demo):
    """A run of several candidates that was killed: else one of the same name goes on with them."""

    def candidate(epoch, base):
        store = GitStore("demo", top, in_place=False)
        store.enter(Side(epoch, 1, base))
        store.note_progress(ProgressNote(epoch=epoch, split="val", key="k", items=1))
        store.progress_file.close()

    layout, left = Layout("demo"), worktree_path(demo.repo, "demo@1")
    candidate(6, demo.tip)
    place = add_worktree(demo.repo, left, demo.repo.head_commit()).workdir
    (place / "written.txt").write_text("x")
    assert user_of(Repository.discover(place))[1] == "demo"
    removal = plan_removal(demo.repo, "demo")
    assert list(removal.candidates) == ["refs/autopilot/demo/candidates/6-1"]
    assert (removal.snapshots, removal.beside) == ({}, (place,))
    assert [each.path for each in removal.outputs] == ["written.txt"]
    remove(demo.repo, removal)
    assert not place.exists() and not layout.beside(demo.repo).parent.exists()
    assert git(top, "for-each-ref", "refs/autopilot") == ""
    # What is left where the branch was deleted by hand does not count either.
    candidate(1, demo.repo.head_commit())
    make(top, "demo")
    assert not layout.beside(demo.repo).exists()


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


LOCKED = (
    "refs/heads/autopilot/demo",
    "refs/heads/autopilot-review/demo",
    "refs/tags/autopilot/demo/epoch-0003",
    "refs/notes/autopilot/demo/metrics",
    "refs/autopilot/demo/theirs/refs/heads/autopilot-review/demo",
)


def test_who_holds_an_experiment_clears_the_locks_that_a_killed_git_left(top, demo):
    """All commands that move its refs hold it: by `held`, by `stopped`, or by the store's lock."""
    git(top, "switch", "--quiet", "--detach", "autopilot/demo")

    @contextmanager
    def run(repo, slug):
        store = GitStore(slug, repo.workdir)
        store.bind([PathParameter(repo.workdir / "rules", "*.txt")])
        store.reopen()
        yield
        store.close()

    for number, hold in enumerate((held, stopped, run)):
        for name in LOCKED:
            lock = top / ".git" / f"{name}.lock"
            lock.parent.mkdir(parents=True, exist_ok=True)
            lock.touch()
            os.utime(lock, (1, 1))
        locks = {litter.path for litter in find_litter(demo.repo) if litter.kind == "ref lock"}
        assert locks == {top / ".git" / f"{name}.lock" for name in LOCKED}
        other = top / ".git/refs/heads/main.lock"
        other.touch()
        with hold(demo.repo, "demo"):
            left = [
                path.name for path in (top / ".git").rglob("*.lock") if path.stat().st_size == 0
            ]
        assert left == ["main.lock"], number


def test_a_lock_of_somebody_elses_leaves_the_experiment_whole(top, demo, monkeypatch):
    worktree = worktree_path(demo.repo, "demo")
    add_worktree(demo.repo, worktree, demo.repo.head_commit())
    progress = Layout("demo").progress(demo.repo)
    progress.write_text("{}\n")
    git(top, "pack-refs", "--all")
    before, lock = git(top, "for-each-ref"), top / ".git/packed-refs.lock"
    lock.touch()
    with pytest.raises(GitCommandError, match=r"packed-refs\.lock") as caught:
        remove(demo.repo, plan_removal(demo.repo, "demo"))
    assert git(top, "for-each-ref") == before and worktree.exists() and progress.exists()
    assert caught.value.hint == "if no git command is running, remove that file"
    # One that is not older than a living git may be of that; one of a killed git goes.
    lock.unlink()
    with subprocess.Popen(["git", "hash-object", "--stdin"], stdin=subprocess.PIPE):
        lock.touch()
        with monkeypatch.context() as patch:
            patch.setattr(locks, "_PACKED_AGE_S", -1.0)
            for before_s in (0, 30):  # the clock was set since
                os.utime(lock, (time.time() - before_s,) * 2)
                with held(demo.repo, "demo"):
                    assert lock.exists()
    os.utime(lock, (1, 1))
    assert lock in [litter.path for litter in find_litter(demo.repo)]
    git(top, "branch", "autopilot-review/demo-revert", "autopilot/demo")
    stale = top / ".git/refs/heads/autopilot-review/demo-revert.lock"
    stale.touch()
    os.utime(stale, (1, 1))
    remove(demo.repo, plan_removal(demo.repo, "demo"))
    assert git(top, "for-each-ref", "--format=%(refname)") == "refs/heads/main"
    assert not worktree.exists() and not progress.exists()


@pytest.mark.parametrize("name", ["heads/autopilot/demo", "notes/autopilot/demo/metrics"])
@pytest.mark.parametrize("step", ["clear_stale_locks", "remove_worktree"])
def test_a_ref_that_is_moved_after_the_last_look_is_not_deleted(top, demo, monkeypatch, step, name):
    """Before the check that comes first, and between that and the deletion."""
    worktree = worktree_path(demo.repo, "demo")
    add_worktree(demo.repo, worktree, demo.repo.head_commit())
    real = getattr(upkeep, step)
    before = git(top, "for-each-ref", "--format=%(refname)")
    own = git(top, "commit-tree", "HEAD^{tree}", "-p", f"refs/{name}", "-m", "somebody else's")
    found = plan_removal(demo.repo, "demo")

    def move(*given):
        real(*given)
        git(top, "update-ref", f"refs/{name}", own)

    monkeypatch.setattr(upkeep, step, move)
    with pytest.raises(GitCommandError, match=f"refs/{name}.* is at {own} but expected"):
        remove(demo.repo, found)
    assert git(top, "rev-parse", f"refs/{name}") == own
    assert git(top, "for-each-ref", "--format=%(refname)") == before  # all, or none
    assert worktree.exists() == (step == "clear_stale_locks")


def test_only_what_a_run_made_is_removed(top, demo):
    repo = demo.repo
    for name in ("autopilot/mine", "autopilot/Not a/slug".replace(" ", "-"), "autopilot/a/b/c"):
        git(top, "branch", name)
    git(top, "branch", "autopilot-review/demo")
    blob = git(top, "rev-parse", "HEAD:rules/a.txt")
    git(top, "tag", "autopilot/mine/epoch-0000")
    git(top, "tag", "autopilot/demo/release")
    git(top, "tag", "autopilot/demo/epoch-0099", blob)
    before = set(git(top, "for-each-ref", "--format=%(refname)").split())
    # Such a branch is no experiment: it is not listed, not completed, in no hint, not cleared.
    assert list(experiments(repo)) == ["demo"] == list(states_of(repo))
    assert find_litter(repo) == []
    for refused in (
        lambda: plan_removal(repo, "mine"),
        lambda: Notebook(repo, "mine").manifest,
        lambda: Notebook(repo, "mine").need(),
        lambda: find(repo, "mine").notebook.start,
    ):
        with pytest.raises(ExperimentError, match="autopilot/mine is no experiment") as caught:
            refused()
        assert "demo" in caught.value.hint and "autopilot fetch" not in caught.value.hint
    with pytest.raises(ExperimentError, match="no run made it"):
        Layout("mine").check_free(repo)
    with pytest.raises(ExperimentError, match="no experiment mine here"):
        push(repo, "origin", ["mine"])
    found = plan_removal(repo, "demo")
    assert set(found.others) == {
        "refs/heads/autopilot-review/demo",
        "refs/tags/autopilot/demo/epoch-0099",
        "refs/tags/autopilot/demo/release",
    }
    remove(repo, found)
    after = set(git(top, "for-each-ref", "--format=%(refname)").split())
    assert after == before - found.refs.keys()
    assert {"refs/heads/autopilot/mine", "refs/heads/autopilot-review/demo"} <= after


def test_a_branch_of_a_remote_that_no_run_made_is_no_experiment(top, demo, tmp_path):
    """The newest experiment is found beside it, also in a clone that lacks what is before it."""
    git(top, "branch", "autopilot/mine")
    git(top, "commit", "--quiet", "--allow-empty", "--message=later")
    git(top, "branch", "--force", "autopilot/mine")
    clone = tmp_path / "clone"
    git(top, "clone", "--quiet", "--depth=1", "--no-single-branch", f"file://{top}", str(clone))
    git(clone, "fetch", "--quiet", "origin", "refs/notes/autopilot/*:refs/notes/autopilot/*")
    git(clone, "branch", "autopilot/mine", "origin/autopilot/mine")
    repo = Repository.discover(clone)
    assert experiments(repo) == {}
    assert find(repo, None).notebook.slug == "demo"
    git(clone, "switch", "--quiet", "--detach", "origin/autopilot/mine")
    git(clone, "branch", "-D", "autopilot/mine")
    assert find(repo, None).where == "origin/autopilot/demo"


def test_a_branch_in_the_place_of_a_deleted_one_stays(top, demo):
    git(top, "branch", "-D", "autopilot/demo")
    git(top, "branch", "autopilot/demo")
    found = plan_removal(demo.repo, "demo")
    assert found.branch == {} and found.others == ("refs/heads/autopilot/demo",)
    remove(demo.repo, found)
    left = git(top, "for-each-ref", "--format=%(refname)").split()
    assert left == ["refs/heads/autopilot/demo", "refs/heads/main"]


def test_an_experiment_without_its_notes_is_one(top, demo):
    for kind in ("experiment", "gradients", "memory", "metrics"):
        git(top, "update-ref", "-d", f"refs/notes/autopilot/demo/{kind}")
    assert list(experiments(demo.repo)) == ["demo"]
    with pytest.raises(ExperimentError, match="no manifest note") as caught:
        _ = Notebook(demo.repo, "demo").start
    assert "autopilot fetch demo" in caught.value.hint
    assert list(plan_removal(demo.repo, "demo").branch) == ["refs/heads/autopilot/demo"]


def test_half_written_files_beside_parameters_go(top, demo):
    """As an older version left them, or where the git folder is on another file system."""
    rests = [top / "rules" / f"{TEMPORARY}1", top / "rules" / "deep" / f"{TEMPORARY}2"]
    for path in rests:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    found = [litter for litter in find_litter(demo.repo) if litter.kind == "half-written file"]
    assert [litter.path for litter in found] == rests
    with ExclusiveLock(Layout("demo").lock(demo.repo)):
        assert find_litter(demo.repo) == []
        assert clear(demo.repo, found[0]) is None and rests[0].exists()
    store = GitStore("demo", top)
    store.bind([PathParameter(top / "rules", "*.txt")])
    git(top, "switch", "--quiet", "--detach", "autopilot/demo")
    store.reopen()
    store.close()
    assert not any(path.exists() for path in rests)
    # Deleted before anything else looked; what a run that works there writes now is none.
    rests[0].touch()
    with ExclusiveLock(top / ".git" / PLACE_LOCK):
        assert find_litter(demo.repo) == []
    remove(demo.repo, plan_removal(demo.repo, "demo"))
    assert not rests[0].exists()


def test_what_gc_says_it_removed_is_gone(top, demo):
    """A removal that was killed leaves a worktree without its .git file, which git keeps listed."""
    path = worktree_path(demo.repo, "demo")
    add_worktree(demo.repo, path, demo.repo.head_commit())
    (path / ".git").unlink()
    private_path(path).mkdir()
    (litter,) = [each for each in find_litter(demo.repo) if each.kind == "worktree"]
    assert clear(demo.repo, litter) is not None
    assert not path.exists() and not private_path(path).exists()
    assert find_litter(demo.repo) == [] and len(git(top, "worktree", "list").splitlines()) == 1


def test_git_is_never_run_in_the_git_folder(top, demo, tmp_path, monkeypatch):
    real, seen = shutil.which("git"), tmp_path / "seen"
    shim = tmp_path / "bin" / "git"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\npwd -P >> {seen}\nexec {real} "$@"\n')
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shim.parent}:{os.environ['PATH']}")
    bare = tmp_path / "bare.git"
    git(top, "clone", "--quiet", "--bare", str(top), str(bare))
    git(top, "worktree", "add", "--quiet", "--detach", str(tmp_path / "gone"))
    shutil.rmtree(tmp_path / "gone")
    worktree = add_worktree(demo.repo, worktree_path(demo.repo, "demo"), demo.repo.head_commit())
    check_out(worktree, demo.repo.head_commit())
    commit_of_checkout(demo.repo)
    for litter in find_litter(demo.repo):
        clear(demo.repo, litter)
    maintain(demo.repo)
    push(demo.repo, str(bare))
    fetch(demo.repo, str(bare))
    remove(demo.repo, plan_removal(demo.repo, "demo"))
    hook_folder(top)
    places = set(seen.read_text().split())
    assert str(top) in places
    assert not [place for place in places if ".git" in place]


def test_refs_that_hold_no_commit_are_named_and_mended(top, demo):
    """A branch that leads nowhere, one of a blob, a garbled tag, and notes that are gone."""
    git(top, "symbolic-ref", "refs/heads/autopilot/x", "refs/heads/nowhere")
    blob, tag = git(top, "rev-parse", "HEAD:rules/a.txt"), top / ".git/refs/tags/autopilot/demo"
    (top / ".git/refs/heads/autopilot/blob").write_text(f"{blob}\n")
    before = git(top, "rev-parse", "autopilot/demo/epoch-0000^{commit}")
    (tag / "epoch-0000").write_text("garbage\n")
    assert list(experiments(demo.repo)) == ["demo"] and missing_tags(demo.repo, "demo") == [(0, 0)]
    named = {message.partition(" ")[0] for message in demo.repo.damaged}
    assert named == {"refs/heads/autopilot/x", "refs/tags/autopilot/demo/epoch-0000"}
    with pytest.raises(RepositoryError, match=f"autopilot/blob cannot be read: {blob[:10]} is no"):
        Notebook(demo.repo, "blob")
    every = Integrity(Notebook(demo.repo, "demo")).differences()
    (found,) = [each for each in every if each.what == "tag"]
    assert (found.epoch, found.what, found.found) == (0, "tag", "missing")
    make_tags(demo.repo, "demo", [(0, 0)])
    assert git(top, "rev-parse", "autopilot/demo/epoch-0000^{commit}") == before
    assert not any("refs/tags" in message for message in demo.repo.damaged)
    git(top, "update-ref", "-d", "refs/notes/autopilot/demo/metrics")
    read = Notebook(Repository.discover(top), "demo")
    assert "autopilot fetch demo brings them" in read.unjudged and read.last is None


def test_a_cache_behind_a_link_holds_worktrees_like_any_other(top, demo, tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "link"))
    there = add_worktree(demo.repo, worktree_path(demo.repo, "gone"), demo.repo.head_commit())
    user, owner = user_of(there)
    assert (user.workdir, owner) == (demo.repo.workdir, "gone")
    (litter,) = [each for each in find_litter(demo.repo) if each.kind == "worktree"]
    clear(demo.repo, litter)
    assert not there.workdir.exists() and list((tmp_path / "real").iterdir()) == []
