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

import pygit2

from autopilot.errors import RefMovedError
from autopilot.files import REGULAR
from autopilot.git.commits import commit
from autopilot.git.objects import Entry, read_blob, write_blob, write_tree
from autopilot.git.refs import create_ref, read_ref, update_ref
from autopilot.git.repository import Repository, translated

_FAN_OUT = re.compile(r"[0-9a-f]{2}")
_HEX = re.compile(r"[0-9a-f]*")
_ID_LENGTH = 40
_ATTEMPTS = 40
_PAUSE_S = 0.002

Edit = Callable[[bytes | None], bytes]
"""What a note becomes, given what it is, or None if there is none; may be called repeatedly."""


class Notes:
    """The notes under one ref.

    What `git notes` writes is read here, and the reverse. Writes are atomic: all notes of a call
    or none, and a concurrent write to the same ref is never lost. Notes commits are not signed.

    Args:
        repo: The repository.
        ref: In full, `refs/notes/reviews`.
    """

    def __init__(self, repo: Repository, ref: str) -> None:
        self.repo = repo
        self.ref = ref

    def read(self, commit: str) -> bytes | None:
        """The note on a commit; None if there is none."""
        tip = read_ref(self.repo, self.ref)
        return self._content(_copies(self._tree(tip), commit)) if tip else None

    def items(self) -> Iterator[tuple[str, bytes]]:
        """All notes with the ids of what they annotate; a second copy of a note is an item too.

        Raises:
            RepositoryError: a note cannot be read.
        """
        tip = read_ref(self.repo, self.ref)
        for annotated, oid in _walk(self._tree(tip), "") if tip else ():
            yield annotated, read_blob(self.repo, oid)

    def write(self, changes: Mapping[str, Edit], message: str) -> None:
        """Changes some notes in one notes commit.

        A note that another fan-out holds moves to ours; of two copies, the edit is given both,
        one after the other.

        Args:
            changes: What each commit's note becomes.
            message: The message of the notes commit.

        Raises:
            RefMovedError: others wrote to the ref again and again meanwhile.
            RepositoryError: it cannot be written.
        """
        if not changes:
            return
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
        base = self._tree(tip) if tip else None
        entries: dict[str, Entry | None] = {}
        for annotated, edit in changes.items():
            copies = _copies(base, annotated) if base is not None else {}
            entries |= dict.fromkeys(copies)
            content = edit(self._content(copies))
            entries[_place(annotated)] = Entry(REGULAR, write_blob(repo, content))
        tree = write_tree(repo, str(base.id) if base is not None else None, entries)
        new = commit(repo, tree=tree, parents=[tip] if tip else [], message=message, sign=False)
        log = f"notes: {message.partition(chr(10))[0]}"
        if tip:
            update_ref(repo, self.ref, new, tip, log)
        else:
            create_ref(repo, self.ref, new, log)

    def _tree(self, tip: str) -> pygit2.Tree:
        with translated(f"cannot open {self.ref}"):
            return self.repo.pygit[tip].peel(pygit2.Tree)

    def _content(self, copies: Mapping[str, str]) -> bytes | None:
        contents = [read_blob(self.repo, oid) for oid in copies.values()]
        if not contents:
            return None
        ended = [content if content.endswith(b"\n") else content + b"\n" for content in contents]
        return b"".join([*ended[:-1], contents[-1]])


def _place(annotated: str) -> str:
    return f"{annotated[:2]}/{annotated[2:]}"


def _copies(tree: pygit2.Tree, annotated: str) -> dict[str, str]:
    """Where a note is, at any fan-out, with the blob's id: the flat one first, the deepest last."""
    found: dict[str, str] = {}
    folder, rest = "", annotated
    while rest:
        if rest in tree and not isinstance(note := tree[rest], pygit2.Tree):
            found[folder + rest] = str(note.id)
        name, rest = rest[:2], rest[2:]
        folder += f"{name}/"
        deeper = tree[name] if name in tree else None  # noqa: SIM401  # Tree has no get().
        if not isinstance(deeper, pygit2.Tree):
            break
        tree = deeper
    return found


def _walk(tree: pygit2.Tree, prefix: str) -> Iterator[tuple[str, str]]:
    for child in tree:
        name = child.name or ""
        if isinstance(child, pygit2.Tree):
            if _FAN_OUT.fullmatch(name):
                yield from _walk(child, prefix + name)
        elif len(prefix) + len(name) == _ID_LENGTH and _HEX.fullmatch(name):
            yield prefix + name, str(child.id)
