"""Files of a worktree as blobs, blobs as files, and what tells that a file is unchanged."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from operator import attrgetter
from pathlib import Path

import pygit2

from autopilot.errors import ParameterError
from autopilot.files import (
    EXECUTABLE,
    REGULAR,
    SYMLINK,
    TEMPORARY,
    FileState,
    LinkedFolders,
    path_inside,
    read_file,
    remove_file,
    replace_file,
)
from autopilot.git.conversion import Converter
from autopilot.git.objects import SUBMODULE, TREE, Entry, entry_at, read_blob, write_blob
from autopilot.git.repository import Repository, translated

_FINE_NS = 20_000_000
_COARSE_NS = 2_100_000_000
_SECOND_NS = 1_000_000_000

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE = (FileNotFoundError, NotADirectoryError)

Stamp = tuple[int, int, int, int, int]
"""Time of modification, size, time of change (both in ns), inode, mode; as git's index has them.

Together they tell whether a file was changed without reading it.
"""
_Look = Callable[[], Mapping[str, Stamp]]
_Listed = tuple[Stamp, list[str], list[str], set[str]]
"""A folder's stamp, the folders in it, its accepted files and the others, by their full names."""


class WorkFiles:
    """The files below a folder of a worktree, hashed and restored exactly.

    What has the same size, times, inode and mode as when it was read is not read again. A file
    that was changed so recently that another change could leave the same times is always read.
    Not to be shared between threads.

    Args:
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
        """The entries that git would store for files.

        Starts git only for files that are converted, and once for names that are new.

        Args:
            write: Whether the contents are stored as blobs; without, only ids are computed.

        Returns:
            An entry by name; None where there is no file: it is missing, a folder, or behind a
            symbolic link to a folder.

        Raises:
            ParameterError: a file cannot be read.
            GitCommandError: a filter failed.
        """
        found = self._hash(lambda: dict(stamps_of(self.root, names)), names, write=write)
        return {**dict.fromkeys(names), **found}

    def hash_below(
        self, files: FilesBelow, known: Mapping[str, Entry], *, write: bool = True
    ) -> dict[str, Entry]:
        """The entries of all files below a folder of the same root; as `hash`, in less time."""
        return self._hash(lambda: files.stamps(known), write=write)

    def _hash(self, look: _Look, names: Iterable[str] = (), *, write: bool) -> dict[str, Entry]:
        found = dict[str, Entry]()
        stale: dict[str, Stamp] = {}
        cache, now_ns = self._cache, time.time_ns()
        for name, stamp in look().items():
            known = cache.get(name)
            if known is not None and known[0] == stamp and (known[2] or not write):
                found[name] = known[1]
            elif stat.S_ISREG(stamp[4]) or stat.S_ISLNK(stamp[4]):
                stale[name] = stamp
        if stale:
            found |= self._read(stale, now_ns, write=write)
        # Of what is as it was when it was read, the attributes are known.
        attributes = {n: found.get(n) for n in (*stale, *names) if n.endswith(".gitattributes")}
        if any(self._attributes.get(name) != entry for name, entry in attributes.items()):
            # What was read above was converted by the attributes of before.
            self._attributes |= attributes
            self.forget()
            return self._hash(look, names, write=write)
        return found

    def restore(self, changes: Mapping[str, Entry | None]) -> None:
        """Makes files what some blobs hold: content, executable bit, symbolic links.

        Each file is replaced in one step. A file makes room for a folder, and the reverse; an entry
        of None removes it. All names are checked before the first file is touched.

        Raises:
            ParameterError: a path is behind a symbolic link to a folder, is in or is a submodule,
                leaves the root, or cannot be written.
            RepositoryError: a blob is missing.
        """
        written = {name: entry for name, entry in changes.items() if entry is not None}
        removed = {name for name, entry in changes.items() if entry is None}
        self._refuse(written, removed)
        # Attributes come first: they decide how the other files are converted.
        attributes = {n: e for n, e in changes.items() if n.rpartition("/")[2] == ".gitattributes"}
        if attributes:
            self._restore(attributes)
            self.forget()
        self._restore({name: e for name, e in changes.items() if name not in attributes})

    def _restore(self, changes: Mapping[str, Entry | None]) -> None:
        written = {name: entry for name, entry in changes.items() if entry is not None}
        removed = changes.keys() - written.keys()
        states = self._states(written)
        # What is in the way goes first; the rest last, so that a folder whose files are all new
        # stays the same folder for a process that works in it.
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
        """
        self._converter.learn(self._prefix + name for name in names)
        converted = [name for name in names if self._converter.converts(self._prefix + name)]
        if converted:
            entries = {n: e for n, e in self.hash(converted).items() if e is not None}
            for name, state in self._states(entries).items():
                if read_file(self.root / name) != state:
                    replace_file(self.root, name, state)

    def _read(self, stale: Mapping[str, Stamp], read_ns: int, *, write: bool) -> dict[str, Entry]:
        self._converter.learn(self._prefix + name for name in stale)
        entries: dict[str, Entry] = {}
        converted: dict[str, int] = {}
        has_bits = (self.repo.config("core.filemode") or "true").lower() != "false"
        for name in stale:
            try:
                state = read_file(self.root / name)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise _unreadable(name, error) from error
            mode, path = state.mode, self._prefix + name
            if mode != SYMLINK and not has_bits:
                mode = self._mode_in_head(path)
            if mode != SYMLINK and not self._converter.stored_as_is(path, state.content):
                converted[name] = mode
                continue
            if write:
                entries[name] = Entry(mode, write_blob(self.repo, state.content))
                continue
            with translated("cannot hash a file"):
                entries[name] = Entry(mode, str(pygit2.hash(state.content)))
        oids = self._converter.clean([self._prefix + name for name in converted], write=write)
        for name, mode in converted.items():
            entries[name] = Entry(mode, oids[self._prefix + name])
        for name, entry in entries.items():
            if _is_settled(stale[name], read_ns):
                self._cache[name] = (stale[name], entry, write)
            else:
                self._cache.pop(name, None)
        return entries

    def _mode_in_head(self, path: str) -> int:
        if self.repo.pygit.head_is_unborn:
            return REGULAR
        entry = entry_at(self.repo, self.repo.head_commit(), path)
        return EXECUTABLE if entry is not None and entry.mode == EXECUTABLE else REGULAR

    def _states(self, written: Mapping[str, Entry]) -> dict[str, FileState]:
        """The files that some entries stand for, converted where attributes ask for it."""
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
            reason, hint = "", "name files of this repository only"
            if entry.mode in (SUBMODULE, TREE):
                reason = "it is a submodule" if entry.mode == SUBMODULE else "it is a folder"
            elif (link := linked.above(name)) and link not in removed:
                reason = f"{link} is a symbolic link to a folder"
                hint = "name the folder that the link leads to, or make it a real folder"
            for folder in (name, *folders_above(name)):
                if reason or folder in checked:
                    break
                checked.add(folder)
                if os.path.lexists(self.root / folder / ".git"):
                    reason = f"{folder} is a repository of its own"
            if reason:
                raise ParameterError(f"cannot restore {name}: {reason}", hint=hint)


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
    return {name for name in removed if name in above or not files.isdisjoint(folders_above(name))}


