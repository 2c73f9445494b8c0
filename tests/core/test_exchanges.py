"""Memorizing: items that an edit writes into a parameter are found, and named by their ids."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autopilot import (
    AutoPilotModule,
    DataLoader,
    Datum,
    NoMemorizing,
    Optimizer,
    Parameter,
    Policy,
    Step,
    Trainer,
)
from autopilot.core.exchanges import GivenItems, StepItems, exchange
from autopilot.core.experiment import Experiment
from autopilot.core.policy import Decision

LOST = "My card was LOST in the post"
LONG = " ".join(f"paragraph {n} of a letter that goes on for {n * n} pages" for n in range(40))
OLD = "rules:\n" + "\n".join(f"- rule {n} is about {n * n}" for n in range(30)) + "\n"


def in_edit(new: str, items: list[dict[str, object]], old: str = OLD) -> str:
    parameter, experiment = Parameter(old), Experiment()
    experiment.open([parameter])
    experiment.on_epoch_complete(0, {}, Decision("baseline", ()))
    store, began = experiment.store, experiment.store.tip
    given = GivenItems(lambda: store.diff(began, store.tip), lambda: [parameter])
    given.clear()
    batch = Datum(items=[Datum(metadata=each, id=f"t{n}") for n, each in enumerate(items)])
    results = [Datum(metadata={"reply": "no"}, success=False, id=item.id) for item in batch.items]
    given.add("train", Datum(items=results), batch)
    parameter.data = new
    store.commit(store.state(), "edit", [])
    return given.in_edit()


@pytest.mark.parametrize(
    ("added", "items", "found"),
    [
        (
            'if it says "my card\n  was lost in the POST"',
            [{"text": LOST}],
            "input of train item t0",
        ),
        ("my card was lost", [{"text": LOST}], ""),
        # In nested texts, as those of a chat.
        (LOST, [{"messages": [{"role": "user", "content": LOST}]}], "input of train item t0"),
        # A short input counts with its answer beside it, a label or a number does not.
        ("17 * 23 + 4 = 395", [{"q": "17*23+4", "answer": 395}], ""),
        ("sum of 17239: 22", [{"q": "sum of 17239", "answer": 22}], "input of train item t0"),
        ("sum of 17239", [{"q": "sum of 17239", "answer": 22}], ""),
        ("22, yes, billing", [{"q": LOST, "answer": 22}, {"q": "b" * 20, "label": "billing"}], ""),
        (LOST, [{"q": "b" * 20, "expected": LOST}], ""),
        (LOST * 2, [{"q": "b" * 20, "expected": LOST * 2}], "expected output of train item t0"),
        # Of a long text, a part.
        (LONG[300:600], [{"text": LONG}], "input of train item t0"),
        # What several have in common is no item's own.
        (LOST, [{"task": LOST, "text": text * 20} for text in "abc"], ""),
        (LOST, [{"text": LOST}] * 2, "inputs of train items t0, t1"),
        (
            "我的银行卡在邮寄途中丢失了请问该怎么办",
            [{"q": "银行卡在邮寄途中丢失了请问该怎么"}],
            "input of train item t0",
        ),
    ],
)
def test_items_that_an_edit_copies_are_found(added, items, found):
    said = in_edit(OLD + added + "\n", items)
    assert said == (f"the edit has the {found}" if found else "")


def test_what_stood_there_before_does_not_count():
    assert in_edit(f"{OLD}more\n", [{"text": LOST}], f"{LOST}\n{OLD}") == ""
    # Moved, and written a second time.
    assert in_edit(f"{OLD}{LOST}\n", [{"text": LOST}], f"{LOST}\n{OLD}") == ""
    assert in_edit(f"{LOST}\n{OLD}{LOST}\n", [{"text": LOST}], f"{LOST}\n{OLD}") == ""


def test_an_optimizer_sees_answers_of_train_items_alone():
    item, target = Datum(metadata={"label": "spam"}, id="a"), Datum(metadata={"text": "hi"}, id="a")
    # The only field of a result is what the system answered, whatever its name.
    assert exchange(item, target) == {"input": "hi", "output": "spam"}
    for split, seen in (("train", 1), ("val", 0), ("test", 0)):
        items = StepItems()
        results = Datum(items=[replace(item, split=split)], split=split)
        items.add(results, Datum(items=[target]))
        assert (items.outcomes.total(), len(items.failing)) == (seen, 0)
        assert bool(exchange(results.items[0], target)) == bool(seen)


class Copying(Optimizer):
    def step(self):
        text = self.parameters[0].data
        self.parameters[0].data = text + ("\nthe parcel never came to my house" if text else "a")
        return Step("copy")


class Answering(AutoPilotModule):
    def __init__(self, policy=None):
        super().__init__()
        self.text, self.policy = Parameter(""), policy

    def configure_policy(self):
        return self.policy

    def configure_optimizers(self):
        return Copying(self.parameters())

    def forward(self, batch):
        value = {"length": len(self.text.data)}
        return Datum(items=[Datum(success=False, metrics=value) for _ in batch.items])

    monitor, mode = "length", "max"

    def train_dataloader(self):
        return DataLoader([{"id": "t1", "q": "My order is late again"}])

    def val_dataloader(self):
        return DataLoader([{"id": "v1", "q": "The parcel never came"}])


@pytest.mark.parametrize("policy", [None, Policy([NoMemorizing()])])
def test_a_run_warns_and_a_gate_rejects(policy):
    experiment = Experiment()
    Trainer(experiment=experiment).fit(Answering(policy), max_epochs=2)
    _, first, second = experiment.history
    assert not first.memorized and not any("the edit" in reason for reason in first.reasons)
    assert second.memorized == "the edit has the input of val item v1"
    if policy is None:
        assert second.verdict == "kept" and second.reasons[-1] == f"warning: {second.memorized}"
    else:
        assert second.verdict == "rejected" and second.reasons == (second.memorized,)
    assert "parcel" not in " ".join(second.reasons)


class Killed(BaseException):
    pass


def test_a_run_that_was_killed_after_the_step_warns_of_the_same() -> None:
    class Dying(Answering):
        def on_validation_start(self):
            if "parcel" in self.text.data and not killed:
                killed.append(True)
                raise Killed

    killed: list[bool] = []
    experiment, module = Experiment(), Dying()
    with pytest.raises(Killed):
        Trainer(experiment=experiment).fit(module, max_epochs=2)
    again = Experiment(experiment.store)
    Trainer(experiment=again).fit(module, max_epochs=2)
    assert killed and again.history[2].reasons[-1] == (
        "warning: the edit has the input of val item v1"
    )
