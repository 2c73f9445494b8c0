"""autopilot push and fetch, between real repositories."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time

import pytest
from checkouts import make_checkout

from autopilot.core.records.record import Lesson
from autopilot.git.locks import ExclusiveLock
from autopilot.git.repository import Repository
from autopilot.sharing.fetching import fetch
from autopilot.sharing.pushing import push
from autopilot.tracking.holding import decide, fork
from autopilot.tracking.journal import Journal
from autopilot.tracking.layout import Layout
from autopilot.tracking.notebook import Notebook
from tests.cli.conftest import COUNTER, Place, prepare_commands

ALL = ["refs/autopilot", "refs/notes", "refs/tags", "refs/heads/autopilot"]
ALL += ["refs/heads/autopilot-review"]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """`a` with the experiment `one` of two epochs, its remote `r.git`; and how it may go on."""
    top = tmp_path_factory.mktemp("sync")
    with pytest.MonkeyPatch.context() as patch:
        made = make_checkout(top / "a", {"x.txt": "1\n", "counter.py": COUNTER})
        a = Place(made, prepare_commands(patch, top / "home"))
        a.git("init", "--quiet", "--bare", "--initial-branch=main", "../r.git")
        a.git("remote", "add", "origin", "../r.git")
        a.git("push", "--quiet", "origin", "main")
        a.run("run", "counter.py", "-e", "one", "--max-epochs", "2")
        for name, epochs in (("three", "3"), ("four", "4")):
            shutil.copytree(a.top, top / name, symlinks=True)
            later = Place(top / name, a.cache)
            later.git("config", "user.name", name)
            later.run("resume", "one", "--max-epochs", epochs)
    return top


@pytest.fixture
def pair(template, tmp_path, git_environment, monkeypatch):
    """Two clones and their bare remote, which has `main` only."""
    cache = prepare_commands(monkeypatch, git_environment)
    for name in ("a", "r.git"):
        shutil.copytree(template / name, tmp_path / name, symlinks=True)
    monkeypatch.setenv("TEMPLATE", str(template))
    a, b = Place(tmp_path / "a", cache), Place(tmp_path / "b", cache)
    b.git("clone", "--quiet", "../r.git", ".")
    b.git("config", "user.name", "Bo")
    b.git("config", "user.email", "bo@example.com")
    return a, b


def refs(place, *prefixes, cwd=None):
    shown = place.git("for-each-ref", "--format=%(objectname) %(refname)", *prefixes, cwd=cwd)
    return {name: oid for oid, name in (line.split() for line in shown.splitlines())}


def remote(place):
    return refs(place, cwd=place.top.parent / "r.git")


def same(*places):
    """All have the same experiments' refs, and the remote too."""
    found = [refs(place, *ALL) for place in places]
    found.append({n: o for n, o in remote(places[0]).items() if n != "refs/heads/main"})
    assert all(one == found[0] for one in found)


def api(place):
    return Repository.discover(place.top)


def send(place, *slugs):
    report = push(api(place), "origin", slugs)
    assert [outcome.error for outcome in report.outcomes if outcome.error] == []
    return report.outcomes


def get(place, *slugs):
    outcomes = fetch(api(place), "origin", slugs)
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    return outcomes


def goes_on(place, epochs):
    """`autopilot resume one --max-epochs ...` as it was once done: "three" or "four"."""
    spaces = ("heads/autopilot/one", "tags/autopilot/one/*", "notes/autopilot/one/*")
    specs = [f"refs/{space}:refs/{space}" for space in spaces]
    place.git("fetch", "--quiet", "--no-tags", f"{os.environ['TEMPLATE']}/{epochs}", *specs)


def forked(place, slug):
    fork(Notebook(api(place), "one"), 1, slug)


def write_down(place, decision, reason):
    decide(api(place), "one", decision, reason=reason)


# --- the way there and back ----------------------------------------------------------------------