def folders_above(name: str) -> list[str]:
    """The folders that a path is in, the deepest first."""
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]


# --- stamps: a thousand files are looked at in 2 ms, most of it the system's ------------------


def stamps_of(root: Path, names: Iterable[str]) -> Iterator[tuple[str, Stamp]]:
    """The stamps of the paths from a folder that exist and are not behind a link to a folder."""
    base, linked = f"{root}/", LinkedFolders(root)
    for name in names:
        try:
            status = os.lstat(base + name)
        except _GONE:
            continue
        except OSError as error:
            raise _unreadable(name, error) from error
        if not linked.above(name):
            yield name, stamp_of(status)


class FilesBelow:
    """The accepted files below a folder, without repositories of their own in it.

    Links are not followed. A folder is listed anew where its stamp says that a name came or went.

    Args:
        folder: A path from root that ends in "/"; "" is root itself. Names are paths from root.
    """

    def __init__(self, root: Path, folder: str, accepts: Callable[[str], bool]) -> None:
        self._root, self._folder, self._accepts = root, folder, accepts
        self._listed: dict[str, _Listed] = {}

    def stamps(self, known: Mapping[str, object]) -> dict[str, Stamp]:
        """The stamps of the files by name; known names are not asked for, and always accepted."""
        found, accepts, look = dict[str, Stamp](), self._accepts, os.lstat
        prefixes = [] if LinkedFolders(self._root).above(self._folder) else [self._folder]
        while prefixes:
            start = len(prefix := prefixes.pop())
            try:
                # Its files are asked for from the open folder, and the way to it is walked once.
                here = os.open(f"{self._root}/{prefix}".rstrip("/"), _FOLDER)
            except _GONE:
                continue
            except OSError as error:
                raise _unreadable(prefix, error) from error
            try:
                _, folders, files, refused = self._list(here, prefix, known)
                prefixes += folders
                for name in (*files, *(known.keys() & refused)):
                    if name in known or accepts(name):
                        try:
                            found[name] = stamp_of(look(name[start:], dir_fd=here))
                        except _GONE:
                            continue
            finally:
                os.close(here)
        return found

    def _list(self, here: int, prefix: str, known: Mapping[str, object]) -> _Listed:
        stamp, now_ns, listed = stamp_of(os.stat(here)), time.time_ns(), self._listed.get(prefix)
        if listed is not None and listed[0] == stamp:
            return listed
        listed = _, folders, files, refused = stamp, [], [], set()
        with os.scandir(here) as scanned:
            entries = {e.name: e for e in scanned if not e.name.startswith(TEMPORARY)}
        if entries.pop(".git", None) and prefix != self._folder:
            entries.clear()
        for own, entry in entries.items():
            name = prefix + own
            if entry.is_dir(follow_symlinks=False):
                folders.append(f"{name}/")
            elif name in known or self._accepts(name):
                files.append(name)
            else:
                refused.add(name)
        # As a file's content: else it is not what that stamp means; without a time, never.
        if stamp[0] and _is_settled(stamp, now_ns):
            self._listed[prefix] = listed
        return listed


