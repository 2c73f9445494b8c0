"""JudgeLoss: items of every split are scored, once; what could not be judged is unmeasured."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from pydantic import BaseModel, Field
from server import Received, Reply, say, say_json

from autopilot.ai.judge import Judge
from autopilot.ai.loss import JudgeLoss, Judgement
from autopilot.ai.model.model import Model
from autopilot.ai.steps import LLMStep, PythonStep
from autopilot.core.experiment import Experiment
from autopilot.core.loss import Loss
from autopilot.core.module import AutoPilotModule
from autopilot.core.optimizer import Optimizer
from autopilot.core.parameter import Parameter
from autopilot.core.records.record import LlmRecord, MetricsRecord, TraceRecord
from autopilot.core.stopping import Budget
from autopilot.core.store import InMemoryStore
from autopilot.core.trainer import Trainer
from autopilot.core.types import Datum, datum_from_json, datum_to_json
from autopilot.errors import AgentError, NoKeyError
from autopilot.policy import Policy

NAME = "claude-haiku-4-5"


class Verdict(BaseModel):
    success: bool
    score: float = Field(ge=0, le=1)
    feedback: str = ""
    attribution: str = ""


class Grow(Optimizer):
    """Makes the text one letter longer."""

    def step(self):
        (text,) = self.parameters
        self.heard = [finding.direction for finding in text.grad.findings]
        text.data += "x"


class Writer(AutoPilotModule):
    """Says its text and the item's name; scores nothing by itself unless asked to."""

    def __init__(self, judge: Judge, success: Any = None, **more: Any) -> None:
        super().__init__()
        self.text = Parameter("x")
        self.judge, self.success, self.more = judge, success, more

    def forward(self, batch: Datum) -> Datum:
        said = [f"{self.text.data} {item.metadata['n']}" for item in batch.items]
        return Datum(items=[Datum(success=self.success, metadata={"said": s}) for s in said])

    def configure_loss(self) -> Loss:
        return JudgeLoss(self.judge, **self.more)

    def configure_optimizers(self) -> Optimizer:
        self.optimizer = Grow(self.parameters())
        return self.optimizer

    def train_dataloader(self):
        return [[{"id": f"t{n}", "n": n} for n in (1, 2)]]

    def val_dataloader(self):
        return [[{"id": f"v{n}", "n": n} for n in (3, 4)]]

    def test_dataloader(self):
        return [[{"id": f"e{n}", "n": n} for n in (5, 6)]]


def by_model() -> Judge:
    return Judge([LLMStep("v", "Judge {said}", Verdict)], model=Model(NAME, max_retries=0))


def by_length(state) -> dict[str, Any]:
    """The more letters, the better; items with an even number pass from two letters on."""
    letters, _, number = state["said"].partition(" ")
    passed = int(number) % 2 == 0 and len(letters) > 1
    return {"success": passed, "score": len(letters) / 10, "feedback": f"longer {number}"}


class Counting(Judge):
    """Counts what it is asked about."""

    def __init__(self, function=by_length) -> None:
        super().__init__([PythonStep("v", function)], num_workers=1)
        self.seen: list[str] = []

    def judge(self, item: Datum, target: Datum | None = None) -> Judgement:
        self.seen.append(item.metadata["said"])
        return super().judge(item, target)


def script(request: Received) -> Reply:
    passed = "xx" in request.last_text()
    return say_json({"success": passed, "score": 0.75 if passed else 0.25, "feedback": "longer"})


def fitted(module: Writer, epochs: int = 1, **more: Any) -> Trainer:
    # Judges of these tests make no model call, so that val would be measured twice.
    trainer = Trainer(experiment=Experiment(InMemoryStore()), measure_noise=False, **more)
    trainer.fit(module, max_epochs=epochs)
    return trainer


def metrics(trainer: Trainer) -> list[tuple[str, float | None, float | None]]:
    records = trainer.experiment.store.records(MetricsRecord)
    return [(r.split, r.metrics.get("accuracy"), r.metrics.get("score")) for _, r in records]


