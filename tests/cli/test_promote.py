"""autopilot promote: an epoch taken over into a branch, after its gates."""

from __future__ import annotations

import pytest

from autopilot.git.repository import Repository
from autopilot.review import promotion

RULES = "größe und form/größe a.txt"
NEW = "größe und form/new rule.txt"


def level(place, revision):
    return place.git("show", f"{revision}:{RULES}").partition("\n")[0]


def changed(place, old, new):
    return place.git("-c", "core.quotePath=false", "diff", "--name-only", old, new).splitlines()


def refuse(place, *arguments, says, hints):
    before = place.snapshot()
    done = place.call("promote", "execute", *arguments, code=1)
    assert says in done.error, done
    assert hints in done.hint, done
    assert place.snapshot() == before
    return done


def test_plan_shows_files_score_and_gates_and_changes_nothing(levels):
    before = levels.snapshot()
    document = levels.call("promote", "plan", "--json").document
    lines = levels.call("promote", "plan").out.splitlines()
    assert levels.snapshot() == before
    assert lines[:5] == [
        "levels, epoch 4 -> main, squash",
        "val accuracy 0.250 -> 1.000, test 1.000",
        "file                         added  removed",
        "größe und form/größe a.txt      +1       -1",
        "größe und form/new rule.txt     +1       -0",
    ]
    command = "autopilot promote execute levels --into main --epoch 4 --squash"
    assert lines[-1] == f"do it: {command}"
    assert document["execute"] == command
    assert document["allowed"] is True
    assert [(gate["name"], gate["passed"]) for gate in document["gates"]] == [
        ("verdict", True),
        ("decision", True),
        ("merge", True),
        ("checkout", True),
        ("running", True),
    ]
    # The dry run of execute is the same.
    assert levels.call("promote", "execute", "--dry-run").out.splitlines() == lines
    assert levels.snapshot() == before


def test_a_branch_that_is_checked_out_nowhere_moves_and_no_file_does(levels):
    levels.git("branch", "release")
    levels.write("README.md", "being edited\n")
    levels.git("add", "README.md")
    with levels.untouched():
        document = levels.call(
            *("promote", "execute", "--into", "release", "--reason", "audited"),
            *("--reviewer", "Grace", "--json"),
        ).document
    tip = levels.git("rev-parse", "release")
    assert document["commit"] == tip
    assert document["updated"] is None
    assert levels.git("rev-parse", "release^") == levels.git("rev-parse", "main")
    assert changed(levels, "main", "release") == [RULES, NEW]
    assert level(levels, "release") == "8"
    message = levels.git("show", "--no-patch", "--format=%B", "release")
    source = levels.git("rev-parse", "autopilot/levels/epoch-0004^{commit}")
    assert message.splitlines() == [
        "autopilot(levels): take over epoch 4 (val accuracy 0.250 -> 1.000)",
        "",
        "audited",
        "",
        "epoch 1: raise the level to 4",
        "epoch 3: raise the level to 6",
        "epoch 4: raise the level to 8",
        "",
        "Autopilot-Experiment: levels",
        "Autopilot-Epoch: 4",
        f"Autopilot-Source: {source}",
        "Autopilot-Score: val accuracy 0.250 -> 1.000",
        "Autopilot-Onto: release",
        "Autopilot-Reviewer: Grace",
    ]
    trailers = levels.git("log", "-1", "--format=%(trailers:key=Autopilot-Epoch)", "release")
    assert trailers.strip() == "Autopilot-Epoch: 4"
    shown = levels.call("experiment", "show", "levels").out
    decision = f"epoch 4 ({source[:7]}) promoted into release as {tip[:7]} by Grace: audited"
    assert f"decision     {decision}" in shown
    event = levels.call("experiment", "show", "levels", "--json").document["decision"]
    assert (event["into"], event["merge"], event["reviewer"]) == ("release", tip, "Grace")
    levels.check_sound()


