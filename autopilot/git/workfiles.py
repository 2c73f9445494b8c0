"""Files of a worktree as blobs, and blobs as files."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path

import pygit2

from autopilot.errors import ParameterError
from autopilot.files import (
    EXECUTABLE,
    REGULAR,
    SYMLINK,
    FileState,
    LinkedFolders,
    path_inside,
    read_file,
    remove_file,
    replace_file,
)
from autopilot.git.conversion import Converter
from autopilot.git.objects import (
    SUBMODULE,
    TREE,
    Entry,
    entry_at,
    read_blob,
    tree_of,
    write_blob,
)
from autopilot.git.repository import Repository, translated
from autopilot.git.stamps import Stamp, stamps_below, stamps_of, unreadable

_FINE_NS = 20_000_000
_COARSE_NS = 2_100_000_000
_SECOND_NS = 1_000_000_000

_Stamped = tuple[str, Stamp]


class WorkFiles:
    """The files below a folder of a worktree, hashed and restored exactly.

    What has the same size, times, inode and mode as when it was read is not read again. A file
    that was changed so recently that another change could leave the same times is always read.
    Not to be shared between threads.

    Args:
        repo: The worktree's repository.
        root: The worktree's top, or a folder below it. Names are paths from it.
    """

    def __init__(self, repo: Repository, root: Path) -> None:
        self.repo = repo
        self.root = root.resolve()
        below = self.root.relative_to(repo.workdir.resolve()).as_posix()
        self._prefix = "" if below == "." else f"{below}/"
        self._converter = Converter(repo)
        self._cache: dict[str, tuple[Stamp, Entry, bool]] = {}
        self._attributes: dict[str, Entry | None] = {}

    def forget(self) -> None:
        """Drops all that is remembered: every file is read again, every attribute asked again."""
        self._cache.clear()
        self._converter.forget()

    def hash(self, names: Sequence[str], *, write: bool = True) -> dict[str, Entry | None]:
        """What git would store for each file.

        Starts git only for files that are converted, and once for names that are new.

        Args:
            names: Paths from the root.
            write: Whether the contents are stored as blobs; without, only ids are computed.

        Returns:
            An entry by name; None where there is no file: it is missing, a folder, or behind a
            symbolic link to a folder.

        Raises:
            ParameterError: a file cannot be read.
            GitCommandError: a filter failed.
        """
        return self._hash(lambda: stamps_of(self.root, names), names, write=write)

    def hash_below(
        self, folder: str, accepts: Callable[[str], bool], *, write: bool = True
    ) -> dict[str, Entry]:
        """What git would store for the files below a folder; as `hash`, and in less time.

        Args:
            folder: A path from the root that ends in "/"; "" is the root itself.
            accepts: Whether a name, a path from the root, is one of them.
            write: Whether the contents are stored as blobs.

        Raises:
            ParameterError: a file or folder cannot be read.
            GitCommandError: a filter failed.
        """
        found = self._hash(lambda: stamps_below(self.root, folder, accepts), write=write)
        return {name: entry for name, entry in found.items() if entry is not None}

    def _hash(
        self, look: Callable[[], Iterable[_Stamped]], names: Iterable[str] = (), *, write: bool
    ) -> dict[str, Entry | None]:
        found: dict[str, Entry | None] = dict.fromkeys(names)
        stale: dict[str, tuple[Stamp, int]] = {}
        cache, now_ns = self._cache, time.time_ns()
        for name, stamp in look():
            known = cache.get(name)
            if known is not None and known[0] == stamp and (known[2] or not write):
                found[name] = known[1]
            elif stat.S_ISREG(stamp[4]) or stat.S_ISLNK(stamp[4]):
                stale[name] = (stamp, now_ns)
        if stale:
            found |= self._read(stale, write=write)
        attributes = {n: e for n, e in found.items() if n.endswith(".gitattributes")}
        if any(self._attributes.get(name) != entry for name, entry in attributes.items()):
            # What was read above was converted by the attributes of before.
            self._attributes |= attributes
            self.forget()
            return self._hash(look, names, write=write)
        return found

    def restore(self, changes: Mapping[str, Entry | None]) -> None:
        """Makes files what some blobs hold: content, executable bit, symbolic links.

        Each file is replaced in one step. A file makes room for a folder, and the reverse. All
        names are checked before the first file is touched.

        Args:
            changes: An entry by path from the root; None removes the file.

        Raises:
            ParameterError: a path is behind a symbolic link to a folder, is in or is a submodule,
                leaves the root, or cannot be written.
            RepositoryError: a blob is missing.
        """
        written = {name: entry for name, entry in changes.items() if entry is not None}
        removed = {name for name, entry in changes.items() if entry is None}
        self._refuse(written, removed)
        # Attributes come first: they decide how the other files are converted.
        attributes = {name: entry for name, entry in changes.items() if _is_attributes(name)}
        if attributes:
            self._restore(attributes)
            self.forget()
        self._restore({name: e for name, e in changes.items() if name not in attributes})

    def _restore(self, changes: Mapping[str, Entry | None]) -> None:
        written = {name: entry for name, entry in changes.items() if entry is not None}
        removed = changes.keys() - written.keys()
        states = self._states(written)
        # What is in the way goes first; the rest goes last, so that a folder whose files are all
        # replaced stays the same folder for a process that works in it.
        in_the_way = _in_the_way(written, removed)
        for name in sorted(in_the_way):
            remove_file(self.root, name)
        for name, state in states.items():
            replace_file(self.root, name, state)
            self._cache.pop(name, None)
        for name in sorted(removed):
            if name not in in_the_way:
                remove_file(self.root, name)
            self._cache.pop(name, None)

    def settle(self, names: Sequence[str]) -> None:
        """Makes files that git converts look as if they had just been checked out.

        What was written by hand may differ from that: by its line ends, say.

        Args:
            names: Paths from the root, of files.
        """
        self._converter.learn(self._prefix + name for name in names)
        converted = [name for name in names if self._converter.converts(self._prefix + name)]
        if converted:
            entries = {n: e for n, e in self.hash(converted).items() if e is not None}
            for name, state in self._states(entries).items():
                if read_file(self.root / name) != state:
                    replace_file(self.root, name, state)

    def _read(self, stale: Mapping[str, tuple[Stamp, int]], *, write: bool) -> dict[str, Entry]:
        self._converter.learn(self._prefix + name for name in stale)
        entries: dict[str, Entry] = {}
        converted: dict[str, int] = {}
        for name in stale:
            try:
                state = read_file(self.root / name)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise unreadable(name, error) from error
            mode = self._mode(name, state.mode)
            path = self._prefix + name
            if mode != SYMLINK and not self._converter.stored_as_is(path, state.content):
                converted[name] = mode
                continue
            entries[name] = Entry(mode, self._store(state.content, write=write))
        oids = self._converter.clean([self._prefix + name for name in converted], write=write)
        for name, mode in converted.items():
            entries[name] = Entry(mode, oids[self._prefix + name])
        for name, entry in entries.items():
            key, read_ns = stale[name]
            if _is_settled(key, read_ns):
                self._cache[name] = (key, entry, write)
            else:
                self._cache.pop(name, None)
        return entries

    def _store(self, content: bytes, *, write: bool) -> str:
        if write:
            return write_blob(self.repo, content)
        with translated("cannot hash a file"):
            return str(pygit2.hash(content))

    def _mode(self, name: str, mode: int) -> int:
        """The mode, or what HEAD has where the file system has no executable bit."""
        if mode == SYMLINK or (self.repo.config("core.filemode") or "true").lower() != "false":
            return mode
        if self.repo.pygit.head_is_unborn:
            return REGULAR
        tree = tree_of(self.repo, self.repo.head_commit())
        entry = entry_at(self.repo, tree, self._prefix + name)
        return EXECUTABLE if entry is not None and entry.mode == EXECUTABLE else REGULAR

    def _states(self, written: Mapping[str, Entry]) -> dict[str, FileState]:
        """What the files shall be, converted where attributes ask for it."""
        self._converter.learn(self._prefix + name for name in written)
        states: dict[str, FileState] = {}
        converted: dict[str, str] = {}
        for name, entry in written.items():
            content, path = read_blob(self.repo, entry.oid), self._prefix + name
            states[name] = FileState(entry.mode, content)
            if entry.mode != SYMLINK and not self._converter.written_as_is(path, content):
                converted[path] = entry.oid
        for path, content in self._converter.smudge(converted).items():
            name = path.removeprefix(self._prefix)
            states[name] = FileState(written[name].mode, content)
        return states

    def _refuse(self, written: Mapping[str, Entry], removed: Set[str]) -> None:
        linked = LinkedFolders(self.root)
        checked: set[str] = set()
        for name in removed:
            path_inside(self.root, name)
        for name, entry in written.items():
            path_inside(self.root, name)
            if entry.mode in (SUBMODULE, TREE):
                kind = "a submodule" if entry.mode == SUBMODULE else "a folder"
                raise ParameterError(
                    f"cannot restore {name}: it is {kind}",
                    hint="name files of this repository only",
                )
            link = linked.above(name)
            if link and link not in removed:
                raise ParameterError(
                    f"cannot restore {name}: {link} is a symbolic link to a folder",
                    hint="name the folder that the link leads to, or make it a real folder",
                )
            for folder in (name, *folders_above(name)):
                if folder in checked:
                    break
                checked.add(folder)
                if os.path.lexists(self.root / folder / ".git"):
                    raise ParameterError(
                        f"cannot restore {name}: {folder} is a repository of its own",
                        hint="name files of this repository only",
                    )


def _is_settled(key: Stamp, read_ns: int) -> bool:
    """Whether a change after the file was read would show in its times.

    A clock ticks every few ms; a time of whole seconds comes from a file system that counts in
    seconds, or in pairs of them.
    """
    mtime_ns, ctime_ns = key[0], key[2]
    coarse = mtime_ns % _SECOND_NS == 0 and ctime_ns % _SECOND_NS == 0
    return max(mtime_ns, ctime_ns) + (_COARSE_NS if coarse else _FINE_NS) <= read_ns


def _in_the_way(written: Iterable[str], removed: Set[str]) -> set[str]:
    """Removed names that are a folder of a written name, or are below one."""
    files = set(written)
    above = {folder for name in files for folder in folders_above(name)}
    below = {name for name in removed if any(folder in files for folder in folders_above(name))}
    return {name for name in removed if name in above} | below


def folders_above(name: str) -> list[str]:
    """The folders that a path is in, the deepest first."""
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]


def _is_attributes(name: str) -> bool:
    return name.rpartition("/")[2] == ".gitattributes"
