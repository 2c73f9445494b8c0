"""Blobs and trees: what a repository stores, written and compared without the index."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pygit2
from pygit2.enums import ObjectType

from autopilot.errors import RepositoryError
from autopilot.git.repository import Repository, translated

TREE = 0o040000
SUBMODULE = 0o160000
_UNWRITABLE = "make room and give write permission to the repository's folder"


@dataclass(frozen=True, slots=True)
class Entry:
    """What a tree holds under a name: git's mode, and the id of a blob, tree or submodule."""

    mode: int
    oid: str


@dataclass(frozen=True, slots=True)
class LineCounts:
    """How many lines of a file were added and removed; both 0 in a binary file."""

    added: int
    removed: int
    binary: bool


Change = tuple[Entry | None, Entry | None]
"""What was there before, and what is there after; None is nothing."""


def write_blob(repo: Repository, data: bytes) -> str:
    """Stores bytes and returns their id."""
    with translated(f"cannot write to {repo.common_dir}", _UNWRITABLE):
        return str(repo.pygit.create_blob(data))


def read_blob(repo: Repository, oid: str) -> bytes:
    """The bytes of a blob.

    Raises:
        RepositoryError: there is no such object, or it is no blob.
    """
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
    """What a tree holds at a path: a file, a folder, a submodule, or None.

    Args:
        repo: The repository.
        tree: A tree's id.
        path: Names with "/" between them; "" is the tree itself.
    """
    with translated(f"cannot read tree {tree}"):
        found: pygit2.Object = _tree(repo, tree)
        if not path:
            return Entry(TREE, tree)
        for name in path.split("/"):
            child = _child(found, name) if isinstance(found, pygit2.Tree) else None
            if child is None:
                return None
            found = child
        return _entry(found)


