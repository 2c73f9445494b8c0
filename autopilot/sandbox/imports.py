"""Imports of a run and of the processes that it starts: from its worktree, not the user's checkout.

An editable install leads to the user's checkout, in this process and in each child of Python. Here
its paths are changed; children get the same folders as `PYTHONPATH`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any

from autopilot.errors import ElsewhereError


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
        below = os.path.relpath(file, top)
        if file.startswith(top + os.sep) and os.path.exists(os.path.join(there, below)):
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
            elsewhere = os.path.exists(os.path.join(there, os.path.relpath(file, top)))
        else:
            first = name.partition(".")[0]
            elsewhere = ours(first) and any(_is_in(each, name) for each in folders)
        if elsewhere:
            raise ElsewhereError(
                f"{name} is imported from {file}, not from the run's worktree",
                hint="install the package in editable mode (pip install -e .), or uninstall "
                "the copy, or run with --in-place",
            )


def leads_elsewhere(
    environment: Mapping[str, str] | None, redirections: Sequence[Redirection]
) -> bool:
    """Whether a child with that environment lacks one of the folders, or does not use it."""
    given = os.environ if environment is None else environment
    paths = given.get("PYTHONPATH", "").split(os.pathsep)
    return any(not each.reaches or each.folder not in paths for each in redirections)


def _packages(folder: str) -> set[str]:
    return {path.parent.name for path in Path(folder).glob("*/__init__.py")}


def _imported() -> Iterator[tuple[str, str]]:
    """Name and file of what is imported, without autopilot and the standard library."""
    real = cache(os.path.realpath)
    for name, module in list(sys.modules.items()):
        top = name.partition(".")[0]
        file = getattr(module, "__file__", None)
        if file and top not in ("autopilot", "__main__") and top not in sys.stdlib_module_names:
            folder, base = os.path.split(file)
            is_link = Path(file).is_symlink()
            yield name, os.path.realpath(file) if is_link else os.path.join(real(folder), base)


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
