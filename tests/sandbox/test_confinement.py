"""autopilot.sandbox.confinement: a step, and links during one; whole runs are in tests/cli."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from autopilot.errors import ConfinementError
from autopilot.sandbox import processes
from autopilot.sandbox.audit_hooks import Inputs
from autopilot.sandbox.confinement import COPIED_BYTES, LinkedFiles, guard_of
from autopilot.sandbox.workspace import Link, Workspace
from autopilot.tracking import GitStore
from tests.waiting import wait_for


@pytest.fixture
def link(tmp_path):
    """A folder of the user's, linked into a worktree."""
    source, place = tmp_path / "own" / "data", tmp_path / "worktree" / "data"
    for folder in (source, place.parent):
        folder.mkdir(parents=True)
    (source / "cases.txt").write_text("1\n")
    place.symlink_to(source)
    return Link("data", source, place)


@pytest.fixture
def guard(repository):
    """The guard of an experiment in the user's own checkout."""
    workspace = Workspace(repository, repository, "")
    inputs = Inputs(repository, repository.head_commit(), (), in_place=True)
    store = GitStore("a", repository.workdir)
    store.progress_file.path.parent.mkdir()
    yield guard_of(workspace, "a", (), inputs, store)
    store.progress_file.close()


def test_a_step_is_compared_with_how_it_began_once(guard):
    readme, before = guard.repo.workdir / "README.md", dict(os.environ)
    adopting = processes._adopting
    guard.confine()
    readme.write_text("the agent's\n")
    assert guard.put_back() == ["changed README.md: left, since it may be yours"]
    assert os.environ == before
    assert processes._adopting == adopting, "later orphans are no children of this process"
    assert guard.put_back() == []
    readme.write_text("the user's\n")
    guard.confine()
    assert guard.put_back() == []


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")
def test_what_an_agent_left_is_ended_where_nobody_adopts_it(guard, monkeypatch):
    monkeypatch.setattr("autopilot.sandbox.confinement.adopt", lambda *, is_on: 0.0)
    guard.confine()
    started = subprocess.run(
        ["sh", "-c", "setsid sleep 600 >&- & echo $!"], stdout=subprocess.PIPE, check=True
    )
    guard.put_back()
    wait_for(lambda: not Path(f"/proc/{int(started.stdout)}/exe").exists())


def test_a_small_link_becomes_a_copy_once(link):
    links = LinkedFiles([link], "a")
    assert links.covers("data/cases.txt") and links.covers("data") and not links.covers("data2")
    links.look()
    assert link.place.is_dir() and not link.place.is_symlink()
    (link.place / "cases.txt").write_text("hacked\n")
    links.look()
    links.check()
    assert (link.source / "cases.txt").read_text() == "1\n"
    assert (link.place / "cases.txt").read_text() == "hacked\n", "the guard puts it back, not this"


@pytest.mark.parametrize("why", ["large", "link"])
def test_what_is_large_or_has_links_stays_a_link(link, why):
    if why == "link":
        (link.source / "more").symlink_to("/etc")
    else:
        with (link.source / "large").open("wb") as file:
            file.truncate(COPIED_BYTES + 1)
    links = LinkedFiles([link], "a")
    links.look()
    assert link.place.is_symlink()
    links.check()


def test_a_file_stays_a_link_where_there_is_no_room_for_a_copy(link, monkeypatch):
    def copy(source, made):
        made.write_bytes(source.read_bytes()[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copy2", copy)
    own, place = link.source / "cases.txt", link.place.with_name("cases.txt")
    place.symlink_to(own)
    LinkedFiles([Link("cases.txt", own, place)], "a").look()
    assert place.readlink() == own


def test_a_change_of_the_users_own_file_stops_the_run(link):
    links, own = LinkedFiles([link], "a"), link.source / "cases.txt"
    links.look()
    own.write_text("1\n")
    os.utime(own, (1, 1))
    links.check()  # the same content
    own.write_text("2\n")
    with pytest.raises(ConfinementError, match=r"cases\.txt was changed") as caught:
        links.check()
    assert "autopilot resume a" in caught.value.hint
    own.unlink()
    with pytest.raises(ConfinementError, match=r"cases\.txt was removed"):
        links.check()
    own.write_text("1\n")
    (link.source / "new").write_text("x")
    with pytest.raises(ConfinementError, match="new was made"):
        links.check()
