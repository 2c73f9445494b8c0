"""Git notes: bytes attached to commits, written at a cost that does not grow with their number.

A notes ref points at a commit whose tree has a file per annotated commit, named by its id, at any
depth: `ab12..`, `ab/12..` or `ab/12/..`, all at once if need be. We read all of them and write
`ab/12..`, the fan-out at which both a note's cost and the number of folders stay small.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import pygit2
from pygit2.enums import ObjectType

from autopilot.errors import RefMovedError
from autopilot.files import REGULAR
from autopilot.git import objects
from autopilot.git.commands import Seen
from autopilot.git.commits import ahead_behind, commit_fresh, merge_base
from autopilot.git.refs import create_ref, read_ref, update_ref
from autopilot.git.repository import Repository, translated

_FAN_OUT = re.compile(r"[0-9a-f]{2}")
_HEX = re.compile(r"[0-9a-f]*")
_ID_LENGTH = 40
_ANNOTATED = re.compile(r"[0-9a-f]{40}")
_ATTEMPTS = 40
_PAUSE_S = 0.002

Edit = Callable[[bytes | None], bytes]
"""Makes a note's new content of the present one, None if there is none; called repeatedly."""


_Copies = dict[str, objects.Entry]
"""Where a note is, and what; a note may have copies at several fan-outs."""


class Notes:
    """The notes under one ref.

    What `git notes` writes is read here, and the reverse. Writes are atomic: all notes of a call
    or none, and a concurrent write to the same ref is never lost. Notes commits are not signed.

    Args:
        ref: In full, `refs/notes/reviews`.
        is_steady: Whether all reads see what the first one has seen, until this object writes:
            others may write meanwhile.
    """

    def __init__(self, repo: Repository, ref: str, *, is_steady: bool = False) -> None:
        self.repo = repo
        self.ref = ref
        self._is_steady = is_steady
        self._first: tuple[str | None] | None = None
        # The tip that we wrote, with the content of its top folder: it has up to 256 others.
        self._kept: tuple[str, bytes] | None = None

    def tip(self) -> str | None:
        """The commit that is read; None where there are no notes."""
        if not self._is_steady:
            return read_ref(self.repo, self.ref)
        self._first = self._first or (read_ref(self.repo, self.ref),)
        return self._first[0]

    def read(self, commit: str) -> bytes | None:
        """The note on a commit; None if there is none."""
        tip = self.tip()
        return self._content(_copies(self.repo, tip, commit)) if tip else None

    def folders(self) -> Iterator[tuple[str, list[tuple[str, str]]]]:
        """All notes as ids of their contents, with the ids of what they annotate.

        By folders, each with a name that no folder of other content has.
        """
        tip = self.tip()
        with translated(f"cannot open {self.ref}"):
            yield from _walk(self.repo.pygit[tip].peel(pygit2.Tree), "") if tip else ()

    def write(self, changes: Mapping[str, Edit], message: str) -> None:
        """Changes some notes in one notes commit.

        A note that another fan-out holds moves to ours; of two copies, the edit is given both,
        one after the other.

        Raises:
            RefMovedError: others wrote to the ref again and again meanwhile.
            RepositoryError: it cannot be written.
        """
        if not changes:
            return
        self._first = None
        for attempt in range(_ATTEMPTS):
            try:
                self._write_once(changes, message)
                return
            except RefMovedError:
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(random.uniform(0, _PAUSE_S * attempt))

    def _write_once(self, changes: Mapping[str, Edit], message: str) -> None:
        repo, tip = self.repo, read_ref(self.repo, self.ref)
        kept, self._kept = self._kept, None
        top = (
            kept[1] if kept and kept[0] == tip else objects.tree_content(repo, tip) if tip else b""
        )
        edits: dict[str, dict[str, objects.Entry | None]] = {}
        folders: dict[str, str | None] = {}
        flat: dict[bytes, objects.Entry | None] = {}
        for annotated, edit in changes.items():
            folder, rest = annotated[:2], annotated[2:]
            entry = objects.find_in(top, folder.encode())
            base = folders[folder] = entry.oid if entry and entry.mode == objects.TREE else None
            copies = {} if base is None else _copies(repo, base, rest)
            below = edits.setdefault(folder, {})
            below |= dict.fromkeys(copies)
            if (note := objects.find_in(top, annotated.encode())) is not None:
                copies = {"": note.oid} | copies
                flat[annotated.encode()] = None
            content = edit(self._content(copies))
            below[rest] = objects.Entry(REGULAR, objects.write_blob(repo, content))
        for folder, below in edits.items():
            written = objects.write_tree(repo, folders[folder], below)
            flat[folder.encode()] = objects.Entry(objects.TREE, written)
        top = objects.edit_content(top, flat)
        made = objects.write_object(repo, ObjectType.TREE, top)
        new = commit_fresh(repo, tree=made, parents=[tip] if tip else [], message=message)
        log = f"notes: {message.partition(chr(10))[0]}"
        if tip:
            update_ref(repo, self.ref, new, tip, log)
        else:
            create_ref(repo, self.ref, new, log)
        self._kept = (new, top)

    def _content(self, copies: Mapping[str, str]) -> bytes | None:
        contents = [objects.read_blob(self.repo, oid) for oid in copies.values()]
        if not contents:
            return None
        ended = [content if content.endswith(b"\n") else content + b"\n" for content in contents]
        return b"".join([*ended[:-1], contents[-1]])


