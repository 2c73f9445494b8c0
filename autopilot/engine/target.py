"""Targets: from `path/to/file.py:Name` and `-H key=value` to a module that can be trained.

Generators and judges are named and built in the same way.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from autopilot.core.module import AutoPilotModule, Module
from autopilot.core.records.record import TASK
from autopilot.engine import loading
from autopilot.errors import ElsewhereError, TargetError, UsageError
from autopilot.git import objects
from autopilot.git.repository import Repository
from autopilot.text import redact

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Target:
    """The object that a user asked to optimize.

    Args:
        path: The file, relative to the folder that the command works in; None for a dotted name.
        module: The dotted name; None for a file.
        name: The class, instance or callable; None: the file's only one.
    """

    text: str
    path: str | None
    module: str | None
    name: str | None

    @property
    def stem(self) -> str:
        """The first part of its experiments' names; "run" for a project, whose name precedes it."""
        if self.path is not None and Path(self.path).name == loading.PROJECT_FILE:
            return "run"
        return Path(self.path).stem if self.path else str(self.module).rpartition(".")[2]


def parse_target(text: str) -> Target:
    """Reads `path/to/file.py`, `path/to/file.py:Name` or `package.module:Name`.

    Raises:
        TargetError: it is none of these.

    >>> parse_target("support/classifier.py:Tickets").name
    'Tickets'
    """
    head, colon, name = text.rpartition(":")
    if not colon or not name.isidentifier():
        head, name = text, ""
    if head.endswith(".py") or "/" in head:
        return Target(text, head, None, name or None)
    if not name or not all(part.isidentifier() for part in head.split(".")):
        raise TargetError(
            f"{text!r} is no target",
            hint="write path/to/file.py, path/to/file.py:Name or package.module:Name",
        )
    return Target(text, None, head, name)


def committed_target(repo: Repository, commit: str, folder: Path, text: str) -> Target:
    """The target, relative to the folder; its file must be in the commit.

    Raises:
        TargetError: it is missing, outside the repository, or not committed.
    """
    target, top = parse_target(text), Path(os.path.realpath(repo.workdir))
    if target.path is None:
        return target
    path = Path(os.path.abspath(folder / target.path))
    if not path.is_file():
        raise TargetError(f"{target.path}: no such file", hint=f"looked in {folder}")
    path = Path(os.path.realpath(path.parent)) / path.name
    # A symbolic link, and the file that it leads to.
    for each in (path, Path(os.path.realpath(path))):
        if not each.is_relative_to(top):
            raise TargetError(
                f"{target.path} is outside the repository {repo.workdir}",
                hint="name a file of the repository, or use -C",
            )
        if objects.entry_at(repo, commit, each.relative_to(top).as_posix()) is None:
            raise TargetError(
                f"{target.path} is not committed: the run would not have it",
                hint=f"git add {target.path} && git commit",
            )
    relative = Path(os.path.relpath(path, os.path.realpath(folder))).as_posix()
    named = f":{target.name}" if target.name else ""
    return replace(target, text=relative + named, path=relative)


def _check_module(repo: Repository, commit: str, target: Target) -> None:
    """Refuses a module that would be imported from elsewhere than the commit."""
    if target.module is None or target.text == TASK:
        return
    top = os.path.realpath(repo.workdir)
    known = ""
    found: ModuleSpec | None = None
    for part in target.module.split("."):
        known = f"{known}.{part}".strip(".")
        folders = found.submodule_search_locations if found else None
        try:
            # No package is imported for it, as `find_spec` of a module in one would, and under its
            # whole name a namespace package would be looked for in its parent, as imported.
            found = PathFinder.find_spec(part, folders) if folders else find_spec(known)
        except (ImportError, ValueError):
            found = None
        if found is None:
            return  # its import says so
        origin = [found.origin] if found.has_location and found.origin else []
        places = [os.path.realpath(p) for p in origin or found.submodule_search_locations or ()]
        inside = [os.path.relpath(p, top) for p in places if p.startswith(top + os.sep)]
        if not any(objects.entry_at(repo, commit, name) for name in inside):
            break
    else:
        return
    where = places[0] if places else "built in"
    path = target.module.replace(".", "/")
    ends = (f"/{path}.py", f"/{path}/__init__.py")
    if any(f"/{name}".endswith(ends) for name in objects.list_tree(repo, commit)):
        raise ElsewhereError(
            f"{target.module} is imported from {where}, not from this checkout, which has it too",
            hint="install this checkout's packages, in an environment of its own: pip install -e .",
        )
    raise TargetError(
        f"{target.text} is not in the commit: {known} is {where}",
        hint="name a file of the repository that imports it",
    )