def test_what_one_pushes_the_other_has_and_goes_on_with(pair):
    a, b = pair
    with a.untouched():
        assert a.run("push").out == "pushed to origin:\n  one  new, 3 tags\n"
    with b.untouched():
        dry = b.run("fetch", "--dry-run")
        assert dry.out == "would be fetched from origin:\n  one  new, 3 tags\n"
        assert refs(b, *ALL) == {}
        assert b.run("fetch").out == "fetched from origin:\n  one  new, 3 tags\n"
        assert b.run("fetch").out == "fetched from origin:\n  one  up to date\n"
    same(a, b)
    assert b.verdicts("one") == ["baseline", "kept", "kept"]
    assert b.run("log", "one").out == a.run("log", "one").out
    goes_on(b, "four")
    (dry,) = push(api(b), "origin", ["one"], dry_run=True).outcomes
    assert dry.commits == 2
    assert len(a.git("log", "--format=%H", "main..autopilot/one").split()) == 3
    done = b.run("push", "origin", "one", "--json").document
    kinds = ["experiment", "gradients", "memory", "metrics", "traces"]
    assert done == {
        "remote": "origin",
        "dry_run": False,
        "atomic": True,
        "said": [],
        "experiments": [
            {
                "experiment": "one",
                "state": "updated",
                "commits": 2,
                "ahead": 0,
                "tags": 2,
                "notes": kinds,
                "merged": [],
                "remarks": [],
                "error": "",
                "hint": "",
            }
        ],
    }
    told = f"  one  2 commits, 2 tags, notes ({', '.join(kinds)})\n"
    assert a.run("fetch", "one").out == f"fetched from origin:\n{told}"
    same(a, b)
    assert a.verdicts("one") == ["baseline", "kept", "kept", "kept", "kept"]
    a.check_sound()
    b.check_sound()


def test_two_experiments_that_two_continued_lose_nothing(pair):
    a, b = pair
    forked(a, "two")
    send(a)
    get(b)
    # Each goes on with another one, and both write to the notes of the same commits.
    goes_on(a, "three")
    b.run("resume", "two", "--max-epochs", "1")
    write_down(a, "promote", "good")
    write_down(b, "reject", "not yet")
    lesson = Lesson(id="by-hand", strategy="down", outcome="blocked", by_hand=True)
    Journal(api(b), Layout("one")).write(b.git("rev-parse", "autopilot/one"), [lesson])
    send(b, "two")
    send(a, "one")
    assert [(o.slug, o.state, o.merged) for o in send(b)] == [
        ("one", "updated", ("experiment", "memory")),
        ("two", "up to date", ()),
    ]
    assert [(o.slug, o.state, o.merged) for o in get(a)] == [
        ("one", "updated", ()),
        ("two", "updated", ()),
    ]
    same(a, b)
    for place in (a, b):
        events = [e for e in place.notes("one", "experiment") if e["kind"] == "experiment"]
        details = {e.get("detail") for e in events}
        assert {"good", "not yet"} <= details
        assert [e.get("name") for e in events].count("started") == 1
        assert place.verdicts("one") == ["baseline", "kept", "kept", "kept"]
        assert place.verdicts("two") == ["baseline", "kept"]
        assert "down" in {lesson["strategy"] for lesson in place.notes("one", "memory")}
        told = place.git("log", "--notes=autopilot/*", "--format=%N", "autopilot/one")
        assert '"detail":"good"' in told
        assert '"detail":"not yet"' in told
        place.check_sound()
    a.git("fsck", "--strict", cwd=a.top.parent / "r.git")


def test_what_a_push_brings_here_is_said(pair):
    a, b = pair
    send(a)
    get(b)
    goes_on(a, "three")
    send(a)
    said = "1 commit of origin would come here first"
    assert b.call("push", "--dry-run").out.endswith(f"  one  up to date; {said}\n")
    assert b.call("push").out.endswith("  one  up to date; 1 commit of origin came here first\n")
    assert b.verdicts("one") == ["baseline", "kept", "kept", "kept"]
    assert b.call("push").out.endswith("  one  up to date\n")


def test_notes_that_diverged_are_merged_on_fetch_too(pair):
    a, b = pair
    send(a)
    get(b)
    write_down(a, "promote", "from a")
    write_down(b, "reject", "from b")
    send(a)
    told = "fetched from origin:\n  one  notes (experiment), merged with those of the other side: "
    assert b.run("fetch").out == f"{told}experiment\n"
    notes = "refs/notes/autopilot/one/experiment"
    tips = [refs(a)[notes], b.git("rev-parse", f"{notes}^1")]
    assert b.git("log", "-1", "--format=%P", notes).split() == tips[::-1]
    send(b)
    get(a)
    same(a, b)


