"""Which commands there are. A command's module is imported when the command is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Entry:
    """A command, or a group of commands.

    Args:
        name: What is typed.
        module: Its module in `autopilot.cli`. A group's module has COMMANDS, name to function, or
            to a Group in it.
        help: One line.
        function: The command's function in the module; "" for a group.
    """

    name: str
    module: str
    help: str
    function: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Commands under a common name, inside of a group.

    Args:
        help: One line.
        commands: Name to function.
    """

    help: str
    commands: Commands


Commands: TypeAlias = Mapping[str, "Callable[..., int | None] | Group"]


def _command(name: str, module: str, text: str) -> Entry:
    return Entry(name, module, text, name.replace("-", "_"))


SECTIONS: dict[str, tuple[Entry, ...]] = {
    "Run": (
        _command("run", "running", "Optimize TARGET in git."),
        _command("resume", "running", "Go on with a run, exactly where it was."),
        Entry("optimize", "optimize", "The loop step by step: check, train, measure, set."),
    ),
    "Read": (
        _command("status", "reading", "Show where the experiments stand."),
        _command("log", "reading", "Show the epochs of an experiment."),
        _command("show", "reading", "Show one epoch."),
        _command("diff", "reading", "Show what changed."),
        _command("report", "reporting", "Write an experiment as a page to read in a browser."),
        Entry("memory", "memory", "What was tried, and how it went; what is blocked."),
        Entry("diagnose", "diagnose", "What fails: in words, and drawn over the epochs."),
        Entry("trace", "trace", "Results item by item: collect them, inspect one."),
        Entry("policy", "policy", "What the policy says of an epoch, gate by gate."),
    ),
    "Keep and compare": (
        Entry("experiment", "experiment", "Create, list, compare, export and delete experiments."),
        Entry("store", "store", "States in git: list, take, fork and merge them."),
    ),
    "Prove and share": (
        _command("replay", "replay", "Check that what was recorded comes out again."),
        Entry("propose", "propose", "Kept epochs as a branch for a pull request."),
        Entry("promote", "promote", "Take an epoch over into a branch."),
        _command("push", "sync", "Push experiments: branch, tags and notes together."),
        _command("fetch", "sync", "Fetch experiments: branch, tags and notes together."),
        Entry("hooks", "hooks", "Git hooks: install, remove and look at them."),
    ),
    "Workspace": (
        Entry("project", "project", "Projects of the workspace: make, list and look after them."),
        Entry("workspace", "workspace", "The workspace as a whole: make it, look at it."),
        Entry("dataset", "dataset", "Datasets: list, show, split and check them."),
        Entry("ai", "ai", "Make datasets and judge them, with models."),
        _command("doctor", "upkeep", "Check git, keys, locks, worktrees and unfinished runs."),
        _command("gc", "upkeep", "Remove what killed runs left behind, and pack the repository."),
    ),
}
