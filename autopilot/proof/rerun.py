"""Replay of level full: the experiment is run again from its start, and compared step by step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from autopilot.core.records.record import MetricsRecord, StepRecord
from autopilot.errors import AutopilotError, UsageError
from autopilot.git import objects
from autopilot.git.repository import Repository
from autopilot.proof import replay
from autopilot.proof.measuring import MeasuringWorktree, Task, answers, workspace_at
from autopilot.sandbox.processes import Processes
from autopilot.tracking.attribution import every_step
from autopilot.tracking.epochs import Epoch
from autopilot.tracking.integrity import Difference
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.outputs import find_outputs, merged

_AROUND = 24


@dataclass(frozen=True, slots=True)
class RerunTask(Task):
    """Run an experiment again. The answer is a RerunEpoch for each epoch, as it ends.

    Args:
        workspace: It is a repository of its own, with refs and notes to write.
        test: Score the test split then: one more RerunEpoch, without a record.
    """

    tip: str
    last: int
    test: bool


@dataclass(frozen=True, slots=True)
class RerunEpoch:
    """An epoch of a rerun.

    Args:
        record: Its val record; None for the test score, which comes last.
        steps: Its steps, each with the state after it; "" if it changed nothing.
    """

    record: MetricsRecord | None
    metrics: Mapping[str, Mapping[str, float]]
    noisy: frozenset[str]
    steps: tuple[tuple[StepRecord, str], ...] = ()
    seconds: float = 0.0


class Rerun(replay.Replay):
    """The whole loop again: evaluation, loss, backward, optimizer, verdict.

    It works in a repository of its own that borrows the user's objects, so that branch, tags and
    notes of the user stay as they are. Model calls are answered from the notes. Agents that make
    their own calls (Claude Code, other programs) are not run: they must be asked the same, and
    what they answered and edited is taken from the record.

    It ends with the first epoch whose state or verdict differs, since what follows builds on it.

    Args:
        settings: See Replay; one job, and nothing live.

    Raises:
        UsageError: settings that do not go together.
    """

    level: ClassVar[str] = "full"

    def __init__(self, notebook: Notebook, settings: replay.Settings) -> None:
        if settings.live:
            raise UsageError(
                "--live does not go with --level full: other replies make other edits",
                hint="leave out --live, or use --level metrics",
            )
        if settings.jobs > 1:
            raise UsageError(
                "--jobs does not go with --level full: each epoch builds on the one before",
                hint="leave out --jobs",
            )
        super().__init__(notebook, settings)
        self._processes = Processes()

    def _chosen(self) -> list[int]:
        return super()._chosen() if self.settings.epochs is not None else list(self.judged)

    def epochs(self) -> Iterator[replay.EpochReplay]:
        if not self.chosen:
            return
        notebook, last = self.notebook, max(self.chosen)
        links = tuple(dict.fromkeys([*notebook.manifest.links, *self.settings.links]))
        manifest = replace(self._manifest, links=links)
        test = last == max(self.judged) and bool(self._best().metrics.get("test"))
        worktree, done = MeasuringWorktree.take(notebook.repo), -1
        try:
            repo = worktree.borrow(notebook.start)
            workspace = workspace_at(notebook.repo, repo, manifest.directory, notebook.start, links)
            task = RerunTask(workspace, manifest, notebook.slug, notebook.tip, last, test)
            for epoch in answers(self._processes, task, RerunEpoch):
                if isinstance(epoch, AutopilotError):
                    with workspace.explained():
                        yield self._row(
                            done + 1, None, [replay.failed(done + 1, epoch)], error=epoch
                        )
                    return
                if (now := epoch.record) is None:
                    yield self._tested(epoch)
                    continue
                judged, done = self.judged.get(now.epoch), now.epoch
                if judged is None:
                    continue
                row = self._compared(epoch, now, judged.record, repo)
                if done in self.chosen or row.differences:
                    yield row
                if _state(now) != _state(judged.record):
                    self.ended = f"epoch {done} went another way, and what follows builds on it"
                    return
        finally:
            self._processes.stop()
            written = find_outputs(worktree.path, notebook.repo, manifest, notebook.start)
            self.outputs = merged([*worktree.outputs, *written])
            worktree.leave()

    def _best(self) -> Epoch:
        return self.judged[self.judged[max(self.judged)].record.best_epoch]

    def _compared(
        self, epoch: RerunEpoch, now: MetricsRecord, record: MetricsRecord, repo: Repository
    ) -> replay.EpochReplay:
        number = record.epoch
        differences = self._steps(number, epoch.steps, repo)
        for what, recorded, found in (
            ("verdict", record.verdict, now.verdict),
            ("best epoch", record.best_epoch, now.best_epoch),
            ("val items not measured", record.cost.saved, now.cost.saved),
        ):
            if recorded != found:
                differences.append(Difference(number, what, recorded, found))
        if now.tree != record.tree:
            differences.append(_tree(repo, number, "tree", record.tree, now.tree))
        for split in ("train", "val"):
            before = self.judged[number].metrics.get(split, {})
            again = epoch.metrics.get(split, {})
            differences += replay.compare_metrics(number, split, before, again, self.settings)
        differences, incomparable = replay.parted(differences, epoch.noisy, self.settings)
        differences += replay.compare_inputs(number, record.inputs, now.inputs)
        replayed = epoch.metrics.get("val", {}).get(record.monitor)
        return self._row(number, replayed, differences, incomparable, epoch.seconds)

    def _steps(
        self, epoch: int, steps: Sequence[tuple[StepRecord, str]], repo: Repository
    ) -> list[Difference]:
        noted = self._noted.get(epoch) or self.notebook.steps(epoch)
        recorded = {(r.candidate, r.step): (commit, r) for commit, r in noted}
        again = {(step.candidate, step.step): (step, tree) for step, tree in steps}
        found: list[Difference] = []
        for place in sorted(recorded.keys() | again.keys()):
            if place not in recorded or place not in again:
                there = ["a step" if place in each else "none" for each in (recorded, again)]
                name = f"step {place[1]}" + (f" of candidate {place[0]}" if place[0] else "")
                found.append(Difference(epoch, name, *there))
                continue
            commit, record = recorded[place]
            tree = objects.tree_of(repo, commit) if record.changed else ""
            found += _step(record, tree, *again[place], repo)
        return found

    @cached_property
    def _noted(self) -> dict[int, list[tuple[str, StepRecord]]]:
        """The steps of epochs that have several candidates."""
        found: dict[int, list[tuple[str, StepRecord]]] = {}
        for commit, record in every_step(self.notebook):
            if record.candidate:
                found.setdefault(record.epoch, []).append((commit, record))
        return found

    def _tested(self, epoch: RerunEpoch) -> replay.EpochReplay:
        """The test split, which is scored on baseline and best state after the last epoch."""
        best, baseline = self._best(), self.judged[0].metrics
        number, recorded, found = best.record.epoch, best.metrics["test"], epoch.metrics["test"]
        apart = replay.compare_metrics(number, "test", recorded, found, self.settings)
        if number and "test" in baseline:
            again = epoch.metrics.get("baseline", {})
            apart += replay.compare_metrics(0, "test", baseline["test"], again, self.settings)
        differences, incomparable = replay.parted(apart, epoch.noisy, self.settings)
        replayed = found.get(best.record.monitor)
        return self._row(number, replayed, differences, incomparable, split="test")


def _state(record: MetricsRecord) -> tuple[str, str, int]:
    return record.tree, record.verdict, record.best_epoch


def _step(
    record: StepRecord, tree: str, again: StepRecord, tree_again: str, repo: Repository
) -> list[Difference]:
    """The differences of a step: gradients first, since the rest follows from them."""
    found, epoch = [], record.epoch
    for name in dict.fromkeys([*record.gradients, *again.gradients]):
        recorded, now = record.gradients.get(name), again.gradients.get(name)
        if recorded != now:
            shown = _apart(recorded, now)
            found.append(Difference(epoch, f"gradient of {name}", *shown))
    for what, recorded, now in (
        ("strategy", record.strategy, again.strategy),
        ("error of the step", record.error, again.error),
    ):
        if recorded != now:
            found.append(Difference(epoch, what, *_apart(recorded, now)))
    if tree != tree_again:
        found.append(_tree(repo, epoch, f"tree of step {record.step}", tree, tree_again))
    return found


def _tree(repo: Repository, epoch: int, what: str, recorded: str, found: str) -> Difference:
    why = ""
    if recorded and found:
        why = f"they differ in {', '.join(sorted(objects.diff_trees(repo, recorded, found)))}"
    return Difference(epoch, what, recorded[:7] or "no change", found[:7] or "no change", why)


def _apart(recorded: str | None, found: str | None) -> tuple[str, str]:
    """Two texts, from shortly before their first different character."""
    texts = [" ".join((text or "").split()) for text in (recorded, found)]
    pairs = enumerate(zip(*texts, strict=False))
    common = next((at for at, (a, b) in pairs if a != b), min(map(len, texts)))
    start = max(0, common - _AROUND // 2)
    lead = "..." if start else ""
    cut = [f"{lead}{text[start : start + 2 * _AROUND]}" for text in texts]
    ends = ["..." if len(text) > start + 2 * _AROUND else "" for text in texts]
    shown = [f"{part}{end}" or "(nothing)" for part, end in zip(cut, ends, strict=True)]
    return shown[0], shown[1]