def everything_below(root: Path, *, opening: bool = False) -> dict[str, Stamp]:
    """The stamps of files, links, pipes and folders below a folder, but for its own `.git`.

    Links are not followed. Of a folder only the mode counts.

    Args:
        opening: Whether a folder that may not be listed is made one that may.
    """
    found: dict[str, Stamp] = {}
    prefixes = [""]
    while prefixes:
        prefix = prefixes.pop()
        try:
            names = _listed(f"{root}/{prefix}", opening=opening)
        except _GONE:
            continue
        except OSError as error:
            raise _unreadable(prefix, error) from error
        for name, status in names:
            if not prefix and name == ".git":
                continue
            if stat.S_ISDIR(status.st_mode):
                found[prefix + name] = (0, 0, 0, 0, status.st_mode)
                prefixes.append(f"{prefix}{name}/")
            else:
                found[prefix + name] = stamp_of(status)
    return found


def _listed(folder: str, *, opening: bool) -> list[tuple[str, os.stat_result]]:
    try:
        with os.scandir(folder) as entries:
            return [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
    except PermissionError:
        if not opening:
            raise
        os.chmod(folder, 0o700)
        return _listed(folder, opening=False)


def _unreadable(name: str, error: OSError) -> ParameterError:
    return ParameterError(
        f"cannot read {name}: {error.strerror}", hint="give read permission to the file"
    )


# The stamp of a `stat` result.
stamp_of: Callable[[os.stat_result], Stamp] = attrgetter(
    "st_mtime_ns", "st_size", "st_ctime_ns", "st_ino", "st_mode"
)
