"""Imports of a run and of the processes that it starts: from its worktree, not the user's checkout.

An editable install leads to the user's checkout, in this process and in each child of Python. Here
its paths are changed; children get the same folders as `PYTHONPATH`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder
from importlib.util import spec_from_file_location
from itertools import chain
from pathlib import Path
from typing import Any

from autopilot.errors import ElsewhereError
from autopilot.git import objects
from autopilot.git.commands import run_git
from autopilot.git.repository import Repository

_real = cache(os.path.realpath)


@dataclass(frozen=True, slots=True)
class Redirection:
    """A folder of the worktree that modules are imported from instead of the user's checkout.

    Args:
        below: Its path from the top.
        reaches: Whether `PYTHONPATH` leads child processes to it. It cannot where the editable
            install has an import hook that comes first.
    """

    folder: str
    below: str
    names: tuple[str, ...]
    reaches: bool = True

    def note(self) -> str:
        """A sentence for the user, where it has packages."""
        what = ", ".join(self.names[:3]) + (", ..." if len(self.names) > 3 else "")
        here = f"{what} (installed from {self.below}) is imported from the run's worktree"
        if self.reaches:
            return f"{here}, also by processes that it starts"
        return (
            f"{here}, but processes that it starts import it from your checkout: its editable "
            "install comes before PYTHONPATH; if they import it, run with --in-place"
        )


class _Moved:
    """An import hook of an editable install, with the worktree's files instead of the user's."""

    def __init__(self, finder: Any, moved: Callable[[str], str]) -> None:
        self.finder, self._moved = finder, moved

    def __getattr__(self, name: str) -> Any:
        return getattr(self.finder, name)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """See importlib.abc.MetaPathFinder."""
        spec: ModuleSpec | None = self.finder.find_spec(name, path, target)
        if spec is None:
            return None
        locations = spec.submodule_search_locations
        moved = None if locations is None else [*map(self._moved, locations)]
        origin = self._moved(spec.origin) if spec.has_location and spec.origin else spec.origin
        if origin == spec.origin:
            if moved is not None and moved != [*(locations or ())]:
                spec.submodule_search_locations = moved
            return spec
        if moved is not None:
            # What is not a folder, such as a hook's own mark, finds what only a build has.
            moved = [str(Path(str(origin)).parent), *moved]
        return spec_from_file_location(name, origin, submodule_search_locations=moved)


def forget(user: Path, here: Path) -> None:
    """Lets modules be imported anew that came from the user's checkout and are here too.

    A project's `cli.py` that is run as a program has imported them before the run begins.
    """
    top, there = os.path.realpath(user), os.path.realpath(here)
    for name, file in list(_imported()):
        if file.startswith(top + os.sep) and os.path.exists(there + file.removeprefix(top)):
            del sys.modules[name]


def redirect(user: Path, here: Path) -> tuple[Redirection, ...]:
    """Makes import paths into the user's checkout, as editable installs have, lead here.

    Relative paths are those of the working directory; the processes that this one starts get full
    ones. Returns what was installed in the user's checkout, or on `PYTHONPATH`.
    """
    top = os.path.realpath(user)

    def moved(path: str) -> str:
        real = os.path.realpath(path)
        if real != top and not real.startswith(f"{top}{os.sep}"):
            return path
        other = os.path.join(here, os.path.relpath(real, top))
        # setuptools names a module's file without its ending.
        exists = os.path.exists(other) or os.path.exists(f"{other}.py")
        return os.path.normpath(other) if exists else path

    # Where autopilot itself comes from stays: a run may be on its own repository. The folder of a
    # program is the program's own: its children do not have it.
    own = str(Path(__file__).resolve().parents[2])
    program = Path(getattr(sys.modules["__main__"], "__file__", "")).resolve().parent
    folders: dict[str, set[str]] = {}
    hidden: dict[str, set[str]] = {}
    paths: list[str] = []
    for path in sys.path:
        other = path if path in ("", own) else moved(path)
        if other != path:
            if Path(path).resolve() != program:
                folders[other] = _packages(other)
        elif path and os.path.realpath(path).startswith(f"{top}{os.sep}"):
            # A folder of links to the sources, which git ignores.
            for name in _packages(path):
                linked = os.path.realpath(os.path.join(path, name, "__init__.py"))
                if (source := moved(linked)) != linked and (root := root_of(name, source)):
                    paths.append(root)
                    folders.setdefault(root, set()).add(name)
        paths.append(other)
    sys.path[:] = paths
    is_first = True
    for number, finder in enumerate(sys.meta_path):
        is_first &= finder is not PathFinder
        found = served(finder, top)
        if "autopilot" in found:
            continue
        namespaces = getattr(sys.modules.get(finder.__module__), "NAMESPACES", None)
        if isinstance(namespaces, dict):
            namespaces.update({name: [*map(moved, paths)] for name, paths in namespaces.items()})
        for name, place in found.items():
            if (other := moved(place)) == place:
                continue
            sys.meta_path[number] = _Moved(finder, moved)
            root = root_of(name, other)
            if is_first or not root:
                hidden.setdefault(root or other, set()).add(name)
            if root:
                folders.setdefault(root, set()).add(name)
                # A child of multiprocessing gets this process's path, and a finder of its own.
                if root not in sys.path:
                    sys.path.append(root)
    given = os.environ.get("PYTHONPATH", "")
    before = [moved(os.path.abspath(path)) for path in given.split(os.pathsep)] if given else []
    if before or folders:
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys((*before, *folders)))
    if programs := os.environ.get("PATH"):
        os.environ["PATH"] = os.pathsep.join(map(moved, programs.split(os.pathsep)))
    every = [(folder, names - hidden.get(folder, set()), True) for folder, names in folders.items()]
    every += [(folder, names, False) for folder, names in hidden.items()]
    return tuple(
        Redirection(folder, os.path.relpath(folder, here), tuple(sorted(names)), reaches)
        for folder, names, reaches in every
        if names or folder not in hidden
    )


def served(finder: Any, top: str) -> dict[str, str]:
    """Name to file or folder of the modules below a folder that an import hook leads to.

    A hook cannot say what it serves: it is asked for each name that it holds. Submodules are left
    out.
    """
    module = getattr(finder, "__module__", "")
    if module.startswith("_frozen_importlib"):
        return {}
    held = dict(getattr(finder, "__dict__", {}))
    if isinstance(finder, type) and module in sys.modules:
        held |= vars(sys.modules[module])
    values = [v for v in held.values() if isinstance(v, (dict, set, frozenset, list, tuple))]
    names = {n for value in values for n in list(value) if isinstance(n, str)}
    found: dict[str, str] = {}
    for name in sorted(n for n in names if n.replace(".", "").isidentifier()):
        if not any(name.startswith(f"{parent}.") for parent in found):
            with contextlib.suppress(Exception):
                spec = finder.find_spec(name, None)
                for place in (*(spec.submodule_search_locations or ()), spec.origin):
                    if os.path.exists(place) and os.path.realpath(place).startswith(top + os.sep):
                        found[name] = place
                        break
    return found


def root_of(name: str, place: str) -> str:
    """The folder that a module's file or folder is found in; "" for one of another name."""
    path, parts = Path(place), name.split(".")
    path = path.parent if path.stem == "__init__" else path.with_suffix("")
    return str(path.parents[len(parts) - 1]) if [*path.parts[-len(parts) :]] == parts else ""


