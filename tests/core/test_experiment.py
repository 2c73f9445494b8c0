"""The experiment in a manual loop: the same objects, without a Trainer."""

import pytest

from autopilot.core.experiment import Experiment
from autopilot.core.gradient import Gradient
from autopilot.core.loss import Loss
from autopilot.core.module import Module
from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.parameter import Parameter
from autopilot.core.records.record import Event, Manifest, StepRecord
from autopilot.core.store import InMemoryStore
from autopilot.core.types import Datum
from autopilot.errors import ExperimentError


class Greeter(Module):
    def __init__(self):
        super().__init__()
        self.greeting = Parameter("hello")

    def forward(self, batch):
        return Datum(
            items=[
                Datum(
                    success=wants in self.greeting.data,
                    feedback=None if wants in self.greeting.data else f"say {wants}",
                )
                for wants in (item.metadata["wants"] for item in batch.items)
            ]
        )


class SayIt(Optimizer):
    def __init__(self, parameters):
        super().__init__(parameters)
        self.steps = 0

    def step(self):
        self.steps += 1
        (parameter,) = self.parameters
        if parameter.grad is None:
            return None
        wanted = parameter.grad.render().splitlines()[0].removeprefix("say ")
        parameter.data += f", {wanted}"
        return Step(f"add {wanted}", "add", rationale=f"it was missing\n{wanted}")

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


LOADER = [
    Datum(items=[Datum(metadata={"wants": "hello"}), Datum(metadata={"wants": "please"})]),
    Datum(items=[Datum(metadata={"wants": "thanks"})]),
]


def manual_loop(module, loss, optimizer, epochs):
    module.train()
    for _ in range(epochs):
        for batch in LOADER:
            data = module(batch)
            loss(data, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def test_the_loop_of_the_seed_document_without_anything_around_it():
    module, loss = Greeter(), Loss()
    optimizer = SayIt(module.parameters())
    manual_loop(module, loss, optimizer, 3)
    assert module.greeting.data == "hello, please, thanks"
    assert module.greeting.grad is None
    assert optimizer.steps == 3


def test_attaching_is_one_line():
    module, loss = Greeter(), Loss()
    optimizer, experiment = SayIt(module.parameters()), Experiment()
    experiment.attach(optimizer)
    manual_loop(module, loss, optimizer, 3)
    log = experiment.store.log()[::-1]
    assert [revision.message.splitlines()[0] for revision in log] == [
        "autopilot(in-memory): start library run",
        "autopilot(in-memory): epoch 1: add please",
        "autopilot(in-memory): epoch 2: add thanks",
    ]
    assert log[1].message.splitlines()[1:] == [
        "",
        "it was missing",
        "please",
        "",
        "Autopilot-Experiment: in-memory",
        "Autopilot-Epoch: 1",
        "Autopilot-Step: 1",
        "Autopilot-Strategy: add",
    ]
    steps = [record for _, record in experiment.store.records(StepRecord)]
    assert [(s.epoch, s.changed, s.summary) for s in steps] == [
        (1, True, "add please"),
        (2, True, "add thanks"),
        (3, False, ""),
    ]
    assert "say please" in steps[0].gradients["greeting"]
    experiment.store.restore(log[1].id)
    assert module.greeting.data == "hello, please"


def test_a_manual_loop_that_is_closed_came_to_its_end():
    module, experiment = Greeter(), Experiment()
    optimizer = SayIt(module.parameters())
    experiment.attach(optimizer)
    manual_loop(module, Loss(), optimizer, 2)
    experiment.close()
    experiment.close()
    events = [event for _, event in experiment.store.records(Event)]
    assert sorted((e.name, e.detail) for e in events) == [
        ("started", ""),
        ("stopped", "2 steps of a manual loop"),
    ]


def test_a_manual_loop_goes_on_where_it_was_left():
    store = InMemoryStore()
    for epochs in (1, 2):
        module, loss = Greeter(), Loss()
        optimizer, experiment = SayIt(module.parameters()), Experiment(store)
        experiment.attach(optimizer)
        assert module.greeting.data == ("hello" if epochs == 1 else "hello, please")
        manual_loop(module, loss, optimizer, epochs)
    assert module.greeting.data == "hello, please, thanks"
    assert optimizer.steps == 3
    assert [record.epoch for _, record in store.records(StepRecord)] == [1, 2, 3]


def test_the_manifest_is_written_once():
    store = InMemoryStore()
    manifest = Manifest(slug="in-memory", idea="politeness", hypothesis="it helps", seed=7)
    for _ in range(2):
        experiment = Experiment(store, manifest=manifest)
        experiment.attach(SayIt(Greeter().parameters()))
        assert experiment.is_open
    assert [m.idea for _, m in store.records(Manifest)] == ["politeness"]
    assert [e.name for _, e in store.records(Event)] == ["resumed", "started"] or sorted(
        e.name for _, e in store.records(Event)
    ) == ["resumed", "started"]


def test_namesakes_keep_their_gradients_apart():
    one, two = Parameter(1), Parameter(2)
    one.name = two.name = "prompt"
    optimizer = Optimizer([one, two])
    one.grad, two.grad = Gradient("for one"), Gradient("for two")
    experiment = Experiment()
    experiment.open([one, two])
    record = experiment.commit_step(optimizer, 1, 1, None)
    assert sorted(record.gradients.values()) == ["for one", "for two"]


def test_there_is_nothing_to_roll_back_to():
    experiment = Experiment()
    experiment.open([Parameter(1)])
    with pytest.raises(ExperimentError, match="in-memory has no kept epoch 0") as caught:
        experiment.rollback()
    assert caught.value.hint == "kept epochs: none yet"


def test_events_and_summary_without_opening():
    experiment = Experiment()
    assert experiment.events == []
    with pytest.raises(ExperimentError, match="the experiment in-memory has not begun"):
        experiment.summary()
    optimizer = SayIt(Greeter().parameters())
    experiment.attach(optimizer)
    assert [event.name for event in experiment.events] == ["started"]
    assert Experiment(experiment.store).summary().slug == "in-memory"
