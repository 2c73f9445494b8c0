"""What changed in one file between two blobs, line by line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pygit2

from autopilot.errors import RepositoryError
from autopilot.git.objects import SUBMODULE, Entry
from autopilot.git.repository import Repository, translated


@dataclass(frozen=True, slots=True)
class Hunk:
    """A run of lines with a change in it.

    Args:
        old_start: The number of its first line before; 1 is the file's first.
        new_start: The same after.
        lines: "+", "-" or " " and the line, without its end; a line that ends without a line break
            is followed by one that begins with a backslash, as in a diff.
    """

    old_start: int
    new_start: int
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FilePatch:
    """What changed in a file.

    Args:
        added: Lines that came.
        removed: Lines that went.
        binary: Whether it has no lines to compare.
        hunks: The changes; cut after `lines_at_most` lines.
        left_out: Lines that the cut left out.
    """

    added: int = 0
    removed: int = 0
    binary: bool = False
    hunks: tuple[Hunk, ...] = ()
    left_out: int = 0


def file_patch(
    repo: Repository, old: Entry | None, new: Entry | None, lines_at_most: int
) -> FilePatch:
    """What changed between two states of a file; None is a file that is not there.

    Bytes that are no UTF-8 are shown as �.

    Args:
        repo: The repository.
        old: The file before.
        new: The file after.
        lines_at_most: Lines that are given, context among them; the rest is counted.

    Raises:
        RepositoryError: a blob is missing.
    """
    if SUBMODULE in {entry.mode for entry in (old, new) if entry}:
        gone, come = (f"commit {entry.oid}" if entry else "" for entry in (old, new))
        lines = tuple(f"{sign}{text}" for sign, text in (("-", gone), ("+", come)) if text)
        return FilePatch(len(come) > 0, len(gone) > 0, hunks=(Hunk(1, 1, lines),))
    with translated("cannot compare two files"):
        before, after = _blob(repo, old), _blob(repo, new)
        if before is None and after is None:
            return FilePatch()
        patch = pygit2.Patch.create_from(before, after)
        _, added, removed = patch.line_stats
        binary = patch.delta.is_binary is True
        hunks, left_out = _cut(list(_hunks(patch)), lines_at_most)
        return FilePatch(added, removed, binary, () if binary else hunks, left_out)


def _blob(repo: Repository, entry: Entry | None) -> pygit2.Blob | None:
    if entry is None:
        return None
    found = repo.pygit[entry.oid]
    if not isinstance(found, pygit2.Blob):
        raise RepositoryError(f"object {entry.oid} is not a blob", hint="name a file's object")
    return found


def _hunks(patch: pygit2.Patch) -> Iterator[Hunk]:
    for hunk in patch.hunks:
        lines = []
        for line in hunk.lines:
            text = line.raw_content.decode("utf-8", "replace")
            if line.origin in "+- ":
                lines.append(line.origin + text.removesuffix("\n"))
            else:
                lines.append("\\ no line break at the end")
        yield Hunk(hunk.old_start, hunk.new_start, tuple(lines))


def _cut(hunks: list[Hunk], at_most: int) -> tuple[tuple[Hunk, ...], int]:
    kept: list[Hunk] = []
    room, left_out = at_most, 0
    for hunk in hunks:
        lines = hunk.lines[:room]
        room, left_out = room - len(lines), left_out + len(hunk.lines) - len(lines)
        if lines:
            kept.append(Hunk(hunk.old_start, hunk.new_start, lines))
    return tuple(kept), left_out
