"""What is in a worktree beside the parameters: looked at before a step, put back after it."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeGuard

from autopilot.files import (
    TEMPORARY,
    remove_file,
    replace_file,
)
from autopilot.git.objects import SUBMODULE, Entry, list_tree
from autopilot.git.repository import Repository
from autopilot.git.stamps import Stamp, everything_below
from autopilot.git.workfiles import WorkFiles
from autopilot.sandbox.changes import LOST, REMOVED, Change, printable, sentences
from autopilot.sandbox.copies import Copies, Source
from autopilot.tracking.scope import Scope

_RULES = (".gitignore", ".gitattributes")


class Surroundings:
    """Files, links and folders of a worktree that no parameter covers.

    What git has comes back from git, with its filters; what it does not have (what evaluations
    wrote, links) from copies that are made when it changed. Nothing is read whose size, times,
    inode and mode are those of before.

    Args:
        repo: The worktree.
        scopes: The parameters.
        tree: What is checked out there.
        copies: A folder of its own for the copies; made when it is needed.
    """

    def __init__(self, repo: Repository, scopes: Sequence[Scope], tree: str, copies: Path) -> None:
        self.repo, self.root = repo, repo.workdir
        self._scopes, self._tree, self._copies = scopes, tree, Copies(copies)
        self._files = WorkFiles(repo, repo.workdir)
        self._sources: dict[str, Source] = {}
        self._before: dict[str, Stamp] = {}
        self._is_first, self._top_mode = True, 0

    def look(self) -> None:
        """Remembers how everything is now."""
        before = everything_below(self.root)
        if self._is_first:
            self._is_first = False
            self._trust_git(before)
        for name, stamp in before.items():
            if not stat.S_ISDIR(stamp[4]):
                known = self._sources.get(name)
                if known is None or known.stamp != stamp:
                    self._sources[name] = self._copies.keep(self.root / name, stamp, known)
        self._before, self._top_mode = before, stat.S_IMODE(self.root.stat().st_mode)

    def put_back(self, counts: Callable[[str], bool]) -> list[str]:
        """Makes everything as it was, but for the parameters.

        Args:
            counts: Whether a path that git ignores matters: a change there is told, too.

        Returns:
            What was changed, a sentence each.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        os.chmod(self.root, self._top_mode)
        before, after = self._before, everything_below(self.root, opening=True)
        names = {n for n, s in after.items() if before.get(n) != s} | (before.keys() - after.keys())
        if not names:
            return []
        for name in names & after.keys():
            self._open(name, after[name])
        # What git ignores, and how it converts, must not be asked by the agent's own rules.
        rules = {name for name in names if name.rpartition("/")[2] in _RULES}
        rules |= {folder for name in rules for folder in _above(name) if folder in names}
        changes = self._undo(self._refused(rules, after), after)
        self._files.forget()
        changes += self._undo(self._refused(names - rules, after), after)
        for name in sorted(after.keys() - before.keys(), reverse=True):
            if _is_folder(after[name]):
                with contextlib.suppress(OSError):  # a parameter has files there
                    (self.root / name).rmdir()
        return list(sentences(changes, lambda name: self._matters(name, counts)))

    # --- before --------------------------------------------------------------------------------

    def _trust_git(self, before: Mapping[str, Stamp]) -> None:
        """What was checked out and is unchanged since has its content in git."""
        states = self.repo.status(["."])
        for name, entry in list_tree(self.repo, self._tree).items():
            stamp = before.get(name)
            if stamp is not None and name not in states and entry.mode != SUBMODULE:
                self._sources[name] = Source(stamp, entry)

    # --- after ---------------------------------------------------------------------------------

    def _refused(self, names: Iterable[str], after: Mapping[str, Stamp]) -> list[str]:
        return sorted(name for name in names if not self._is_allowed(name, after))

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
        parts = name.split("/")
        if ".git" in parts or parts[-1].startswith(TEMPORARY):
            return False
        was, now = self._before.get(name), after.get(name)
        if was is not None and now is not None and stat.S_ISDIR(was[4]) != stat.S_ISDIR(now[4]):
            return False
        if stat.S_ISDIR((now or was or (0,) * 5)[4]):
            # Folders come and go inside a parameter that is a folder.
            inside = any(
                not s.parameter.is_file
                and f"{name}/".startswith(s.prefix)
                and f"{name}/" != s.prefix
                for s in self._scopes
            )
            return inside and (was is None or now is None)
        scope = next((scope for scope in self._scopes if scope.covers(name)), None)
        if scope is None:
            return False
        if now is None:
            # A file that went with its folder, which is something else now, was not deleted.
            return all(f not in after or _is_folder(after[f]) for f in _above(name))
        if stat.S_ISLNK(now[4]):
            return stays_inside(self.root, scope, name)
        return stat.S_ISREG(now[4])

    def _matters(self, name: str, counts: Callable[[str], bool]) -> bool:
        """Whether a change is told: git ignores what is in a `.git`, this does not."""
        is_git = ".git" in name.split("/")
        return is_git or counts(name.rstrip("/")) or not self.repo.is_ignored(name)

    def _undo(self, names: Sequence[str], after: Mapping[str, Stamp]) -> list[Change]:
        """Undoes what was changed at some paths."""
        tracked = [name for name in names if name in after and self._entry(name) is not None]
        hashed = self._files.hash(tracked, write=False)
        described = (self._describe(name, after.get(name), hashed.get(name)) for name in names)
        changes = {change.name: change for change in described if change is not None}
        for name in sorted(changes, reverse=True):
            if name in after:
                self._clear(name, after[name])
        files = []
        for name in names:
            was = self._before.get(name)
            if _is_folder(was):
                (self.root / name).mkdir(parents=True, exist_ok=True)
                os.chmod(self.root / name, stat.S_IMODE(was[4]))
            elif was is not None and name in changes:
                files.append(name)
        for name in self._restore(files):
            changes[name] = replace(changes[name], undone=LOST)
        for name in names:
            self._settle(name)
        return list(changes.values())

    def _entry(self, name: str) -> Entry | None:
        source = self._sources.get(name)
        return None if source is None else source.entry

    def _describe(self, name: str, now: Stamp | None, hashed: Entry | None) -> Change | None:
        """What was done to a path; None if it is as it was after all."""
        was = self._before.get(name)
        link = ""
        if now is not None and stat.S_ISLNK(now[4]):
            link = f"a link to {printable(os.readlink(self.root / name))}"
        if was is None:
            detail = f", {link}" if link else ""
            return Change(name, "made", _is_folder(now), detail, REMOVED)
        if now is None:
            return Change(name, "removed", _is_folder(was))
        if stat.S_IFMT(was[4]) != stat.S_IFMT(now[4]):
            kind = link or ("a folder" if _is_folder(now) else "something else")
            return Change(name, "replaced", _is_folder(was), f" by {kind}")
        if not _is_folder(now) and not self._is_same(name, now, hashed):
            return Change(name, "changed")
        if was[4] != now[4]:
            return Change(name, "changed the mode of", _is_folder(now))
        return None

    def _is_same(self, name: str, now: Stamp, hashed: Entry | None) -> bool:
        source = self._sources[name]
        if source.entry is not None:
            return hashed is not None and hashed.oid == source.entry.oid
        return now[1] == source.stamp[1] and self._copies.is_same(self.root / name, source)

    def _clear(self, name: str, now: Stamp) -> None:
        was = self._before.get(name)
        path = self.root / name
        if was is not None and stat.S_IFMT(was[4]) == stat.S_IFMT(now[4]):
            return
        with contextlib.suppress(FileNotFoundError):
            if _is_folder(now):
                with contextlib.suppress(OSError):  # what a parameter has in it stays
                    path.rmdir()
            else:
                path.unlink()

    def _restore(self, names: Sequence[str]) -> set[str]:
        """Writes files back; returns those whose content nobody has: they are removed."""
        entries: dict[str, Entry | None] = {}
        lost = set()
        for name in names:
            source = self._sources[name]
            if source.entry is not None:
                entries[name] = source.entry
                continue
            state = source.state or self._copies.state(source)
            if state is None:
                lost.add(name)
                remove_file(self.root, name)
            else:
                replace_file(self.root, name, state)
        self._files.restore(entries)
        return lost

    def _settle(self, name: str) -> None:
        """Mode and time as they were; the file as it is now is the known one."""
        was, path = self._before.get(name), self.root / name
        if was is None or _is_folder(was):
            self._sources.pop(name, None)
            return
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISLNK(was[4]):
                os.chmod(path, stat.S_IMODE(was[4]))
            os.utime(path, ns=(was[0], was[0]), follow_symlinks=False)
            s = os.lstat(path)
            stamp = (s.st_mtime_ns, s.st_size, s.st_ctime_ns, s.st_ino, s.st_mode)
            self._sources[name] = replace(self._sources[name], stamp=stamp)


def stays_inside(root: Path, scope: Scope, name: str) -> bool:
    """Whether a symbolic link of a parameter leads to another file of the same parameter."""
    target = os.path.realpath(root / name)
    top = os.path.realpath(root) + os.sep
    return target.startswith(top) and scope.covers(target.removeprefix(top))


def _above(name: str) -> Iterator[str]:
    """The folders of a path, the topmost first."""
    parts = name.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts)))


def _is_folder(stamp: Stamp | None) -> TypeGuard[Stamp]:
    return stamp is not None and stat.S_ISDIR(stamp[4])