def test_every_split_is_judged_once_an_item(serve) -> None:
    server = serve(script)
    module = Writer(by_model())
    trainer = fitted(module)
    assert trainer.experiment.metrics[0]["val"] == {"accuracy": 0.0, "score": 0.25}
    assert trainer.experiment.metrics[1]["val"] == {"accuracy": 1.0, "score": 0.75}
    # Two val items at the baseline, two train items, two val items after the step.
    assert server.count == 6
    found = trainer.test(module)
    assert found.metrics["test"] == {"accuracy": 1.0, "score": 0.75}
    # The test split on the best state and on the baseline.
    assert server.count == 10
    asked = [Received.last_text(request) for request in server.requests]
    assert max(Counter(asked).values()) == 1
    calls = [record for _, record in trainer.experiment.store.records(LlmRecord)]
    assert Counter((c.role, c.epoch) for c in calls) == {("judge", 0): 4, ("judge", 1): 6}
    assert trainer.experiment.spent.tokens == 6 * 120
    traced = [r for _, r in trainer.experiment.store.records(TraceRecord) if r.epoch == 1]
    items = [datum_from_json(i, split=r.split, epoch=1) for r in traced for i in r.items]
    assert {(i.outcome, i.metrics["score"], i.feedback) for i in items} == {
        ("passed", 0.75, "longer")
    }


def test_a_budget_holds_the_judge_of_val_too(serve) -> None:
    server = serve(script)
    trainer = Trainer(callbacks=[Budget(calls=3)], experiment=Experiment(InMemoryStore()))
    found = trainer.fit(Writer(by_model()), max_epochs=2)
    assert (server.count, found.interrupted) == (3, True)
    assert "call budget" in found.stop_reason


