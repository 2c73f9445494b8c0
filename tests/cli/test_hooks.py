"""autopilot hooks, by what git does with them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autopilot.core.records.record import MetricsRecord
from autopilot.git.locks import ExclusiveLock
from autopilot.sharing.hooks import hook_folder, hook_texts, install_hooks
from autopilot.tracking.journal import Journal
from autopilot.tracking.layout import Layout
from autopilot.tracking.notebook import Notebook
from tests.cli.conftest import ROOT
from tests.cli.test_sharing import (  # noqa: F401  # fixtures
    api,
    forked,
    get,
    goes_on,
    pair,
    refs,
    remote,
    send,
    template,
)

METRICS = "refs/notes/autopilot/one/metrics"


def install(folder: Path, *names: str) -> None:
    place = hook_folder(folder)
    install_hooks(place, hook_texts(place, names))


def git(place, *arguments, **environment):
    """What git said on both streams, and its exit code."""
    done = subprocess.run(
        ["git", *arguments],
        cwd=place.top,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )
    return done.returncode, done.stdout + done.stderr


def noted(place, commit):
    return place.git("notes", f"--ref={METRICS}", "show", commit, check=False)


# --- the commands --------------------------------------------------------------------------------


def test_install_status_and_uninstall_say_what_they_do(pair):  # noqa: F811
    a, _ = pair
    mine = a.top / ".git" / "hooks" / "pre-push"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("#!/bin/sh\n")
    mine.chmod(0o755)
    with a.untouched():
        done = a.run("hooks", "install")
    assert done.out.splitlines()[1:] == [
        "  pre-push      installed, it calls yours first",
        "  pre-commit    installed",
        "  post-merge    installed",
        "  post-rewrite  installed",
    ]
    hooks = a.run("hooks", "status", "--json").document["hooks"]
    assert hooks[0] == {"hook": "pre-push", "state": "installed", "chained": True}
    assert {h["state"] for h in hooks} == {"installed"}
    done = a.run("hooks", "uninstall")
    assert done.out.splitlines()[1] == "  pre-push      removed; yours is back"
    assert mine.read_text() == "#!/bin/sh\n"
    bare = a.top.parent / "r.git"
    assert "  pre-receive   installed" in a.run("-C", str(bare), "hooks", "install").out
    a.git("config", "core.hooksPath", ".githooks")
    assert "they are files of your working tree" in a.run("hooks", "install").out
    a.refused("hooks", "install", "x", says=("no hook 'x'",), hints=("pre-push",), code=2)


def test_the_wheel_has_the_hooks(pair, tmp_path):  # noqa: F811
    a, _ = pair
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = (tmp_path / "dist").iterdir()
    # As installed: unpacked, with no clone beside it.
    subprocess.run([sys.executable, "-m", "zipfile", "-e", wheel, tmp_path / "site"], check=True)
    done = a.run("hooks", "install", "--json", PYTHONPATH=str(tmp_path / "site"))
    assert {hook["state"] for hook in done.document["hooks"]} == {"installed"}
    assert {h["state"] for h in a.run("hooks", "status", "--json").document["hooks"]} == {
        "installed"  # the clone's are the same
    }


# --- pre-push ------------------------------------------------------------------------------------


def test_a_plain_push_takes_notes_and_tags_along(pair):  # noqa: F811
    a, b = pair
    install(a.top)
    a.git("tag", "autopilot/one/two/epoch-0000", "main")  # of a project `one`
    assert git(a, "push", "-q", "origin", "main")[0] == 0
    assert remote(a).keys() == {"refs/heads/main"}
    assert git(a, "push", "-q", "origin", "autopilot/one") == (0, "")
    own = refs(a, "refs/heads", "refs/notes", "refs/tags/autopilot/one/epoch-*")
    assert remote(a) == own
    assert [o.tags for o in get(b)] == [3]
    # From a linked worktree, where git tells its hooks about the repository by variables.
    goes_on(a, "three")
    a.git("worktree", "add", "-q", "--detach", "../w")
    assert a.git("push", "-q", "origin", "autopilot/one", cwd=a.top.parent / "w") == ""
    assert remote(a) == refs(a, "refs/heads", "refs/notes", "refs/tags/autopilot/one/epoch-*")


@pytest.mark.parametrize("words", ["push --dry-run", "push -n", "push -vn", "dry", "-c a.b=c dry"])
def test_a_dry_run_sends_nothing(pair, words):  # noqa: F811
    a, _ = pair
    install(a.top)
    a.git("config", "alias.dry", "push --no-verify --dry-run --verify")
    before = remote(a)
    code, said = git(a, *words.split(), "origin", "autopilot/one")
    assert (code, remote(a)) == (0, before), said
    assert "autopilot/one" in said


@pytest.mark.parametrize(
    "words",
    [
        ["push", "-o", "-n"],
        ["push", "--push-option", "skip -n this"],
        ["-c", "some.text=a --dry-run b", "push"],
        ["push", "--dry-run", "--no-dry-run"],
        ["push", "-u", "--no-follow-tags"],
    ],
)
def test_what_only_looks_like_a_dry_run_sends_the_notes(pair, words):  # noqa: F811
    a, _ = pair
    install(a.top)
    a.git("config", "receive.advertisePushOptions", "true", cwd=a.top.parent / "r.git")
    code, said = git(a, *words, "origin", "autopilot/one")
    assert code == 0, said
    assert remote(a) == refs(a, "refs/heads", "refs/notes", "refs/tags")


def test_a_branch_does_not_go_where_its_notes_cannot(pair):  # noqa: F811
    a, b = pair
    send(a)
    get(b)
    install(b.top)
    for place, line in ((a, "from a"), (b, "from b")):
        place.git("notes", f"--ref={METRICS}", "append", "-m", line, "autopilot/one")
    send(a)
    goes = b.git("commit-tree", "-p", "autopilot/one", "-m", "x", "autopilot/one^{tree}")
    b.git("update-ref", "refs/heads/autopilot/one", goes)
    before = remote(b)
    code, said = git(b, "push", "origin", "autopilot/one")
    assert code == 1
    assert "`autopilot push` merges what others wrote" in said
    assert remote(b) == before


def test_the_users_own_hook_decides_first(pair):  # noqa: F811
    a, _ = pair
    mine = a.top / ".git" / "hooks" / "pre-push"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text('#!/bin/sh\ncat >seen\necho "tests fail" >&2\nexit 1\n')
    mine.chmod(0o755)
    install(a.top)
    code, said = git(a, "push", "origin", "autopilot/one")
    assert (code, "tests fail" in said) == (1, True)
    assert a.read("seen").startswith("refs/heads/autopilot/one ")
    assert remote(a).keys() == {"refs/heads/main"}


# --- post-merge, post-rewrite --------------------------------------------------------------------


def test_metrics_follow_to_a_merge_and_to_what_it_is_rebased_to(pair):  # noqa: F811
    a, _ = pair
    install(a.top)
    best = noted(a, "autopilot/one")
    assert '"verdict":"kept"' in best
    code, said = git(a, "merge", "--no-ff", "-q", "-m", "take it", "autopilot/one")
    assert (code, noted(a, "HEAD")) == (0, best)
    assert "autopilot: one: metrics of" in said
    a.git("commit", "-q", "--amend", "-m", "take it, said better")
    assert noted(a, "HEAD") == best
    # The notes are what they were, and in the same fan-out.
    paths = a.git("ls-tree", "-r", "--name-only", METRICS).split()
    assert len(paths) == 5
    assert all(len(path) == 41 and path[2] == "/" for path in paths)
    a.check_sound()
    epochs = Notebook(api(a), "one").epochs
    assert [epoch.verdict for epoch in epochs] == ["baseline", "kept", "kept"]


def test_a_rollback_stands_for_the_epoch_that_it_goes_back_to(pair):  # noqa: F811
    a, _ = pair
    install(a.top)
    text = "autopilot(one): rollback to epoch 1\n\nAutopilot-Experiment: one\n"
    text += "Autopilot-Rollback: epoch-0001\nAutopilot-Rejected: 3"
    tag = "autopilot/one/epoch-0001"
    tip = a.git("commit-tree", "-p", "autopilot/one", "-m", text, f"{tag}^{{tree}}")
    a.git("merge", "--no-ff", "-q", "-m", "merge", tip)
    assert noted(a, "HEAD") == noted(a, f"{tag}^{{commit}}") != ""


def test_rebased_commits_keep_their_metrics_and_others_stay_without(pair):  # noqa: F811
    a, _ = pair
    install(a.top)
    a.git("switch", "-q", "-c", "autopilot-review/one", "autopilot/one")
    old = [noted(a, f"HEAD~{back}") for back in (0, 1)]
    a.git("switch", "-q", "main")
    a.write("y.txt", "more\n")
    a.git("add", "y.txt")
    assert git(a, "commit", "-q", "-m", "more") == (0, "")
    assert git(a, "commit", "-q", "--amend", "-m", "more of it") == (0, "")
    a.git("rebase", "-q", "main", "autopilot-review/one")
    assert a.git("merge-base", "main", "HEAD") == a.git("rev-parse", "main")
    assert [noted(a, f"HEAD~{back}") for back in (0, 1)] == old
    assert noted(a, "main") == ""
    # Two that become one: the later state is what came out.
    a.git("reset", "-q", "--soft", "HEAD~1")
    a.git("commit", "-q", "--fixup", "HEAD")
    a.git("notes", f"--ref={METRICS}", "add", "-m", "later", "HEAD")
    a.git("-c", "sequence.editor=:", "rebase", "-q", "-i", "--autosquash", "main")
    assert noted(a, "HEAD") == "later"


def test_a_note_that_is_written_meanwhile_is_not_lost(pair):  # noqa: F811
    a, _ = pair
    install(a.top)
    journal = Journal(api(a), Layout("one"))
    base, tip = a.git("rev-parse", "main"), a.git("rev-parse", "autopilot/one")
    merging = subprocess.Popen(["git", "merge", "--no-ff", "-q", "-m", "m", tip], cwd=a.top)
    count = 0
    while merging.poll() is None or count < 5:
        if count < 40:  # it gives up where others write all the time
            count += 1
            record = MetricsRecord(id=f"r{count}", split="val", metrics={}, verdict="kept")
            journal.write(base, [record])
        time.sleep(0.05)
    assert len(noted(a, base).splitlines()) == count
    assert noted(a, "HEAD") == noted(a, tip)


# --- pre-commit ----------------------------------------------------------------------------------


def test_a_commit_that_gets_in_the_way_is_warned_of(pair):  # noqa: F811
    a, _ = pair
    install(a.top)
    a.write("y.txt", "more\n")
    a.git("add", "y.txt")
    lock = ExclusiveLock(a.top / ".git" / "autopilot" / "one.lock")
    with lock:  # a run in a worktree of its own is in nobody's way
        assert git(a, "commit", "-q", "-m", "fine") == (0, "")
    start = a.git("rev-list", "autopilot/one").split()[2]
    note = a.git("notes", "--ref=refs/notes/autopilot/one/experiment", "show", start)
    changed = note.replace('"directory"', '"in_place":true,"directory"', 1)
    if changed == note:
        changed = note.replace('"id":"manifest"', '"id":"manifest","in_place":true', 1)
    a.git("notes", "--ref=refs/notes/autopilot/one/experiment", "add", "-f", "-m", changed, start)
    with lock:
        code, said = git(a, "commit", "-q", "--amend", "-m", "while it runs")
    assert (code, f"one is being run in this checkout (process {os.getpid()})" in said) == (0, True)
    a.git("switch", "-q", "autopilot/one")
    code, said = git(a, "commit", "-q", "--allow-empty", "-m", "by hand")
    assert (code, "autopilot/one is an experiment's branch" in said) == (0, True)
    assert "being run" not in said


# --- pre-receive ---------------------------------------------------------------------------------


@pytest.fixture
def server(pair):  # noqa: F811
    """`a`, and its remote with the server's hook."""
    a, _ = pair
    install(a.top.parent / "r.git")
    return a


