"""The fresh processes that evaluate a commit, or run an experiment again: `python -m` this module.

Fresh, since trees differ in code and Python loads a module once. A process reads a task, and
answers with messages; an error that ended it is its last message. States that differ in no
code may be measured by one process. Model calls, and agents that make their own, are answered from
the experiment's notes.
"""

from __future__ import annotations

import contextlib
import pickle
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, cast

from autopilot import errors
from autopilot.audit import leave
from autopilot.core.callback import Callback, RunView
from autopilot.core.experiment import Experiment
from autopilot.core.fit import Fit
from autopilot.core.loop import EpochLoop, Loop
from autopilot.core.module import AutoPilotModule
from autopilot.core.records.record import Lesson, MetricsRecord, Record, StepRecord
from autopilot.core.stopping import Budget
from autopilot.core.trying import TryLoop
from autopilot.engine.bench import Bench
from autopilot.engine.board import Child, Observer
from autopilot.engine.fresh import ItemLimits, importing_state, take_over
from autopilot.engine.options import Options
from autopilot.engine.supervisor import Supervisor
from autopilot.engine.wire import Answer
from autopilot.errors import AutopilotError, EvaluationError
from autopilot.git.commands import looking
from autopilot.proof.measuring import Measurement, MeasureTask, noisy_metrics
from autopilot.proof.rerun import RerunEpoch, RerunTask
from autopilot.proof.states import BlockTask, Say, States, evaluating, plain, recorded_calls
from autopilot.sandbox.confinement import InputsGuard
from autopilot.sandbox.offline import Offline
from autopilot.sandbox.processes import answer_with, further_request
from autopilot.sandbox.surroundings import Surroundings
from autopilot.tracking.attribution import every_step
from autopilot.tracking.git_store import GitStore
from autopilot.tracking.journal import ProgressFile
from autopilot.tracking.lines import decode, encode
from autopilot.tracking.memory import GitMemory, block_after_by_epoch
from autopilot.tracking.notebook import Notebook

R = TypeVar("R", bound=Record)
_TASK = "task"


def main() -> None:
    """Does one task."""

    def answer(request: bytes, send: Callable[[bytes], None], asker: int) -> None:
        def say(message: object) -> None:
            send(pickle.dumps(message))

        def fail(error: AutopilotError) -> None:
            # The user's own classes are not known where it is read.
            plain = getattr(errors, type(error).__name__, EvaluationError)(error.message)
            plain.hint, plain.user_traceback = error.hint, error.user_traceback
            say(plain)

        def work(child: Child) -> int:
            try:
                if isinstance(task, RerunTask):
                    _rerun(task, say, child)
                else:
                    _measure(Path(folder), say, child, asker)
            except AutopilotError as error:
                # Who asked may end these processes once it has its answer.
                shutil.rmtree(folder, ignore_errors=True)
                fail(error)
            shutil.rmtree(folder, ignore_errors=True)
            return 0

        with looking():  # the forked processes know its repositories
            task: MeasureTask | BlockTask | RerunTask = pickle.loads(request)
        # No TemporaryDirectory: a process that is forked here would remove it at its exit, before
        # the next one takes its place.
        folder = tempfile.mkdtemp(prefix="autopilot-")
        try:
            Path(folder, _TASK).write_bytes(request)
            code = Supervisor(work, Observer(), task.slug, (asker,)).run()
        except EvaluationError as error:
            error.hint = "run the target by hand to see where it ends"
            fail(error)
            code = 0
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if code:
            # What else ended it is printed; without a last answer, the asker says how it ended.
            sys.exit(code)

    answer_with(answer)


def _measure(folder: Path, say: Say, child: Child, asker: int) -> None:
    """Does the task of a folder, and further ones as they come, until something went wrong."""
    states = States(child)
    # There is none in a process that takes the place of one that had done all.
    while (file := folder / _TASK).exists():
        task: MeasureTask | BlockTask = pickle.loads(file.read_bytes())
        progress = folder / "progress"
        found: Measurement | Answer
        if isinstance(task, BlockTask):
            found = states.evaluate(task, ProgressFile(progress), say)
        else:
            found = states.measure(task, ProgressFile(progress), say)
        progress.unlink(missing_ok=True)
        file.unlink()
        say(found)
        is_worn = child.deaths or child.broken or child.lost_since_s
        if not is_worn and (more := further_request(asker)):
            file.write_bytes(more)


