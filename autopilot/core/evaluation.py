"""Running a batch: one item's failure is its own, a result that was recorded is not made again."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from autopilot.core import graph
from autopilot.core.chance import leave, seed_everything, seed_of
from autopilot.core.collection import ByName, compute_all, update_all
from autopilot.core.deaths import Place, item_by_item
from autopilot.core.failures import Failures
from autopilot.core.items import SplitIds, copied
from autopilot.core.loss import Loss
from autopilot.core.outages import side_by_side
from autopilot.core.run import Run, current_run, is_infrastructure
from autopilot.core.scoring import ItemMean, Scoring
from autopilot.core.signatures import check_awaited
from autopilot.core.types import Datum, as_datum, digest
from autopilot.errors import EmptySplitError, EvaluationError, NoMoreCallsError, UsageError

if TYPE_CHECKING:
    from autopilot.core.experiment import Experiment
    from autopilot.core.module import AutoPilotModule

STEPS = {"train": "training_step", "val": "validation_step", "test": "test_step"}


class Evaluator:
    """Runs the batches of a split through a module's step.

    Args:
        module: The system.
        experiment: Where results are recorded at once, and answered from after a kill.
        seed: The global generators of `random`, numpy and torch are seeded before each batch from
            (seed, split, epoch, batch), so that a repeated batch repeats its chance too.
        num_workers: Threads that run the items of a batch side by side, each as a batch of one;
            for systems that wait on the network. Chance drawn from `random` is not repeatable
            then, since the threads share it.
        loss: Scores the items that the module left unscored.
        scoring: What a number of an item means.
        failures: Counts the items that failed.
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
        if num_workers < 0:
            raise UsageError(
                f"num_workers must be 0 or more, not {num_workers}",
                hint="0: one item after the other, in this thread",
            )
        self._pool = ThreadPoolExecutor(num_workers) if num_workers > 1 else None

    def run(self, split: str, epoch: int, index: int, batch: Datum, repeat: int = 0) -> Datum:
        """The result of one batch, its items in order and under the batch's item ids.

        Where a service that it needs does not answer, it is waited for.

        Args:
            split: "train", "val" or "test".
            epoch: The epoch.
            index: The batch's number in it.
            batch: Its items.
            repeat: The number of the measurement; each has chance of its own.

        Raises:
            EvaluationError: the step returned something other than a Datum with one for each item.
            OutageError: a service did not answer for too long.
        """
        recorded = self.experiment.recall(split, epoch, index, batch, repeat)
        if recorded is not None:
            if split == "train":
                graph.attach(self.module, batch, recorded)
            if not repeat:
                self.failures.add(split, recorded)
            return recorded
        done: dict[int, Datum] = {}
        seed = seed_of(self.seed, repeat)

        died = self.experiment.deaths(split, epoch, index, repeat)
        place = Place(split, epoch, index, repeat, is_running=True)

        def attempt() -> Datum:
            if died:
                return self._one_by_one(place, batch, died)
            # The whole batch again, so that chance is as without the outage.
            seed_everything(seed, split, epoch, index)
            return self._isolated(split, batch, done)

        def score(loss: Loss) -> None:
            seed_everything(seed, split, epoch, index, "score")
            loss.score(data, batch)

        started = time.perf_counter()
        run = current_run() or Run(self.experiment)
        self.experiment.watch.at(place)
        try:
            data = run.wait_out(attempt, progress=lambda: len(done))
            _label(data, batch, split, epoch)
            self.scoring.apply(data)
            if self.loss is not None and type(self.loss).score is not Loss.score:
                run.wait_out(partial(score, self.loss))
                self.scoring.apply(data)
        finally:
            self.experiment.watch.at(replace(place, is_running=False))
        seconds = time.perf_counter() - started
        # A result can stand in for its call only where nothing else hangs on the call's graph.
        stands_in = split != "train" or _is_simple(data)
        kept = data if stands_in else None
        self.experiment.remember(split, epoch, index, batch, kept, seconds, repeat)
        if not repeat:
            self.failures.add(split, data)
        return data

    def close(self) -> None:
        """Ends the threads; what is imported later is not seeded any more."""
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
                return self._failure(error, split, batch)
        # Outside of the handler: the batch's exception is not the context of its items' own.
        return self._combined(batch, [self._isolated(split, one) for one in _singles(batch)])

    def _one_by_one(self, place: Place, batch: Datum, died: Mapping[int, str]) -> Datum:
        """A batch in which the process died."""
        alone = len(batch.items) <= 1

        def evaluate(one: Datum, position: int) -> tuple[Datum, Datum | None]:
            seed = seed_of(self.seed, place.repeat)
            seed_everything(seed, place.split, place.epoch, place.number, "item", position)
            data = self._isolated(place.split, one)
            _label(data, one, place.split, place.epoch)
            self.scoring.apply(data)
            return data, data if place.split != "train" or _is_simple(data) else None

        items = [batch] if alone else _singles(batch)
        results = []
        for one, data in item_by_item(self.experiment, place, items, died, evaluate):
            if data.grad_fn is None and graph.is_grad_enabled():
                graph.attach(self.module, one, data)
            results.append(data)
        return results[0] if alone else self._combined(batch, results)

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
        data = self.module.call(step, copied(batch))
        check_awaited(data, f"{type(self.module).__name__}.{STEPS[split]}")
        wrong = _mistake(data, batch)
        if wrong:
            raise EvaluationError(
                f"{type(self.module).__name__}.{STEPS[split]} returned {wrong}",
                hint="return Datum(items=[...]) with one Datum for each item of the batch",
            )
        return cast(Datum, data)

    def _failure(self, error: BaseException, split: str, batch: Datum) -> Datum:
        failed = self.failures.raised(split, error)
        if graph.is_grad_enabled():
            graph.attach(self.module, batch, failed)
        return failed


