"""Programs of Python that an evaluation starts, and that import the user's checkout all the same.

`PYTHONPATH` leads a child to the worktree. One that is started without it, told to ignore it, or
of another interpreter follows its editable installs; one that is given a full path of the user's
checkout works there.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from autopilot.errors import AgentError
from autopilot.sandbox.imports import Redirection, root_of, served
from autopilot.sandbox.programs import run_process

STARTS = ("subprocess.Popen", "os.posix_spawn", "os.system")
"""The events of Python's audit hook when a program is started; `multiprocessing` has none."""
_PROBE = """\
from __future__ import annotations
import contextlib, importlib.util, os, sys

{served}
top, names = sys.argv[1], set(sys.argv[2:])
for finder in sys.meta_path:
    names.update(served(finder, top))
for path in sys.path:
    if os.path.realpath(path).startswith(top + os.sep) and os.path.isdir(path):
        names.update(name.partition(".")[0] for name in os.listdir(path))
for name in sorted(names):
    with contextlib.suppress(Exception):
        spec = importlib.util.find_spec(name)
        places = (spec.origin, *(spec.submodule_search_locations or ()))
        print(name, next(p for p in places if p and os.path.realpath(p).startswith(top + os.sep)))
"""
_PROBE_S = 10.0
_PROBES_AT_MOST = 20
_SHELLS = ("sh", "bash", "dash", "zsh")
_BEFORE = ("env", "exec", "export", "nohup", "time")


@dataclass(frozen=True, slots=True)
class Program:
    """A program that is started."""

    command: Sequence[str]
    folder: str
    variables: Mapping[str, str]

    @classmethod
    def of(cls, event: str, arguments: tuple[Any, ...]) -> Program:
        """The program of one of the STARTS."""
        if event == "os.system":
            arguments = "sh", ["sh", "-c", arguments[0]], None
        executable, given, *folder, environment = arguments
        given = [given] if isinstance(given, str | bytes | os.PathLike) else given
        command = [os.fsdecode(part) for part in given]
        # The name that it is called by may differ.
        if Path(command[0]).name not in _SHELLS:
            command[0] = os.fsdecode(executable)
        # A copy: the caller may change it later.
        variables = {
            os.fsdecode(name): os.fsdecode(value)
            for name, value in (os.environ if environment is None else environment).items()
        }
        here = os.path.abspath(os.fsdecode(next(filter(None, folder), ".")))
        return cls(command, here, variables)

    def parts(self) -> Iterator[Program]:
        """The programs themselves, where it is a shell's text, without what only leads to them."""
        shell, *rest = self.command
        if Path(shell).name in _SHELLS and len(rest) > 1 and re.fullmatch("-[a-z]*c", rest[0]):
            words = shlex.shlex(rest[1], posix=True, punctuation_chars=True)
            words.whitespace_split = True
            now, one = self, list[str]()
            for word in (*words, ";"):
                if not set(word) <= set("();<>|&"):
                    one.append(word)
                elif one:
                    now = replace(now, command=one)
                    if one[0] == "cd":
                        now = replace(now, folder=os.path.join(now.folder, *one[1:2]))
                    for each in now.parts():
                        if each.command:
                            yield each
                        else:
                            now = each
                    one = []
            return
        variables = dict(self.variables)
        for number, part in enumerate(self.command):
            name, is_set, value = part.partition("=")
            if is_set and name.isidentifier():
                variables[name] = _expanded(value, {"PWD": self.folder} | variables)
            elif part == "-i":
                variables = {}
            elif Path(part).name not in _BEFORE:
                program = Program(self.command[number:], self.folder, variables)
                # `nohup sh -c TEXT` is a shell's text once more.
                yield from program.parts() if number else (program,)
                return
        yield Program((), self.folder, variables)

    def python(self) -> list[str]:
        """The interpreter that it starts and its options on imports; empty if there is none."""
        first = self.command[0]
        if os.sep in first:
            first = os.path.join(self.folder, first)
        found = shutil.which(first, path=self.variables.get("PATH"))
        if found is None:
            return []
        if Path(first).name.startswith(("python", "pypy")):
            return [found, *_options(self.command[1:])]
        with contextlib.suppress(OSError, ValueError):
            with open(found, "rb") as file:  # noqa: PTH123  # one line of it
                line = os.fsdecode(file.readline(500))
            parts = shlex.split(line.removeprefix("#!")) if line.startswith("#!") else []
            if parts and Path(parts[0]).name == "env":
                parts = parts[1:]
            if parts and Path(parts[0]).name.startswith("python"):
                return replace(self, command=parts).python()
        return []


class Watcher(Protocol):
    """Takes down what an evaluation does in its process, such as the files that it reads."""

    def begin_apart(self) -> None:
        """In an item's process: forgets what the process before did."""

    def gathered(self) -> Any:
        """All since `begin_apart`, to be pickled."""

    def take_in(self, gathered: Any) -> None:
        """Adds what was gathered in another process."""


