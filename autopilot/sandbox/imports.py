"""Where modules are imported from: the run's worktree, and not the user's checkout."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path


def forget(user: Path, here: Path) -> None:
    """Lets modules be imported anew that came from the user's checkout and are here too.

    A project's `cli.py` that is run as a program has imported them before the run begins.
    """
    top, there = os.path.realpath(user), os.path.realpath(here)
    for name, file in list(imported()):
        below = os.path.relpath(file, top)
        if file.startswith(top + os.sep) and os.path.exists(os.path.join(there, below)):
            del sys.modules[name]


def redirect(user: Path, here: Path) -> None:
    """Makes import paths into the user's checkout, as editable installs have, lead here."""

    def moved(path: str) -> str:
        real = os.path.realpath(path)
        if real != str(user) and not real.startswith(f"{user}{os.sep}"):
            return path
        other = os.path.join(here, os.path.relpath(real, user))
        return other if os.path.exists(other) else path

    own = _own_folder()
    sys.path[:] = [path if path in ("", own) else moved(path) for path in sys.path]
    for finder in sys.meta_path:
        mapping = getattr(sys.modules.get(getattr(finder, "__module__", "")), "MAPPING", None)
        if isinstance(mapping, dict) and "autopilot" not in mapping:
            mapping.update({name: moved(path) for name, path in mapping.items()})


def _own_folder() -> str:
    """Where autopilot itself is imported from; a run on its own repository must not move it."""
    return str(Path(__file__).resolve().parents[2])


def imported() -> Iterator[tuple[str, str]]:
    """Name and file of what is imported, without autopilot and the standard library."""
    real = cache(os.path.realpath)
    for name, module in list(sys.modules.items()):
        top = name.partition(".")[0]
        file = getattr(module, "__file__", None)
        if file and top not in ("autopilot", "__main__") and top not in sys.stdlib_module_names:
            folder, base = os.path.split(file)
            is_link = Path(file).is_symlink()
            yield name, os.path.realpath(file) if is_link else os.path.join(real(folder), base)


def may_be_in(folder: str, top: str) -> bool:
    """Whether a folder has a top-level module or package, the latter with or without a file."""
    paths = [os.path.join(folder, start, top) for start in ("", "src")]
    return any(os.path.exists(path) or os.path.isfile(f"{path}.py") for path in paths)


def is_in(folder: str, name: str) -> bool:
    """Whether a folder has a module of that name, at its top or below `src`."""
    path = name.replace(".", os.sep)
    return any(
        os.path.isfile(os.path.join(folder, start, ending))
        for start in ("", "src")
        for ending in (f"{path}.py", os.path.join(path, "__init__.py"))
    )
