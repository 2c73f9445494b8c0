"""The story of one epoch, told by a run: the order of everything."""

import random

import pytest

from autopilot.core.callback import HOOKS, Callback
from autopilot.core.experiment import Experiment
from autopilot.core.gradient import Gradient
from autopilot.core.loss import Loss
from autopilot.core.memory import Memory
from autopilot.core.metric import Metric
from autopilot.core.module import AutoPilotModule
from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.parameter import Parameter
from autopilot.core.policy import Policy
from autopilot.core.records.record import Lesson, MetricsRecord, StepRecord
from autopilot.core.rules import ChainOptimizer
from autopilot.core.run import current_run
from autopilot.core.store import InMemoryStore
from autopilot.core.trainer import Trainer
from autopilot.core.types import Cost, Datum
from autopilot.errors import (
    AgentError,
    DataError,
    EvaluationError,
    ModuleError,
    UsageError,
    UserCodeError,
)
from autopilot.policy import MaxGate
from autopilot.testing import ScriptedOptimizer


class Scale(AutoPilotModule):
    """An item succeeds while its number is below the level."""

    def __init__(self, script, told=None, **settings):
        super().__init__()
        self.level = Parameter(2)
        self.script, self.told = script, [] if told is None else told
        for name, value in settings.items():
            setattr(self, name, value)

    def forward(self, batch):
        return Datum(
            items=[
                Datum(success=value < self.level.data, feedback=self.feedback(value))
                for value in (item.metadata["value"] for item in batch.items)
            ]
        )

    def feedback(self, value):
        return None if value < self.level.data else f"{value} is above"

    def training_step(self, batch):
        self.told.append(("training_step", self.level.data, self.training))
        return self(batch)

    def validation_step(self, batch):
        self.told.append(("validation_step", self.level.data, self.training))
        return self(batch)

    def configure_optimizers(self):
        return Told(self.parameters(), self.script, self.told)

    def configure_loss(self):
        return ToldLoss(self.told)

    def configure_policy(self):
        return ToldPolicy(self.told)


class Told(ScriptedOptimizer):
    def __init__(self, parameters, script, told):
        super().__init__(parameters, script)
        self.told = told

    def step(self):
        self.told.append(("step", self.parameters[0].grad and self.parameters[0].grad.render()))
        return super().step()

    def zero_grad(self):
        self.told.append("zero_grad")
        super().zero_grad()


class ToldLoss(Loss):
    def __init__(self, told):
        super().__init__()
        self.told = told

    def forward(self, data, targets):
        self.told.append("loss")
        return super().forward(data, targets)

    def backward(self, *, retain_graph=False):
        self.told.append("backward")
        super().backward(retain_graph=retain_graph)


class ToldPolicy(Policy):
    def __init__(self, told):
        super().__init__()
        self.told = told

    def judge(self, view):
        self.told.append(("judge", view.best_value, view.value))
        return super().judge(view)


class ToldStore(InMemoryStore):
    def __init__(self, told):
        super().__init__()
        self.told = told

    def commit(self, state, message, records):
        self.told.append(("commit", message.splitlines()[0].partition(": ")[2]))
        return super().commit(state, message, records)

    def rollback(self, revision, message):
        self.told.append(("rollback", message.splitlines()[0].partition(": ")[2]))
        return super().rollback(revision, message)

    def tag(self, epoch, revision, message):
        self.told.append(("tag", epoch))
        super().tag(epoch, revision, message)


class ToldMemory(Memory):
    def __init__(self, told):
        super().__init__()
        self.told = told

    def learn(self, lesson):
        self.told.append(("learn", lesson.strategy, lesson.outcome))
        super().learn(lesson)


def tells(name, told):
    def moment(self, trainer, module, *arguments):
        numbers = [a for a in arguments if isinstance(a, int)]
        told.append((name, *numbers) if numbers else name)

    return moment


def told_callback(told):
    return type("ToldCallback", (Callback,), {name: tells(name, told) for name in HOOKS})()


def numbers(*values):
    return Datum(items=[Datum(metadata={"value": v}, id=f"i{v}") for v in values])


TRAIN = [numbers(1, 4), numbers(3, 2), numbers(5)]
VAL = [numbers(1, 2, 3, 4)]


