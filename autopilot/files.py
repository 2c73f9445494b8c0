"""Files exactly as they are: list, read, replace, remove.

The one place that writes parameters to disk. Content is bytes, the mode is git's (regular,
executable, symbolic link), and a file is replaced in one step, so that a reader (or a kill) sees
either the old or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from autopilot.errors import ParameterError, translated_as

REGULAR = 0o100644
EXECUTABLE = 0o100755
SYMLINK = 0o120000

# Half-written files that a kill left behind are recognized by it, and never listed.
TEMPORARY = ".autopilot-tmp-"
STAGING = "autopilot/.tmp"
"""In a git folder: the folder in which files of its checkout are made. No slug has that name."""
# Characters with a meaning between a regular expression's brackets, beside "-".
_SPECIAL = re.compile(r"[\\\[\]&~|^]")


@dataclass(frozen=True, slots=True)
class FileState:
    """A file's content and git mode; a symbolic link's content is its target."""

    mode: int
    content: bytes


class LinkedFolders:
    """Which folders below a root are symbolic links, asked once for each."""

    def __init__(self, root: Path) -> None:
        self._base = f"{root}/"
        self._known: dict[str, str] = {"": ""}

    def above(self, name: str) -> str:
        """The topmost symbolic link among the folders of a name; "" if there is none."""
        folder = name.rpartition("/")[0]
        known = self._known.get(folder)
        if known is None:
            known = self.above(folder)
            if not known and Path(self._base + folder).is_symlink():
                known = folder
            self._known[folder] = known
        return known


def path_inside(root: Path, name: str) -> Path:
    """`root/name`.

    Raises:
        ParameterError: the name is no plain path below root, or leads into a `.git`.
    """
    parts = name.split("/")
    if name.startswith("/") or any(
        part in ("", ".", "..") or part.lower() == ".git" for part in parts
    ):
        raise ParameterError(
            f"refusing to write {name!r}: it leaves {root}", hint="use a path below the parameter"
        )
    return root.joinpath(*parts)


def read_file(path: Path) -> FileState:
    """Reads a file, or a symbolic link without following it.

    Raises:
        FileNotFoundError: there is none.
    """
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        return FileState(SYMLINK, os.fsencode(os.readlink(path)))
    mode = EXECUTABLE if status.st_mode & stat.S_IXUSR else REGULAR
    return FileState(mode, path.read_bytes())


def replace_file(root: Path, name: str, state: FileState) -> None:
    """Writes `root/name` by a temporary file and a rename; makes its folders.

    A folder or a file in the way is removed. Nothing is written through a symbolic link.

    Args:
        root: The folder that is not left, absolute.
        name: Path below root, with "/" between its parts.

    Raises:
        ParameterError: the path leaves root, or the disk is full or not writable.
    """
    path = path_inside(root, name)
    with translated_as(ParameterError, f"cannot write {path}", "{remedy}, then resume"):
        for folder in reversed(list(_parents_below(root, path))):
            # A link is replaced by a folder: writing through it would leave root.
            if folder.is_symlink() or folder.is_file():
                folder.unlink()
            folder.mkdir(exist_ok=True)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        with replacing(path) as created:
            if state.mode == SYMLINK:
                os.symlink(os.fsdecode(state.content), created)
            else:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
                with os.fdopen(os.open(created, flags, 0o600), "wb") as file:
                    file.write(state.content)
                created.chmod(_permissions(path, executable=state.mode == EXECUTABLE))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path that the body makes a file of, which then takes another one's place in one step.

    A kill leaves nothing in the folder, where its repository's git folder is on the same file
    system: the file is made there. Elsewhere it is made beside `path`.
    """
    digest, folder = hashlib.sha1(os.fsencode(path)).hexdigest(), _staging(path.parent)
    if not folder.is_dir():  # it was removed meanwhile
        _staging.cache_clear()
        folder = _staging(path.parent)
    # In the folder it has always the same name: the next write replaces a rest that a kill left.
    own = "" if folder == path.parent else f"-{os.getpid()}"
    created = folder / f"{TEMPORARY}{digest}{own}"
    created.unlink(missing_ok=True)
    try:
        yield created
        if own:
            _inherit_group(created, path.parent)
        try:
            os.replace(created, path)
        except OSError as error:
            if error.errno != errno.EXDEV or not own:
                raise
            # The same file system, mounted at two places.
            beside = path.with_name(f"{TEMPORARY}{digest}")
            shutil.move(created, beside)
            os.replace(beside, path)
    except BaseException:
        created.unlink(missing_ok=True)
        raise


@lru_cache(maxsize=4096)
def _staging(folder: Path) -> Path:
    """The folder in which files of a folder are made."""
    for above in (folder, *folder.parents):
        place = above / ".git"
        with contextlib.suppress(OSError):
            if place.is_file():
                link = above / os.fsdecode(place.read_bytes()).removeprefix("gitdir: ").strip()
                # Only where that knows of this checkout: an agent may have written the file.
                if not place.samefile(os.fsdecode((link / "gitdir").read_bytes()).strip()):
                    break
                place = link
            if (place / "HEAD").is_file():
                staging = place / STAGING
                staging.mkdir(parents=True, exist_ok=True)
                if os.access(staging, os.W_OK) and staging.stat().st_dev == folder.stat().st_dev:
                    return staging
                break
    return folder


