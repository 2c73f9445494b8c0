"""autopilot.files."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopilot.cli.reading import _write
from autopilot.core.parameter import PathParameter
from autopilot.data.dataset import write_jsonl
from autopilot.errors import ParameterError
from autopilot.files import (
    EXECUTABLE,
    REGULAR,
    STAGING,
    SYMLINK,
    TEMPORARY,
    FileState,
    LinkedFolders,
    glob_regex,
    list_files,
    read_file,
    remove_file,
    replace_file,
    rests_in,
)
from autopilot.git.repository import Repository
from autopilot.git.worktrees import add_worktree
from autopilot.sharing.hooks import hook_folder, hook_texts, install_hooks
from autopilot.tracking.upkeep import clear, find_litter


@pytest.mark.parametrize(
    "state",
    [
        FileState(REGULAR, b"a\r\n\0\xff"),
        FileState(EXECUTABLE, b"#!/bin/sh\n"),
        FileState(SYMLINK, b"no/where\xff"),
        FileState(REGULAR, b""),
    ],
)
@pytest.mark.parametrize("name", ["a", "deep/er/a", "ü \n*", os.fsdecode(b"\xff")])
def test_what_is_written_is_read(tmp_path: Path, name: str, state: FileState) -> None:
    for before in (REGULAR, EXECUTABLE, SYMLINK):
        replace_file(tmp_path, name, FileState(before, b"before"))
        replace_file(tmp_path, name, state)
        assert read_file(tmp_path / name) == state
    assert list(list_files(tmp_path)) == [name]


def test_permissions_are_kept_or_follow_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "a"
    mask = os.umask(0o022)
    os.umask(mask)
    replace_file(tmp_path, "a", FileState(REGULAR, b"x"))
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    path.chmod(0o640)
    replace_file(tmp_path, "a", FileState(EXECUTABLE, b"x"))
    assert path.stat().st_mode & 0o777 == 0o750
    replace_file(tmp_path, "a", FileState(REGULAR, b"x"))
    assert path.stat().st_mode & 0o777 == 0o640


def test_the_mode_of_a_links_target_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "a").symlink_to("secret")
    replace_file(tmp_path, "b", FileState(REGULAR, b"x"))
    replace_file(tmp_path, "a", FileState(REGULAR, b"x"))
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode
    assert (tmp_path / "secret").read_text() == "x"


def test_files_and_folders_make_room_for_each_other(tmp_path: Path) -> None:
    replace_file(tmp_path, "a", FileState(REGULAR, b"file"))
    replace_file(tmp_path, "a/b/c", FileState(REGULAR, b"below"))
    assert list(list_files(tmp_path)) == ["a/b/c"]
    replace_file(tmp_path, "a", FileState(SYMLINK, b"x"))
    replace_file(tmp_path, "a/b", FileState(REGULAR, b"below"))
    assert list(list_files(tmp_path)) == ["a/b"]


def test_nothing_is_left_behind_when_a_file_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="cannot write"):
        replace_file(tmp_path, "x" * 300, FileState(REGULAR, b"x"))
    with pytest.raises(ParameterError, match="cannot write"):
        replace_file(tmp_path, "a", FileState(SYMLINK, b"x" * 10_000))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["/a", "../a", "a/../b", "./a", "a//b", "", ".git/x", "a/.GIT/b"])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ParameterError, match="refusing to write"):
        replace_file(tmp_path, name, FileState(REGULAR, b"x"))
    with pytest.raises(ParameterError, match="refusing to write"):
        remove_file(tmp_path, name)


def test_removal_takes_emptied_folders_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a/b/c", "a/d", "outside/x"):
        replace_file(tmp_path, name, FileState(REGULAR, b"x"))
    (tmp_path / "link").symlink_to("outside")
    for name in ("a/b/c", "missing", "a/d/below-a-file", "a", "link/x"):
        remove_file(tmp_path, name)
    assert list(list_files(tmp_path)) == ["a/d", "link", "outside/x"]
    assert not (tmp_path / "a" / "b").exists()
    remove_file(tmp_path, "link")
    remove_file(tmp_path, "a/d")
    assert list(list_files(tmp_path)) == ["outside/x"]


def test_what_a_kill_left_half_written_goes_with_the_next_write(tmp_path: Path) -> None:
    def killed(source: Path, target: Path) -> None:
        os._exit(9)

    for state in (FileState(REGULAR, b"x"), FileState(SYMLINK, b"y"), FileState(REGULAR, b"z")):
        if (child := os.fork()) == 0:
            os.replace = killed
            replace_file(tmp_path, "a/b", state)
        os.waitpid(child, 0)
        assert sorted(p.name for p in (tmp_path / "a").iterdir())[0].startswith(TEMPORARY)
        replace_file(tmp_path, "a/b", state)
        assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]
        assert read_file(tmp_path / "a/b") == state


def _report(place: Path) -> None:
    _write(place / "report.html", "x")  # as `report -o` does


def _hooks(place: Path) -> None:
    folder = replace(hook_folder(place), path=place)  # as core.hooksPath may say
    install_hooks(folder, hook_texts(folder, ["pre-push"]))


WRITERS = {
    "parameter": lambda place: PathParameter(place, "*").write_text("x", "a.txt"),
    "store": lambda place: replace_file(place, "a.txt", FileState(REGULAR, b"x")),
    "dataset": lambda place: write_jsonl(place / "a.jsonl", [{"id": 1}]),
    "report": _report,
    "hooks": _hooks,
}


@pytest.mark.parametrize("where", ["main", "linked"])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_kill_leaves_nothing_in_a_folder_of_the_users(
    repository: Repository, tmp_path: Path, writer: str, where: str
) -> None:
    def killed(source: Path, target: Path) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    repo = repository
    if where == "linked":
        repo = add_worktree(repository, tmp_path / "linked", repository.head_commit())
    place = repo.workdir / "rules"
    before = sorted(place.iterdir())
    if (child := os.fork()) == 0:
        os.replace = killed
        WRITERS[writer](place)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert sorted(place.iterdir()) == before
    (rest,) = rests_in(repo.git_dir / STAGING, below=False)
    WRITERS[writer](place)
    assert len(list(place.iterdir())) == len(before) + (writer not in ("parameter", "store"))
    assert list(rests_in(place, below=True)) == []
    # What the next write does not replace, gc takes once no process can need it.
    assert find_litter(repo) == []
    os.utime(rest, (1, 1))
    (litter,) = find_litter(repo)
    assert (litter.path, clear(repo, litter)) == (rest, litter) and not rest.exists()


def test_a_git_folder_that_is_gone_or_of_another_checkout_is_not_used(
    repository: Repository, tmp_path: Path
) -> None:
    linked = add_worktree(repository, tmp_path / "linked", repository.head_commit())
    place, pointer = linked.workdir / "rules", linked.workdir / ".git"
    replace_file(place, "a.txt", FileState(REGULAR, b"x"))
    # As during a step, where git's commands of an agent use a private folder; or an agent's own.
    for elsewhere in (tmp_path / "private", repository.common_dir, Path("/nowhere")):
        if not elsewhere.exists() and elsewhere.is_relative_to(tmp_path):
            (elsewhere / "refs").mkdir(parents=True)
            (elsewhere / "HEAD").write_text("ref: refs/heads/main\n")
        pointer.write_text(f"gitdir: {elsewhere}\n")
        shutil.rmtree(linked.git_dir / STAGING, ignore_errors=True)
        replace_file(place, "a.txt", FileState(REGULAR, b"y"))
        assert not (elsewhere / STAGING).exists()
    assert [path.name for path in place.iterdir()] == ["a.txt"]


def test_files_made_in_the_git_folder_are_as_if_made_beside(repository: Repository) -> None:
    place = repository.workdir / "rules"
    place.chmod(0o2775)
    (group, *_) = [g for g in os.getgroups() if g != os.getgid()] or [os.getgid()]
    os.chown(place, -1, group)
    replace_file(place, "new", FileState(REGULAR, b"x"))
    (place / "beside").touch()
    made, beside = (place / "new").stat(), (place / "beside").stat()
    assert (made.st_gid, made.st_mode) == (beside.st_gid, beside.st_mode)


def test_a_file_that_cannot_be_removed_is_told(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="cannot remove") as raised:
        remove_file(tmp_path, "x" * 300)
    assert raised.value.hint == "choose a shorter name, then resume"


def test_listing_leaves_out_what_is_no_file(tmp_path: Path) -> None:
    for name in ("b/y.md", "a.md", "b/x.txt", ".hidden", ".autopilot-mine"):
        replace_file(tmp_path, name, FileState(REGULAR, b"x"))
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").touch()
    (tmp_path / ".autopilot-tmp-1").touch()
    (tmp_path / "loop").symlink_to(".")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(tmp_path)
        try:
            server.bind("socket")
        finally:
            os.chdir(here)
    assert list(list_files(tmp_path)) == [
        ".autopilot-mine",
        ".hidden",
        "a.md",
        "b/x.txt",
        "b/y.md",
        "loop",
    ]
    assert list(list_files(tmp_path, "**/*.md")) == ["a.md", "b/y.md"]
    assert list(list_files(tmp_path, "*.md")) == ["a.md"]


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("**/*", ["a", "a/b", ".x", "a\nb"], []),
        ("a/**", ["a/b", "a/b/c"], ["b", "a"]),
        ("*.md", ["x.md", ".md"], ["a/x.md", "xmd"]),
        ("a?c", ["abc"], ["a/c", "ac"]),
        ("[a-c]x", ["ax", "cx"], ["dx", "-x"]),
        ("[!a]x", ["bx"], ["ax", "/x"]),
        ("[^a]x", ["bx"], ["ax", "/x"]),
        ("[]]x", ["]x"], ["x"]),
        ("[[&&||~~]", ["[", "&", "|", "~"], ["a"]),
        ("[a", ["[a"], ["a"]),
        ("a+(b).c", ["a+(b).c"], ["aab.c"]),
    ],
)
def test_patterns(pattern: str, matching: list[str], other: list[str]) -> None:
    regex = glob_regex(pattern)
    assert [name for name in matching if not regex.fullmatch(name)] == []
    assert [name for name in other if regex.fullmatch(name)] == []


def test_a_bad_pattern_is_told() -> None:
    with pytest.raises(ParameterError, match="is not a pattern"):
        glob_regex("[z-a]")


@given(st.text(alphabet="ab*?[]!^-&|~\\/.("))
def test_any_pattern_is_a_regex_or_an_error(pattern: str) -> None:
    try:
        glob_regex(pattern)
    except ParameterError:
        assert "[" in pattern


def test_the_topmost_linked_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "real" / "link").symlink_to("deep")
    linked = LinkedFolders(tmp_path)
    assert [linked.above(name) for name in ("a", "real/a", "real/link", "real/deep/x/y")] == [
        ""
    ] * 4
    assert linked.above("real/link/a") == "real/link"
    assert linked.above("real/link/link/a/b") == "real/link"
