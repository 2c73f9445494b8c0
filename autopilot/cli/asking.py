"""The answers to what a command has to know: options, a person's, or what a repository offers."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from autopilot.cli.output import Output
from autopilot.command.options import TaskOptions
from autopilot.command.shell import Numbers, measure_once, run_once
from autopilot.errors import AutopilotError, UsageError
from autopilot.projects import starting
from autopilot.projects.datasets import LabelledFile, labelled
from autopilot.projects.health import agent_here
from autopilot.projects.looking import Survey
from autopilot.tuning.parameter import config_parameters

T = TypeVar("T")
_LONGEST_S, _QUICK_S = 600.0, 60.0
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
    "agent": "claude-code, anthropic, litellm, codex, gemini, aider, or 'cmd:PROGRAM'",
}


class Answers:
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
            self.say(f"  {number} {name:<8} {text}")
            if name in fitting:
                self.say(f"             here: {fitting[name]}")
        given = [name for name, value in self.given.items() if value and name != "kind"]
        # The first that fits both; options may say more than the files do.
        best = next((each for each in [*fitting, *_FITS] if {*given} <= {*_FITS[each]}), "class")
        kind = self.settle("kind", "which kind of system", best, _kind, is_needed=True)
        fits = _FITS[kind]
        if unfit := [name for name in given if name not in fits]:
            taken = ", ".join(f"--{name}" for name in fits) or "no other option"
            raise UsageError(
                f"--{unfit[0]} does not go with --kind {kind}", hint=f"it takes {taken}"
            )
        return kind

    def settle(
        self,
        option: str,
        question: str,
        default: str | Sequence[str] | None,
        check: Callable[[str], T],
        *,
        is_needed: bool = False,
    ) -> T:
        """One answer, checked; a person is asked until it holds.

        Args:
            default: What Enter takes; several are one answer, with spaces between them.
            is_needed: Where nothing is asked, the option has to be given.

        Raises:
            UsageError: the option is wrong, or missing.
        """
        given, text = _one_text(self.given.get(option)), _one_text(default)
        if given:
            return check(given)
        while self.is_asking:
            answer = self._output.ask(f"{question} [{text}]:" if text else f"{question}:")
            try:
                return check(answer or text)
            except AutopilotError as error:
                self._output.line(f"{error.message}; {error.hint}")
        if not text or is_needed:
            words = [default] if isinstance(default, str) else default or ()
            examples = [shlex.quote(word) for word in words] or [_EXAMPLES[option]]
            hint = " ".join(f"--{option} {example}" for example in examples)
            raise UsageError(f"--{option} is missing: {question}", hint=hint)
        return check(text)

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

    def measure(self, command: str) -> Numbers:
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
        limit_s = _LONGEST_S if given else _QUICK_S
        self._output.line(f"running `{command}` once, for {limit_s:g} s at most ...")
        ran = run_once(command, self.seen.folder, limit_s)
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
        with contextlib.chdir(self.seen.folder):
            tuned = config_parameters(tunes)
        for parameter in tuned:
            self.file(parameter.label)
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


def _one_text(value: str | Sequence[str] | None) -> str:
    return value if isinstance(value, str) else shlex.join(value or ())


def _kind(text: str) -> str:
    kinds = list(starting.KINDS)
    if text.isdigit() and 1 <= int(text) <= len(kinds):
        return kinds[int(text) - 1]
    if text not in kinds:
        raise UsageError(f"{text!r} is no kind", hint=f"they are: {', '.join(kinds)}")
    return text
