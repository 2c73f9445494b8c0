"""Importing the user's files: a target's module, and a project's `cli.py` with its command line.

An error of the user's code becomes one of ours, with the user's own traceback.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import re
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from autopilot.audit import holding
from autopilot.core.interpreter import Restart
from autopilot.errors import AutopilotError, TargetError, UserCodeError

PROJECT_FILE = "cli.py"

_loading: ContextVar[list[Any] | None] = ContextVar("autopilot_loading", default=None)


@contextlib.contextmanager
def loading() -> Iterator[list[Any]]:
    """In the body, a command line that is called is not run but put into the list.

    So a `cli.py` can be imported although its last line is `MyCLI()()`.
    """
    called: list[Any] = []
    with holding(_loading, called):
        yield called


def is_loaded_only(command_line: object) -> bool:
    """Whether a command line that is called must not run, because its file is being loaded."""
    called = _loading.get()
    if called is not None:
        called.append(command_line)
    return called is not None


def command_lines_of(loaded: types.ModuleType) -> list[type[Any]]:
    """The subclasses of AutoPilotCLI that a file defines."""
    return [
        value
        for value in vars(loaded).values()
        if isinstance(value, type)
        and value.__module__ == loaded.__name__
        # By name: the class is above this floor.
        and any(base.__qualname__ == "AutoPilotCLI" for base in value.__mro__[1:])
    ]


def only_command_line(loaded: types.ModuleType, called: Sequence[Any], text: str) -> Any:
    """The command line that the file calls at its end, or the only one that it defines.

    Raises:
        TargetError: it defines none, or several.
    """
    if called:
        return called[-1]
    classes = command_lines_of(loaded)
    if len(classes) != 1:
        names = ", ".join(each.__name__ for each in classes) or "none"
        raise TargetError(
            f"{text} must define one AutoPilotCLI, and has {names}",
            hint="class MyCLI(AutoPilotCLI, project='my-project'): ..., and at the end: MyCLI()()",
        )
    return classes[0]()


def own_part(command_line: Any, kind: type[Any]) -> Callable[..., Any]:
    """A project's module, generator or judge, as a callable that returns it.

    Args:
        kind: AutoPilotModule, DataGenerator or Judge.

    Raises:
        TargetError: the project sets none.
    """
    name = re.findall("[A-Z][a-z]+", kind.__name__)[-1].lower()
    part = getattr(command_line, name, None)
    if isinstance(part, kind):
        return lambda: part
    if callable(part):
        return part  # type: ignore[no-any-return]  # callable, just checked
    raise TargetError(
        f"{type(command_line).__name__} sets no {name}",
        hint=f"in its __init__: self.{name} = My{name.title()}, or self.{name} = "
        f"My{name.title()}()",
    )


def load_command_line(path: Path) -> Any:
    """The AutoPilotCLI of a project's `cli.py`, constructed and not run.

    Raises:
        TargetError: the file is missing or fails, or defines none.
    """
    sys.dont_write_bytecode = True
    if not path.is_file():
        raise TargetError(f"{path}: no such file", hint="autopilot project init NAME makes one")
    with loading() as command_lines:
        loaded = import_file(path, str(path))
    with users_code(str(path)):
        return only_command_line(loaded, command_lines, str(path))


@contextlib.contextmanager
def users_code(
    text: str, hint: str = "the traceback is above", kind: type[AutopilotError] = UserCodeError
) -> Iterator[None]:
    """Exceptions of the user's own code in the body become an error of ours.

    Raises:
        UserCodeError: or of another kind, with the user's own traceback.
    """
    try:
        yield
    except (AutopilotError, KeyboardInterrupt, GeneratorExit, Restart):
        raise
    except BaseException as error:
        shown = _traceback(error)
        if not shown:
            hint = "autopilot failed at something that the target gave it; --verbose shows where"
        raise kind(f"{text}: {described(error)}", hint=hint, user_traceback=shown) from error


def described(error: BaseException) -> str:
    """An exception as Python prints its last line."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def _traceback(error: BaseException) -> str:
    # Not at the top: every command imports this file as it starts, see `is_loaded_only`.
    from autopilot.core.failures import user_traceback

    return user_traceback(error)


def import_file(path: Path, text: str) -> types.ModuleType:
    """Imports a file, with its folder first on the path.

    Raises:
        TargetError: it fails, or ends the process; with the user's own traceback.
    """
    with importing(text):
        names, folder = [path.stem], path.parent
        while (folder / "__init__.py").is_file():
            names.insert(0, folder.name)
            folder = folder.parent
        # First, also where it is on the path already: else a module beside it may be another one.
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


@contextlib.contextmanager
def importing(text: str) -> Iterator[None]:
    """An import in the body that fails, or ends the process, raises a TargetError."""
    try:
        yield
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
            f"{text} cannot be imported: {described(error)}",
            hint="the traceback is above; mend the file, commit it and run again",
            user_traceback=_traceback(error),
        ) from error