def test_a_branch_that_came_without_its_notes_does_not_go_on(pair):
    a, b = pair
    send(a)
    get(b)
    goes_on(a, "three")
    send(a)
    # A plain fetch brings the tags alone: nothing is measured before that is said.
    b.git("fetch", "--quiet", "origin")
    b.refused(
        *("resume", "one", "--max-epochs", "4"),
        says=("autopilot/one ends before epoch 3, which has a tag",),
        hints=("autopilot fetch one", "git branch -f autopilot/one autopilot/one/epoch-0003"),
    )
    b.git("fetch", "--quiet", "origin", "autopilot/one:autopilot/one")
    tip = b.git("rev-parse", "autopilot/one")
    b.refused(
        *("resume", "one", "--max-epochs", "4"),
        says=("the notes of one are older than its branch", tip[:7]),
        hints=("autopilot fetch one",),
    )
    b.run("fetch", "one")
    own = {"autopilot/one/epoch-0900": "main", "autopilot/one/epoch-0901": "autopilot/one~1"}
    for name, commit in own.items():  # a person's
        b.git("tag", name, commit)
    b.run("resume", "one", "--max-epochs", "4")
    b.git("tag", "-d", *own)
    assert b.verdicts("one") == ["baseline", "kept", "kept", "kept", "kept"]
    send(b)
    same(b)


# --- nothing is overwritten ----------------------------------------------------------------------


def diverged(a, b):
    send(a)
    get(b)
    goes_on(a, "three")
    goes_on(b, "four")
    send(a)


def test_an_experiment_that_both_continued_is_left_and_said(pair):
    a, b = pair
    diverged(a, b)
    forked(b, "other")
    ours, theirs = b.git("rev-parse", "--short=7", "autopilot/one"), remote(b)
    for command in ("fetch", "push"):
        before = refs(b, *ALL)
        done = b.autopilot(command)
        assert done.code == 1
        assert f"here to {ours} (+2)" in done.error
        assert f"on origin to {theirs['refs/heads/autopilot/one'][:7]} (+1)" in done.error
        assert "autopilot store branch one-mine -e one" in done.hint
        assert refs(b, *ALL) == before
    # The other one was not kept back by it.
    assert remote(b).keys() - theirs.keys() == {
        "refs/heads/autopilot/other",
        "refs/notes/autopilot/other/experiment",
    }
    assert {n: o for n, o in remote(b).items() if n in theirs} == theirs
    assert [o.state for o in fetch(api(b), "origin")] == ["left", "up to date"]
    # What the hint says works.
    fork(Notebook(api(b), "one"), 4, "one-mine")
    b.run("experiment", "delete", "one", "--yes")
    b.run("fetch", "origin", "one")
    assert refs(b)["refs/heads/autopilot/one"] == theirs["refs/heads/autopilot/one"]
    assert b.git("show", "autopilot/one-mine:x.txt") == "5"
    assert b.git("show", "autopilot/one:x.txt") == "4"


def test_a_branch_in_use_is_not_moved(pair):
    a, b = pair
    send(a)
    get(b)
    goes_on(a, "three")
    send(a)
    b.git("switch", "--quiet", "autopilot/one")
    b.refused("fetch", says=("one was left as it is", "is checked out in"), hints=("git switch",))
    b.git("switch", "--quiet", "main")
    lock = ExclusiveLock(b.top / ".git" / "autopilot" / "one.lock")
    with lock:
        b.refused("fetch", says=("one was left as it is", "is running"), hints=("Ctrl-C",))
    # A run takes notes in while it goes on, and pushes what it has.
    get(b)
    write_down(a, "promote", "from a")
    send(a)
    with lock:
        assert [o.notes for o in get(b)] == [("experiment",)]
        assert [o.state for o in send(b)] == ["up to date"]
    same(a, b)


def test_tags_never_move(pair):
    a, b = pair
    send(a)
    get(b)
    tag = "autopilot/one/epoch-0002"
    # The same commit, tagged anew after a kill: both stay.
    b.git("tag", "-d", tag)
    b.git("tag", "-a", "-m", "again", tag, "autopilot/one")
    assert [o.state for o in (*get(b), *send(b))] == ["up to date"] * 2
    b.git("tag", "-d", tag)
    b.git("tag", "-a", "-m", "elsewhere", tag, "autopilot/one~1")
    for command in ("fetch", "push"):
        b.refused(command, says=(f"the tag {tag} is on", "it is not moved"), hints=("git show",))


