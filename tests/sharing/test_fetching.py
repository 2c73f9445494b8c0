"""Fetching experiments: notes are merged, branches move forward, tags stay."""

from __future__ import annotations

import pytest
from experiments import git, make

from autopilot.errors import ExperimentError, RemoteError, remedy
from autopilot.git.repository import Repository
from autopilot.sharing import fetching
from autopilot.sharing.fetching import RefSet, Synced, chosen, fetch, grouped, local_sets
from autopilot.sharing.hooks import hook_folder
from autopilot.tracking.holding import decide
from autopilot.tracking.layout import Layout
from autopilot.tracking.notebook import Notebook

NOTE = "refs/notes/autopilot/demo/experiment"


@pytest.fixture
def clone(top, tmp_path):
    place = tmp_path / "clone"
    git(top, "clone", "--quiet", "--no-tags", str(top), str(place))
    git(place, "config", "user.name", "Bo")
    git(place, "config", "user.email", "bo@example.com")
    return Repository.discover(place)


def test_refs_belong_to_the_experiment_that_they_name():
    found = grouped(
        {
            "refs/heads/autopilot/shop/one": "1",
            "refs/tags/autopilot/shop/one/epoch-0000": "2",
            "refs/notes/autopilot/shop/one/metrics": "3",
            "refs/heads/autopilot-review/shop/one": "4",
            "refs/heads/autopilot/Bad Name": "5",
            "refs/heads/main": "6",
        }
    )
    assert list(found) == ["shop/one"]
    one = found["shop/one"]
    assert (one.branch, one.review, len(one.tags), len(one.notes)) == ("1", "4", 1, 1)
    assert sorted(one.named(Layout("shop/one")).values()) == ["1", "2", "3", "4"]


def test_experiments_are_chosen_by_name_or_project():
    sets = {"a": RefSet("1"), "shop/b": RefSet("2"), "gone": RefSet(None, "3")}
    assert chosen(sets, (), None, "here") == ["a", "shop/b"]
    assert chosen(sets, (), "shop", "here") == ["shop/b"]
    assert chosen(sets, ("a", "a"), None, "here") == ["a"]
    with pytest.raises(ExperimentError, match="there is no experiment gone here") as caught:
        chosen(sets, ("gone",), None, "here")
    assert "a, shop/b" in caught.value.hint


def test_how_an_exchange_ended_in_a_word():
    assert Synced("a", is_new=True).state == "new"
    assert Synced("a", notes=("metrics",)).state == "updated"
    assert Synced("a", ahead=3).state == "up to date"
    assert Synced("a", commits=3, error="no").state == "left"


def test_a_fetch_brings_all_and_then_nothing(top, demo, clone):
    (trial,) = fetch(clone, "origin", dry_run=True)
    assert (trial.state, local_sets(clone)) == ("new", {})
    (found,) = fetch(clone, "origin")
    assert (found.state, found.tags) == ("new", 4)
    assert local_sets(clone) == local_sets(demo.repo)
    assert "_incoming" not in git(clone.workdir, "for-each-ref")
    assert fetch(clone, "origin")[0].state == "up to date"


def test_notes_of_both_sides_are_merged(top, demo, clone):
    fetch(clone, "origin")
    decide(demo.repo, "demo", "reject", epoch="1", reason="here")
    decide(clone, "demo", "reject", epoch="3", reason="there")
    (found,) = fetch(clone, "origin")
    assert found.merged == ("experiment",)
    events = Notebook(clone, "demo").events
    assert {event.detail for event in events if event.name == "decided"} == {"here", "there"}


@pytest.fixture
def meanwhile(monkeypatch):
    """What happens after a fetch has looked at the refs here, and before it moves some of them."""

    def arrange(happens):
        """Calls it with the names of those that are to be moved."""
        real = fetching.move_refs

        def move(repo, moves, log):
            if moves:
                happens(repo.workdir, list(moves))
            real(repo, moves, log)

        monkeypatch.setattr(fetching, "move_refs", move)

    return arrange


def test_a_note_that_is_written_between_look_and_move_is_merged_too(top, demo, clone, meanwhile):
    fetch(clone, "origin")
    decide(demo.repo, "demo", "reject", epoch="1", reason="there")
    before = git(clone.workdir, "rev-parse", NOTE)
    decide(clone, "demo", "reject", epoch="3", reason="here")
    late = git(clone.workdir, "rev-parse", NOTE)
    git(clone.workdir, "update-ref", NOTE, before)
    asked = []

    def write(folder, names):
        asked.append(names)
        if len(asked) == 1:
            git(folder, "update-ref", NOTE, late, before)

    meanwhile(write)
    (found,) = fetch(clone, "origin")
    assert asked == [[NOTE], [NOTE]]  # it has looked once more
    assert (found.state, found.merged) == ("updated", ("experiment",))
    events = Notebook(clone, "demo").events
    assert {event.detail for event in events if event.name == "decided"} == {"here", "there"}
    assert git(clone.workdir, "merge-base", NOTE, late) == late


