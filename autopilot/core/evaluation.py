"""Running a batch, each with a seed of its own; results that were recorded are not made again."""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from autopilot.audit import run_here
from autopilot.core import graph
from autopilot.core.exchanges import GivenItems
from autopilot.core.failures import Failures
from autopilot.core.interpreter import Aside, Jobs, Machines, Result, leave, seed_of
from autopilot.core.items import Batch, copied, singles_of
from autopilot.core.loss import Loss
from autopilot.core.outages import side_by_side
from autopilot.core.progress import Death, Position
from autopilot.core.records.record import ProgressNote
from autopilot.core.run import Run, current_run, is_infrastructure, say, state_line
from autopilot.core.scoring import Scoring, label, mistake_in, to_score
from autopilot.core.signatures import check_awaited
from autopilot.core.types import Datum
from autopilot.errors import EvaluationError, NoMoreCallsError, UsageError

if TYPE_CHECKING:
    from autopilot.core.experiment import Experiment
    from autopilot.core.module import AutoPilotModule

STEPS = {"train": "training_step", "val": "validation_step", "test": "test_step"}


class Evaluator:
    """Runs the batches of a split through a module's step.

    Args:
        experiment: Where results are recorded at once, and answered from after a kill.
        seed: The global generators of `random`, numpy and torch are seeded before each batch from
            (seed, split, epoch, batch), so that a repeated batch repeats its chance too.
        num_workers: Threads that run the items of a batch side by side, each as a batch of one;
            for systems that wait on the network. Chance drawn from `random` is not repeatable
            then, since the threads share it.
        loss: Scores the items that the module left unscored.
    """

    def __init__(
        self,
        module: AutoPilotModule,
        experiment: Experiment,
        seed: int,
        num_workers: int = 0,
        loss: Loss | None = None,
        scoring: Scoring | None = None,
        failures: Failures | None = None,
    ) -> None:
        self.module, self.experiment, self.seed = module, experiment, seed
        self.loss, self.scoring = loss, scoring or Scoring()
        self.failures = failures or Failures()
        self.given = GivenItems(self._change, module.parameters)
        if num_workers < 0:
            raise UsageError(
                f"num_workers must be 0 or more, not {num_workers}",
                hint="0: one item after the other, in this thread",
            )
        self._pool = ThreadPoolExecutor(num_workers) if num_workers > 1 else None

    def run(self, position: Position, batch: Datum) -> Datum:
        """The result of one batch, its items in order and under the batch's item ids.

        A recorded result is not made again. A service that does not answer is waited for.

        Args:
            position: Split, epoch, batch and measurement; each measurement has its own chance.

        Raises:
            EvaluationError: the step returned something other than a Datum with one for each item.
            OutageError: a service did not answer for too long.
        """
        data = self.experiment.recall(position, batch)
        if data is None:
            data = self._evaluated(position, batch)
        else:
            self.experiment.positions.at(position)
            if position.split == "train":
                graph.attach(self.module, batch, data)
        is_screen = position.split == "train" and not graph.is_grad_enabled()
        if not (position.repeat or is_screen):
            self.failures.add(position.split, data)
            self.given.add(position.split, data, batch)
        return data

    def _evaluated(self, position: Position, batch: Datum) -> Datum:
        split, epoch, index = position.split, position.epoch, position.number
        seed = seed_of(self.seed, position.repeat)
        running = replace(position, is_running=True, size=max(len(batch.items), 1))
        died = self.experiment.deaths(position, max(len(batch.items), 1))
        done: dict[int, Datum] = {}

        def pausing() -> None:
            # A pause is no time of an item.
            self.experiment.positions.at(position)

        def attempt() -> Datum:
            if self.experiment.machines is not None:
                return self._elsewhere(running, batch, died, done, self.experiment.machines)
            return self._here(running, batch, died, done)

        def score(loss: Loss) -> None:
            for at, results, items in to_score(running, data, batch, died):
                self.experiment.positions.at(at)
                chance = ("score",) if at.item < 0 else ("score", at.item)
                with self.experiment.seeded(seed, split, epoch, index, *chance):
                    run_here(loss.score, results, items)

        started = time.perf_counter()
        run = current_run() or Run(self.experiment)
        before = run.line
        try:
            if self.experiment.now.side is not None:
                # Candidates of one state share its results, whichever of them measured it.
                run.line = state_line(self.experiment.now.state)
            data = run.wait_out(attempt, pausing, progress=lambda: len(done))
            label(data, batch, position)
            self.scoring.apply(data)
            if self.loss is not None and type(self.loss).score is not Loss.score:
                run.wait_out(partial(score, self.loss), pausing)
                self.scoring.apply(data)
        finally:
            run.line = before
            self.experiment.positions.at(position)
        self._remember(position, batch, data, time.perf_counter() - started)
        return data

    def forget(self) -> None:
        """Forgets failures and items: an epoch begins."""
        self.failures.clear()
        self.given.clear()

    def ahead(
        self, given: Iterable[Batch], position: Position, window: int | None = None
    ) -> Iterator[Batch]:
        """Batches, of which other machines evaluate some before they are asked for.

        Args:
            position: Split, epoch and measurement.
            window: So many are evaluated in one state; None: all.
        """
        machines = self.experiment.machines
        if machines is None:
            yield from given
            return
        waiting = deque[Batch]()
        try:
            for index, batch, last in given:
                waiting.append((index, batch, last))
                at = replace(position, number=index, is_running=True, size=0)
                died = self.experiment.deaths(at, max(len(batch.items), 1))
                parts = self._parts(batch, died, machines)
                if parts and not self.experiment.has(at, batch):
                    machines.begin(at, parts)
                is_end = last or (window is not None and (index + 1) % window == 0)
                while waiting and (is_end or len(waiting) >= machines.width):
                    yield waiting.popleft()
        finally:
            machines.drop()

    def at_worker(self, position: Position, parts: Mapping[int, Datum]) -> dict[int, Datum]:
        """Evaluates what `Machines.begin` was given, as `run` does; the loss scores none of it."""
        done: dict[int, Datum] = {}
        items = [item for part in parts.values() for item in part.leaves()]
        running = replace(position, is_running=True, size=len(items))
        died = self.experiment.deaths(position, max(parts, default=0) + 1)
        if -1 in parts:
            return {-1: self._here(running, parts[-1], died, done)}
        whole = Datum(items=items)
        self._one_by_one(running, whole, died, done, self.experiment.jobs, parts=parts)
        return done

    def _here(
        self,
        running: Position,
        batch: Datum,
        died: Mapping[int, ProgressNote],
        done: dict[int, Datum],
    ) -> Datum:
        # Where this process died in the batch, the item is found by evaluating them here.
        jobs = None if -1 in died else self.experiment.jobs
        if jobs is not None:
            self.experiment.positions.at(replace(running, size=0))
            return self._one_by_one(running, batch, died, done, jobs)
        self.experiment.positions.at(running)
        if died:
            return self._one_by_one(running, batch, died, done)
        # The whole batch again, so that chance is as without the outage.
        seed = seed_of(self.seed, running.repeat)
        with self.experiment.seeded(seed, running.split, running.epoch, running.number):
            return self._isolated(running.split, batch, done)

    def _parts(self, batch: Datum, died: Collection[int], machines: Machines) -> dict[int, Datum]:
        """The parts of a batch that may be evaluated anywhere: all of it, or each of its items."""
        if not machines.by_item:
            return {} if any(number >= 0 for number in died) else {-1: batch}
        return {n: one for n, one in enumerate(singles_of(batch)) if n not in died}

    def _elsewhere(
        self,
        running: Position,
        batch: Datum,
        died: Mapping[int, ProgressNote],
        done: dict[int, Datum],
        machines: Machines,
    ) -> Datum:
        # The machines look at the time of an item. This process died for reasons of its own.
        self.experiment.positions.at(running := replace(running, size=0))
        died = {number: note for number, note in died.items() if number >= 0}
        if machines.by_item or died:
            return self._one_by_one(running, batch, died, done, machines=machines)
        results: list[Result] = []
        machines.finish(running, {-1: batch}, lambda _, result: results.append(result))
        (result,) = results
        if not isinstance(result, Death):
            return self._taken(result)
        each = [self._dead(one, result.reason, result.printed) for one in singles_of(batch)]
        return self._combined(batch, each) if len(each) > 1 else each[0]

    def _taken(self, result: tuple[Datum, Aside]) -> Datum:
        """The result of another process, whose failures and notes are taken over."""
        data, (failures, notes, violations) = result
        self.failures.learn(failures)
        self.experiment.violations += violations
        for each in notes:
            say(each)
        return data

    def _change(self) -> str:
        store = self.experiment.store
        return store.diff(self.experiment.revision_before, store.tip)

    def close(self) -> None:
        """Ends the threads, and the seeding of modules that are imported later."""
        leave()
        if self._pool is not None:
            self._pool.shutdown()

    def _isolated(self, split: str, batch: Datum, done: dict[int, Datum] | None = None) -> Datum:
        if self._pool is not None and len(batch.items) > 1:
            done = {} if done is None else done
            run = partial(self._isolated, split)
            return self._combined(batch, side_by_side(self._pool, run, singles_of(batch), done))
        try:
            return self._step(split, batch)
        except (EvaluationError, NoMoreCallsError, KeyboardInterrupt):
            raise
        except BaseException as error:
            # The user's own, of any kind: its item fails.
            if is_infrastructure(error):
                raise
            if len(batch.items) <= 1:
                failed = self.failures.raised(split, error)
                graph.attach(self.module, batch, failed)
                return failed
        # Outside of the handler: the batch's exception is not the context of its items' own.
        return self._combined(batch, [self._isolated(split, one) for one in singles_of(batch)])

    def _one_by_one(
        self,
        position: Position,
        batch: Datum,
        died: Mapping[int, ProgressNote],
        done: dict[int, Datum],
        jobs: Jobs | None = None,
        machines: Machines | None = None,
        parts: Mapping[int, Datum] | None = None,
    ) -> Datum:
        """Evaluates each item of a batch by itself, and notes it by itself.

        Without `jobs` that is a batch in which the process died: a further death is that of the
        item in progress; it is an error, and not run again.

        Args:
            died: The deaths: an item's position, or -1 for the whole batch, to its note.
            done: Results of earlier attempts; further ones are added.
            jobs: Evaluates the items in other processes.
            machines: Evaluate them elsewhere.
            parts: Those of its items that are evaluated, each as a batch; None: all.
        """
        alone = len(batch.items) <= 1
        singles = dict(
            enumerate([batch] if alone else singles_of(batch)) if parts is None else parts
        )
        at = {number: replace(position, item=number, size=1) for number in singles}
        is_here = jobs is None and machines is None
        for number, one in singles.items():
            if note := died.get(number) or (died.get(-1) if alone else None):
                done[number] = self._dead(one, note.died, note.printed)
            elif (recorded := self.experiment.recall(at[number], one)) is not None:
                done.setdefault(number, recorded)
            elif is_here and number not in done:
                self.experiment.positions.at(at[number])
                started = time.perf_counter()
                done[number] = self._alone(at[number], one)
                self._remember(at[number], one, done[number], time.perf_counter() - started)

        def evaluate(number: int) -> tuple[Datum, Aside]:
            # In the item's process: what it leaves in memory here goes along with its result.
            self.failures, run, violations = Failures(), current_run(), self.experiment.violations
            known = len(run.notes) if run else 0, len(violations)
            data = self._alone(at[number], singles[number])
            notes = run.notes[known[0] :] if run else []
            return data, (self.failures, notes, violations[known[1] :])

        since = time.perf_counter()

        def finished(number: int, result: Result) -> None:
            nonlocal since
            if isinstance(result, Death):
                data = self._dead(singles[number], result.reason, result.printed)
                label(data, singles[number], position)
                self.scoring.apply(data)
            else:
                data = self._taken(result)
            done[number] = data
            # Wall clock: those that run side by side do not take the time of all of them.
            before, since = since, time.perf_counter()
            self._remember(at[number], singles[number], data, since - before)

        if machines is not None:
            machines.finish(position, {n: singles[n] for n in singles if n not in done}, finished)
        elif jobs is not None:
            jobs.run([n for n in singles if n not in done], evaluate, finished)
        results = [done[number] for number in singles]
        for one, data in zip(singles.values(), results, strict=True):
            if data.grad_fn is None:
                graph.attach(self.module, one, data)
        self.experiment.positions.at(position)
        return results[0] if alone else self._combined(batch, results)

    def _dead(self, item: Datum, reason: str, printed: str) -> Datum:
        # Not in the feedback: what is printed differs from run to run.
        metadata = {"stderr": printed} if printed else {}
        data = Datum(success=False, error_message=reason, feedback=reason, metadata=metadata)
        graph.attach(self.module, item, data)
        return data

    def _alone(self, position: Position, item: Datum) -> Datum:
        seed, split = seed_of(self.seed, position.repeat), position.split
        chance = position.epoch, position.number, "item", position.item
        with self.experiment.seeded(seed, split, *chance):
            data = self._isolated(split, item)
        label(data, item, position)
        self.scoring.apply(data)
        return data

    def _remember(self, position: Position, item: Datum, data: Datum, seconds: float) -> None:
        # Whether feedback needs more of the result's graph than can be recalled.
        waits = position.split == "train" and graph.is_grad_enabled() and not graph.is_simple(data)
        self.experiment.remember(position, item, data, seconds, waits=waits)

    def _combined(self, batch: Datum, results: list[Datum]) -> Datum:
        simple = all(graph.is_simple(result) for result in results)
        combined = Datum(items=[item for result in results for item in result.leaves()])
        if simple:
            graph.attach(self.module, batch, combined)
            return combined
        combined.items = []
        for result in results:
            for item in result.leaves():
                # A copy: a module may return the dataset's own items.
                twin = copy.copy(item)
                twin.grad_fn = item.grad_fn or result.grad_fn
                combined.items.append(twin)
        return combined

    def _step(self, split: str, batch: Datum) -> Datum:
        step: Callable[[Datum], Any] = getattr(self.module, STEPS[split])
        # The loss gets the batch as it was, whatever the module takes out of its own.
        data = run_here(self.module.call, step, copied(batch))
        check_awaited(data, f"{type(self.module).__name__}.{STEPS[split]}")
        wrong = mistake_in(data, batch)
        if wrong:
            raise EvaluationError(
                f"{type(self.module).__name__}.{STEPS[split]} returned {wrong}",
                hint="return Datum(items=[...]) with one Datum for each item of the batch",
            )
        return cast(Datum, data)
