"""Merging notes that two repositories wrote apart, without a working tree.

As `git notes merge -s cat_sort_uniq` does it, in our own fan-out: of a note that both changed, the
lines of both are kept, sorted, each once. A line that one side replaced does not come back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from autopilot.files import REGULAR
from autopilot.git.commits import commit_fresh
from autopilot.git.merging import ahead_behind, merge_base
from autopilot.git.objects import Entry, list_tree, read_blob, tree_of, write_blob, write_tree
from autopilot.git.repository import Repository

_ANNOTATED = re.compile(r"[0-9a-f]{40}")
_Copies = dict[str, Entry]
"""Where a note is, and what; a note may have copies at several fan-outs."""


def merge_notes(repo: Repository, ours: str, theirs: str, message: str) -> str:
    """Merges two notes commits; moves no ref.

    Args:
        repo: The repository.
        ours: A notes commit.
        theirs: Another one.
        message: The message of the merge.

    Returns:
        The one of them that has all of the other, else a new commit with both as parents.
    """
    ahead, behind = ahead_behind(repo, ours, theirs)
    if not behind:
        return ours
    if not ahead:
        return theirs
    base = merge_base(repo, ours, theirs)
    before = _notes_of(repo, base) if base else {}
    mine, others = _notes_of(repo, ours), _notes_of(repo, theirs)
    changes: dict[str, Entry | None] = {}
    for annotated in mine.keys() | others.keys():
        sides = [found.get(annotated, {}) for found in (before, mine, others)]
        changes |= _change(repo, annotated, *sides)
    tree = write_tree(repo, tree_of(repo, ours), changes)
    return commit_fresh(repo, tree=tree, parents=[ours, theirs], message=message)


def _notes_of(repo: Repository, commit: str) -> dict[str, _Copies]:
    found: dict[str, _Copies] = {}
    for path, entry in list_tree(repo, tree_of(repo, commit)).items():
        found.setdefault(path.replace("/", ""), {})[path] = entry
    return found


def _change(
    repo: Repository, annotated: str, base: _Copies, ours: _Copies, theirs: _Copies
) -> dict[str, Entry | None]:
    """What of our tree changes for one note."""
    was, mine, others = (sorted(e.oid for e in side.values()) for side in (base, ours, theirs))
    if others in (was, mine):
        return {}
    if not _ANNOTATED.fullmatch(annotated):  # no note: git leaves such files alone
        return {} if ours else dict(theirs)
    removed: dict[str, Entry | None] = dict.fromkeys(ours)
    if mine == was and not theirs:
        return removed
    if mine == was and len(others) == 1:
        blob = others[0]
    elif mine == was:
        blob = write_blob(repo, b"".join(_lines(repo, theirs)))
    else:
        lines = (_lines(repo, side) for side in (base, ours, theirs))
        blob = write_blob(repo, _merged(*lines))
    return removed | {f"{annotated[:2]}/{annotated[2:]}": Entry(REGULAR, blob)}


def _lines(repo: Repository, copies: Mapping[str, Entry]) -> list[bytes]:
    contents = (read_blob(repo, entry.oid) for entry in copies.values())
    return [line + b"\n" for content in contents for line in content.split(b"\n") if line]


def _merged(base: list[bytes], ours: list[bytes], theirs: list[bytes]) -> bytes:
    if not ours or not theirs:  # one removed what the other changed: the change stays
        return b"".join(ours or theirs)
    mine, others = set(ours), set(theirs)
    replaced = set(base) - (mine & others)
    return b"".join(sorted((mine | others) - replaced))
