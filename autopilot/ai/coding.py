"""Programs on the command line as agents: any one, those that are known, and Claude Code."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, Field

from autopilot.ai.agent import Agent, AgentContext, AgentResult
from autopilot.ai.model.failures import one_line, service_error
from autopilot.ai.model.parallel import RateLimit
from autopilot.core.parameter import PathParameter
from autopilot.errors import (
    AgentError,
    AgentNotFoundError,
    AgentRefusedError,
    AgentReplyError,
    KeyRefusedError,
    ModelCallError,
    NoCreditError,
    UsageError,
)
from autopilot.sandbox.programs import Finished, called, run_process
from autopilot.text import clean, hide, redact

_PROMPT_FILE = "{prompt_file}"
_NOT_FOUND = 127
# Where there is no status, words alone tell an outage or a missing key from a failed edit.
_CAUSES: tuple[tuple[re.Pattern[str], type[AgentError]], ...] = (
    (re.compile(r"usage limit|quota|billing|credit balance", re.I), NoCreditError),
    (re.compile(r"api.?key|unauthorized|authentication|\b401\b", re.I), KeyRefusedError),
    (re.compile(r"rate.?limit|too many requests|overloaded|disconnected", re.I), ModelCallError),
)
_SPECIAL = re.compile(r"[\\\[\]*?]")


class CommandAgent(Agent):
    """Any other coding program: it reads the prompt, edits in the working directory, and answers.

    Override `command_line` and `read` for a program whose arguments depend on the context, or whose
    output is more than its answer.

    Args:
        command: The program and its arguments. "{prompt_file}" is replaced by a file with the
            prompt; without it the prompt goes in on stdin.
        timeout_s: After that it is ended, with all processes that it started.
        rate: A RateLimit to keep.

    >>> CommandAgent(["cat"]).run("make it shorter").output
    'make it shorter'
    """

    # How to get the program, and how to find out why it fails: for hints.
    _install: ClassVar[str] = ""
    _by_hand: ClassVar[str] = "run it by hand in the same folder"

    def __init__(
        self, command: Sequence[str], *, timeout_s: float = 900.0, rate: RateLimit | None = None
    ) -> None:
        if isinstance(command, str) or not command:
            raise ValueError(f"command is a list of the program and its arguments, not {command!r}")
        self.command = tuple(command)
        self.timeout_s = timeout_s
        self.rate = rate

    def command_line(self, context: AgentContext) -> list[str]:
        """The program and its arguments."""
        return list(self.command)

    def read(self, finished: Finished) -> AgentResult:
        """The answer of the program that ended.

        Raises:
            AgentError: it failed; the hint says how to go on.
        """
        if self._name() == "sh" and finished.code == _NOT_FOUND:
            hint = "correct the agent's command, or install the program"
            raise AgentNotFoundError(f"the shell says: {finished.tail()}", hint=hint)
        if finished.code != 0:
            raise AgentError(
                f"{called(self.command)} {finished.end}: {finished.tail()}", hint=self._by_hand
            )
        return AgentResult(output=finished.stdout.strip(), seconds=finished.seconds)

    def _asked(self, prompt: str, context: AgentContext) -> dict[str, Any]:
        # The name only: the program's folder differs from one machine to the next.
        line = [self._name(), *self.command[1:]]
        return {"agent": line, "prompt": self._whole(prompt, context)}

    def _name(self) -> str:
        return Path(self.command[0]).name

    def _whole(self, prompt: str, context: AgentContext) -> str:
        """The text that the program gets."""
        return f"{context.system}\n\n{prompt}" if context.system else prompt

    def _run(self, prompt: str, context: AgentContext) -> AgentResult:
        line, prompt = self.command_line(context), self._whole(prompt, context)
        hint = self._install or f"install {line[0]}, or give its full path"
        # Outside of the working directory, where the agent's edits are looked for.
        with tempfile.TemporaryDirectory(prefix="autopilot-") as place:
            if any(_PROMPT_FILE in part for part in line):
                file = Path(place, "prompt.md")
                file.write_text(clean(prompt), encoding="utf-8")
                line, prompt = [part.replace(_PROMPT_FILE, str(file)) for part in line], ""
            return self.read(
                run_process(
                    line, stdin=prompt, folder=context.folder, timeout_s=self.timeout_s, hint=hint
                )
            )


class ToolAgent(CommandAgent):
    """A coding tool whose arguments and output are known. Subclasses define `program`, the class
    attributes below it, `command_line` and `read`.

    Args:
        model: The model's name; None: the program's own choice.
        extra_args: Further options of the program, a part of a call's name.
        timeout_s: After that it is ended, with all processes that it started.
        command: The program, if it is not found by its name.
        rate: A RateLimit to keep.

    Attributes:
        program: Its name.
        own: The options that the class sets, separated by spaces, and the arguments to give in
            their place.

    Raises:
        UsageError: one of its own options is given, or a text in place of a list.
    """

    program: ClassVar[str]
    own: ClassVar[Mapping[str, str]]
    _update: ClassVar[str]  # the command that updates it

    def __init__(
        self,
        model: str | None = None,
        *,
        extra_args: Sequence[str] = (),
        timeout_s: float = 900.0,
        command: str = "",
        rate: RateLimit | None = None,
    ) -> None:
        super().__init__([command or self.program], timeout_s=timeout_s, rate=rate)
        if isinstance(extra_args, str):
            raise UsageError(
                f"extra_args is a list of arguments, not {extra_args!r}",
                hint=f"write {extra_args.split()}",
            )
        for option in (argument.partition("=")[0] for argument in extra_args):
            for names, instead in self.own.items():
                if option in names.split():
                    raise UsageError(
                        f"extra_args: {type(self).__name__} sets {option} itself",
                        hint=f"give the agent {instead}" if instead else "leave it out",
                    )
        self.model = model
        self.extra_args = tuple(extra_args)

    def _asked(self, prompt: str, context: AgentContext) -> dict[str, Any]:
        asked = super()._asked(prompt, context)
        given = {"model": self.model, "arguments": list(self.extra_args) or None}
        return {**asked, "agent": self.program, **given, "session": context.session_id or None}

    def _name(self) -> str:
        return self.model or self.program

    def _chosen(self) -> list[str]:
        """The arguments for the model, and the further ones."""
        return [*(["--model", self.model] if self.model else []), *self.extra_args]

    def _is_set(self, *options: str) -> bool:
        return any(argument.partition("=")[0] in options for argument in self.extra_args)

    def _failed(self, finished: Finished, why: str = "") -> AgentError:
        said = one_line(why) if why.strip() else finished.tail()
        kind = next((kind for words, kind in _CAUSES if words.search(said)), AgentError)
        return kind(f"{self.program} {finished.end}: {said}", hint=self._by_hand)

    def _unreadable(self, finished: Finished, form: str = "JSON") -> AgentReplyError:
        return AgentReplyError(
            f"{self.program} answered with something other than {form}: {finished.tail()}",
            hint=f"update it: {self._update}",
            reply=redact(finished.stdout),
        )


class ClaudeCodeAgent(ToolAgent):
    """Claude Code in print mode: it may read any file, and edits the context's parameters.

    Nothing is started before `run`, so the object can be made without Claude Code installed.

    Args:
        model: A model's name or alias; None: the program's own choice.
        allowed_tools: Tools that it may use without asking (in print mode it cannot ask), beside
            editing the parameters' files, which each run allows by their paths.
        permission_mode: "default" refuses other tools; "acceptEdits" lets it edit every file of the
            working directory, "plan" none.
        system: Appended to its own system prompt.
        timeout_s: After that it is ended, with all processes that it started.
        max_cost_usd: The largest cost of one run in dollars, and never more than is left of a
            dollar budget. Without it, runs side by side wait for one another under such a budget.
            Claude Code checks it after each turn.
        command: The program.
        extra_args: Further options of the program, each a part of a call's name: "--effort",
            "high", "--bare". Those that are set here are refused.
        rate: A RateLimit to keep.

    >>> ClaudeCodeAgent(model="opus").command_line(AgentContext(session_id="s1"))[-2:]
    ['--resume', 's1']
    """

    program = "claude"
    own: ClassVar = {
        "--print -p --output-format --input-format --json-schema": "",
        "--model": "model=",
        "--allowedTools --allowed-tools": "allowed_tools=",
        "--permission-mode": "permission_mode=",
        "--append-system-prompt": "system=",
        "--max-budget-usd": "max_cost_usd=",
        "--resume -r --continue -c --session-id": "AgentContext(session_id=)",
    }
    _install = "npm install -g @anthropic-ai/claude-code, then: claude login"
    _update = "claude update"
    _by_hand = "try it by hand: claude --print hello"

    def __init__(
        self,
        model: str | None = None,
        *,
        allowed_tools: Sequence[str] = ("Read", "Glob", "Grep"),
        permission_mode: str = "default",
        system: str = "",
        timeout_s: float = 900.0,
        max_cost_usd: float = math.inf,
        command: str = "claude",
        extra_args: Sequence[str] = (),
        rate: RateLimit | None = None,
    ) -> None:
        super().__init__(
            model, extra_args=extra_args, timeout_s=timeout_s, command=command, rate=rate
        )
        self.allowed_tools = tuple(allowed_tools)
        self.permission_mode = permission_mode
        self.system = system
        self.max_cost_usd = max_cost_usd

    def command_line(self, context: AgentContext) -> list[str]:
        """The program and its arguments; the prompt goes in on stdin."""
        line = [*self.command, "--print", *self.extra_args]
        allowed = [*self.allowed_tools, *_edit_rules(context.parameters)]
        if allowed:
            line += ["--allowedTools", *allowed]
        # In this order: the list of tools ends at the next option.
        line += ["--permission-mode", self.permission_mode, "--output-format", "json"]
        if self.model:
            line += ["--model", self.model]
        if math.isfinite(context.most_usd):
            line += ["--max-budget-usd", f"{context.most_usd:.4f}"]
        if system := self._system(context):
            line += ["--append-system-prompt", clean(system)]
        if context.session_id:
            line += ["--resume", context.session_id]
        return line

    def _system(self, context: AgentContext) -> str:
        return "\n\n".join(part for part in (self.system, context.system) if part)

    def _asked(self, prompt: str, context: AgentContext) -> dict[str, Any]:
        return {
            "agent": "claude",
            "model": self.model or "",
            "system": self._system(context),
            "session": context.session_id,
            # Without them: the name that such a call has in older records.
            "arguments": list(self.extra_args) or None,
            "prompt": prompt,
        }

    def _whole(self, prompt: str, context: AgentContext) -> str:
        return prompt

    def read(self, finished: Finished) -> AgentResult:
        lines = [line for line in finished.stdout.splitlines() if line.strip()]
        try:
            value = clean(json.loads(lines[-1] if lines else ""))
            reply = _ClaudeReply.model_validate(value[-1] if isinstance(value, list) else value)
        except (ValueError, IndexError) as error:
            failed = finished.code != 0
            raise (self._failed(finished) if failed else self._unreadable(finished)) from error
        used = reply.usage
        read = used.input_tokens + used.cache_creation_input_tokens + used.cache_read_input_tokens
        result = AgentResult(
            output=hide(reply.result),
            session_id=reply.session_id,
            input_tokens=read,
            output_tokens=used.output_tokens,
            cost_usd=reply.total_cost_usd,
            seconds=finished.seconds,
            model=next(iter(reply.modelUsage), ""),
        )
        try:
            self._check(reply, finished)
        except AgentError as error:
            # A useless answer is paid too.
            error.cost = result.cost if result.cost_usd is not None else None
            raise
        return result

    def _check(self, reply: _ClaudeReply, finished: Finished) -> None:
        text = reply.result.strip() or "; ".join(reply.errors) or finished.stderr.strip()
        said = one_line(text)
        if reply.stop_reason == "refusal" or (reply.is_error and "usage policy" in said.lower()):
            raise AgentRefusedError(
                f"claude refused: {said}", hint="look at what the prompt and the items ask for"
            )
        if reply.is_error and reply.api_error_status:
            raise service_error("claude", reply.api_error_status, text or said, self._by_hand)
        if reply.is_error or finished.code != 0:
            # Its errors have a type of their own, but for those that it says in the result.
            kind = reply.subtype if reply.subtype != "success" else ""
            kind = kind or (f"code {finished.code}" if finished.code else "")
            raise AgentError(
                f"claude failed{f' ({kind})' if kind else ''}: {said}", hint=self._by_hand
            )


def _edit_rules(parameters: Sequence[PathParameter]) -> list[str]:
    """Claude Code's rules that allow edits of the parameters' files, by their absolute paths."""
    rules = []
    for parameter in parameters:
        source = parameter.source
        found = dict.fromkeys([str(source), os.path.realpath(source)])
        # The names of the user's folders are no patterns, and a ")" would end the rule.
        paths = [_SPECIAL.sub(r"\\\g<0>", path).replace(")", "?") for path in found]
        # Edits of excluded files are undone.
        end = "" if parameter.is_file else f"/{parameter.pattern.partition(':!')[0]}"
        rules += [f"Edit(/{path}{end})" for path in paths]
    return rules


class _ReportedUsage(BaseModel):
    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0


class _ClaudeReply(BaseModel):
    """The last line of `claude --print --output-format json`."""

    result: str = ""
    is_error: bool = False
    subtype: str = ""
    api_error_status: int | None = None
    stop_reason: str | None = None
    session_id: str = ""
    total_cost_usd: float | None = None
    errors: Sequence[str] = ()
    usage: _ReportedUsage = Field(default_factory=_ReportedUsage)
    modelUsage: Mapping[str, Any] = Field(default_factory=dict)  # as the program spells it
