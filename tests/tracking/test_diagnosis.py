"""autopilot.tracking.diagnosis: an item over the epochs."""

from __future__ import annotations

import pytest

from autopilot.core.types import Outcome
from autopilot.tracking.diagnosis import ItemHistory


@pytest.mark.parametrize(
    ("outcomes", "passed", "failing", "flips"),
    [
        ({}, 0, 0, 0),
        ({0: "failed", 1: "passed", 2: "error"}, 1, 2, 2),
        # Epochs count in their order, whatever the order of the records.
        ({2: "passed", 0: "passed", 1: "failed"}, 2, 1, 2),
        # An item that was not measured neither failed nor changed.
        ({0: "passed", 1: "unmeasured", 2: "passed", 3: "unscored"}, 2, 0, 0),
    ],
)
def test_an_item_over_the_epochs(
    outcomes: dict[int, Outcome], passed: int, failing: int, flips: int
) -> None:
    history = ItemHistory("t1", outcomes)
    assert (history.passed, history.failing, history.flips) == (passed, failing, flips)
