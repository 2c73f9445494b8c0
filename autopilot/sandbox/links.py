"""What `--link` brings in: the user's own files, watched, and copied where they are small."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autopilot.errors import ConfinementError
from autopilot.files import TEMPORARY
from autopilot.git.stamps import Stamp, everything_below, stamps_of
from autopilot.sandbox.changes import printable

COPIED_BYTES = 32 * 2**20
COPIED_FILES = 2000
_HASHED = 2**20


@dataclass(frozen=True, slots=True)
class Link:
    """A path of the user's checkout that the worktree has, too.

    Args:
        name: The path from the top, in both.
        source: The user's own.
        place: In the worktree: a symbolic link to it, or a copy.
    """

    name: str
    source: Path
    place: Path


class Links:
    """All of a run. They are links until an agent is let in; then the small ones become copies.

    The user's own files are watched during its steps, whether there is a copy or not.

    Args:
        links: The paths.
        slug: The experiment.
    """

    def __init__(self, links: Sequence[Link], slug: str) -> None:
        self.links = links
        self._slug = slug
        self._stamps: dict[str, Stamp] = {}
        self._digests: dict[str, tuple[Stamp, str]] = {}
        self._is_copied = False

    def covers(self, name: str) -> bool:
        """Whether a path from the top is one of them, or below one."""
        return any(name == link.name or name.startswith(f"{link.name}/") for link in self.links)

    def look(self) -> None:
        """Copies what can be copied, and remembers how the rest is now."""
        if not self._is_copied:
            for link in self.links:
                _copy(link)
            self._is_copied = True
        self._stamps = {}
        for link in self.links:
            for name, stamp in _stamps(link).items():
                self._stamps[name] = stamp
                known = self._digests.get(name)
                if stamp[1] <= _HASHED and (known is None or known[0] != stamp):
                    self._digests[name] = (stamp, _digest(name))

    def check(self) -> None:
        """Stops a run in which a step changed the user's own files.

        Raises:
            ConfinementError: it names the first one.
        """
        now = {name: s for link in self.links for name, s in _stamps(link).items()}
        for name in sorted({*now, *self._stamps}):
            was, is_now = self._stamps.get(name), now.get(name)
            known = self._digests.get(name)
            if was == is_now or (was and is_now and known and known[1] == _digest(name)):
                continue
            did = "made" if was is None else "removed" if is_now is None else "changed"
            raise ConfinementError(
                f"{printable(name)} was {did} during an optimizer's step; it is your own, brought "
                "in by --link, so it is left as it is",
                hint=f"put it back as it was, then: autopilot resume {self._slug}",
            )


def _copy(link: Link) -> None:
    """Puts a copy in the place of a link, if it is small and holds no links of its own."""
    files = [link.source]
    if link.source.is_dir():
        found = [Path(here, n) for here, _, names in os.walk(link.source) for n in names]
        folders = [Path(here, n) for here, names, _ in os.walk(link.source) for n in names]
        if any(path.is_symlink() for path in (*found, *folders)):
            return
        files = found
    sizes = [path.stat().st_size for path in files if path.is_file()]
    if len(sizes) != len(files) or len(files) > COPIED_FILES or sum(sizes) > COPIED_BYTES:
        return
    made = link.place.with_name(f"{TEMPORARY}{link.place.name}")
    shutil.rmtree(made, ignore_errors=True)
    try:
        if link.source.is_dir():
            shutil.copytree(link.source, made)
        else:
            shutil.copy2(link.source, made)
        link.place.unlink()
        made.rename(link.place)
    except OSError:  # unreadable, or no room: it stays a link
        shutil.rmtree(made, ignore_errors=True)
        if not os.path.lexists(link.place):
            link.place.symlink_to(link.source)


def _stamps(link: Link) -> dict[str, Stamp]:
    """Full name to stamp."""
    source = Path(os.path.realpath(link.source))
    if not source.is_dir():
        return {str(source): stamp for _, stamp in stamps_of(source.parent, [source.name])}
    return {f"{source}/{name}": stamp for name, stamp in everything_below(source).items()}


def _digest(name: str) -> str:
    path = Path(name)
    try:
        if path.is_symlink():
            return os.readlink(path)
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    except OSError:
        return ""
