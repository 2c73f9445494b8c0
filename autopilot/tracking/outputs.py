"""Outputs: files that evaluations wrote beside the parameters, named or kept before they go."""

from __future__ import annotations

import itertools
import os
import shutil
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autopilot.core.records.record import Manifest
from autopilot.errors import GitCommandError, UsageError
from autopilot.files import TEMPORARY
from autopilot.git import objects
from autopilot.git.repository import Repository
from autopilot.git.workfiles import Stamp, everything_below
from autopilot.text import counted, printable
from autopilot.tracking.layout import Layout
from autopilot.tracking.parameters import manifest_paths

_NAMED = 4


@dataclass(frozen=True, slots=True)
class WrittenPath:
    """A file or a folder that git does not have, and that no parameter covers.

    Args:
        path: From the worktree's top; of a folder without any file of git's, the folder.
        files: The number of files.
        bytes: Their size.
        kept: The path that it was moved to; "" if it is not kept.
    """

    path: str
    files: int
    bytes: int
    kept: str = ""

    def __str__(self) -> str:
        many = f"{counted(self.files, 'file')}, " if self.files > 1 else ""
        return f"{printable(self.path)} ({many}{_weight(self.bytes)})"


def find_outputs(worktree: Path, repo: Repository, manifest: Manifest) -> list[WrittenPath]:
    """The outputs in a worktree, by path.

    Left out are the parameters, what `--link` brought in, bytecode, and our own temporary files.

    Args:
        worktree: The worktree's folder.
        repo: The repository.
        manifest: The experiment's.
    """
    stamps = {n: s for n, s in everything_below(worktree).items() if not stat.S_ISDIR(s[4])}
    tracked = objects.list_tree(repo, objects.tree_of(repo, manifest.base))
    folders = {name[:at] for name in tracked for at, letter in enumerate(name) if letter == "/"}
    is_ours = _ours(repo, manifest)
    found: dict[str, list[Stamp]] = {}
    for name, stamp in sorted(stamps.items()):
        if name not in tracked and not is_ours(name):
            found.setdefault(_whole(name, folders), []).append(stamp)
    return [WrittenPath(path, len(all_), sum(s[1] for s in all_)) for path, all_ in found.items()]


def _ours(repo: Repository, manifest: Manifest) -> Callable[[str], bool]:
    parameters = manifest_paths(manifest)
    links = [_from_top(manifest, link) for link in manifest.links]

    def is_ours(name: str) -> bool:
        parts = name.split("/")
        return (
            "__pycache__" in parts
            or name.endswith(".pyc")
            or any(part.startswith(TEMPORARY) for part in parts)
            or any(name == link or name.startswith(f"{link}/") for link in links)
            # git's ignore rules hold inside of parameters, too.
            or (any(each.covers(name) for each in parameters) and not repo.is_ignored(name))
        )

    return is_ours


def _whole(name: str, folders: set[str]) -> str:
    """The highest folder on the way to a file that has none of git's files, or the file."""
    for at, letter in enumerate(name):
        if letter == "/" and name[:at] not in folders:
            return name[: at + 1]
    return name


def _from_top(manifest: Manifest, path: str) -> str:
    return os.path.normpath(os.path.join(manifest.directory, path))


def check_keep(manifest: Manifest, keep: Sequence[str]) -> None:
    """Refuses a path to be kept that can be no output.

    Raises:
        UsageError: it names the path.
    """
    for path in keep:
        if manifest.in_place:
            raise UsageError(
                "--keep goes with a worktree: in place, everything stays",
                hint="leave out --keep or --in-place",
            )
        name = _from_top(manifest, path)
        if name.startswith(("..", "/", ".git/")) or name in (".", ".git"):
            raise UsageError(
                f"--keep {path} is no path inside the worktree",
                hint="name what the evaluation writes, from the folder that you are in",
            )


def keep_outputs(
    worktree: Path, repo: Repository, manifest: Manifest, keep: Sequence[str]
) -> list[WrittenPath]:
    """Moves the outputs that are to be kept to the git folder; the rest is only named.

    What was kept earlier stays: the new one gets a number.

    Args:
        worktree: The worktree, which is about to be removed.
        repo: The repository.
        manifest: The experiment's.
        keep: Paths relative to the folder that the run works in.

    Raises:
        GitCommandError: something cannot be moved; the worktree is still there.
    """
    if not worktree.is_dir():
        return []
    place = Layout(manifest.slug).kept(repo)
    kept = []
    for name in dict.fromkeys(_from_top(manifest, path) for path in keep):
        source = worktree / name
        under = [o for o in find_outputs(worktree, repo, manifest) if _is_below(o.path, name)]
        if not under or not os.path.lexists(source):
            continue
        goal = _free(place / name)
        try:
            goal.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(source, goal)
        except OSError as error:
            raise GitCommandError(
                f"cannot keep {name}: {error.strerror}",
                hint=f"it is still in {worktree}; make room, then move it by hand",
            ) from error
        path = f"{name}/" if goal.is_dir() else name
        sizes = sum(o.files for o in under), sum(o.bytes for o in under)
        kept.append(WrittenPath(path, *sizes, str(goal)))
    return [*kept, *find_outputs(worktree, repo, manifest)]


def _is_below(path: str, name: str) -> bool:
    return path.rstrip("/") == name or path.startswith(f"{name}/")


def _free(path: Path) -> Path:
    numbered = (path.with_name(f"{path.stem}-{n}{path.suffix}") for n in itertools.count(2))
    return next(p for p in itertools.chain([path], numbered) if not os.path.lexists(p))


def output_lines(
    outputs: Sequence[WrittenPath], removed: str = "removed with the worktree"
) -> list[str]:
    """Lines for a person: the outputs that were kept, and those that are removed."""
    lines = [f"kept: {replace(o, kept='')} in {o.kept}" for o in outputs if o.kept]
    gone = [output for output in outputs if not output.kept]
    if gone:
        named = ", ".join(map(str, gone[:_NAMED]))
        rest = gone[_NAMED:]
        if rest:
            named += f" and {len(rest)} more ({_weight(sum(output.bytes for output in rest))})"
        how = f"--keep {printable(gone[0].path.rstrip('/'))}"
        lines.append(f"{removed}: {named}; a run keeps it with {how}, or shares yours: --link PATH")
    return lines


def _weight(size: int) -> str:
    for unit, many in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= many:
            return f"{size / many:.1f} {unit}"
    return f"{size} B"
