"""`autopilot init`: looks at the repository, asks little, and writes a file that runs at once."""

from __future__ import annotations

import contextlib
import importlib.util
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from autopilot.cli.context import Context
from autopilot.cli.output import Output
from autopilot.command.once import Measured, measure_once, run_once
from autopilot.command.options import TaskOptions, check_agent, read_goal
from autopilot.command.writing import written
from autopilot.core.figures import sounds_like_cost
from autopilot.engine.request import Direction
from autopilot.errors import AutopilotError, UsageError
from autopilot.projects import starting
from autopilot.projects.datasets import LabelledFile, labelled
from autopilot.projects.health import agent_here
from autopilot.projects.looking import Survey, survey
from autopilot.text import counted

T = TypeVar("T")
_LONGEST_S, _QUICK_S = 600.0, 60.0
Kind = StrEnum("Kind", "command numbers rules prompt class")
_FITS = {
    "command": ("eval", "metric", "mode", "edit", "agent", "guard", "goal"),
    "numbers": ("eval", "metric", "mode", "tune", "guard"),
    "rules": ("data", "edit"),
    "prompt": ("data", "edit", "agent"),
    "class": (),
}
_EXAMPLES = {
    "eval": "'python bench.py'",
    "tune": "'config.toml:cache.size=16..4096'",
    "edit": "prompt.md, or 'src/**/*.py'",
    "data": 'items.jsonl, with lines such as {"text": "2 + 2", "answer": "4"}',
    "agent": "claude-code, anthropic (with a key), or 'cmd:PROGRAM'",
}


def init(
    context: Context,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="The Python file to write.")
    ] = "optimize.py",
    *,
    kind: Annotated[
        Kind | None, typer.Option(help="The kind of system; asked for if not given.")
    ] = None,
    task: Annotated[TaskOptions, "eval", "metric", "edit", "tune", "guard", "agent", "goal"],
    mode: Annotated[
        Direction | None, typer.Option(help="Of the metric: whether more or less is better.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Texts with labels or answers: JSON Lines, CSV or TSV."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print FILE instead of writing it.")
    ] = False,
) -> None:
    """Look at the repository, and write what to run.

    It asks four questions at most; with an option, none. FILE is a class that `autopilot run FILE`
    takes at once. Nothing else is written, but a small file of rules or data where there is none.

    \b
    autopilot init
    autopilot init --kind rules --data tickets.csv
    autopilot init --kind prompt --edit prompt.md --data questions.jsonl --agent claude-code
    """
    folder, output = context.working_folder(), context.output
    context.repository()  # refuses what no run could work in
    if not file.endswith(".py"):
        raise UsageError(f"{file} is no Python file", hint="name it, such as optimize.py")
    given: dict[str, Any] = {"kind": kind and kind.value, "mode": mode and mode.value, "data": data}
    given = {**given, **task.given()}
    seen = survey(folder)
    output.line(f"{folder.name}: {counted(len(seen.files), 'file')}")
    output.lines(seen.lines())
    answers = _Answers(seen, output, task, given)
    chosen = answers.kind()
    texts = _WRITERS[chosen](answers, file)
    if dry_run:
        output.lines(texts[file].splitlines())
    else:
        _write(folder, texts, file, force=force)
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
        {
            "kind": chosen,
            "file": file,
            "text": texts[file],
            "written": [] if dry_run else list(texts),
            "next": commands,
            "seen": seen.facts(),
        }
    )


def _write(folder: Path, texts: Mapping[str, str], file: str, *, force: bool) -> None:
    """Writes all files, or none of them."""
    place = (folder / file).parent
    if not place.is_dir():
        raise UsageError(f"there is no folder {place}", hint="make it, or name another FILE")
    if (folder / file).exists() and not force:
        raise UsageError(
            f"{file} is there already", hint="name another FILE, or overwrite it with --force"
        )
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


