"""The fresh processes that evaluate a commit, or run an experiment again: `python -m` this module.

Fresh, since trees differ in code and Python loads a module once. A process reads a task, and
answers with messages; an error that ended it is its last message. States that differ in no
code may be measured by one process. Model calls, and agents that make their own, are answered from
the experiment's notes.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any, TypeVar, cast

from autopilot import errors
from autopilot.audit import leave
from autopilot.core.callback import Callback, RunView
from autopilot.core.comparison import keyed
from autopilot.core.experiment import Experiment
from autopilot.core.fit import Fit
from autopilot.core.interpreter import Interpreter, seed_of
from autopilot.core.loop import EpochLoop, Loop
from autopilot.core.module import AutoPilotModule
from autopilot.core.records.record import (
    Lesson,
    LlmRecord,
    MetricsRecord,
    ProgressNote,
    Record,
    StepRecord,
)
from autopilot.core.run import state_line
from autopilot.core.stopping import Budget
from autopilot.core.store import InMemoryStore
from autopilot.core.trying import TryLoop
from autopilot.core.writing import trace_record
from autopilot.engine.bench import Bench
from autopilot.engine.board import Child, Observer
from autopilot.engine.fresh import ItemLimits, importing_state, take_over
from autopilot.engine.loading import users_code
from autopilot.engine.options import Options
from autopilot.engine.supervisor import Supervisor
from autopilot.errors import AutopilotError, EvaluationError, OutageError, ReplayMissError
from autopilot.git.commands import looking
from autopilot.git.repository import Repository
from autopilot.proof.measuring import Measurement, MeasureTask, noisy_metrics
from autopilot.proof.rerun import RerunEpoch, RerunTask
from autopilot.sandbox.audit_hooks import Inputs, Offline
from autopilot.sandbox.confinement import InputsGuard
from autopilot.sandbox.processes import answer_with, further_request
from autopilot.sandbox.surroundings import Surroundings
from autopilot.tracking.attribution import every_step
from autopilot.tracking.git_store import GitStore
from autopilot.tracking.journal import Journal, ProgressFile
from autopilot.tracking.layout import Layout
from autopilot.tracking.lines import decode, encode
from autopilot.tracking.memory import GitMemory, block_after_by_epoch
from autopilot.tracking.notebook import Notebook

R = TypeVar("R", bound=Record)
_TASK = "task"
_Say = Callable[[Measurement | RerunEpoch | AutopilotError | str], None]


def main() -> None:
    """Does one task."""

    def answer(request: bytes, send: Callable[[bytes], None], asker: int) -> None:
        def say(message: Measurement | RerunEpoch | AutopilotError | str) -> None:
            send(pickle.dumps(message))

        def fail(error: AutopilotError) -> None:
            # The user's own classes are not known where it is read.
            plain = getattr(errors, type(error).__name__, EvaluationError)(error.message)
            plain.hint, plain.user_traceback = error.hint, error.user_traceback
            say(plain)

        def work(child: Child) -> int:
            try:
                if isinstance(task, MeasureTask):
                    _measure(Path(folder), say, child, asker)
                else:
                    _rerun(task, say, child)
            except AutopilotError as error:
                # Who asked may end these processes once it has its answer.
                shutil.rmtree(folder, ignore_errors=True)
                fail(error)
            shutil.rmtree(folder, ignore_errors=True)
            return 0

        with looking():  # the forked processes know its repositories
            task: MeasureTask | RerunTask = pickle.loads(request)
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


class _LastingStore(InMemoryStore):
    """A store in memory whose results outlive the process."""

    def __init__(self, slug: str, file: ProgressFile, inputs: Inputs) -> None:
        super().__init__(slug)
        self._file, self._inputs = file, inputs

    def state(self) -> str:
        with self._inputs.deaf():
            return super().state()

    def edited(self) -> list[str]:
        with self._inputs.deaf():
            return super().edited()

    def note_progress(self, progress: ProgressNote) -> None:
        self._file.write(progress)

    def progress(self) -> list[ProgressNote]:
        return self._file.read(ProgressNote)


def _measure(folder: Path, say: _Say, child: Child, asker: int) -> None:
    """Does the task of a folder, and further ones as they come, until something went wrong."""
    states = _States(child)
    # There is none in a process that takes the place of one that had done all.
    while (file := folder / _TASK).exists():
        task: MeasureTask = pickle.loads(file.read_bytes())
        progress = folder / "progress"
        scores = states.measure(task, ProgressFile(progress), say)
        progress.unlink(missing_ok=True)
        file.unlink()
        say(scores)
        is_worn = child.deaths or child.broken or child.lost_since_s
        if not is_worn and (more := further_request(asker)):
            file.write_bytes(more)


class _States:
    """Measures states that differ in no file that Python may import."""

    def __init__(self, child: Child) -> None:
        self._child, self._offline = child, Offline()
        self._bench: Bench | None = None
        self._calls: list[LlmRecord] | None = None
        self._read = set[str]()

    def measure(self, task: MeasureTask, file: ProgressFile, say: _Say) -> Measurement:
        """Evaluates the commit that is checked out now."""
        child, offline, before = self._child, self._offline, None
        workspace, manifest = task.workspace, task.manifest
        options = Options(**manifest.options)
        ItemLimits.of(options).hold_on(child.board)  # of the import, too
        commit = workspace.repo.head_commit()
        with importing_state(child, workspace, manifest, commit):
            if (bench := self._bench) is None:
                bench = self._bench = Bench(
                    workspace, manifest, commit, None if task.live else offline
                )
            else:
                os.chdir(workspace.folder)  # it may have been removed and made anew
                before = bench.inputs.gathered()
                bench.inputs.begin_apart()
                bench.load()
        store = _LastingStore(task.slug, file, bench.inputs)
        if self._calls is None:
            is_new = task.live or task.repeat
            self._calls = [] if is_new else _recorded_calls(workspace.user, task.slug)
        for call in self._calls:
            store.note_call(call)
        experiment = Experiment(store, manifest=manifest)
        # The only state here is that of the commit.
        for why in child.broken.values():
            experiment.interpreter = Interpreter(why)
        experiment.only_recorded = not task.live
        seed = seed_of(manifest.seed, task.repeat)
        trainer = bench.trainer(experiment, options, seed=seed, max_wait_s=0)
        ItemLimits.of(options, bench.module).hold_on(child.board)
        with _evaluating(bench, say, offline):
            trainer.prepare(bench.module)
            experiment.open(bench.module.parameters())
            experiment.progress.load(task.epoch)
            for death in child.deaths:
                experiment.progress.note_death(death)
            experiment.positions = child.board
            try:
                found = {}
                for split in task.splits:
                    # The test split is scored at the end, on the best state.
                    trainer.run.line = state_line(task.state) if split == "val" else ""
                    found[split] = trainer.measure(bench.module, split, task.epoch)
            except ReplayMissError as miss:
                offline.check()
                if not task.repeat:
                    raise
                raise ReplayMissError(
                    "a repetition needs model replies of its own, and one of each is recorded",
                    hint="ask the model anew: --live",
                ) from miss
        workspace.check_imports()
        metrics = {split: measured.compute() for split, measured in found.items()}
        items = {split: measured.items for split, measured in found.items()}
        wrong = [each.error_message or "" for split in items.values() for each in split]
        if any(wrong):
            for lack in workspace.lacks("\n".join([*wrong, child.absent()])):
                say(lack)
        has_value = trainer.monitored.has_value
        read = bench.inputs.parameter_files()
        known = {name for name in self._read if (workspace.repo.workdir / name).exists()}
        self._read |= read
        if before is not None:
            bench.inputs.take_in(before)
        traces = [trace_record(task.epoch, split, data) for split, data in items.items()]
        plain = {t.split: tuple(replace(t, items=_plain(t.items)).data()) for t in traces}
        return Measurement(
            commit,
            _plain(metrics),
            plain,
            {s: frozenset(compress(keyed(plain[s]), map(has_value, items[s]))) for s in items},
            bench.inputs.blobs(),
            noisy=noisy_metrics(bench.module, metrics),
            is_stale=bool(known - read),
        )


@contextlib.contextmanager
def _evaluating(bench: Bench, say: _Say, offline: Offline) -> Iterator[None]:
    """In the body, the module is evaluated: strays are told, and refused connections raised."""
    with users_code(bench.manifest.target):
        try:
            yield
        except OutageError:
            # The user's code may have turned a refused connection into an outage.
            offline.check()
            raise
        finally:
            for stray in bench.children.strays():
                say(stray)
        offline.check()


def _recorded_calls(user: Repository, slug: str) -> list[LlmRecord]:
    return [call for _, call in Journal(user, Layout(slug)).read(LlmRecord)]


def _rerun(task: RerunTask, say: _Say, child: Child) -> None:
    workspace, manifest, offline = task.workspace, task.manifest, Offline()
    repo, notebook = workspace.repo, Notebook(workspace.user, task.slug, task.tip)
    options, rules = Options(**manifest.options), block_after_by_epoch(notebook)
    steps = list(every_step(notebook))
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
    experiment.repeats = {(r.epoch, r.candidate, r.step): (commit, r) for commit, r in steps}
    experiment.people.load(notebook.events, notebook.index.wishes, notebook.journal.read_on)
    experiment.known_noise = notebook.noise
    experiment.recorded, experiment.measured_before = notebook, notebook.measured
    store.bind(bench.module.parameters())
    take_over(experiment, child, store.files, options.fresh or bench.module.fresh)
    ItemLimits.of(options, bench.module).hold_on(child.board)
    # The budget stops nothing here, but optimizers read how much of it is left.
    budget = [c for c in options.conditions(alone=False) if isinstance(c, Budget)]
    loop = _SameEpochs(task.last, TryLoop() if manifest.by_hand else options.loop())
    trainer = bench.trainer(experiment, options, [*budget, reporter], loop, max_wait_s=0)
    with contextlib.closing(store), _evaluating(bench, say, offline):
        trainer.fit(bench.module)
        if task.test:
            test = trainer.test(bench.module).metrics
            found = _plain({**test, "baseline": experiment.metrics[0]["test"]})
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

    def __init__(self, say: _Say, notebook: Notebook, rules: Mapping[int, int]) -> None:
        self._say, self._rules = say, rules
        self._calls = _recorded_calls(notebook.repo, notebook.slug)
        lessons = (lesson for _, lesson in notebook.records(Lesson))
        self.lessons = sorted(lessons, key=lambda lesson: lesson.id)
        self._by_hand = [lesson for lesson in self.lessons if lesson.by_hand]
        self._steps: list[tuple[StepRecord, str]] = []
        self._since = time.monotonic()

    def on_fit_start(self, trainer: RunView, module: AutoPilotModule) -> None:
        experiment = trainer.experiment
        if experiment.last_epoch < 0:
            experiment.store.annotate(experiment.store.tip, self._calls)
        # A process that goes on where another one ended begins with the rule of that time.
        for epoch in sorted(n for n in self._rules if 0 < n <= experiment.last_epoch):
            experiment.memory.reconsider(self._rules[epoch])

    def on_step_committed(
        self, trainer: RunView, module: AutoPilotModule, record: StepRecord
    ) -> None:
        # Not of the tip: after a restart, steps are taken over of which a later one is the tip.
        tree = trainer.experiment.store.state() if record.changed else ""
        # The optimizer's state is not compared, and may be large.
        self._steps.append((_recorded(replace(record, state={})), tree))

    def on_epoch_recorded(
        self, trainer: RunView, module: AutoPilotModule, record: MetricsRecord
    ) -> None:
        metrics = _plain(dict(trainer.experiment.metrics[record.epoch]))
        noisy, seconds = noisy_metrics(module, metrics), time.monotonic() - self._since
        small, steps = _recorded(replace(record, state={})), tuple(self._steps)
        self._say(RerunEpoch(small, metrics, noisy, steps, seconds))
        self._steps, self._since = [], time.monotonic()
        for lesson in self._by_hand:
            if lesson.epoch == record.epoch:
                trainer.experiment.memory.learn(lesson)
        if record.epoch in self._rules:
            trainer.experiment.memory.reconsider(self._rules[record.epoch])


def _plain(value: Any) -> Any:
    """JSON without the user's own classes, such as enums: nothing else can read them."""
    return json.loads(json.dumps(value))


def _recorded(record: R) -> R:
    """A record as its note gives it back."""
    return cast("R", next(decode(encode(record))))


if __name__ == "__main__":
    main()
    leave(0)
