"""What counts as a number, and what doesn't."""

import math
import numbers
from decimal import Decimal

import pytest

from autopilot.core.metrics import Mean
from autopilot.core.module import AutoPilotModule
from autopilot.core.numbers import bound, number
from autopilot.core.trainer import Trainer
from autopilot.errors import UsageError


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