def parse_hparams(pairs: Sequence[str]) -> dict[str, str]:
    """Reads the `key=value` of -H options.

    Raises:
        UsageError: one has no "=", a key comes twice, or a value is a secret: they are recorded.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"-H {pair}: not key=value", hint="write -H threshold=0.5")
        if key in found:
            raise UsageError(f"-H {key} is given twice", hint="give each key once")
        if redact(value) != value:
            raise UsageError(
                f"-H {key}: the value looks like a secret, and arguments are recorded in git",
                hint="put it into an environment variable, and read it from there in your code",
            )
        found[key] = value
    return found


def load_target(
    text: str,
    folder: Path,
    hparams: Mapping[str, str],
    kind: type[K],
    repo: Repository | None = None,
) -> K:
    """Imports a target and builds what it names.

    Args:
        text: See parse_target.
        folder: The working directory that a file's path is relative to.
        kind: The class that it must give: AutoPilotModule, DataGenerator or Judge.
        repo: The checkout whose commit must have it: a manifest is a note, which may come from
            anybody, and nothing else is executed.

    Raises:
        TargetError: it cannot be imported, fails, gives something else, or is not in the commit.
        UsageError: a hyperparameter that it does not take, or lacks, or of another type.
    """
    if repo is not None:
        commit = repo.head_commit()
        _check_module(repo, commit, committed_target(repo, commit, folder, text))
    return build(_factory(parse_target(text), folder, kind), hparams, text, kind)


def load_here(
    folder: Path, text: str, hparams: Mapping[str, str], repo: Repository | None = None
) -> AutoPilotModule:
    """The module of a target in the user's checkout, outside a run.

    The folder becomes the working directory of the process, and the first to be imported from.

    Args:
        repo: See `load_target`.
    """
    sys.dont_write_bytecode = True
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    return load_target(text, folder, hparams, AutoPilotModule, repo)


def _factory(target: Target, folder: Path, kind: type[Any]) -> Callable[..., Any]:
    """The class or callable of a target; of an instance, a callable that returns it."""
    if target.path is None:
        with loading.importing(target.text):
            loaded = importlib.import_module(str(target.module))
    else:
        path = Path(os.path.abspath(folder / target.path))
        if not path.is_file():
            raise TargetError(f"{target.path}: no such file", hint=f"looked in {folder}")
        with loading.loading() as command_lines:
            loaded = loading.import_file(path, target.text)
        if target.name is None and (command_lines or loading.command_lines_of(loaded)):
            with loading.users_code(target.text):
                line = loading.only_command_line(loaded, command_lines, target.text)
                return loading.own_part(line, kind)
    if target.name is None:
        return _only(loaded, target, kind)
    found = getattr(loaded, target.name, None)
    if isinstance(found, kind):
        return lambda: found
    if not callable(found):
        names = ", ".join(_named(loaded, kind)) or f"no {kind.__name__}"
        raise TargetError(
            f"{target.text}: there is no class or callable {target.name}", hint=f"it has: {names}"
        )
    return found  # type: ignore[no-any-return]  # callable, just checked


def build(factory: Callable[..., Any], hparams: Mapping[str, str], text: str, kind: type[K]) -> K:
    """Calls the class or callable with the hyperparameters, typed by its signature."""
    arguments = _typed(factory, hparams)
    for name in _lacking(factory, arguments):
        raise UsageError(f"{text} needs the argument {name}", hint=f"give it: -H {name}=VALUE")
    with loading.users_code(text, "its constructor failed; the traceback is above", TargetError):
        made = factory(**arguments)
    if not isinstance(made, kind):
        hint = f"name a subclass of {kind.__name__}, or a callable that returns one"
        if isinstance(made, Module) and kind is AutoPilotModule:
            hint = f"derive it: class {type(made).__name__}(AutoPilotModule)"
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise TargetError(
            f"{text} gives {type(made).__name__}, not {article} {kind.__name__}", hint=hint
        )
    return made


def _typed(factory: Callable[..., Any], hparams: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of a class or callable, of the types that its signature has."""
    if not hparams:
        return {}
    from pydantic import TypeAdapter, ValidationError

    parameters = inspect.signature(factory).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    source = factory.__init__ if isinstance(factory, type) else factory  # type: ignore[misc]  # its own
    try:
        hints = get_type_hints(source)
    except Exception:  # noqa: BLE001  # the user's annotations may name what is not importable
        hints = {}
    found: dict[str, Any] = {}
    for key, value in hparams.items():
        if key not in parameters and not takes_any:
            names = ", ".join(name for name in parameters if name != "self") or "none"
            raise UsageError(f"-H {key}: there is no such argument", hint=f"arguments: {names}")
        default = parameters[key].default if key in parameters else None
        fallback = type(default) if default not in (None, inspect.Parameter.empty) else str
        adapter: TypeAdapter[Any] = TypeAdapter(hints.get(key, fallback))
        try:
            found[key] = adapter.validate_strings(value)
        except ValidationError as error:
            # Lists and dicts are no strings to pydantic; as JSON they are.
            try:
                found[key] = adapter.validate_json(value)
            except ValidationError:
                raise UsageError(
                    f"-H {key}={value}: {error.errors()[0]['msg']}",
                    hint="give a value of the argument's type; lists and dicts as JSON",
                ) from error
    return found


def _lacking(factory: Callable[..., Any], arguments: Mapping[str, Any]) -> list[str]:
    """The names of arguments that a class or callable needs and does not get."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return []
    return [
        p.name
        for p in parameters
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        and p.default is p.empty
        and p.name not in arguments
    ]


def _named(loaded: types.ModuleType, kind: type[Any]) -> dict[str, Any]:
    """Name to an object of a kind in a file: instances, else the classes that it defines."""
    # A module is built anew for each run: only its class counts.
    if kind is not AutoPilotModule:
        instances = [(name, v) for name, v in vars(loaded).items() if isinstance(v, kind)]
        if instances:
            # Two names of one object are one.
            return dict({id(value): (name, value) for name, value in instances}.values())
    return {
        value.__name__: value
        for value in vars(loaded).values()
        if isinstance(value, type)
        and issubclass(value, kind)
        and value.__module__ == loaded.__name__
    }


def _only(loaded: types.ModuleType, target: Target, kind: type[Any]) -> Callable[..., Any]:
    found = _named(loaded, kind)
    if len(found) == 1:
        (only,) = found.values()
        return only if isinstance(only, type) else lambda: only
    if found:
        raise TargetError(
            f"{target.text} defines several: {', '.join(found)}",
            hint=f"say which: {target.text}:{next(iter(found))}",
        )
    noun = kind.__name__.removeprefix("AutoPilot").removeprefix("Data").lower()
    raise TargetError(
        f"{target.text} defines no {kind.__name__}",
        hint=f"derive a class from it, or name a callable: {target.text}:make_{noun}",
    )