def test_the_whole_story_of_two_epochs():
    told = []
    module = Scale([("up", 4), ("more", 5), ("down", 1), None], told)
    trainer = Trainer(
        callbacks=[told_callback(told)],
        experiment=Experiment(ToldStore(told), ToldMemory(told)),
        accumulate_grad_batches=2,
        measure_noise=False,
    )
    told.append("fit")
    result = trainer.fit(module, TRAIN, VAL, max_epochs=2)

    def validation(level):
        return [
            "on_validation_start",
            "on_validation_epoch_start",
            ("on_validation_batch_start", 0),
            ("validation_step", level, False),
            ("on_validation_batch_end", 0),
            "on_validation_epoch_end",
            "on_validation_end",
        ]

    def batch(number, level, *then):
        return [
            ("on_train_batch_start", number),
            ("training_step", level, True),
            "loss",
            ("on_after_loss", number),
            *then,
            ("on_train_batch_end", number),
        ]

    def step(feedback, *committed):
        return [
            "on_before_backward",
            "backward",
            "on_after_backward",
            "on_before_optimizer_step",
            ("step", feedback),
            *committed,
            "on_step_committed",
            "on_before_zero_grad",
            "zero_grad",
        ]

    above = [
        "2 is above\n  - i2\n3 is above\n  - i3\n4 is above\n  - i4",
        "5 is above",
    ]
    assert told == [
        "fit",
        "setup",
        "zero_grad",
        "on_fit_start",
        # Epoch 0: the baseline, before anything changes.
        *validation(2),
        "on_verdict",
        ("tag", 0),
        "on_epoch_recorded",
        "on_train_start",
        # Epoch 1: two steps, the second after the incomplete window; val is of the state after it.
        "on_train_epoch_start",
        *batch(0, 2),
        *batch(1, 2, *step(above[0], ("commit", "epoch 1: up at 1"))),
        *batch(2, 4, *step(above[1], ("commit", "epoch 1: more at 2"))),
        *validation(5),
        ("judge", 0.25, 1.0),
        "on_verdict",
        "on_train_epoch_end",
        ("learn", "up + more", "kept"),
        ("tag", 1),
        "on_epoch_recorded",
        # Epoch 2: worse, and rolled back to epoch 1.
        "on_train_epoch_start",
        *batch(0, 5),
        *batch(1, 5, *step(None, ("commit", "epoch 2: down at 3"))),
        *batch(2, 1, *step("5 is above")),
        *validation(1),
        ("judge", 1.0, 0.0),
        "on_verdict",
        "on_train_epoch_end",
        ("learn", "down", "rejected"),
        ("rollback", "rollback to epoch 1"),
        "on_epoch_recorded",
        "on_train_end",
        "on_fit_end",
        "teardown",
    ]
    assert module.level.data == 5
    assert (result.baseline, result.best, result.best_epoch) == (0.25, 1.0, 1)
    assert (result.epochs, result.kept) == (2, 1)
    assert result.stop_reason == "reached the maximum of 2 epochs"
    # 4 val items of the baseline, then 5 train and 4 val items an epoch.
    assert result.cost.evaluations == 4 + 2 * 9


def fit(script, *, epochs=None, train=TRAIN, val=VAL, policy=None, **settings):
    module = Scale(script, **settings)
    accumulate = settings.pop("accumulate", None)
    trainer = Trainer(policy=policy, accumulate_grad_batches=accumulate, measure_noise=False)
    result = trainer.fit(module, train, val, max_epochs=len(script) if epochs is None else epochs)
    return module, trainer, result


def outcomes(trainer):
    return [record.outcome for record in trainer.experiment.history[1:]]


def test_a_state_that_was_measured_is_not_measured_again():
    module, trainer, _ = fit([("down", 1), ("down", 1), ("back", 2), ("up", 3), ("old", 2)])
    assert outcomes(trainer) == ["rejected", "repeated", "unchanged", "kept", "repeated"]
    measured = [told for told in module.told if told[0] == "validation_step"]
    assert [level for _, level, _ in measured] == [2, 1, 3]
    reused = [record.reused for record in trainer.experiment.history]
    assert reused == [None, None, 1, 0, None, 0]
    reasons = [record.reasons[0] for record in trainer.experiment.history]
    assert reasons[2] == "the same state as epoch 1 (rejected), not evaluated again"
    assert reasons[3] == "the optimizer changed nothing"
    assert module.level.data == 3