def test_a_branch_that_is_checked_out_and_clean_takes_its_files_along(levels):
    levels.write("notes.txt", "untracked, and not in the way\n")
    done = levels.call("promote", "execute")
    assert levels.read(RULES).startswith("8\n")
    assert levels.read(NEW) == "more\n"
    assert levels.git("status", "--short") == "?? notes.txt"
    assert f"main is checked out in {levels.top}: its files came along" in done.out
    assert "autopilot: promote epoch 4 of levels" in levels.git("reflog", "-1", "main")
    levels.check_sound()
    again = levels.call("promote", "execute")
    tip = levels.git("rev-parse", "--short=7", "main")
    assert again.out == f"main has epoch 4 of levels already, by {tip}\n"
    assert "there is nothing to do: main has it" in levels.call("promote", "plan").out


def test_a_linked_worktree_counts_as_well(levels, tmp_path):
    other = tmp_path / "ande rer"
    levels.git("worktree", "add", "--quiet", "-b", "release", str(other))
    (other / "README.md").write_text("being edited\n")
    refuse(
        levels,
        *("--into", "release"),
        says=f"release is checked out in {other} with uncommitted changes (README.md)",
        hints="commit them, or `git stash` them, there",
    )
    levels.git("checkout", "--", "README.md", cwd=other)
    with levels.untouched():
        levels.call("promote", "execute", "--into", "release")
    assert (other / RULES).read_text().startswith("8\n")
    assert levels.git("status", "--short", cwd=other) == ""


def test_files_that_are_not_committed_are_not_overwritten(levels):
    levels.write(RULES, "5\n")
    refuse(levels, says="uncommitted changes", hints="git stash")
    levels.git("checkout", "--", ".")
    levels.write("README.md", "staged\n")
    levels.git("add", "README.md")
    refuse(levels, says="uncommitted changes (README.md)", hints="commit them")
    levels.git("reset", "--quiet", "--hard")
    levels.write(NEW, "mine\n")
    refuse(levels, says=f"{NEW} in {levels.top} is not tracked", hints="move it away")
    # An ignored file is as dear; `git merge` alone would overwrite it.
    levels.write(".git/info/exclude", "new rule.txt\n")
    refuse(levels, says=f"{NEW} in {levels.top} is not tracked", hints="move it away")
    assert levels.read(NEW) == "mine\n"


def test_what_the_branch_changed_meanwhile_stays(levels):
    levels.change(RULES, ("line 19\n", "the user's line\n"))
    levels.change("README.md", ("readme", "read me"))
    levels.call("promote", "execute")
    text = levels.read(RULES)
    assert text.startswith("8\nline 1\n")
    assert text.endswith("the user's line\n")
    assert levels.read("README.md") == "read me\n"


def test_no_ff_makes_a_merge_commit_that_git_knows(levels):
    levels.change("README.md", ("readme", "read me"))
    old = levels.git("rev-parse", "main")
    levels.call("promote", "execute", "--no-ff")
    epoch = levels.git("rev-parse", "autopilot/levels/epoch-0004^{commit}")
    assert levels.git("show", "--no-patch", "--format=%P", "main").split() == [old, epoch]
    assert changed(levels, old, "main") == [RULES, NEW]
    assert levels.git("merge", "autopilot/levels").startswith("Already up to date")
    levels.check_sound()


def test_ff_only_moves_the_branch_to_the_epochs_own_commit(levels):
    levels.call("promote", "execute", "--ff-only", "--epoch", "3")
    epoch = levels.git("rev-parse", "autopilot/levels/epoch-0003^{commit}")
    assert levels.git("rev-parse", "main") == epoch
    assert levels.git("status", "--short") == ""
    levels.change("README.md", ("readme", "read me"))
    refuse(
        levels,
        "--ff-only",
        says="main has commits that autopilot/levels has not",
        hints="--squash or --no-ff",
    )
    # The rest of it still can be taken over, and only that is said.
    levels.call("promote", "execute")
    body = levels.git("show", "--no-patch", "--format=%b", "main")
    assert "epoch 4: raise the level to 8" in body
    assert "epoch 3" not in body
    assert level(levels, "main") == "8"


@pytest.mark.parametrize("method", ["--no-ff", "--ff-only"])
def test_only_the_parameters_changes_get_in(levels, method):
    # Somebody committed something else on the branch that it started from, and it was taken back.
    levels.git("branch", "old")
    levels.change("README.md", ("readme", "read me"))
    levels.run("run", "levels.py", "-e", "second", "--max-epochs", "1")
    refuse(
        levels,
        *("second", "--into", "old", method),
        says="none of the parameters' (README.md)",
        hints="--squash",
    )
    levels.call("promote", "execute", "second", "--into", "old")
    assert changed(levels, "old^", "old") == [RULES, NEW]


