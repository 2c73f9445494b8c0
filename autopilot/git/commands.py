"""Calls of the `git` command line, and what is kept of git in memory.

For what pygit2 does not do: filters, signatures, worktrees, maintenance, the network.

The variables by which git is told where to work are kept from processes that are none of git's. A
hook of git has a `GIT_DIR` and a `GIT_INDEX_FILE`. Whatever a run starts would inherit them, and
any `git` below would write into the repository that the hook belongs to.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from autopilot import audit
from autopilot.errors import GitCommandError, remedy
from autopilot.text import some

_NOISE = ("hint:", "warning:", "note:")
HOOK = re.compile("aborted by .*hook")
"""What git says where a hook of this repository refused to let a ref be moved."""
# What git hands to its hooks. Inherited, it would send our calls to another repository or index,
# to another configuration, or date their commits.
_OF_A_CALLER = frozenset(
    (
        *("GIT_DIR", "GIT_COMMON_DIR", "GIT_WORK_TREE", "GIT_IMPLICIT_WORK_TREE", "GIT_PREFIX"),
        *("GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES"),
        *("GIT_QUARANTINE_PATH", "GIT_NAMESPACE", "GIT_SHALLOW_FILE", "GIT_GRAFT_FILE"),
        *("GIT_REPLACE_REF_BASE", "GIT_NO_REPLACE_OBJECTS", "GIT_INTERNAL_SUPER_PREFIX"),
        *("GIT_LITERAL_PATHSPECS", "GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS"),
        *("GIT_ICASE_PATHSPECS", "GIT_EXTERNAL_DIFF", "GIT_DIFF_OPTS", "GIT_NOTES_REF"),
        *("GIT_CONFIG", "GIT_CONFIG_PARAMETERS", "GIT_ATTR_SOURCE", "GIT_REFLOG_ACTION"),
        *("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"),
    )
)
# The user's own settings for git, such as GIT_SSH_COMMAND: our calls of git have them.
_kept: dict[str, str] = {}


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
        failed = GitCommandError(
            f"git {_command(arguments)} failed: {last_line(result)}",
            hint=remedy(result.stderr, f"run it by hand in {cwd} to see all that it says"),
        )
        failed.said = result.stderr
        raise failed
    return result


def last_line(result: CommandResult) -> str:
    """The last line of git's messages that tells something, without `fatal:` or `error:`.

    Of a hook that refused it, with what that has said.
    """
    lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(_NOISE)] or lines
    # "fatal:" beats what follows it: advice and usage are printed after the reason.
    fatal = [line for line in telling if line.startswith(("fatal:", "error:"))] or telling
    if not fatal:
        return f"exit code {result.returncode}"
    # And the reason that can be dealt with beats what git could not do then.
    fatal = [line for line in fatal if remedy(line, "")] or fatal
    of_hook = [line for line in telling if line not in fatal and HOOK.search(fatal[-1])]
    line = fatal[-1].removeprefix("fatal:").removeprefix("error:").strip()
    return ": ".join([line, *[some(of_hook)] * bool(of_hook)])


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


def withdraw() -> None:
    """Takes all `GIT_*` variables out of this process's environment, and so out of its children's.

    Our own calls of git keep those that do not come from a git that called us.
    """
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        _kept[name] = os.environ.pop(name)


def for_git() -> dict[str, str]:
    """The environment for our own calls of git."""
    variables = {**_kept, **os.environ}
    return {name: value for name, value in variables.items() if name not in _OF_A_CALLER}


def variable(name: str) -> str | None:
    """A variable of `for_git`; None if it is not set."""
    return None if name in _OF_A_CALLER else os.environ.get(name, _kept.get(name))


# --- objects that never change, kept once they are read, for processes that are forked later -----
#
# A supervising process reads what was added since its last look; each of its children has it then,
# however long the experiment is. What may change, as a repository's place and configuration, is
# kept with a stamp, and read anew where that differs.

T = TypeVar("T")


class Seen(dict[str, T]):
    """Object ids to what was made of the objects; it grows only in the body of `looking`."""

    def known(self, oid: str) -> T | None:
        """The value that is kept; None in a body of `looking` that is off."""
        return self.get(oid) if all(_looks) else None

    def get_or(self, oid: str, make: Callable[[], T]) -> T:
        """The value that was made of an object, made now if it is new."""
        found = self.get(oid)
        return self.keep(oid, make()) if found is None else found

    def keep(self, oid: str, value: T) -> T:
        """Keeps a value in the body of `looking`, in the place of an earlier one; returns it."""
        if _looks and all(_looks):
            self[oid] = value
        return value


_looks: list[bool] = []


@contextmanager
def looking(*, is_on: bool = True) -> Iterator[None]:
    """Keeps for good the objects that the body reads; none where it is off, inside of one too."""
    _looks.append(is_on)
    try:
        yield
    finally:
        _looks.pop()
