"""Outputs: files that evaluations wrote beside the parameters, named or kept before they go."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import shlex
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autopilot.core.records.record import Manifest
from autopilot.errors import AutopilotError, GitCommandError, UsageError, remedy
from autopilot.files import TEMPORARY, glob_regex
from autopilot.git import objects
from autopilot.git.repository import Repository
from autopilot.git.workfiles import Stamp, everything_below, folders_above
from autopilot.text import counted, printable
from autopilot.tracking.layout import Layout
from autopilot.tracking.parameters import manifest_paths

_NAMED = 4
_BYTECODE = re.compile(r"(^|.*/)__pycache__/.*|.*\.pyc", re.DOTALL)
# Tools make them anew wherever they run.
_CACHES = (".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", ".ipynb_checkpoints")


@dataclass(frozen=True, slots=True)
class WrittenPath:
    """A file or a folder that git does not have, and that no parameter covers.

    Args:
        path: From the worktree's top; of a folder without any file of git's, the folder.
        files: The number of files; 0 where a path that was to be kept does not exist.
        kept: The path that it was moved to; "" if it is not kept.
        option: The option of a run that keeps it; "" for the caches of tools.
    """

    path: str
    files: int
    bytes: int
    kept: str = ""
    option: str = ""

    def __str__(self) -> str:
        many = f"{counted(self.files, 'file')}, " if self.files > 1 else ""
        return f"{printable(self.path)} ({many}{_weight(self.bytes)})"


class _Written:
    """The outputs in a worktree."""

    def __init__(self, worktree: Path, repo: Repository, manifest: Manifest, commit: str) -> None:
        self._directory = manifest.directory
        tracked = objects.list_tree(repo, commit)
        parameters = manifest_paths(manifest)
        links = {_from_top(manifest, link) for link in manifest.links}
        self.files: dict[str, Stamp] = {}  # by their paths from the top
        # Folders in which something is that is no output.
        self._folders = {folder for name in tracked for folder in folders_above(name)}
        for name, stamp in everything_below(worktree, opening=True).items():
            if stat.S_ISDIR(stamp[4]) or name in tracked or _BYTECODE.fullmatch(name):
                continue
            if (
                f"/{TEMPORARY}" in f"/{name}"
                or any(name == link or name.startswith(f"{link}/") for link in links)
                or (stat.S_ISLNK(stamp[4]) and _is_link_of_users(worktree, name))
                # git's ignore rules hold inside of parameters, too.
                or (any(each.covers(name) for each in parameters) and not repo.is_ignored(name))
            ):
                self._folders.update(folders_above(name))
            else:
                self.files[name] = stamp

    def whole(self, name: str) -> str:
        """The highest folder on the way to a file in which all is output, or the file."""
        for at, letter in enumerate(name):
            if letter == "/" and name[:at] not in self._folders:
                return name[: at + 1]
        return name

    def paths(self, names: Iterable[str]) -> list[WrittenPath]:
        """Outputs as they are named, by path."""
        found: dict[str, list[str]] = {}
        for name in sorted(names):
            found.setdefault(self.whole(name), []).append(name)
        return [self.path(path, inside) for path, inside in found.items()]

    def path(self, path: str, names: Sequence[str], kept: str = "") -> WrittenPath:
        """One of them, of the files in it."""
        bytes_, option = sum(self.files[name][1] for name in names), ""
        if not (kept or path.rstrip("/").rpartition("/")[2] in _CACHES):
            typed = os.path.relpath(path, self._directory or ".")
            option = f"--keep {printable(shlex.quote(typed))}"
        return WrittenPath(path, len(names), bytes_, kept, option)


def _is_link_of_users(worktree: Path, name: str) -> bool:
    """Whether it is a link as `--link` makes them: to the same path of another checkout."""
    with contextlib.suppress(OSError):
        target = os.readlink(worktree / name)
        return target.startswith("/") and target.endswith(f"/{name}")
    return False


def find_outputs(
    worktree: Path, repo: Repository, manifest: Manifest, commit: str = ""
) -> list[WrittenPath]:
    """The outputs in a worktree, by path.

    Left out are the parameters, what `--link` brought in, bytecode, and our own temporary files.
    """
    written = _Written(worktree, repo, manifest, commit or manifest.base)
    return written.paths(written.files)


def unknown_outputs(repo: Repository, worktree: Path) -> list[WrittenPath]:
    """The outputs in a worktree of which only the commit is known, if that."""
    with contextlib.suppress(AutopilotError, OSError):
        if worktree.exists():
            commit = Repository.discover(worktree).head_commit()
            return find_outputs(worktree, repo, Manifest(slug=worktree.name, base=commit))
    return []


def merged(outputs: Iterable[WrittenPath]) -> list[WrittenPath]:
    """The outputs of several evaluations: each path once, at its largest."""
    found: dict[str, WrittenPath] = {}
    for each in sorted(outputs, key=lambda output: output.bytes):
        found[each.path] = each
    return [found[path] for path in sorted(found)]


def _from_top(manifest: Manifest, path: str) -> str:
    return os.path.normpath(os.path.join(manifest.directory, path))


def check_keep(user: Repository, manifest: Manifest, keep: Sequence[str]) -> None:
    """Refuses a path to be kept that can be no output.

    Args:
        keep: Paths or globs, from the folder that the run works in.
    """
    for path in keep:
        if manifest.in_place:
            raise UsageError(
                "--keep goes with a worktree: in place, everything stays",
                hint="leave out --keep or --in-place",
            )
        name, what = _from_top(manifest, path), ""
        if name.startswith(("../", "/", ".git/")) or name in ("..", ".", ".git"):
            what = "no path inside the worktree"
        elif any(name == place.path for place in manifest_paths(manifest)):
            what = "a parameter: each of its states is a commit"
        elif any(name == _from_top(manifest, link) for link in manifest.links):
            what = "linked: what is written there is written to your own"
        else:
            entry = objects.entry_at(user, manifest.base, name)
            if entry is not None and entry.mode not in (objects.TREE, objects.SUBMODULE):
                what = "tracked by git, so that it is no output"
        if what:
            raise UsageError(
                f"--keep {printable(path)} is {what}",
                hint="name what the evaluation writes, from the folder that you are in",
            )
        glob_regex(name)


def keep_outputs(
    worktree: Path, repo: Repository, manifest: Manifest, keep: Sequence[str]
) -> list[WrittenPath]:
    """Moves the outputs that are to be kept to the git folder; the rest is only named.

    What was kept earlier stays: the new one gets a number.

    Args:
        keep: Paths or globs, relative to the folder that the run works in.

    Raises:
        GitCommandError: something cannot be moved; the worktree is still there.
    """
    if not worktree.is_dir():
        return []
    written = _Written(worktree, repo, manifest, manifest.base)
    chosen: dict[str, list[str]] = {}
    absent, moved = [], set[str]()
    for path in dict.fromkeys(keep):
        wanted = _from_top(manifest, path)
        matches = glob_regex(wanted).fullmatch
        is_there = False
        for name in written.files:
            paths = (*reversed(folders_above(name)), name)
            found = next((each for each in paths if each == wanted or matches(each)), None)
            if found is None:
                continue
            is_there = True
            if name not in moved:
                moved.add(name)
                # A folder that has files of git's too stays: what was written in it is moved.
                unit = max(found, written.whole(name).rstrip("/"), key=len)
                chosen.setdefault(unit, []).append(name)
        if not is_there:
            absent.append(WrittenPath(wanted, 0, 0))
    place, kept = Layout(manifest.slug).kept(repo), []
    for unit, names in sorted(chosen.items()):
        goal = _free(place, unit)
        try:
            goal.parent.mkdir(parents=True, exist_ok=True)
            _move(worktree / unit, goal)
        except OSError as error:
            # A copied folder collects its errors: each has source, goal and a text.
            reason = error.strerror or str(error.args[0][0][2])
            raise GitCommandError(
                f"cannot keep {printable(unit)}: {reason}",
                hint=f"it is still in {worktree}; {remedy(reason)}, then move it by hand",
            ) from error
        shown = f"{unit}/" if goal.is_dir() and not goal.is_symlink() else unit
        kept.append(written.path(shown, names, str(goal)))
    return [*kept, *absent, *written.paths(written.files.keys() - moved)]


def _move(source: Path, goal: Path) -> None:
    """Moves a file or a folder; to another file system it is copied, since the source goes."""
    try:
        try:
            source.rename(goal)
        except PermissionError:
            # A folder that may not be written to cannot lose an entry, nor be moved itself.
            source.parent.chmod(stat.S_IMODE(source.parent.stat().st_mode) | stat.S_IRWXU)
            is_folder, mode = source.is_dir() and not source.is_symlink(), source.lstat().st_mode
            if is_folder:
                source.chmod(stat.S_IMODE(mode) | stat.S_IRWXU)
            source.rename(goal)
            if is_folder:
                goal.chmod(stat.S_IMODE(mode))
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        try:
            if source.is_dir() and not source.is_symlink():
                shutil.copytree(source, goal, symlinks=True, ignore=_special)
            else:
                shutil.copy2(source, goal, follow_symlinks=False)
        except OSError:
            with contextlib.suppress(OSError):
                goal.unlink()
            shutil.rmtree(goal, ignore_errors=True)
            raise


def _special(folder: str, names: list[str]) -> set[str]:
    """The pipes and sockets in a folder, which have no content to copy."""
    kinds = {name: stat.S_IFMT(os.lstat(os.path.join(folder, name)).st_mode) for name in names}
    return {
        n for n, kind in kinds.items() if kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)
    }


def _free(folder: Path, name: str) -> Path:
    """A path below a folder that does not exist, of a name, or with numbers in it."""

    def numbered(path: Path) -> Iterator[Path]:
        yield path
        yield from (path.with_name(f"{path.stem}-{n}{path.suffix}") for n in itertools.count(2))

    *above, last = name.split("/")
    for part in above:
        places = numbered(folder / part)
        folder = next(
            p for p in places if not os.path.lexists(p) or (p.is_dir() and not p.is_symlink())
        )
    return next(p for p in numbered(folder / last) if not os.path.lexists(p))


def kept_outputs(repo: Repository, slug: str) -> list[WrittenPath]:
    """The files and folders that runs of an experiment were asked to keep, by path."""
    place = Layout(slug).kept(repo)
    found: dict[str, list[int]] = {}
    for name, stamp in sorted(everything_below(place).items()):
        if not stat.S_ISDIR(stamp[4]):
            found.setdefault("".join(name.partition("/")[:2]), []).append(stamp[1])
    return [
        WrittenPath(path, len(sizes), sum(sizes), str(place / path))
        for path, sizes in found.items()
    ]


def output_lines(
    outputs: Sequence[WrittenPath], removed: str = "removed with the worktree"
) -> list[str]:
    """Lines for a person: the outputs that were kept, those that are not there, and the rest."""
    lines = [f"kept: {replace(o, kept='')} in {printable(o.kept)}" for o in outputs if o.kept]
    absent = [printable(output.path) for output in outputs if not output.files]
    lines += [f"not kept: the evaluation wrote no {name}" for name in absent]
    gone = [output for output in outputs if output.files and not output.kept]
    caches = [output for output in gone if not output.option]
    named = sorted(set(gone) - set(caches), key=lambda output: (-output.bytes, output.path))
    texts = [", ".join(map(str, named[:_NAMED]))] if named else []
    for what, group in ((f"{len(named) - _NAMED} more", named[_NAMED:]), ("caches", caches)):
        if group:
            total = WrittenPath(what, sum(o.files for o in group), sum(o.bytes for o in group))
            texts.append(str(total))
    if texts:
        lines.append(f"{removed}: {' and '.join(texts)}")
        if named:
            lines[-1] += f"; a run keeps it with {named[0].option}, or shares yours: --link PATH"
    return lines


def tell(error: BaseException, outputs: Sequence[WrittenPath]) -> None:
    """Adds the outputs that go because of an error to it, as notes."""
    for line in output_lines(outputs):
        error.add_note(line)


def _weight(size: int) -> str:
    for unit, many in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= many:
            return f"{size / many:.1f} {unit}"
    return f"{size} B"
