"""Outputs in a worktree: the files that are, and those that are kept."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from autopilot.core.records.record import Manifest
from autopilot.errors import UsageError
from autopilot.git.repository import Repository
from autopilot.tracking.outputs import check_keep, find_outputs, keep_outputs, output_lines


@pytest.fixture
def written(repository: Repository) -> tuple[Repository, Manifest]:
    """A worktree (any checkout will do) in which an evaluation wrote files."""
    top = Path(repository.workdir)
    (top / ".git" / "info" / "exclude").write_text("*.log\ncache/\n")
    for name, size in {
        "rules/new.txt": 3,  # of the parameter: a step made it
        "rules/run.log": 5,
        "rules/notes.md": 7,
        "cache/a/b": 1_500_000,
        "cache/c": 500_000,
        "data/set.csv": 9,
        "data/out.csv": 11,
        "out/__pycache__/x.cpython-311.pyc": 13,
        ".autopilot-tmp-1": 17,
    }.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(b"x" * size)
    (top / "dangling").symlink_to("nowhere")
    manifest = Manifest(
        slug="one",
        base=repository.head_commit(),
        links=("../data/set.csv",),
        directory="rules",
        parameters={"rules": "rules"},
        patterns={"rules": "*.txt"},
    )
    return repository, manifest


def test_what_is_an_output(written: tuple[Repository, Manifest]) -> None:
    repo, manifest = written
    found = find_outputs(repo.workdir, repo, manifest)
    assert [(o.path, o.files, o.bytes) for o in found] == [
        ("cache/", 2, 2_000_000),
        ("dangling", 1, len("nowhere")),
        ("data/out.csv", 1, 11),
        ("rules/notes.md", 1, 7),
        ("rules/run.log", 1, 5),
    ]
    assert output_lines(found) == [
        "removed with the worktree: cache/ (2 files, 2.0 MB), data/out.csv (11 B), dangling (7 B), "
        "rules/notes.md (7 B) and 1 more (5 B); a run keeps it with --keep ../cache, or shares "
        "yours: --link PATH"
    ]


def test_what_was_kept_is_never_replaced(written: tuple[Repository, Manifest]) -> None:
    repo, manifest = written
    kept = repo.common_dir / "autopilot" / "one" / "kept"
    keep = ["../cache", "run.log", "../absent"]
    check_keep(repo, manifest, keep)
    found = keep_outputs(repo.workdir, repo, manifest, keep)
    assert [(o.path, o.kept) for o in found if o.kept] == [
        ("cache/", str(kept / "cache")),
        ("rules/run.log", str(kept / "rules" / "run.log")),
    ]
    assert (kept / "cache" / "a" / "b").stat().st_size == 1_500_000
    assert not (repo.workdir / "cache").exists()
    (repo.workdir / "rules" / "run.log").write_text("second")
    (again, *_) = keep_outputs(repo.workdir, repo, manifest, keep)
    assert again.kept == str(kept / "rules" / "run-2.log")
    assert (kept / "rules" / "run.log").read_text() == "xxxxx"


def test_what_git_has_is_not_moved(written: tuple[Repository, Manifest]) -> None:
    repo, manifest = written
    (out,) = [
        o for o in keep_outputs(repo.workdir, repo, manifest, ["a.txt"]) if "rules/n" in o.path
    ]
    assert (out.kept, (repo.workdir / "rules" / "a.txt").read_text()) == ("", "a\n")


@pytest.mark.parametrize(
    ("path", "why"),
    [
        (".", "a parameter: each of its states is a commit"),
        ("a.txt", "tracked by git"),
        ("../data/set.csv", "linked: what is written there is written to your own"),
    ],
)
def test_a_path_that_is_no_output(
    written: tuple[Repository, Manifest], path: str, why: str
) -> None:
    with pytest.raises(UsageError, match=f"--keep {path} is {why}"):
        check_keep(*written, [path])


def test_caches_of_tools_are_one_word_and_bytecode_none(
    written: tuple[Repository, Manifest],
) -> None:
    repo, manifest = written
    for name in (".pytest_cache/v/x", ".pytest_cache/y", "data/.ruff_cache/z"):
        (repo.workdir / name).parent.mkdir(parents=True, exist_ok=True)
        (repo.workdir / name).write_bytes(b"x" * 100)
    (line,) = output_lines(find_outputs(repo.workdir, repo, manifest))
    assert "rules/notes.md (7 B) and 1 more (5 B) and caches (3 files, 300 B); a run" in line
    assert "pycache" not in line
    only = [o for o in find_outputs(repo.workdir, repo, manifest) if "_cache" in o.path]
    assert output_lines(only) == ["removed with the worktree: caches (3 files, 300 B)"]


def test_a_folder_that_git_has_stays_and_a_link_in_a_kept_one_too(
    written: tuple[Repository, Manifest],
) -> None:
    repo, manifest = written
    kept = repo.common_dir / "autopilot" / "one" / "kept"
    (repo.workdir / "out" / "inner").mkdir()
    (repo.workdir / "out" / "inner" / "model").symlink_to("/user/out/inner/model")  # as --link does
    (repo.workdir / "out" / "run.txt").write_text("r")
    (repo.workdir / "out" / "latest").symlink_to("run.txt")
    found = keep_outputs(repo.workdir, repo, manifest, ["../data", "../out"])
    assert {o.path: o.kept for o in found if o.kept} == {
        "data/out.csv": str(kept / "data" / "out.csv"),
        "out/latest": str(kept / "out" / "latest"),
        "out/run.txt": str(kept / "out" / "run.txt"),
    }
    assert (repo.workdir / "data" / "set.csv").exists()
    assert (repo.workdir / "out" / "inner" / "model").is_symlink()
    assert (kept / "out" / "latest").readlink() == Path("run.txt")


def test_globs_and_nested_paths_and_repositories(written: tuple[Repository, Manifest]) -> None:
    repo, manifest = written
    top, kept = repo.workdir, repo.common_dir / "autopilot" / "one" / "kept"
    for name in ("runs/1/log", "runs/1/big", "runs/2/log", "deps/x/.git/HEAD", "deps/x/a", "r[1]"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(name)
    keep = ["../runs/*/log", "../runs/2", "../deps/*", "../r[1]", "../**/*.nothing"]
    found = keep_outputs(top, repo, manifest, keep)
    assert [(o.path, o.files) for o in found if o.kept or not o.files] == [
        ("deps/x/", 2),
        ("r[1]", 1),
        ("runs/1/log", 1),
        ("runs/2/log", 1),
        ("**/*.nothing", 0),
    ]
    assert (kept / "deps" / "x" / ".git" / "HEAD").read_text() == "deps/x/.git/HEAD"
    # A file that is in the way of a folder stays, too.
    (top / "r[1]").mkdir()
    (top / "r[1]" / "a").write_text("a")
    (again, *_) = keep_outputs(top, repo, manifest, ["../r[1]/a"])
    assert again.kept == str(kept / "r[1]-2" / "a")


def test_ten_thousand_files_are_summed_quickly(written: tuple[Repository, Manifest]) -> None:
    repo, manifest = written
    many = repo.workdir / "many"
    many.mkdir()
    for number in range(10_000):
        (many / f"{number}").write_bytes(b"xx")
    started = time.process_time()
    found = find_outputs(repo.workdir, repo, manifest)
    seconds = time.process_time() - started
    assert [(o.files, o.bytes) for o in found if o.path == "many/"] == [(10_000, 20_000)]
    assert seconds < 2


def test_a_move_to_another_file_system(written: tuple[Repository, Manifest]) -> None:
    repo, manifest = written
    places = [Path(place) for place in ("/dev/shm", tempfile.gettempdir(), "/var/tmp")]
    here = repo.workdir.stat().st_dev
    others = [place for place in places if place.is_dir() and place.stat().st_dev != here]
    if not others:
        pytest.skip("there is one file system")
    with tempfile.TemporaryDirectory(dir=others[0]) as folder:
        there = Path(folder, "kept")
        (repo.common_dir / "autopilot" / "one").mkdir(parents=True)
        (repo.common_dir / "autopilot" / "one" / "kept").symlink_to(there)
        there.mkdir()
        (repo.workdir / "cache" / "latest").symlink_to("c")
        os.mkfifo(repo.workdir / "cache" / "pipe")
        (found, *_) = keep_outputs(repo.workdir, repo, manifest, ["../cache"])
        assert (there / "cache" / "c").stat().st_size == 500_000
        assert (there / "cache" / "latest").readlink() == Path("c")
        assert not (there / "cache" / "pipe").exists()
        assert found.path == "cache/"


READ_ONLY = """
import os, sys
from pathlib import Path

