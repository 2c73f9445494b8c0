"""A run's side of more than one machine: blocks are handed to an executor, and their results taken.

A block that is lost is measured again; an answer is taken as a whole and once, or not at all.
"""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from autopilot.ai.model.recording import StoreRecorder, keep_lost
from autopilot.core.experiment import Experiment
from autopilot.core.failures import Failures
from autopilot.core.interpreter import Machines, Result
from autopilot.core.module import AutoPilotModule
from autopilot.core.progress import Death, Position
from autopilot.core.records.ledger import Reservation
from autopilot.core.records.record import LlmRecord, Manifest
from autopilot.core.run import current_run
from autopilot.core.types import Datum
from autopilot.engine import relay
from autopilot.engine.executors import HERE, NO_WORKER_S, executor_of, has_worker, is_ready, submit
from autopilot.engine.options import Options
from autopilot.engine.wire import Answer, Block, Commits, as_request, at_worker
from autopilot.errors import BudgetExceededError, NoMoreCallsError, RemoteError, UsageError
from autopilot.git import refs, remotes
from autopilot.git.repository import Repository
from autopilot.sandbox.audit_hooks import Inputs
from autopilot.sandbox.workspace import Workspace
from autopilot.tracking.git_store import GitStore
from autopilot.tracking.layout import Layout
from autopilot.tracking.parameters import scope_of

_LOOK_S, _LOSSES_AT_MOST = 1.0, 3


@dataclass(slots=True)
class _Handed:
    """A block that an executor has."""

    position: Position
    parts: Mapping[int, Datum]
    future: Future[bytes]
    held: Reservation | None
    losses: int = 0
    needs: tuple[str, ...] = ()
    is_alone: bool = False
    refusal: UsageError | None = None
    answer: tuple[Answer | None, str] | None = None


def _release(handed: Sequence[_Handed]) -> None:
    for held in filter(None, (each.held for each in handed)):
        held.settle(None)


def workers_of(
    options: Options,
    experiment: Experiment,
    module: AutoPilotModule,
    workspace: Workspace,
    manifest: Manifest,
    inputs: Inputs,
) -> Workers | None:
    """The workers that a run asks for; None where it measures here.

    Raises:
        UsageError: there are none, or it measures what no commit has.
    """
    spec = options.executor
    if spec is None or spec == HERE or not is_ready(spec):
        return None
    name, links = f"--executor {spec}", manifest.links
    if manifest.in_place:
        raise UsageError(f"{name} measures commits, not a checkout", hint="leave out --in-place")
    if links and options.origin:
        why = f"--link {links[0]}: a worker that fetches from --origin has no ignored files"
        raise UsageError(why, hint="let the evaluation read it by a path that workers have")
    if options.origin in remotes.remotes(workspace.user):
        why = f"--origin {options.origin}: workers do not know the remotes of this repository"
        raise UsageError(why, hint=f"give its address: git remote get-url {options.origin}")
    executor = executor_of(spec, options.jobs)
    held = replace(manifest, options=options.given())
    user, workdir = workspace.user, str(workspace.repo.workdir)
    return Workers(executor, experiment, module, user, held, inputs, name, workdir)


def hire(
    executor: Executor, experiment: Experiment, module: AutoPilotModule, num_workers: int
) -> Workers:
    """The workers of an executor that a program gives its Trainer, once one has measured nothing.

    Raises:
        UsageError: none answers, or it cannot know what to measure.
    """
    store, manifest = experiment.store, experiment.manifest
    if not isinstance(store, GitStore) or not manifest.target:
        raise UsageError(
            "workers measure commits, and the experiment has none that names the module",
            hint="Experiment(GitStore('name'), manifest=Manifest(slug='name', target='FILE.py'))",
        )
    base = manifest.base or store.repo.head_commit()
    options = dict(manifest.options) | ({"num_workers": num_workers} if num_workers else {})
    scopes = {str(n): scope_of(store.repo, p) for n, p in enumerate(module.parameters())}
    manifest = replace(
        manifest,
        slug=store.slug,
        base=base,
        options=options,
        parameters={number: scope.path for number, scope in scopes.items()},
        patterns={number: scope.parameter.pattern for number, scope in scopes.items()},
    )
    workers = Workers(executor, experiment, module, store.repo, manifest)
    workers.check()
    return workers