def _rerun(task: RerunTask, say: Say, child: Child) -> None:
    workspace, manifest, offline = task.workspace, task.manifest, Offline()
    repo, notebook = workspace.repo, Notebook(workspace.user, task.slug, task.tip)
    options, rules = Options(**manifest.options), block_after_by_epoch(notebook)
    ItemLimits.of(options).hold_on(child.board)
    # The repository is a borrowed one: no ref or note of the user's can be written.
    store = GitStore(task.slug, repo, in_place=False, include_dirty=True)
    base, tip = repo.head_commit(), store.tip
    with importing_state(child, workspace, manifest, tip or base):
        bench = Bench(workspace, manifest, base, offline)
    reporter = _RerunReporter(say, notebook, rules)
    learnt = {lesson.id: lesson for lesson in reporter.lessons if not lesson.by_hand}
    experiment = Experiment(store, GitMemory(store, rules[0], learnt), manifest)
    experiment.guard, experiment.died = _StepGuard(bench), child.deaths
    experiment.only_recorded = True
    experiment.repeats = {(r.epoch, r.candidate, r.step): (at, r) for at, r in every_step(notebook)}
    experiment.people.load(notebook.events, notebook.index.wishes, notebook.journal.read_on)
    experiment.known_noise = notebook.noise
    experiment.recorded, experiment.measured_before = notebook, notebook.measured
    experiment.trees_before = {row.number: row.trees for row in notebook.index.epochs}
    store.bind(bench.module.parameters())
    take_over(experiment, child, store.files, options.fresh or bench.module.fresh)
    ItemLimits.of(options, bench.module).hold_on(child.board)
    # The budget stops nothing here, but optimizers read how much of it is left.
    budget = [c for c in options.conditions(alone=False) if isinstance(c, Budget)]
    loop = _SameEpochs(task.last, TryLoop() if manifest.by_hand else options.loop())
    trainer = bench.trainer(experiment, options, [*budget, reporter], loop, max_wait_s=0)
    with contextlib.closing(store), evaluating(bench, say, offline):
        trainer.fit(bench.module)
        if task.test:
            test = trainer.test(bench.module).metrics
            found = plain({**test, "baseline": experiment.metrics[0]["test"]})
            say(RerunEpoch(None, found, noisy_metrics(bench.module, found)))


class _SameEpochs(Loop):
    """As many epochs as were recorded, whatever stopped the session then."""

    def __init__(self, last: int, loop: EpochLoop) -> None:
        self._last, self._loop = last, loop
        self.objectives = loop.objectives

    def run(self, fit: Fit) -> str:
        if fit.experiment.last_epoch < 0:
            self._loop.baseline(fit)
        fit.call("on_train_start")
        while fit.experiment.last_epoch < self._last:
            fit.is_done()
            fit.stop_reason = ""
            self._loop.epoch(fit, fit.experiment.last_epoch + 1)
        fit.call("on_train_end")
        return ""


class _StepGuard(InputsGuard):
    """Undoes the changes of a step beside the parameters, as the recorded run did.

    The guard of a run is for a linked worktree, and keeps agents out of its git folder. No agent is
    run here, and the repository is a borrowed one.
    """

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench.inputs)
        repo, copies = bench.workspace.repo, bench.workspace.private / "copies"
        self._surroundings = Surroundings(repo, bench.scopes, repo.head_commit(), copies)

    def confine(self) -> None:
        if not self._is_confined:
            self._surroundings.look()
            self._is_confined = True

    def put_back(self) -> list[str]:
        if not self._is_confined:
            return []
        self._is_confined = False
        return self._surroundings.put_back(lambda _name: True)


class _RerunReporter(Callback):
    """Reports each epoch, and makes the changes that a person made to the memory at that time."""

    def __init__(self, say: Say, notebook: Notebook, rules: Mapping[int, int]) -> None:
        self._say, self._rules = say, rules
        self._calls = recorded_calls(notebook.repo, notebook.slug)
        lessons = (lesson for _, lesson in notebook.records(Lesson))
        self.lessons = sorted(lessons, key=lambda lesson: lesson.id)
        self._by_hand = [lesson for lesson in self.lessons if lesson.by_hand]
        self._steps: list[tuple[StepRecord, str]] = []
        self._since = time.monotonic()

    def on_fit_start(self, trainer: RunView, module: object) -> None:
        experiment = trainer.experiment
        if experiment.last_epoch < 0:
            experiment.store.annotate(experiment.store.tip, self._calls)
        # A process that goes on where another one ended begins with the rule of that time.
        for epoch in sorted(n for n in self._rules if 0 < n <= experiment.last_epoch):
            experiment.memory.reconsider(self._rules[epoch])

    def on_step_committed(self, trainer: RunView, module: object, record: StepRecord) -> None:
        # Not of the tip: after a restart, steps are taken over of which a later one is the tip.
        tree = trainer.experiment.store.state() if record.changed else ""
        # The optimizer's state is not compared, and may be large.
        self._steps.append((_recorded(replace(record, state={})), tree))

    def on_epoch_recorded(
        self, trainer: RunView, module: AutoPilotModule, record: MetricsRecord
    ) -> None:
        metrics = plain(dict(trainer.experiment.metrics[record.epoch]))
        noisy, seconds = noisy_metrics(module, metrics), time.monotonic() - self._since
        small, steps = _recorded(replace(record, state={})), tuple(self._steps)
        self._say(RerunEpoch(small, metrics, noisy, steps, seconds))
        self._steps, self._since = [], time.monotonic()
        for lesson in self._by_hand:
            if lesson.epoch == record.epoch:
                trainer.experiment.memory.learn(lesson)
        if record.epoch in self._rules:
            trainer.experiment.memory.reconsider(self._rules[record.epoch])


def _recorded(record: R) -> R:
    """A record as its note gives it back."""
    return cast("R", next(decode(encode(record))))


if __name__ == "__main__":
    main()
    leave(0)
