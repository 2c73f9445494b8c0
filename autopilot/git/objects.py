"""Blobs and trees: written and compared without the index.

In the place of a tree that is read, its commit may be given.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pygit2
from pygit2.enums import ObjectType

from autopilot.errors import RepositoryError
from autopilot.git.repository import Repository, translated

TREE = 0o040000
SUBMODULE = 0o160000
# A folder that is emptied before its edits apply; no file can have this name.
_CLEARED = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a tree: git's mode, and the id of a blob, tree or submodule."""

    mode: int
    oid: str


@dataclass(frozen=True, slots=True)
class LineCounts:
    """Numbers of lines of a file that were added and removed; both 0 in a binary file."""

    added: int
    removed: int
    binary: bool


@dataclass(frozen=True, slots=True)
class Hunk:
    """A run of lines with a change in it; its first line's number, from 1, before and after.

    Args:
        lines: "+", "-" or " " and the line, without its end; a line that ends without a line break
            is followed by one that begins with a backslash, as in a diff.
    """

    old_start: int
    new_start: int
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FilePatch:
    """The changes of a file: lines added and removed, and the hunks, if it is not binary.

    Args:
        left_out: Lines by which the hunks are too long: they were cut.
    """

    added: int = 0
    removed: int = 0
    binary: bool = False
    hunks: tuple[Hunk, ...] = ()
    left_out: int = 0


def write_object(repo: Repository, kind: ObjectType, content: bytes) -> str:
    """Stores an object as git does, and returns its id; what it refers to is not looked for."""
    with translated(f"cannot write to {repo.common_dir}"):
        return str(repo.loose.write(kind, content))


def write_blob(repo: Repository, data: bytes) -> str:
    """Stores bytes and returns their id."""
    return write_object(repo, ObjectType.BLOB, data)


def read_blob(repo: Repository, oid: str) -> bytes:
    """The bytes of a blob; raises a RepositoryError if there is no blob of that id."""
    with translated(f"cannot read blob {oid}"):
        kind, data = repo.pygit.read(pygit2.Oid(hex=oid))
        if kind != ObjectType.BLOB:
            raise RepositoryError(f"object {oid} is not a blob", hint="name a file's object")
        return data


def has_object(repo: Repository, oid: str) -> bool:
    """Whether an object is in this repository."""
    return pygit2.Oid(hex=oid) in repo.pygit


def tree_of(repo: Repository, commit: str) -> str:
    """The id of a commit's tree."""
    with translated(f"cannot read commit {commit}"):
        return str(repo.pygit[commit].peel(pygit2.Commit).tree_id)


def entry_at(repo: Repository, tree: str, path: str) -> Entry | None:
    """The file, folder or submodule at a path of a tree, or None; "" is the tree itself."""
    with translated(f"cannot read tree {tree}"):
        found: pygit2.Object = _tree(repo, tree)
        if not path:
            return Entry(TREE, str(found.id))
        for name in path.split("/"):
            child = _child(found, name) if isinstance(found, pygit2.Tree) else None
            if child is None:
                return None
            found = child
        return _entry(found)


def list_tree(repo: Repository, tree: str, under: str = "") -> dict[str, Entry]:
    """All files, symbolic links and submodules below a folder of a tree, by full path."""
    start = entry_at(repo, tree, under)
    if start is None:
        return {}
    if start.mode != TREE:
        return {under: start}
    with translated(f"cannot read tree {tree}"):
        return dict(_walk(_tree(repo, start.oid), f"{under}/" if under else ""))


def write_tree(repo: Repository, base: str | None, changes: Mapping[str, Entry | None]) -> str:
    """Writes a tree that differs from another at some paths; only folders on them are read.

    Args:
        base: The tree to start from; None for an empty one.
        changes: What shall be at a path. None removes the file or folder; a folder that this
            leaves empty goes too. A file makes room for a folder, and the reverse.

    Raises:
        RepositoryError: a name that git does not allow, or an object that does not exist.
    """
    with translated(f"cannot write a tree to {repo.common_dir}", "see that the paths are valid"):
        return _write_level(repo, base, _nest(changes)) or write_object(repo, ObjectType.TREE, b"")


def tree_line(name: bytes, entry: Entry) -> tuple[bytes, bytes]:
    """An entry as a tree object has it, `<octal mode> <name> NUL <20 bytes of id>`.

    Before it the key that git sorts by: a folder as if its name ended in "/".
    """
    line = b"%o %b\0%b" % (entry.mode, name, bytes.fromhex(entry.oid))
    return name + b"/" * (entry.mode == TREE), line


