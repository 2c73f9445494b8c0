"""Programs of Python that an evaluation starts, and that import the user's checkout all the same.

`PYTHONPATH` leads a child to the worktree. One that is started without it, or told to ignore it,
follows its editable installs; one that is given a full path of the user's checkout works there.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autopilot.errors import AgentError
from autopilot.sandbox.imports import Redirection, leads_elsewhere
from autopilot.sandbox.programs import run_process

_PROBE = """\
import importlib.util, sys
for name in sys.argv[1:]:
    spec = importlib.util.find_spec(name)
    places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
    print(next((place for place in places if place), ""))
"""
_PROBE_S = 10.0


class Children:
    """Looks at the programs that an evaluation starts.

    Args:
        user: The user's checkout.
        here: The run's worktree.
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
        self._tops = tuple({f"{top}{os.sep}" for top in (str(user), os.path.realpath(user))})
        self._here, self._redirections = here, redirections
        self._linked = [os.path.realpath(path) for path in linked]
        self._names = [name for each in redirections for name in each.names]
        self._probed: set[tuple[Any, ...]] = set()
        self._waiting: list[tuple[list[str], str | None, dict[str, str]]] = []
        self._paths: dict[str, str] = {}
        self._is_probing = False

    def hear(self, executable: Any, args: Any, cwd: Any, environment: Any) -> None:
        """Takes note of a program that is started: the arguments of Python's audit event."""
        given = [args] if isinstance(args, str | bytes | os.PathLike) else list(args)
        command = [os.fsdecode(part) for part in given]
        # git imports nothing, and most of its calls are our own.
        if self._is_probing or Path(command[0]).name == "git":
            return
        folder = None if cwd is None else os.fsdecode(cwd)
        for path in (*command, *([folder] if folder else [])):
            if path.startswith(self._tops) and (below := self._below(path)):
                self._paths.setdefault(below, Path(command[0]).name)
        if not self._names:
            return
        python = _python_of(os.fsdecode(executable), command)
        escapes = any(set(part[1:]) & set("IE") for part in python[1:])
        if not python or not (escapes or leads_elsewhere(environment, self._redirections)):
            return
        # A copy: the caller may change it later.
        variables = {
            os.fsdecode(name): os.fsdecode(value)
            for name, value in (os.environ if environment is None else environment).items()
        }
        key = (*python, variables.get("PYTHONPATH"), variables.get("PYTHONHOME"))
        if key not in self._probed:
            self._probed.add(key)
            self._waiting.append((python, folder, variables))

    def strays(self) -> list[str]:
        """Sentences for the user on the programs that were started since the last call."""
        found = [
            f"{name} is started with {below} of your checkout, not of the run's worktree: "
            "give it a relative path, so that it sees the candidate"
            for below, name in self._paths.items()
        ]
        self._paths, waiting, self._waiting = {}, self._waiting, []
        for python, folder, variables in waiting:
            origins = self._origins(python, folder, variables)
            for name, origin in zip(self._names, origins, strict=False):
                if self._below(origin):
                    shown = shlex.join([Path(python[0]).name, *python[1:]])
                    found.append(
                        f"{shown} imports {name} from your checkout, not from the run's worktree: "
                        "start it with this process's PYTHONPATH, and without -I or -E"
                    )
                    break
        return found

    def _below(self, path: str) -> str:
        """The path from the top of a file that checkout and worktree have, each its own."""
        real = os.path.realpath(path)
        top = next((top for top in self._tops if real.startswith(top)), None)
        if top is None or any(real == o or real.startswith(o + os.sep) for o in self._linked):
            return ""
        below = real.removeprefix(top)
        return below if os.path.exists(os.path.join(self._here, below)) else ""

    def _origins(self, python: list[str], folder: str | None, env: Mapping[str, str]) -> list[str]:
        self._is_probing = True
        try:
            done = run_process(
                [*python, "-c", _PROBE, *self._names],
                stdin="",
                folder=Path(folder) if folder else None,
                timeout_s=_PROBE_S,
                hint="",
                env=env,
            )
        except AgentError:
            return []
        finally:
            self._is_probing = False
        return done.stdout.splitlines() if done.code == 0 else []


def _python_of(executable: str, command: Sequence[str]) -> list[str]:
    """The interpreter that a command starts and its options on imports; empty if there is none."""
    name = Path(command[0]).name
    if name in ("sh", "bash", "dash", "zsh") and len(command) > 2 and command[1] == "-c":
        with contextlib.suppress(ValueError):
            inner = shlex.split(command[2])
            first = next((n for n, part in enumerate(inner) if "=" not in part), len(inner))
            return _python_of(inner[first], inner[first:]) if first < len(inner) else []
    if name.startswith(("python", "pypy")):
        options = _options(command[1:])
        return [executable, *options]
    found = shutil.which(executable)
    with contextlib.suppress(OSError, ValueError):
        with open(found or executable, "rb") as file:  # noqa: PTH123  # one line of it
            line = os.fsdecode(file.readline(500))
        parts = shlex.split(line.removeprefix("#!")) if line.startswith("#!") else []
        if parts and Path(parts[0]).name == "env":
            parts = parts[1:]
        if parts and Path(parts[0]).name.startswith("python"):
            return [parts[0], *_options(parts[1:])]
    return []


def _options(arguments: Sequence[str]) -> list[str]:
    """The single-letter options of an interpreter that decide where it imports from."""
    found = []
    for part in arguments:
        if not part.startswith("-") or part.startswith("--") or part[:2] in ("-c", "-m"):
            break
        if set(part[1:]) & set("IEsSP"):
            found.append("-" + "".join(letter for letter in part[1:] if letter in "IEsSP"))
    return found