def _mistake(data: object, batch: Datum) -> str:
    """Why a step's result cannot be one, as what it is; empty if it can."""
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
        held: dict[str, Any] = vars(item)
        for name in ("feedback", "error_message", "unmeasured"):
            if not isinstance(held[name], str | None):
                return f"an item whose {name} is a {type(held[name]).__name__}, not a text"
        if not isinstance(held["metrics"], Mapping):
            return f"an item whose metrics are a {type(held['metrics']).__name__}, not a dict"
    return ""


def _singles(batch: Datum) -> list[Datum]:
    return [Datum(items=[item], metadata=dict(batch.metadata)) for item in batch.items]


def _is_simple(data: Datum) -> bool:
    node = data.grad_fn
    if node is not None and node.is_step and len(node.upstream) == 1:
        # A step that returns what its module returned is that call.
        (inner,) = node.upstream
        node = inner if inner.module is node.module and inner.output is data else node
    return node is not None and not node.upstream and not node.called


def _label(data: Datum, batch: Datum, split: str, epoch: int) -> None:
    data.split, data.epoch = split, epoch
    outputs, inputs = list(data.leaves()), list(batch.leaves())
    same_length = len(outputs) == len(inputs)
    for position, item in enumerate(outputs):
        item.split, item.epoch = split, epoch
        if same_length:
            item.id = inputs[position].id
    # A result that is one item's own keeps the item's id.
    if data.items or not same_length:
        data.id = batch.id


def batches(
    loader: Iterable[Any], split: str, epoch: int, seed: int
) -> Iterator[tuple[int, Datum, bool]]:
    """Number, batch, and whether it is the last; one batch ahead, for loaders of unknown length.

    Raises:
        EmptySplitError: there is none: what is not measured must not look as if it was.
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
    index, ids = 0, SplitIds(split)
    while held is not None:
        following = next(iterator, None)
        # An endless dataset or a list: its items are the same in the next epoch.
        yield index, ids.distinct(copied(as_batch(held))), following is None
        held, index = following, index + 1


def as_batch(batch: object) -> Datum:
    """A loader's batch as a Datum: a list becomes its items, anything else a single item."""
    if isinstance(batch, Datum):
        return batch
    several = batch if isinstance(batch, list | tuple) else [batch]
    items = [as_datum(item, index) for index, item in enumerate(several)]
    return Datum(items=items, id=digest([item.id for item in items]))


