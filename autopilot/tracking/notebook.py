"""Reading an experiment: what `log`, `show`, `diff` and `status` are made of. Takes no lock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from autopilot.core import message
from autopilot.core.record import (
    Event,
    Lesson,
    Manifest,
    MetricsRecord,
    StepRecord,
    TraceRecord,
)
from autopilot.core.types import Cost, Verdict
from autopilot.errors import ExperimentError, RepositoryError
from autopilot.git import commits, objects, refs
from autopilot.git.commits import Commit
from autopilot.git.locks import ExclusiveLock, Holder
from autopilot.git.repository import Repository
from autopilot.tracking.journal import Journal
from autopilot.tracking.layout import Layout, experiments


@dataclass(frozen=True, slots=True)
class Epoch:
    """One judged epoch.

    Args:
        number: 0 is the baseline.
        verdict: "baseline", "kept" or "rejected".
        metrics: Split to metric name to value.
        value: The monitored val metric, None where missing.
        delta: Its change against the best before, None where there is nothing to compare with.
        best: The best value afterwards.
        strategy: What was tried.
        summary: What was done.
        reasons: Why the verdict.
        outcome: As memory counts it.
        reused: The epoch whose measurement was taken over.
        commit: The epoch's last step commit; the start commit for the baseline.
        rollback: The rollback commit after a rejected epoch.
        best_epoch: The epoch that the branch equals afterwards.
        cost: What it cost.
    """

    number: int
    verdict: Verdict
    metrics: Mapping[str, Mapping[str, float]]
    value: float | None
    delta: float | None
    best: float | None
    strategy: str
    summary: str
    reasons: tuple[str, ...]
    outcome: str
    reused: int | None
    commit: str
    rollback: str | None
    best_epoch: int
    cost: Cost


@dataclass(frozen=True, slots=True)
class Status:
    """Where an experiment stands.

    Args:
        state: "running", "stopped" (it came to its end), "interrupted", "crashed" or "killed".
        detail: The reason, or who is running it.
        holder: The process that holds it.
    """

    state: str
    detail: str
    holder: Holder | None = None


class Notebook:
    """An experiment as it is recorded.

    Args:
        repo: The repository.
        slug: The experiment's name.

    Raises:
        ExperimentError: there is no such experiment; the hint names those that there are.
    """

    def __init__(self, repo: Repository, slug: str) -> None:
        self.repo, self.slug = repo, slug
        self.layout = Layout(slug)
        self._journal = Journal(repo, self.layout)
        tip = refs.read_ref(repo, self.layout.branch)
        if tip is None:
            there = ", ".join(experiments(repo)) or "none yet: autopilot run TARGET makes one"
            raise ExperimentError(f"there is no experiment {slug}", hint=f"experiments: {there}")
        self.tip = tip

    @cached_property
    def _start(self) -> tuple[str, Manifest]:
        for commit, manifest in self._journal.read(Manifest):
            return commit, manifest
        raise ExperimentError(
            f"the experiment {self.slug} has no manifest note",
            hint=f"git fetch origin 'refs/notes/autopilot/*:refs/notes/autopilot/*', then show "
            f"{self.slug} again",
        )

    @property
    def manifest(self) -> Manifest:
        """What the experiment is."""
        return self._start[1]

    @property
    def start(self) -> str:
        """The start commit."""
        return self._start[0]

    @cached_property
    def commits(self) -> list[Commit]:
        """The branch from the tip down to the start commit."""
        base = commits.read_commit(self.repo, self.start).parents[:1]
        return list(commits.first_parent_log(self.repo, self.tip, stop=base[0] if base else None))

    @cached_property
    def events(self) -> list[Event]:
        """What happened to the runs, oldest first."""
        found = self._journal.read_on(self.start, Event)
        return sorted(found, key=lambda event: event.id.rpartition("-")[2])

    @cached_property
    def epochs(self) -> list[Epoch]:
        """All judged epochs, oldest first."""
        line = {commit.id: position for position, commit in enumerate(self.commits)}
        records: dict[int, dict[str, tuple[str, MetricsRecord]]] = {}
        for commit, record in self._journal.read(MetricsRecord):
            if commit in line:
                records.setdefault(record.epoch, {}).setdefault(record.split, (commit, record))
        rollbacks = self._rollbacks()
        found: list[Epoch] = []
        best: float | None = None
        for number in sorted(records):
            splits = records[number]
            if "val" not in splits:
                continue
            commit, val = splits["val"]
            value = val.metrics.get(val.monitor)
            found.append(
                Epoch(
                    number=number,
                    verdict=val.verdict,
                    metrics={name: record.metrics for name, (_, record) in splits.items()},
                    value=value,
                    delta=value - best if value is not None and best is not None else None,
                    best=val.best,
                    strategy=val.strategy,
                    summary=val.summary,
                    reasons=val.reasons,
                    outcome=val.outcome,
                    reused=val.reused,
                    commit=commit,
                    rollback=rollbacks.get(number),
                    best_epoch=val.best_epoch,
                    cost=val.cost,
                )
            )
            best = val.best
        return found

    @cached_property
    def monitor(self) -> tuple[str, str]:
        """The name of the metric that decides, and "max" or "min"."""
        for commit in reversed(self.commits):
            for record in self._journal.read_on(commit.id, MetricsRecord):
                if record.split == "val":
                    return record.monitor, record.mode
        return "accuracy", "max"

    @cached_property
    def spent(self) -> Cost:
        """What the judged epochs cost."""
        return sum((epoch.cost for epoch in self.epochs), Cost())

    @property
    def best(self) -> Epoch | None:
        """The best epoch."""
        if not self.epochs:
            return None
        return self.epoch(self.epochs[-1].best_epoch)

    def epoch(self, number: int) -> Epoch:
        """One epoch.

        Raises:
            ExperimentError: there is no such epoch.
        """
        for epoch in self.epochs:
            if epoch.number == number:
                return epoch
        last = self.epochs[-1].number if self.epochs else None
        raise ExperimentError(
            f"{self.slug} has no epoch {number}",
            hint="no epoch is judged yet" if last is None else f"choose one of 0 to {last}",
        )

    def steps(self, epoch: int) -> list[tuple[str, StepRecord]]:
        """The optimizer steps of an epoch with the commits that their records are on."""
        places = [self.epoch(epoch).commit]
        places += [c.id for c in self.commits if _trailer(c, message.EPOCH) == str(epoch)]
        found = {
            record.id: (commit, record)
            for commit in dict.fromkeys(places)
            for record in self._journal.read_on(commit, StepRecord)
            if record.epoch == epoch
        }
        return sorted(found.values(), key=lambda pair: pair[1].step)

    def lessons(self, epoch: int) -> list[Lesson]:
        """What memory learnt from an epoch."""
        found = self._journal.read_on(self.epoch(epoch).commit, Lesson)
        return [lesson for lesson in found if lesson.epoch == epoch]

    def items(self, epoch: int, split: str = "val") -> list[Mapping[str, Any]]:
        """The results of an epoch, item by item; empty where none were recorded."""
        for trace in self._journal.read_on(self.epoch(epoch).commit, TraceRecord):
            if trace.epoch == epoch and trace.split == split:
                return list(trace.items)
        return []

    def before(self, epoch: int) -> str:
        """The commit that an epoch started from: its own for one that changed nothing."""
        own = [c for c in self.commits if _trailer(c, message.EPOCH) == str(epoch)]
        if own:
            return own[-1].parents[0]
        return self.epoch(epoch).commit

    def after(self, epoch: int) -> str:
        """The commit with an epoch's state, as it was measured."""
        own = [c for c in self.commits if _trailer(c, message.EPOCH) == str(epoch)]
        return own[0].id if own else self.epoch(epoch).commit

    def diff(self, old: str, new: str) -> str:
        """What changed between two commits, as a unified diff."""
        trees = [objects.tree_of(self.repo, commit) for commit in (old, new)]
        return objects.diff_text(self.repo, trees[0], trees[1])

    @property
    def status(self) -> Status:
        """Where it stands."""
        holder = ExclusiveLock(self.layout.lock(self.repo)).holder()
        if holder is not None:
            who = f"process {holder.pid} on {holder.host} since {holder.since}"
            return Status("running", who, holder)
        for event in reversed(self.events):
            if event.name in ("stopped", "interrupted", "crashed"):
                return Status(event.name, event.detail)
            if event.name in ("started", "resumed"):
                break
        return Status("killed", f"autopilot resume {self.slug} goes on with it")

    def _rollbacks(self) -> dict[int, str]:
        found = {}
        for commit in self.commits:
            rejected = _trailer(commit, message.REJECTED)
            if rejected is not None and rejected.isdigit():
                found[int(rejected)] = commit.id
        return found


def latest(repo: Repository) -> str:
    """The slug of the experiment whose branch has the newest commit.

    Raises:
        RepositoryError: there is no experiment.
    """
    tips = experiments(repo)
    if not tips:
        raise RepositoryError(
            f"there is no experiment in {repo.workdir}", hint="autopilot run TARGET makes one"
        )
    return max(tips, key=lambda slug: (commits.read_commit(repo, tips[slug]).time_s, slug))


def _trailer(commit: Commit, name: str) -> str | None:
    marker = f"\n{name}: "
    at = commit.message.rfind(marker)
    if at < 0:
        return None
    return commit.message[at + len(marker) :].partition("\n")[0].strip()
