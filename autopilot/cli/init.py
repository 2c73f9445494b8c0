"""`autopilot init`: looks at the repository, asks little, and writes a file that runs at once."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from autopilot.cli.arguments import option
from autopilot.cli.asking import Answers
from autopilot.cli.context import Context
from autopilot.command.options import TaskOptions, check_agent
from autopilot.command.writing import written
from autopilot.core.figures import sounds_like_cost
from autopilot.engine.options import Direction, Options
from autopilot.errors import UsageError
from autopilot.projects import starting
from autopilot.projects.health import agent_here
from autopilot.projects.looking import survey
from autopilot.text import counted

Kind = StrEnum("Kind", "command numbers rules prompt class")


def init(
    context: Context,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="The Python file to write.")
    ] = "optimize.py",
    *,
    kind: Annotated[Kind | None, option("The kind of system; asked for if not given.")] = None,
    task: Annotated[TaskOptions, "eval", "metric", "edit", "tune", "guard", "agent"],
    options: Annotated[Options, "goal"],
    mode: Annotated[
        Direction | None, option("Of the metric: whether more or less is better.")
    ] = None,
    data: Annotated[
        str | None, option("Texts with labels or answers: JSON Lines, CSV or TSV.", metavar="FILE")
    ] = None,
    force: Annotated[bool, option("Overwrite FILE.")] = False,
    dry_run: Annotated[bool, option("Print FILE instead of writing it.")] = False,
) -> None:
    """Look at the repository, and write what to run.

    It asks four questions at most; with an option, none. FILE is a class that `autopilot run FILE`
    takes at once. Nothing else is written, but a small file of rules or data where there is none.

    \b
    autopilot init
    autopilot init --kind numbers --eval 'python bench.py' --tune 'config.toml:cache.size=16..4096'
    autopilot init --kind command --eval 'python bench.py' --edit 'src/**/*.py' --agent claude-code
    autopilot init --kind rules --data tickets.csv
    autopilot init --kind prompt --edit prompt.md --data questions.jsonl --agent claude-code
    """
    folder, output = context.working_folder(), context.output
    context.repository()  # refuses what no run could work in
    _check_file(folder, file, may_be_there=force or dry_run)
    given: dict[str, Any] = {"kind": kind and kind.value, "mode": mode and mode.value, "data": data}
    given = {**given, **task.given(), **options.read(folder).given()}
    seen = survey(folder)
    output.line(f"{folder.name}: {counted(len(seen.files), 'file')}")
    output.lines(seen.lines())
    answers = Answers(seen, output, task, given)
    chosen = answers.kind()
    texts = _WRITERS[chosen](answers, file)
    if dry_run:
        output.lines(texts[file].splitlines())
    else:
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        output.line(f"wrote {', '.join(texts)}: {starting.KINDS[chosen]}")
    output.lines(f"note: {note}" for note in answers.notes)
    new = dict.fromkeys([*texts, *sorted(answers.used & seen.untracked)])
    add = " ".join(map(shlex.quote, new))
    commands = [
        f'git add {add} && git commit -m "Add {file}"',
        f"autopilot run {shlex.quote(file)}",
    ]
    if not dry_run:
        output.lines(["next:", *(f"  {command}" for command in commands)])
    output.document(
        kind=chosen,
        file=file,
        text=texts[file],
        written=[] if dry_run else list(texts),
        next=commands,
        seen=seen.facts(),
    )


def _check_file(folder: Path, name: str, *, may_be_there: bool) -> None:
    place = folder / name
    if not name.endswith(".py"):
        raise UsageError(f"{name} is no Python file", hint="name it, such as optimize.py")
    if not place.parent.is_dir():
        raise UsageError(f"there is no folder {place.parent}", hint="make it, or name another FILE")
    if place.exists() and not may_be_there:
        raise UsageError(
            f"{name} is there already", hint="name another FILE, or overwrite it with --force"
        )


def _agent(text: str) -> str:
    check_agent(text, None)
    return text


def _rules(answers: Answers, file: str) -> dict[str, str]:
    seen, data = answers.seen, None
    best = next((each.file for each in seen.data if each.classes), None)
    if best or answers.given.get("data"):
        data = answers.settle("data", "the texts with labels", best, answers.data)
        if not data.classes:
            raise UsageError(
                f"{data.file}: {data.label} has more than 20 different values",
                hint="name a file whose labels are few, or use --kind prompt",
            )
    rules = starting.rules_for(seen, data)
    if rules or answers.given.get("edit"):
        rules = answers.settle("edit", "the rules, one a line", rules, answers.file)
    return starting.rules_texts(file, seen.folder, data, rules)


def _prompt(answers: Answers, file: str) -> dict[str, str]:
    seen = answers.seen
    prompt = next(iter(seen.prompts), None)
    prompt = answers.settle("edit", "the prompt", prompt, answers.file)
    data = next((each.file for each in seen.data), None)
    found = answers.settle("data", "the questions with answers", data, answers.data)
    agent = answers.settle("agent", "the agent", agent_here() or None, _agent)
    answers.use(agent)
    answers.notes.append(f"{agent} answers each item and edits the prompt: it has to be here")
    return starting.prompt_texts(file, seen.folder, found, prompt, agent)


def _class(answers: Answers, file: str) -> dict[str, str]:
    texts = starting.class_texts(file, answers.seen.folder)
    answers.used.add(starting.THRESHOLD)
    return texts


def _measured(answers: Answers) -> tuple[TaskOptions, str | None]:
    """The options of the command that measures, and the direction of its metric."""
    scripts = answers.seen.programs or answers.seen.tests
    default = scripts[0].command if scripts else None
    measured = answers.settle(
        "eval", "the command that measures", default, answers.measure, is_needed=True
    )
    task = replace(answers.task, eval=measured.command)
    metrics = measured.metrics
    if not metrics:
        answers.notes.append(f"`{measured.command}` prints no number: its exit code decides")
        return task, None
    for number, (name, value) in enumerate(metrics.items(), 1):
        answers.say(f"  {number} {name} = {value:g}")

    def chosen(text: str) -> tuple[str, str]:
        words = text.split()
        mode = words.pop() if words[-1:] in (["min"], ["max"]) else answers.given.get("mode")
        name = " ".join(words)
        if name.isdigit() and 1 <= int(name) <= len(metrics):
            name = list(metrics)[int(name) - 1]
        if name not in metrics:
            raise UsageError(f"no metric {name!r}", hint=f"it prints {', '.join(metrics)}")
        if mode is None and answers.is_asking:
            raise UsageError("no direction", hint=f"{name} min if less is better, or {name} max")
        if mode is None and sounds_like_cost(name):
            hint = "add --mode min where less is better, --mode max where more is"
            raise UsageError(f"{name} sounds like a cost, and has no direction", hint=hint)
        return name, str(mode or "max")

    first = next(iter(metrics))
    if answers.is_asking:
        first += " min" if sounds_like_cost(first) else " max"
    question = "the metric, and min or max"
    metric, mode = answers.settle("metric", question, first, chosen, is_needed=len(metrics) > 1)
    if metric == "accuracy" and measured.has_accuracy:
        return task, None  # of the items: it is no number of the output
    return replace(task, metric=metric), mode


def _command(answers: Answers, file: str) -> dict[str, str]:
    task, mode = _measured(answers)
    globs = answers.seen.sources
    edit = answers.settle("edit", "the files that may change", globs, answers.globs, is_needed=True)
    for name in starting.edited_files(answers.seen, edit) & answers.seen.named_in(task.eval or ""):
        answers.notes.append(f"{name} measures, and may be edited: leave it out by GLOB:!{name}")
    agent = str(answers.given.get("agent") or agent_here())
    if not agent and answers.is_asking:
        agent = "claude-code"
        answers.notes.append("no agent is here: install Claude Code, or init with --agent")
    agent = agent or answers.settle("agent", "the one who edits", None, str)
    answers.use(agent)
    check_agent(agent, None)
    task = replace(
        task, edit=edit, agent=agent, guard=answers.guard(task.eval or "", with_tests=True)
    )
    goal = answers.given.get("goal")
    return {file: written(task, answers.seen.folder, mode, goal)}


def _numbers(answers: Answers, file: str) -> dict[str, str]:
    task, mode = _measured(answers)
    knobs = [knob.spec() for knob in answers.seen.best_knobs]
    tune = answers.settle(
        "tune", "the numbers with their ranges", knobs, answers.tunes, is_needed=True
    )
    if importlib.util.find_spec("optuna") is None:
        answers.notes.append("optuna searches: pip install 'autopilot[optuna]'")
    task = replace(task, tune=tune, guard=answers.guard(task.eval or "", with_tests=False))
    return {file: written(task, answers.seen.folder, mode)}


_WRITERS: dict[str, Callable[[Answers, str], dict[str, str]]] = {
    "command": _command,
    "numbers": _numbers,
    "rules": _rules,
    "prompt": _prompt,
    "class": _class,
}
