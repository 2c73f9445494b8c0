"""Outputs in a worktree: the files that are, and those that are kept."""

from __future__ import annotations

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
        ("data/", 1, 11),
        ("rules/notes.md", 1, 7),
        ("rules/run.log", 1, 5),
    ]
    assert output_lines(found) == [
        "removed with the worktree: cache/ (2 files, 2.0 MB), dangling (7 B), data/ (11 B), "
        "rules/notes.md (7 B) and 1 more (5 B); a run keeps it with --keep cache, or shares yours: "
        "--link PATH"
    ]


def test_what_was_kept_is_never_replaced(written: tuple[Repository, Manifest]) -> None:
    repo, manifest = written
    kept = repo.common_dir / "autopilot" / "one" / "kept"
    keep = ["../cache", "run.log", "../absent"]
    check_keep(manifest, keep)
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


@pytest.mark.parametrize("path", ["../..", "../../away", "/etc/passwd", "../.git/config", ".."])
def test_a_path_that_can_be_no_output(written: tuple[Repository, Manifest], path: str) -> None:
    with pytest.raises(UsageError, match="is no path inside the worktree"):
        check_keep(written[1], [path])