def _inherit_group(created: Path, folder: Path) -> None:
    """Gives a file the group that it would have if it had been made in a folder."""
    status = folder.stat()
    if status.st_mode & stat.S_ISGID:
        with contextlib.suppress(OSError):
            os.chown(created, -1, status.st_gid, follow_symlinks=False)


def rests_in(folder: Path, *, below: bool) -> Iterator[Path]:
    """The half-written files that killed processes left in a folder."""
    pattern = f"{TEMPORARY}*"
    yield from sorted(folder.rglob(pattern) if below else folder.glob(pattern))


def remove_file(root: Path, name: str) -> None:
    """Removes `root/name` if it is there, and the folders below root that this leaves empty.

    A folder of that name stays, and so does what is behind a symbolic link to a folder.

    Raises:
        ParameterError: the path leaves root, or the file cannot be removed.
    """
    path = path_inside(root, name)
    if any(parent.is_symlink() for parent in _parents_below(root, path)):
        return
    with translated_as(ParameterError, f"cannot remove {path}", "{remedy}, then resume"):
        try:
            path.unlink(missing_ok=True)
        except (IsADirectoryError, NotADirectoryError):
            return
        except PermissionError:
            if not path.is_dir():  # macOS says so of a folder
                raise
            return
    for parent in _parents_below(root, path):
        try:
            parent.rmdir()
        except OSError:
            return


def list_files(source: Path, pattern: str = "**/*") -> Iterator[str]:
    """Names of the files and links below a folder that match, sorted, with "/" between parts.

    Links are not followed, repositories of their own are not entered, sockets and pipes are no
    files.
    """
    matches = glob_regex(pattern).fullmatch
    stack = [""]
    found: list[str] = []
    while stack:
        prefix = stack.pop()
        with os.scandir(source / prefix if prefix else source) as listed:
            entries = list(listed)
            if prefix and any(entry.name == ".git" for entry in entries):
                continue
            for entry in entries:
                if entry.name == ".git" or entry.name.startswith(TEMPORARY):
                    continue
                name = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    stack.append(name + "/")
                elif (entry.is_file() or entry.is_symlink()) and matches(name):
                    found.append(name)
    yield from sorted(found)


@lru_cache(maxsize=256)
def glob_regex(pattern: str) -> re.Pattern[str]:
    """A glob as a regular expression: `**` crosses folders; `*`, `?` and `[a-z]` do not.

    Globs of files that do not count follow after `:!`.

    Raises:
        ParameterError: a range in brackets runs backwards.

    >>> bool(glob_regex("**/*.py:!vendor/**").fullmatch("vendor/a.py"))
    False
    """
    pattern, *excluded = pattern.split(":!")
    out = "".join(rf"(?!(?:{glob_regex(each).pattern})\Z)" for each in excluded)
    position = 0
    while position < len(pattern):
        rest = pattern[position:]
        if rest.startswith("**/"):
            out, position = out + "(?:.*/)?", position + 3
        elif rest.startswith("**"):
            out, position = out + ".*", position + 2
        elif rest[0] == "*":
            out, position = out + "[^/]*", position + 1
        elif rest[0] == "?":
            out, position = out + "[^/]", position + 1
        elif rest[0] == "[" and "]" in rest[3 if rest[1:2] in ("!", "^") else 2 :]:
            end = rest.index("]", 3 if rest[1] in "!^" else 2)
            negated = rest[1] in "!^"
            inner = _SPECIAL.sub(r"\\\g<0>", rest[2:end] if negated else rest[1:end])
            inner = inner.replace("--", r"-\-")
            out += f"(?!/)[{'^' if negated else ''}{inner}]"
            position += end + 1
        else:
            out, position = out + re.escape(rest[0]), position + 1
    try:
        return re.compile(out, re.DOTALL)
    except re.error as error:
        raise ParameterError(
            f"{pattern!r} is not a pattern for files: {error}", hint='write it like "**/*.md"'
        ) from error


def _parents_below(root: Path, path: Path) -> Iterator[Path]:
    for parent in path.parents:
        if parent == root:
            return
        yield parent


def _permissions(path: Path, *, executable: bool) -> int:
    """Keeps the group and others bits of the file that is replaced, else follows the umask."""
    mode = 0o666 & ~umask()
    with contextlib.suppress(OSError):
        status = os.lstat(path)
        mode = stat.S_IMODE(status.st_mode) if stat.S_ISREG(status.st_mode) else mode
    # Who may read it may execute it, as git does.
    return mode | (mode & 0o444) >> 2 if executable else mode & ~0o111


@lru_cache(maxsize=1)
def umask() -> int:
    """The process's umask."""
    # It can only be read by setting it. Once: another thread may create files meanwhile.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