def test_a_review_branch_goes_along_and_is_not_overwritten(pair):
    a, b = pair
    a.git("branch", "autopilot-review/one", "autopilot/one")
    send(a)
    get(b)
    review = "refs/heads/autopilot-review/one"
    assert refs(b)[review] == remote(b)[review] == refs(a)[review]
    b.git("branch", "-f", "autopilot-review/one", "main~0")
    a.git("update-ref", review, a.git("commit-tree", "-p", "main", "-m", "x", "main^{tree}"))
    before = remote(a)
    (outcome,) = send(a)
    assert "its review branch is another one on origin" in outcome.remarks[0]
    assert remote(a) == before


# --- races, remotes that can less, kills ---------------------------------------------------------


def test_pushes_at_the_same_time_all_arrive(pair):
    a, b = pair
    send(a)
    get(b)
    for number, place in enumerate((a, b)):
        for count in range(2):
            write_down(place, "promote", f"{number}-{count}")
    # Between looking and pushing, the other one pushes.
    hook = b.top / ".git" / "hooks" / "pre-push"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(
        f"#!/bin/sh\n[ -e {b.top}/once ] || {{ touch {b.top}/once; cd {a.top}; "
        "env -u GIT_DIR git push -q origin 'refs/notes/*:refs/notes/*'; }\n"
    )
    hook.chmod(0o755)
    report = push(api(b), "origin")
    assert [(o.error, o.merged) for o in report.outcomes] == [("", ("experiment",))]
    assert (b.top / "once").exists()
    fetch(api(a), "origin")
    same(a, b)
    details = {e.get("detail") for e in a.notes("one", "experiment")}
    assert {"0-0", "0-1", "1-0", "1-1"} <= details


def test_a_remote_without_atomic_pushes_gets_notes_first(pair):
    a, _ = pair
    bare = a.top.parent / "r.git"
    a.git("config", "receive.advertiseAtomic", "false", cwd=bare)
    done = a.run("push")
    assert "warning: the remote takes no push as a whole" in done.err
    same(a)
    # A branch that is refused leaves notes and tags only, and the next push completes it.
    goes_on(a, "three")
    hook = bare / "hooks" / "update"
    hook.write_text('#!/bin/sh\ncase $1 in refs/heads/*) echo "no, not $1" >&2; exit 1;; esac\n')
    hook.chmod(0o755)
    done = a.autopilot("push")
    assert done.code == 1
    assert "origin did not take one (hook declined): no, not refs/heads/autopilot/one" in done.error
    hook.unlink()
    send(a)
    same(a)


def test_one_that_the_remote_refuses_does_not_keep_the_others_back(pair):
    a, _ = pair
    forked(a, "two")
    hook = a.top.parent / "r.git" / "hooks" / "pre-receive"
    hook.write_text('#!/bin/sh\nif grep -q heads/autopilot/two; then echo "closed"; exit 1; fi\n')
    hook.chmod(0o755)
    done = a.autopilot("push")
    assert (done.code, done.error.endswith("(pre-receive hook declined): closed")) == (1, True)
    assert {n for n in remote(a) if n.startswith("refs/heads")} == {
        "refs/heads/main",
        "refs/heads/autopilot/one",
    }


def test_what_hooks_and_servers_say_in_a_push_is_shown(pair):
    a, _ = pair
    server, own = a.top.parent / "r.git" / "hooks" / "post-receive", a.top / ".git/hooks/pre-push"

    def says(hook, text):
        hook.write_text(f"#!/bin/sh\n{text}\n")
        hook.chmod(0o755)

    says(server, "echo 'a request: https://x:pw@host/1' >&2; echo '\33[2J'")
    says(own, "echo 'one file checked'; echo slow >&2")
    out = a.call("push").out
    assert out.splitlines()[:4] == [
        "one file checked",
        "slow",
        "remote: a request: https://host/1",
        r"remote: \x1b[2J",
    ]
    same(a)
    goes_on(a, "three")
    says(own, "echo 'no: a key in rules.txt'; exit 1")
    before = remote(a)
    done = a.call("push", "--json", code=1)
    (outcome,) = done.document["experiments"]
    assert outcome["error"].endswith("(the pre-push hook here refused it): no: a key in rules.txt")
    assert remote(a) == before