def diff_trees(
    repo: Repository, old: str, new: str
) -> dict[str, tuple[Entry | None, Entry | None]]:
    """The differences of two trees, by path: before and after, None where there is nothing.

    libgit2 looks into equal subtrees too: 1 ms where there are 20,000 files.
    """
    if old == new:
        return {}
    changes: dict[str, tuple[Entry | None, Entry | None]] = {}
    with translated(f"cannot compare trees {old} and {new}"):
        for delta in _tree(repo, old).diff_to_tree(_tree(repo, new)).deltas:
            path = os.fsdecode(delta.new_file.raw_path)
            was, is_now = (
                Entry(int(side.mode), str(side.id)) if side.mode else None
                for side in (delta.old_file, delta.new_file)
            )
            # A file that becomes a link is two deltas, a removal and an addition.
            earlier = changes.get(path, (None, None))
            changes[path] = (was or earlier[0], is_now or earlier[1])
    return changes


def diff_text(repo: Repository, old: str, new: str) -> str:
    """The unified diff of two trees, as `git diff` prints it; bytes that are no UTF-8 as �."""
    with translated(f"cannot compare trees {old} and {new}"):
        patches = _patches(repo, old, new)
        return "".join(patch.data.decode("utf-8", "replace") for _, patch in patches)


def diff_stat(repo: Repository, old: str, new: str) -> dict[str, LineCounts]:
    """The lines that each file that differs between two trees gained and lost."""
    with translated(f"cannot compare trees {old} and {new}"):
        return {
            path: LineCounts(*patch.line_stats[1:], patch.delta.is_binary is True)
            for path, patch in _patches(repo, old, new)
        }


_Edits = dict[str, "Entry | _Edits | None"]


def _nest(changes: Mapping[str, Entry | None]) -> _Edits:
    nested: _Edits = {}
    # Removals first: "a" -> None with "a/b" -> entry makes a folder of a file.
    for path, entry in sorted(changes.items(), key=lambda item: (item[1] is not None, item[0])):
        *folders, name = parts = path.split("/")
        if "" in parts or "\0" in path:
            raise ValueError(f"{path!r} is not a path")
        level = nested
        for folder in folders:
            edits = level.get(folder)
            if not isinstance(edits, dict):
                edits = {_CLEARED: None} if folder in level else {}
                level[folder] = edits
            level = edits
        level[name] = entry
    return nested


def _write_level(repo: Repository, base: str | None, edits: _Edits) -> str | None:
    """Writes one folder and what is below it; None if nothing is left in it."""
    content = b"" if base is None or _CLEARED in edits else tree_content(repo, base)
    written: dict[bytes, Entry | None] = {}
    for name, edit in edits.items():
        if name == _CLEARED:
            continue
        raw = os.fsencode(name)
        if isinstance(edit, dict):
            child = find_in(content, raw)
            folder = child.oid if child is not None and child.mode == TREE else None
            oid = _write_level(repo, folder, edit)
            if oid is None and folder is None and _CLEARED not in edit:
                continue  # Removals below something that is not there, or is a file.
            edit = Entry(TREE, oid) if oid is not None else None
        if edit is not None and find_in(content, raw) is None:
            _check_new(repo, name, edit)
        written[raw] = edit
    content = edit_content(content, written)
    return write_object(repo, ObjectType.TREE, content) if content else None


def _check_new(repo: Repository, name: str, entry: Entry) -> None:
    # Which names git refuses is libgit2's to say; none of them begins otherwise.
    if name[0] in ".gG" or (not name.isascii() and name.isprintable()):
        repo.pygit.TreeBuilder().insert(name, pygit2.Oid(hex=entry.oid), entry.mode)
    elif entry.mode != SUBMODULE and not has_object(repo, entry.oid):
        raise ValueError(f"there is no object {entry.oid} for {name}")


# --- trees as git stores them: one entry after the other, sorted --------------------------------
#
# pygit2 takes apart all entries of a tree to change one, and writes each anew.

_ENTRY = re.compile(rb"([0-7]+) ([^\0]+)\0(.{20})", re.DOTALL)
_ENTRIES = re.compile(rb"(?:[0-7]+ [^\0]+\0.{20})*+", re.DOTALL)
_FEW = 8


def tree_content(repo: Repository, tree: str) -> bytes:
    """The content of a tree, or of a commit's, as git stores it."""
    with translated(f"cannot read tree {tree}"):
        kind, content = repo.pygit.read(pygit2.Oid(hex=tree))
        return content if kind == ObjectType.TREE else repo.pygit[tree].peel(pygit2.Tree).read_raw()


def find_in(content: bytes, name: bytes) -> Entry | None:
    """The entry of a name in a tree's content; None if there is none."""
    found = _match(content, name)
    return None if found is None else Entry(int(found[1], 8), found[3].hex())