def _copies(repo: Repository, tree: str, annotated: str) -> dict[str, str]:
    """Where a note is, at any fan-out, with the blob's id: the flat one first, the deepest last."""
    found: dict[str, str] = {}
    folder, rest = "", annotated
    content: bytes | None = objects.tree_content(repo, tree)
    while rest and content is not None:
        note = objects.find_in(content, rest.encode())
        if note is not None and note.mode != objects.TREE:
            found[folder + rest] = note.oid
        name, rest = rest[:2], rest[2:]
        folder += f"{name}/"
        deeper = objects.find_in(content, name.encode())
        is_folder = deeper is not None and deeper.mode == objects.TREE
        content = objects.tree_content(repo, deeper.oid) if deeper and is_folder else None
    return found


_seen = Seen[list[tuple[str, str]]]()


def _walk(tree: pygit2.Tree, prefix: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    for child in tree:
        name = child.name or ""
        if isinstance(child, pygit2.Tree):
            if _FAN_OUT.fullmatch(name):
                path = prefix + name
                place = f"{path} {child.id}"
                yield place, _seen.get_or(place, partial(_below, child, path))
        elif len(prefix) + len(name) == _ID_LENGTH and _HEX.fullmatch(name):
            yield f"{prefix}{name} {child.id}", [(prefix + name, str(child.id))]


def _below(tree: pygit2.Tree, prefix: str) -> list[tuple[str, str]]:
    return [note for _, notes in _walk(tree, prefix) for note in notes]


# --- merging notes that two repositories wrote apart, without a working tree -------------------


def merge_notes(repo: Repository, ours: str, theirs: str, message: str) -> str:
    """Merges two notes commits, unless one has all of the other; returns the id, moves no ref.

    As `git notes merge -s cat_sort_uniq` does it, in our own fan-out: of a note that both changed,
    the lines of both are kept, sorted, each once. A line that one side replaced does not come back.
    """
    ahead, behind = ahead_behind(repo, ours, theirs)
    if not behind:
        return ours
    if not ahead:
        return theirs
    base = merge_base(repo, ours, theirs)
    before = _notes_of(repo, base) if base else {}
    mine, others = _notes_of(repo, ours), _notes_of(repo, theirs)
    changes: dict[str, objects.Entry | None] = {}
    for annotated in mine.keys() | others.keys():
        sides = [found.get(annotated, {}) for found in (before, mine, others)]
        changes |= _change(repo, annotated, *sides)
    tree = objects.write_tree(repo, ours, changes)
    return commit_fresh(repo, tree=tree, parents=[ours, theirs], message=message)


def _notes_of(repo: Repository, commit: str) -> dict[str, _Copies]:
    found: dict[str, _Copies] = {}
    for path, entry in objects.list_tree(repo, commit).items():
        found.setdefault(path.replace("/", ""), {})[path] = entry
    return found


def _change(
    repo: Repository, annotated: str, base: _Copies, ours: _Copies, theirs: _Copies
) -> dict[str, objects.Entry | None]:
    """The changes of our tree for one note."""
    was, mine, others = (sorted(e.oid for e in side.values()) for side in (base, ours, theirs))
    if others in (was, mine):
        return {}
    if not _ANNOTATED.fullmatch(annotated):  # no note: git leaves such files alone
        return {} if ours else dict(theirs)
    removed: dict[str, objects.Entry | None] = dict.fromkeys(ours)
    if mine == was and not theirs:
        return removed
    if mine == was and len(others) == 1:
        blob = others[0]
    elif mine == was:
        blob = objects.write_blob(repo, b"".join(_lines(repo, theirs)))
    else:
        lines = (_lines(repo, side) for side in (base, ours, theirs))
        blob = objects.write_blob(repo, _merged(*lines))
    return removed | {f"{annotated[:2]}/{annotated[2:]}": objects.Entry(REGULAR, blob)}


def _lines(repo: Repository, copies: Mapping[str, objects.Entry]) -> list[bytes]:
    contents = (objects.read_blob(repo, entry.oid) for entry in copies.values())
    return [line + b"\n" for content in contents for line in content.split(b"\n") if line]


def _merged(base: list[bytes], ours: list[bytes], theirs: list[bytes]) -> bytes:
    if not ours or not theirs:  # one removed what the other changed: the change stays
        return b"".join(ours or theirs)
    mine, others = set(ours), set(theirs)
    replaced = set(base) - (mine & others)
    return b"".join(sorted((mine | others) - replaced))