def check_imports(user: Path, here: Path, folder: Path, linked: Sequence[Path]) -> None:
    """Stops a run that would not see its own edits.

    Args:
        linked: The user's own files and folders that the worktree has, too.

    Raises:
        ElsewhereError: a module that the repository has was imported from elsewhere; it names it.
    """
    top, there = os.path.realpath(user), os.path.realpath(here)
    folders = (there, str(folder))
    own = [there, *map(os.path.realpath, linked)]
    # A client of a service brings thousands of modules: of most, the package is not ours.
    ours = cache(lambda name: any(_may_be_in(each, name) for each in folders))
    for name, file in _imported():
        if any(file == each or file.startswith(each + os.sep) for each in own):
            continue
        if file.startswith(top + os.sep):
            elsewhere = os.path.exists(there + file.removeprefix(top))
        else:
            first = name.partition(".")[0]
            elsewhere = ours(first) and any(_is_in(each, name) for each in folders)
        if elsewhere:
            raise ElsewhereError(
                f"{name} is imported from {file}, not from the run's worktree",
                hint="install the package in editable mode (pip install -e .), or uninstall "
                "the copy, or run with --in-place",
            )


def _packages(folder: str) -> set[str]:
    return {path.parent.name for path in Path(folder).glob("*/__init__.py")}


def _imported() -> Iterator[tuple[str, str]]:
    """Name and file of what is imported, without autopilot and the standard library."""
    for name, module in list(sys.modules.items()):
        top = name.partition(".")[0]
        file = getattr(module, "__file__", None)
        if file and top not in ("autopilot", "__main__") and top not in sys.stdlib_module_names:
            folder, base = os.path.split(file)
            is_link = os.path.islink(file)
            yield name, os.path.realpath(file) if is_link else os.path.join(_real(folder), base)


def _may_be_in(folder: str, top: str) -> bool:
    """Whether a folder has a top-level module or package, the latter with or without a file."""
    paths = [os.path.join(folder, start, top) for start in ("", "src")]
    return any(os.path.exists(path) or os.path.isfile(f"{path}.py") for path in paths)


def _is_in(folder: str, name: str) -> bool:
    """Whether a folder has a module of that name, at its top or below `src`."""
    path = name.replace(".", os.sep)
    return any(
        os.path.isfile(os.path.join(folder, start, ending))
        for start in ("", "src")
        for ending in (f"{path}.py", os.path.join(path, "__init__.py"))
    )


# --- files that an error misses, and only the user's checkout has, since git does not track them -

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
            first = "" if any(source.glob("*")) else f"git submodule update --init {link}, then "
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
            if self._is_submodule(part.as_posix()) and not any(here.glob("*")):
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
                if exists and not any((self.repo.workdir / name).glob("*")):
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
