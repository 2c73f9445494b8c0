"""Where the content of files is that may have to be put back."""

from __future__ import annotations

import contextlib
import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path

from autopilot.files import EXECUTABLE, REGULAR, FileState, read_file
from autopilot.git.objects import Entry
from autopilot.git.stamps import Stamp

LARGE = 32 * 2**20
"""Bytes of a file that git does not have, from which on no copy is kept."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a file's content is, as of a stamp: in git, in a link's target, in a copy, or nowhere.

    Attributes:
        digest: Of the copy, so that one that was tampered with is not used.
    """

    stamp: Stamp
    entry: Entry | None = None
    state: FileState | None = None
    copy: Path | None = None
    digest: str = ""


class Copies:
    """Copies of what git does not have, one a path.

    Args:
        folder: Theirs alone; made when it is needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def keep(self, path: Path, stamp: Stamp, known: Source | None) -> Source:
        """Copies a file; what is too large, or no file, has a source that is nowhere.

        Args:
            path: The file, or a symbolic link.
            stamp: Its stamp.
            known: What was kept of the same path before; its copy is written over.
        """
        if stat.S_ISLNK(stamp[4]):
            return Source(stamp, state=read_file(path))
        if not stat.S_ISREG(stamp[4]) or stamp[1] > LARGE:
            return Source(stamp)
        try:
            content = path.read_bytes()
        except OSError:  # nobody can read it, evaluations neither
            return Source(stamp)
        copy = known.copy if known is not None else None
        if copy is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._count += 1
            copy = self._folder / str(self._count)
        copy.write_bytes(content)
        return Source(stamp, copy=copy, digest=_digest(content))

    def state(self, source: Source) -> FileState | None:
        """What was copied; None if nothing was, or somebody changed it."""
        if source.copy is not None:
            with contextlib.suppress(OSError):
                content = source.copy.read_bytes()
                if _digest(content) == source.digest:
                    mode = EXECUTABLE if source.stamp[4] & stat.S_IXUSR else REGULAR
                    return FileState(mode, content)
        return None

    def is_same(self, path: Path, source: Source) -> bool:
        """Whether a file holds what was kept of it."""
        with contextlib.suppress(OSError):
            if source.state is not None:
                return read_file(path) == source.state
            return bool(source.digest) and _digest(path.read_bytes()) == source.digest
        return False


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
