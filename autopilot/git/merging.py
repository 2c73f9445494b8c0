"""Three-way merges of trees, without index or working tree."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import pygit2

from autopilot.git.repository import Repository, translated


@dataclass(frozen=True, slots=True)
class Merge:
    """What a merge came to.

    Args:
        tree: The merged tree; "" if there are conflicts.
        conflicts: The paths that both sides changed differently.
    """

    tree: str
    conflicts: tuple[str, ...] = ()


def merge_base(repo: Repository, first: str, second: str) -> str | None:
    """The newest commit that two commits have in common; None if there is none."""
    with translated(f"cannot compare {first[:7]} and {second[:7]}"):
        found = repo.pygit.merge_base(pygit2.Oid(hex=first), pygit2.Oid(hex=second))
        return str(found) if found is not None else None


def ahead_behind(repo: Repository, ours: str, theirs: str) -> tuple[int, int]:
    """How many commits each of two has that the other lacks; both are > 0 if they diverged."""
    if ours == theirs:
        return 0, 0
    with translated(f"cannot compare {ours[:7]} and {theirs[:7]}"):
        return repo.pygit.ahead_behind(pygit2.Oid(hex=ours), pygit2.Oid(hex=theirs))


def is_ancestor(repo: Repository, old: str, new: str) -> bool:
    """Whether a commit is another one, or is before it in its history."""
    return merge_base(repo, old, new) == old


def count_in(repo: Repository, line: Sequence[str], branch: str) -> int:
    """How many commits of a line, from its oldest on, the history of another commit has.

    One walk that hides that history would do, but trusts in the commits' times.

    Args:
        repo: The repository.
        line: Commits, oldest first, each in the history of the next.
        branch: The commit whose history is looked at.
    """
    return bisect_left(line, True, key=lambda commit: not is_ancestor(repo, commit, branch))


def merge_trees(repo: Repository, base: str, ours: str, theirs: str) -> Merge:
    """Merges two changes of a tree, as `git merge` does; moves no ref.

    Args:
        repo: The repository.
        base: What both come from: a commit or a tree.
        ours: A commit or a tree.
        theirs: A commit or a tree.
    """
    with translated(f"cannot merge {theirs[:7]} into {ours[:7]}"):
        trees = [repo.pygit[oid].peel(pygit2.Tree).id for oid in (base, ours, theirs)]
        index = repo.pygit.merge_trees(trees[0], trees[1], trees[2])
        if index.conflicts is not None:
            paths = {side.path for sides in index.conflicts for side in sides if side is not None}
            return Merge("", tuple(sorted(paths)))
        return Merge(str(index.write_tree(repo.pygit)))
