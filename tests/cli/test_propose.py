"""autopilot propose: review branches, requests, their verification, and taking them back."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path

import pytest

RULES = "größe und form/größe a.txt"
NEW = "größe und form/new rule.txt"
REVIEW = "autopilot-review/levels"


def subjects(place, revisions):
    return place.git("log", "--reverse", "--format=%s", revisions).splitlines()


def files(place, old, new):
    return place.git("-c", "core.quotePath=false", "diff", "--name-only", old, new).splitlines()


def refused(place, *arguments, says, hints=""):
    before = place.snapshot()
    done = place.call("propose", *arguments, code=1)
    assert says in done.error, done
    assert hints in done.hint, done
    assert place.snapshot() == before


def state(place):
    found = place.call("propose", "list", "--json").document["proposals"]
    assert len(found) == 1
    return found[0]["state"], found[0]["detail"]


@pytest.fixture
def remote(levels, tmp_path):
    """A bare remote, `origin`, with main."""
    levels.git("init", "--quiet", "--bare", "--initial-branch=main", str(tmp_path / "remote.git"))
    levels.git("remote", "add", "origin", str(tmp_path / "remote.git"))
    levels.git("push", "--quiet", "origin", "main")
    return tmp_path / "remote.git"


def commit_on(place, branch, name, text, tmp_path):
    """Commits a file on a branch as a person does: in a worktree of its own."""
    other = tmp_path / f"by hand {len(list(tmp_path.iterdir()))}"
    place.git("worktree", "add", "--quiet", str(other), branch)
    (other / name).write_text(text)
    place.git("add", "--all", cwd=other)
    place.git("commit", "--quiet", "--message=by hand", cwd=other)
    place.git("worktree", "remove", "--force", str(other))
    return place.git("rev-parse", branch)


# --- create --------------------------------------------------------------------------------------


def test_one_commit_for_each_kept_epoch_on_top_of_what_main_is_now(levels):
    levels.change(RULES, ("line 19\n", "the user's line\n"))
    levels.change("README.md", ("readme", "read me"))
    levels.write("README.md", "being edited\n")
    with levels.untouched():
        done = levels.call("propose", "create")
    assert subjects(levels, f"main..{REVIEW}") == [
        "autopilot(levels): epoch 1: raise the level to 4 (val accuracy 0.250 -> 0.500)",
        "autopilot(levels): epoch 3: raise the level to 6 (val accuracy 0.500 -> 0.750)",
        "autopilot(levels): epoch 4: raise the level to 8 (val accuracy 0.750 -> 1.000)",
    ]
    assert levels.git("merge-base", "main", REVIEW) == levels.git("rev-parse", "main")
    assert files(levels, "main", REVIEW) == [RULES, NEW]
    text = levels.git("show", f"{REVIEW}:{RULES}")
    assert text.startswith("8\nline 1\n")
    assert text.endswith("the user's line")
    source = levels.git("rev-parse", "autopilot/levels/epoch-0003^{commit}")
    assert levels.git("show", "--no-patch", "--format=%b", f"{REVIEW}~1").splitlines() == [
        "too few items pass | of `8`",
        "",
        "Autopilot-Experiment: levels",
        "Autopilot-Epoch: 3",
        "Autopilot-Strategy: up",
        f"Autopilot-Source: {source}",
        "Autopilot-Score: val accuracy 0.500 -> 0.750",
        "Autopilot-Onto: main",
    ]
    trailers = levels.git("log", "-1", "--format=%(trailers:only)", f"{REVIEW}~1")
    assert len(trailers.split("\n")) >= 6
    main, tip = (levels.git("rev-parse", "--short=7", name) for name in ("main", REVIEW))
    assert done.out.splitlines()[:4] == [
        f"{REVIEW}: created, 3 commits on main {main}, tip {tip}",
        f"see it:  git log -p main..{REVIEW}",
        "",
        "levels: val accuracy 0.250 -> 1.000",
    ]
    # Nothing has changed: nothing is made anew.
    before = levels.snapshot()
    assert "unchanged, 3 commits" in levels.call("propose", "create").out
    assert levels.snapshot() == before
    levels.check_sound()


def test_the_requests_text_says_what_why_and_how_to_see_for_oneself(levels):
    document = levels.call("propose", "create", "--body", "request.md", "--json").document
    text = levels.read("request.md")
    assert document["body"] == text
    assert document["title"] == "levels: val accuracy 0.250 -> 1.000"
    commits = [entry["commit"][:10] for entry in document["commits"]]
    assert text.splitlines()[2] == (
        "3 epochs of the experiment `levels` improved **val accuracy 0.250 -> 1.000**; tried and "
        "rejected: 1. Only the parameters change (`größe und form`), one commit an epoch."
    )
    assert "On the test split, which no epoch was chosen by: accuracy 0.250 -> 1.000" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows == [
        "| epoch | val accuracy | change | what | strategy | commit |",
        "| ---: | ---: | ---: | --- | --- | --- |",
        f"| 1 | 0.500 | +0.250 | raise the level to 4 | up | {commits[0]} |",
        f"| 3 | 0.750 | +0.250 | raise the level to 6 | up | {commits[1]} |",
        f"| 4 | 1.000 | +0.250 | raise the level to 8 | up | {commits[2]} |",
        "| file | added | removed |",
        "| --- | ---: | ---: |",
        f"| `{RULES}` | +1 | -1 |",
        f"| `{NEW}` | +1 | -0 |",
    ]
    assert "2 files, +2 -1" in text
    assert "autopilot propose verify levels" in text


def test_a_conflict_names_epoch_and_files_and_nothing_is_written(levels):
    levels.change(RULES, ("2\n", "3\n"))
    refused(
        levels,
        "create",
        says=f"epoch 1 of levels conflicts with main in {RULES}; nothing was written",
        hints=f"git diff main...autopilot/levels -- '{RULES}'",
    )


def test_it_is_built_anew_where_the_target_branch_is_now(levels):
    levels.call("propose", "create")
    first = levels.git("rev-parse", REVIEW)
    assert state(levels) == ("open", "")
    levels.change("README.md", ("readme", "read me"))
    assert f"{REVIEW}: updated, 3 commits on main" in levels.call("propose", "create").out
    assert levels.git("merge-base", "main", REVIEW) == levels.git("rev-parse", "main")
    same = levels.git("range-diff", "--no-color", f"{first}~3..{first}", f"main..{REVIEW}")
    assert [line.split()[2] for line in same.splitlines()] == ["=", "=", "="]


def test_newer_epochs_are_added_to_the_commits_that_there_are(levels):
    # As if it had been proposed after epoch 3: the newer epochs come on top of that.
    levels.call("propose", "create")
    whole = levels.git("rev-parse", REVIEW)
    levels.git("update-ref", f"refs/heads/{REVIEW}", f"{whole}~1")
    assert state(levels) == ("outdated", "1 newer kept, up to epoch 4")
    assert "updated, 3 commits" in levels.call("propose", "create").out
    assert levels.git("rev-parse", f"{REVIEW}~1") == levels.git("rev-parse", f"{whole}~1")
    assert state(levels) == ("open", "")


def test_another_target_branch_is_kept_in_mind(levels):
    levels.git("branch", "release")
    levels.change("README.md", ("readme", "read me"))
    levels.call("propose", "create", "--onto", "release")
    assert levels.git("rev-parse", f"{REVIEW}~3") == levels.git("rev-parse", "release")
    assert "unchanged, 3 commits on release" in levels.call("propose", "create").out
    assert "updated, 3 commits on main" in levels.call("propose", "create", "--onto", "main").out
    refused(levels, "create", "--onto", "nowhere", says="no branch nowhere", hints="git branch")
    refused(
        levels,
        *("create", "--onto", "autopilot/levels"),
        says="autopilot/levels belongs to an experiment",
        hints="a branch of your own",
    )


@pytest.mark.parametrize("how", ["commit", "amend", "reword", "rebase"])
def test_what_was_done_by_hand_is_never_replaced(levels, tmp_path, how):
    levels.call("propose", "create")
    levels.change("README.md", ("readme", "read me"))
    if how == "commit":
        commit_on(levels, REVIEW, "README.md", "better\n", tmp_path)
    else:
        other = tmp_path / "other"
        levels.git("worktree", "add", "--quiet", str(other), REVIEW)
        if how == "amend":
            (other / RULES).write_text("9\n")
            levels.git("commit", "--quiet", "--all", "--amend", "--no-edit", cwd=other)
        elif how == "reword":
            text = levels.git("show", "--no-patch", "--format=%B", REVIEW)
            levels.git("commit", "--quiet", "--amend", "-m", f"By hand. {text}", cwd=other)
        else:
            base = f"{REVIEW}~3"
            mine = levels.git("commit-tree", "-p", base, "-m", "mine", f"{base}^{{tree}}")
            levels.git("rebase", "--quiet", "--onto", mine, base, cwd=other)
        levels.git("worktree", "remove", "--force", str(other))
    commit = levels.git("rev-parse", "--short=7", f"{REVIEW}~3" if how == "rebase" else REVIEW)
    says = f"{REVIEW} has a commit that was made or changed by hand: {commit}"
    hint = f"git branch -m {REVIEW} {REVIEW}-edited"
    refused(levels, "create", says=says, hints=hint)
    refused(levels, "revert", says=says, hints=hint)
    assert state(levels)[0] == "edited"
    levels.git("branch", "-m", REVIEW, f"{REVIEW}-edited")
    assert "created, 3 commits" in levels.call("propose", "create").out


def test_a_review_branch_that_is_checked_out_is_not_moved(levels, tmp_path):
    levels.call("propose", "create")
    levels.git("worktree", "add", "--quiet", str(tmp_path / "review"), REVIEW)
    assert "unchanged" in levels.call("propose", "create").out
    levels.change("README.md", ("readme", "read me"))
    refused(
        levels,
        "create",
        says=f"{REVIEW} is checked out in {tmp_path / 'review'}",
        hints="git switch another branch there",
    )
    levels.git("worktree", "remove", str(tmp_path / "review"))


def test_a_fork_is_proposed_for_the_branch_that_its_source_started_from(levels):
    levels.call("store", "branch", "fork", "--from", "1", "-e", "levels")
    levels.run("resume", "fork", "--max-epochs", "2")
    levels.call("propose", "create", "fork")
    assert subjects(levels, "main..autopilot-review/fork") == [
        "autopilot(fork): what it was forked from: levels, epoch 1",
        "autopilot(fork): epoch 2: raise the level to 6 (val accuracy 0.500 -> 0.750)",
    ]
    assert levels.git("show", f"autopilot-review/fork:{RULES}").startswith("6\n")
    # What main has by now is not proposed again.
    levels.call("promote", "execute", "levels", "--epoch", "1")
    levels.call("propose", "create", "fork")
    assert len(subjects(levels, "main..autopilot-review/fork")) == 1


def test_a_fork_that_kept_no_epoch_claims_none(levels):
    levels.call("store", "branch", "fork", "--from", "1", "-e", "levels")
    levels.run("resume", "fork", "--max-epochs", "1")
    said = levels.call("propose", "create", "fork").out
    assert "No epoch of the experiment `fork` improved **val accuracy 0.500 -> 0.500**; " in said
    assert "tried and rejected: 1." in said


def test_uncommitted_content_that_it_started_from_has_a_commit_of_its_own(levels):
    text = levels.read(RULES)
    levels.write(RULES, text.replace("line 7\n", "line seven\n"))
    levels.run("run", "levels.py", "-e", "dirty", "--include-dirty", "--max-epochs", "1")
    levels.git("checkout", "--", RULES)
    levels.call("propose", "create", "dirty")
    assert [s.partition(" (")[0] for s in subjects(levels, "main..autopilot-review/dirty")] == [
        "autopilot(dirty): what was not committed before",
        "autopilot(dirty): epoch 1: raise the level to 4",
    ]
    assert "line seven\n" in levels.git("show", f"autopilot-review/dirty:{RULES}")


def test_nothing_to_propose(levels):
    levels.change(RULES, ("2\n", "8\n"))
    levels.run("run", "levels.py", "-e", "flat", "--max-epochs", "1")
    says, hints = "no epoch of flat was kept", "autopilot report flat --md"
    refused(levels, "create", "flat", says=says, hints=hints)
    assert "train items passed and none has feedback" in levels.run(*hints.split()[1:]).out
    refused(levels, "verify", says="there is no proposal of", hints="autopilot propose create")
    assert levels.call("propose", "list").out.splitlines()[0] == "no proposals yet"


# --- push and open -------------------------------------------------------------------------------


def test_push_takes_the_experiment_along_and_replaces_only_what_was_built(levels, remote, tmp_path):
    with levels.untouched():
        done = levels.call("propose", "create", "--push")
    assert "pushed to origin: autopilot-review/levels" in done.out
    there = levels.git("ls-remote", "origin")
    for name in (
        f"refs/heads/{REVIEW}",
        "refs/heads/autopilot/levels",
        "refs/tags/autopilot/levels/epoch-0004",
        "refs/notes/autopilot/levels/metrics",
    ):
        assert name in there
    # The target moves: the branch is built anew, here and there.
    levels.change("README.md", ("readme", "read me"))
    done = levels.call("propose", "create", "--push")
    assert "warning: main has commits that origin has not" in done.err
    assert levels.git("ls-remote", "origin", f"refs/heads/{REVIEW}").split()[0] == levels.git(
        "rev-parse", REVIEW
    )
    # A colleague commits on it: nobody overwrites that.
    clone = tmp_path / "clone"
    levels.git("clone", "--quiet", "--branch", REVIEW, str(remote), str(clone))
    (clone / "README.md").write_text("mine\n")
    levels.git("-c", "user.name=G", "-c", "user.email=g@x", "commit", "-qam", "mine", cwd=clone)
    levels.git("push", "--quiet", "origin", REVIEW, cwd=clone)
    theirs = levels.git("rev-parse", "HEAD", cwd=clone)
    levels.change("README.md", ("read me", "read me!"))
    done = levels.call("propose", "create", "--push", code=1)
    assert f"on origin, {REVIEW} has a commit that was made or changed by hand: " in done.error
    assert "(mine)" in done.error
    assert levels.git("ls-remote", "origin", f"refs/heads/{REVIEW}").split()[0] == theirs
    assert levels.git("for-each-ref", "refs/autopilot") == ""
    levels.check_sound()


GH = """\
#!/bin/sh
for argument; do printf '%s\\n' "$argument"; done > "$0.arguments"
case "$2" in
  create) [ -e "$0.there" ] && { echo "a pull request already exists" >&2; exit 1; } ;;
