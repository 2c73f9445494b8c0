"""autopilot.sandbox.confinement: links during a step; whole runs are in tests/cli."""

import os

import pytest

from autopilot.errors import ConfinementError
from autopilot.sandbox.confinement import COPIED_BYTES, LinkedFiles
from autopilot.sandbox.workspace import Link


@pytest.fixture
def link(tmp_path):
    """A folder of the user's, linked into a worktree."""
    source, place = tmp_path / "own" / "data", tmp_path / "worktree" / "data"
    for folder in (source, place.parent):
        folder.mkdir(parents=True)
    (source / "cases.txt").write_text("1\n")
    place.symlink_to(source)
    return Link("data", source, place)


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
