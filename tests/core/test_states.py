"""States that JSON would change: refused with their path, before anything is written."""

import math

import pytest

from autopilot.core.callback import Callback
from autopilot.core.experiment import Experiment
from autopilot.core.module import AutoPilotModule
from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.parameter import Parameter
from autopilot.core.records.record import MetricsRecord, StepRecord
from autopilot.core.rules import ChainOptimizer
from autopilot.core.store import InMemoryStore
from autopilot.core.trainer import Trainer
from autopilot.core.types import Datum
from autopilot.errors import StateError


class Counts(Optimizer):
    """Its state is what it is given, from its first step on."""

    state: object = None
    early = False

    def step(self):
        self.parameters[0].data += 1
        return Step("count", "count")

    def state_dict(self):
        return self.state if self.early or self.parameters[0].data else {}

    def load_state_dict(self, state):
        self.loaded = state


class Level(AutoPilotModule):
    optimizer: Optimizer

    def __init__(self):
        super().__init__()
        self.level = Parameter(0)

    def forward(self, batch):
        value = self.level.data
        return Datum(items=[Datum(success=i < value, feedback="more") for i in range(len(batch))])

    def configure_optimizers(self):
        return self.optimizer


ITEMS = [[{"id": f"i{n}", "n": n} for n in range(4)]]
ODD = [
    ({"seen": {3: "a"}}, "['seen'] has the key 3, a int"),
    ({"seen": ["a", ("b",)]}, "['seen'][1] is a tuple"),
    ({"seen": {"a", "b"}}, "['seen'] is a set"),
    ({"deep": [{"x": {"y": object()}}]}, "['deep'][0]['x']['y'] is a object"),
    (("a",), " is a tuple"),
]


def fitted(optimizer_state=None, *, callbacks=(), early=False, store=None, chained=False):
    module = Level()
    optimizer = Counts([module.level])
    optimizer.state, optimizer.early = optimizer_state, early
    module.optimizer = ChainOptimizer([optimizer]) if chained else optimizer
    experiment = Experiment(store or InMemoryStore())
    trainer = Trainer(callbacks=callbacks, experiment=experiment)
    return module, trainer


def fit(module, trainer):
    return trainer.fit(module, ITEMS, ITEMS, max_epochs=2)


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(("state", "odd"), ODD)
def test_an_optimizers_state_is_refused_with_its_path(state, odd, early):
    module, trainer = fitted(state, early=early)
    with pytest.raises(StateError) as refused:
        fit(module, trainer)
    assert refused.value.message.startswith(f"optimizer.state_dict(){odd}, which JSON")
    assert "load_state_dict" in refused.value.hint
    store = trainer.experiment.store
    # The step is taken back, and nothing of it is written.
    assert module.level.data == 0
    assert list(store.records(StepRecord)) == []
    epochs = [record.epoch for _, record in store.records(MetricsRecord)]
    assert epochs == ([] if early else [0])
    assert len(store.log()) == 1


def test_a_part_of_a_chain_is_named_too():
    module, trainer = fitted({"seen": (1,)}, chained=True)
    with pytest.raises(
        StateError, match=r"optimizer\.state_dict\(\)\['optimizers'\]\[0\]\['seen'\]"
    ):
        fit(module, trainer)


class Remembers(Callback):
    """Its state is odd from a moment on."""

    def __init__(self, moment, state):
        self.state, self.moment, self.odd = state, moment, False

    def on_train_start(self, trainer, module):
        self.odd |= self.moment == "on_train_start"

    def on_verdict(self, trainer, module, decision):
        self.odd |= self.moment == "on_verdict" and trainer.current_epoch == 1

    def state_dict(self):
        return self.state if self.odd else {}


@pytest.mark.parametrize("moment", ["on_train_start", "on_verdict"])
@pytest.mark.parametrize(("state", "odd"), ODD[:3])
def test_a_callbacks_state_is_refused_with_its_path(state, odd, moment):
    module, trainer = fitted({}, callbacks=[Remembers(moment, state)])
    with pytest.raises(StateError) as refused:
        fit(module, trainer)
    assert f"Remembers.state_dict(){odd}" in refused.value.message
    store = trainer.experiment.store
    assert [record.epoch for _, record in store.records(MetricsRecord)] == [0]
    # At the first step, before it is paid; what changes later, when the epoch would be recorded.
    assert len(list(store.records(StepRecord))) == (moment == "on_verdict")


def test_an_own_loops_state_is_refused_with_its_path():
    module, trainer = fitted({})
    experiment = trainer.experiment
    fit(module, trainer)
    with pytest.raises(StateError, match=r"loop\.state_dict\(\)\['seen'\] is a set"):
        experiment.on_epoch_complete(
            3, {}, experiment.history and trainer.decision, state={"loop": {"seen": {1}}}
        )
    assert experiment.last_epoch == 2


def test_by_hand_a_step_with_such_a_state_is_no_commit():
    parameter = Parameter(0)
    optimizer, experiment = Counts([parameter]), Experiment()
    optimizer.state = {1: 2}
    experiment.attach(optimizer)
    with pytest.raises(StateError, match="has the key 1, a int"):
        optimizer.step()
    assert len(experiment.store.log()) == 1


def test_what_json_carries_comes_back():
    state = {"n": 3, "x": 0.5, "nan": math.inf, "t": "half \ud83d", "l": [[], {"a": None}, True]}
    module, trainer = fitted(state)
    fit(module, trainer)
    again, resumed = fitted(state, store=trainer.experiment.store)
    trainer.experiment.close()
    resumed.fit(again, ITEMS, ITEMS, max_epochs=3)
    assert again.optimizer.loaded == state
