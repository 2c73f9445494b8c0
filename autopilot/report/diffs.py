"""The diffs of a report: each change of a file once, however many epochs made it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from autopilot.git import objects
from autopilot.git.objects import Entry
from autopilot.git.patches import FilePatch, Hunk, file_patch
from autopilot.git.repository import Repository

FILES_A_CHANGE = 200
LINES_A_FILE = 4_000
LINES_IN_ALL = 300_000
LINE_LENGTH = 2_000


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file that differs between two states.

    Args:
        path: From the repository's top.
        status: "added", "removed", "changed", or "mode" where only its mode differs.
        patch: The place of its patch among the report's; None where it was left out.
        added: Lines that came; 0 where the patch was left out.
        removed: Lines that went.
        mode: "100644 -> 100755" where it differs.
    """

    path: str
    status: str
    patch: int | None
    added: int = 0
    removed: int = 0
    mode: str = ""


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs between two states.

    Args:
        files: In the order of their paths, the first 200.
        left_out: How many files there are beyond.
    """

    files: tuple[FileChange, ...] = ()
    left_out: int = 0


class DiffPool:
    """Patches of files, each kept once; what limits leave out is counted.

    Args:
        repo: The repository.

    Attributes:
        patches: What `FileChange.patch` is the place in.
        files_left_out: File changes without their lines, since the report has enough.
        lines_left_out: Lines at the end of long patches.
        long_lines: Lines that were cut.
    """

    def __init__(self, repo: Repository) -> None:
        self.patches: list[FilePatch] = []
        self.files_left_out = self.lines_left_out = self.long_lines = 0
        self._repo = repo
        self._known: dict[tuple[str, str], int] = {}
        self._trees: dict[tuple[str, str], Changes] = {}
        self._lines = 0

    def between(self, old: str, new: str) -> Changes:
        """What differs between two trees."""
        known = self._trees.get((old, new))
        if known is None:
            found = sorted(objects.diff_trees(self._repo, old, new).items())
            files = tuple(self._file(path, *sides) for path, sides in found[:FILES_A_CHANGE])
            known = self._trees[old, new] = Changes(files, max(0, len(found) - FILES_A_CHANGE))
        return known

    def _file(self, path: str, old: Entry | None, new: Entry | None) -> FileChange:
        status = "added" if old is None else "removed" if new is None else "changed"
        mode = f"{old.mode:o} -> {new.mode:o}" if old and new and old.mode != new.mode else ""
        if old and new and old.oid == new.oid:
            return FileChange(path, "mode", None, mode=mode)
        place = self._place(old, new)
        if place is None:
            self.files_left_out += 1
            return FileChange(path, status, None, mode=mode)
        patch = self.patches[place]
        return FileChange(path, status, place, patch.added, patch.removed, mode)

    def _place(self, old: Entry | None, new: Entry | None) -> int | None:
        key = (old.oid if old else "", new.oid if new else "")
        place = self._known.get(key)
        if place is None and self._lines < LINES_IN_ALL:
            patch = self._clipped(file_patch(self._repo, old, new, LINES_A_FILE))
            place = self._known[key] = len(self.patches)
            self.patches.append(patch)
            self._lines += sum(len(hunk.lines) for hunk in patch.hunks)
            self.lines_left_out += patch.left_out
        return place

    def _clipped(self, patch: FilePatch) -> FilePatch:
        if all(len(line) <= LINE_LENGTH for hunk in patch.hunks for line in hunk.lines):
            return patch
        hunks = []
        for hunk in patch.hunks:
            self.long_lines += sum(len(line) > LINE_LENGTH for line in hunk.lines)
            lines = tuple(clipped(line, LINE_LENGTH) for line in hunk.lines)
            hunks.append(Hunk(hunk.old_start, hunk.new_start, lines))
        return replace(patch, hunks=tuple(hunks))


def clipped(text: str, length: int) -> str:
    """A text that says how much of it is missing.

    >>> clipped("abcdef", 4), clipped("abcd", 4)
    ('abcd... [2 characters more]', 'abcd')
    """
    more = len(text) - length
    return text if more <= 0 else f"{text[:length]}... [{more} characters more]"
