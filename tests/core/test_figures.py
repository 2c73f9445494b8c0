"""Numbers as text: digits, changes, directions; and the user's numbers as floats."""

from __future__ import annotations

import math
import numbers
from decimal import Decimal
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopilot.core.comparison import metric_modes
from autopilot.core.figures import (
    bound,
    direction_of,
    direction_words,
    figure,
    figures,
    lower_note,
    number,
    signed,
    sounds_like_cost,
)
from autopilot.core.metric import Metric, MetricCollection
from autopilot.core.metrics import Mean
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


FINITE = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"),
        (0.5833, "0.583"),
        (-0.25, "-0.250"),
        (0.00012, "0.00012"),
        (0.001243, "0.00124"),
        (0.0058333, "0.00583"),
        (-0.05, "-0.050"),
        (0.09996, "0.100"),
        (1e-7, "1e-07"),
        (9999.5, "9999.500"),
        (12345.6, "12346"),
        (123456789012.0, "123456789012"),
        (1.5e20, "1.5e+20"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (None, "-"),
    ],
)
def test_one_value(value: float | None, text: str) -> None:
    assert figure(value) == text


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ((0.583, 0.717), ("0.583", "0.717")),
        ((0.69996, 0.7), ("0.69996", "0.70000")),
        ((0.00012, 0.00013), ("0.00012", "0.00013")),
        ((1e-7, 1.0001e-7), ("1e-07", "1.0001e-07")),
        ((0.00012, 0.5), ("0.00012", "0.500")),
        ((0.0, 1e-9), ("0.000", "1e-09")),
        ((0.05941, 0.0583), ("0.0594", "0.0583")),
        ((0.002, 0.000655), ("0.002", "0.000655")),
        ((6.25e-8, 1.25e-7 / 3), ("6.25e-08", "4.17e-08")),
        ((1234567.891, 1234567.892), ("1234567.891", "1234567.892")),
        ((0.5, None, math.nan), ("0.500", "-", "nan")),
        # The noise of binary fractions is no difference.
        ((0.1 + 0.2, 0.3), ("0.300", "0.300")),
        ((), ()),
    ],
)
def test_values_beside_one_another(
    values: tuple[float | None, ...], texts: tuple[str, ...]
) -> None:
    assert figures(*values) == texts


@given(FINITE, FINITE)
def test_what_differs_by_more_than_noise_reads_differently(one: float, other: float) -> None:
    first, second = figures(one, other)
    assert len(first) <= 25
    if abs(one - other) > 1e-9 * max(abs(one), abs(other)) and math.isfinite(one - other):
        assert first != second or max(abs(one), abs(other)) < 1e-300
    # What is not zero does not read as zero.
    assert one == 0 or float(first) != 0


@pytest.mark.parametrize(
    ("change", "of", "text"),
    [
        (0.134, None, "+0.134"),
        (-0.025, 0.717, "-0.025"),
        (0.00001, None, "+1e-05"),
        (-0.00115, 0.0594, "-0.00115"),
        (0.0345, 0.0594, "+0.0345"),
        (0.0833333, 0.0, "+0.0833"),
        (0.0833333, 0.5, "+0.083"),
        (0.0, 0.5, "+0.000"),
        (0.7 - 0.5 - 0.2, None, "+0.000"),
        (1e-9, 1e9, "+0.000"),
        (2e-14, 1e-14, "+2e-14"),
        (-123456.0, 1e6, "-123456"),
        (math.nan, None, ""),
        (None, 1.0, ""),
    ],
)
def test_changes_have_a_sign(change: float | None, of: float | None, text: str) -> None:
    assert signed(change, of=of) == text


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ((0.00454,), ("0.00454",)),
        ((0.00454, 0.00331, None), ("0.00454", "0.00331", "-")),
        ((0.004, 0.005), ("0.004", "0.005")),
        ((-0.00333,), ("-0.00333",)),
        ((0.0101,), ("0.0101",)),
    ],
)
def test_of_tiny_numbers_three_digits_are_shown(
    values: tuple[float | None, ...], shown: tuple[str, ...]
) -> None:
    assert figures(*values) == shown


def test_only_lower_is_said() -> None:
    assert (lower_note("min"), lower_note("max")) == (" (lower is better)", "")


class Imaginary:
    """As numpy's complex scalars: float() drops half of it, with a warning on stderr."""

    def __float__(self):
        return 1.0


numbers.Complex.register(Imaginary)


@pytest.mark.parametrize("odd", [1j, Imaginary()])
def test_a_complex_number_is_none(odd):
    with pytest.raises(ValueError, match=f"a {type(odd).__name__}, not a number"):
        number(odd)


@pytest.mark.parametrize("odd", ["0", None, math.nan, [0]])
def test_a_setting_is_a_number(odd):
    assert bound(Decimal("0.5"), "the limit") == 0.5
    with pytest.raises(UsageError, match=r"^the limit is "):
        bound(odd, "the limit")


def test_the_value_of_failed_items_is_one():
    trainer = Trainer(failed_value=Decimal("0.5"))
    trainer.prepare(AutoPilotModule())
    assert type(trainer.failed_value) is float
    with pytest.raises(UsageError, match="failed_value is the text '0'"):
        Trainer(failed_value="0").prepare(AutoPilotModule())


def test_the_value_of_failed_items_is_of_the_number_that_the_metric_reads():
    class Scored(AutoPilotModule):
        monitor = "quality"
        failed_value = 0.0

        def __init__(self):
            super().__init__()
            self.quality = Mean("score", higher_is_better=True)

        def forward(self, batch):
            raise KeyError("label")

    measured = Trainer().validate(Scored(), [[1]])
    assert measured.metrics["val"] == {"accuracy": 0.0, "score": 0.0, "quality": 0.0}
