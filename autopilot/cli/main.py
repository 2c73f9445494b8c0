"""The command line. A command opens a library object and calls it; heavy imports wait for that."""

from __future__ import annotations

try:
    import itertools
    import os
    import signal
    import sys
    from collections.abc import Sequence
    from importlib.util import find_spec
    from typing import TYPE_CHECKING, Any, ClassVar

    from autopilot import __version__, audit
    from autopilot.cli.output import DONE, FAILED, INTERRUPTED, Output, guarded, interrupt_of
    from autopilot.errors import UsageError
    from autopilot.git import commands
except BaseException as early:
    # Ctrl-C in the first milliseconds of a command: there is nothing to say yet.
    if not isinstance(early.__cause__ or early, KeyboardInterrupt):
        raise
    raise SystemExit(130) from None

if TYPE_CHECKING:
    import typer

# Of POSIX alone: locks that a kill releases, and terminals.
_NEEDED = ("fcntl", "termios")


class AutoPilotCLI:
    """The `autopilot` command, and what a project's own command line is derived from.

    A project's `cli.py` subclasses it and sets its components in `__init__`:

    >>> class MyCLI(AutoPilotCLI, project="my-project"):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.module = None
    >>> MyCLI.project
    'my-project'

    Args of the class:
        project: The project's name: its experiments are `<project>/<slug>`.

    Attributes:
        module: What `run` without a TARGET optimizes: an AutoPilotModule, or a class or callable
            that gives one and takes the hyperparameters. A run loads the file once more in its
            worktree, so that it sees its own edits.
        generator: The project's DataGenerator.
        judge: The project's Judge.
    """

    project: ClassVar[str | None] = None

    def __init_subclass__(cls, project: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if project is not None:
            cls.project = project

    def __init__(self) -> None:
        self.module: Any = None
        self.generator: Any = None
        self.judge: Any = None

    def app(self) -> typer.Typer:
        """The typer application; subclasses may add commands to it."""
        from autopilot.cli.app import build

        return build(self)

    def __call__(self, arguments: Sequence[str] | None = None) -> None:
        """Runs a command and ends the process with its exit code.

        While its file is loaded for `autopilot -p NAME`, it does nothing.
        """
        try:
            from autopilot.engine.loading import is_loaded_only

            if is_loaded_only(self):
                return
            code = self.run(sys.argv[1:] if arguments is None else arguments)
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.signal(signal.SIGINT, signal.SIG_DFL)  # the interpreter's end has tracebacks
        except BaseException as error:
            # Before the command, or a second one while the first was dealt with.
            if interrupt_of(error) is None:
                raise
            code = INTERRUPTED
        sys.exit(code)

    def run(self, arguments: Sequence[str]) -> int:
        """Runs a command.

        Returns:
            0 done, 1 failed, 2 wrong usage, 130 interrupted (and resumable).
        """
        open_streams()
        output = Output.for_arguments(arguments)
        if lacking := [name for name in _NEEDED if find_spec(name) is None]:
            says = f"autopilot does not run on {sys.platform}: Python has no {lacking[0]} there"
            output.error(UsageError(says, hint="use Linux, macOS, or on Windows the WSL"))
            return FAILED
        commands.withdraw()

        def command() -> int:
            options = itertools.takewhile(lambda given: given.startswith("-"), arguments)
            if "--version" in options:
                from autopilot.projects.health import versions

                found = versions()
                output.document({"autopilot": __version__} | found)
                if not output.as_json:
                    below = ", ".join(f"{name} {version}" for name, version in found.items())
                    output.line(f"autopilot {__version__} ({below})")
                return DONE
            from autopilot.cli.app import invoke

            return invoke(self.app(), list(arguments))

        return guarded(output, command)


def open_streams() -> None:
    """Gives stdin, stdout and stderr a place where they are closed, as by `>&-`, or in a daemon.

    Otherwise the next files that are opened get their numbers, and what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number
        if getattr(sys, name) is None:
            stream = open(number, "w" if number else "r", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def main() -> None:
    """The console script."""
    try:
        AutoPilotCLI()()
    except SystemExit as ended:
        audit.leave(int(ended.code or 0))