def test_without_a_key_the_run_ends(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(script)
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    with pytest.raises(NoKeyError):
        fitted(Writer(by_model()))


def test_the_score_may_be_monitored_without_a_mode() -> None:
    module = Writer(Counting())
    trainer = fitted(module, 3, monitor="score")
    result = trainer.result()
    assert (trainer.mode, result.baseline, result.best, result.kept) == ("max", 0.1, 0.4, 3)


def test_forward_takes_what_was_found_before_the_metrics() -> None:
    module = Writer(judge := Counting())
    fitted(module)
    assert judge.seen == ["x 3", "x 4", "x 1", "x 2", "xx 3", "xx 4"]
    assert module.optimizer.heard == ["longer 1", "longer 2"]


def test_an_item_that_cannot_be_judged_is_unmeasured_and_no_gradient() -> None:
    def odd(state) -> Any:
        number = state["said"][-1]
        odd = {"1": {"success": "maybe"}, "3": {"score": 7.0}}
        return odd.get(number) or {"success": "no", "feedback": f"longer {number}"}

    module = Writer(Counting(odd))
    trainer = fitted(module)
    assert module.optimizer.heard == ["longer 2"]
    assert trainer.experiment.metrics[0]["val"] == {"accuracy": 0.0, "score": 0.0}
    (traced,) = [r for _, r in trainer.experiment.store.records(TraceRecord) if r.epoch == 0]
    three, four = (datum_from_json(i, split="val", epoch=0) for i in traced.items)
    assert three.unmeasured == "Counting: the score 7 is outside of 0 to 1"
    assert (three.outcome, three.metrics) == ("unmeasured", {})
    assert (four.outcome, four.metrics) == ("failed", {"score": 0.0})
    said = "1 of 2 items could not be judged: success='maybe' is neither true nor false"
    assert said in trainer.experiment.history[1].reasons


def reply(request: Received) -> Reply:
    text = request.all_text()
    if " 3" in text:
        return say("I cannot", stop_reason="refusal")
    if " 4" in text:
        return say('{"success": tr', stop_reason="max_tokens")
    return say("good") if " 5" in text else script(request)


def test_refused_cut_off_and_invalid_answers_are_no_verdict(serve) -> None:
    serve(reply)
    data = Writer(by_model())(Datum(items=[Datum(metadata={"n": n}) for n in (2, 3, 4, 5)]))
    JudgeLoss(by_model()).score(data, None)
    assert [item.outcome for item in data.items] == ["failed", *["unmeasured"] * 3]
    reasons = [str(item.unmeasured) for item in data.items[1:]]
    for reason, word in zip(reasons, ("refused", "cut off", "did not answer as"), strict=True):
        assert reason.startswith("Judge: claude-haiku-4-5") and word in reason


def test_items_with_an_error_are_not_judged() -> None:
    judge = Counting()
    said = {"said": "x 1"}
    data = Datum(
        items=[
            Datum(metadata=said, error_message="it raised", feedback="it raised here"),
            Datum(metadata=said, unmeasured="no answer"),
        ]
    )
    prompt = Parameter("p")
    loss = JudgeLoss(judge, parameters=[prompt])
    loss(data, None)
    loss.backward()
    assert judge.seen == []
    assert [item.outcome for item in data.items] == ["error", "unmeasured"]
    assert [f.direction for f in prompt.grad.findings] == ["it raised here"]  # type: ignore[union-attr]


def test_an_own_success_stays_and_is_judged_for_feedback_only() -> None:
    module = Writer(judge := Counting(), success=True)
    trainer = fitted(module)
    assert judge.seen == ["x 1", "x 2"]
    assert trainer.experiment.metrics[1]["val"] == {"accuracy": 1.0}
    assert module.optimizer.heard == ["longer 1", "longer 2"]


@pytest.mark.parametrize("how", [{"every_item": True}, {}])
def test_every_item_gets_a_score_where_it_decides_or_is_asked_for(how) -> None:
    module = Writer(judge := Counting(), success=True, **how)
    trainer = fitted(module, monitor=None if how else "score")
    assert judge.seen == ["x 3", "x 4", "x 1", "x 2", "xx 3", "xx 4"]
    assert trainer.experiment.metrics[1]["val"] == {"accuracy": 1.0, "score": 0.2}
    assert module.optimizer.heard == ["longer 1", "longer 2"]


def test_what_is_answered_from_the_record_is_not_judged_again() -> None:
    def attributed(state) -> Judgement:
        return Judgement(False, 0.25, "longer", "length")

    def gradient(loss: JudgeLoss, data: Datum) -> Any:
        return loss.forward(data, None)

    judge = Counting(attributed)
    data = Datum(items=[Datum(metadata={"said": f"x {n}"}, id=f"i{n}") for n in (1, 2)])
    loss = JudgeLoss(judge)
    loss.score(data, None)
    recorded = json.loads(json.dumps(datum_to_json(data)))
    found = gradient(loss, data)
    again = gradient(JudgeLoss(judge), datum_from_json(recorded, split="train", epoch=1))
    assert found.findings == again.findings
    assert (found.findings[0].attribution, found.findings[0].severity) == ("length", 0.75)
    assert len(judge.seen) == 2


def test_by_hand_the_same_objects_are_judged_anew() -> None:
    judge = Counting()
    loss = JudgeLoss(judge, parameters=[Parameter("p")])
    batch = Datum(items=[Datum(metadata={"said": "x 2"})])
    loss(batch, batch)
    assert [item.outcome for item in batch.items] == ["failed"]
    batch.items[0].metadata["said"] = "xx 2"
    loss(batch, batch)
    assert [item.outcome for item in batch.items] == ["passed"]
    assert batch.items[0].metrics == {"score": 0.2}
    assert judge.seen == ["x 2", "xx 2"]


def test_by_hand_a_judge_that_can_judge_nothing_is_an_error() -> None:
    loss = JudgeLoss(Counting(lambda s: 1 / 0))
    with pytest.raises(AgentError, match=r"the only item could not be judged: .*ZeroDivisionError"):
        loss(Datum(items=[Datum(metadata={"said": "x 1"})]))


def test_feedback_on_what_passed_counts_below_the_highest_score() -> None:
    def judged(score: float) -> list[str]:
        verdict = {"success": True, "score": score, "feedback": "shorter"}
        loss = JudgeLoss(Counting(lambda _: verdict))
        found = loss.forward(Datum(items=[Datum(metadata={"said": "x 1"})]))
        return [f.direction for f in found.findings] if found else []  # type: ignore[attr-defined]

    assert judged(0.9) == ["shorter"]
    assert judged(1.0) == []


def test_the_worst_items_come_first_where_the_score_decides() -> None:
    loss = JudgeLoss(Counting(lambda s: {"score": int(s["said"][-1]) / 10, "feedback": s["said"]}))
    loss.direct("score", "max")
    data = Datum(items=[Datum(metadata={"said": f"x {n}"}) for n in (3, 1, 2)])
    found = loss.forward(data)
    assert [f.direction for f in found.findings] == ["x 1", "x 2", "x 3"]  # type: ignore[union-attr]


def test_severity_is_a_share_of_the_range() -> None:
    judge = Judge([PythonStep("v", lambda _: {"score": 2.5, "feedback": "f"})], score_range=(0, 10))
    data = Datum(items=[Datum()])
    (finding,) = JudgeLoss(judge).forward(data).findings  # type: ignore[union-attr]
    assert finding.severity == 0.75
    assert data.items[0].metrics == {"score": 2.5}


@pytest.mark.parametrize(("success", "severity"), [(False, 0.5), (True, 0.1)])
def test_what_failed_or_can_be_better_is_never_without_severity(success, severity) -> None:
    judge = Judge([PythonStep("v", lambda _: Judgement(success, 9.99, "f"))], score_range=(0, 10))
    (finding,) = JudgeLoss(judge).forward(Datum(items=[Datum()])).findings  # type: ignore[union-attr]
    assert finding.severity == severity


def test_a_metric_of_the_modules_own_is_not_replaced() -> None:
    data = Datum(items=[Datum(metadata={"said": "x 2"}, metrics={"score": 3.0})])
    JudgeLoss(Counting()).score(data, None)
    assert (data.items[0].outcome, data.items[0].metrics) == ("failed", {"score": 3.0})


def test_a_monitored_metric_of_the_modules_own_needs_no_judge_on_val() -> None:
    class Own(Writer):
        monitor = "score"

        def forward(self, batch):
            data = super().forward(batch)
            for item in data.items:
                item.metrics = {"score": float(len(self.text.data))}
            return data

    module = Own(judge := Counting())
    trainer = fitted(module)
    assert judge.seen == ["x 1", "x 2"]
    assert trainer.experiment.metrics[1]["val"] == {"score": 2.0}
    assert module.optimizer.heard == ["longer 1", "longer 2"]


def test_a_judge_without_steps_leaves_what_nobody_scored() -> None:
    data = Datum(items=[Datum(feedback="advice"), Datum(), Datum(success=True, feedback="fine")])
    loss = JudgeLoss(Judge())
    loss.score(data, None)
    assert [item.outcome for item in data.items] == ["unscored", "unscored", "passed"]
    assert [f.direction for f in loss.forward(data).findings] == ["advice"]  # type: ignore[union-attr]


# --- configure_judge ---------------------------------------------------------------------------


class Judged(Writer):
    def configure_loss(self):
        return AutoPilotModule.configure_loss(self)

    def configure_judge(self):
        return self.judge


def test_a_modules_judge_scores_every_split() -> None:
    module = Judged(judge := Counting())
    trainer = fitted(module)
    assert trainer.experiment.metrics[1]["val"] == {"accuracy": 0.5, "score": 0.2}
    assert judge.seen == ["x 3", "x 4", "x 1", "x 2", "xx 3", "xx 4"]
    assert module.optimizer.heard == ["longer 1", "longer 2"]


def test_a_modules_judge_leaves_its_own_success() -> None:
    trainer = fitted(Judged(Counting(), success=True))
    assert trainer.experiment.metrics[1]["val"] == {"accuracy": 1.0, "score": 0.2}


def test_its_own_losses_feedback_is_added() -> None:
    class Own(Loss):
        def forward(self, data, targets):
            self.seen = [item.outcome for item in data.items]

    class Both(Judged):
        own = Own()

        def configure_loss(self):
            return self.own

    fitted(module := Both(Counting()))
    assert module.optimizer.heard == ["longer 1", "longer 2"]
    assert module.own.seen == ["failed", "failed"]


@pytest.mark.parametrize("wrong", [Counting, object(), "strict", 0])
def test_what_is_no_judge_is_refused(wrong) -> None:
    with pytest.raises(Exception, match=r"configure_judge\(\) returned .*, not a Judge") as raised:
        fitted(Judged(wrong))
    assert "return a Judge" in raised.value.hint  # type: ignore[attr-defined]


def test_the_policy_sees_the_score() -> None:
    class Sees(Policy):
        def judge(self, view):
            self.seen = dict(view.metrics["val"])
            return super().judge(view)

    policy = Sees()
    fitted(Writer(Counting()), policy=policy)
    assert policy.seen == {"accuracy": 0.5, "score": 0.2}
