"""What people say to a run: which step a word belongs to, and decisions on edits."""

from __future__ import annotations

from typing import Any

import pytest

from autopilot.core.callback import Callback, RunView
from autopilot.core.experiment import Experiment
from autopilot.core.module import AutoPilotModule
from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.parameter import Parameter
from autopilot.core.people import PAUSED, STEERED, Paused, reviewed
from autopilot.core.records.ledger import Ledger, Limits
from autopilot.core.records.record import Event, LlmRecord, StepRecord
from autopilot.core.stopping import EarlyStopping, Plateau
from autopilot.core.store import InMemoryStore
from autopilot.core.trainer import Trainer
from autopilot.core.types import Datum
from autopilot.data import DataLoader
from autopilot.errors import BudgetExceededError, UsageError


class Store(InMemoryStore):
    """A store to which events can be handed over."""

    def __init__(self) -> None:
        super().__init__("a")
        self.said: list[Event] = []

    def say(self, text: str) -> str:
        event = Event(name=STEERED, detail=text, reviewer="ada").stamped()
        self.said.append(event)
        return event.id

    def hear(self) -> list[Event]:
        said, self.said = self.said, []
        self.annotate(self.log()[-1].id, said)
        return said


class Add(Optimizer):
    def step(self) -> Step:
        self.parameters[0].data += 1
        return Step("add one")


@pytest.fixture
def run() -> tuple[Store, Experiment, Add]:
    store, optimizer = Store(), Add([Parameter(0)])
    experiment = Experiment(store)
    experiment.open(optimizer.parameters)
    return store, experiment, optimizer


def make(experiment: Experiment, optimizer: Add, step: int, error: str = "") -> StepRecord:
    """A step that reads what is said, and what it read."""
    experiment.begin_step(1, step)
    experiment.people.wishes()
    made = optimizer.step() if not error else None
    return experiment.commit_step(optimizer, 1, step, made, error)


def again(experiment: Experiment) -> Experiment:
    """The experiment as the process after a kill finds it."""
    resumed = Experiment(experiment.store)
    resumed.open([Parameter(0)])
    return resumed


def test_a_word_belongs_to_the_first_step_that_reads_it(run) -> None:
    store, experiment, optimizer = run
    first = store.say("shorter")
    experiment.begin_step(1, 1)  # it reads nothing, as rules do not
    second = store.say("kinder")
    experiment.people.look()
    assert store.said  # within a step the notes would be put back as the agent's doing
    assert experiment.commit_step(optimizer, 1, 1, optimizer.step()).wishes == {}
    # A step that failed has made nothing of it.
    assert make(experiment, optimizer, 2, "the program is gone").wishes == {}
    assert make(experiment, optimizer, 3).wishes == {first: "shorter", second: "kinder"}
    assert make(experiment, optimizer, 4).wishes == {}
    assert make(again(experiment), optimizer, 5).wishes == {}


def test_a_step_that_was_answered_asks_the_same_when_it_is_made_again(run) -> None:
    store, experiment, optimizer = run
    first = store.say("shorter")
    experiment.begin_step(1, 1)
    # Killed before any answer: what was said since is of use to it.
    second, experiment = store.say("kinder"), again(experiment)
    experiment.begin_step(1, 1)
    assert experiment.people.wishes() == ("shorter", "kinder")
    store.note_call(LlmRecord(epoch=1, step=1, id="lost", reply={"lost": "no answer"}))
    third, experiment = store.say("and funny"), again(experiment)
    experiment.begin_step(1, 1)
    assert len(experiment.people.wishes()) == 3
    store.note_call(LlmRecord(epoch=1, step=1, id="paid", reply={"output": "done"}))
    fourth, experiment = store.say("in French"), again(experiment)
    assert list(make(experiment, optimizer, 1).wishes) == [first, second, third]
    assert list(make(experiment, optimizer, 2).wishes) == [fourth]


def review(experiment: Experiment, record: StepRecord, calls: list[Any], **limits: float) -> Any:
    ledger = Ledger(Limits(**limits))
    return experiment.people.refusal(record, ledger, lambda *call: calls.append(call))


