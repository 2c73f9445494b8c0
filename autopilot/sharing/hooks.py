"""Autopilot's own git hooks: which there are, and their scripts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from autopilot.errors import RepositoryError, UsageError
from autopilot.git.hooks import HookFolder, script

# The parts of each script; the chain calls the hook that was there before.
_PARTS = {
    "pre-push": ("chain.sh", "pre-push"),
    "pre-commit": ("chain.sh", "pre-commit"),
    "post-merge": ("chain.sh", "copy-metrics.sh", "post-merge"),
    "post-rewrite": ("chain.sh", "copy-metrics.sh", "post-rewrite"),
    "pre-receive": ("chain.sh", "pre-receive"),
}
SERVER = ("pre-receive",)
CLIENT = tuple(name for name in _PARTS if name not in SERVER)
_PACKAGE = Path(__file__).parents[1]


def hook_texts(folder: HookFolder, names: Iterable[str] = ()) -> dict[str, str]:
    """The scripts by the names of their hooks.

    Args:
        folder: Where they are to go: those of a bare repository are the server's.
        names: Which; those that fit the repository if none is named.

    Raises:
        UsageError: there is no hook of that name.
    """
    chosen = list(dict.fromkeys(names)) or list(SERVER if folder.bare else CLIENT)
    for name in chosen:
        if name not in _PARTS:
            raise UsageError(f"autopilot has no hook {name!r}", hint=f"hooks: {', '.join(_PARTS)}")
    bodies = {name: "\n".join([f"hook={name}", *map(_part, _PARTS[name])]) for name in chosen}
    return {name: script(name, body) for name, body in bodies.items()}


def _part(name: str) -> str:
    # In a wheel they are inside of the package; in a clone beside it.
    for home in (_PACKAGE / "hooks", _PACKAGE.parent / "hooks"):
        path = home / name
        if path.is_file():
            return path.read_text(encoding="utf-8").removeprefix("#!/bin/sh\n")
    raise RepositoryError(
        f"the script {name} is not part of this installation", hint="install autopilot again"
    )