def test_kill_9_in_the_middle_of_a_fetch_loses_nothing(pair):
    a, b = pair
    send(a)
    incoming = b.top / ".git" / "refs" / "autopilot" / "_incoming"
    branch = b.top / ".git" / "refs" / "heads" / "autopilot" / "one"
    notes = b.top / ".git" / "refs" / "notes" / "autopilot" / "one" / "metrics"
    for sign in (incoming, notes, notes.with_name("metrics.lock"), branch):
        process = b.start("fetch")
        deadline = time.monotonic() + 120
        while process.poll() is None and not sign.exists() and time.monotonic() < deadline:
            pass
        process.send_signal(signal.SIGKILL)
        process.communicate()
        time.sleep(0.05)  # a git that it had started may still write
        b.check_sound()
        if "refs/heads/autopilot/one" in refs(b):
            assert b.verdicts("one") == ["baseline", "kept", "kept"]
    get(b)
    same(a, b)
    b.run("log", "one")


def test_a_half_fetch_by_hand_is_completed(pair):
    a, b = pair
    send(a)
    b.git("fetch", "--quiet", "origin", "autopilot/one:autopilot/one")
    b.refused("log", "one", says=("has no manifest note",), hints=("autopilot fetch one",))
    told = "notes (experiment, gradients, memory, metrics, traces)"
    assert told in b.run("fetch", "one").out
    same(a, b)


# --- which remote, which experiments -------------------------------------------------------------


def test_a_shallow_clone_gets_what_is_needed(pair):
    a, _ = pair
    a.write("y.txt", "more\n")
    a.commit("later")
    a.git("push", "--quiet", "origin", "main")
    send(a)
    url = (a.top.parent / "r.git").as_uri()
    c = Place(a.top.parent / "c", a.cache)
    c.git("clone", "--quiet", "--depth=1", "--no-tags", url, ".")
    get(c)
    same(a, c)
    assert (
        c.run("log", "one", "--json").document["log"]
        == (a.run("log", "one", "--json").document["log"])
    )
    c.run("resume", "one", "--max-epochs", "3")
    assert c.run("push").out.startswith("pushed to origin:\n  one  1 commit, 1 tag")


def test_projects_paths_and_names(pair):
    a, b = pair
    forked(a, "shop/two")
    b.run("fetch", "../a", "shop/two")
    assert [n for n in refs(b, *ALL) if "/heads/" in n] == ["refs/heads/autopilot/shop/two"]
    (b.top / "sub").mkdir()
    told = b.run("-C", "sub", "fetch", "../../a", "-p", "shop").out
    assert told == f"fetched from {a.top}:\n  shop/two  up to date\n"
    assert b.run("push", "two", "-p", "shop").out == "pushed to origin:\n  shop/two  new\n"
    assert [o.slug for o in fetch(api(a), "origin", project="shop")] == ["shop/two"]
    assert b.run("push", "-p", "none").out == "no experiments of the project none here\n"
    b.refused("fetch", "zzz", says=("no experiment zzz on origin",), hints=("shop/two",))
    b.refused(
        "push", "zzz", says=("neither a remote nor an experiment",), hints=("origin",), code=2
    )
    b.git("remote", "remove", "origin")
    b.refused("fetch", says=("has no remote repository",), hints=("git remote add origin",))
    document = b.autopilot("fetch", "--json")
    assert (document.code, json.loads(document.out)["hint"]) == (
        1,
        "add one: git remote add origin URL",
    )


def test_many_tags_go_over_folder_by_folder(pair):
    a, b = pair
    base = a.git("rev-parse", "autopilot/one")
    tags = "".join(f"create refs/tags/autopilot/one/epoch-{n:04d} {base}\n" for n in range(3, 150))
    subprocess.run(["git", "update-ref", "--stdin"], input=tags, text=True, cwd=a.top, check=True)
    # An experiment of the project `one` is not one of the experiment `one`.
    a.git("tag", "autopilot/one/two/epoch-0000", base)
    assert [o.tags for o in send(a)] == [150]
    assert "refs/tags/autopilot/one/two/epoch-0000" not in remote(a)
    a.git("tag", "-d", "autopilot/one/two/epoch-0000")
    assert [o.tags for o in get(b)] == [150]
    same(a, b)
