"""Calls of the `git` command line.

For what pygit2 does not do: filters, signatures, worktrees, maintenance, the network.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autopilot import audit
from autopilot.errors import GitCommandError
from autopilot.git.environment import for_git

_NOISE = ("hint:", "warning:", "note:")


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The end of a call of git: exit code, output, and its messages."""

    returncode: int
    stdout: bytes
    stderr: str


def run_git(
    arguments: Sequence[str],
    *,
    cwd: Path,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
    check: bool = True,
) -> CommandResult:
    """Runs `git` to its end; it never prompts, and speaks English.

    Args:
        cwd: The folder it runs in; a repository in GIT_DIR of our own environment is not used.
        environment: Variables to add.
        check: Whether a failure is an error.

    Raises:
        GitCommandError: git is not installed, cannot be started, or failed and `check` is on.
    """
    variables = for_git()
    # Without optional locks a `git status` of ours is never in the way of the user's git.
    variables |= {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}
    variables |= environment or {}
    command = ["git", *arguments]
    try:
        with audit.executing("git", command, cwd) as execution:
            done = subprocess.run(
                command, cwd=cwd, input=stdin, env=variables, capture_output=True, check=False
            )
            execution.code = done.returncode
    except (OSError, ValueError) as error:
        raise _not_started(error, arguments, cwd) from error
    result = CommandResult(done.returncode, done.stdout, done.stderr.decode("utf-8", "replace"))
    if check and result.returncode != 0:
        raise GitCommandError(
            f"git {_command(arguments)} failed: {last_line(result)}",
            hint=f"run it by hand in {cwd} to see all that it says",
        )
    return result


def last_line(result: CommandResult) -> str:
    """The last line of git's messages that tells something, without `fatal:` or `error:`."""
    lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(_NOISE)] or lines
    # "fatal:" beats what follows it: advice and usage are printed after the reason.
    fatal = [line for line in telling if line.startswith(("fatal:", "error:"))] or telling
    if not fatal:
        return f"exit code {result.returncode}"
    return fatal[-1].removeprefix("fatal:").removeprefix("error:").strip()


def _not_started(error: Exception, arguments: Sequence[str], cwd: Path) -> GitCommandError:
    if isinstance(error, FileNotFoundError) and cwd.is_dir():
        return GitCommandError(
            "the git command line is not installed, or not on PATH",
            hint="install git 2.31 or newer",
        )
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return GitCommandError(
        f"cannot run git {_command(arguments)} in {cwd}: {reason}",
        hint="see that the folder exists and git can be executed",
    )


def _command(arguments: Sequence[str]) -> str:
    """The subcommand among the arguments: `-C path` and `-c key=value` come before it."""
    rest = iter(arguments)
    for argument in rest:
        if argument in ("-c", "-C"):
            next(rest, None)
        elif not argument.startswith("-"):
            return argument
    return ""
