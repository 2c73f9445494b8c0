"""Files that an error misses, and only the user's checkout has, since git does not track them."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from itertools import chain
from pathlib import Path

from autopilot.git import objects
from autopilot.git.commands import run_git
from autopilot.git.repository import Repository
from autopilot.sandbox.imports import Redirection

_ABSENT = re.compile(
    r"[Nn]o such file|does not exist|[Cc]annot (open|access|read|stat|find)|[Nn]ot found"
    r"|non-zero exit status|\[Errno 2\]"
)
# As coreutils print a name that the locale cannot: 'f'$'\303\274''r'.
_OCTAL = re.compile(r"'\$'((?:\\[0-7]{3})+)''?")
_WORD = re.compile(r"[^\s'\"()\[\],]+")
_WORDS_AT_MOST = 12
_NO_VARIABLE = re.compile(r"KeyError: '(\w+)'")
_NO_MODULE = re.compile(r"No module named '?([\w.]+)")
_NO_NAME = re.compile(r"cannot import name '(\w+)' from (?:\w+ \w+ module )?'([\w.]+)'")
_PYTHON = (".py", "", *EXTENSION_SUFFIXES)


@dataclass(frozen=True, slots=True)
class Missing:
    """Looks for what a worktree, `repo`, lacks and the user's checkout has."""

    user: Repository
    repo: Repository
    folder: Path

    def hints(self, text: str) -> Iterator[str]:
        """How to bring along what a text says is missing, and the user's checkout has."""
        for line in dict.fromkeys(text.splitlines()):
            modules = [match[1] for match in _NO_MODULE.finditer(line)]
            modules += [f"{match[2]}.{match[1]}" for match in _NO_NAME.finditer(line)]
            for module in modules:
                if found := self._of_module(module.replace(".", "/")):
                    yield self._sentence(found, is_code=True)
                    break
            for match in _NO_VARIABLE.finditer(line):
                if found := self._of_variable(match[1]):
                    yield self._sentence(found)
            if _ABSENT.search(line):
                places = dict.fromkeys((self.folder, self.repo.workdir))
                names = (place / name for name in _paths_in(line) for place in places)
                if found := next(filter(None, map(self._of_path, names)), ""):
                    yield self._sentence(found)

    def compiled(self, redirected: Iterable[Redirection]) -> list[str]:
        """Compiled modules that only the user's checkout has: a fallback hides their lack."""
        found, endings = list[str](), set(EXTENSION_SUFFIXES)
        for each in redirected:
            top = self.user.workdir / each.below
            for path in chain(top.glob("*.*"), *((top / name).rglob("*.*") for name in each.names)):
                name = path.relative_to(self.user.workdir).as_posix()
                is_built = f".{path.name.partition('.')[2]}" in endings
                if is_built and not (self.repo.workdir / name).exists():
                    found.append(self._sentence(name))
        more = f"; so for {len(found) - 1} more like it" if len(found) > 1 else ""
        return [f"{first}{more}" for first in sorted(found)[:1]]

    def _sentence(self, name: str, *, is_code: bool = False) -> str:
        here, source = self.user.workdir, self.user.workdir / name
        link = os.path.relpath(source, here / self.folder.relative_to(self.repo.workdir))
        link = shlex.quote(link)
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

    def _of_variable(self, name: str) -> str:
        """The `.env` that sets a variable, and that only the user's checkout has."""
        for folder in dict.fromkeys((self.folder, self.repo.workdir)):
            if found := self._of_path(folder / ".env"):
                with contextlib.suppress(OSError, UnicodeDecodeError):
                    lines = (self.user.workdir / found).read_text().splitlines()
                    if any(re.match(rf"(export\s+)?{name}\s*=", line) for line in lines):
                        return found
        return ""

    def _is_submodule(self, name: str) -> bool:
        entry = objects.entry_at(self.repo, self.repo.head_commit(), name)
        return entry is not None and entry.mode == objects.SUBMODULE

    def _submodules(self) -> list[str]:
        listed = ["config", "-z", "--file", ".gitmodules", "--get-regexp", r"^submodule\..*\.path$"]
        out = run_git(listed, cwd=self.repo.workdir, check=False).stdout
        return [entry.partition("\n")[2] for entry in os.fsdecode(out).split("\0") if entry]


def _paths_in(line: str) -> Iterator[str]:
    """All that may be a path in a line: `cat: data/x: No such file or directory`."""

    def decoded(match: re.Match[str]) -> str:
        octal = match[1].split("\\")[1:]
        return bytes(int(number, 8) for number in octal).decode("utf-8", "replace")

    line = _OCTAL.sub(decoded, line)
    found = [*line.split("'"), *line.split('"'), *(part.strip() for part in line.split(":"))]
    for part in line.split(":"):
        words = [(m.start(), m.end()) for m in _WORD.finditer(part)][:_WORDS_AT_MOST]
        spans = [(i, j) for i in range(len(words)) for j in range(i, len(words))]
        for i, j in sorted(spans, key=lambda span: span[0] - span[1]):
            found.append(part[words[i][0] : words[j][1]])
    return (name for name in dict.fromkeys(found) if name and "\0" not in name and len(name) < 1000)


def _has_files(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return any(folder.iterdir())
    return False
