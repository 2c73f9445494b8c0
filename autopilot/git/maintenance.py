"""Keeps the object database small while a long run writes to it."""

from __future__ import annotations

import re

from autopilot.git.commands import run_git
from autopilot.git.repository import Repository

_SAMPLE = "17"
_LOOSE_NAME = re.compile(r"[0-9a-f]{38}")
# Git compares each object with the nearest ten. The trees of several kinds of notes are of one size
# and stand mixed in its order: too few of the ten are of the same kind.
_PACKING = ("-c", "pack.window=30", "-c", "pack.windowMemory=64m")


def maintain(repo: Repository) -> bool:
    """Packs loose objects and joins small packs; starts git, and deletes no object.

    Does nothing where the user has turned automatic maintenance off (`gc.auto` is 0).

    Returns:
        Whether it ran.

    Raises:
        GitCommandError: git failed.
    """
    if repo.config("gc.auto") == "0":
        return False
    # Each pack is at least twice as large as the next; git before 2.32 does not know how.
    repack = [*_PACKING, "repack", "--geometric=2", "-d", "--quiet"]
    if run_git(repack, cwd=repo.workdir, check=False).returncode != 0:
        _maintain_by_tasks(repo)
    return True


def _maintain_by_tasks(repo: Repository) -> None:
    task = [*_PACKING, "maintenance", "run", "--quiet"]
    run_git([*task, "--task=loose-objects"], cwd=repo.workdir)
    # That task leaves what it has packed for its next run to remove.
    run_git(["prune-packed", "--quiet"], cwd=repo.workdir)
    # In a call of its own: git would start with it, and it fails where there is no pack yet.
    if any(repo.common_dir.glob("objects/pack/*.pack")):
        run_git([*task, "--task=incremental-repack"], cwd=repo.workdir)


def count_loose(repo: Repository) -> int:
    """About how many loose objects there are: 256 times those in one folder, as git does it."""
    folder = repo.common_dir / "objects" / _SAMPLE
    try:
        return 256 * sum(1 for path in folder.iterdir() if _LOOSE_NAME.fullmatch(path.name))
    except OSError:
        return 0
