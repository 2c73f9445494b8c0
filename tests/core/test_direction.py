"""A direction is stated, never guessed."""

from types import MappingProxyType

import pytest

from autopilot.core.comparison import metric_modes
from autopilot.core.direction import direction_of, direction_words, sounds_like_cost
from autopilot.core.metric import Metric, MetricCollection
from autopilot.core.module import AutoPilotModule
from autopilot.core.parameter import Parameter
from autopilot.core.trainer import Trainer
from autopilot.core.types import Datum
from autopilot.errors import UsageError
from autopilot.testing import ScriptedOptimizer


@pytest.mark.parametrize(
    "name", ["loss", "val_loss", "errorRate", "p95_latency", "seconds", "cost_usd", "rmse", "WER"]
)
def test_names_of_costs(name):
    assert sounds_like_cost(name)


@pytest.mark.parametrize("name", ["accuracy", "f1", "score", "losslessness", "recall", "quality"])
def test_names_that_are_no_costs(name):
    assert not sounds_like_cost(name)


def test_a_cost_without_a_direction_is_refused_with_the_line_to_add():
    with pytest.raises(UsageError, match="a higher or a lower 'loss' is better") as refused:
        direction_of("loss", None, None, {})
    assert 'mode = "min"' in refused.value.hint
    assert "--mode min" in refused.value.hint


@pytest.mark.parametrize(
    ("asked", "own", "metrics", "expected"),
    [
        (None, None, {"loss": "min"}, "min"),
        (None, "min", {}, "min"),
        (None, "max", {}, "max"),
        ("max", "min", {"loss": "min"}, "max"),
        ("min", None, {"loss": "max"}, "min"),
    ],
)
def test_what_states_a_direction(asked, own, metrics, expected):
    assert direction_of("loss", asked, own, metrics) == expected


def test_a_contradiction_is_refused():
    with pytest.raises(UsageError, match="says lower is better"):
        direction_of("loss", None, "max", {"loss": "min"})
    with pytest.raises(UsageError, match="mode is 'up'"):
        direction_of("f1", "up", None, {})


class Loss(Metric):
    higher_is_better = False

    def update(self, data):
        pass

    def compute(self):
        return 1.0


class Level(AutoPilotModule):
    """Its items' loss is the level; the script of edits goes 2, then 1."""

    monitor = "loss"

    def __init__(self):
        super().__init__()
        self.level = Parameter(1)

    def forward(self, batch):
        return Datum(items=[Datum(metrics={"loss": float(self.level.data)}) for _ in batch.items])

    def configure_optimizers(self):
        return ScriptedOptimizer(self.parameters(), [("up", 2), ("down", 0)])

    def train_dataloader(self):
        return [["a"]]

    def val_dataloader(self):
        return [["b"]]


def test_a_metric_states_it_inside_of_a_collection_too():
    module = Level()
    module.all = MetricCollection({"loss": Loss()}, prefix="my_")
    assert metric_modes(dict(module.named_metrics())) == {"my_loss": "min"}


class Losses(Loss):
    def compute(self):
        return {"mean": 1.0, "max": 2.0}


class ByKey(Losses):
    higher_is_better = MappingProxyType({"mean": False, "max": None, "gain": True})


def test_a_metric_of_several_values_states_one_direction_or_one_by_key():
    module = Level()
    module.own = Losses()
    module.all = MetricCollection({"loss": Losses(), "by": ByKey()}, prefix="my_", postfix="_all")
    assert metric_modes(dict(module.named_metrics()), "own_mean")["own_mean"] == "min"
    assert metric_modes(dict(module.named_metrics()), "my_loss_max_all")["my_loss_max_all"] == "min"
    modes = metric_modes(dict(module.named_metrics()), "my_by_max_all")
    assert (modes["my_by_mean_all"], modes["my_by_gain_all"]) == ("min", "max")
    assert "my_by_max_all" not in modes


def test_a_run_by_a_key_of_a_metric_is_compared_by_it():
    module = Level()
    module.own, module.monitor = Losses(), "own_max"
    trainer = Trainer()
    result = trainer.fit(module, max_epochs=1)
    assert (trainer.mode, result.best) == ("min", 2.0)
    assert trainer.experiment.history[1].reasons == ("val own_max stayed at 2.000",)


def test_a_run_by_a_cost_asks_and_then_keeps_what_is_lower():
    trainer = Trainer()
    with pytest.raises(UsageError, match="'loss' is better"):
        trainer.fit(Level(), max_epochs=2)
    assert not trainer.experiment.store.exists()
    with pytest.raises(UsageError, match="'loss' is better"):
        Trainer(dry_run=True).fit(Level(), max_epochs=2)
    trainer = Trainer(mode="min")
    result = trainer.fit(Level(), max_epochs=2)
    assert [record.verdict for record in trainer.experiment.history] == [
        "baseline",
        "rejected",
        "kept",
    ]
    assert result.best == 0
    assert trainer.experiment.history[2].gain == 1


def test_words():
    assert (direction_words("min"), direction_words("max")) == (
        "lower is better",
        "higher is better",
    )
