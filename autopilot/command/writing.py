"""A run without Python, written as a module: `autopilot run ... --write optimize.py`."""

from __future__ import annotations

import ast
import contextlib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from autopilot.command.options import AGENTS, OF_MODULE, TaskOptions, check_agent
from autopilot.command.task import parameters_of
from autopilot.errors import UsageError
from autopilot.tuning.constants import in_python
from autopilot.tuning.spaces import Choice, Range

_WIDTH = 88
_INDENT = " " * 8


def written(
    options: TaskOptions, folder: Path, mode: str | None = None, goal: str | None = None
) -> str:
    """The options as a Python file that gives the same results; formatted as ruff formats it.

    Args:
        folder: Where it will be.
        mode: The metric's direction, "max" or "min"; None: not given.
        goal: For the agent.

    Raises:
        UsageError: the options do not go together, or one is malformed.
        ParameterError: a parameter's file is missing, or cannot be tuned.
    """
    options = TaskOptions.of(options.hparams(folder))
    with contextlib.chdir(folder):
        edited, tuned = parameters_of(options)
    given = options.given()
    given |= {"mode": mode} if mode else {}
    arguments = [f"{name}={_literal(given[name])}" for name in OF_MODULE if name in given]
    body = _statement("super().__init__", arguments)
    for name, parameter in edited.items():
        place = [parameter.label]
        if not (parameter.is_file or parameter.pattern == "**/*"):
            place.append(parameter.pattern)
        body += _statement(f"self.{name} = PathParameter", [*map(quoted, place)])
    for name, config in tuned.items():
        spaces = [f"{quoted(key)}: {_space(space)}" for key, space in config.spaces.items()]
        label = quoted(config.label)
        line = f"{_INDENT}self.{name} = ConfigParameter({label}, {{{', '.join(spaces)}}})"
        if len(line) > _WIDTH:
            lines = [f"    {label},", "    {", *(f"        {each}," for each in spaces), "    },"]
            lines = [f"self.{name} = ConfigParameter(", *lines, ")"]
            line = "\n".join(_INDENT + each for each in lines)
        body.append(line)
    code = "\n".join(
        [
            f"class {_class_name(options)}(CommandModule):",
            "    def __init__(self):",
            *body,
            "",
            "    def configure_optimizers(self):",
            *_optimizers(options, list(edited), list(tuned), goal),
            "",
        ]
    )
    names = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    imports = "\n".join(_imports(sorted(name for name in names if name[0].isupper())))
    metric = options.metric or "the share that passes"
    return f'"""Optimizes {metric}, as a command measures it."""\n\n{imports}\n\n\n{code}'


def write_module(
    task: TaskOptions,
    folder: Path,
    name: str,
    options: Sequence[str],
    mode: str | None,
    goal: str | None,
) -> list[str]:
    """Writes `written` into a new file; returns the lines that say what to type next.

    Args:
        options: Those of the run that the file does not hold, as they are typed.
        mode, goal: See `written`.

    Raises:
        UsageError: there is nothing to write, or the file exists; and as `written`.
    """
    if not task.given():
        raise UsageError(
            "--write is for a run without Python: TARGET is a file already",
            hint="add --edit and --eval, or leave it out",
        )
    if not name.endswith(".py") or (folder / name).exists():
        why = "it exists" if name.endswith(".py") else "it is no Python file"
        raise UsageError(f"--write {name}: {why}", hint="name a new file, such as optimize.py")
    (folder / name).write_text(written(task, folder, mode, goal), encoding="utf-8")
    return [
        f"{name} is the same run; change it as you like, then",
        f"  git add {shlex.quote(name)} && git commit -m 'what to optimize'",
        "  " + shlex.join(["autopilot", "run", name, *options]),
    ]


def _optimizers(
    options: TaskOptions, edit: Sequence[str], tune: Sequence[str], goal: str | None
) -> list[str]:
    search = [_listed(tune)]
    if options.sampler:
        search.append(f"sampler={quoted(options.sampler)}")
    if not edit:
        return _statement("return SearchOptimizer", search)
    kind, arguments = agent_call(options.agent or "", options.model)
    lines = _statement(f"agent = {kind}", arguments)
    editing = ["agent", _listed(edit)]
    if goal:
        editing.append(f"objective={quoted(goal)}")
    if not tune:
        return lines + _statement("return AgentOptimizer", editing)
    lines += _statement("search = SearchOptimizer", search)
    lines += _statement("edit = AgentOptimizer", editing)
    return [*lines, "        return ChainOptimizer([search, edit])"]


def agent_call(text: str, model: str | None = None) -> tuple[str, list[str]]:
    """The class of the agent that `--agent` names, and its arguments, as Python has them."""
    if command := check_agent(text, model):
        return "CommandAgent", [f'["sh", "-c", {quoted(command)}]']
    return AGENTS[text], [quoted(model)] if model else []


def _statement(call: str, arguments: Sequence[str]) -> list[str]:
    """A call with its arguments: on one line, on the next one, or on a line each."""
    joined = ", ".join(arguments)
    if len(line := f"{_INDENT}{call}({joined})") <= _WIDTH or not arguments:
        return [line]
    lines = [f"{_INDENT}    {joined}"]
    if len(lines[0]) > _WIDTH:
        comma = "," if len(arguments) > 1 else ""
        lines = [f"{_INDENT}    {each}{comma}" for each in arguments]
    return [f"{_INDENT}{call}(", *lines, f"{_INDENT})"]


def _imports(names: Sequence[str]) -> list[str]:
    line = f"from autopilot import {', '.join(names)}"
    if len(line) <= _WIDTH:
        return [line]
    return ["from autopilot import (", *(f"    {name}," for name in names), ")"]


def _listed(names: Iterable[str]) -> str:
    return f"[{', '.join(f'self.{name}' for name in names)}]"


def quoted(text: str) -> str:
    """A text as Python has it, in the quotes that need fewer escapes."""
    return in_python(text, "'" if '"' in text and "'" not in text else '"')


def _space(space: Range | Choice) -> str:
    """A space as the call that makes it."""
    if isinstance(space, Range):
        arguments = [repr(space.low), repr(space.high), *(["log=True"] if space.log else [])]
        arguments += [f"step={space.step!r}"] if space.step is not None else []
    else:
        arguments = [_literal(space.options)]
    arguments += [f"when={_literal(space.when)}"] if space.when else []
    return f"{type(space).__name__}({', '.join(arguments)})"


def _literal(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(k)}: {_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Sequence):
        return f"[{', '.join([_literal(each) for each in value])}]"
    return repr(value)


def _class_name(options: TaskOptions) -> str:
    words = re.findall(r"[a-z0-9]+", options.stem())
    name = "".join(word.title() for word in words)
    return f"Run{name}" if name[:1].isdigit() or not name else name
