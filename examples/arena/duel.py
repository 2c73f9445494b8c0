"""The game: two units fight, and chance decides how well each hit lands."""

from __future__ import annotations

import random
from dataclasses import dataclass

APART = 20.0
MISSES = 0.25
LONGEST_S = 120.0


@dataclass(frozen=True, slots=True)
class Unit:
    """The stats of a unit, see units.toml."""

    health: float
    damage: float
    pause: float
    reach: float
    speed: float


def duel(one: Unit, two: Unit, chance: random.Random) -> tuple[float, float]:
    """A fight to the end.

    Returns:
        1 where the first wins, 0 where the second does, 0.5 after two minutes; and the seconds.
    """
    reach, other = max(one.reach, two.reach), min(one.reach, two.reach)
    meet = (APART - reach) / (one.speed + two.speed)
    # The one that reaches farther stops and shoots, and the other one still has to run.
    runner = one if one.reach < two.reach else two
    late = meet + (reach - other) / runner.speed
    next_one, next_two = (late, meet) if runner is one else (meet, late)
    health_one, health_two = one.health, two.health
    # Neither begins because it is the first of the two.
    next_one += chance.random() * one.pause
    next_two += chance.random() * two.pause
    while True:
        now = min(next_one, next_two)
        if now > LONGEST_S:
            return 0.5, LONGEST_S
        hit = 0.0 if chance.random() < MISSES else 2 * chance.random()
        if next_one <= next_two:
            health_two -= hit * one.damage
            next_one += one.pause
        else:
            health_one -= hit * two.damage
            next_two += two.pause
        if health_one <= 0 or health_two <= 0:
            return float(health_two <= 0), now
