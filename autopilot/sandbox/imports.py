"""Imports of a run and of the processes that it starts: from its worktree, not the user's checkout.

An editable install leads to the user's checkout, in this process and in each child of Python. Here
its paths are changed; children get the same folders as `PYTHONPATH`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from autopilot.errors import ElsewhereError


@dataclass(frozen=True, slots=True)
class Redirection:
    """A folder of the worktree that modules are imported from instead of the user's checkout.

    Args:
        folder: Its full path.
        below: Its path from the top.
        names: The packages in it.
    """

    folder: str
    below: str
    names: tuple[str, ...]

    def note(self) -> str:
        """A sentence for the user, where it has packages."""
        what = ", ".join(self.names[:3]) + (", ..." if len(self.names) > 3 else "")
        what += f" (installed from {self.below})"
        return f"{what} is imported from the run's worktree, also by processes that it starts"


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
    ones.

    Returns:
        What was installed in the user's checkout, or on `PYTHONPATH`.
    """
    top = os.path.realpath(user)

    def moved(path: str) -> str:
        real = os.path.realpath(path)
        if real != top and not real.startswith(f"{top}{os.sep}"):
            return path
        other = os.path.join(here, os.path.relpath(real, top))
        # A finder names a module's file without its ending.
        exists = os.path.exists(other) or os.path.exists(f"{other}.py")
        return os.path.normpath(other) if exists else path

    # Where autopilot itself comes from stays: a run may be on its own repository. The folder of a
    # program is the program's own: its children do not have it.
    own = str(Path(__file__).resolve().parents[2])
    program = Path(getattr(sys.modules["__main__"], "__file__", "")).resolve().parent
    folders: dict[str, set[str]] = {}
    for number, path in enumerate(sys.path):
        other = path if path in ("", own) else moved(path)
        if other != path:
            sys.path[number] = other
            if Path(path).resolve() != program:
                folders[other] = _packages(other)
    for finder in sys.meta_path:
        module = sys.modules.get(getattr(finder, "__module__", ""))
        mapping = getattr(module, "MAPPING", None)
        if not isinstance(mapping, dict) or "autopilot" in mapping:
            continue
        for name, path in mapping.items():
            other = mapping[name] = moved(path)
            parts = name.split(".")
            if other != path and Path(other).parts[-len(parts) :] == tuple(parts):
                root = str(Path(other).parents[len(parts) - 1])
                folders.setdefault(root, set()).add(name)
                # A child of multiprocessing gets this process's path, and a finder of its own.
                if root not in sys.path:
                    sys.path.append(root)
        namespaces = getattr(module, "NAMESPACES", None)
        if isinstance(namespaces, dict):
            namespaces.update({name: [*map(moved, paths)] for name, paths in namespaces.items()})
    given = os.environ.get("PYTHONPATH", "")
    before = [moved(os.path.abspath(path)) for path in given.split(os.pathsep)] if given else []
    if paths := list(dict.fromkeys((*before, *folders))):
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    return tuple(
        Redirection(folder, os.path.relpath(folder, here), tuple(sorted(names)))
        for folder, names in folders.items()
    )


def check_imports(user: Path, here: Path, folder: Path, linked: Sequence[Path]) -> None:
    """Stops a run that would not see its own edits.

    Args:
        user: The user's checkout.
        here: The worktree.
        folder: The working directory there.
        linked: The user's own files and folders that the worktree has, too.

    Raises:
        ElsewhereError: a module that the repository has was imported from elsewhere; it names it.
    """
    top, there = os.path.realpath(user), os.path.realpath(here)
    folders = (there, str(folder))
    own = [os.path.realpath(path) for path in linked]
    # A client of a service brings thousands of modules: of most, the package is not ours.
    ours = cache(lambda name: any(_may_be_in(each, name) for each in folders))
    for name, file in _imported():
        if file.startswith(there + os.sep):
            continue
        if file.startswith(top + os.sep):
            elsewhere = os.path.exists(os.path.join(there, os.path.relpath(file, top)))
            elsewhere = elsewhere and not any(file == o or file.startswith(o + os.sep) for o in own)
        else:
            first = name.partition(".")[0]
            elsewhere = ours(first) and any(_is_in(each, name) for each in folders)
            elsewhere = elsewhere and not any(file.startswith(o + os.sep) for o in own)
        if elsewhere:
            raise ElsewhereError(
                f"{name} is imported from {file}, not from the run's worktree",
                hint="install the package in editable mode (pip install -e .), or uninstall "
                "the copy, or run with --in-place",
            )


def leads_elsewhere(
    environment: Mapping[str, str] | None, redirections: Sequence[Redirection]
) -> bool:
    """Whether a child with that environment lacks one of the folders."""
    given = os.environ if environment is None else environment
    paths = given.get("PYTHONPATH", "").split(os.pathsep)
    return any(each.folder not in paths for each in redirections)


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