def refused(place, *arguments):
    before = remote(place)
    code, said = git(place, "push", *arguments)
    assert code == 1, said
    assert remote(place) == before
    return said


def child(place, message, tree="autopilot/one^{tree}", parent="autopilot/one"):
    return place.git("commit-tree", "-p", parent, "-m", message, tree)


TRAILERS = "\n\nAutopilot-Experiment: one\n"


def test_a_server_takes_what_has_passed(server):
    a = server
    forked(a, "two")  # not run yet: its start
    assert {o.state for o in send(a)} == {"new"}
    goes_on(a, "three")
    send(a)
    back = TRAILERS + "Autopilot-Rollback: epoch-0001\nAutopilot-Rejected: 4"
    tree = "autopilot/one/epoch-0001^{tree}"
    a.git("update-ref", "refs/heads/autopilot/one", child(a, "back" + back, tree))
    send(a)
    a.write("y.txt", "mine\n")
    a.commit("mine")
    assert git(a, "push", "-q", "origin", "main")[0] == 0


def test_a_server_refuses_what_has_not_passed(server):
    a = server
    branch = "refs/heads/autopilot/one"
    assert "epoch 2 is not judged, or its metrics note is missing" in refused(
        a, "origin", "autopilot/one"
    )
    send(a)
    step = child(a, f"step{TRAILERS}Autopilot-Epoch: 3")
    assert "epoch 3 is not judged" in refused(a, "origin", f"{step}:{branch}")
    by_hand = child(a, "by hand")
    assert "no commit of the experiment" in refused(a, "origin", f"{by_hand}:{branch}")
    back = child(a, f"back{TRAILERS}Autopilot-Rollback: epoch-0001")
    assert "other content than that" in refused(a, "origin", f"{back}:{branch}")
    back = child(a, f"back{TRAILERS}Autopilot-Rollback: epoch-0009")
    assert "epoch-0009, whose tag is missing" in refused(a, "origin", f"{back}:{branch}")
    journal = Journal(api(a), Layout("one"))
    record = MetricsRecord(epoch=3, id="3-val", split="val", metrics={}, verdict="rejected")
    journal.write(step, [record])
    pushed = (f"{step}:{branch}", f"{METRICS}:{METRICS}")
    assert "epoch 3 was rejected, and nothing rolls it back" in refused(a, "origin", *pushed)


