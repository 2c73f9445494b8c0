"""Files that an error misses, and only the user's checkout has, since git does not track them."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from autopilot.git import objects
from autopilot.git.commands import run_git
from autopilot.git.repository import Repository

_ABSENT = re.compile(
    r"[Nn]o such file|does not exist|[Cc]annot (open|access|read|stat|find)|[Nn]ot found"
    r"|non-zero exit status|\[Errno 2\]"
)
# In quotes, else between colons, else any word: `cat: data/x: No such file or directory`.
_WORDS = (re.compile(r"'([^']+)'"), re.compile(r'"([^"]+)"'), re.compile(r"([^\s:'\"()\[\],]+)"))
_NO_MODULE = re.compile(r"No module named '?([\w.]+)")
_NO_NAME = re.compile(r"cannot import name '(\w+)' from (?:\w+ \w+ module )?'([\w.]+)'")
_PYTHON = (".py", "", *EXTENSION_SUFFIXES)


@dataclass(frozen=True, slots=True)
class Missing:
    """Looks for what a worktree lacks.

    Args:
        user: The user's checkout.
        repo: The worktree.
        folder: The working directory in the worktree.
    """

    user: Repository
    repo: Repository
    folder: Path

    def hint(self, text: str) -> str:
        """How to bring along what a text says is missing; "" if the user's checkout lacks it too.

        Args:
            text: Messages of errors, of Python or of any program.
        """
        for line in text.splitlines():
            modules = [match[1] for match in _NO_MODULE.finditer(line)]
            modules += [f"{match[2]}.{match[1]}" for match in _NO_NAME.finditer(line)]
            for module in modules:
                if found := self._of_module(module.replace(".", "/")):
                    return self._sentence(found, is_code=True)
            if _ABSENT.search(line):
                for name in _paths_in(line):
                    for folder in dict.fromkeys((self.folder, self.repo.workdir)):
                        if found := self._of_path(folder / name):
                            return self._sentence(found)
        return ""

    def _sentence(self, name: str, *, is_code: bool = False) -> str:
        here, source = self.user.workdir, self.user.workdir / name
        link = os.path.relpath(source, here / self.folder.relative_to(self.repo.workdir))
        if self._is_submodule(name):
            first = "" if _has_files(source) else f"git submodule update --init {link}, then "
            return (
                f"{link} is a submodule, and the run's worktree has none of its files: "
                f"{first}bring it along: --link {link}"
            )
        # Code that is neither tracked nor ignored was forgotten; data may be too large for git.
        if is_code and not self.user.is_ignored(name):
            return f"git does not have {link}: git add and commit it, then run again"
        return f"git does not have {link}; bring it along: --link {link}"

    def _of_path(self, path: Path) -> str:
        """The part of a missing path that only the user's checkout has; "" if there is none.

        Of a path in a folder or a submodule that is missing as a whole, it is that.
        """
        path = Path(os.path.abspath(path))
        if not path.is_relative_to(self.repo.workdir):
            return ""
        below = path.relative_to(self.repo.workdir)
        for part in (*reversed(list(below.parents)[:-1]), below):
            here, theirs = self.repo.workdir / part, self.user.workdir / part
            if not here.exists():
                return part.as_posix() if theirs.exists() else ""
            if self._is_submodule(part.as_posix()) and not _has_files(here):
                return part.as_posix()
        return ""

    def _of_module(self, module: str) -> str:
        """The file, folder or submodule of a module that only the user's checkout has."""
        # The target's own folder is the first of sys.path.
        for folder in dict.fromkeys((*map(Path, sys.path), self.folder)):
            for ending in _PYTHON:
                if found := self._of_path(folder / f"{module}{ending}"):
                    return found
        for name in self._submodules():
            for folder in (self.user.workdir / name, self.user.workdir / name / "src"):
                exists = any((folder / f"{module}{ending}").exists() for ending in _PYTHON)
                if exists and not _has_files(self.repo.workdir / name):
                    return name
        return ""

    def _is_submodule(self, name: str) -> bool:
        tree = objects.tree_of(self.repo, self.repo.head_commit())
        entry = objects.entry_at(self.repo, tree, name)
        return entry is not None and entry.mode == objects.SUBMODULE

    def _submodules(self) -> list[str]:
        listed = ["config", "--file", ".gitmodules", "--get-regexp", r"^submodule\..*\.path$"]
        out = run_git(listed, cwd=self.repo.workdir, check=False).stdout
        return [line.partition(" ")[2] for line in os.fsdecode(out).splitlines()]


def _paths_in(line: str) -> Iterator[str]:
    quoted, double, words = (pattern.findall(line) for pattern in _WORDS)
    found = dict.fromkeys((*quoted, *double, *(part.strip() for part in line.split(":")), *words))
    return (name for name in found if name and "\0" not in name and len(name) < 1000)


def _has_files(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return any(folder.iterdir())
    return False
