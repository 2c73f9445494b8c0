"""autopilot.git.workfiles, and hashing what is below a folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from autopilot.errors import ParameterError
from autopilot.files import list_files
from autopilot.git.repository import Repository
from autopilot.git.workfiles import WorkFiles, everything_below, stamps_below, stamps_of


def everything(_name: str) -> bool:
    return True


@pytest.fixture
def top(repository: Repository) -> Path:
    """A worktree with what a folder of files may hold."""
    top = repository.workdir
    for name in ("rules/deep/er/b.md", "rules/deep/c.txt", "rules/.git/config", "other/d.md"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(f"{name}\n")
    (top / "rules" / ".autopilot-tmp-1").touch()
    (top / "rules" / "link").symlink_to("deep")
    (top / "rules" / "dangling").symlink_to("nowhere")
    os.mkfifo(top / "rules" / "pipe")
    (top / os.fsdecode(b"rules/\xff")).write_text("no UTF-8\n")
    return top


def test_below_a_folder_are_the_files_that_are_listed_there(top: Path) -> None:
    for folder in ("rules/", ""):
        listed = [folder + name for name in list_files(top / folder)]
        files = WorkFiles(Repository.discover(top), top)
        assert sorted(files.hash_below(folder, everything)) == listed
        assert files.hash_below(folder, everything) == files.hash(listed)


def test_only_accepted_names_are_looked_at(top: Path) -> None:
    found = stamps_below(top, "rules/", lambda name: name.endswith(".md"))
    assert [name for name, _ in found] == ["rules/deep/er/b.md"]


def test_both_ways_give_the_same_stamp(top: Path) -> None:
    below = dict(stamps_below(top, "rules/", everything))
    assert below == dict(stamps_of(top, [*below, "rules/missing", "rules/a.txt/x"]))
    status = (top / "rules/a.txt").stat()
    assert below["rules/a.txt"] == (
        status.st_mtime_ns,
        status.st_size,
        status.st_ctime_ns,
        status.st_ino,
        status.st_mode,
    )


def test_nothing_is_below_what_is_no_folder(top: Path) -> None:
    for folder in ("missing/", "README.md/", "rules/link/", "rules/link/er/"):
        assert list(stamps_below(top, folder, everything)) == []
    assert list(stamps_below(top / "missing", "", everything)) == []


def test_an_edit_is_seen_and_not_read_twice(top: Path) -> None:
    files = WorkFiles(Repository.discover(top), top)
    before = files.hash_below("rules/", everything)
    (top / "rules" / "a.txt").write_text("A\n")
    (top / "rules" / "deep" / "new.md").write_text("new\n")
    after = files.hash_below("rules/", everything)
    assert after.keys() - before.keys() == {"rules/deep/new.md"}
    assert [name for name in before if before[name] != after[name]] == ["rules/a.txt"]
    (top / "rules" / "a.txt").unlink()
    assert "rules/a.txt" not in files.hash_below("rules/", everything)


def test_attributes_that_appear_count_for_all_files_below(top: Path) -> None:
    files = WorkFiles(Repository.discover(top), top)
    (top / "rules" / "a.txt").write_bytes(b"a\r\n")
    raw = files.hash_below("rules/", everything)["rules/a.txt"]
    (top / "rules" / ".gitattributes").write_text("* text\n")
    assert files.hash_below("rules/", everything)["rules/a.txt"] != raw


def test_a_folder_that_cannot_be_read_is_told(top: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    (top / "other").chmod(0)
    with pytest.raises(ParameterError, match="cannot read other"):
        list(stamps_below(top, "other/", everything))


def test_everything_is_all_but_the_own_git_folder(top: Path) -> None:
    (top / "empty").mkdir()
    os.mkfifo(top / "pipe")
    found = everything_below(top)
    there = {path.relative_to(top).as_posix() for path in top.rglob("*")}
    assert found.keys() == {name for name in there if name.partition("/")[0] != ".git"}
    assert {"rules/.git/config", "rules/.autopilot-tmp-1", "rules/link", "pipe", "empty"} <= {
        *found
    }
    before = found["rules/deep/c.txt"]
    (top / "rules/deep/c.txt").write_text("rules/deep/c.TXT\n")
    os.utime(top / "rules/deep/c.txt", ns=(before[0], before[0]))
    assert everything_below(top)["rules/deep/c.txt"] != before, "times that were set back are seen"