class SplitMetrics:
    """The metrics of one pass over a split: the item means, and the module's own Metrics.

    Args:
        module: Its Metric attributes are measured too, on copies.
        keep_items: Whether the results are kept, for the policy and the traces. Those of the train
            split are not: it may be endless.
    """

    def __init__(self, module: AutoPilotModule, *, keep_items: bool) -> None:
        self._keep_items = keep_items
        self.means = ItemMean()
        self._own: ByName = {name: metric.clone() for name, metric in module.named_metrics()}
        for metric in self._own.values():
            metric.reset()
        self.items: list[Datum] = []

    def update(self, data: Datum) -> None:
        """Takes in a batch's result."""
        self.means.update(data)
        update_all(self._own, data)
        if self._keep_items:
            self.items.extend(data.leaves())

    def compute(self) -> dict[str, float]:
        """Name to value; empty when there were no items."""
        return self.means.compute() | compute_all(self._own) if self.means.items else {}

    def check_scored(self, split: str, monitor: str) -> None:
        """Ends what compares nothing: no item has a success, and nobody gives the metric.

        Raises:
            EvaluationError: it says what is missing, and how to supply it.
        """
        values, means = self.compute(), self.means
        value = values.get(monitor)
        if value is not None and not math.isfinite(value):
            odd = [i.id for i in self.items if not _is_finite(i.metrics, monitor)]
            where = f" (item {', '.join(odd[:3])})" if odd else ""
            raise EvaluationError(
                f"{split} {monitor} is {value}{where}: nothing can be compared with it",
                hint="make it a finite number for each item",
            )
        if self.means.is_judged or monitor in values:
            return
        items = f"the {means.items} {split} items" if means.items > 1 else f"the {split} item"
        if means.items and means.outcomes["unmeasured"] == means.items:
            why = f": {self.items[0].unmeasured}" if self.items else ""
            raise EvaluationError(
                f"nothing could be measured of {items}{why}",
                hint="look at what the measurement needs: the judge, or the service that is asked",
            )
        name = "score" if monitor == "accuracy" else monitor
        known = f"; or monitor one of: {', '.join(sorted(values))}" if values else ""
        raise EvaluationError(
            f"nothing scores {items}: none has a success, and there is no metric {monitor!r}",
            hint="return Datum(success=...) for each item, True or False; or a number,\n"
            f'  Datum(metrics={{"{name}": ...}}), and set monitor = "{name}" on the module{known}',
        )

    def is_scored(self, monitor: str) -> bool:
        """Whether an item passed or failed, or the metric has a value."""
        return self.means.is_judged or monitor in self.compute()

    def silence(self) -> str:
        """Why the items of the train split say nothing to the optimizer."""
        outcomes, count = self.means.outcomes, self.means.items
        items = f"all {count} train items" if count > 1 else "the train item"
        if outcomes["passed"] == count:
            why = f"{items} passed and none has feedback"
        elif outcomes["passed"] + outcomes["failed"] + outcomes["error"] == 0:
            why = f"{items} are unscored and none has feedback"
        else:
            counts = ", ".join(f"{n} {name}" for name, n in sorted(outcomes.items()))
            why = f"the loss has no feedback on {count} train items ({counts})"
        return f"{why}: nothing says what to improve"

    def errors(self) -> list[str]:
        """The error messages, if every item failed with one; else empty."""
        return self.means.errors if len(self.means.errors) == self.means.items else []


def _is_finite(metrics: Mapping[str, float], monitor: str) -> bool:
    """Whether the monitored number of an item is finite, or all that a Metric may read of it."""
    return all(map(math.isfinite, [metrics[monitor]] if monitor in metrics else metrics.values()))