def test_only_a_decision_on_this_very_edit_counts(run, monkeypatch) -> None:
    monkeypatch.setenv("SERVICE_TOKEN", "planted-secret-value")
    store, experiment, optimizer = run
    record, calls = make(experiment, optimizer, 1), list[Any]()
    assert review(experiment, record, calls) is None and not calls  # nothing is to be reviewed
    experiment.people.review = True
    # As an agent would write it that knows the step, but no revision of the future.
    store.said.append(reviewed("approve", "", "agent", record, "00000000"))
    with pytest.raises(BudgetExceededError, match="waiting for a review"):
        review(experiment, record, calls, seconds=0.0)
    assert calls == [("on_review", record)]
    resumed = again(experiment)
    resumed.people.review = True
    with pytest.raises(BudgetExceededError, match="waiting for a review"):
        review(resumed, record, [], seconds=0.0)
    store.said.append(Event(name=PAUSED, reviewer="ada").stamped())
    with pytest.raises(Paused, match="paused by ada"):
        review(experiment, record, calls)
    why = "too long: planted-secret-value"
    store.said.append(reviewed("refuse", why, "ada", record, store.tip))
    found = review(experiment, record, calls)
    assert found.reasons == ("refused by ada: too long: [hidden]",)
    assert calls[-1][0] == "on_review_end"
    with pytest.raises(UsageError, match="needs a reason"):
        experiment.people.decide("refuse", " ", "ada", record)
    # A step that changed nothing is none to decide on.
    assert review(experiment, make(experiment, optimizer, 2, "it is gone"), []) is None


class Judge(Callback):
    """Decides on edits as it is told."""

    def __init__(self, *decisions: str) -> None:
        self.decisions, self.asked = list(decisions), list[tuple[int, int]]()

    def on_review(self, trainer: RunView, module: AutoPilotModule, step: StepRecord) -> None:
        self.asked.append((step.epoch, step.step))
        decision = self.decisions.pop(0)
        why = "no" if decision == "refuse" else ""
        trainer.experiment.people.decide(decision, why, "ada", step)


class Number(AutoPilotModule):
    def __init__(self) -> None:
        super().__init__()
        self.x = Parameter(0)

    def forward(self, batch: Datum) -> Datum:
        return Datum(items=[Datum(success=self.x.data > 2, feedback="more") for _ in batch.items])

    def configure_optimizers(self) -> Optimizer:
        return Add(self.parameters())

    def train_dataloader(self) -> Any:
        return DataLoader([{"id": f"i{n}"} for n in range(3)], 1)

    val_dataloader = train_dataloader


def test_a_refusal_ends_the_epoch_and_counts_nowhere() -> None:
    judge = Judge("approve", "refuse", "refuse", "approve", "approve", "approve")
    experiment, module = Experiment(), Number()
    experiment.people.review = True
    trainer = Trainer(
        callbacks=[judge, EarlyStopping(patience=1), Plateau(2)],
        experiment=experiment,
        accumulate_grad_batches=1,
    )
    result = trainer.fit(module, max_epochs=3)
    # The third step of an epoch whose second edit was refused is not made.
    assert judge.asked == [(1, 1), (1, 2), (2, 1), (3, 1), (3, 2), (3, 3)]
    assert [r.outcome for r in experiment.history] == ["kept", "refused", "refused", "kept"]
    assert [dict(r.metrics) for r in experiment.history[1:3]] == [{}, {}]
    assert (result.stop_reason, module.x.data) == ("reached the maximum of 3 epochs", 3)
    assert experiment.memory.trends().epochs == 1
    assert [x.outcome for x in experiment.memory.context().failures] == ["refused", "refused"]


def test_a_pause_ends_a_fit_of_a_library() -> None:
    store, module = Store(), Number()
    store.said.append(Event(name=PAUSED, reviewer="ada").stamped())
    experiment = Experiment(store)
    result = Trainer(experiment=experiment).fit(module, max_epochs=1)
    assert (result.interrupted, result.stop_reason) == (True, "paused by ada, in epoch 0")
    assert experiment.events[-1].name == "interrupted"
    assert not Trainer(experiment=Experiment(store)).fit(Number(), max_epochs=1).interrupted
