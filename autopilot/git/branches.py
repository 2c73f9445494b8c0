"""Branches that may be checked out somewhere: in which worktree, and moving them with its files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from autopilot.errors import GitCommandError, RepositoryError
from autopilot.git.commands import run_git
from autopilot.git.objects import diff_trees, entry_at
from autopilot.git.refs import list_refs, read_ref, update_ref
from autopilot.git.repository import Repository
from autopilot.text import some

BRANCHES = "refs/heads/"
_REMOTES = "refs/remotes/"
_REBASE_HEADS = ("rebase-merge/head-name", "rebase-apply/head-name")


@dataclass(frozen=True, slots=True)
class Branch:
    """A branch as it was found: its ref in full, and its commit.

    Args:
        name: As git's commands take it: `main`, or `origin/main` where it is on a remote only.
    """

    name: str
    ref: str
    tip: str

    @property
    def is_local(self) -> bool:
        """Whether it is one of this repository; the others cannot be moved."""
        return self.ref.startswith(BRANCHES)

    @property
    def short(self) -> str:
        """Its name without the remote's."""
        return self.name if self.is_local else self.name.partition("/")[2]


def find_branch(repo: Repository, name: str) -> Branch | None:
    """The branch that a name means: of this repository, or as a remote had it when last fetched.

    The name is `main`, `origin/main`, or in full. One that only remotes have is found by its short
    name too; `origin` comes first.
    """
    short = name.removeprefix(BRANCHES).removeprefix(_REMOTES)
    for ref in (BRANCHES + short, _REMOTES + short, f"{_REMOTES}origin/{short}"):
        tip = read_ref(repo, ref)
        if tip is not None:
            return Branch(ref.removeprefix(BRANCHES).removeprefix(_REMOTES), ref, tip)
    for ref, tip in list_refs(repo, _REMOTES).items():
        if ref.removeprefix(_REMOTES).partition("/")[2] == short:
            return Branch(ref.removeprefix(_REMOTES), ref, tip)
    return None


def checked_out_at(repo: Repository, branch: str) -> Path | None:
    """The worktree in which a branch, in full, is checked out or being rebased; None if in none."""
    # git writes these files; `git worktree list` would say nothing of a rebase.
    for git_dir in (repo.common_dir, *sorted(repo.common_dir.glob("worktrees/*"))):
        heads = [_text(git_dir / "HEAD").removeprefix("ref: ")]
        heads += [_text(git_dir / head) for head in _REBASE_HEADS]
        if branch not in heads:
            continue
        if git_dir == repo.common_dir:
            # A bare repository has a HEAD too, but nothing is checked out there.
            if repo.main_workdir is not None:
                return repo.main_workdir
            continue
        pointer = _text(git_dir / "gitdir")
        return (git_dir / pointer).parent.resolve() if pointer else git_dir
    return None


def refuse_checked_out(repo: Repository, branch: str, hint: str) -> None:
    """Raises a RepositoryError if a branch is checked out in some worktree."""
    place = checked_out_at(repo, branch)
    if place is not None:
        name = branch.removeprefix(BRANCHES)
        raise RepositoryError(f"the branch {name} is checked out in {place}", hint=hint)


def obstacle(repo: Repository, branch: str, tree: str) -> tuple[str, str] | None:
    """The reason why a branch cannot be moved forward now, and what to do; None if it can.

    Where it is checked out, in this worktree or another one, its files would be changed with it.
    Starts git then.

    Args:
        tree: The tree that it would have, or its commit.
    """
    place = checked_out_at(repo, branch)
    if place is None:
        return None
    name = branch.removeprefix(BRANCHES)
    there = Repository.discover(place)
    if there.head_name() != name:
        return f"{name} is being rebased in {place}", "finish that, or `git rebase --abort`"
    options = ["--porcelain", "--untracked-files=no", "--ignore-submodules=dirty", "--no-renames"]
    changed = run_git(["status", *options, "-z"], cwd=place).stdout.split(b"\0")
    names = [os.fsdecode(line[3:]) for line in changed if line]
    if names:
        reason = f"{name} is checked out in {place} with uncommitted changes ({some(names, 1)})"
        return reason, "commit them, or `git stash` them, there"
    lost = _in_the_way(there, tree)
    if lost:
        reason = f"{lost} in {place} is not tracked by git, and would be overwritten"
        return reason, "move it away, or commit it"
    return None


def advance(repo: Repository, branch: str, new: str, expected: str, log: str) -> Path | None:
    """Moves a branch forward if it is where it is expected; where it is checked out, its index
    and files come along.

    Only files that the move changes are written, and nothing that is not committed is lost. Returns
    the worktree whose files were updated; None if it is not checked out.

    Args:
        new: A commit that has `expected` in its history.

    Raises:
        RepositoryError: it cannot be moved now; nothing was changed.
        RefMovedError: it is elsewhere.
    """
    found = obstacle(repo, branch, new)
    if found is not None:
        raise RepositoryError(found[0], hint=found[1])
    place = checked_out_at(repo, branch)
    if place is None:
        update_ref(repo, branch, new, expected, log)
        return None
    # git's own fast-forward: a branch that was moved meanwhile fails it, and so does a file that
    # was edited meanwhile.
    merge = ["merge", "--ff-only", "--no-autostash", "--quiet", new]
    try:
        run_git(merge, cwd=place, environment={"GIT_REFLOG_ACTION": log})
    except GitCommandError as error:
        name = branch.removeprefix(BRANCHES)
        raise RepositoryError(
            f"{name}, checked out in {place}, cannot be moved: {error.message}",
            hint=f"run it by hand there to see more: git merge --ff-only {new[:10]}",
        ) from error
    return place


def _in_the_way(there: Repository, tree: str) -> str | None:
    """A file of a worktree that git does not know and a checkout would replace, ignored or not."""
    old = there.head_commit()
    for name, (before, after) in diff_trees(there, old, tree).items():
        if before is not None or after is None:
            continue
        parts = name.split("/")
        for depth in range(1, len(parts) + 1):
            above = "/".join(parts[:depth])
            path = there.workdir / above
            is_folder = path.is_dir() and not path.is_symlink()
            if not os.path.lexists(path) or (is_folder and depth < len(parts)):
                continue
            if entry_at(there, old, above) is None:
                return above
    return None


def _text(path: Path) -> str:
    try:
        return os.fsdecode(path.read_bytes()).rstrip("\n")
    except OSError:
        return ""
