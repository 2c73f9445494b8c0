"""Callbacks that are ready to use, in a real fit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from autopilot.core.callbacks import (
    CostTracker,
    Diagnostics,
    MemoryCallback,
    Progress,
    Promotion,
    StoreCheckpointCallback,
)
from autopilot.core.memory import Memory
from autopilot.core.module import AutoPilotModule, Module
from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.parameter import Parameter
from autopilot.core.records.record import Lesson
from autopilot.core.store import InMemoryStore
from autopilot.core.trainer import Trainer
from autopilot.core.types import Datum

MOVES = [1, 1, -1, 2]


class Moves(Optimizer):
    """Moves the level by a script."""

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        super().__init__(parameters)
        self.done = 0

    def step(self) -> Step:
        move = MOVES[self.done]
        self.done += 1
        self.parameters[0].data += move
        return Step(f"move {move}", "up" if move > 0 else "down")


class Part(Module):
    """Passes a batch on: something for the heat map."""

    def forward(self, batch: Datum) -> Datum:
        return Datum(metadata=dict(batch.metadata), items=list(batch.items))


class Level(AutoPilotModule):
    """Items succeed below the level."""

    def __init__(self) -> None:
        super().__init__()
        self.level = Parameter(1)
        self.part = Part()

    def forward(self, batch: Datum) -> Datum:
        self.part(batch)
        return Datum(
            items=[
                Datum(
                    success=item.metadata["x"] < self.level.data,
                    metadata={"category": "low" if item.metadata["x"] < 3 else "high"},
                )
                for item in batch.items
            ]
        )

    def configure_optimizers(self) -> Optimizer:
        return Moves(self.parameters())

    def train_dataloader(self) -> list[list[dict[str, int]]]:
        return [[{"x": 0}, {"x": 1}], [{"x": 2}, {"x": 3}]]

    val_dataloader = train_dataloader


def fit(**arguments: Any) -> Trainer:
    trainer = Trainer(**arguments, measure_noise=False)
    trainer.fit(Level(), max_epochs=4)
    return trainer


def test_progress_writes_a_line_an_epoch() -> None:
    lines: list[str] = []
    fit(callbacks=[Progress(lines.append)])
    assert lines == [
        "epoch 0: val accuracy 0.250, baseline (measured before anything changed)",
        "epoch 1: val accuracy 0.500, kept (val accuracy 0.250 -> 0.500)",
        "epoch 2: val accuracy 0.750, kept (val accuracy 0.500 -> 0.750)",
        "epoch 3: val accuracy 0.500, rejected (the same state as epoch 1 (kept), "
        "not evaluated again)",
        "epoch 4: val accuracy 1.000, kept (val accuracy 0.750 -> 1.000)",
    ]


def test_a_shared_memory_learns_every_epoch() -> None:
    memory = Memory()
    fit(callbacks=[MemoryCallback(memory)])
    assert [(x.epoch, x.strategy, x.outcome) for x in memory.lessons] == [
        (1, "up", "kept"),
        (2, "up", "kept"),
        (3, "down", "repeated"),
        (4, "up", "kept"),
    ]


def test_costs_are_counted_by_verdict() -> None:
    tracker = CostTracker()
    trainer = fit(callbacks=[tracker])
    evaluations = {verdict: cost.evaluations for verdict, cost in tracker.by_verdict.items()}
    assert evaluations == {"baseline": 4, "kept": 24, "rejected": 4}
    assert tracker.total.evaluations == trainer.experiment.spent.evaluations == 32


def test_kept_epochs_go_to_a_second_store() -> None:
    store = InMemoryStore("second")
    trainer = fit(callbacks=[StoreCheckpointCallback(store)])
    assert sorted(store.tags()) == [0, 1, 2, 4]
    assert trainer.experiment.store is not store
    level = store._parameters[0]
    store.restore(store.tags()[1])
    assert level.data == 2


@pytest.mark.parametrize(("min_gain", "called"), [(0.0, 1), (0.75, 1), (0.8, 0)])
def test_promotion_asks_for_the_gain(min_gain: float, called: int) -> None:
    promoted: list[Trainer] = []
    fit(callbacks=[Promotion(promoted.append, min_gain)])
    assert len(promoted) == called


def test_diagnostics_count_categories_and_nodes() -> None:
    diagnostics = Diagnostics()
    fit(callbacks=[diagnostics])
    assert diagnostics.categories[0] == {"low": 2, "high": 1}
    assert diagnostics.categories[2] == {"high": 1}
    assert 3 not in diagnostics.categories
    assert diagnostics.nodes[1] == {"Level": (3, 4), "part": (3, 4)}
    restored = Diagnostics()
    restored.load_state_dict(diagnostics.state_dict())
    assert (restored.categories, restored.nodes) == (diagnostics.categories, diagnostics.nodes)


def test_a_shared_memory_blocks_and_knows_what_lessons_were_about() -> None:
    memory = Memory(block_after=1)
    memory.learn(Lesson(epoch=9, strategy="up", outcome="unchanged", experiment="earlier"))
    trainer = fit(callbacks=[MemoryCallback(memory)])
    first = trainer.experiment.history[1]
    assert (first.outcome, first.verdict) == ("failed", "rejected")
    own = trainer.experiment.memory.lessons[0]
    learnt = next(x for x in memory.lessons if x.id == f"{trainer.experiment.slug}-1")
    assert (learnt.value, learnt.delta, learnt.category) == (own.value, own.delta, own.category)