esac
echo https://git.example.com/ada/levels/pull/7
"""


def test_open_runs_gh_where_it_is_installed(levels, remote, tmp_path, monkeypatch):
    document = levels.call("propose", "create", "--json").document
    body = levels.top / ".git" / "autopilot" / "levels.request.md"
    command = shlex.split(document["command"])
    assert command == [
        *("gh", "pr", "create", "--base", "main", "--head", REVIEW),
        *("--title", "levels: val accuracy 0.250 -> 1.000", "--body-file", str(body)),
    ]
    assert body.read_text() == document["body"]
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin")
    done = levels.call("propose", "create", "--open", code=1)
    assert done.error == "error: gh is not installed, so the request is not opened"
    assert document["command"] in done.hint
    (tmp_path / "bin").mkdir()
    gh = tmp_path / "bin" / "gh"
    gh.write_text(GH)
    gh.chmod(0o755)
    done = levels.call("propose", "create", "--open")
    assert "the request: https://git.example.com/ada/levels/pull/7" in done.out
    assert Path(f"{gh}.arguments").read_text().splitlines() == command[1:]
    assert f"refs/heads/{REVIEW}" in levels.git("ls-remote", "origin")
    # One that is open already gets the new text.
    Path(f"{gh}.there").touch()
    levels.call("propose", "create", "--open")
    assert Path(f"{gh}.arguments").read_text().splitlines()[:3] == ["pr", "edit", REVIEW]


def test_gitlab_has_a_command_of_its_own(levels):
    levels.git("remote", "add", "origin", "https://gitlab.example.com/ada/levels.git")
    command = levels.call("propose", "create", "--json").document["command"]
    assert command.startswith(f"glab mr create --source-branch {REVIEW} --target-branch main")
    assert '--description "$(cat ' in command


# --- merged, reverted ----------------------------------------------------------------------------


MERGES = {
    "merge commit": ["merge", "--quiet", "--no-ff", "--no-edit", REVIEW],
    "squash": ["merge", "--quiet", "--squash", REVIEW],
    "squash of the experiment": ["merge", "--quiet", "--squash", "autopilot/levels"],
    "cherry-pick": ["cherry-pick", f"main..{REVIEW}"],
}


@pytest.mark.parametrize("how", MERGES)
def test_what_was_merged_is_known_and_can_be_taken_back(levels, how):
    levels.call("propose", "create")
    levels.git(*MERGES[how])
    if "squash" in how:
        levels.git("commit", "--quiet", "--no-edit")
    levels.change("README.md", ("readme", "read me"))
    levels.change(RULES, ("line 19\n", "the user's line\n"))
    assert state(levels) == ("merged", "main has epoch 4")
    refused(levels, "create", says="main has epoch 4 of levels already")
    with levels.untouched():
        done = levels.call("propose", "revert", "--reason", "worse in production")
    assert f"git switch main && git merge --ff-only {REVIEW}-revert" in done.out
    assert files(levels, "main", f"{REVIEW}-revert") == [RULES, NEW]
    text = levels.git("show", f"{REVIEW}-revert:{RULES}")
    assert text.startswith("2\n")
    assert text.endswith("the user's line")
    message = levels.git("show", "--no-patch", "--format=%B", f"{REVIEW}-revert")
    assert message.splitlines() == [
        "autopilot(levels): take epoch 4 back, with all before it",
        "",
        "worse in production",
        "",
        "Autopilot-Experiment: levels",
        "Autopilot-Reverts: 4",
        "Autopilot-Onto: main",
    ]
    tip = levels.git("rev-parse", f"{REVIEW}-revert")
    levels.call("propose", "revert", "--reason", "worse in production")
    assert levels.git("rev-parse", f"{REVIEW}-revert") == tip
    levels.git("merge", "--quiet", "--ff-only", f"{REVIEW}-revert")
    assert state(levels) == ("reverted", "main took it back")
    # It can be taken over and proposed again.
    known = f"main took it back once, by {tip[:7]}"
    assert known in levels.call("promote", "plan").out
    assert "3 commits on main" in levels.call("propose", "create").out
    levels.check_sound()


def test_a_squash_merge_of_the_requests_text_is_known(levels):
    document = levels.call("propose", "create", "--json").document
    levels.git("merge", "--quiet", "--squash", REVIEW)
    levels.git("commit", "--quiet", "-m", f"{document['title']} (#7)", "-m", document["body"])
    assert state(levels) == ("merged", "main has epoch 4")


def test_a_part_that_was_merged_is_not_proposed_again(levels):
    levels.call("promote", "execute", "--epoch", "3")
    document = levels.call("propose", "create", "--json").document
    assert [entry["epoch"] for entry in document["commits"]] == [4]
    assert document["title"] == "levels: val accuracy 0.750 -> 1.000"


def test_revert_of_what_is_not_merged_deletes_the_branch(levels, remote):
    levels.call("propose", "create", "--push")
    tip = levels.git("rev-parse", REVIEW)
    done = levels.call("propose", "revert")
    assert f"deleted {REVIEW}; it was at {tip[:10]}" in done.out
    assert f"origin/{REVIEW} is still there: the same with --push deletes it, too" in done.out
    assert "deleted it on origin" in levels.call("propose", "revert", "--push").out
    assert levels.git("for-each-ref", f"refs/heads/{REVIEW}") == ""
    assert levels.git("ls-remote", "origin", f"refs/heads/{REVIEW}") == ""
    assert "refs/heads/autopilot/levels" in levels.git("ls-remote", "origin")
    refused(levels, "revert", says="there is no proposal of levels here", hints="propose list")


def test_list_names_conflicts(levels):
    levels.call("propose", "create")
    levels.change(RULES, ("2\n", "3\n"))
    assert state(levels) == ("conflicts", f"epoch 1 of levels conflicts with main in {RULES}")
    line = levels.call("propose", "list").out.splitlines()[1]
    assert line.split()[:5] == ["levels", "conflicts", "main", "3", "4"]


# --- verify --------------------------------------------------------------------------------------


def test_verify_measures_both_and_the_claim_holds(levels):
    levels.change("README.md", ("readme", "read me"))
    levels.call("propose", "create")
    with levels.untouched():
        done = levels.run("propose", "verify", "--repeats", "2")
    main = levels.git("log", "-2", "--format=%h", "--abbrev=7", "main").splitlines()
    lines = done.out.splitlines()
    assert lines[1:] == [
        "run   base   head  change",
        "  1  0.250  1.000  +0.750",
        "  2  0.250  1.000  +0.750",
        "items: 8 by success, 6 better, 0 worse, 2 the same",
        "paired difference: +0.750, 95% interval +0.333 to +1.000 (above 0 is better)",
        "on record: test accuracy 1.000 in epoch 4",
        f"note: the record was measured on {main[1]}, and this is on {main[0]}",
        "the claim holds: head is better than base",
    ]


def test_verify_fails_when_the_record_is_not_what_is_measured(levels):
    levels.call("propose", "create")
    ref = "refs/notes/autopilot/levels/metrics"
    commit = levels.git("rev-parse", "autopilot/levels/epoch-0004^{commit}")
    note = levels.git("notes", f"--ref={ref}", "show", commit)
    records = [json.loads(line) for line in note.splitlines() if line]
    for record in records:
        if record["split"] == "test":
            record["metrics"]["accuracy"] = 0.9
    text = "\n".join(json.dumps(record) for record in records)
    levels.git("notes", f"--ref={ref}", "add", "--force", "-m", text, commit)
    done = levels.autopilot("propose", "verify", "--json")
    assert done.code == 1
    document = done.document
    assert document["holds"] is False
    assert document["failures"] == ["the record says 0.900, and it is 1.000"]
    assert levels.autopilot("propose", "verify", "--tolerance", "0.2").code == 0


def test_verify_fails_when_chance_may_do_as_well(levels):
    # In a fresh clone, the remote's branch is verified; one epoch is better by two items of eight.
    levels.call("propose", "create")
    levels.git("update-ref", f"refs/remotes/origin/{REVIEW}", f"{REVIEW}~2")
    levels.git("branch", "-D", "--quiet", REVIEW)
    done = levels.autopilot("propose", "verify")
    assert done.code == 1
    lines = done.out.splitlines()
    assert "items: 8 by success, 2 better, 0 worse, 6 the same" in lines
    assert "note: no test accuracy of it is on record to compare with" in lines
    assert lines[-1] == (
        "the claim does not hold: that it is better is not shown at 95%: chance may do as well"
    )


def test_verify_names_the_items_that_lost_their_value_of_a_metric_of_the_module(levels):
    levels.change(
        "levels.py",
        ("from autopilot import", "from autopilot.core.metrics import Mean\nfrom autopilot import"),
        (
            "self.rules =",
            'self.middle = Mean("level", higher_is_better=True)\n        self.rules =',
        ),
        ("Datum(success=level >=", 'Datum(metrics={"level": level}, success=level >='),
        (
            "    def configure_optimizers",
            "    def test_step(self, batch):\n"
            "        level = int(self.rules.read_text('größe a.txt').partition('\\n')[0])\n"
            "        if level > 2 and any(x.id in ('i7', 'i8') for x in batch.items):\n"
            "            raise ValueError('too long')\n"
            "        return self(batch)\n\n"
            "    def configure_optimizers",
        ),
    )
    levels.run("run", "levels.py", "-e", "lost", "--max-epochs", "1", "--monitor", "middle")
    levels.call("propose", "create", "lost")
    done = levels.autopilot("propose", "verify", "lost")
    assert done.code == 1
    assert "2 test items have no middle any more: i7, i8" in done.err


def test_verify_fails_where_only_the_items_are_better_and_the_metric_is_not(levels):
    levels.change(
        "levels.py",
        ("from autopilot import", "from autopilot.core.metrics import Mean\nfrom autopilot import"),
        (
            "self.rules =",
            'self.middle = Mean("level", higher_is_better=True)\n        self.rules =',
        ),
        ("Datum(success=level >=", 'Datum(metrics={"level": level}, success=level >='),
        (
            "    def configure_optimizers",
            "    def test_step(self, batch):\n"
            "        data = self(batch)\n"
            "        for item in data.items:\n"
            "            item.metrics['level'] *= -1\n"
            "        return data\n\n"
            "    def configure_optimizers",
        ),
    )
    levels.run("run", "levels.py", "-e", "worse", "--max-epochs", "1", "--monitor", "middle")
    levels.call("propose", "create", "worse")
    done = levels.autopilot("propose", "verify", "worse")
    assert done.code == 1
    assert re.search(r"by success, [0-9] better, 0 worse", done.out)
    assert re.search(r"does not hold: .*test middle itself is no better: -2.000 -> -", done.out)


def test_without_a_test_split_it_is_val_and_it_says_so(levels):
    levels.change("levels.py", ("val_dataloader = test_dataloader", "val_dataloader"))
    levels.run("run", "levels.py", "-e", "untested", "--max-epochs", "1")
    levels.call("propose", "create", "untested")
    done = levels.run("propose", "verify", "untested", "--confidence", "0.5")
    assert done.out.startswith("untested: val accuracy, base ")
    assert "note: there is no test split: this is val, which the epochs were chosen by" in done.out


def test_help_says_that_asking_models_anew_may_cost_money(place):
    assert "may cost money" in " ".join(place.call("propose", "verify", "--help").out.split())
