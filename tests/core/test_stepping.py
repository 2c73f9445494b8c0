"""The guard, as the loop uses it: when it confines, what becomes of violations and inputs."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from autopilot.core.experiment import Experiment
from autopilot.core.module import AutoPilotModule
from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.parameter import Parameter
from autopilot.core.records.record import MetricsRecord, StepRecord
from autopilot.core.rules import ChainOptimizer
from autopilot.core.run import confined, tried
from autopilot.core.stepping import Guard, check_inputs
from autopilot.core.store import InMemoryStore
from autopilot.core.trainer import Trainer
from autopilot.core.types import Datum
from autopilot.errors import AgentError, ConfinementError, InputsChangedError

ITEMS = [{"id": "a"}, {"id": "b"}]


class Spy(Guard):
    """Writes down what is asked of it."""

    def __init__(self) -> None:
        self.listens = True
        self.calls: list[str] = []
        self.found: list[list[str]] = []
        self.blobs = {"cases.json": "1" * 40}
        self.is_confined = False

    def confine(self) -> None:
        if not self.is_confined:
            self.calls.append("confine" + " (listening)" * self.listens)
        self.is_confined = True

    def put_back(self) -> list[str]:
        if not self.is_confined:
            return []
        self.is_confined = False
        self.calls.append("put back")
        return self.found.pop(0) if self.found else []

    def inputs(self, known: Iterable[str] = ()) -> dict[str, str]:
        return dict(self.blobs)


class Up(Optimizer):
    """Adds one, by way of somebody who is not trusted."""

    confined = True

    def step(self) -> Step:
        with confined():
            self.parameters[0].data += 1
        if self.parameters[0].data == 2:
            raise AgentError("no luck")
        return Step("add one", "up")


class Honest(Optimizer):
    def step(self) -> Step:
        self.parameters[0].data += 1
        return Step("add one", "up")


class Counter(AutoPilotModule):
    monitor = "score"

    def __init__(self, kind: type[Optimizer]) -> None:
        super().__init__()
        self.x = Parameter(0)
        self.kind, self.calls = kind, 0

    def forward(self, batch: Datum) -> Datum:
        self.calls += 1
        return Datum(items=[Datum(metrics={"score": float(self.x.data)}, success=False)] * 2)

    def configure_optimizers(self) -> Optimizer:
        return self.kind(self.parameters())

    def train_dataloader(self) -> list[list[dict[str, str]]]:
        return [ITEMS]

    val_dataloader = train_dataloader


def fit(
    kind: type[Optimizer] = Up, epochs: int = 1, guard: Spy | None = None
) -> tuple[Experiment, Spy]:
    experiment, spy = Experiment(InMemoryStore()), guard or Spy()
    experiment.guard = spy
    Trainer(experiment=experiment).fit(Counter(kind), max_epochs=epochs)
    return experiment, spy


def test_a_step_is_confined_if_its_optimizer_says_so() -> None:
    _, spy = fit()
    assert spy.calls == ["confine", "put back"]
    assert spy.listens
    assert fit(Honest)[1].calls == []
    counter = Parameter(0)
    assert ChainOptimizer([Honest([counter]), Up([counter])]).confined
    assert not ChainOptimizer([Honest([counter])]).confined


def test_violations_are_recorded_whether_the_step_went_well_or_not() -> None:
    spy = Spy()
    spy.found = [["changed a"], ["made b", "made b"]]
    experiment, _ = fit(epochs=2, guard=spy)
    steps = [record for _, record in experiment.store.records(StepRecord)]
    assert [(step.violations, step.error) for step in steps] == [
        (("changed a",), ""),
        (("made b",), "no luck"),
    ]
    assert "Autopilot-Violations: 1" in experiment.store.log()[1].message


def test_what_was_refused_is_a_violation_of_the_step() -> None:
    class Asking(Honest):
        def step(self) -> Step:
            tried("asked for /etc/passwd")
            return super().step()

    experiment, _ = fit(Asking)
    ((_, step),) = experiment.store.records(StepRecord)
    assert step.violations == ("asked for /etc/passwd",)
    tried("nobody is there to hear it")


def test_the_users_own_files_stop_the_run() -> None:
    class Broken(Spy):
        def put_back(self) -> list[str]:
            if super().put_back():
                raise ConfinementError("data/x was changed")
            return []

    spy = Broken()
    spy.found = [["x"]]
    with pytest.raises(ConfinementError, match="data/x was changed"):
        fit(guard=spy)


def test_inputs_are_recorded_and_others_are_not_compared() -> None:
    spy = Spy()
    experiment, store = Experiment(InMemoryStore()), None
    experiment.guard = spy
    module = Counter(Honest)
    Trainer(experiment=experiment).fit(module, max_epochs=1)
    store = experiment.store
    judged = [r for _, r in store.records(MetricsRecord) if r.split == "val"]
    assert [record.inputs for record in judged] == [spy.blobs, spy.blobs]

    spy.blobs = {"cases.json": "2" * 40, "new.json": "3" * 40}
    experiment.ignore_stop = True
    calls = module.calls
    with pytest.raises(InputsChangedError, match=r"cases\.json has changed since the baseline"):
        Trainer(experiment=experiment).fit(module, max_epochs=2)
    assert module.calls == calls, "a resumed run finds it before it measures anything"
    spy.blobs = {"cases.json": "1" * 40}

    class Edits(Honest):
        def step(self) -> Step:
            spy.blobs = {"cases.json": ""}
            return super().step()

    module.kind = Edits
    with pytest.raises(InputsChangedError, match=r"cases\.json is gone since the baseline"):
        Trainer(experiment=experiment).fit(module, max_epochs=2)
    judged = [r for _, r in store.records(MetricsRecord) if r.split == "val"]
    assert len(judged) == 2, "nothing is half judged"

    spy.blobs = {"cases.json": "1" * 40, "new.json": "3" * 40}
    calls, module.kind = module.calls, Honest
    Trainer(experiment=experiment).fit(module, max_epochs=2)
    assert module.calls == calls + 2, "what was measured with other files is measured again"
    judged = [r for _, r in store.records(MetricsRecord) if r.split == "val"]
    assert judged[2].inputs == spy.blobs
    assert judged[2].cost.evaluations == 8, "and both were paid"
    assert experiment.inputs == spy.blobs


def test_one_error_names_the_first_file_and_the_number_of_others() -> None:
    with pytest.raises(InputsChangedError) as caught:
        check_inputs({"a": "1" * 40, "b": "2" * 40, "c": "3"}, {"a": "x", "b": "", "c": "3"}, "s")
    assert caught.value.message.startswith("a (and 1 more) has changed since the baseline")
    assert "blob 1111111111" in caught.value.hint and "autopilot resume s" in caught.value.hint
    check_inputs({"a": "1"}, {}, "s")