class _Answers:
    """The answers that a file is written from: options, a person's, or what was seen.

    Attributes:
        used: Files that a run needs.
        notes: What to know of the file.
    """

    def __init__(
        self, seen: Survey, output: Output, task: TaskOptions, given: Mapping[str, Any]
    ) -> None:
        self.seen, self.task, self.given = seen, task, given
        self.used: set[str] = set()
        self.notes: list[str] = []
        self.is_asking = output.can_ask and not any(given.values())
        self._output = output

    def say(self, text: str) -> None:
        """A line for a person who is asked."""
        if self.is_asking:
            self._output.line(text)

    def kind(self) -> str:
        """The kind of system."""
        fitting = starting.fitting(self.seen, agent_here())
        self.say("What is to be improved, and how?")
        for number, (name, text) in enumerate(starting.KINDS.items(), 1):
            why = f"; here: {fitting[name]}" if name in fitting else ""
            self.say(f"  {number} {name:<8} {text}{why}")
        kind = self.settle("kind", "the kind", next(iter(fitting)), _kind, is_needed=True)
        fits = _FITS[kind]
        unfit = [name for name, value in self.given.items() if value and name not in fits]
        if unfit := [name for name in unfit if name != "kind"]:
            taken = ", ".join(f"--{name}" for name in fits) or "no other option"
            raise UsageError(
                f"--{unfit[0]} does not go with --kind {kind}", hint=f"it takes {taken}"
            )
        return kind

    def settle(
        self,
        option: str,
        question: str,
        default: str | None,
        check: Callable[[str], T],
        *,
        is_needed: bool = False,
    ) -> T:
        """One answer, checked; a person is asked until it holds.

        Args:
            default: What Enter takes.
            is_needed: Where nothing is asked, the option has to be given.

        Raises:
            UsageError: the option is wrong, or missing.
        """
        given = self.given.get(option)
        if given:
            return check(given if isinstance(given, str) else shlex.join(given))
        while self.is_asking:
            answer = self._output.ask(f"{question} [{default}]:" if default else f"{question}:")
            try:
                return check(answer or default or "")
            except AutopilotError as error:
                self._output.line(f"{error.message}; {error.hint}")
        if default is None or is_needed:
            example = _EXAMPLES[option] if default is None else shlex.quote(default)
            raise UsageError(f"--{option} is missing, {question}", hint=f"--{option} {example}")
        return check(default)

    def file(self, name: str) -> str:
        """A text file of the repository.

        Raises:
            UsageError: there is none of that name, or git ignores it.
        """
        if name not in self.seen.files:
            why = "git ignores it" if (self.seen.folder / name).exists() else "no such file"
            raise UsageError(f"{name or 'nothing'}: {why}", hint="name a file that git tracks")
        self.used.add(name)
        return name

    def measure(self, command: str) -> Measured:
        """The metrics that a command prints; it is run once."""
        self._output.line(f"running `{command}` once ...")
        is_test = any(command == script.command for script in self.seen.tests)
        measured = measure_once(command, self.seen.folder, _LONGEST_S, may_fail=is_test)
        self.use(command)
        return measured

    def guard(self, measuring: str, *, with_tests: bool) -> str | None:
        """The command that has to pass: the one that is given, or else tests that pass now.

        Args:
            with_tests: Takes the tests where none is given, and a person is asked.

        Raises:
            UsageError: the one that is given fails.
        """
        given = self.task.guard
        is_sought = with_tests and self.is_asking
        tests = [script.command for script in self.seen.tests if is_sought]
        command = given or next(iter(tests), measuring)
        if command == measuring:
            return None
        self._output.line(f"running `{command}` once ...")
        ran = run_once(command, self.seen.folder, _LONGEST_S if given else _QUICK_S)
        if not ran.problem():
            self.use(command)
            self.notes.append(f"{ran.name} has to pass, or an edit is not measured")
            return command
        if given:
            hint = "it has to pass before anything is changed"
            raise UsageError(f"--guard {ran.name} {ran.explained()}", hint=hint)
        self.notes.append(f"the tests are no guard: {ran.name} {ran.problem()}")
        return None

    def globs(self, text: str) -> list[str]:
        """Globs, each of which has files of the repository."""
        globs = shlex.split(text)
        self.used |= starting.edited_files(self.seen, globs)
        return globs

    def tunes(self, text: str) -> list[str]:
        """Numbers with their ranges, each in a file of the repository."""
        tunes = shlex.split(text)
        for file in starting.tuned_files(self.seen, tunes):
            self.file(file)
        return tunes

    def use(self, command: str) -> None:
        """Notes the files that a command needs."""
        self.used |= self.seen.needed_by(command)

    def data(self, name: str) -> LabelledFile:
        """A data file with a text and something expected in each row."""
        if (found := labelled(self.seen.folder, self.file(name))) is None:
            raise UsageError(
                f"{name} has no rows with a text and a label",
                hint='write such: {"text": "where is my parcel", "label": "delivery"}',
            )
        return found


def _kind(text: str) -> str:
    kinds = list(starting.KINDS)
    if text.isdigit() and 1 <= int(text) <= len(kinds):
        return kinds[int(text) - 1]
    if text not in kinds:
        raise UsageError(f"{text!r} is no kind", hint=f"they are: {', '.join(kinds)}")
    return text


def _agent(text: str) -> str:
    check_agent(text, None)
    return text


def _rules(answers: _Answers, file: str) -> dict[str, str]:
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


def _prompt(answers: _Answers, file: str) -> dict[str, str]:
    seen = answers.seen
    prompt = next(iter(seen.prompts), None)
    prompt = answers.settle("edit", "the prompt", prompt, answers.file)
    data = next((each.file for each in seen.data), None)
    found = answers.settle("data", "the questions with answers", data, answers.data)
    agent = answers.settle("agent", "the agent", agent_here() or None, _agent)
    answers.use(agent)
    answers.notes.append(f"{agent} answers each item and edits the prompt: it has to be here")
    return starting.prompt_texts(file, seen.folder, found, prompt, agent)


def _class(answers: _Answers, file: str) -> dict[str, str]:
    return starting.class_texts(file, answers.seen.folder)


def _measured(answers: _Answers) -> tuple[TaskOptions, str | None]:
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


def _module(answers: _Answers, task: TaskOptions, mode: str | None) -> str:
    folder = answers.seen.folder
    task.hparams(folder)  # checks that they go together
    with contextlib.chdir(folder):
        return written(replace(task, goal=read_goal(task.goal, folder)), mode)


def _command(answers: _Answers, file: str) -> dict[str, str]:
    task, mode = _measured(answers)
    globs = shlex.join(answers.seen.sources) or None
    edit = answers.settle("edit", "the files that may change", globs, answers.globs, is_needed=True)
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
    return {file: _module(answers, task, mode)}


def _numbers(answers: _Answers, file: str) -> dict[str, str]:
    task, mode = _measured(answers)
    knobs = shlex.join(knob.spec() for knob in answers.seen.best_knobs) or None
    tune = answers.settle(
        "tune", "the numbers with their ranges", knobs, answers.tunes, is_needed=True
    )
    if importlib.util.find_spec("optuna") is None:
        answers.notes.append("optuna searches: pip install 'autopilot[optuna]'")
    task = replace(task, tune=tune, guard=answers.guard(task.eval or "", with_tests=False))
    return {file: _module(answers, task, mode)}


_WRITERS: dict[str, Callable[[_Answers, str], dict[str, str]]] = {
    "command": _command,
    "numbers": _numbers,
    "rules": _rules,
    "prompt": _prompt,
    "class": _class,
}