def list_tree(repo: Repository, tree: str, under: str = "") -> dict[str, Entry]:
    """All files, symbolic links and submodules below a folder of a tree, by full path.

    Args:
        repo: The repository.
        tree: A tree's id.
        under: A folder, or a file, which is then the only one; "" is everything.
    """
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
        repo: The repository.
        base: The tree to start from; None for an empty one.
        changes: What shall be at a path. None removes the file or folder; a folder that this
            leaves empty goes too. A file makes room for a folder, and the reverse.

    Returns:
        The new tree's id; the same as `base` if nothing changed.

    Raises:
        RepositoryError: a name that git does not allow, or an object that does not exist.
    """
    with translated(f"cannot write a tree to {repo.common_dir}", "see that the paths are valid"):
        start = None if base is None else _tree(repo, base)
        written = _write_level(repo, start, _nest(changes))
        return written or str(repo.pygit.TreeBuilder().write())


def diff_trees(
    repo: Repository, old: str, new: str, under: Sequence[str] = ()
) -> dict[str, Change]:
    """What differs between two trees, by path; equal subtrees are not read.

    Args:
        repo: The repository.
        old: The tree before.
        new: The tree after.
        under: Files or folders to look at; empty is everything.
    """
    if old == new:
        return {}
    changes: dict[str, Change] = {}
    for place in under or ("",):
        before, after = entry_at(repo, old, place), entry_at(repo, new, place)
        if before == after:
            continue
        if before is None or after is None or before.mode != TREE or after.mode != TREE:
            removed = list_tree(repo, old, place)
            added = list_tree(repo, new, place)
            for path in removed.keys() | added.keys():
                changes[path] = (removed.get(path), added.get(path))
            continue
        with translated(f"cannot compare trees {old} and {new}"):
            prefix = f"{place}/" if place else ""
            diff = _tree(repo, before.oid).diff_to_tree(_tree(repo, after.oid))
            for delta in diff.deltas:
                path = prefix + os.fsdecode(delta.new_file.raw_path)
                gone, come = _side(delta.old_file), _side(delta.new_file)
                # A file that becomes a link is two deltas, a removal and an addition.
                earlier = changes.get(path, (None, None))
                changes[path] = (gone or earlier[0], come or earlier[1])
    return changes


def diff_text(repo: Repository, old: str, new: str, under: Sequence[str] = ()) -> str:
    """The unified diff of two trees, as `git diff` prints it; bytes that are no UTF-8 as �."""
    with translated(f"cannot compare trees {old} and {new}"):
        patches = _patches(repo, old, new, under)
        return "".join(patch.data.decode("utf-8", "replace") for _, patch in patches)


def diff_stat(
    repo: Repository, old: str, new: str, under: Sequence[str] = ()
) -> dict[str, LineCounts]:
    """How many lines each file that differs between two trees gained and lost."""
    with translated(f"cannot compare trees {old} and {new}"):
        counts: dict[str, LineCounts] = {}
        for path, patch in _patches(repo, old, new, under):
            _, added, removed = patch.line_stats
            counts[path] = LineCounts(added, removed, patch.delta.is_binary is True)
        return counts


_Edits = dict[str, "Entry | _Edits | None"]
# A folder that is emptied before its edits apply; no file can have this name.
_CLEARED = ""


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


def _write_level(repo: Repository, base: pygit2.Tree | None, edits: _Edits) -> str | None:
    """Writes one folder and what is below it; None if nothing is left in it."""
    if _CLEARED in edits:
        base = None
    builder = repo.pygit.TreeBuilder(base) if base is not None else repo.pygit.TreeBuilder()
    raw_edits: dict[bytes, Entry | None] = {}
    for name, edit in edits.items():
        if name == _CLEARED:
            continue
        if isinstance(edit, dict):
            child = _child(base, name) if base is not None else None
            folder = child if isinstance(child, pygit2.Tree) else None
            oid = _write_level(repo, folder, edit)
            if oid is None and folder is None and _CLEARED not in edit:
                continue  # Removals below something that is not there, or is a file.
            edit = Entry(TREE, oid) if oid is not None else None
        if not name.isprintable() and _is_raw(name):
            raw_edits[os.fsencode(name)] = edit
        elif edit is not None:
            builder.insert(name, pygit2.Oid(hex=edit.oid), edit.mode)
        elif builder.get(name) is not None:
            builder.remove(name)
    written = builder.write()
    if raw_edits:
        return _write_raw(repo, written, raw_edits)
    return str(written) if len(builder) else None


def _is_raw(name: str) -> bool:
    """Whether a name is no UTF-8, which pygit2 cannot write."""
    return any("\udc80" <= character <= "\udcff" for character in name)


def _write_raw(
    repo: Repository, tree: pygit2.Oid, edits: Mapping[bytes, Entry | None]
) -> str | None:
    """Edits a tree object by its bytes: `<octal mode> <name> NUL <20 bytes of id>`, in order."""
    items = {child.raw_name or b"": _entry(child) for child in _tree(repo, str(tree))}
    for name, entry in edits.items():
        if entry is None:
            items.pop(name, None)
        else:
            items[name] = entry
    # git orders a folder as if its name ended in "/".
    ordered = sorted(items.items(), key=lambda item: item[0] + b"/" * (item[1].mode == TREE))
    data = b"".join(
        b"%o %b\0%b" % (entry.mode, name, bytes.fromhex(entry.oid)) for name, entry in ordered
    )
    return str(repo.pygit.write(ObjectType.TREE, data)) if items else None


def _tree(repo: Repository, oid: str) -> pygit2.Tree:
    found = repo.pygit[oid]
    if not isinstance(found, pygit2.Tree):
        raise ValueError(f"object {oid} is not a tree")
    return found


def _child(tree: pygit2.Tree, name: str) -> pygit2.Object | None:
    if not name.isprintable() and _is_raw(name):
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


def _side(file: pygit2.DiffFile) -> Entry | None:
    return Entry(int(file.mode), str(file.id)) if file.mode else None


def _patches(
    repo: Repository, old: str, new: str, under: Sequence[str]
) -> Iterator[tuple[str, pygit2.Patch]]:
    diff = _tree(repo, old).diff_to_tree(_tree(repo, new))
    for index, delta in enumerate(diff.deltas):
        path = os.fsdecode(delta.new_file.raw_path)
        if not under or any(path == place or path.startswith(f"{place}/") for place in under):
            patch = diff[index]
            if patch is not None:
                yield path, patch
