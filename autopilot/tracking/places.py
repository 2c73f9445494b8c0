"""The parameters' files by what the manifest says of them, without the target's code."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from autopilot.core.records.record import Manifest
from autopilot.errors import ParameterError
from autopilot.files import glob_regex, list_files
from autopilot.git.objects import SUBMODULE, Entry, list_tree
from autopilot.git.repository import Repository

EVERYTHING = "**/*"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a parameter is.

    Args:
        path: A file or a folder below the repository's top; "." is the top itself.
        pattern: Which files of a folder.
    """

    path: str
    pattern: str = EVERYTHING

    @property
    def prefix(self) -> str:
        """What the names below a folder begin with."""
        return "" if self.path == "." else f"{self.path}/"

    @property
    def pathspec(self) -> str:
        """The same for git's commands, as it is typed in a shell."""
        spec = self.path if self.pattern == EVERYTHING else f":(glob){self.prefix}{self.pattern}"
        return shlex.quote(spec)

    def covers(self, name: str) -> bool:
        """Whether a path below the repository's top belongs to the parameter."""
        if name == self.path:
            return True
        if not name.startswith(self.prefix):
            return False
        return glob_regex(self.pattern).fullmatch(name.removeprefix(self.prefix)) is not None


def places_of(manifest: Manifest) -> list[Place]:
    """Where an experiment's parameters are."""
    return [
        Place(path, manifest.patterns.get(name, EVERYTHING))
        for name, path in manifest.parameters.items()
    ]


def known_places(manifest: Manifest, slug: str) -> list[Place]:
    """Where an experiment's parameters are; there is at least one.

    Raises:
        ParameterError: nothing is known of them.
    """
    places = places_of(manifest)
    if not places:
        raise ParameterError(
            f"the manifest of {slug} names no parameters",
            hint="its manifest note was edited, or another program wrote it",
        )
    return places


def entries_at(repo: Repository, tree: str, places: Iterable[Place]) -> dict[str, Entry]:
    """The parameters' files in a tree."""
    found: dict[str, Entry] = {}
    for place in places:
        under = list_tree(repo, tree, "" if place.path == "." else place.path)
        found |= {n: e for n, e in under.items() if place.covers(n) and e.mode != SUBMODULE}
    return found


def files_at(repo: Repository, places: Iterable[Place], known: Mapping[str, Entry]) -> list[str]:
    """The parameters' files in the working tree; ignored ones only if they are known."""
    names: dict[str, None] = {}
    for place in places:
        root = repo.workdir if place.path == "." else repo.workdir / place.path
        if root.is_symlink() or root.is_file():
            names[place.path] = None
        elif root.is_dir():
            names |= dict.fromkeys(place.prefix + n for n in list_files(root, place.pattern))
    return [name for name in names if name in known or not repo.is_ignored(name)]