class Workers(Machines):
    """The workers of an executor, for one process of an experiment.

    Args:
        manifest: The experiment's, with the options that hold.
        inputs: Learns which files were read.
    """

    def __init__(
        self,
        executor: Executor,
        experiment: Experiment,
        module: AutoPilotModule,
        repo: Repository,
        manifest: Manifest,
        inputs: Inputs | None = None,
        name: str = "the executor",
        workdir: str = "",
    ) -> None:
        self._executor, self._experiment, self._repo = executor, experiment, repo
        self._held = [*module.modules(), *module.parameters()]
        self._inputs, self._name, self._jobs = inputs, name, manifest.options.get("jobs") or 0
        self.by_item = bool(self._jobs)
        self._count()
        # Its items have processes, each at a worker.
        own = dict(manifest.options) | ({"jobs": 1} if self.by_item else {})
        self._manifest = replace(manifest, options=own)
        # Candidates are measured side by side, and each deletes what it has pushed.
        side = experiment.now.side
        self._commits = Commits(repo, manifest, side.name if side else "run")
        self._workdir = workdir or str(repo.workdir)
        self._begun = dict[tuple[str, int, int, int], list[_Handed]]()

    # --- before anything is paid ------------------------------------------------------------

    def check(self, commit: str = "") -> None:
        """Lets a worker show that it can measure: the branch's tip, or the base, if not given.

        Raises:
            UsageError: none answers, or it cannot; why, in one line.
        """
        tip = refs.read_ref(self._repo, Layout(self._manifest.slug).branch)
        if is_first := not commit:
            self._commits.clear()
        commit = commit or tip or self._manifest.base
        self._commits.publish(commit)
        block = Block(self._commits.source, commit, self._manifest)
        answer, hint = None, "a worker needs Python, autopilot and git"
        try:
            answer, why, hint = pickle.loads(self._submit(block).result(NO_WORKER_S))
        except TimeoutError:
            why, hint = f"no worker within {NO_WORKER_S:g} s", "start workers, or wait for them"
        except Exception as error:  # noqa: BLE001  # an executor's, of any kind
            why = f"{type(error).__name__}: {error}".partition("\n")[0]
        if answer is None:
            if is_first:
                self._commits.clear()
            raise UsageError(f"{self._name}: {why}", hint=hint)

    # --- blocks -----------------------------------------------------------------------------

    def begin(self, position: Position, parts: Mapping[int, Datum]) -> None:
        if not position.number:
            self._count()
        with contextlib.suppress(ConnectionError):  # `finish` hands it over, and is waited for
            self._begun[position.batch] = self._hand_over(position, parts)

    def finish(
        self,
        position: Position,
        parts: Mapping[int, Datum],
        finished: Callable[[int, Result], None],
    ) -> None:
        open_ = self._begun.pop(position.batch, None)
        open_ = self._hand_over(position, parts) if open_ is None else open_
        failure: BaseException | None = None
        while open_:
            try:
                done, _ = wait([each.future for each in open_], _LOOK_S, FIRST_COMPLETED)
                if not done:
                    self._look()
                for each in [each for each in open_ if each.future in done]:
                    open_.remove(each)
                    answer, _ = self._answer(each)
                    if failure is None or (answer and answer.value and not answer.needs):
                        open_ += self._take(each, parts, finished)
            except BaseException as error:  # noqa: BLE001  # raised below, once others are over
                failure = failure or error
                if isinstance(error, ConnectionError) or self._has_ended():
                    _release(open_)
                    break
                # A block in progress may have paid for calls: it is waited for.
                _release(over := [each for each in open_ if each.future.cancel()])
                open_ = [each for each in open_ if each not in over]
        if failure is not None:
            raise failure

    def drop(self) -> None:
        left = [each for several in self._begun.values() for each in several]
        self._begun.clear()
        for each in left:
            with contextlib.suppress(Exception):
                if not each.future.cancel():
                    self._answer(each)
        _release(left)

    def close(self) -> None:
        """Ends it: the executor too, and what was pushed for it is deleted."""
        self.drop()
        self._executor.shutdown()
        self._commits.clear()

    def _look(self) -> None:
        """Raises ConnectionError where there is no worker, or an end where none can come."""
        if self._has_ended():
            why = f"{self._name}: the process of its workers has ended"
            raise NoMoreCallsError(why, hint=f"autopilot resume {self._manifest.slug}")
        if not has_worker(self._executor):
            raise ConnectionError(f"{self._name} has no worker")

    def _has_ended(self) -> bool:
        return getattr(self._executor, "has_ended", False)

    def _count(self) -> None:
        most = getattr(self._executor, "_max_workers", None) or os.cpu_count()  # it may have grown
        self._blocks = self._jobs or most or 1
        self.width = 2 if self.by_item else self._blocks + 1

    def _hand_over(self, position: Position, parts: Mapping[int, Datum]) -> list[_Handed]:
        numbers = sorted(parts)
        size = ceil(len(numbers) / (2 * self._blocks)) if self.by_item else 1
        handed = list[_Handed]()
        try:
            for at in range(0, len(numbers), size):
                some = {n: parts[n] for n in numbers[at : at + size]}
                handed.append(self._hand(position, some))
        except ConnectionError:
            _release(handed)
            raise
        return handed

    def _hand(
        self, position: Position, parts: Mapping[int, Datum], before: _Handed | None = None
    ) -> _Handed:
        experiment, run = self._experiment, current_run()
        commit = self._commits.present(self._experiment)
        try:
            self._commits.publish(commit)
        except RemoteError as error:
            raise ConnectionError(error.message) from error
        block = Block(
            self._commits.source,
            commit,
            self._manifest,
            replace(position, is_running=False),
            pickle.dumps(dict(parts)),
            workdir=self._workdir,
        )
        held, needs = None, before.needs if before else ()
        if run is not None and experiment.is_open:
            share = 1 if before and before.is_alone else self._blocks + 1
            calls = [*experiment.store.calls(), *experiment.now.lent]
            loan, held = run.ledger.lend(share)
            known, given = frozenset(c.id for c in calls), StoreRecorder.of(run).named(needs)
            more: dict[str, Any] = {"place": run.place, "line": run.line, "loan": loan}
            block = replace(block, calls=tuple(given), known=known, **more)
        losses, alone = (before.losses, before.is_alone) if before else (0, False)
        try:
            future = self._submit(block)
        except ConnectionError:
            if held is not None:
                held.settle(None)
            raise
        return _Handed(position, parts, future, held, losses, needs, alone)

    def _submit(self, block: Block) -> Future[bytes]:
        try:
            return submit(self._executor, at_worker, as_request(block))
        except Exception as error:  # an executor's, of any kind
            if self._has_ended():
                self._look()
            why = getattr(error, "message", f"{self._name} takes no work: {error}")
            raise ConnectionError(why) from error

    def _answer(self, each: _Handed) -> tuple[Answer | None, str]:
        """The answer to a block, whose calls are recorded; else why it was lost; or as `_look`."""
        if each.answer is None:
            while not wait([each.future], _LOOK_S).done:
                self._look()
            answer, why = None, ""
            try:
                answer, why, hint = pickle.loads(each.future.result())
                each.refusal = UsageError(f"{self._name}: {why}", hint=hint) if why else None
            except Exception as error:  # noqa: BLE001  # an executor's, of any kind
                why = f"{type(error).__name__}: {error}".partition("\n")[0]
                if type(error).__name__ == "KilledWorker":  # Dask has tried it often enough
                    each.losses = _LOSSES_AT_MOST
            finally:
                if each.held is not None:
                    each.held.settle(None)
            each.answer = answer, why
            if answer is not None and (needs := self._record(answer.calls)):
                each.answer = replace(answer, needs=(*answer.needs, *needs)), why
        return each.answer

    def _record(self, calls: Sequence[LlmRecord]) -> list[str]:
        """Records and charges calls; the names of those that another block has other replies to."""
        if not calls or (run := current_run()) is None:
            return []
        recorder, others = StoreRecorder.of(run), list[str]()
        for call in calls:
            known = recorder.named([call.id])
            if known:
                keep_lost(call.role, call.model, call.cost, "made twice", priced=call.priced)
                others += [call.id] * (known[0].reply != call.reply)
            else:
                recorder.keep(call)
            run.ledger.charge(call.role, call.cost, known=call.priced, judged=False)
        return others

    def _take(
        self, each: _Handed, parts: Mapping[int, Datum], finished: Callable[[int, Result], None]
    ) -> list[_Handed]:
        """Takes a block's results; returns what has to be waited for instead."""
        answer, why = self._answer(each)
        if answer is None:
            return self._lost(each, why, finished)
        if answer.needs:
            each.needs = tuple({*each.needs, *answer.needs})
            return [self._hand(each.position, each.parts, each)]
        if answer.error:
            error = relay.unpack_error(answer.error)
            if isinstance(error, BudgetExceededError) and not each.is_alone:
                # It had a share of what is left: it gets all of it once the others are over.
                for several in self._begun.values():
                    for other in several:
                        self._answer(other)
                each.is_alone = True
                each.needs = tuple({*each.needs, *(call.id for call in answer.calls)})
                return [self._hand(each.position, each.parts, each)]
            raise error
        results, aside, read = relay.unpickled(answer.value, self._held)
        if self._inputs is not None:
            self._inputs.take_in(read)
        for number, data in results.items():
            if number in parts:
                finished(number, (data, aside))
                aside = Failures(), [], []
        return []

    def _lost(
        self, each: _Handed, why: str, finished: Callable[[int, Result], None]
    ) -> list[_Handed]:
        """A block whose worker was lost: it is measured again, some times."""
        self._look()
        each.losses += 1
        if each.losses < _LOSSES_AT_MOST:
            return [self._hand(each.position, each.parts, each)]
        try:
            self.check(self._commits.present(self._experiment))
        except UsageError as error:
            raise ConnectionError(error.message) from error
        if each.refusal:  # no fault of the items; before the baseline, no worker was ever right
            raise ConnectionError(why) if self._experiment.history else each.refusal
        if len(each.parts) > 1:
            # One of them may be what ends workers.
            each.losses = _LOSSES_AT_MOST - 1
            return [self._hand(each.position, {n: one}, each) for n, one in each.parts.items()]
        for number in each.parts:
            reason = f"its worker was lost {_LOSSES_AT_MOST} times ({why})"
            finished(number, Death(each.position, reason))
        return []