@pytest.mark.parametrize(
    ("name", "was", "said"),
    [
        ("refs/heads/autopilot/demo", "", "demo was continued on both sides"),
        ("refs/heads/autopilot/demo", "~2", "demo was continued on both sides"),
        ("refs/tags/autopilot/demo/epoch-0001", "", "the tag autopilot/demo/epoch-0001 is on"),
    ],
)
def test_what_is_moved_between_look_and_move_stays_there(
    top, demo, clone, meanwhile, name, was, said
):
    if was:
        fetch(clone, "origin")
        git(clone.workdir, "update-ref", name, f"{name}{was}")
    own = git(clone.workdir, "commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "own")
    moved = []

    def move(folder, names):
        if name in names:
            git(folder, "update-ref", name, own)
            moved.append(name)

    meanwhile(move)
    (found,) = fetch(clone, "origin")
    assert moved[0] == name and said in found.error
    assert git(clone.workdir, "rev-parse", name) == own


def test_a_fetch_gives_up_where_its_refs_are_moved_each_time(top, demo, clone, meanwhile):
    fetch(clone, "origin")
    decide(demo.repo, "demo", "reject", epoch="1", reason="there")
    at = []

    def write(folder, names):
        git(folder, "notes", f"--ref={NOTE}", "append", "-m", f"{len(at)}", "HEAD")
        at.append(git(folder, "rev-parse", NOTE))

    meanwhile(write)
    (found,) = fetch(clone, "origin")
    assert (found.state, found.hint) == ("left", "try again")
    assert f"{NOTE} is at {at[-1][:7]}, expected at {at[-2][:7]}" in found.error
    assert git(clone.workdir, "rev-parse", NOTE) == at[-1] and len(at) == fetching._ATTEMPTS


def test_a_branch_that_both_continued_is_left_as_it_is(top, demo, clone):
    fetch(clone, "origin")
    for repo in (demo.repo, clone):
        git(repo.workdir, "switch", "--quiet", "autopilot/demo")
        text = f"--message={repo.workdir.name}"
        git(repo.workdir, "commit", "--quiet", "--allow-empty", text)
        git(repo.workdir, "switch", "--quiet", "main")
    before = git(clone.workdir, "for-each-ref")
    (found,) = fetch(clone, "origin")
    assert (found.state, found.ahead) == ("left", 1)
    assert "continued on both sides" in found.error
    assert git(clone.workdir, "for-each-ref") == before


def test_a_tag_never_moves(top, demo, clone):
    fetch(clone, "origin")
    git(clone.workdir, "tag", "--force", "autopilot/demo/epoch-0001", "autopilot/demo")
    (found,) = fetch(clone, "origin")
    assert "the tag autopilot/demo/epoch-0001 is on" in found.error
    moved = git(clone.workdir, "rev-parse", "autopilot/demo/epoch-0001")
    assert moved == git(clone.workdir, "rev-parse", "autopilot/demo")


def test_only_the_named_experiment_comes(top, demo, clone):
    make(top, "other")
    fetch(clone, "origin", ["other"])
    assert list(local_sets(clone)) == ["other"]


def test_a_branch_that_no_run_made_does_not_come(top, demo, clone):
    git(top, "branch", "autopilot/mine")
    git(top, "branch", "autopilot-review/mine")
    assert [outcome.slug for outcome in fetch(clone, "origin")] == ["demo"]
    with pytest.raises(ExperimentError, match="autopilot/mine is no experiment"):
        fetch(clone, "origin", ["mine"])
    assert list(local_sets(clone)) == ["demo"]


def test_a_shallow_clone_gets_all_epochs(top, demo, tmp_path):
    git(tmp_path, "clone", "-q", "--depth=1", "--no-single-branch", f"file://{top}", "clone")
    fetch(Repository.discover(tmp_path / "clone"), "origin")
    there = Notebook(Repository.discover(tmp_path / "clone"), "demo")
    assert [epoch.number for epoch in there.epochs] == [epoch.number for epoch in demo.epochs]


def test_the_words_of_a_hook_that_refuses_here_are_told(demo, clone):
    """Where the refs come in under other names, and where they get their own."""
    hook = hook_folder(clone.workdir).path / "reference-transaction"
    hook.parent.mkdir(exist_ok=True)
    for lets in ("none$", "_incoming"):
        words = (
            f"#!/bin/sh\n[ $1 != prepared ] || grep -q '{lets}' || {{ echo not found: a ticket\n"
        )
        hook.write_text(f"{words}exit 1; }}\n")
        hook.chmod(0o755)
        try:
            found = fetch(clone, "origin")[0].error
        except RemoteError as error:
            found = error.message
            assert error.hint == remedy("aborted by hook")
        assert "aborted by" in found and found.endswith("hook: not found: a ticket"), lets
    assert local_sets(clone) == {}