def test_a_server_lets_nothing_be_rewritten(server):
    a = server
    send(a)
    branch, tag = "refs/heads/autopilot/one", "refs/tags/autopilot/one/epoch-0001"
    assert "it only grows" in refused(a, "-f", "origin", f"autopilot/one~1:{branch}")
    assert "not deleted here" in refused(a, "origin", f":{branch}")
    assert "never moves" in refused(a, "-f", "origin", f"autopilot/one:{tag}")
    assert "not deleted here" in refused(a, "origin", f":{tag}")
    assert "it only grows" in refused(a, "-f", "origin", f"{METRICS}~1:{METRICS}")
    merged = a.git(
        "commit-tree", "-p", "main", "-p", "autopilot/one", "-m", f"m{TRAILERS}", "main^{tree}"
    )
    assert "one line of commits" in refused(a, "origin", f"{merged}:{branch}")
    a.git("config", "autopilot.allowDeletes", "true", cwd=a.top.parent / "r.git")
    assert git(a, "push", "-q", "origin", f":{branch}")[0] == 0


def test_push_says_what_the_server_said_without_secrets(server, monkeypatch):
    a = server
    monkeypatch.setenv("DEPLOY_TOKEN", "swordfish-12345")
    hook = a.top.parent / "r.git" / "hooks" / "post-receive"
    hook.write_text("#!/bin/sh\necho it has swordfish-12345\n")
    hook.chmod(0o755)
    assert a.call("push", "--json").document["said"] == ["remote: it has [hidden]"]
    step = child(a, f"step{TRAILERS}Autopilot-Epoch: 3")
    a.git("update-ref", "refs/heads/autopilot/one", step)
    forked(a, "two")
    done = a.autopilot("push")
    assert (done.code, "epoch 3 is not judged" in done.error) == (1, True)
    assert "  two  new\n" in done.out
