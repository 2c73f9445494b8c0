"""A process that evaluates states: whole splits to prove a claim, and blocks for other machines."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any, ClassVar

from autopilot.ai.model.recording import StoreRecorder
from autopilot.core.comparison import keyed
from autopilot.core.experiment import Experiment
from autopilot.core.graph import no_grad
from autopilot.core.interpreter import Interpreter, Restart, seed_of
from autopilot.core.module import AutoPilotModule
from autopilot.core.outages import infrastructure_in
from autopilot.core.progress import Position
from autopilot.core.records.ledger import Ledger
from autopilot.core.records.record import LlmRecord, ProgressNote
from autopilot.core.run import Run, running, state_line
from autopilot.core.store import InMemoryStore, Store
from autopilot.core.trainer import Trainer
from autopilot.core.types import Datum
from autopilot.core.writing import trace_record
from autopilot.engine import relay
from autopilot.engine.bench import Bench
from autopilot.engine.board import Child
from autopilot.engine.fresh import ItemLimits, importing_state
from autopilot.engine.loading import users_code
from autopilot.engine.options import Options
from autopilot.engine.wire import Answer, Block
from autopilot.errors import EvaluationError, NoMoreCallsError, OutageError, ReplayMissError
from autopilot.git import refs
from autopilot.git.repository import Repository
from autopilot.proof.measuring import Measurement, MeasureTask, Task, noisy_metrics
from autopilot.sandbox.audit_hooks import Inputs
from autopilot.sandbox.offline import Offline
from autopilot.tracking.journal import Journal, ProgressFile
from autopilot.tracking.layout import Layout

Say = Callable[[object], None]
_MOMENTS = {"train": "train", "val": "validation", "test": "test"}
_STAGES = {"train": "fit", "val": "fit", "test": "test"}


@dataclass(frozen=True, slots=True)
class BlockTask(Task):
    """Evaluate a block of the commit that is checked out. The answer is one Answer."""

    block: Block


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


class _BlockStore(_LastingStore):
    """Keeps model calls that are paid, too."""

    def note_call(self, call: LlmRecord) -> None:
        self._file.write(call)

    def calls(self) -> list[LlmRecord]:
        return self._file.read(LlmRecord)


class _Replies(StoreRecorder):
    """Knows the replies that came with a block, and those in the experiment's notes.

    Attributes:
        needs: The names of replies that are known to the run alone.
    """

    _noted: ClassVar[dict[str, list[LlmRecord]]] = {}

    def __init__(self, store: Store, block: Block, user: Repository) -> None:
        super().__init__(store, "record", block.calls)
        self._block, self._user, self.needs = block, user, list[str]()
        self._is_read = False

    def _find(self, key: str) -> LlmRecord | None:
        if (found := super()._find(key)) is not None:
            return found
        if key in self._block.known:
            self.needs.append(key)
            raise NoMoreCallsError("a recorded reply is with the run", hint="it is sent along")
        if not self._is_read:
            # Few blocks ask a model anything that is not asked anew.
            slug, self._is_read = self._block.manifest.slug, True
            tip = refs.read_ref(self._user, Layout(slug).notes("llm")) or ""
            if tip not in self._noted:
                self._noted.clear()
                self._noted[tip] = recorded_calls(self._user, slug) if tip else []
            self._known = {call.id: call for call in self._noted[tip]} | self._known
        return super()._find(key)


class States:
    """Measures states that differ in no file that Python may import."""

    def __init__(self, child: Child) -> None:
        self._child, self._offline = child, Offline()
        self._bench: Bench | None = None
        self._calls: list[LlmRecord] | None = None
        self._read = set[str]()
        self._loaded, self._begun = "", ("", 0, 0)

    def measure(self, task: MeasureTask, file: ProgressFile, say: Say) -> Measurement:
        """Evaluates the commit that is checked out now."""
        offline, workspace = self._offline, task.workspace
        bench, before, commit = self._load(task, live=task.live)
        store = _LastingStore(task.slug, file, bench.inputs)
        if self._calls is None:
            is_new = task.live or task.repeat
            self._calls = [] if is_new else recorded_calls(workspace.user, task.slug)
        for call in self._calls:
            store.note_call(call)
        seed = seed_of(task.manifest.seed, task.repeat)
        with self._ready(task, bench, store, say, task.epoch, seed, live=task.live) as trainer:
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
            for lack in workspace.lacks("\n".join([*wrong, self._child.absent()])):
                say(lack)
        has_value = trainer.monitored.has_value
        read = bench.inputs.parameter_files()
        known = {name for name in self._read if (workspace.repo.workdir / name).exists()}
        self._read |= read
        if before is not None:
            bench.inputs.take_in(before)
        traces = [trace_record(task.epoch, split, data) for split, data in items.items()]
        results = {t.split: tuple(replace(t, items=plain(t.items)).data()) for t in traces}
        return Measurement(
            commit,
            plain(metrics),
            results,
            {s: frozenset(compress(keyed(results[s]), map(has_value, items[s]))) for s in items},
            bench.inputs.blobs(),
            noisy=noisy_metrics(bench.module, metrics),
            is_stale=bool(known - read),
        )

    def evaluate(self, task: BlockTask, file: ProgressFile, say: Say) -> Answer:
        """Evaluates a block in the state of the commit that is checked out now, as its run does."""
        block, at = task.block, task.block.position
        if self._bench is None or self._loaded != block.commit:
            self._load(task, live=True)
            self._begun, self._loaded = ("", 0, 0), block.commit
        assert self._bench is not None, "just loaded"
        bench, module = self._bench, self._bench.module
        store = _BlockStore(task.slug, file, bench.inputs)
        held = [*module.modules(), *module.parameters()]
        recorder, error = _Replies(store, block, task.workspace.user), b""
        with self._ready(task, bench, store, say, at.epoch) as trainer:
            experiment, run = trainer.experiment, trainer.run
            run.pay_from(Ledger.of_loan(block.loan))
            run.provide(StoreRecorder, recorder)
            (run.epoch, run.candidate, run.step_number), run.line = block.place, block.line
            parts: dict[int, Datum] = pickle.loads(block.parts)
            evaluator = trainer.evaluator(module, experiment)
            results: dict[int, Datum] = {}
            with running(run), run.repeating(at.repeat):
                try:
                    with contextlib.nullcontext() if at.split == "train" else no_grad():
                        self._begin(run, module, at, parts)
                        results = evaluator.at_worker(at, parts)
                except (KeyboardInterrupt, Restart):
                    raise
                except BaseException as raised:  # noqa: BLE001  # raised in the run
                    found = infrastructure_in(raised, run.outages.types)
                    error = relay.pack_error(found or raised)
                finally:
                    evaluator.close()
        bench.workspace.check_imports()
        aside = trainer.failures, run.notes, experiment.violations
        value = b""
        if not error:
            try:
                told = results, aside, self._gathered(bench, block)
                value = relay.pickled(told, held, hides=True)
            except Exception as unsent:  # noqa: BLE001  # the user's own objects are pickled
                why = relay.unsent(unsent, next(iter(results.values())))
                hint = "give plain values, or leave out --executor"
                error = relay.pack_error(EvaluationError(why, hint=hint))
        return Answer(value, error, tuple(store.calls()), tuple(recorder.needs))

    @contextlib.contextmanager
    def _ready(
        self,
        task: Task,
        bench: Bench,
        store: Store,
        say: Say,
        epoch: int,
        seed: int | None = None,
        *,
        live: bool = True,
    ) -> Iterator[Trainer]:
        """In the body, the state is evaluated as in its run."""
        child, options = self._child, Options(**task.manifest.options)
        experiment = Experiment(store, manifest=task.manifest)
        # The only state here is that of the commit.
        for why in child.broken.values():
            experiment.interpreter = Interpreter(why)
        experiment.only_recorded = not live
        trainer = bench.trainer(experiment, options, seed=seed, max_wait_s=0)
        ItemLimits.of(options, bench.module).hold_on(child.board)
        with evaluating(bench, say, self._offline):
            trainer.prepare(bench.module)
            experiment.open(bench.module.parameters())
            experiment.progress.load(epoch)
            for death in child.deaths:
                experiment.progress.note_death(death)
            experiment.positions = child.board
            yield trainer

    def _begin(
        self, run: Run, module: AutoPilotModule, at: Position, parts: Mapping[int, Datum]
    ) -> None:
        """Tells a module what a run tells it before it evaluates a batch."""
        moment = _MOMENTS[at.split]
        module.train(at.split == "train")
        if (begun := (at.split, at.epoch, at.repeat)) != self._begun:
            self._begun = begun
            run.hooks.call_module("setup", _STAGES[at.split])
            run.hooks.call_module(f"on_{moment}_start")
            run.hooks.call_module(f"on_{moment}_epoch_start")
        items = [item for part in parts.values() for item in part.leaves()]
        batch = parts[-1] if -1 in parts else Datum(items=items)
        run.hooks.call_module(f"on_{moment}_batch_start", batch, at.number)

    def _gathered(self, bench: Bench, block: Block) -> Any:
        """The files that were read since the last time, by their places in the run's worktree."""
        here, gathered = str(bench.workspace.repo.workdir), bench.inputs.gathered()
        found = tuple(
            {path.replace(here, block.workdir, 1) for path in several} for several in gathered
        )
        bench.inputs.begin_apart()
        return found

    def _load(self, task: Task, *, live: bool) -> tuple[Bench, Any, str]:
        """Loads the target as the files are now.

        Returns:
            The bench, the files that were read in states before, if there were, and the commit.
        """
        workspace, manifest, before = task.workspace, task.manifest, None
        ItemLimits.of(Options(**manifest.options)).hold_on(self._child.board)  # of the import, too
        commit = workspace.repo.head_commit()
        with importing_state(self._child, workspace, manifest, commit):
            if (bench := self._bench) is None:
                offline = None if live else self._offline
                bench = self._bench = Bench(workspace, manifest, commit, offline)
            else:
                os.chdir(workspace.folder)  # it may have been removed and made anew
                before = bench.inputs.gathered()
                bench.inputs.begin_apart()
                bench.load()
        return bench, before, commit


@contextlib.contextmanager
def evaluating(bench: Bench, say: Say, offline: Offline) -> Iterator[None]:
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


def recorded_calls(user: Repository, slug: str) -> list[LlmRecord]:
    """The model calls in the notes of an experiment."""
    return [call for _, call in Journal(user, Layout(slug)).read(LlmRecord)]


def plain(value: Any) -> Any:
    """JSON without the user's own classes, such as enums: nothing else can read them."""
    return json.loads(json.dumps(value))
