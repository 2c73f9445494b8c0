"""The options of a run without Python, and what they must be."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path

from autopilot.core.signatures import option
from autopilot.errors import UsageError
from autopilot.text import as_json, flag, is_secret, plain_letters, redact

# Those that have a name, by their classes.
AGENTS = {
    "claude-code": "ClaudeCodeAgent",
    "anthropic": "AnthropicAgent",
    "litellm": "ModelAgent",
    "codex": "CodexAgent",
    "gemini": "GeminiAgent",
    "aider": "AiderAgent",
}
_AGENT_FORMS = (*AGENTS, "cmd:'PROGRAM ...'")
# Those that are arguments of a CommandModule; it has `mode` too.
OF_MODULE = (
    *("eval", "train_eval", "val_eval", "test_eval", "metric", "mode", "metric_regex"),
    *("junit", "guard", "setup", "env"),
)
_SUFFIX = re.compile(r"\.(py|sh|js|ts|rb|pl|R|jl|exs?)$")
_STARTERS = {"python", "python3", "env", "time", "exec", "sh", "bash", "uv", "run", "node", "npx"}


_NEEDS = {
    "agent": "edit",
    "protect": "edit",
    "model": "agent",
    "sampler": "tune",
    "metric_regex": "metric",
}


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """The options of a run without Python; None: not given."""

    edit: Sequence[str] | None = option(
        "The tracked files that may be edited; a file, a folder or a glob. May be repeated.",
        type=list[str],
        metavar="GLOB",
    )
    protect: Sequence[str] | None = option(
        "Files among those of --edit that stay as they are. May be repeated.",
        type=list[str],
        metavar="GLOB",
    )
    tune: Sequence[str] | None = option(
        "Searches values of a configuration file or of constants: "
        "'config.toml:cache.size=16..4096:log', 'flags.json:opt=O0|O1'. May be repeated.",
        type=list[str],
        metavar="FILE:KEY=VALUES",
    )
    sampler: str | None = option(
        "How --tune searches: tpe, unless given, cmaes, gp, random, grid or qmc.", metavar="NAME"
    )
    eval: str | None = option(
        "The command that measures; its output has the metrics (METRIC name=1.5, name: 1.5, or a "
        "JSON object on the last line), and the items if there are some.",
        metavar="CMD",
    )
    train_eval: str | None = option(
        "Measures the train split, before each step; without it the val results are the feedback.",
        metavar="CMD",
    )
    val_eval: str | None = option("The same as --eval.", metavar="CMD")
    test_eval: str | None = option("Measures the test split, once, at the end.", metavar="CMD")
    metric: str | None = option(
        "The metric that decides; if not given, the success of items or the exit code does.",
        metavar="NAME",
    )
    metric_regex: str | None = option(
        "Finds the metric in the output: its value is the first group.", metavar="REGEX"
    )
    junit: str | None = option(
        "A JUnit file that the command writes: each test is an item.", metavar="FILE"
    )
    guard: str | None = option(
        "Must end with exit code 0, or the state is rejected before it is measured.", metavar="CMD"
    )
    setup: str | None = option("Prepares a worktree, once, before --eval.", metavar="CMD")
    env: Sequence[str] | None = option(
        "NAME of a variable that --eval needs, or NAME=VALUE. May be repeated.",
        type=list[str],
        metavar="NAME",
    )
    agent: str | None = option(
        "Who edits: claude-code, anthropic, litellm, codex, gemini, aider, or cmd:'PROGRAM ...', "
        "which gets the prompt on stdin.",
        metavar="AGENT",
    )
    model: str | None = option("The agent's model; of litellm: PROVIDER/MODEL.", metavar="NAME")

    def given(self) -> dict[str, str | Sequence[str]]:
        """The options that were given, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def hparams(self, folder: Path, *, by_hand: bool = False) -> dict[str, str]:
        """The options as the manifest holds them, once they are checked.

        Args:
            folder: The working directory.
            by_hand: Somebody edits: there is no agent.

        Raises:
            UsageError: they contradict each other, one is missing, or one holds a secret.
        """
        given = self.given()
        for name in {"edit", "protect", "tune"} & given.keys():
            # A full path of the checkout is another one in a worktree, and in a clone.
            given[name] = [text.removeprefix(f"{folder}{os.sep}") for text in given[name]]
        self._check(by_hand=by_hand)
        for name, value in given.items():
            _refuse_secret(name, value)
        return {n: v if isinstance(v, str) else as_json(list(v)) for n, v in given.items()}

    def _check(self, *, by_hand: bool) -> None:
        if not (self.eval or self.val_eval):
            raise UsageError(
                f"{flag(next(iter(self.given())))} needs --eval",
                hint="--eval 'python bench.py': the command that measures",
            )
        if self.eval and self.val_eval:
            raise UsageError(
                "--eval and --val-eval are the same split", hint="leave one of them out"
            )
        if not (self.edit or self.tune):
            raise UsageError(
                "--eval needs --edit or --tune: what may change",
                hint="add --edit 'src/**/*.py', or --tune 'config.toml:cache.size=16..4096'",
            )
        if self.edit and not (self.agent or by_hand):
            raise UsageError(
                "--edit needs --agent: who edits", hint=f"add --agent {', or '.join(_AGENT_FORMS)}"
            )
        for name, needed in _NEEDS.items():
            if getattr(self, name) and not getattr(self, needed):
                raise UsageError(
                    f"{flag(name)} is of no use without --{needed}",
                    hint=f"add it, or leave out {flag(name)}",
                )
        if self.agent:
            check_agent(self.agent, self.model)

    @classmethod
    def of(cls, hparams: Mapping[str, str]) -> TaskOptions:
        """The options of a manifest.

        Raises:
            UsageError: there is no such option.
        """
        known = {field.name: field for field in fields(cls)}
        given: dict[str, str | list[str]] = {}
        for name, value in hparams.items():
            if name == "goal":
                continue  # of an earlier version; agents are told it all the same
            if name not in known:
                raise UsageError(f"-H {name}: there is no such argument", hint="see autopilot run")
            is_list = "type" in known[name].metadata
            given[name] = json.loads(value) if is_list else value
        return cls(**given)  # type: ignore[arg-type]  # by the fields' own types

    def stem(self) -> str:
        """The first part of the experiments' names: the script's, or else the program's."""
        words = [word for word in _words(self.eval or self.val_eval or "") if "=" not in word]
        scripts = [word for word in words if _SUFFIX.search(word)]
        modules = [after for flag, after in pairwise(words) if flag == "-m"]
        names = [w for w in words if not w.startswith("-") and Path(w).name not in _STARTERS]
        name = Path(next(iter([*scripts, *modules, *names]), "run")).name
        plain = plain_letters(_SUFFIX.sub("", name))
        return plain if re.search("[a-z0-9]", plain) else "run"


def check_agent(text: str, model: str | None) -> str:
    """The command of `cmd:COMMAND`; "" of another agent.

    Raises:
        UsageError: there is no such agent, or it takes no model.
    """
    kind, _, command = text.partition(":")
    if text in AGENTS:
        return ""
    if kind != "cmd" or not command.strip():
        forms = ", ".join(_AGENT_FORMS)
        raise UsageError(f"--agent {text!r}: there is none", hint=f"one of: {forms}")
    if model:
        raise UsageError(f"--model is for {', '.join(AGENTS)}", hint="leave it out")
    return command


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:
        return command.split()


def _refuse_secret(name: str, value: str | Sequence[str]) -> None:
    for text in [value] if isinstance(value, str) else value:
        variable, is_set, content = text.partition("=")
        holds = name == "env" and is_set and is_secret(variable, content)
        if holds or redact(text) != text:
            hint = "put it into an environment variable, and name that: --env NAME"
            what = flag(name) + (f" {variable}" if name == "env" else "")
            raise UsageError(f"{what} holds a secret, and options are recorded in git", hint=hint)
