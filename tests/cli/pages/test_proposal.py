"""autopilot.cli.pages.proposal: the result of a verification."""

import math

from autopilot.cli.pages.proposal import _code, verification
from autopilot.proof.verification import Verification


def test_an_interval_that_is_not_known_is_said_to_be_so():
    found = Verification(
        "a", "val", "f1", "max", "b" * 40, "c" * 40, 1, (0.2,), (0.8,), None, None, "success",
        5, 3, 0, 0.6, -math.inf, math.inf, 0.95, ("5 items are too few",), (),
    )  # fmt: skip
    assert verification(found)[4:] == [
        "paired difference: +0.600, 95% interval unknown (above 0 is better)",
        "the claim does not hold: 5 items are too few",
    ]


def test_a_files_name_that_is_no_text_can_be_stored():
    assert _code("n\udcff.txt").encode().decode() == "`n\ufffd.txt`"
