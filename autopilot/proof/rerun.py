"""Replay of level full: the experiment is run again from its start, and compared step by step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from autopilot.core.records.record import StepRecord
from autopilot.errors import AutopilotError, UsageError
from autopilot.git import objects
from autopilot.git.repository import Repository
from autopilot.proof.measuring import Place, workspace_at
from autopilot.proof.replay import (
    EpochReplay,
    Replay,
    Settings,
    compare_inputs,
    compare_metrics,
    failed,
    parted,
)
from autopilot.proof.rerun_protocol import EpochAgain, Request, StepAgain
from autopilot.sandbox.processes import Processes
from autopilot.sandbox.workspace import Workspace
from autopilot.tracking.integrity import Difference
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.recorded import Judged

_WORKER = "autopilot.proof.rerun_worker"
_AROUND = 24


class Rerun(Replay):
    """The whole loop again: evaluation, loss, backward, optimizer, verdict.

    It works in a repository of its own that borrows the user's objects, so that branch, tags and
    notes of the user stay as they are. Model calls are answered from the notes. Agents that make
    their own calls (Claude Code, other programs) are not run: they must be asked the same, and
    what they answered and edited is taken from the record.

    It ends with the first epoch whose state or verdict differs, since what follows builds on it.

    Args:
        notebook: The experiment.
        settings: See Replay; one job, and nothing live.

    Raises:
        UsageError: settings that do not go together.
    """

    level: ClassVar[str] = "full"

    def __init__(self, notebook: Notebook, settings: Settings) -> None:
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

    def epochs(self) -> Iterator[EpochReplay]:
        if not self.chosen:
            return
        place, done = Place.take(self.notebook.repo), -1
        try:
            workspace = self._workspace(place)
            for told in self._ask(workspace, max(self.chosen)):
                if told.failure is not None:
                    with workspace.explained():
                        yield self._failed(done + 1, told.failure.error())
                    return
                if told.number < 0:
                    yield self._tested(told)
                    continue
                judged, done = self.judged.get(told.number), told.number
                if judged is None:
                    continue
                again = self._again(told, judged, workspace.repo)
                if told.number in self.chosen or again.differences:
                    yield again
                if _verdict(told) != _recorded(judged):
                    self.ended = f"epoch {done} went another way, and what follows builds on it"
                    return
        finally:
            self._processes.stop()
            place.leave()

    def _workspace(self, place: Place) -> Workspace:
        notebook, manifest = self.notebook, self.notebook.manifest
        repo = place.borrow(notebook.start)
        links = dict.fromkeys([*manifest.links, *self.settings.links])
        return workspace_at(notebook.repo, repo, manifest.directory, notebook.start, links)

    def _ask(self, workspace: Workspace, last: int) -> Iterator[EpochAgain]:
        notebook = self.notebook
        whole = last == max(self.judged)
        request = Request(
            user=str(notebook.repo.workdir),
            place=str(workspace.repo.workdir),
            links=tuple((link.name, str(link.source)) for link in workspace.links),
            slug=notebook.slug,
            tip=notebook.tip,
            manifest=notebook.manifest,
            last=last,
            test=whole and bool(self._best().metrics.get("test")),
        )
        for told in self._processes.ask(_WORKER, request.encode(), workspace.folder):
            yield EpochAgain.decode(told)

    def _best(self) -> Judged:
        return self.judged[self.judged[max(self.judged)].record.best_epoch]

    def _again(self, told: EpochAgain, judged: Judged, repo: Repository) -> EpochReplay:
        number, record = told.number, judged.record
        differences = self._steps(told, repo)
        for what, (recorded, found) in _pairs(told, judged).items():
            if recorded != found:
                differences.append(Difference(number, what, recorded, found))
        if told.tree != record.tree:
            differences.append(_tree(repo, number, "tree", record.tree, told.tree))
        for split in ("train", "val"):
            before, now = judged.metrics.get(split, {}), told.metrics.get(split, {})
            differences += compare_metrics(number, split, before, now, self.settings)
        differences, incomparable = parted(differences, frozenset(told.noisy), self.settings)
        differences += compare_inputs(number, record.inputs, told.inputs)
        return EpochReplay(
            number=number,
            verdict=record.verdict,
            commit=judged.commit,
            recorded=record.metrics.get(record.monitor),
            replayed=told.metrics.get("val", {}).get(record.monitor),
            differences=tuple(differences),
            seconds=told.seconds,
            incomparable=tuple(incomparable),
        )

    def _steps(self, told: EpochAgain, repo: Repository) -> list[Difference]:
        noted = self.notebook.steps(told.number)
        recorded = {record.step: (commit, record) for commit, record in noted}
        again = {step.number: step for step in told.steps}
        found: list[Difference] = []
        for number in sorted(recorded.keys() | again.keys()):
            if number not in recorded or number not in again:
                there = ["a step" if number in each else "none" for each in (recorded, again)]
                found.append(Difference(told.number, f"step {number}", *there))
                continue
            commit, record = recorded[number]
            tree = objects.tree_of(repo, commit) if record.changed else ""
            found += _step(told.number, record, tree, again[number], repo)
        return found

    def _tested(self, told: EpochAgain) -> EpochReplay:
        """The test split, which is scored on baseline and best state after the last epoch."""
        judged = self._best()
        record, monitor = judged.record, judged.record.monitor
        recorded, found = judged.metrics["test"], told.metrics.get("test", {})
        apart = compare_metrics(record.epoch, "test", recorded, found, self.settings)
        if record.epoch and "test" in self.judged[0].metrics:
            before, again = self.judged[0].metrics["test"], told.metrics.get("baseline", {})
            apart += compare_metrics(0, "test", before, again, self.settings)
        differences, incomparable = parted(apart, frozenset(told.noisy), self.settings)
        return EpochReplay(
            number=record.epoch,
            verdict=record.verdict,
            commit=judged.commit,
            recorded=recorded.get(monitor),
            replayed=found.get(monitor),
            differences=tuple(differences),
            split="test",
            incomparable=tuple(incomparable),
        )

    def _failed(self, number: int, error: AutopilotError) -> EpochReplay:
        judged = self.judged.get(number)
        monitor = judged.record.monitor if judged else ""
        return EpochReplay(
            number=number,
            verdict=judged.record.verdict if judged else "",
            commit=judged.commit if judged else self.notebook.tip,
            recorded=judged.record.metrics.get(monitor) if judged else None,
            replayed=None,
            differences=(failed(number, error),),
            error=error,
        )


def _pairs(told: EpochAgain, judged: Judged) -> dict[str, tuple[str | float, str | float]]:
    record = judged.record
    return {
        "verdict": (record.verdict, told.verdict),
        "best epoch": (record.best_epoch, told.best_epoch),
    }


def _verdict(told: EpochAgain) -> tuple[str, str, int]:
    return told.tree, told.verdict, told.best_epoch


def _recorded(judged: Judged) -> tuple[str, str, int]:
    record = judged.record
    return record.tree, record.verdict, record.best_epoch


def _step(
    epoch: int, record: StepRecord, tree: str, again: StepAgain, repo: Repository
) -> list[Difference]:
    """What of a step came out otherwise: gradients first, since the rest follows from them."""
    found = []
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
    if tree != again.tree:
        found.append(_tree(repo, epoch, f"tree of step {record.step}", tree, again.tree))
    return found


def _tree(repo: Repository, epoch: int, what: str, recorded: str, found: str) -> Difference:
    why = ""
    if recorded and found:
        why = f"they differ in {', '.join(sorted(objects.diff_trees(repo, recorded, found)))}"
    return Difference(epoch, what, recorded[:7] or "no change", found[:7] or "no change", why)


def _apart(recorded: str | None, found: str | None) -> tuple[str, str]:
    """Two texts from shortly before the place where they part."""
    texts = [" ".join((text or "").split()) for text in (recorded, found)]
    pairs = enumerate(zip(*texts, strict=False))
    common = next((at for at, (a, b) in pairs if a != b), min(map(len, texts)))
    start = max(0, common - _AROUND // 2)
    lead = "..." if start else ""
    cut = [f"{lead}{text[start : start + 2 * _AROUND]}" for text in texts]
    ends = ["..." if len(text) > start + 2 * _AROUND else "" for text in texts]
    shown = [f"{part}{end}" or "(nothing)" for part, end in zip(cut, ends, strict=True)]
    return shown[0], shown[1]