def edit_content(content: bytes, edits: Mapping[bytes, Entry | None]) -> bytes:
    """The content of a tree with other entries; None removes one."""
    rest = dict(edits)
    for name, entry in edits.items() if len(edits) <= _FEW else ():
        found = _match(content, name)
        if found is None and entry is None:
            del rest[name]
        elif found is not None and entry is not None:
            key, line = tree_line(name, entry)
            if key == _key(found):  # it stays at its place
                content = content[: found.start()] + line + content[found.end() :]
                del rest[name]
    if rest:
        lines = {_key(found): found[0] for found in _ENTRY.finditer(content)}
        for name in rest:
            lines.pop(name, None)
            lines.pop(name + b"/", None)
        lines |= dict(tree_line(name, entry) for name, entry in rest.items() if entry is not None)
        content = b"".join(lines[key] for key in sorted(lines))
    return content


def _match(content: bytes, name: bytes) -> re.Match[bytes] | None:
    at = content.find(b" %b\0" % name)
    while at >= 0:
        for start in (at - 6, at - 5):  # where the mode begins, which has 6 or 5 digits
            # By chance, an id may look like this: what is before must be whole entries.
            if start >= 0 and _ENTRIES.fullmatch(content, 0, start):
                found = _ENTRY.match(content, start)
                if found is not None and found[2] == name:
                    return found
        at = content.find(b" %b\0" % name, at + 1)
    return None


def _key(found: re.Match[bytes]) -> bytes:
    """The name that git sorts an entry by: a folder as if its name ended in "/"."""
    name: bytes = found[2]
    return name + b"/" * (int(found[1], 8) == TREE)


def _tree(repo: Repository, oid: str) -> pygit2.Tree:
    """A tree, or that of a commit."""
    return repo.pygit[oid].peel(pygit2.Tree)


def _child(tree: pygit2.Tree, name: str) -> pygit2.Object | None:
    if not name.isprintable():  # it may be no UTF-8, which pygit2 does not take
        wanted = os.fsencode(name)
        return next((child for child in tree if child.raw_name == wanted), None)
    return tree[name] if name in tree else None  # noqa: SIM401  # Tree has no get().


def _entry(child: pygit2.Object) -> Entry:
    return Entry(int(child.filemode or 0), str(child.id))


def _walk(tree: pygit2.Tree, prefix: str) -> Iterator[tuple[str, Entry]]:
    for child in tree:
        path = prefix + os.fsdecode(child.raw_name or b"")
        if isinstance(child, pygit2.Tree):
            yield from _walk(child, f"{path}/")
        else:
            yield path, _entry(child)


def _patches(repo: Repository, old: str, new: str) -> Iterator[tuple[str, pygit2.Patch]]:
    diff = _tree(repo, old).diff_to_tree(_tree(repo, new))
    for patch, delta in zip(diff, diff.deltas, strict=True):
        if patch is not None:
            yield os.fsdecode(delta.new_file.raw_path), patch


def file_patch(
    repo: Repository, old: Entry | None, new: Entry | None, lines_at_most: int
) -> FilePatch:
    """The changes between two states of a file; None is a missing file.

    Bytes that are no UTF-8 are shown as �.

    Args:
        lines_at_most: Lines that are given, with those around a change; the rest is counted.
    """
    if SUBMODULE in {entry.mode for entry in (old, new) if entry}:
        gone, come = (f"commit {entry.oid}" if entry else "" for entry in (old, new))
        lines = tuple(f"{sign}{text}" for sign, text in (("-", gone), ("+", come)) if text)
        return FilePatch(len(come) > 0, len(gone) > 0, hunks=(Hunk(1, 1, lines),))
    with translated("cannot compare two files"):
        before, after = (
            repo.pygit[entry.oid].peel(pygit2.Blob) if entry else None for entry in (old, new)
        )
        if before is None and after is None:
            return FilePatch()
        patch = pygit2.Patch.create_from(before, after)
        _, added, removed = patch.line_stats
        hunks, room, left_out = [], lines_at_most, 0
        for hunk in patch.hunks:
            whole = [
                line.origin + line.raw_content.decode("utf-8", "replace").removesuffix("\n")
                if line.origin in "+- "
                else "\\ no line break at the end"
                for line in hunk.lines
            ]
            kept = tuple(whole[:room])
            room, left_out = room - len(kept), left_out + len(whole) - len(kept)
            if kept:
                hunks.append(Hunk(hunk.old_start, hunk.new_start, kept))
        binary = patch.delta.is_binary is True
        return FilePatch(added, removed, binary, () if binary else tuple(hunks), left_out)
