"""Running a batch, each with a seed of its own; results that were recorded are not made again."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from autopilot.audit import run_here
from autopilot.core import graph
from autopilot.core.exchanges import GivenItems
from autopilot.core.failures import Failures
from autopilot.core.interpreter import Aside, Jobs, leave, seed_everything, seed_of
from autopilot.core.items import FreshBatches, SplitIds, copied
from autopilot.core.loss import Loss
from autopilot.core.outages import side_by_side
from autopilot.core.progress import Death, Position
from autopilot.core.records.record import ProgressNote
from autopilot.core.run import Run, current_run, is_infrastructure, say, state_line
from autopilot.core.scoring import Scoring
from autopilot.core.signatures import check_awaited
from autopilot.core.types import Datum, as_datum, digest
from autopilot.errors import EmptySplitError, EvaluationError, NoMoreCallsError, UsageError

if TYPE_CHECKING:
    from autopilot.core.experiment import Experiment
    from autopilot.core.module import AutoPilotModule

STEPS = {"train": "training_step", "val": "validation_step", "test": "test_step"}
_WORDS = ("feedback", "error_message", "unmeasured")
_USUAL = frozenset((str, type(None)))


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
        if not position.repeat:
            self.failures.add(position.split, data)
            self.given.add(position.split, data, batch)
        return data

    def _evaluated(self, position: Position, batch: Datum) -> Datum:
        split, epoch, index = position.split, position.epoch, position.number
        seed = seed_of(self.seed, position.repeat)
        running = replace(position, is_running=True, size=max(len(batch.items), 1))
        died = self.experiment.deaths(position, max(len(batch.items), 1))
        # Where this process died in the batch, the item is found by evaluating them here.
        jobs = None if -1 in died else self.experiment.jobs
        done: dict[int, Datum] = {}

        def pausing() -> None:
            # A pause is no time of an item.
            self.experiment.positions.at(position)

        def attempt() -> Datum:
            if jobs is not None:
                self.experiment.positions.at(replace(running, size=0))
                return self._one_by_one(running, batch, died, done, jobs)
            self.experiment.positions.at(running)
            if died:
                return self._one_by_one(running, batch, died, done)
            # The whole batch again, so that chance is as without the outage.
            seed_everything(seed, split, epoch, index)
            return self._isolated(split, batch, done)

        def score(loss: Loss) -> None:
            for at, results, items in _to_score(running, data, batch, died):
                self.experiment.positions.at(at)
                chance = ("score",) if at.item < 0 else ("score", at.item)
                seed_everything(seed, split, epoch, index, *chance)
                run_here(loss.score, results, items)

        started = time.perf_counter()
        run = current_run() or Run(self.experiment)
        before = run.line
        try:
            if self.experiment.now.side is not None:
                # Candidates of one state share its results, whichever of them measured it.
                run.line = state_line(self.experiment.now.state)
            data = run.wait_out(attempt, pausing, progress=lambda: len(done))
            _label(data, batch, position)
            self.scoring.apply(data)
            if self.loss is not None and type(self.loss).score is not Loss.score:
                run.wait_out(partial(score, self.loss), pausing)
                self.scoring.apply(data)
        finally:
            run.line = before
            self.experiment.positions.at(position)
        seconds = time.perf_counter() - started
        self._remember(position, batch, data, seconds)
        return data

    def forget(self) -> None:
        """Forgets failures and items: an epoch begins."""
        self.failures.clear()
        self.given.clear()

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
            return self._combined(batch, side_by_side(self._pool, run, _singles(batch), done))
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
        return self._combined(batch, [self._isolated(split, one) for one in _singles(batch)])

    def _one_by_one(
        self,
        position: Position,
        batch: Datum,
        died: Mapping[int, ProgressNote],
        done: dict[int, Datum],
        jobs: Jobs | None = None,
    ) -> Datum:
        """Evaluates each item of a batch by itself, and notes it by itself.

        Without `jobs` that is a batch in which the process died: a further death is that of the
        item in progress; it is an error, and not run again.

        Args:
            died: The deaths: an item's position, or -1 for the whole batch, to its note.
            done: Results of earlier attempts; further ones are added.
            jobs: Evaluates the items in other processes.
        """
        alone = len(batch.items) <= 1
        singles = [batch] if alone else _singles(batch)
        at = [replace(position, item=number, size=1) for number in range(len(singles))]
        for number, one in enumerate(singles):
            if note := died.get(number) or (died.get(-1) if alone else None):
                done[number] = self._dead(one, note.died, note.printed)
            elif (recorded := self.experiment.recall(at[number], one)) is not None:
                done.setdefault(number, recorded)
            elif jobs is None and number not in done:
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

        def finished(number: int, result: tuple[Datum, Aside] | Death) -> None:
            nonlocal since
            if isinstance(result, Death):
                data = self._dead(singles[number], result.reason, result.printed)
                _label(data, singles[number], position)
                self.scoring.apply(data)
            else:
                data, (failures, notes, violations) = result
                self.failures.learn(failures)
                self.experiment.violations += violations
                for each in notes:
                    say(each)
            done[number] = data
            # Wall clock: those that run side by side do not take the time of all of them.
            before, since = since, time.perf_counter()
            self._remember(at[number], singles[number], data, since - before)

        if jobs is not None:
            jobs.run([n for n in range(len(singles)) if n not in done], evaluate, finished)
        results = [done[number] for number in range(len(singles))]
        for one, data in zip(singles, results, strict=True):
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
        seed_everything(seed, split, position.epoch, position.number, "item", position.item)
        data = self._isolated(split, item)
        _label(data, item, position)
        self.scoring.apply(data)
        return data

    def _remember(self, position: Position, item: Datum, data: Datum, seconds: float) -> None:
        # Whether feedback needs more of the result's graph than can be recalled.
        waits = position.split == "train" and not _is_simple(data)
        self.experiment.remember(position, item, data, seconds, waits=waits)

    def _combined(self, batch: Datum, results: list[Datum]) -> Datum:
        simple = all(_is_simple(result) for result in results)
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
        wrong = _mistake(data, batch)
        if wrong:
            raise EvaluationError(
                f"{type(self.module).__name__}.{STEPS[split]} returned {wrong}",
                hint="return Datum(items=[...]) with one Datum for each item of the batch",
            )
        return cast(Datum, data)


def _mistake(data: object, batch: Datum) -> str:
    """The mistake in a value that a step returned; "" if it can be a result."""
    if not isinstance(data, Datum):
        return f"{type(data).__name__}, not a Datum"
    items: object = data.items
    if not isinstance(items, list | tuple):
        return f"a Datum whose items are a {type(items).__name__}, not a list"
    if items and batch.items and len(items) != len(batch.items):
        return f"{len(items)} items for a batch of {len(batch.items)}"
    for item in (*items, data):
        if not isinstance(item, Datum):
            return f"an item that is a {type(item).__name__}, not a Datum"
        texts: tuple[object, ...] = (item.feedback, item.error_message, item.unmeasured)
        # In C for the usual item: a loop over the three takes as long as all else here.
        for name, text in (
            () if _USUAL.issuperset(map(type, texts)) else zip(_WORDS, texts, strict=True)
        ):
            if text is not None and not isinstance(text, str):
                return f"an item whose {name} is a {type(text).__name__}, not a text"
        metrics: object = item.metrics
        if not isinstance(metrics, (dict, Mapping)):
            return f"an item whose metrics are a {type(metrics).__name__}, not a dict"
    return ""


def _singles(batch: Datum) -> list[Datum]:
    return [Datum(items=[item], metadata=dict(batch.metadata)) for item in batch.items]


def _to_score(
    running: Position, data: Datum, batch: Datum, died: Collection[int]
) -> list[tuple[Position, Datum, Datum]]:
    """Position, results and items of each call of a score: the batch, or each item that lives."""
    if not died:
        return [(running, data, batch)]
    singles = _singles(batch) if len(batch.items) > 1 else []
    return [
        (replace(running, item=number, size=1), Datum(items=[result]), single)
        for number, (result, single) in enumerate(zip(data.items, singles, strict=False))
        if number not in died
    ]


def _is_simple(data: Datum) -> bool:
    node = data.grad_fn
    if node is not None and node.is_step and len(node.upstream) == 1:
        # A step that returns what its module returned is that call.
        (inner,) = node.upstream
        node = inner if inner.module is node.module and inner.output is data else node
    return node is not None and not node.upstream and not node.called


def _label(data: Datum, batch: Datum, position: Position) -> None:
    split, epoch = data.split, data.epoch = position.split, position.epoch
    outputs, inputs = list(data.leaves()), list(batch.leaves())
    same_length = len(outputs) == len(inputs)
    for number, item in enumerate(outputs):
        item.split, item.epoch = split, epoch
        if same_length:
            item.id = inputs[number].id
    # A result that is one item's own keeps the item's id.
    if data.items or not same_length:
        data.id = batch.id


def batches(
    loader: Iterable[Any], split: str, epoch: int, seed: int
) -> Iterator[tuple[int, Datum, bool]]:
    """Number, batch, and whether it is the last; one batch ahead, for loaders of unknown length.

    Raises:
        EmptySplitError: there is none; an empty split must not look as if it was measured.
        DataError: two items of val or test share an id of their own.
    """
    set_epoch = getattr(loader, "set_epoch", None)
    if set_epoch is not None:
        set_epoch(epoch, seed)
    iterator = iter(loader)
    held = next(iterator, None)
    if held is None:
        raise EmptySplitError(
            f"the {split} split gives no batches in epoch {epoch}",
            hint="a generator gives them once: pass a list, a DataLoader, or what can be iterated "
            "again",
        )
    index, ids, is_fresh = 0, SplitIds(split), isinstance(iterator, FreshBatches)
    while held is not None:
        following = next(iterator, None)
        # An endless dataset or a list: its items are the same in the next epoch.
        batch = as_batch(held) if is_fresh else copied(as_batch(held))
        yield index, ids.distinct(batch), following is None
        held, index = following, index + 1


def as_batch(batch: object) -> Datum:
    """A loader's batch as a Datum: a list becomes its items, anything else a single item."""
    if isinstance(batch, Datum):
        return batch
    several = batch if isinstance(batch, list | tuple) else [batch]
    items = [as_datum(item, index) for index, item in enumerate(several)]
    return Datum(items=items, id=digest([item.id for item in items]))
