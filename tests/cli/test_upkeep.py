"""doctor, gc, --version and shell completion, as real processes."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from autopilot.git.locks import ExclusiveLock
from tests.cli.conftest import COMMAND, Place


def killed(place: Place, slug: str) -> Path:
    """A run that was killed after its first epoch; the folder of its worktree."""
    slow = (
        "import os, time; time.sleep(float(os.environ.get('SLEEP', 0)))\n        return Datum(items"
    )
    place.change("counter.py", ("return Datum(items", slow))
    process = place.start("run", "counter.py", "-e", slug, SLEEP="0.2")
    while f"{slug}/epoch-0001" not in place.git("tag"):
        assert process.poll() is None, place.finish(process)
        time.sleep(0.05)
    process.kill()
    place.finish(process)
    assert process.returncode == -signal.SIGKILL
    (worktree,) = (p.parent for p in place.cache.rglob(".git"))
    return worktree


def findings(place: Place, *arguments: str) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for finding in place.autopilot("doctor", "--json", *arguments).document["checks"]:
        found.setdefault(finding["name"], []).append(finding)
    return found


def test_a_sound_place_is_said_to_be_one(place: Place) -> None:
    with place.untouched():
        done = place.run("doctor")
    assert done.out.splitlines()[-1].startswith("autopilot can work here")
    assert "ok       identity: commits are by Ada Byron <ada@example.com>" in done.out
    assert "failed" not in done.out


def test_outside_of_a_repository_it_says_what_to_do(place: Place, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    done = place.autopilot("doctor", cwd=outside)
    assert done.code == 1
    assert "is not in a git repository" in done.out
    assert "mend it: run `git init`" in done.out
    assert done.out.splitlines()[-1].startswith("1 problem")


@pytest.mark.parametrize("name", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"])
def test_a_key_is_named_and_never_shown(place: Place, name: str) -> None:
    done = place.run("doctor", **{"ANTHROPIC_API_KEY": "", name: "sk-ant-planted-1"})
    assert f"{name} is set" in done.out
    assert "planted" not in done.out + done.err


def test_a_killed_run_is_found_and_its_worktree_kept(place: Place) -> None:
    worktree = killed(place, "grun")
    (place.top / ".git/refs/heads/autopilot/grun.lock").touch()
    found = findings(place)
    assert found["runs"] == [
        {
            "name": "runs",
            "state": "warning",
            "detail": "grun was killed",
            "mend": "autopilot resume grun",
        }
    ]
    assert found["worktrees"][0]["state"] == "ok"
    assert found["locks"][0]["mend"] == "autopilot gc"

    place.run("gc")
    assert worktree.is_dir()
    assert findings(place)["locks"][0]["state"] == "ok"
    place.run("resume", "grun")
    assert "none of them unfinished" in findings(place)["runs"][0]["detail"]
    place.check_sound()


def test_a_run_that_crashed_is_found(place: Place) -> None:
    place.change("counter.py", ("x = self.parameters[0]", "x = self.parameters[1]"))
    assert place.autopilot("run", "counter.py", "-e", "one").code == 1
    assert findings(place)["runs"][0]["detail"] == "one crashed"


def test_what_nobody_needs_is_removed_and_nothing_else(place: Place) -> None:
    worktree = killed(place, "one")
    place.run("run", "counter.py", "-e", "two", "--max-epochs", "1")
    other = worktree.parent / "two"
    place.git("worktree", "add", "--detach", str(other), "HEAD")
    mine = place.top.parent / "my own worktree"
    place.git("worktree", "add", "--detach", str(mine), "HEAD")
    (other / "left.txt").write_text("left")
    gone = worktree.parent / "never-was"
    place.git("worktree", "add", "--detach", str(gone), "HEAD")
    removed = worktree.parent / "by-hand"
    place.git("worktree", "add", "--detach", str(removed), "HEAD")
    shutil.rmtree(removed)
    measuring = worktree.parent / ".measure-0"
    place.git("worktree", "add", "--detach", str(measuring), "HEAD")

    before = place.snapshot()
    planned = place.run("gc", "--dry-run", "--json").document
    assert before == place.snapshot()
    assert {i["kind"] for i in planned["removed"]} == {"worktree", "journal"}
    trees = {i["path"]: i["why"] for i in planned["removed"] if i["kind"] == "worktree"}
    assert trees == {
        str(removed): "its folder is gone, git still lists it",
        str(measuring): "a measurement was killed",
        str(other): "two is finished",
        str(gone): "there is no experiment never-was",
    }

    done = place.run("gc", "--json").document
    assert done["removed"] == planned["removed"]
    assert (worktree.is_dir(), mine.is_dir()) == (True, True)
    assert (other.exists(), gone.exists()) == (False, False)
    listed = place.git("worktree", "list")
    assert [n for n in ("two", "never-was", "by-hand", ".measure-0") if f"/{n} " in listed] == []
    assert place.run("gc").out.startswith("nothing is left over")
    place.run("resume", "one")


def test_a_worktree_in_use_stays(place: Place) -> None:
    worktree = killed(place, "one")
    process = place.start("resume", "one", SLEEP="0.1")
    time.sleep(0.6)
    assert process.poll() is None
    assert place.run("gc", "--json").document["removed"] == []
    assert "is run by process" in findings(place)["runs"][0]["detail"]
    assert place.finish(process).code == 0
    assert not worktree.exists()


def test_gc_takes_no_pack_away_while_a_run_goes_on(place: Place) -> None:
    packs = set[Path]()
    with ExclusiveLock(place.top / ".git/autopilot/going-on.lock"):
        for number in range(3):
            place.write("notes.txt", str(number))
            place.commit()
            place.run("gc")
            before, packs = packs, set((place.top / ".git/objects/pack").glob("*.pack"))
            assert before < packs
    place.write("notes.txt", "the last")
    place.commit()
    place.run("gc")
    assert not packs <= set((place.top / ".git/objects/pack").glob("*.pack"))


def test_gc_packs_and_keeps_every_object(place: Place) -> None:
    place.run("run", "counter.py", "-e", "one")
    before = place.git("rev-list", "--all", "--objects", "--count")
    assert "packed: about" in place.run("gc").out
    assert place.git("rev-list", "--all", "--objects", "--count") == before
    assert place.git("count-objects") == "0 objects, 0 kilobytes"
    place.git("config", "gc.auto", "0")
    assert "not packed: gc.auto is 0" in place.run("gc").out


def test_hooks_are_looked_at(place: Place) -> None:
    assert findings(place)["hooks"][0]["state"] == "ok"
    place.git("remote", "add", "origin", "../remote.git")
    missing = findings(place)["hooks"][0]
    assert (missing["state"], missing["mend"]) == ("warning", "autopilot hooks install")
    place.run("hooks", "install")
    assert "pre-push" in findings(place)["hooks"][0]["detail"]
    hook = place.top / ".git/hooks/pre-push"
    hook.write_text(hook.read_text() + "echo mine\n")
    assert "not as this version" in findings(place)["hooks"][0]["detail"]


def test_a_lost_tag_is_found(place: Place) -> None:
    place.run("run", "counter.py", "-e", "one")
    tag = "autopilot/one/epoch-0002"
    before = place.git("cat-file", "-p", f"{tag}^{{commit}}"), place.git("tag", "-ln99", tag)
    place.git("tag", "--delete", tag)
    done = place.autopilot("doctor")
    assert done.code == 1
    assert "one has no tag epoch-0002" in done.out
    assert "mend it: autopilot gc" in done.out
    assert "would make 1 tag of one again" in place.run("gc", "-n").out
    assert 2 not in place.tags("one")
    assert place.run("gc", "--json").document["tags"] == {"one": [2]}
    after = place.git("cat-file", "-p", f"{tag}^{{commit}}"), place.git("tag", "-ln99", tag)
    assert after == before


def test_the_version_names_what_it_stands_on(place: Place) -> None:
    git = place.git("--version").removeprefix("git version ")
    said = place.run("--version").out
    assert said.startswith("autopilot ")
    assert f"git {git}" in said
    assert place.run("--json", "--version").document["Python"] == platform.python_version()
    assert "--version" in place.run("--help").out


@pytest.mark.parametrize(
    ("typed", "completed"), [("autopilot do", "doctor"), ("autopilot store ch", "checkout")]
)
def test_the_shell_completes_commands(place: Place, typed: str, completed: str) -> None:
    environment = {
        "_AUTOPILOT_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(typed.count(" ")),
    }
    done = subprocess.run(
        COMMAND, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [completed]