class Children(Watcher):
    """Looks at the programs that an evaluation starts.

    Args:
        redirections: What is imported from the worktree.
        linked: The user's own files that the worktree has, too.
    """

    def __init__(
        self,
        user: Path,
        here: Path,
        redirections: Sequence[Redirection],
        linked: Sequence[Path] = (),
    ) -> None:
        self._top = os.path.realpath(user)
        self._tops = tuple({f"{top}{os.sep}" for top in (str(user), self._top)})
        self._here, self._redirections = here, redirections
        self._linked = [os.path.realpath(path) for path in linked]
        self._names = [name for each in redirections for name in each.names]
        self._probed: set[tuple[Any, ...]] = set()
        self._waiting: list[tuple[list[str], Program]] = []
        self._paths: dict[str, str] = {}
        self._told: set[tuple[str, str]] = set()
        self._is_probing = False

    def hear(self, program: Program) -> None:
        """Takes note of a program that is started."""
        # git imports nothing, and most of its calls are our own.
        if self._is_probing or Path(program.command[0]).name == "git":
            return
        for part in program.parts():
            for path in (*part.command[1:], part.folder, part.command[0]):
                if path.startswith(self._tops) and (below := self._below(path)):
                    self._paths.setdefault(below, Path(part.command[0]).name)
            python = part.python()
            if not python or len(self._probed) == _PROBES_AT_MOST:
                continue
            is_other = Path(python[0]).parent != Path(sys.executable).parent
            elsewhere = _leads_elsewhere(part.variables, self._redirections)
            if _escapes(python) or is_other or elsewhere:
                self._wait(python, part)

    def _wait(self, python: list[str], part: Program) -> None:
        key = (*python, part.variables.get("PYTHONPATH"), part.variables.get("PYTHONHOME"))
        if key not in self._probed:
            self._probed.add(key)
            self._waiting.append((python, part))

    def begin_apart(self) -> None:
        self._paths, self._waiting = {}, []

    def gathered(self) -> Any:
        return self._paths, self._waiting

    def take_in(self, gathered: Any) -> None:
        paths, waiting = gathered
        self._paths = paths | self._paths
        for each in waiting:
            self._wait(*each)

    def strays(self) -> list[str]:
        """Sentences for the user on the programs that were started since the last call."""
        found = {
            (below, ""): f"{name} is started with {below} of your checkout, not of the run's "
            "worktree: give it a relative path, so that it sees the candidate"
            for below, name in self._paths.items()
        }
        self._paths, waiting, self._waiting = {}, self._waiting, []
        for python, program in waiting:
            for line in self._origins(python, program):
                name, _, origin = line.partition(" ")
                if below := self._below(origin):
                    shown = shlex.join([Path(python[0]).name, *python[1:]])
                    remedy = self._remedy(python, program, name, origin)
                    found.setdefault(
                        (below, remedy),
                        f"{shown} imports {name} from {below} of your checkout, not of the run's "
                        f"worktree: {remedy}",
                    )
                    break
        new = [sentence for key, sentence in found.items() if key not in self._told]
        self._told.update(found)
        return new

    def _remedy(self, python: list[str], program: Program, name: str, origin: str) -> str:
        if any(name in each.names and not each.reaches for each in self._redirections):
            return "its editable install comes before PYTHONPATH, so run with --in-place"
        if _escapes(python):
            return "start it without -I or -E"
        if _leads_elsewhere(program.variables, self._redirections):
            return "start it with this process's PYTHONPATH"
        root = os.path.relpath(root_of(name, os.path.realpath(origin)) or self._top, self._top)
        return f"start autopilot with PYTHONPATH={root}"

    def _below(self, path: str) -> str:
        """The path from the top of a file that checkout and worktree have, each its own."""
        real = os.path.realpath(path)
        top = next((top for top in self._tops if real.startswith(top)), None)
        if top is None or any(real == o or real.startswith(o + os.sep) for o in self._linked):
            return ""
        below = real.removeprefix(top)
        return below if os.path.exists(os.path.join(self._here, below)) else ""

    def _origins(self, python: list[str], program: Program) -> list[str]:
        self._is_probing = True
        code = _PROBE.format(served=inspect.getsource(served))
        try:
            done = run_process(
                [*python, "-c", code, self._top, *self._names],
                folder=Path(program.folder),
                timeout_s=_PROBE_S,
                hint="",
                env=program.variables,
            )
        except AgentError:
            return []
        finally:
            self._is_probing = False
        return done.stdout.splitlines() if done.code == 0 else []


def _leads_elsewhere(variables: Mapping[str, str], redirections: Sequence[Redirection]) -> bool:
    """Whether a child with that environment lacks one of the folders, or does not use it."""
    paths = variables.get("PYTHONPATH", "").split(os.pathsep)
    return any(not each.reaches or each.folder not in paths for each in redirections)


def _expanded(text: str, variables: Mapping[str, str]) -> str:
    return re.sub(r"\$\{?(\w+)\}?", lambda match: variables.get(match[1], ""), text)


def _escapes(python: Sequence[str]) -> bool:
    return any(set(part[1:]) & set("IE") for part in python[1:])


def _options(arguments: Sequence[str]) -> list[str]:
    """The single-letter options of an interpreter that decide where it imports from."""
    found = []
    for part in arguments:
        if not part.startswith("-") or part.startswith("--") or part[:2] in ("-c", "-m"):
            break
        if set(part[1:]) & set("IEsSP"):
            found.append("-" + "".join(letter for letter in part[1:] if letter in "IEsSP"))
    return found
