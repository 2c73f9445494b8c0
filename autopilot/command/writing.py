"""A run without Python, written as a module: `autopilot run ... --write optimize.py`."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from autopilot.command.editing import check_apart, edited_parameters
from autopilot.command.options import TaskOptions, check_agent, read_goal
from autopilot.core.parameter import PathParameter
from autopilot.errors import UsageError
from autopilot.tuning.parameter import config_parameters
from autopilot.tuning.spaces import Choice, Range

_WIDTH = 88
_OF_MODULE = (
    *("eval", "train_eval", "val_eval", "test_eval", "metric", "mode", "metric_regex"),
    *("junit", "guard", "setup", "env"),
)
_AGENTS = {"claude-code": "ClaudeCodeAgent", "anthropic": "AnthropicAgent"}


def written(options: TaskOptions, mode: str | None = None) -> str:
    """The options as a Python file that gives the same results; formatted as ruff formats it.

    Args:
        mode: The metric's direction, "max" or "min"; None: not given.

    Raises:
        UsageError: two parameters have a file in common, or one is malformed.
        ParameterError: a parameter's file is missing, or cannot be tuned.
    """
    edited = edited_parameters(options.edit or (), options.protect or ())
    tuned = config_parameters(options.tune or ())
    check_apart(edited, tuned)
    given = options.given()
    given |= {"mode": mode} if mode else {}
    arguments = [f"{name}={_literal(given[name])}" for name in _OF_MODULE if name in given]
    body = _statement("super().__init__", arguments, 8)
    edit, tune = _names("edit", len(edited)), _names("tune", len(tuned))
    for name, parameter in zip(edit, edited, strict=True):
        body += _statement(f"self.{name} = PathParameter", _place(parameter), 8)
    for name, config in zip(tune, tuned, strict=True):
        spaces = [f"{_quoted(key)}: {_space(space)}" for key, space in config.spaces.items()]
        opened = [_quoted(config.label), "{" + ", ".join(spaces) + "}"]
        line = f"        self.{name} = ConfigParameter({', '.join(opened)})"
        if len(line) > _WIDTH:
            line = "\n".join(
                [
                    f"        self.{name} = ConfigParameter(",
                    f"            {opened[0]},",
                    "            {",
                    *(f"                {each}," for each in spaces),
                    "            },",
                    "        )",
                ]
            )
        body.append(line)
    steps = _optimizers(options, edit, tune)
    code = "\n".join([*body, *steps])
    nouns = sorted(set(re.findall(r"\b(?:[A-Z][a-z]+){2,}|\b(?:Range|Choice)(?=\()", _bare(code))))
    metric = options.metric or "the share that passes"
    return "\n".join(
        [
            f'"""Optimizes {metric}, as a command measures it."""',
            "",
            *_imports(sorted({*nouns, "CommandModule"})),
            "",
            "",
            f"class {_class_name(options)}(CommandModule):",
            "    def __init__(self):",
            *body,
            "",
            "    def configure_optimizers(self):",
            *steps,
            "",
        ]
    )


def write_module(
    task: TaskOptions, folder: Path, name: str, mode: str | None, options: Sequence[str]
) -> list[str]:
    """Writes `written` into a new file; returns the lines that say what to type next.

    Args:
        options: Those of the run that the file does not hold, as they are typed.

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
    task.hparams(folder)
    with contextlib.chdir(folder):
        text = written(replace(task, goal=read_goal(task.goal, folder)), mode)
    (folder / name).write_text(text, encoding="utf-8")
    return [
        f"{name} is the same run; change it as you like, then",
        f"  git add {shlex.quote(name)} && git commit -m 'what to optimize'",
        "  " + shlex.join(["autopilot", "run", name, *options]),
    ]


def _optimizers(options: TaskOptions, edit: Sequence[str], tune: Sequence[str]) -> list[str]:
    lines: list[str] = []
    search = [_listed(tune)]
    if options.sampler:
        search.append(f"sampler={_quoted(options.sampler)}")
    if not edit:
        return _statement("return SearchOptimizer", search, 8)
    text = options.agent or ""
    if command := check_agent(text, options.model):
        lines += _statement("agent = CommandAgent", [f'["sh", "-c", {_quoted(command)}]'], 8)
    else:
        model = [_quoted(options.model)] if options.model else []
        lines += _statement(f"agent = {_AGENTS[text]}", model, 8)
    editing = ["agent", _listed(edit)]
    if options.goal:
        editing.append(f"goal={_quoted(options.goal)}")
    if not tune:
        return lines + _statement("return EditOptimizer", editing, 8)
    lines += _statement("search = SearchOptimizer", search, 8)
    lines += _statement("edit = EditOptimizer", editing, 8)
    return [*lines, "        return ChainOptimizer([search, edit])"]


def _statement(call: str, arguments: Sequence[str], indent: int) -> list[str]:
    """A call with its arguments: on one line, on the next one, or on a line each."""
    space = " " * indent
    line = f"{space}{call}({', '.join(arguments)})"
    if len(line) <= _WIDTH or not arguments:
        return [line]
    joined = f"{space}    {', '.join(arguments)}"
    if len(joined) <= _WIDTH:
        return [f"{space}{call}(", joined, f"{space})"]
    comma = "," if len(arguments) > 1 else ""
    return [
        f"{space}{call}(",
        *(f"{space}    {each}{comma}" for each in arguments),
        f"{space})",
    ]


def _imports(names: Sequence[str]) -> list[str]:
    line = f"from autopilot import {', '.join(names)}"
    if len(line) <= _WIDTH:
        return [line]
    return ["from autopilot import (", *(f"    {name}," for name in names), ")"]


def _place(parameter: PathParameter) -> list[str]:
    place = [_quoted(parameter.label)]
    is_all = parameter.is_file or parameter.pattern == "**/*"
    return place if is_all else [*place, _quoted(parameter.pattern)]


def _names(kind: str, count: int) -> list[str]:
    """The attributes of parameters, as `CommandTask` names them."""
    return [kind if number == 1 else f"{kind}_{number}" for number in range(1, count + 1)]


def _listed(names: Iterable[str]) -> str:
    return f"[{', '.join(f'self.{name}' for name in names)}]"


def _quoted(text: str) -> str:
    """A text as Python has it, in the quotes that need fewer escapes."""
    if '"' in text and "'" not in text:
        return repr(text)
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\x7f")


def _bare(code: str) -> str:
    """Code without the texts in it."""
    return re.sub(r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""", '""', code)


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
        return _quoted(value)
    if isinstance(value, Sequence):
        return f"[{', '.join([_literal(each) for each in value])}]"
    return repr(value)


def _class_name(options: TaskOptions) -> str:
    words = re.findall(r"[a-z0-9]+", options.stem())
    name = "".join(word.title() for word in words)
    return f"Run{name}" if name[:1].isdigit() or not name else name
