"""Candidates that are rejected before all of val is measured: which, on what, and how often."""

import random
from collections import Counter

import pytest

from autopilot import (
    AutoPilotModule,
    DataLoader,
    Datum,
    Experiment,
    Optimizer,
    Parameter,
    Step,
    Trainer,
)
from autopilot.core.loop import EpochLoop
from autopilot.core.screening import CheapGates
from autopilot.core.search import SearchLoop
from autopilot.core.store import InMemoryStore


class Walk(Optimizer):
    """Sets the parameter to the next of some states, or to a new one where they are used up."""

    def __init__(self, parameters, states=()):
        super().__init__(parameters)
        self.states, self.count = list(states), 0

    def step(self):
        number = self.count + self.proposal[0] - 1
        known = number < len(self.states)
        self.parameters[0].data = self.states[number] if known else f"new {number}"
        if self.proposal[0] == self.proposal[1]:
            self.count = number + 1
        return Step(f"try {self.parameters[0].data}")

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


class Coin(AutoPilotModule):
    """Each item passes every other time, whatever the parameter is."""

    states = ()

    def __init__(self):
        super().__init__()
        self.word, self.seen = Parameter("start"), list[tuple[str, str]]()

    def forward(self, batch):
        self.seen += [(self.word.data, item.id) for item in batch.items]
        passed = [self.passes(self.word.data, item.id) for item in batch.items]
        return Datum(items=[Datum(success=each, feedback="more") for each in passed])

    def passes(self, word, name):
        return random.random() < 0.5

    def configure_optimizers(self):
        return Walk(self.parameters(), self.states)

    def train_dataloader(self):
        return DataLoader([{"id": f"t{at}"} for at in range(12)], 4)

    def val_dataloader(self):
        return DataLoader([{"id": f"v{at}"} for at in range(30)], 3)


class Known(Coin):
    """The first items pass, as many as the state's word says: of train, and of val."""

    def passes(self, word, name):
        if word == "start":
            word = "6 15"
        train, val = map(int, word.split())
        return int(name[1:]) < (train if name[0] == "t" else val)


def fitted(epochs, gates, kind=Known, states=(), loop=None, **more):
    module, experiment, loop = kind(), Experiment(InMemoryStore()), loop or EpochLoop()
    module.states, loop.gates = states, gates
    trainer = Trainer(experiment=experiment, loop=loop, seed=3, **more)
    trainer.fit(module, max_epochs=epochs)
    return module, experiment


@pytest.mark.parametrize(
    ("proposals", "screen", "race"), [(1, 8, False), (1, 0, True), (1, 8, True), (3, 8, True)]
)
def test_of_changes_that_change_nothing_at_most_5_of_100_are_kept(proposals, screen, race):
    loop, epochs = SearchLoop(proposals), 200 // proposals
    _, experiment = fitted(epochs, CheapGates(screen, race), Coin, loop=loop)
    kept = sum(epoch.is_kept for epoch in experiment.epochs) - 1
    assert kept <= 0.05 * epochs, kept
    outcomes = Counter(record.outcome for record in experiment.history)
    assert (outcomes["screened"] > 0, outcomes["raced"] > 0) == (screen > 0, race), outcomes
