"""Pushing experiments: all of an experiment or nothing, after a merge of what others wrote."""

from __future__ import annotations

import pytest
from experiments import git, make

from autopilot.errors import ExperimentError
from autopilot.git.locks import ExclusiveLock
from autopilot.git.repository import Repository
from autopilot.projects.health import examine
from autopilot.sharing.fetching import fetch
from autopilot.sharing.pushing import push
from autopilot.tracking.holding import decide
from autopilot.tracking.layout import Layout


@pytest.fixture
def remote(top, tmp_path):
    place = tmp_path / "remote.git"
    git(top, "init", "--quiet", "--bare", str(place))
    git(top, "push", "--quiet", str(place), "main")
    return place


def test_a_push_sends_all_and_then_nothing(top, demo, remote):
    (trial,) = push(demo.repo, str(remote), dry_run=True).outcomes
    assert trial.state == "new"
    assert git(remote, "branch", "--list", "autopilot/*") == ""
    (sent,) = push(demo.repo, str(remote)).outcomes
    assert (sent.state, sent.tags) == ("new", 4)
    refs = "--format=%(refname) %(objectname)", "refs/heads/autopilot", "refs/notes", "refs/tags"
    assert git(remote, "for-each-ref", *refs) == git(top, "for-each-ref", *refs)
    assert push(demo.repo, str(remote)).outcomes[0].state == "up to date"


def test_a_push_makes_missing_tags_again_or_refuses(top, demo, remote):
    git(top, "tag", "-d", "autopilot/demo/epoch-0003")
    (trial,) = push(demo.repo, str(remote), dry_run=True).outcomes
    assert "would be made again from the records: 1 tag" in trial.remarks
    with ExclusiveLock(Layout("demo").lock(demo.repo)):
        (left,) = push(demo.repo, str(remote)).outcomes
    assert left.error.startswith("demo lacks the tag epoch-0003: the experiment demo is running")
    assert git(remote, "for-each-ref", "refs/tags") == ""
    (sent,) = push(demo.repo, str(remote)).outcomes
    assert (sent.tags, sent.remarks) == (4, ("made again from the records: 1 tag",))
    tagged = git(remote, "rev-parse", "autopilot/demo/epoch-0003^{commit}")
    assert tagged == demo.epoch(3).commit


def test_a_tag_on_another_commit_than_its_epoch_is_named_and_not_pushed(top, demo, remote):
    tag, own = "autopilot/demo/epoch-0001", demo.epoch(1).commit
    git(top, "tag", "-f", tag, "main")
    (left,) = push(demo.repo, str(remote)).outcomes
    says = f"the tag {tag} is on {git(top, 'rev-parse', 'main')[:7]}, its epoch on {own[:7]}"
    assert (left.error, left.hint) == (says, f"git tag -d {tag}, then autopilot gc makes it anew")
    assert git(remote, "for-each-ref", "refs/tags", "refs/heads/autopilot") == ""
    (check,) = [each for each in examine(top) if each.name == "runs" and each.state != "ok"]
    assert (check.detail, check.mend) == (left.error, left.hint)
    git(top, "tag", "-d", tag)
    assert push(demo.repo, str(remote)).outcomes[0].tags == 4
    assert git(remote, "rev-parse", f"{tag}^{{commit}}") == own


def test_a_lost_tag_keeps_back_its_own_experiment_and_a_tag_of_a_tag_none(top, demo, remote):
    make(top, "other")
    signed, lost = (f"autopilot/demo/epoch-000{number}" for number in (1, 3))
    git(top, "tag", "-f", "-a", "-m", "signed later", signed, signed)
    git(top, "-c", "advice.nestedTag=false", "push", "-q", str(remote), f"refs/tags/{signed}")
    assert {sent.error for sent in push(demo.repo, str(remote), dry_run=True).outcomes} == {""}
    oid = git(top, "rev-parse", f"refs/tags/{lost}")
    (top / ".git" / "objects" / oid[:2] / oid[2:]).unlink()
    outcomes = push(Repository.discover(top), str(remote)).outcomes
    found = {sent.slug: sent for sent in outcomes}
    assert (found["other"].state, found["other"].error) == ("new", "")
    assert found["demo"].error == f"the tag {lost} has no object {oid[:7]}"
    assert found["demo"].hint == f"git tag -d {lost}, then autopilot gc makes it anew"


def test_notes_that_others_pushed_are_merged_first(top, demo, remote, tmp_path):
    push(demo.repo, str(remote))
    git(top, "clone", "--quiet", str(remote), str(tmp_path / "clone"))
    clone = Repository.discover(tmp_path / "clone")
    git(clone.workdir, "config", "user.name", "Bo")
    git(clone.workdir, "config", "user.email", "bo@example.com")
    fetch(clone, "origin")
    decide(clone, "demo", "reject", epoch="3", reason="there")
    push(clone, "origin")
    decide(demo.repo, "demo", "reject", epoch="1", reason="here")
    (sent,) = push(demo.repo, str(remote)).outcomes
    assert (sent.state, sent.merged) == ("updated", ("experiment",))
    note = git(remote, "notes", "--ref=autopilot/demo/experiment", "show", demo.start)
    assert '"here"' in note
    assert '"there"' in note


def test_a_refused_experiment_does_not_keep_the_others_back(top, demo, remote):
    make(top, "other")
    hook = remote / "hooks" / "update"
    hook.write_text('#!/bin/sh\ncase "$1" in */demo*) echo "not this one" >&2; exit 1;; esac\n')
    hook.chmod(0o755)
    found = {sent.slug: sent for sent in push(demo.repo, str(remote)).outcomes}
    assert found["other"].state == "new"
    assert "did not take demo" in found["demo"].error
    assert found["demo"].hint == "see what its hooks and its branch rules ask for"
    hook.rename(top / ".git" / "hooks" / "pre-push")
    (top / ".git" / "hooks" / "pre-push").write_text("#!/bin/sh\nexit 1\n")
    (demo_,) = push(demo.repo, str(remote), ["demo"]).outcomes
    assert demo_.error.endswith("did not take demo (the pre-push hook here refused it)")
    assert demo_.hint == "see what the hook pre-push of this repository asks for"
    assert git(remote, "branch", "--list", "autopilot/*").split() == ["autopilot/other"]


def test_an_experiment_that_is_not_here(demo, remote):
    with pytest.raises(ExperimentError, match="there is no experiment nope here"):
        push(demo.repo, str(remote), ["nope"])