def test_steps_at_the_boundaries_of_windows():
    batches = [numbers(n + 10) for n in range(7)]
    for size, seen in ((None, [7]), (1, [1] * 7), (2, [2, 2, 2, 1]), (3, [3, 3, 1]), (7, [7])):
        module = Scale([], accumulate_grad_batches=size)
        Trainer().fit(module, batches, VAL, max_epochs=1)
        counts = [told[1].count("above") for told in module.told if told[0] == "step"]
        assert counts == seen, f"accumulate {size}"


def test_the_trainers_windows_come_before_the_modules():
    module = Scale([], accumulate_grad_batches=1)
    Trainer(accumulate_grad_batches=7).fit(module, TRAIN, VAL, max_epochs=1)
    assert len([told for told in module.told if told[0] == "step"]) == 1


class Endless:
    """Batches of unknown length; says how many are alive at once."""

    def __init__(self, count):
        self.count, self.alive, self.most = count, 0, 0

    def __iter__(self):
        for number in range(self.count):
            self.alive += 1
            self.most = max(self.most, self.alive)
            yield Tracked(self, number)


class Tracked(Datum):
    def __init__(self, home, number):
        super().__init__(items=[Datum(metadata={"value": number % 3})], id=f"b{number}")
        self.home = home

    def __del__(self):
        self.home.alive -= 1


def test_batches_of_unknown_length_are_not_held():
    train = Endless(500)
    module = Scale([("up", 3)] * 100, accumulate_grad_batches=5, level=Parameter(-1))
    Trainer().fit(module, train, VAL, max_epochs=1)
    assert len([told for told in module.told if told[0] == "step"]) == 100
    # One ahead, one at work, and what the garbage collector has not come to.
    assert train.most < 200


def test_a_generator_that_ran_out_is_an_error_and_not_an_epoch():
    with pytest.raises(DataError, match="the train split gives no batches in epoch 2") as caught:
        Trainer().fit(Scale([("up", 3)]), iter(TRAIN), VAL, max_epochs=2)
    assert "DataLoader" in caught.value.hint


def test_without_a_val_split_every_change_is_kept():
    _, trainer, result = fit([("up", 3), ("down", 1)], val=None)
    assert outcomes(trainer) == ["kept", "kept"]
    assert trainer.experiment.history[1].reasons == ("there is no val split to judge by",)
    assert (result.baseline, result.best) == (None, None)


def test_without_a_val_split_an_epoch_whose_train_items_all_fail_is_rejected():
    class Fragile(Scale):
        def forward(self, batch):
            if self.level.data == 9:
                raise RuntimeError("no connection")
            return super().forward(batch)

    module, trainer = Fragile([("up", 3), ("break", 9), ("on", 8)]), Trainer()
    trainer.fit(module, TRAIN, None, max_epochs=3)
    # Nothing measures the state after a step: it is the next epoch that finds it broken.
    assert outcomes(trainer)[:2] == ["kept", "kept"]
    assert trainer.experiment.history[3].verdict == "rejected"
    assert trainer.experiment.history[3].reasons == (
        "all 5 train items failed: RuntimeError: no connection",
    )


def test_a_monitor_without_a_val_split_is_refused():
    with pytest.raises(UsageError, match="there is no val split to monitor 'f1' on") as caught:
        Trainer(monitor="f1").fit(Scale([("up", 3)]), TRAIN, None, max_epochs=1)
    assert caught.value.hint == "define val_dataloader(), or leave the monitor out"


def test_the_baseline_must_run():
    class Broken(Scale):
        def forward(self, batch):
            raise RuntimeError("no connection")

    trainer = Trainer()
    with pytest.raises(EvaluationError, match="all 4 val items failed: RuntimeError: no conn"):
        trainer.fit(Broken([("up", 3)]), TRAIN, VAL, max_epochs=1)
    assert not trainer.experiment.history


