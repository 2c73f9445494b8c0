"""Targets: from `path/to/file.py:Name` and `-H key=value` to a module that can be trained.

Generators and judges are named and made in the same way.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from autopilot.core.failures import user_traceback
from autopilot.core.module import AutoPilotModule, Module
from autopilot.errors import AutopilotError, TargetError, UsageError, UserCodeError
from autopilot.projects.hparams import lacking, typed
from autopilot.projects.projects import (
    PROJECT_FILE,
    command_lines_of,
    loading,
    only_command_line,
    own_part,
)

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Target:
    """What a user asked to optimize.

    Args:
        text: As it was written.
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
        """What an experiment of it is called; a project's are told by its name already."""
        if self.path is not None and Path(self.path).name == PROJECT_FILE:
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


def load_factory(
    target: Target, folder: Path, kind: type[Any] = AutoPilotModule
) -> Callable[..., Any]:
    """Imports the target and finds its class or callable; an instance is given back as it is.

    Args:
        target: What to load.
        folder: The working directory that a file's path is relative to.
        kind: What it should give.

    Raises:
        TargetError: the file is missing or fails (with the user's own traceback), or has none or
            several of the kind.
    """
    if target.path is not None:
        path = Path(os.path.abspath(folder / target.path))
        if not path.is_file():
            raise TargetError(f"{target.path}: no such file", hint=f"looked in {folder}")
        with loading() as command_lines:
            loaded = import_file(path, target.text)
        if target.name is None and (command_lines or command_lines_of(loaded)):
            with users_code(target.text):
                return own_part(only_command_line(loaded, command_lines, target.text), kind)
    else:
        loaded = _import(lambda: importlib.import_module(str(target.module)), target.text)
    if target.name is None:
        return _only(loaded, target, kind)
    found = getattr(loaded, target.name, None)
    if isinstance(found, kind):
        return lambda: found
    if not callable(found):
        names = ", ".join(_named(loaded, kind)) or f"no {kind.__name__}"
        raise TargetError(
            f"{target.text}: there is no class or callable {target.name}",
            hint=f"it has: {names}",
        )
    return found  # type: ignore[no-any-return]  # callable, just checked


def import_file(path: Path, text: str) -> types.ModuleType:
    """Imports a file, with its folder first on the path.

    Raises:
        TargetError: it fails, or ends the process; with the user's own traceback.
    """
    return _import(lambda: _load_file(path), text)


def build_module(
    factory: Callable[..., Any], hparams: Mapping[str, str], text: str
) -> AutoPilotModule:
    """The module that a class or callable gives; see `build`."""
    return build(factory, hparams, text, AutoPilotModule)


def build(factory: Callable[..., Any], hparams: Mapping[str, str], text: str, kind: type[K]) -> K:
    """Calls the class or callable with the hyperparameters, typed by its signature.

    Raises:
        UsageError: a hyperparameter that it does not take, or lacks, or of another type.
        TargetError: it fails, or gives something else than the kind.
    """
    arguments = typed(factory, hparams)
    for name in lacking(factory, arguments):
        raise UsageError(f"{text} needs the argument {name}", hint=f"give it: -H {name}=VALUE")
    try:
        made = factory(**arguments)
    except (AutopilotError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise TargetError(
            f"{text}: {_said(error)}",
            hint="its constructor failed; the traceback is above",
            user_traceback=user_traceback(error),
        ) from error
    if not isinstance(made, kind):
        hint = f"name a subclass of {kind.__name__}, or a callable that returns one"
        if isinstance(made, Module) and kind is AutoPilotModule:
            hint = f"derive it: class {type(made).__name__}(AutoPilotModule)"
        raise TargetError(f"{text} gives {type(made).__name__}, not {_a(kind)}", hint=hint)
    return made


@contextlib.contextmanager
def users_code(text: str, hint: str = "the traceback is above") -> Iterator[None]:
    """What the user's own code raises in the body becomes an error of ours.

    Args:
        text: The target.
        hint: What to do.

    Raises:
        UserCodeError: with the user's own traceback.
    """
    try:
        yield
    except (AutopilotError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        shown = user_traceback(error)
        if not shown:
            hint = "autopilot failed at something that the target gave it; --verbose shows where"
        raise UserCodeError(f"{text}: {_said(error)}", hint=hint, user_traceback=shown) from error


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def _import(load: Callable[[], types.ModuleType], text: str) -> types.ModuleType:
    try:
        return load()
    except (AutopilotError, KeyboardInterrupt):
        raise
    except SystemExit as error:
        raise TargetError(
            f"{text} ended the process while it was imported (exit code {error.code})",
            hint='put what it does when run behind: if __name__ == "__main__":',
        ) from error
    except BaseException as error:
        named = text.partition(":")[0]
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and (named == missing or named.startswith(f"{missing}.")):
            raise TargetError(
                f"there is no module {missing}",
                hint="write path/to/file.py, or a dotted name that can be imported from here",
            ) from error
        raise TargetError(
            f"{text} cannot be imported: {_said(error)}",
            hint="the traceback is above; mend the file, commit it and run again",
            user_traceback=user_traceback(error),
        ) from error


def _load_file(path: Path) -> types.ModuleType:
    names, folder = [path.stem], path.parent
    while (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    with contextlib.suppress(ValueError):
        sys.path.remove(str(folder))
    sys.path.insert(0, str(folder))
    if len(names) > 1:
        return importlib.import_module(".".join(names))
    # By its path: a file may be called like a module of the standard library.
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise TargetError(f"{path} is not a Python file", hint="name a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    if path.stem not in sys.stdlib_module_names:
        sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _named(loaded: types.ModuleType, kind: type[Any]) -> dict[str, Any]:
    """Name to what a file has of a kind: instances, else the classes that it defines."""
    # A module is made anew for each run: only its class counts.
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


def _a(kind: type[Any]) -> str:
    return f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}"
