"""Which files of a repository a parameter is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from autopilot.core.parameter import Parameter, PathParameter
from autopilot.errors import ParameterError
from autopilot.files import list_files
from autopilot.git.objects import SUBMODULE, Entry, entry_at, list_tree
from autopilot.git.repository import Repository


@dataclass(frozen=True, slots=True)
class Scope:
    """A parameter's place in a repository.

    Args:
        parameter: The parameter.
        prefix: The path of its root below the repository's top, with "/" at its end, or "".
    """

    parameter: PathParameter
    prefix: str

    @property
    def path(self) -> str:
        """The path of its source below the repository's top; "." for the top itself."""
        if self.parameter.is_file:
            return self.prefix + self.parameter.source.name
        return self.prefix.rstrip("/") or "."

    def covers(self, name: str) -> bool:
        """Whether a path below the repository's top belongs to the parameter."""
        below = name.removeprefix(self.prefix)
        return name.startswith(self.prefix) and self.parameter.matches(below)

    def files(self) -> list[str]:
        """The parameter's files that exist, by their paths below the repository's top."""
        return [self.prefix + name for name in self.parameter.files()]

    def entries(self, repo: Repository, tree: str) -> dict[str, Entry]:
        """The parameter's files in a tree."""
        under = "" if self.path == "." else self.path
        found = list_tree(repo, tree, under)
        return {n: e for n, e in found.items() if self.covers(n) and e.mode != SUBMODULE}


def scope_of(repo: Repository, parameter: Parameter) -> Scope:
    """Finds a parameter's place.

    Raises:
        ParameterError: it is no files, it is outside the repository, or behind a symbolic link.
    """
    if not isinstance(parameter, PathParameter):
        raise ParameterError(
            f"the parameter {parameter.name or parameter!r} is not in a file",
            hint="make it a PathParameter: git keeps what is in tracked files",
        )
    top = Path(os.path.realpath(repo.workdir))
    root = parameter.root
    if not root.is_relative_to(top):
        root = _below(top, root)
    if not root.is_relative_to(top):
        raise ParameterError(
            f"the parameter {parameter.label} is outside the repository {repo.workdir}",
            hint="use files below the repository's top folder",
        )
    relative = root.relative_to(top)
    for depth in range(1, len(relative.parts) + 1):
        folder = top.joinpath(*relative.parts[:depth])
        if folder.is_symlink():
            raise ParameterError(
                f"the parameter {parameter.label} is behind the symbolic link {folder}",
                hint=f"name the folder that it points to: {os.readlink(folder)}",
            )
    prefix = "" if relative == Path() else f"{relative.as_posix()}/"
    return Scope(parameter, prefix)


def check_tracked(repo: Repository, tree: str, scopes: Iterable[Scope]) -> None:
    """Refuses parameters that the tree does not hold.

    Raises:
        ParameterError: a parameter is untracked, ignored, empty, or in a submodule.
    """
    for scope in scopes:
        parts = scope.path.split("/")
        for depth in range(1, len(parts) + 1):
            entry = entry_at(repo, tree, "/".join(parts[:depth]))
            if entry is not None and entry.mode == SUBMODULE:
                raise ParameterError(
                    f"the parameter {scope.path} is in the submodule {'/'.join(parts[:depth])}",
                    hint="run autopilot in the submodule's own repository",
                )
        if not scope.entries(repo, tree):
            raise _not_tracked(repo, scope)


def check_clean(repo: Repository, scopes: Sequence[Scope]) -> None:
    """Refuses parameters whose files differ from HEAD.

    Raises:
        ParameterError: it names the first such file.
    """
    for name, state in dirty_files(repo, scopes).items():
        raise ParameterError(
            f"{name} is {state}: the run would not start from what you see",
            hint="commit it, or take it into the start commit with --include-dirty",
        )


def dirty_files(repo: Repository, scopes: Sequence[Scope]) -> dict[str, str]:
    """The parameters' files that differ from HEAD, and how; ignored ones are none of them."""
    states = repo.status([scope.path for scope in scopes])
    return {
        name: state
        for name, state in sorted(states.items())
        if state != "ignored" and any(scope.covers(name) for scope in scopes)
    }


def _not_tracked(repo: Repository, scope: Scope) -> ParameterError:
    parameter = scope.parameter
    # Straight from the disk: the parameter itself does not name what git ignores.
    names = (
        parameter.files() if parameter.is_file else list_files(parameter.root, parameter.pattern)
    )
    there = [scope.prefix + name for name in names]
    if not there:
        pattern = parameter.pattern
        return ParameterError(
            f"the parameter {scope.path} matches no file ({pattern!r})",
            hint="correct its source or its pattern",
        )
    if all(repo.is_ignored(name) for name in there):
        return ParameterError(
            f"the parameter {scope.path} is ignored by git",
            hint=f"take it out of .gitignore, then: git add {scope.path} && git commit",
        )
    return ParameterError(
        f"the parameter {scope.path} is not tracked by git",
        hint=f"git add {scope.path} && git commit",
    )


def _below(top: Path, root: Path) -> Path:
    """The root as a path below top, if the way to top itself leads through symbolic links."""
    for depth in range(len(root.parts)):
        head = Path(*root.parts[: depth + 1])
        if os.path.realpath(head) == str(top):
            return top.joinpath(*root.parts[depth + 1 :])
    return root
