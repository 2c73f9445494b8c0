"""The context of a command: the options that all commands share, and what they lead to."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, TypeVar

from autopilot.cli.output import Output
from autopilot.errors import UsageError
from autopilot.text import flag

if TYPE_CHECKING:
    import typer

    from autopilot.command.options import TaskOptions
    from autopilot.engine.board import Child
    from autopilot.engine.options import Options
    from autopilot.engine.request import Request
    from autopilot.git.repository import Repository
    from autopilot.projects.project import Project
    from autopilot.tracking.notebook import Notebook


class CommandLine(Protocol):
    """A command line as commands see it: `autopilot` itself, or a project's own (AutoPilotCLI)."""

    project: ClassVar[str | None]
    module: Any
    generator: Any
    judge: Any

    def app(self) -> typer.Typer:
        """The application with all commands."""


@dataclass(frozen=True, slots=True)
class CommandGroup:
    """Commands under a common name, inside of a group."""

    help: str
    commands: Commands


Commands: TypeAlias = Mapping[str, "Callable[..., int | None] | CommandGroup"]


@dataclass
class Context:
    """The common options of a command.

    Args:
        folder: Where the command works, from -C.
        project: From -p, or the CLI class.
        cli: The command line that was called: `autopilot` itself, or a project's own.
        child: The process that does the work, where it is supervised.
    """

    folder: Path = field(default_factory=Path.cwd)
    project: str | None = None
    output: Output = field(default_factory=Output)
    cli: CommandLine | None = None
    child: Child | None = None

    def working_folder(self) -> Path:
        """The folder that the command works in."""
        if not self.folder.is_dir():
            raise UsageError(f"-C {self.folder}: no such folder", hint="name an existing folder")
        return self.folder

    def own_project(self) -> Project:
        """The project that is named by -p, or whose `cli.py` is run.

        Raises:
            UsageError: none is named, or there is none of that name.
        """
        from autopilot.projects.project import Project, find_project, find_workspace, projects_of

        folder = self.working_folder()
        if not self.project:
            workspace = find_workspace(folder)
            names = [project.name for project in projects_of(workspace)] if workspace else []
            there = f"a project by -p: {', '.join(names)}" if names else "run autopilot init"
            raise UsageError(
                "there is nothing to work on: neither a TARGET nor a project is named",
                hint=f"name a TARGET, such as path/to/file.py, or {there}",
            )
        module = sys.modules.get(type(self.cli).__module__)
        place = getattr(module, "__file__", None)
        if not self._is_own or place is None:
            return find_project(folder, self.project)
        file = Path(os.path.abspath(str(place)))
        return Project(self.project, find_workspace(file.parent) or folder, file)

    @property
    def _is_own(self) -> bool:
        """Whether a project's own command line was called, about itself."""
        return self.cli is not None and bool(self.project) and self.cli.project == self.project

    def request(
        self,
        target: str | None,
        hparams: Sequence[str] | None = None,
        links: Sequence[str] | None = None,
        **more: Any,
    ) -> Request:
        """A request on the TARGET, or without one on the project's module.

        Raises:
            UsageError: there is neither; or the hyperparameters are malformed.
        """
        from autopilot.engine.request import Request
        from autopilot.engine.target import parse_hparams
        from autopilot.projects.project import read_hparams

        given = parse_hparams(hparams or ())
        folder = self.working_folder()
        if target is None:
            project = self.own_project()
            folder, target = project.workspace, project.target
            given = read_hparams(project.hparams) | given
        more = {"project": self.project, "hparams": given, "links": tuple(links or ()), **more}
        return Request(folder, target, **more)

    def run_request(
        self,
        target: str | None,
        task: TaskOptions,
        options: Options,
        *,
        hparams: Sequence[str] | None = None,
        by_hand: bool = False,
        **more: Any,
    ) -> Request:
        """The request of an experiment on a TARGET, or without Python.

        Args:
            by_hand: Its steps are made by hand: no agent is named.
            more: See Request.

        Raises:
            UsageError: the options do not go together, or its tracker is not installed.
        """
        from autopilot.ai.prices import use_prices
        from autopilot.core.records.record import TASK
        from autopilot.tracking.loggers import check_installed

        use_prices(options.prices or ())
        check_installed(options.log_to)
        options = options.read(self.working_folder())
        more |= {"options": options, "by_hand": by_hand}
        if not task.given():
            return self.request(target, hparams, **more)
        for name in ("goal", "background", "boldness"):
            if getattr(options, name) and not (task.agent or by_hand):
                hint = f"add it, or leave out {flag(name)}"
                raise UsageError(f"{flag(name)} is of no use without --agent", hint=hint)
        first = flag(next(iter(task.given())))
        given = {f"TARGET {target}": target, "-H": hparams, "--monitor": options.monitor}
        for what in (name for name, value in given.items() if value):
            hint = "--metric NAME" if what == "--monitor" else "leave one of them out"
            raise UsageError(f"{what} and {first} cannot be combined", hint=hint)
        request = self.request(TASK, hparams, **more)
        own = task.hparams(request.folder, by_hand=by_hand)
        return replace(request, hparams=own, stem=task.stem())

    def own_cli(self) -> CommandLine:
        """The command line of the project, with its module, generator and judge.

        It is loaded from the project's `cli.py`, in the workspace's folder.

        Raises:
            UsageError: no project is named, or there is none of that name.
            TargetError: its file fails.
        """
        if self.cli is not None and self._is_own:
            return self.cli
        from autopilot.engine.loading import load_command_line

        project = self.own_project()
        with contextlib.chdir(project.workspace):
            loaded: CommandLine = load_command_line(project.file)
        return loaded

    def repository(self) -> Repository:
        """The repository around the folder.

        A project's own command line is about the one that its `cli.py` is in, wherever it is
        called from, unless -C says otherwise.
        """
        from autopilot.git.repository import Repository

        folder = self.working_folder()
        if self._is_own and folder == Path.cwd():
            with contextlib.suppress(UsageError):
                folder = self.own_project().workspace
        repo = Repository.discover(folder)
        repo.damaged = self.output.damaged
        repo.may_ask = sys.stdin.isatty() and sys.stderr.isatty() and not self.output.as_json
        return repo

    def notebook(self, slug: str | None) -> Notebook:
        """An experiment by its full slug; without one the newest."""
        from autopilot.tracking.finding import check_whole, latest
        from autopilot.tracking.notebook import Notebook

        repo = self.repository()
        return check_whole(Notebook(repo, slug or latest(repo, self.project)))

    def full_slug(self, slug: str) -> str:
        """The slug with its project in front, if there is one."""
        slug = slug.removeprefix("autopilot/")
        if self.project and "/" not in slug:
            return f"{self.project}/{slug}"
        return slug


C = TypeVar("C", bound=Callable[..., "int | None"])
IN_CHILD: set[Callable[..., int | None]] = set()


def in_child(command: C) -> C:
    """A command that runs the user's code: it is done in a process of its own."""
    IN_CHILD.add(command)
    return command
