"""Presets for coding tools on the command line: Codex, Gemini CLI and aider."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from autopilot.ai.agent import AgentContext, AgentResult
from autopilot.ai.coding import ToolAgent
from autopilot.sandbox.programs import Finished
from autopilot.text import clean


class CodexAgent(ToolAgent):
    """OpenAI's Codex, by `codex exec --json`: it may edit in the working directory.

    Its sandbox keeps commands in that directory and off the network; without parameters it only
    reads. Conversations are continued by `codex exec resume`. Tokens are counted, dollars are not
    known. Needs `npm install -g @openai/codex`, and a login or CODEX_API_KEY. Written after
    docs/exec.md of github.com/openai/codex, and `codex exec --help` and the output of 0.171.

    >>> CodexAgent("gpt-5-codex").command_line(AgentContext(session_id="t1"))[-3:]
    ['resume', 't1', '-']
    """

    program = "codex"
    own: ClassVar = {
        "exec --json --color --skip-git-repo-check -C --cd": "",
        "--model -m": "model=",
        "--output-last-message -o --output-schema --ephemeral": "",
        "resume --last": "AgentContext(session_id=)",
    }
    _update = "npm install -g @openai/codex"
    _install = f"{_update}, then: codex login"

    def __init__(self, model: str | None = None, **options: Any) -> None:
        super().__init__(model, **options)
        self._counted: dict[str, tuple[int, int]] = {}

    def command_line(self, context: AgentContext) -> list[str]:
        line = [*self.command, "exec", "--json", "--color", "never", "--skip-git-repo-check"]
        unconfined = "--dangerously-bypass-approvals-and-sandbox"
        if not self._is_set("--sandbox", "-s", "--approve-for-me", unconfined):
            line += ["--sandbox", "workspace-write" if context.parameters else "read-only"]
        line += self._chosen()
        if context.session_id:
            line += ["resume", context.session_id]
        return [*line, "-"]

    def read(self, finished: Finished) -> AgentResult:
        thread, said, failed, trouble, read, written = "", "", "", "", 0, 0
        for event in _events(finished.stdout):
            kind, item = event.get("type"), event.get("item") or {}
            if kind == "thread.started":
                thread = str(event.get("thread_id", ""))
            elif kind == "item.completed" and item.get("type") == "agent_message":
                said = str(item.get("text", ""))
            elif kind == "turn.completed":
                usage = event.get("usage") or {}
                read, written = _count(usage, "input_tokens"), _count(usage, "output_tokens")
            elif kind == "turn.failed":
                failed = str((event.get("error") or {}).get("message", "")) or "the turn failed"
            elif kind == "error":
                # Of an attempt that may be made again, too.
                trouble = str(event.get("message", ""))
        if failed or finished.code != 0:
            # A stack may follow the line that says it.
            lines = [failed, trouble, *_ERROR.findall(finished.stderr)]
            raise self._failed(finished, next(filter(None, lines), ""))
        if not thread:
            raise self._unreadable(finished, "its events")
        # Codex counts a whole conversation, with what was read and written before it was resumed.
        before = self._counted.get(thread, (0, 0))
        self._counted[thread] = (read, written)
        return AgentResult(
            output=said,
            session_id=thread,
            input_tokens=max(read - before[0], 0),
            output_tokens=max(written - before[1], 0),
            seconds=finished.seconds,
            model=self.model or "",
        )


class GeminiAgent(ToolAgent):
    """Google's Gemini CLI, by `gemini --output-format json`: it may use its editing tools.

    Other tools are refused, as nobody can allow them; without parameters it only reads.
    Conversations are continued by `--resume`. Tokens are counted, dollars are not known. Needs
    `npm install -g @google/gemini-cli`, and a login or GEMINI_API_KEY. Written after
    docs/cli/headless.md and docs/cli/session-management.md of the package, and `gemini --help` and
    the output of 0.61.

    >>> GeminiAgent("gemini-2.5-pro").command_line(AgentContext(session_id="s1"))[-2:]
    ['--resume', 's1']
    """

    program = "gemini"
    own: ClassVar = {
        "--output-format -o --prompt -p --prompt-interactive -i --skip-trust": "",
        "--model -m": "model=",
        "--resume -r --session-id --session-file": "AgentContext(session_id=)",
    }
    _update = "npm install -g @google/gemini-cli"
    _install = f"{_update}, then log in with: gemini"

    def command_line(self, context: AgentContext) -> list[str]:
        # A run's worktree is a new folder, which Gemini CLI would refuse as an untrusted one.
        line = [*self.command, "--output-format", "json", "--skip-trust"]
        if not self._is_set("--approval-mode", "--yolo", "-y"):
            line += ["--approval-mode", "auto_edit" if context.parameters else "default"]
        line += self._chosen()
        if context.session_id:
            line += ["--resume", context.session_id]
        return line

    def read(self, finished: Finished) -> AgentResult:
        # The object of an error is on stderr.
        reply = _last_object(finished.stdout) or _last_object(finished.stderr) or {}
        error = reply.get("error")
        if error or finished.code != 0:
            raise self._failed(finished, str((error or {}).get("message", "")))
        if "response" not in reply:
            raise self._unreadable(finished)
        models = (reply.get("stats") or {}).get("models") or {}
        counts = [model.get("tokens") or {} for model in models.values()]
        return AgentResult(
            output=str(reply["response"]),
            session_id=str(reply.get("session_id", "")),
            input_tokens=sum(_count(n, "prompt") + _count(n, "tool") for n in counts),
            output_tokens=sum(_count(n, "candidates") + _count(n, "thoughts") for n in counts),
            seconds=finished.seconds,
            model=self.model or next(iter(models), ""),
        )


class AiderAgent(ToolAgent):
    """aider, by `aider --message-file`: it edits the parameters' files, and says what it cost.

    It commits nothing, runs no commands, and leaves no files of its own; it continues no
    conversation. Tokens are as it rounds them. Needs `pip install aider-chat`, and its model's key.
    Written after docs/scripting.md and docs/config/options.md of the package, and the usage report
    of 0.86 (aider/coders/base_coder.py).

    >>> AiderAgent("gpt-4o").command_line(AgentContext())[-2:]
    ['--message-file', '{prompt_file}']
    """

    program = "aider"
    own: ClassVar = {
        "--message-file -f --message --msg -m --yes-always --yes --pretty --no-pretty": "",
        "--stream --no-stream --git --no-git --auto-commits --no-auto-commits --commit": "",
        "--chat-history-file --input-history-file --file --restore-chat-history": "",
        "--model": "model=",
    }
    _install = _update = "python -m pip install aider-chat"

    def command_line(self, context: AgentContext) -> list[str]:
        line = [*self.command, "--yes-always", "--no-git", "--no-auto-commits", "--no-stream"]
        line += ["--no-pretty", "--no-fancy-input", "--no-suggest-shell-commands"]
        line += ["--no-check-update", "--no-show-release-notes", "--no-detect-urls"]
        # Its notes would be files beside the parameters.
        line += ["--chat-history-file", os.devnull, "--input-history-file", os.devnull]
        line += ["--map-tokens", "0"]
        line += self._chosen()
        for file in context.files:
            line += ["--file", str(file)]
        return [*line, "--message-file", "{prompt_file}"]

    def read(self, finished: Finished) -> AgentResult:
        reports = _USAGE.findall(finished.stdout)
        # It ends with 0, too, where its model could not be asked.
        if finished.code != 0 or not reports:
            errors = _ERROR.findall(finished.stdout)
            raise self._failed(finished, errors[-1] if errors else "")
        spent = _SPENT.findall(finished.stdout)
        return AgentResult(
            output=_BANNER.sub("", finished.stdout).strip(),
            input_tokens=sum(_number(read) for read, _ in reports),
            output_tokens=sum(_number(written) for _, written in reports),
            cost_usd=float(spent[-1]) if spent else None,
            seconds=finished.seconds,
            model=self.model or "",
        )


# The lines that it begins with, up to an empty one.
_BANNER = re.compile(r"\A(?:.*\n)*?Aider v.*\n(?:.+\n)*")
_USAGE = re.compile(r"^Tokens: ([\d.]+k?) sent,.*?([\d.]+k?) received\.", re.MULTILINE)
_SPENT = re.compile(r"Cost: \$[\d.]+ message, \$([\d.]+) session\.")
_ERROR = re.compile(r"^.*error.*$", re.MULTILINE | re.IGNORECASE)


def _count(counts: Mapping[str, Any], name: str) -> int:
    return int(counts.get(name) or 0)


def _number(text: str) -> int:
    return round(float(text.removesuffix("k")) * (1000 if text.endswith("k") else 1))


def _events(text: str) -> Iterator[dict[str, Any]]:
    """The objects of JSON Lines."""
    for line in text.splitlines():
        try:
            value = clean(json.loads(line))
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


def _last_object(text: str) -> dict[str, Any] | None:
    """The object that a text ends with, which begins a line."""
    start = f"\n{text}".rfind("\n{")
    try:
        value = clean(json.loads(text[start:])) if start >= 0 else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
