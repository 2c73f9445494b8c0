"""The tasks of fresh processes and their answers, as JSON."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from autopilot import errors
from autopilot.core.metric import MetricCollection
from autopilot.core.module import AutoPilotModule
from autopilot.core.records.record import Manifest
from autopilot.errors import AutopilotError, EvaluationError
from autopilot.git.repository import Repository
from autopilot.sandbox.processes import Processes, tell_once
from autopilot.sandbox.workspace import Link, Workspace

T = TypeVar("T")
ERROR_PARTS = ("message", "hint", "user_traceback")
"""The parts of an AutopilotError that a message carries, beside the name of its class."""


@dataclass(frozen=True, slots=True)
class Site:
    """An experiment's checkout, in a form that another process can be given.

    Args:
        links: Path from the top to the user's own path, of what `--link` brought in.
    """

    user: str
    worktree: str
    links: tuple[tuple[str, str], ...]
    manifest: Manifest
    slug: str

    @classmethod
    def of(cls, workspace: Workspace, manifest: Manifest, slug: str) -> Site:
        """The site of a checkout of this process."""
        links = tuple((link.name, str(link.source)) for link in workspace.links)
        return cls(str(workspace.user.workdir), str(workspace.repo.workdir), links, manifest, slug)

    def workspace(self) -> Workspace:
        """The same checkout in another process."""
        user, repo = (Repository.discover(Path(path)) for path in (self.user, self.worktree))
        links = tuple(Link(n, Path(source), repo.workdir / n) for n, source in self.links)
        return Workspace(user, repo, self.manifest.directory, links=links)


@dataclass(frozen=True, slots=True)
class Task:
    """Something for a fresh process to do with an experiment's checkout."""

    site: Site


@dataclass(frozen=True, slots=True)
class MeasureTask(Task):
    """Evaluate splits of the commit that is checked out. See Measurer.measure for the arguments.

    The answer is one Scores.
    """

    splits: tuple[str, ...]
    epoch: int
    repeat: int
    live: bool


@dataclass(frozen=True, slots=True)
class Scores:
    """The result of a MeasureTask.

    Args:
        items: Split to results as JSON.
        valued: Split to whether each of these results has a value of the monitored metric.
        is_stale: The process had read parameters' files for an earlier state, and did not read
            them for this one: the result may be that of the earlier one.
    """

    metrics: Mapping[str, Mapping[str, float]]
    items: Mapping[str, tuple[Mapping[str, Any], ...]]
    valued: Mapping[str, tuple[bool, ...]]
    inputs: Mapping[str, str]
    noisy: tuple[str, ...]
    is_stale: bool = False


def noisy_metrics(
    module: AutoPilotModule, metrics: Mapping[str, Mapping[str, float]]
) -> tuple[str, ...]:
    """The noisy ones of a module's metrics, as "val latency", and the numbers they read."""
    names: set[str] = set()
    for own, metric in module.named_metrics():
        parts = metric.items() if isinstance(metric, MetricCollection) else [(own, metric)]
        for name, part in parts:
            if part.noisy:
                names |= {name, str(getattr(part, "name", name))}
    return tuple(
        f"{split} {name}"
        for split, values in metrics.items()
        for name in values
        if name in names or any(name.startswith(f"{each}_") for each in names)
    )


def encoded(task: Task) -> bytes:
    """A task as a request."""
    return json.dumps(asdict(task)).encode()


def answers(
    processes: Processes, task: Task, folder: Path, kind: type[T]
) -> Generator[T | AutopilotError, None, None]:
    """Gives a task to a fresh process.

    Yields:
        Its messages as they come; an error that ended it comes last, in the worktree's terms.

    Raises:
        EvaluationError: the process could not be started, or ended before its last message.
    """
    for line in processes.ask("autopilot.proof.worker", encoded(task), folder):
        message = json.loads(line)
        if "note" in message:
            tell_once(message["note"])
        elif "error" in message:
            error = getattr(errors, message["error"], EvaluationError)(message["message"])
            for name in ERROR_PARTS:
                setattr(error, name, message[name])
            yield error
        else:
            yield TypeAdapter(kind).validate_python(message["answer"])
