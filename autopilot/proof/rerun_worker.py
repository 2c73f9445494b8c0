"""The fresh process that runs an experiment again: `python -m` this module.

It works in a repository of its own, where it keeps its branch and notes, and tells after each epoch
what came of it. Model calls and agents that make their own are answered from the record.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import TypeAdapter

from autopilot.core.callback import Callback
from autopilot.core.experiment import Experiment
from autopilot.core.loop import EpochLoop, Fit
from autopilot.core.module import AutoPilotModule
from autopilot.core.records.record import Lesson, LlmRecord, MetricsRecord, StepRecord
from autopilot.core.stepping import Guard
from autopilot.core.stopping import Budget
from autopilot.core.trainer import Trainer
from autopilot.engine.loading import users_code
from autopilot.engine.request import Options, options_of
from autopilot.engine.target import load_target
from autopilot.errors import AutopilotError, OutageError
from autopilot.git import objects
from autopilot.git.repository import Repository
from autopilot.proof.measuring_worker import Failure, noisy_metrics, recorded_calls
from autopilot.proof.rerun_protocol import EpochAgain, Request, StepAgain
from autopilot.sandbox.inputs import Inputs
from autopilot.sandbox.offline import Offline
from autopilot.sandbox.processes import Send, answer_with
from autopilot.sandbox.surroundings import Surroundings
from autopilot.sandbox.workspace import Link, Workspace
from autopilot.tracking.git_memory import GitMemory
from autopilot.tracking.git_store import GitStore
from autopilot.tracking.journal import Journal
from autopilot.tracking.layout import Layout
from autopilot.tracking.notebook import Notebook
from autopilot.tracking.recall import block_after_by_epoch
from autopilot.tracking.scope import Scope, scope_of


class _SameEpochs(EpochLoop):
    """As many epochs as were recorded: what stopped a session then is not asked."""

    def __init__(self, last: int) -> None:
        self._last = last

    def run(self, fit: Fit) -> str:
        trainer = fit.trainer
        self.baseline(fit)
        trainer.call("on_train_start")
        while trainer.experiment.last_epoch < self._last:
            trainer.is_done(fit)
            trainer.stop_reason = ""
            self.epoch(fit, trainer.experiment.last_epoch + 1)
        trainer.call("on_train_end")
        return ""


class _Tidy(Guard):
    """What a step wrote beside the parameters is gone after it, as it was when it was recorded.

    Nobody is let in here who is not trusted: agents that are programs are not run.
    """

    def __init__(self, workspace: Workspace, scopes: Sequence[Scope], inputs: Inputs) -> None:
        repo = workspace.repo
        tree = objects.tree_of(repo, repo.head_commit())
        copies = workspace.private / "copies"
        self._surroundings = Surroundings(repo, scopes, tree, copies)
        self._inputs, self._is_confined = inputs, False

    @property
    def listens(self) -> bool:
        """Whether what is read now belongs to an evaluation."""
        return self._inputs.listens

    @listens.setter
    def listens(self, listens: bool) -> None:
        self._inputs.listens = listens

    def confine(self) -> None:
        if not self._is_confined:
            self._surroundings.look()
            self._is_confined = True

    def put_back(self) -> list[str]:
        if not self._is_confined:
            return []
        self._is_confined = False
        return self._surroundings.put_back(lambda _name: True)

    def inputs(self, known: Iterable[str] = ()) -> Mapping[str, str]:
        return self._inputs.blobs(known)


class _Teller(Callback):
    """Tells each epoch, and brings in what a person did to the memory at that time."""

    def __init__(
        self,
        repo: Repository,
        send: Send,
        calls: list[LlmRecord],
        by_hand: list[Lesson],
        rules: Mapping[int, int],
    ) -> None:
        self._repo, self._rules = repo, rules
        self._send, self._calls, self._by_hand = send, calls, by_hand
        self._steps: list[StepAgain] = []
        self._since = time.monotonic()

    def on_fit_start(self, trainer: Trainer, module: AutoPilotModule) -> None:
        trainer.experiment.store.annotate(trainer.experiment.store.tip, self._calls)

    def on_step_committed(
        self, trainer: Trainer, module: AutoPilotModule, record: StepRecord
    ) -> None:
        store = trainer.experiment.store
        tree = objects.tree_of(self._repo, store.tip) if record.changed else ""
        step = StepAgain(record.step, tree, record.gradients, record.strategy, record.error)
        self._steps.append(step)

    def on_epoch_recorded(
        self, trainer: Trainer, module: AutoPilotModule, record: MetricsRecord
    ) -> None:
        seconds = time.monotonic() - self._since
        told = EpochAgain(
            number=record.epoch,
            tree=record.tree,
            verdict=record.verdict,
            best_epoch=record.best_epoch,
            metrics=dict(trainer.experiment.metrics[record.epoch]),
            steps=tuple(self._steps),
            inputs=record.inputs,
            seconds=seconds,
            noisy=noisy_metrics(module, trainer.experiment.metrics[record.epoch]),
        )
        self._send(told.encode())
        self._steps, self._since = [], time.monotonic()
        for lesson in self._by_hand:
            if lesson.epoch == record.epoch:
                trainer.experiment.memory.learn(lesson)
        if record.epoch in self._rules:
            trainer.experiment.memory.reconsider(self._rules[record.epoch])


def rerun(request: Request, send: Send) -> None:
    """Runs an experiment again, in this process."""
    user, repo = Repository.discover(Path(request.user)), Repository.discover(Path(request.place))
    notebook, manifest = Notebook(user, request.slug, request.tip), request.manifest
    calls, by_hand = recorded_calls(user, request.slug), _by_hand(notebook)
    links = tuple(Link(n, Path(source), repo.workdir / n) for n, source in request.links)
    workspace, offline = Workspace(user, repo, manifest.directory, links=links), Offline()
    workspace.enter()
    inputs = Inputs(repo, repo.head_commit(), [(x.name, x.source) for x in links], in_place=False)
    inputs.open()
    offline.begin()
    module = load_target(manifest.target, workspace.folder, manifest.hparams, AutoPilotModule)
    workspace.check_imports()
    store = GitStore(request.slug, repo.workdir, in_place=False, include_dirty=True)
    rules = block_after_by_epoch(notebook)
    experiment = Experiment(store, GitMemory(store, rules[0]), manifest)
    scopes = inputs.scopes = [scope_of(repo, parameter) for parameter in module.parameters()]
    experiment.guard = _Tidy(workspace, scopes, inputs)
    experiment.only_recorded = True
    experiment.repeats = _steps(notebook)
    experiment.known_noise = notebook.noise
    options = options_of(notebook)
    trainer = Trainer(
        callbacks=[*_limits(options), _Teller(repo, send, calls, by_hand, rules)],
        loop=_SameEpochs(request.last),
        experiment=experiment,
        accumulate_grad_batches=options.accumulate,
        monitor=options.monitor,
        mode=options.mode,
        failed_value=options.failed_value,
        seed=manifest.seed,
        num_workers=options.num_workers or 0,
        measure_noise=options.measure_noise,
        repeat=options.repeat or 1,
        max_wait_s=0,
    )
    with users_code(manifest.target):
        try:
            trainer.fit(module)
            if request.test:
                found = {**trainer.test(module).metrics, "baseline": experiment.metrics[0]["test"]}
                noisy = noisy_metrics(module, found)
                send(EpochAgain(-1, metrics=found, noisy=noisy).encode())
        except OutageError:
            # The user's code may have made that of a refused connection.
            offline.check()
            raise
        finally:
            store.close()
        offline.check()


def _limits(options: Options) -> list[Callback]:
    """The budget: it stops nothing here, but optimizers are told what is left of it."""
    return [c for c in options.conditions(alone=False) if isinstance(c, Budget)]


def _by_hand(notebook: Notebook) -> list[Lesson]:
    line = {commit.id for commit in notebook.commits}
    lessons = Journal(notebook.repo, Layout(notebook.slug)).read(Lesson)
    found = [lesson for commit, lesson in lessons if commit in line and lesson.by_hand]
    return sorted(found, key=lambda lesson: lesson.id)


def _steps(notebook: Notebook) -> dict[tuple[int, int], tuple[str, StepRecord]]:
    line = {commit.id for commit in notebook.commits}
    records = Journal(notebook.repo, Layout(notebook.slug)).read(StepRecord)
    return {(r.epoch, r.step): (commit, r) for commit, r in records if commit in line}


def main() -> None:
    """Answers one request."""

    def answer(request: bytes, send: Send) -> None:
        try:
            rerun(TypeAdapter(Request).validate_python(json.loads(request)), send)
        except AutopilotError as error:
            send(EpochAgain(-1, failure=Failure.of(error)).encode())

    answer_with(answer)


if __name__ == "__main__":
    main()