def test_an_epoch_that_was_rejected_is_not_taken_over(levels):
    refuse(levels, "--epoch", "2", says="the policy rejected it: val", hints="autopilot log")
    refuse(levels, "--epoch", "0", says="it is the baseline", hints="choose a kept one")
    levels.call("experiment", "decide", "levels", "reject", "--reason", "worse in the audit")
    command = "autopilot experiment decide levels promote --epoch 4"
    refuse(
        levels,
        says="rejected by hand by Ada Byron: worse in the audit",
        hints=command,
    )
    plan = levels.call("promote", "plan", code=1)
    assert "it would be refused:" in plan.out
    # Another epoch was not rejected, and the latest decision holds.
    levels.call("promote", "execute", "--epoch", "3")
    done = levels.call(*command.split()[1:])
    assert "Take it over: autopilot promote execute levels --epoch 4" in done.out
    levels.call("promote", "execute")
    assert level(levels, "main") == "8"
    refuse(
        levels,
        *("--epoch", "1"),
        says="main has epoch 4 already",
        hints="autopilot propose revert levels",
    )


def test_a_conflict_is_named_and_nothing_is_written(levels):
    levels.change(RULES, ("2\n", "7\n"))
    for method in ("--squash", "--no-ff"):
        refuse(
            levels,
            method,
            says=f"epoch 4 of levels conflicts with main in {RULES}",
            hints="git diff main...autopilot/levels",
        )


def test_what_is_no_branch_of_ones_own_is_refused(levels):
    refuse(levels, "--into", "nowhere", says="there is no branch nowhere", hints="git branch --all")
    levels.git("update-ref", "refs/remotes/origin/release", "main")
    refuse(
        levels,
        *("--into", "release"),
        says="origin/release is a remote's branch",
        hints="git branch release origin/release",
    )
    levels.git("branch", "--move", "main", "trunk")
    refuse(levels, says="there is no branch main", hints="levels started from it; name the branch")
    done = levels.call("promote", "execute", "--squash", "--no-ff", code=2)
    assert "exclude one another" in done.error


def test_a_decision_that_a_kill_kept_from_being_written_is_written_later(levels, monkeypatch):
    def killed(*arguments, **options):
        raise KeyboardInterrupt

    repo = Repository.discover(levels.top)
    with monkeypatch.context() as patch:
        patch.setattr(promotion, "record_decision", killed)
        with pytest.raises(KeyboardInterrupt):
            promotion.promote(repo, "levels")
    tip = levels.git("rev-parse", "main")
    assert level(levels, "main") == "8"
    assert "none yet" in levels.call("experiment", "show", "levels").out
    done = levels.call("promote", "execute", "--reason", "again")
    assert f"promoted into main as {tip[:7]} by Ada Byron: again" in done.out
    assert levels.git("rev-parse", "main") == tip


def test_the_policy_as_it_is_now_is_asked_where_that_is_wanted(levels):
    asked = ("promote", "plan", "--policy", "--into", "release", "--json")
    levels.git("branch", "release")
    gates = {gate["name"]: gate for gate in levels.run(*asked).document["gates"]}
    assert gates["policy"]["detail"].startswith(
        "DefaultPolicy keeps it now: val accuracy 0.750 -> 1.000"
    )
    levels.change(
        "levels.py",
        ("PathParameter, Step", "PathParameter, RangeGate, Step, QualityFirstPolicy"),
        (
            "    def train_dataloader",
            "    def configure_policy(self):\n"
            "        return QualityFirstPolicy([RangeGate('accuracy', 0, 0.9)])\n\n"
            "    def train_dataloader",
        ),
    )
    levels.refused(
        *("promote", "execute", "--policy", "--into", "release"),
        says=(
            "epoch 4 of levels is not taken over into release: QualityFirstPolicy does not keep",
        ),
        hints=("autopilot policy explain 4 -e levels",),
    )
    with levels.untouched():
        levels.run("promote", "execute", "--into", "release")