from autopilot.core.records.record import Manifest
from autopilot.git.repository import Repository
from autopilot.git.worktrees import add_worktree, remove_worktree
from autopilot.tracking.outputs import keep_outputs

top, place = map(Path, sys.argv[1:])
repo = Repository.discover(top)
worktree = add_worktree(repo, place, repo.head_commit())
for folder in ("mod/a", "mod/b"):
    (place / folder).mkdir(parents=True)
    (place / folder / "x").write_text("x")
    os.chmod(place / folder, 0o555)
os.chmod(place / "mod", 0o555)
(place / "shut").mkdir(mode=0)
manifest = Manifest(slug="one", base=repo.head_commit())
found = keep_outputs(place, repo, manifest, ["mod/a"])
print([(o.path, bool(o.kept)) for o in found])
kept = Path(found[0].kept)
print(oct(kept.stat().st_mode), (kept / "x").read_text())
os.chmod(place / "mod", 0o555)
remove_worktree(repo, place)
print(place.exists())
"""


def _without_roots_rights() -> None:
    # Root may write everywhere: without these two it is a user as any other.
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities")
def test_read_only_folders_are_kept_and_removed(repository: Repository, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY, repository.workdir, tmp_path / "place"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=_without_roots_rights,
    )
    assert done.stdout.splitlines() == [
        "[('mod/a/', True), ('mod/', False)]",
        "0o40555 x",
        "False",
    ], done.stderr


@pytest.mark.parametrize("path", ["../..", "../../away", "/etc/passwd", "../.git/config", ".."])
def test_a_path_that_can_be_no_output(written: tuple[Repository, Manifest], path: str) -> None:
    with pytest.raises(UsageError, match="is no path inside the worktree"):
        check_keep(*written, [path])
