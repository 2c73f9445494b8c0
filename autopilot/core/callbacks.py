"""Callbacks that are ready to use and keep nothing on disk.

Stop conditions are in `autopilot.core.stopping`, those that write files in
`autopilot.tracking.callbacks`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from autopilot.core.callback import Callback, RunView
from autopilot.core.figures import figure, gained
from autopilot.core.graph import Graph
from autopilot.core.memory import Memory
from autopilot.core.records.message import tag_message
from autopilot.core.records.record import Manifest, MetricsRecord
from autopilot.core.store import Store
from autopilot.core.types import Cost, Datum
from autopilot.text import hide

_FAILED = ("failed", "error")

if TYPE_CHECKING:
    from autopilot.core.module import AutoPilotModule
    from autopilot.core.optimizer import Optimizer


class Progress(Callback):
    """Writes a line for each epoch, and one for each kind of failure among its items.

    Args:
        write: Takes a line; `print` unless given.
    """

    def __init__(self, write: Callable[[str], object] = print) -> None:
        self.write = write

    def on_epoch_recorded(self, trainer: RunView, module: object, record: MetricsRecord) -> None:
        value = record.metrics.get(record.monitor)
        self.write(
            f"epoch {record.epoch}: val {record.monitor} {figure(value)}, {record.verdict} "
            f"({'; '.join(record.reasons)})"
        )
        for split in ("train", "val"):
            for line in trainer.failures.lines(split):
                self.write(f"  {hide(line)}")


class MemoryCallback(Callback):
    """A second memory, beside the experiment's own: one that several experiments share.

    It learns the lesson of every epoch; strategies that it blocks are blocked for the optimizer.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def on_epoch_recorded(self, trainer: RunView, module: object, record: MetricsRecord) -> None:
        if record.epoch > 0:
            lesson = trainer.experiment.memory.lessons[-1]
            self.memory.learn(replace(lesson, id=f"{trainer.experiment.slug}-{record.epoch}"))

    def on_before_optimizer_step(
        self, trainer: RunView, module: object, optimizer: Optimizer
    ) -> None:
        optimizer.blocked = optimizer.blocked | self.memory.blocked().keys()


class CostTracker(Callback):
    """Adds up the cost of epochs by verdict: of improvements, and of attempts that were not.

    Attributes:
        by_verdict: "baseline", "kept" and "rejected" to Cost.
    """

    def __init__(self) -> None:
        self.by_verdict: dict[str, Cost] = {}
        self._next = ("", 0)

    @property
    def total(self) -> Cost:
        """All of it."""
        return sum(self.by_verdict.values(), Cost())

    def on_epoch_recorded(self, trainer: RunView, module: object, record: MetricsRecord) -> None:
        new: Sequence[MetricsRecord] = [record]
        if (before := (trainer.experiment.slug, record.epoch)) != self._next:
            # Epochs that another process made count, too.
            self.by_verdict, new = {}, trainer.experiment.history
        self._next = before[0], record.epoch + 1
        for past in new:
            held = self.by_verdict.get(past.verdict, Cost())
            self.by_verdict[past.verdict] = held + past.cost


class StoreCheckpointCallback(Callback):
    """Keeps every kept epoch in a store, for a Trainer whose experiment does not commit by itself.

    Args:
        store: Not the one of the trainer's experiment.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def on_fit_start(self, trainer: RunView, module: AutoPilotModule) -> None:
        self.store.bind(module.parameters())
        if self.store.exists():
            self.store.reopen()
        else:
            self.store.begin(Manifest(slug=self.store.slug, seed=trainer.seed))

    def on_epoch_recorded(self, trainer: RunView, module: object, record: MetricsRecord) -> None:
        if record.verdict == "rejected" or record.epoch in self.store.tags():
            return
        metrics = trainer.experiment.metrics[record.epoch]
        text = tag_message(self.store.slug, record, metrics)
        if record.epoch == 0:
            revision = self.store.tip
            self.store.annotate(revision, [record])
        else:
            revision = self.store.commit(self.store.state(), text, [record])
        self.store.tag(record.epoch, revision, text)

    def teardown(self, trainer: RunView, module: object, stage: str) -> None:
        if stage == "fit":
            self.store.close()


class Promotion(Callback):
    """Calls a function at the end of a run that gained enough: deploy, notify, open a request.

    Args:
        promote: Gets the trainer; its experiment knows the best epoch.
        min_gain: Over the baseline, on the monitored val metric.
    """

    def __init__(self, promote: Callable[[RunView], object], min_gain: float = 0.0) -> None:
        self.promote, self.min_gain = promote, min_gain

    def on_fit_end(self, trainer: RunView, module: object) -> None:
        baseline, best = trainer.experiment.baseline_value, trainer.experiment.best_value
        if baseline is None or best is None or trainer.experiment.best_epoch == 0:
            return
        if gained(baseline, best, trainer.mode) >= self.min_gain:
            self.promote(trainer)


class Diagnostics(Callback):
    """Counts what failed or raised: by category, and by the modules that its items went through.

    Args:
        category: Gives an item's category; by default the item's metadata "category", or the kind
            of its error, or "failed".

    Attributes:
        categories: Epoch to category to the number of failed val items.
        nodes: Epoch to module name to (failed, all) training items that went through it: the heat
            map.
    """

    def __init__(self, category: Callable[[Datum], str] | None = None) -> None:
        self.category = category or _category
        self.categories: dict[int, Counter[str]] = {}
        self.nodes: dict[int, dict[str, tuple[int, int]]] = {}

    def on_validation_batch_end(
        self, trainer: RunView, module: object, outputs: Datum, batch: object, batch_idx: int
    ) -> None:
        counts = self.categories.setdefault(trainer.current_epoch, Counter())
        counts.update(self.category(item) for item in outputs.leaves() if item.outcome in _FAILED)

    def on_after_loss(
        self,
        trainer: RunView,
        module: AutoPilotModule,
        outputs: Datum,
        batch: object,
        batch_idx: int,
    ) -> None:
        heat = self.nodes.setdefault(trainer.current_epoch, {})
        names = {id(part): name or type(part).__name__ for name, part in module.named_modules()}
        for item in outputs.leaves():
            through = Graph(item if item.grad_fn is not None else outputs).nodes()
            for name in {names[id(node.module)] for node in through}:
                failed, all_items = heat.get(name, (0, 0))
                heat[name] = (failed + (item.outcome in _FAILED), all_items + 1)

    def state_dict(self) -> dict[str, Any]:
        return {
            "categories": {str(epoch): dict(c) for epoch, c in self.categories.items()},
            "nodes": {
                str(epoch): {name: list(pair) for name, pair in heat.items()}
                for epoch, heat in self.nodes.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.categories = {int(e): Counter(c) for e, c in state["categories"].items()}
        self.nodes = {
            int(e): {name: (pair[0], pair[1]) for name, pair in heat.items()}
            for e, heat in state["nodes"].items()
        }


def _category(item: Datum) -> str:
    named = item.metadata.get("category")
    if named is not None:
        return str(named)
    return item.error_message.partition(":")[0] if item.error_message else "failed"
