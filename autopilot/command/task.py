"""The module of a run without Python: its parameters, and the agent that edits them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

import autopilot
from autopilot.ai.agent import Agent
from autopilot.ai.coding import CommandAgent
from autopilot.ai.optimizer import AgentOptimizer
from autopilot.command.module import CommandModule
from autopilot.command.options import AGENTS, OF_MODULE, TaskOptions, check_agent
from autopilot.core.optimizer import Optimizer
from autopilot.core.parameter import PathParameter
from autopilot.core.rules import ChainOptimizer
from autopilot.errors import UsageError
from autopilot.tuning.parameter import ConfigParameter, config_parameters
from autopilot.tuning.search import SearchOptimizer


def task(**options: str) -> CommandTask:
    """The module of a run without Python, by its options as the manifest has them."""
    return CommandTask(TaskOptions.of(options))


class CommandTask(CommandModule):
    """A run without Python: the command measures, the agent edits."""

    def __init__(self, options: TaskOptions) -> None:
        given = {name: value for name, value in options.given().items() if name in OF_MODULE}
        super().__init__(**given)  # type: ignore[arg-type]  # by the fields' own types
        self.options = options
        edited, tuned = parameters_of(options)
        for name, parameter in (edited | tuned).items():
            setattr(self, name, parameter)
        self._edited, self._tuned = [*edited.values()], [*tuned.values()]

    def details(self) -> list[str]:
        edited = [f"edited by: {self.options.agent}"] if self._edited and self.options.agent else []
        tuned = [f"searched by: {self.options.sampler or 'tpe'}"] if self._tuned else []
        return [*super().details(), *tuned, *edited]

    def configure_optimizers(self) -> Optimizer:
        options, found = self.options, list[Optimizer]()
        if self._tuned:
            found.append(SearchOptimizer(self._tuned, options.sampler or "tpe"))
        if self._edited:
            agent = agent_of(options.agent or "", options.model)
            found.append(AgentOptimizer(agent, self._edited))
        return found[0] if len(found) == 1 else ChainOptimizer(found)


P = TypeVar("P", bound=PathParameter)


def agent_of(text: str, model: str | None) -> Agent:
    """The agent that `--agent` names.

    Raises:
        UsageError: there is none of that name, or it takes no model.
    """
    if command := check_agent(text, model):
        return CommandAgent(["sh", "-c", command])
    made: Agent = getattr(autopilot, AGENTS[text])(model)
    return made


def parameters_of(
    options: TaskOptions,
) -> tuple[dict[str, PathParameter], dict[str, ConfigParameter]]:
    """The edited and the tuned parameters of a run without Python, by the names of attributes.

    Raises:
        UsageError: two have a file in common, or one is malformed.
        ParameterError: a parameter's file is missing, or cannot be tuned.
    """
    edited = [edited_parameter(glob, options.protect or ()) for glob in options.edit or ()]
    tuned = config_parameters(options.tune or ())
    _check_apart(edited, tuned)
    return _named("edit", edited), _named("tune", tuned)


def _named(kind: str, parameters: Sequence[P]) -> dict[str, P]:
    return {kind if n == 1 else f"{kind}_{n}": each for n, each in enumerate(parameters, 1)}


def _check_apart(edited: Sequence[PathParameter], tuned: Sequence[PathParameter]) -> None:
    owners: dict[Path, PathParameter] = {}
    for parameter in (*tuned, *edited):
        for path in (parameter.root / name for name in parameter.files()):
            if path in owners:
                other = owners[path]
                is_tuned = any(other is each for each in tuned)
                both = f"--{'tune' if is_tuned else 'edit'} {_glob(other)}"
                name = os.path.relpath(path)
                raise UsageError(
                    f"{both} and --edit {_glob(parameter)} overlap: both have {name}",
                    hint=f"--protect {name}" if is_tuned else "leave one of them out",
                )
            owners[path] = parameter


def _glob(parameter: PathParameter) -> str:
    pattern = "" if parameter.is_file else parameter.pattern
    return os.path.normpath(os.path.join(parameter.label, pattern))


def edited_parameter(glob: str, protected: Sequence[str] = ()) -> PathParameter:
    """The files of a glob below the folder before its first wildcard, but for protected ones.

    Raises:
        UsageError: nothing is left of it.
        MissingSourceError: there is no such file or folder.
    """
    wanted, *excluded = glob.split(":!")
    parts = Path(wanted).parts
    fixed = next((n for n, part in enumerate(parts) if re.search(r"[*?\[]", part)), len(parts))
    source, pattern = Path(*parts[:fixed]), "/".join(parts[fixed:]) or "**/*"
    others = (Path(other).parts for other in [*excluded, *protected])
    without = [each for other in others for each in _below(other, source.parts)]
    if fixed == len(parts) and not (os.path.lexists(source) and source.is_dir()):
        if without:
            raise UsageError(
                f"--edit {glob} is protected", hint="leave out --edit or --protect of that file"
            )
        return PathParameter(wanted, description=glob)
    if "**" in without:
        raise UsageError(
            f"nothing is left of --edit {glob}: all of it is protected",
            hint="protect less of it, or edit something else",
        )
    return PathParameter(
        str(source), ":!".join([pattern, *dict.fromkeys(without)]), description=glob
    )


def _below(glob: Sequence[str], folder: Sequence[str]) -> list[str]:
    """A glob of the working directory, as globs from a folder on; "**" is all of the folder."""
    if not glob:
        return ["**"]
    if not folder:
        name = "/".join(glob)
        # A folder stands for the files in it.
        return [name] if "." in glob[-1] or glob[-1] == "**" else [name, f"{name}/**"]
    if glob[0] == "**":
        return ["/".join(glob), *_below(glob[1:], folder), *_below(glob, folder[1:])]
    return _below(glob[1:], folder[1:]) if fnmatchcase(folder[0], glob[0]) else []
