"""The files of a worktree beside the parameters: looked at before a step, put back after it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeGuard

from autopilot.errors import ParameterError, translated_as
from autopilot.files import (
    EXECUTABLE,
    REGULAR,
    TEMPORARY,
    FileState,
    read_file,
    remove_file,
    replace_file,
)
from autopilot.git.objects import SUBMODULE, Entry, list_tree
from autopilot.git.repository import Repository
from autopilot.git.workfiles import Stamp, WorkFiles, everything_below, folders_above, stamp_of
from autopilot.git.worktrees import changed_files
from autopilot.text import counted, printable
from autopilot.tracking.parameters import Scope

LARGE = 32 * 2**20
"""Bytes of a file that git does not have, from which on no copy is kept."""
PUT_BACK, REMOVED, LOST = "put back", "removed", "too large to be put back"

_RULES = (".gitignore", ".gitattributes")

Did = Literal["made", "removed", "replaced", "changed", "changed the mode of"]


@dataclass(frozen=True, slots=True)
class Violation:
    """A change of a step at a path where it may not change anything.

    Args:
        name: The path from the worktree's top.
        detail: What it is now: " by a link to /etc", say.
        undone: How it was undone; "" if it was not.
    """

    name: str
    did: Did
    folder: bool = False
    detail: str = ""
    undone: str = PUT_BACK

    def sentence(self, inside: int | None = None) -> str:
        """In words; inside is the number of files below it to which the same happened."""
        many = "" if inside is None else f" ({counted(inside, 'file')})"
        end = f": {self.undone}" if self.undone else ""
        return f"{self.did} {printable(self.name)}{'/' * self.folder}{self.detail}{many}{end}"


def sentences(
    violations: Iterable[Violation],
    matters: Callable[[str], bool],
    counts: Callable[[str], bool] = lambda _name: False,
) -> list[str]:
    """One a path; of a folder that came or went as a whole, one for all that is in it.

    Args:
        matters: Whether a path is worth telling; the tools that an agent uses leave caches where
            git ignores them.
        counts: Whether a path comes before the others: evaluations read it.
    """
    told = list[tuple[bool, str]]()
    ordered = sorted(violations, key=lambda violation: violation.name.split("/"))
    position = 0
    while position < len(ordered):
        first, start = ordered[position], position
        position += 1
        files = None
        if first.did in ("made", "removed", "replaced"):
            below = f"{first.name}/"
            while position < len(ordered) and ordered[position].name.startswith(below):
                position += 1
            if first.folder and first.did != "replaced":
                files = [each.name for each in ordered[start + 1 : position] if not each.folder]
        if any(map(matters, files or [first.name + "/" * (files is not None)])):
            inside = None if files is None else len(files)
            is_read = any(counts(each.name) for each in ordered[start:position])
            told.append((is_read, first.sentence(inside)))
    return [sentence for _, sentence in sorted(told, key=lambda pair: not pair[0])]


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

    def content(self) -> FileState | None:
        """The content that was kept; None if none was, or the copy was changed."""
        if self.copy is not None:
            with contextlib.suppress(OSError):
                content = self.copy.read_bytes()
                if _digest(content) == self.digest:
                    mode = EXECUTABLE if self.stamp[4] & stat.S_IXUSR else REGULAR
                    return FileState(mode, content)
        return self.state

    def is_same(self, path: Path) -> bool:
        """Whether a file that git does not have holds what was kept of it."""
        with contextlib.suppress(OSError):
            if self.state is not None:
                return read_file(path) == self.state
            return bool(self.digest) and _digest(path.read_bytes()) == self.digest
        return False


class Surroundings:
    """Files, links and folders of a worktree that no parameter covers.

    Files that git has come back from git, with its filters; what it does not have (what evaluations
    wrote, links) from copies that are made when it changed. Nothing is read whose size, times,
    inode and mode are those of before.

    Args:
        tree: What was checked out, or its commit.
        copies: A folder of its own for the copies; made when it is needed.
    """

    def __init__(self, repo: Repository, scopes: Sequence[Scope], tree: str, copies: Path) -> None:
        self.repo, self.root = repo, repo.workdir
        self._scopes, self._tree, self._copies, self._count = scopes, tree, copies, 0
        self._files = WorkFiles(repo, repo.workdir)
        self._sources: dict[str, Source] = {}
        self._before: dict[str, Stamp] = {}
        self._is_first, self._top_mode = True, 0

    def look(self) -> None:
        """Remembers how everything is now.

        Raises:
            ParameterError: a copy cannot be written.
        """
        before = everything_below(self.root)
        if self._is_first:
            self._is_first = False
            # What was checked out and is unchanged since has its content in git.
            states = changed_files(self.repo, ["."])
            for name, entry in list_tree(self.repo, self._tree).items():
                if name in before and name not in states and entry.mode != SUBMODULE:
                    self._sources[name] = Source(before[name], entry)
        for name, stamp in before.items():
            if not stat.S_ISDIR(stamp[4]):
                known = self._sources.get(name)
                if known is None or known.stamp != stamp:
                    self._sources[name] = self._keep(name, stamp, known)
        self._before, self._top_mode = before, stat.S_IMODE(self.root.stat().st_mode)

    def put_back(self, counts: Callable[[str], bool]) -> list[str]:
        """Makes all but the parameters as it was; returns what was changed, a sentence each.

        Args:
            counts: Whether a change of a path that git ignores is reported too.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        os.chmod(self.root, self._top_mode)
        before, after = self._before, everything_below(self.root, opening=True)
        names = {n for n, s in after.items() if before.get(n) != s} | (before.keys() - after.keys())
        if not names:
            return []
        for name in names & after.keys():
            self._open(name, after[name])
        # First git's rules: what it ignores and converts must not be decided by the agent's own.
        rules = {name for name in names if name.rpartition("/")[2] in _RULES}
        rules |= {folder for name in rules for folder in folders_above(name) if folder in names}
        violations = self._undo(rules, after)
        self._files.forget()
        violations += self._undo(names - rules, after)
        for name in sorted(after.keys() - before.keys(), reverse=True):
            if _is_folder(after[name]):
                with contextlib.suppress(OSError):  # a parameter has files there
                    (self.root / name).rmdir()

        def matters(name: str) -> bool:
            # git's ignore rules say nothing of a `.git` inside the worktree.
            is_git = ".git" in name.split("/")
            return is_git or counts(name.rstrip("/")) or not self.repo.is_ignored(name)

        return sentences(violations, matters, counts)

    def _keep(self, name: str, stamp: Stamp, known: Source | None) -> Source:
        """Copies a file; one that is too large, or is no file, has a source without content."""
        path = self.root / name
        if stat.S_ISLNK(stamp[4]):
            return Source(stamp, state=read_file(path))
        if not stat.S_ISREG(stamp[4]) or stamp[1] > LARGE:
            return Source(stamp)
        try:
            content = path.read_bytes()
        except OSError:  # evaluations cannot read it either
            return Source(stamp)
        copy = known.copy if known is not None else None
        # An evaluation may have filled the disk: its files are beside these copies.
        hint = f"{{remedy}}, as below {self._copies.parent.parent}, then resume"
        with translated_as(ParameterError, f"cannot copy {name} to {self._copies}", hint):
            if copy is None:
                self._copies.mkdir(parents=True, exist_ok=True)
                self._count += 1
                copy = self._copies / str(self._count)
            copy.write_bytes(content)
        return Source(stamp, copy=copy, digest=_digest(content))

    def _open(self, name: str, now: Stamp) -> None:
        """Gives back the right to write to a folder, and to read a file."""
        was, mode = self._before.get(name), now[4]
        if _is_folder(now):
            mode = was[4] if _is_folder(was) else mode | stat.S_IRWXU
        elif stat.S_ISREG(mode):
            mode |= stat.S_IRUSR
        if mode != now[4]:
            with contextlib.suppress(FileNotFoundError):
                os.chmod(self.root / name, stat.S_IMODE(mode))

    def _is_allowed(self, name: str, after: Mapping[str, Stamp]) -> bool:
        """Whether a difference is an edit of a parameter."""
        parts = name.split("/")
        # Nothing lists these names, so that a parameter would not show what is in such files.
        if ".git" in parts or parts[-1].startswith(TEMPORARY):
            return False
        was, now = self._before.get(name), after.get(name)
        if was is not None and now is not None and stat.S_ISDIR(was[4]) != stat.S_ISDIR(now[4]):
            return False
        if _is_folder(now or was):
            # Folders come and go inside a parameter that is a folder; its own top stays, and so do
            # the modes: git has none for a folder, so that a rollback would not bring them back.
            inside = any(
                not scope.parameter.is_file
                and f"{name}/".startswith(scope.prefix)
                and f"{name}/" != scope.prefix
                for scope in self._scopes
            )
            return inside and (was is None or now is None)
        scope = next((scope for scope in self._scopes if scope.covers(name)), None)
        if scope is None:
            return False
        if now is None:
            # A file that went with its folder, which is something else now, was not deleted.
            return all(f not in after or _is_folder(after[f]) for f in folders_above(name))
        if stat.S_ISLNK(now[4]):
            return stays_inside(self.root, scope, name)
        # Pipes and sockets are no content: a reader would wait for ever.
        return stat.S_ISREG(now[4])

    def _undo(self, differing: Iterable[str], after: Mapping[str, Stamp]) -> list[Violation]:
        """Undoes what was changed at some paths, where it was not allowed."""
        names = sorted(name for name in differing if not self._is_allowed(name, after))
        sources = self._sources
        tracked = [n for n in names if n in after and n in sources and sources[n].entry is not None]
        hashed = self._files.hash(tracked, write=False)
        described = (self._describe(name, after.get(name), hashed.get(name)) for name in names)
        violations = {found.name: found for found in described if found is not None}
        # What is of another kind now goes, the deepest first: a folder has to be empty.
        for name in sorted(violations, reverse=True):
            was = self._before.get(name)
            if name in after and (was is None or _kind(was) != _kind(after[name])):
                if not _is_folder(after[name]):
                    (self.root / name).unlink(missing_ok=True)
                    continue
                with contextlib.suppress(OSError):  # what a parameter has in it stays
                    (self.root / name).rmdir()
        files = []
        for name in names:
            was = self._before.get(name)
            if _is_folder(was):
                (self.root / name).mkdir(parents=True, exist_ok=True)
                os.chmod(self.root / name, stat.S_IMODE(was[4]))
            elif was is not None and name in violations:
                files.append(name)
        for name in self._restore(files):
            violations[name] = replace(violations[name], undone=LOST)
        for name in names:
            self._settle(name)
        return list(violations.values())

    def _describe(self, name: str, now: Stamp | None, hashed: Entry | None) -> Violation | None:
        """The violation at a path; None if it is as it was after all."""
        was = self._before.get(name)
        link = ""
        if now is not None and stat.S_ISLNK(now[4]):
            link = f"a link to {printable(os.readlink(self.root / name))}"
        if was is None:
            detail = f", {link}" if link else ""
            return Violation(name, "made", _is_folder(now), detail, REMOVED)
        if now is None:
            return Violation(name, "removed", _is_folder(was))
        if _kind(was) != _kind(now):
            kind = link or ("a folder" if _is_folder(now) else "something else")
            return Violation(name, "replaced", _is_folder(was), f" by {kind}")
        if not _is_folder(now):
            source = self._sources[name]
            if source.entry is not None:
                is_same = hashed is not None and hashed.oid == source.entry.oid
            else:
                is_same = now[1] == source.stamp[1] and source.is_same(self.root / name)
            if not is_same:
                return Violation(name, "changed")
        if was[4] != now[4]:
            return Violation(name, "changed the mode of", _is_folder(now))
        return None

    def _restore(self, names: Sequence[str]) -> set[str]:
        """Writes files back; returns those of which no content was kept: they are removed."""
        entries: dict[str, Entry | None] = {}
        lost = set()
        for name in names:
            source = self._sources[name]
            if source.entry is not None:
                entries[name] = source.entry
            elif (state := source.content()) is not None:
                replace_file(self.root, name, state)
            else:
                lost.add(name)
                remove_file(self.root, name)
        self._files.restore(entries)
        return lost

    def _settle(self, name: str) -> None:
        """Gives a file its mode and time of before; its stamp is then the known one."""
        was, path = self._before.get(name), self.root / name
        if was is None or _is_folder(was):
            self._sources.pop(name, None)
            return
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISLNK(was[4]):
                os.chmod(path, stat.S_IMODE(was[4]))
            os.utime(path, ns=(was[0], was[0]), follow_symlinks=False)
            # The time of change and the inode are new ones: nothing can set those back.
            self._sources[name] = replace(self._sources[name], stamp=stamp_of(os.lstat(path)))


def stays_inside(root: Path, scope: Scope, name: str) -> bool:
    """Whether a symbolic link of a parameter leads to another file of the same parameter."""
    target = os.path.realpath(root / name)
    top = os.path.realpath(root) + os.sep
    return target.startswith(top) and scope.covers(target.removeprefix(top))


def _kind(stamp: Stamp) -> int:
    return stat.S_IFMT(stamp[4])


def _is_folder(stamp: Stamp | None) -> TypeGuard[Stamp]:
    return stamp is not None and stat.S_ISDIR(stamp[4])


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
