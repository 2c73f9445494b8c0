"""A run without Python, as a real process."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.command.conftest import Bench


def test_a_script_and_an_agent_are_a_run(bench: Bench) -> None:
    done = bench.run(epochs=2)

    assert done.code == 0, done.err
    assert "best: epoch 2, val seconds 10.000 -> 8.000 (lower is better)" in done.out
    assert bench.place.git("show", "autopilot/bench-1:speed.txt") == "8"