def test_an_epoch_in_which_everything_fails_is_rejected():
    class Fragile(Scale):
        def forward(self, batch):
            if self.level.data == 7:
                raise RuntimeError("seven")
            return super().forward(batch)

    module = Fragile([("seven", 7), ("up", 3)])
    trainer = Trainer()
    result = trainer.fit(module, TRAIN, VAL, max_epochs=2)
    first = trainer.experiment.history[1]
    assert first.reasons == ("all 4 val items failed: RuntimeError: seven",)
    assert (first.verdict, result.best_epoch, module.level.data) == ("rejected", 2, 3)


class Sometimes(Metric):
    """A metric that is not a number for some levels."""

    values: list[float]

    def __init__(self, module):
        super().__init__()
        self.add_state("values", [])

    def update(self, data):
        self.values += [item.metadata["f1"] for item in data.leaves()]

    def compute(self):
        return self.values[0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("mode", ["max", "min"])
def test_what_is_no_number_never_becomes_best(bad, mode):
    class Odd(Scale):
        def __init__(self, script):
            super().__init__(script, monitor="f1", mode=mode)
            self.f1 = Sometimes(None)
            self.f1.higher_is_better = mode == "max"

        def forward(self, batch):
            score = bad if self.level.data == 9 else float(self.level.data)
            return Datum(items=[Datum(metadata={"f1": score}) for _ in batch.items])

    module, trainer = Odd([("odd", 9), ("up", 3), ("down", 1)]), Trainer()
    result = trainer.fit(module, TRAIN, VAL, max_epochs=3)
    assert outcomes(trainer)[0] == "rejected"
    assert trainer.experiment.history[1].reasons == (f"val f1 is {bad}",)
    assert result.best == (3 if mode == "max" else 1)
    lessons = trainer.experiment.memory.lessons
    assert lessons[0].delta is None
    assert [lesson.delta for lesson in lessons[1:]] == ([1, -2] if mode == "max" else [-1, 1])


def test_a_nan_of_one_item_is_its_error_and_the_others_are_compared():
    class Odd(Scale):
        """Item 3 has no number at level 2; one step on all others are worse."""

        def forward(self, batch):
            return Datum(items=[Datum(metrics={"f1": self.score(item)}) for item in batch.items])

        def score(self, item):
            if self.level.data == 2 and item.metadata["value"] == 3:
                return float("nan")
            return {2: 0.9, 3: 0.1, 4: 0.95}[self.level.data]

    trainer = Trainer()
    module = Odd([("down", 3), ("up", 4)], monitor="f1")
    result = trainer.fit(module, TRAIN, VAL, max_epochs=2)
    assert outcomes(trainer) == ["rejected", "kept"]
    assert trainer.experiment.history[2].reasons == (
        "val f1 0.900 -> 0.950 over the 3 items that have a value in both",
    )
    assert (result.baseline, result.best) == (pytest.approx(0.9), 0.95)


def test_a_baseline_of_which_no_item_has_a_number_stops():
    class Odd(Scale):
        def forward(self, batch):
            return Datum(items=[Datum(metrics={"f1": float("nan")}) for _ in batch.items])

    with pytest.raises(EvaluationError, match="all 4 val items failed: its metric 'f1' is nan"):
        Trainer().fit(Odd([("up", 3)], monitor="f1"), TRAIN, VAL, max_epochs=1)


class Silent(Scale):
    """All train items pass, and none has feedback."""

    def training_step(self, batch):
        return Datum(items=[Datum(success=True) for _ in batch.items])


def test_a_train_split_without_feedback_stops_the_run_and_says_why():
    module, trainer = Silent([("up", 3), ("more", 4)]), Trainer()
    result = trainer.fit(module, TRAIN, VAL, max_epochs=9)
    assert result.stop_reason == (
        "all 5 train items passed and none has feedback: nothing says what to improve"
    )
    assert outcomes(trainer) == ["unchanged"]
    assert module.level.data == 2


def test_a_search_that_needs_no_feedback_goes_on():
    class Search(Told):
        needs_gradient = False

    class Blind(Silent):
        def configure_optimizers(self):
            return Search(self.parameters(), self.script, self.told)

    module = Blind([("up", 3), ("more", 4)])
    Trainer().fit(module, TRAIN, VAL, max_epochs=2)
    assert module.level.data == 4


def test_a_module_that_scores_nothing_stops_at_the_baseline():
    class Unscored(Scale):
        def forward(self, batch):
            return Datum(items=[Datum(metadata={"said": "hi"}) for _ in batch.items])

    trainer = Trainer()
    with pytest.raises(EvaluationError, match="nothing scores the 4 val items") as refused:
        trainer.fit(Unscored([("up", 3)]), TRAIN, VAL, max_epochs=1)
    assert "success=" in refused.value.hint
    assert 'monitor = "score"' in refused.value.hint
    assert not trainer.experiment.history


def test_without_a_val_split_the_train_items_are_to_be_scored():
    told = []

    class Unscored(Scale):
        def forward(self, batch):
            return Datum(items=[Datum(feedback="do more") for _ in batch.items])

    trainer = Trainer()
    with pytest.raises(EvaluationError, match="nothing scores the 5 train items"):
        trainer.fit(Unscored([("up", 3)], told), TRAIN, max_epochs=2)
    assert "step" not in [entry[0] for entry in told]
    assert trainer.experiment.last_epoch == 0


@pytest.mark.parametrize(
    ("item", "says", "hint"),
    [
        ({"unmeasured": "no verdict"}, "nothing could be measured of the 4 val items: no", "judge"),
        ({"metrics": {"f2": 0.5}}, "there is no metric 'f1'", "or monitor one of: f2"),
        ({"metrics": {"f2": 0.5}}, "none has a success", 'Datum(metrics={"f1": ...})'),
    ],
)
def test_what_is_missing_at_the_baseline_is_named(item, says, hint):
    class Missing(Scale):
        def forward(self, batch):
            return Datum(items=[Datum(**item) for _ in batch.items])

    with pytest.raises(EvaluationError, match=says) as refused:
        Trainer(monitor="f1").fit(Missing([("up", 3)]), TRAIN, VAL, max_epochs=1)
    assert hint in refused.value.hint


def test_a_training_step_that_always_raises_stops_before_an_agent_is_asked():
    told = []

    class Broken(Scale):
        def training_step(self, batch):
            raise KeyError("label")

    module, trainer = Broken([("up", 3)], told), Trainer()
    with pytest.raises(UserCodeError, match="all 5 train items raised: KeyError: 'label'"):
        trainer.fit(module, TRAIN, VAL, max_epochs=3)
    assert not any(entry[0] == "step" for entry in told)
    assert trainer.experiment.last_epoch == 0


@pytest.mark.parametrize("good", [None, 2])
def test_steps_wait_as_long_as_every_train_item_raised(good):
    told = []

    class Broken(Scale):
        def training_step(self, batch):
            if batch.items[0].metadata["value"] != good:
                raise KeyError("label")
            return self(batch)

    module = Broken([("up", 3)], told)
    trainer, train = Trainer(accumulate_grad_batches=1), [[{"value": n}] for n in (7, 8, 2, 9)]
    if good is None:
        with pytest.raises(
            UserCodeError, match=r"all 4 .*'label' \(.*test_loop.py:\d+\)"
        ) as stopped:
            trainer.fit(module, train, VAL, max_epochs=1)
        assert "another experiment" in stopped.value.hint
        assert "step" not in [entry[0] for entry in told]
        return
    trainer.fit(module, train, VAL, max_epochs=1)
    first, second = (entry[1] for entry in told if entry[0] == "step")
    # The third step hears of the first two items too; the last one's failure is its own.
    assert "(2 findings" in first and "2 is above" in first
    assert "it raised KeyError" in second and "2 is above" not in second


def test_a_monitor_that_does_not_exist_is_named_at_the_baseline():
    with pytest.raises(UsageError, match="there is no val metric 'f1'") as caught:
        fit([("up", 3)], monitor="f1")
    assert caught.value.hint == "monitor one of: accuracy"


def test_a_blocked_strategy_is_not_run_again():
    script = [("idle", 2), ("idle", 2), ("idle", 2), ("idle", 1), ("up", 3)]
    module, trainer, _ = fit(script, epochs=4)
    assert trainer.experiment.memory.blocked() == {"idle": "did nothing 3 times in a row"}
    assert [r.strategy for r in trainer.experiment.history] == ["", "idle", "idle", "idle", "up"]
    assert module.level.data == 3


def test_optimizers_are_told_what_memory_knows_before_each_step():
    seen = []

    class Asks(Optimizer):
        def step(self):
            seen.append((self.context.tried, sorted(self.blocked), self.context.trend.direction))
            return Step(strategy="down")

    module = Scale([])
    optimizer = Asks(module.parameters())
    optimizer.block_strategy("never")
    module.configure_optimizers = lambda: optimizer
    Trainer().fit(module, TRAIN, VAL, max_epochs=4)
    assert [tried for tried, _, _ in seen] == [{}, {"down": 1}, {"down": 2}, {"down": 3}]
    assert [blocked for _, blocked, _ in seen][:1] == [["never"]]
    assert seen[3][1] == ["down", "never"]


def test_an_optimizer_that_raises_leaves_the_parameters_as_they_were():
    def half(parameters):
        parameters[0].data = 99
        raise RuntimeError("in the middle")

    module, trainer = Scale([("up", 3), ("half", half)]), Trainer()
    with pytest.raises(RuntimeError, match="in the middle"):
        trainer.fit(module, TRAIN, VAL, max_epochs=2)
    assert module.level.data == 3
    assert trainer.experiment.last_epoch == 1


def test_what_a_step_left_when_its_agent_failed_is_undone():
    def half(parameters):
        parameters[0].data = 99
        raise AgentError("the agent gave up")

    module, trainer = Scale([("up", 3), ("half", half), ("more", 4)]), Trainer()
    result = trainer.fit(module, TRAIN, VAL, max_epochs=3)
    records = [record for _, record in trainer.experiment.store.records(StepRecord)]
    assert [(r.epoch, r.error) for r in records if r.error] == [(2, "the agent gave up")]
    assert not [told for told in module.told if told[1] == 99]  # nothing measured it
    assert [r.verdict for r in trainer.experiment.history] == [
        "baseline",
        "kept",
        "rejected",
        "kept",
    ]
    assert (module.level.data, result.epochs) == (4, 3)


class Lucky(Scale):
    """Half of the score is chance."""

    def forward(self, batch):
        return Datum(items=[Datum(metrics={"luck": random.random()}) for _ in batch.items])


def test_the_same_seed_gives_the_same_run():
    def luck(seed):
        trainer = Trainer(seed=seed)
        module = Lucky(
            monitor="luck", script=[("up", lambda ps: setattr(ps[0], "data", random.random()))] * 3
        )
        trainer.fit(module, TRAIN, VAL, max_epochs=3)
        records = [record for _, record in trainer.experiment.store.records(MetricsRecord)]
        return [record.metrics for record in records], module.level.data

    assert luck(1) == luck(1)
    assert luck(1) != luck(2)


def test_each_step_of_each_epoch_has_a_seed_of_its_own():
    drawn, random_before = [], random.getstate()

    def draw(parameters):
        drawn.append(random.random())
        parameters[0].data = len(drawn)

    module = Scale([("draw", draw)] * 4)
    Trainer(accumulate_grad_batches=1).fit(module, [[1, 5], [3, 6]], VAL, max_epochs=2)
    assert len(drawn) == len(set(drawn)) == 4
    # Of the epoch and the step alone: another run with the same seed draws the same.
    first, drawn = drawn, []
    Trainer(accumulate_grad_batches=1).fit(
        Scale([("draw", draw)] * 4), [[1, 5], [3, 6]], VAL, max_epochs=2
    )
    random.setstate(random_before)
    assert drawn == first


def test_the_seconds_and_dollars_of_an_epoch_are_counted_once(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def paid(parameters):
        now[0] += 10
        with current_run().ledger.reserve("agent", cost_usd=1.0) as call:
            call.settle(Cost(tokens=7, cost_usd=0.5, seconds=10.0))
        parameters[0].data = 3

    trainer = Trainer(measure_noise=False)
    result = trainer.fit(Scale([("paid", paid)]), TRAIN, VAL, max_epochs=1)
    [epoch] = [r.cost for r in trainer.experiment.history if r.epoch == 1]
    [(_, step)] = trainer.experiment.store.records(StepRecord)
    # The call's seconds are in the wall clock of its epoch, which the step does not add to.
    assert step.cost == Cost(tokens=7, cost_usd=0.5)
    assert (epoch.tokens, epoch.cost_usd, epoch.seconds) == (7, 0.5, 10.0)
    assert (result.cost.tokens, result.cost.cost_usd, result.cost.seconds) == (7, 0.5, 10.0)


def test_what_is_written_down():
    _, trainer, _ = fit([("up", 4), ("down", 1)], train=TRAIN)
    store = trainer.experiment.store
    steps = [record for _, record in store.records(StepRecord)]
    assert [(s.epoch, s.step, s.strategy, s.changed) for s in steps] == [
        (1, 1, "up", True),
        (2, 1, "down", True),
    ]
    assert "5 is above" in steps[0].gradients["level"]
    metrics = {(r.epoch, r.split): r for _, r in store.records(MetricsRecord)}
    assert sorted(metrics) == [(0, "val"), (1, "train"), (1, "val"), (2, "train"), (2, "val")]
    assert metrics[1, "train"].metrics == {"accuracy": 0.2}
    assert metrics[1, "val"].metrics == {"accuracy": 0.75}
    assert metrics[2, "val"].reasons == ("val accuracy 0.750 -> 0.000 is no improvement",)
    assert metrics[2, "val"].best == 0.75
    lessons = [lesson for _, lesson in store.records(Lesson)]
    assert [(x.strategy, x.outcome, x.delta) for x in lessons] == [
        ("up", "kept", 0.5),
        ("down", "rejected", -0.75),
    ]
    log = store.log()
    assert [revision.message.splitlines()[0] for revision in log][::-1] == [
        "autopilot(in-memory): start library run",
        "autopilot(in-memory): epoch 1: up at 1",
        "autopilot(in-memory): epoch 2: down at 2",
        "autopilot(in-memory): rollback to epoch 1",
    ]
    assert log[0].tree == log[2].tree
    assert store.tags() == {0: log[3].id, 1: log[2].id}


class Two(Loss):
    def __init__(self, parameters=None):
        super().__init__(parameters)

    def forward(self, data, targets):
        return Gradient("from the second")


def test_several_losses_on_one_module():
    module = Scale([])
    only = Parameter()
    module.configure_loss = lambda: [Loss(), Two(), Two([only])]
    seen = []

    class Looks(Callback):
        def on_after_backward(self, trainer, module):
            seen.append((module.level.grad.render(), only.grad.render()))

    Trainer(callbacks=[Looks()]).fit(module, [numbers(5)], VAL, max_epochs=1)
    assert seen == [("5 is above\nfrom the second", "from the second")]


# --- without a train split -------------------------------------------------------------------


def val_only(script, told, *, store=None, **settings):
    trainer = Trainer(experiment=Experiment(store), callbacks=settings.pop("callbacks", ()))
    trainer.fit(Scale(script, told, **settings).eval(), None, VAL, max_epochs=3)
    return trainer


def feedback_of_steps(told):
    """What each step read, without the ids of the items."""
    texts = [entry[1] for entry in told if entry[0] == "step"]
    return [[x for x in (text or "").splitlines() if not x.startswith(" ")] for text in texts]


def test_without_a_train_split_the_val_results_of_the_best_state_are_the_feedback():
    class Heard(Callback):
        def on_after_loss(self, trainer, module, data, batch, index):
            heard.append((index, len(data.items), module.training))

        def on_step_committed(self, trainer, module, record):
            heard.append(record.step)

    told, heard = [], []
    trainer = val_only([("up", 3), ("down", 1), ("more", 9)], told, callbacks=[Heard()])
    # It is a training pass in all but the evaluation.
    assert heard == 3 * [(0, 4, True), 1]
    assert outcomes(trainer) == ["kept", "rejected", "kept"]
    # Epoch 2 was rejected: the third step reads what the second one read.
    above = ["2 is above", "3 is above", "4 is above"]
    assert feedback_of_steps(told) == [above, above[1:], above[1:]]
    assert "training_step" not in [entry[0] for entry in told]
    assert {split for splits in trainer.experiment.metrics.values() for split in splits} == {"val"}
    # An epoch costs its val split, once; the baseline one more for its noise.
    costs = [record.cost.evaluations for record in trainer.experiment.history]
    assert costs == [8, 4, 4, 4]


def test_a_resumed_run_without_a_train_split_learns_the_same():
    class Stop(Callback):
        def on_before_backward(self, trainer, module):
            if trainer.current_epoch == 2:
                raise KeyboardInterrupt

    script, whole, first, rest = [("up", 3), ("down", 1), ("more", 9)], [], [], []
    expected, store = val_only(script, whole), InMemoryStore()
    with pytest.raises(KeyboardInterrupt):
        val_only(script, first, store=store, callbacks=[Stop()])
    resumed = val_only(script, rest, store=store)
    assert feedback_of_steps(first) + feedback_of_steps(rest) == feedback_of_steps(whole)
    both = [
        [(record.verdict, record.metrics) for record in trainer.experiment.history]
        for trainer in (expected, resumed)
    ]
    assert both[0] == both[1]


def test_without_a_train_split_and_feedback_the_run_stops_and_says_why():
    told = []
    trainer = val_only([("up", 9), ("more", 10)], told)
    assert trainer.stop_reason == (
        "all 4 val items passed and none has feedback: nothing says what to improve"
    )
    assert trainer.experiment.best_epoch == 1


def test_a_search_without_a_train_split_gets_no_feedback():
    class Search(Told):
        needs_gradient = False

    class Blind(Scale):
        def configure_optimizers(self):
            return Search(self.parameters(), self.script, self.told)

    told, trainer = [], Trainer()
    trainer.fit(Blind([("up", 3), ("more", 9)], told), None, VAL, max_epochs=2)
    assert outcomes(trainer) == ["kept", "kept"]
    assert [entry[1] for entry in told if entry[0] == "step"] == [None, None]
    assert "loss" not in told
    # One that reads feedback in a chain with it gets some.
    chain = ChainOptimizer([Told([Parameter(0)], [], []), Search([Parameter(0)], [], [])])
    assert (chain.needs_gradient, chain.reads_feedback()) == (False, True)


class Height(Metric):
    """Of the whole split: no item has it."""

    higher_is_better = False

    def __init__(self):
        super().__init__()
        self.add_state("above", 0)

    def update(self, data):
        self.above += sum(not item.success for item in data.leaves())

    def compute(self):
        return float(self.above)


@pytest.mark.parametrize(
    ("says", "reads"),
    [
        ("{} is above", ["2 is above", "3 is above", "4 is above"]),
        ("", ["make this item succeed (3 findings, severity 1.00)"]),
    ],
)
def test_without_a_train_split_a_metric_of_the_whole_is_feedback_too(says, reads):
    class High(Scale):
        def feedback(self, value):
            return None if value < self.level.data else says.format(value)

    told, trainer = [], Trainer()
    module = High([("up", 3)], told, height=Height(), monitor="height")
    trainer.fit(module, None, VAL, max_epochs=1)
    value = "lower height: it is 3 on the val split"
    assert sorted(feedback_of_steps(told)[0]) == sorted([*reads, value])


def test_a_number_of_a_single_val_item_says_what_to_improve():
    class Slow(Scale):
        monitor, mode = "seconds", "min"

        def forward(self, batch):
            return Datum(items=[Datum(metrics={"seconds": 1.5}, feedback=self.says)])

    for says, expected in (
        ("took long", ["lower seconds: it is 1.5 on the val split", "took long"]),
        ("", ["lower seconds"]),
    ):
        told = []
        Trainer().fit(Slow([("up", 3)], told, says=says), None, [numbers(1)], max_epochs=1)
        (entry,) = [entry[1] for entry in told if entry[0] == "step"]
        assert sorted(x for x in entry.splitlines() if not x.startswith(" ")) == expected
        assert ": seconds 1.5" in entry


def test_a_gate_on_train_needs_a_train_split():
    module = Scale([("up", 3)], configure_policy=lambda: MaxGate("loss", 1, split="train"))
    with pytest.raises(ModuleError, match="reads train metrics, and there is no train split"):
        Trainer().fit(module, None, VAL, max_epochs=1)
