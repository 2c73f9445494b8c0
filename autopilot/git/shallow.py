"""Shallow clones: how far their history reaches, and fetching what is missing of it."""

from __future__ import annotations

import os

from autopilot.errors import GitCommandError, RepositoryError
from autopilot.git.commands import run_git
from autopilot.git.commits import first_parent_log
from autopilot.git.repository import Repository

_FIRST = 64
_QUIETLY = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules")


def is_shallow(repo: Repository) -> bool:
    """Whether history is cut off somewhere."""
    return (repo.common_dir / "shallow").is_file()


def reaches(repo: Repository, tip: str, first: str) -> bool:
    """Whether a commit and all that lead to it from a tip, along first parents, are here."""
    try:
        return any(commit.id == first for commit in first_parent_log(repo, tip))
    except RepositoryError:
        return False


def deepen(repo: Repository, remote: str, ref: str, tip: str, first: str) -> Repository:
    """Fetches the history between a commit and a tip; moves no branch and no tag.

    Through the git command line, in steps that double.

    Args:
        repo: The shallow clone.
        remote: Where it comes from.
        ref: The remote's ref that leads to the tip: `refs/heads/main`.
        tip: A commit that is here.
        first: The commit that must be reached.

    Returns:
        The repository, opened again.

    Raises:
        GitCommandError: the remote does not give it; the hint is the command to type.
    """
    count, before = _FIRST, b""
    while not reaches(repo, tip, first):
        now = _boundary(repo)
        why = "its history does not lead there" if now == before else ""
        if not why:
            done = run_git(
                ["fetch", *_QUIETLY, f"--deepen={count}", remote, ref],
                cwd=repo.workdir,
                check=False,
            )
            why = done.stderr.strip().rpartition("\n")[2] if done.returncode else ""
        if why:
            raise GitCommandError(
                f"this clone is shallow, and the rest of {ref.removeprefix('refs/heads/')} cannot "
                f"be fetched from {remote}: {why}",
                hint=f"git fetch --unshallow {remote}, then again",
            )
        count, before = 2 * count, now
        # What was cut off when it was opened stays so.
        repo = Repository.discover(repo.workdir)
    return repo


def remote_of(repo: Repository) -> str:
    """The remote that a clone comes from: `origin`, or the first one; "" where there is none."""
    names = os.fsdecode(run_git(["remote"], cwd=repo.workdir).stdout).split()
    return "origin" if "origin" in names else next(iter(names), "")


def _boundary(repo: Repository) -> bytes:
    path = repo.common_dir / "shallow"
    return path.read_bytes() if path.is_file() else b"none"
