"""The fresh process that evaluates a commit for a Measurer: `python -m` this module.

It reads a request and answers with scores and items, or with the error that there was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from autopilot import errors
from autopilot.core.chance import seed_of
from autopilot.core.experiment import Experiment
from autopilot.core.metric import MetricCollection
from autopilot.core.module import AutoPilotModule
from autopilot.core.records.record import LlmRecord, Manifest
from autopilot.core.store import InMemoryStore
from autopilot.core.trainer import Trainer
from autopilot.core.types import Datum, datum_from_json
from autopilot.core.writing import trace_records
from autopilot.engine.loading import users_code
from autopilot.engine.target import load_target
from autopilot.errors import AutopilotError, EvaluationError, OutageError, ReplayMissError
from autopilot.git.repository import Repository
from autopilot.sandbox.inputs import Inputs
from autopilot.sandbox.offline import Offline
from autopilot.sandbox.processes import Send, answer_with
from autopilot.sandbox.workspace import Workspace
from autopilot.tracking.journal import Journal
from autopilot.tracking.layout import Layout
from autopilot.tracking.scope import scope_of


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be evaluated.

    Args:
        user: The user's checkout.
        place: The worktree with the commit.
        links: Path from the top to the user's own path, of what is linked in.
        manifest: How the experiment is run.
        slug: The experiment whose model calls answer.
        splits: Which splits.
        epoch: See Measurer.measure.
        repeat: See Measurer.measure.
        live: See Measurer.
    """

    user: str
    place: str
    links: tuple[tuple[str, str], ...]
    manifest: Manifest
    slug: str
    splits: tuple[str, ...]
    epoch: int
    repeat: int
    live: bool

    def encode(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self)).encode()


@dataclass(frozen=True, slots=True)
class Failure:
    """An error of the process, as one that is raised in another: its class's name and its parts."""

    kind: str
    message: str
    hint: str = ""
    user_traceback: str = ""

    @classmethod
    def of(cls, error: AutopilotError) -> Failure:
        """An error that is to travel."""
        return cls(type(error).__name__, error.message, error.hint, error.user_traceback)

    def error(self) -> AutopilotError:
        """The same error."""
        kind = getattr(errors, self.kind, EvaluationError)
        found: AutopilotError = kind(self.message, hint=self.hint)
        found.user_traceback = self.user_traceback
        return found


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it.

    Args:
        metrics: Split to metric name to value.
        items: Split to results as JSON.
        valued: Split to whether each of these results has a value of the monitored metric.
        inputs: See Measurement.
        noisy: See Measurement.
        failure: Why there is nothing else.
    """

    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    items: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)
    valued: Mapping[str, tuple[bool, ...]] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    noisy: tuple[str, ...] = ()
    failure: Failure | None = None

    def data(self, epoch: int) -> dict[str, tuple[Datum, ...]]:
        """Split to results."""
        return {
            split: tuple(datum_from_json(value, split=split, epoch=epoch) for value in values)
            for split, values in self.items.items()
        }


def answer_of(told: bytes) -> Answer:
    """What a process answered.

    Raises:
        AutopilotError: the error that there was.
    """
    answer: Answer = TypeAdapter(Answer).validate_python(json.loads(told))
    if answer.failure is not None:
        raise answer.failure.error()
    return answer


def evaluate(request: Request) -> Answer:
    """Evaluates what is asked for, in this process."""
    user, repo = Repository.discover(Path(request.user)), Repository.discover(Path(request.place))
    manifest, offline = request.manifest, Offline()
    recorded = () if request.live or request.repeat else recorded_calls(user, request.slug)
    workspace = Workspace(user, repo, manifest.directory)
    workspace.enter()
    links = [(name, Path(source)) for name, source in request.links]
    inputs = Inputs(repo, repo.head_commit(), links, in_place=False)
    inputs.open()
    if not request.live:
        offline.begin()
    module = load_target(manifest.target, workspace.folder, manifest.hparams, AutoPilotModule)
    inputs.scopes = [scope_of(repo, parameter) for parameter in module.parameters()]
    workspace.check_imports()
    store = InMemoryStore(request.slug)
    for call in recorded:
        store.note_call(call)
    experiment = Experiment(store, manifest=manifest)
    experiment.only_recorded = not request.live
    trainer = Trainer(
        experiment=experiment,
        monitor=manifest.options.get("monitor"),
        mode=manifest.options.get("mode"),
        failed_value=manifest.options.get("failed_value"),
        seed=seed_of(manifest.seed, request.repeat),
        num_workers=manifest.options.get("num_workers") or 0,
        repeat=manifest.options.get("repeat") or 1,
        max_wait_s=0,
    )
    with users_code(manifest.target):
        try:
            found = {s: trainer.measure(module, s, request.epoch) for s in request.splits}
        except ReplayMissError as miss:
            offline.check()
            raise _of_repeat(miss, request.repeat) from miss
        except OutageError:
            # The user's code may have made that of a refused connection.
            offline.check()
            raise
        offline.check()
        workspace.check_imports()
        metrics = {split: measured.compute() for split, measured in found.items()}
    items = {split: measured.items for split, measured in found.items()}
    traces = trace_records(request.epoch, items)
    told = {trace.split: trace.items for trace in traces}
    has_value = trainer.monitored.has_value
    valued = {split: tuple(map(has_value, results)) for split, results in items.items()}
    return Answer(metrics, told, valued, inputs.blobs(), noisy_metrics(module, metrics))


def noisy_metrics(
    module: AutoPilotModule, metrics: Mapping[str, Mapping[str, float]]
) -> tuple[str, ...]:
    """Those of a module's metrics that are noisy, as "val latency", and the numbers they read."""
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


def recorded_calls(user: Repository, slug: str) -> list[LlmRecord]:
    """All model calls that an experiment's notes have."""
    return [call for _, call in Journal(user, Layout(slug)).read(LlmRecord)]


def _of_repeat(miss: ReplayMissError, repeat: int) -> ReplayMissError:
    if not repeat:
        return miss
    return ReplayMissError(
        "a repetition needs model replies of its own, and one of each is recorded",
        hint="ask the model anew: --live",
    )


def main() -> None:
    """Answers one request."""

    def answer(request: bytes, send: Send) -> None:
        try:
            found = evaluate(TypeAdapter(Request).validate_python(json.loads(request)))
        except AutopilotError as error:
            found = Answer(failure=Failure.of(error))
        send(json.dumps(asdict(found)).encode())

    answer_with(answer)


if __name__ == "__main__":
    main()
