"""What tells whether a file was changed without reading it: its size, times, inode and mode.

Git's index remembers the same. A thousand files are looked at in 2 to 3 ms, most of it the
system's: little enough for several times an epoch.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from autopilot.errors import ParameterError
from autopilot.files import TEMPORARY, LinkedFolders

Stamp = tuple[int, int, int, int, int]
"""Time of modification, size, time of change (both in ns), inode, mode."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE = (FileNotFoundError, NotADirectoryError)


def stamps_of(root: Path, names: Iterable[str]) -> Iterator[tuple[str, Stamp]]:
    """The stamps of names that are there; what is behind a symbolic link to a folder is not.

    Args:
        root: A folder.
        names: Paths from it.

    Raises:
        ParameterError: the system refuses to tell.
    """
    base, linked = f"{root}/", LinkedFolders(root)
    for name in names:
        try:
            status = os.lstat(base + name)
        except _GONE:
            continue
        except OSError as error:
            raise unreadable(name, error) from error
        if not linked.above(name):
            yield name, stamp_of(status)


def stamps_below(
    root: Path, folder: str, accepts: Callable[[str], bool]
) -> Iterator[tuple[str, Stamp]]:
    """The stamps of what is below a folder; links are not followed, `.git` is not entered.

    Args:
        root: A folder.
        folder: Where to look, a path from root that ends in "/"; "" is root itself.
        accepts: Whether a name, a path from root, is to be looked at.

    Raises:
        ParameterError: the system refuses to tell.
    """
    if LinkedFolders(root).above(folder):
        return
    prefixes = [folder]
    while prefixes:
        prefix = prefixes.pop()
        try:
            # Its files are asked for from the open folder, and the way to it is walked once.
            here = os.open(f"{root}/{prefix}".rstrip("/"), _FOLDER)
        except _GONE:
            continue
        except OSError as error:
            raise unreadable(prefix, error) from error
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    name = prefix + entry.name
                    if entry.name == ".git" or entry.name.startswith(TEMPORARY):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        prefixes.append(f"{name}/")
                    elif accepts(name):
                        try:
                            status = os.stat(entry.name, dir_fd=here, follow_symlinks=False)
                        except _GONE:
                            continue
                        yield name, stamp_of(status)
        finally:
            os.close(here)


def everything_below(root: Path, *, opening: bool = False) -> dict[str, Stamp]:
    """The stamps of files, links, pipes and folders below a folder, but for its own `.git`.

    Links are not followed. Of a folder only the mode counts.

    Args:
        root: A folder.
        opening: Whether a folder that may not be listed is made one that may.

    Raises:
        ParameterError: the system refuses to tell.
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
            raise unreadable(prefix, error) from error
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


def unreadable(name: str, error: OSError) -> ParameterError:
    """The error of a file or folder that the system does not let us read."""
    return ParameterError(
        f"cannot read {name}: {error.strerror}", hint="give read permission to the file"
    )


def stamp_of(status: os.stat_result) -> Stamp:
    """The stamp of a `stat` result."""
    s = status
    return s.st_mtime_ns, s.st_size, s.st_ctime_ns, s.st_ino, s.st_mode
