"""Coding tools on the command line as agents: Claude Code, and any other."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from autopilot.ai.agent import Agent, AgentContext, AgentResult
from autopilot.ai.model.failures import service_error
from autopilot.ai.model.parallel import RateLimit
from autopilot.core.parameter import PathParameter
from autopilot.errors import (
    AgentError,
    AgentNotFoundError,
    AgentRefusedError,
    AgentReplyError,
    UsageError,
)
from autopilot.sandbox.programs import Finished, called, run_process
from autopilot.text import clean, hide, redact

_PROMPT_FILE = "{prompt_file}"
_BY_HAND = "try it by hand: claude --print hello"
_NOT_FOUND = 127
_SPECIAL = re.compile(r"[\\\[\]*?]")
# The options that ClaudeCodeAgent sets, and what to give in their place.
_OWN = {
    "--print -p --output-format --input-format --json-schema": "",
    "--model": "model=",
    "--allowedTools --allowed-tools": "allowed_tools=",
    "--permission-mode": "permission_mode=",
    "--append-system-prompt": "system=",
    "--max-budget-usd": "max_cost_usd=",
    "--resume -r --continue -c --session-id": "AgentContext(session_id=)",
}


class ClaudeCodeAgent(Agent):
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
        self.model = model
        self.allowed_tools = tuple(allowed_tools)
        self.permission_mode = permission_mode
        self.system = system
        self.timeout_s = timeout_s
        self.max_cost_usd = max_cost_usd
        self.command = command
        self.extra_args = checked_options("ClaudeCodeAgent", extra_args, _OWN)
        self.rate = rate

    def command_line(self, context: AgentContext, cost_usd: float = math.inf) -> list[str]:
        """The program and its arguments; the prompt goes in on stdin.

        Args:
            context: The run's context.
            cost_usd: The largest cost in dollars.
        """
        line = [self.command, "--print", *self.extra_args]
        allowed = [*self.allowed_tools, *_edit_rules(context.parameters)]
        if allowed:
            line += ["--allowedTools", *allowed]
        # In this order: the list of tools ends at the next option.
        line += ["--permission-mode", self.permission_mode, "--output-format", "json"]
        if self.model:
            line += ["--model", self.model]
        if math.isfinite(cost_usd):
            line += ["--max-budget-usd", f"{cost_usd:.4f}"]
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

    def _run(self, prompt: str, context: AgentContext) -> AgentResult:
        finished = run_process(
            self.command_line(context, context.most_usd),
            stdin=prompt,
            folder=context.folder,
            timeout_s=self.timeout_s,
            hint="npm install -g @anthropic-ai/claude-code, then: claude login",
        )
        reply = _claude_reply(finished)
        result = _claude_result(reply, finished.seconds)
        try:
            _check_claude(reply, finished)
        except AgentError as error:
            # A useless answer is paid too.
            error.cost = result.cost if result.cost_usd is not None else None
            raise
        return result

    def _name(self) -> str:
        return self.model or "claude"


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

    def __init__(
        self,
        command: Sequence[str],
        *,
        timeout_s: float = 900.0,
        rate: RateLimit | None = None,
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
                f"{called(self.command)} {finished.end}: {finished.tail()}",
                hint="run it by hand in the same folder",
            )
        return AgentResult(output=finished.stdout.strip(), seconds=finished.seconds)

    def _asked(self, prompt: str, context: AgentContext) -> dict[str, Any]:
        # The name only: the program's folder differs from one machine to the next.
        line = [self._name(), *self.command[1:]]
        return {"agent": line, "prompt": _whole_prompt(prompt, context)}

    def _name(self) -> str:
        return Path(self.command[0]).name

    def _run(self, prompt: str, context: AgentContext) -> AgentResult:
        line, prompt = self.command_line(context), _whole_prompt(prompt, context)
        folder, timeout_s = context.folder, self.timeout_s
        hint = self._install or f"install {line[0]}, or give its full path"
        if not any(_PROMPT_FILE in part for part in line):
            return self.read(
                run_process(line, stdin=prompt, folder=folder, timeout_s=timeout_s, hint=hint)
            )
        # Outside of the working directory, where the agent's edits are looked for.
        with tempfile.TemporaryDirectory(prefix="autopilot-") as place:
            file = Path(place, "prompt.md")
            file.write_text(clean(prompt), encoding="utf-8")
            line = [part.replace(_PROMPT_FILE, str(file)) for part in line]
            return self.read(
                run_process(line, stdin="", folder=folder, timeout_s=timeout_s, hint=hint)
            )

    _install = ""


def checked_options(agent: str, given: Sequence[str], own: Mapping[str, str]) -> tuple[str, ...]:
    """Further options for a program.

    Args:
        agent: The agent's class.
        own: The options that the agent sets itself, separated by spaces, and the arguments to give
            in their place.

    Raises:
        UsageError: one of them is given, or a text in place of a list.
    """
    if isinstance(given, str):
        raise UsageError(
            f"extra_args is a list of arguments, not {given!r}", hint=f"write {given.split()}"
        )
    for argument in given:
        option = argument.partition("=")[0]
        for names, instead in own.items():
            if option in names.split():
                hint = f"give the agent {instead}" if instead else "leave it out"
                raise UsageError(f"extra_args: {agent} sets {option} itself", hint=hint)
    return tuple(given)


def _whole_prompt(prompt: str, context: AgentContext) -> str:
    return f"{context.system}\n\n{prompt}" if context.system else prompt


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


def _claude_reply(finished: Finished) -> _ClaudeReply:
    lines = [line for line in finished.stdout.splitlines() if line.strip()]
    try:
        value = clean(json.loads(lines[-1] if lines else ""))
        if isinstance(value, list):
            value = value[-1]
        return _ClaudeReply.model_validate(value)
    except (ValueError, ValidationError, IndexError) as error:
        if finished.code != 0:
            raise AgentError(f"claude {finished.end}: {finished.tail()}", hint=_BY_HAND) from error
        raise AgentReplyError(
            f"claude answered with something other than JSON: {finished.tail()}",
            hint="update it: claude update",
            reply=redact(finished.stdout),
        ) from error


def _claude_result(reply: _ClaudeReply, seconds: float) -> AgentResult:
    usage = reply.usage
    read = usage.input_tokens + usage.cache_creation_input_tokens + usage.cache_read_input_tokens
    return AgentResult(
        output=hide(reply.result),
        session_id=reply.session_id,
        input_tokens=read,
        output_tokens=usage.output_tokens,
        cost_usd=reply.total_cost_usd,
        seconds=seconds,
        model=next(iter(reply.modelUsage), ""),
    )


def _check_claude(reply: _ClaudeReply, finished: Finished) -> None:
    text = reply.result.strip() or "; ".join(reply.errors) or finished.stderr.strip()
    said = redact(" ".join(text.split()))[:300] or "it says no more"
    if reply.stop_reason == "refusal" or (reply.is_error and "usage policy" in said.lower()):
        raise AgentRefusedError(
            f"claude refused: {said}", hint="look at what the prompt and the items ask for"
        )
    if reply.is_error and reply.api_error_status:
        raise service_error("claude", reply.api_error_status, text or said, _BY_HAND)
    if reply.is_error or finished.code != 0:
        # Its errors have a type of their own, but for those that it says in the result.
        kind = reply.subtype if reply.subtype != "success" else ""
        kind = kind or (f"code {finished.code}" if finished.code else "")
        raise AgentError(f"claude failed{f' ({kind})' if kind else ''}: {said}", hint=_BY_HAND)
