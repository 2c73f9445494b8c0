"""Tests of the metric as a line in the terminal."""

from __future__ import annotations

import math
import time

import pytest

from autopilot.cli.pages.listing import chart
from autopilot.core.records.index import Judged


def points(*values: float | None) -> list[Judged]:
    """Epochs that are kept when they are higher than all before."""
    found: list[Judged] = []
    best: float | None = None
    for epoch, value in enumerate(values):
        kept = value is not None and math.isfinite(value) and (best is None or value > best)
        best = value if kept else best
        found.append(Judged(epoch, value, best, kept))
    return found


def plot(lines: list[str]) -> list[str]:
    """The drawing without labels and axis, top line first."""
    return [line.split("┤" if "┤" in line else "│", 1)[1] for line in lines[:-3]]


def column(lines: list[str], at: int) -> str:
    """One column of the drawing, from top to bottom."""
    return "".join(line.ljust(200)[at] for line in plot(lines))


def test_labels_of_both_axes_and_legend() -> None:
    lines = chart(points(0.1, 0.5, 0.9), "val accuracy", width=60)

    assert len(lines) == 13
    assert [line[:7] for line in lines if "┤" in line] == ["0.900 ┤", "0.500 ┤", "0.100 ┤"]
    assert lines[-2].split() == ["epoch", "0", "2"]
    assert lines[-1].strip().split("   ") == ["⠒⠒ val accuracy", "── best so far", "● kept"]


def test_kept_epochs_stand_where_their_values_are() -> None:
    lines = chart(points(0.0, 0.5, 1.0), "f1", width=60)
    width = max(len(line) for line in plot(lines))

    assert [column(lines, at).find("●") for at in (0, width // 2, width - 1)] == [9, 5, 0]
    assert "".join(plot(lines)).count("●") == 3


def test_a_rejected_epoch_dips_below_the_line_of_the_best() -> None:
    lines = chart(points(1.0, 0.0, 0.5), "f1", width=60)
    middle = column(lines, len(plot(lines)[0]) // 2)

    assert middle[0] == "─"
    assert middle[9] not in " ─●"
    assert "".join(plot(lines)).count("●") == 1


@pytest.mark.parametrize("gap", [None, math.nan, math.inf])
def test_what_is_not_finite_leaves_a_gap(gap: float | None) -> None:
    lines = chart(points(0.0, 1.0, gap, 0.0, 1.0), "f1", width=80)
    # Between the second and the fourth epoch there is nothing but the best so far.
    quarter = len(plot(lines)[0]) // 4

    assert {column(lines, at).strip() for at in range(quarter + 2, 3 * quarter - 2)} == {"─"}


def test_one_epoch() -> None:
    lines = chart(points(0.5), "f1", width=40)

    assert lines[5] == "0.500 ┤●"
    assert lines[-2].split() == ["epoch", "0"]


def test_no_finite_value() -> None:
    assert chart(points(None, math.nan), "val f1") == ["val f1 has no finite value yet"]


def test_a_constant_metric_is_a_line_in_the_middle() -> None:
    drawn = [line.strip() for line in plot(chart(points(3, 3, 3), "f1", width=40))]

    assert [bool(line) for line in drawn] == [False] * 5 + [True] + [False] * 4


def test_close_values_get_labels_that_differ() -> None:
    lines = chart(points(0.5, 0.5000001, 0.5000002), "f1")
    labels = [float(line.split("┤")[0]) for line in lines if "┤" in line]

    assert labels == pytest.approx([0.5000002, 0.5000001, 0.5], abs=1e-9)
    assert len(set(labels)) == 3


def test_two_thousand_epochs_share_the_columns() -> None:
    values = [math.log(epoch + 1) + epoch % 7 / 10 for epoch in range(2000)]
    started_s = time.process_time()
    lines = chart(points(*values), "f1", width=80)

    assert time.process_time() - started_s < 1
    assert all(len(line) <= 80 for line in lines)
    assert max(len(line) for line in lines) == 80
    assert lines[-2].split() == ["epoch", "0", "1999"]
    # A column shows all of its epochs: the dips at the right end too.
    assert sum(cell not in " ─" for cell in column(lines, 70)) >= 1


@pytest.mark.parametrize("width", [1, 20, 40, 200])
def test_width_is_kept_but_for_the_least_that_can_be_read(width: int) -> None:
    lines = chart(points(1.0, 2.0, 1.5), "f1", width=width)[:-1]

    assert max(len(line) for line in lines) <= max(width, 17)
