"""Projects of a workspace: `autopilot/projects/<name>/cli.py`, found from any folder below.

```
workspace/
  autopilot/
    pyproject.toml          what the projects need
    projects/
      my-project/
        cli.py              class MyCLI(AutoPilotCLI, project="my-project"), and MyCLI()()
        experiments/        hparams.json: the hyperparameters that its runs start with
        datasets/           JSON Lines
```
"""

from __future__ import annotations

import difflib
import os
import re
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autopilot.errors import TargetError, UsageError

PROJECT_FILE = "cli.py"
PROJECTS = Path("autopilot", "projects")


@dataclass(frozen=True, slots=True)
class Project:
    """A project, whether or not it is whole.

    Args:
        name: What its experiments' names begin with.
        workspace: The folder that its commands work in.
        file: Its `cli.py`.
    """

    name: str
    workspace: Path
    file: Path

    @property
    def folder(self) -> Path:
        """Where all that is its own lies."""
        return self.file.parent

    @property
    def datasets(self) -> Path:
        """Its data."""
        return self.folder / "datasets"

    @property
    def hparams(self) -> Path:
        """The hyperparameters that its runs start with."""
        return self.folder / "experiments" / "hparams.json"

    @property
    def target(self) -> str:
        """What `autopilot run` is given, in the workspace's folder."""
        return Path(os.path.relpath(self.file, self.workspace)).as_posix()


def find_workspace(folder: Path) -> Path | None:
    """The workspace around a folder, looked for up to the repository's top; None if there is none.

    It is the folder that holds `autopilot/projects/` or `autopilot/pyproject.toml`.
    """
    for place in (folder, *folder.parents):
        if (place / PROJECTS).is_dir() or (place / "autopilot" / "pyproject.toml").is_file():
            return place
        if (place / ".git").exists():
            break
    return None


def projects_of(workspace: Path) -> list[Project]:
    """All projects of a workspace by name, those that lack their `cli.py` too."""
    home = workspace / PROJECTS
    names = sorted(p.name for p in home.iterdir() if p.is_dir()) if home.is_dir() else []
    return [project_at(workspace, name) for name in names if name[0] not in "._"]


def project_at(workspace: Path, name: str) -> Project:
    """The project of that name, there or not."""
    return Project(name, workspace, workspace / PROJECTS / name / PROJECT_FILE)


def find_project(folder: Path, name: str) -> Project:
    """A project of the workspace around a folder.

    Raises:
        UsageError: there is no workspace, or no such project; it names those that there are.
    """
    workspace = find_workspace(folder)
    make = f"autopilot project init {name}"
    if workspace is None:
        raise UsageError(f"there is no workspace around {folder}", hint=f"{make} makes one here")
    project = project_at(workspace, name)
    if not project.folder.is_dir():
        names = [each.name for each in projects_of(workspace)]
        close = difflib.get_close_matches(name, names, n=1)
        there = f"did you mean {close[0]}?" if close else f"projects: {', '.join(names) or 'none'};"
        raise UsageError(
            f"there is no project {name} in {workspace}", hint=f"{there} {make} makes it"
        )
    return project


_loading: ContextVar[list[Any] | None] = ContextVar("autopilot_loading", default=None)


@contextmanager
def loading() -> Iterator[list[Any]]:
    """In the body, a command line that is called is not run but put into the list.

    So a `cli.py` can be imported, although its last line is `MyCLI()()`.
    """
    called: list[Any] = []
    token = _loading.set(called)
    try:
        yield called
    finally:
        _loading.reset(token)


def is_loaded_only(command_line: object) -> bool:
    """Whether a command line that is called shall not run, since its file is being loaded."""
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
    """The one that the file calls at its end, or the only one that it defines.

    Raises:
        TargetError: it defines none, or several.
    """
    if called:
        return called[-1]
    found = command_lines_of(loaded)
    if len(found) != 1:
        names = ", ".join(each.__name__ for each in found) or "none"
        raise TargetError(
            f"{text} must define one AutoPilotCLI, and has {names}",
            hint="class MyCLI(AutoPilotCLI, project='my-project'): ..., and at the end: MyCLI()()",
        )
    return found[0]()


def own_part(command_line: Any, kind: type[Any]) -> Callable[..., Any]:
    """A project's module, generator or judge, as something that returns it.

    Args:
        command_line: The project's.
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
