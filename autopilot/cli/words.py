"""Numbers, costs and times in words."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from autopilot.core.figures import figure, figures, lower_note

if TYPE_CHECKING:
    from autopilot.core.records.ledger import Spent
    from autopilot.core.types import Cost, Gain, Outcome


def progressed(
    name: str, before: float | None, after: float | None, mode: str, split: str = "val"
) -> str:
    """A metric's way from one value to another, and its direction where fewer is better.

    >>> progressed("accuracy", 0.5, 0.7, "max"), progressed("wer", 0.5, None, "min")
    ('val accuracy 0.500 -> 0.700', 'val wer 0.500 (lower is better)')
    """
    values = figures(before) if after is None else figures(before, after)
    return f"{split} {name} {' -> '.join(values)}{lower_note(mode)}"


def outcomes(counts: Mapping[Outcome, int]) -> str:
    """How many items came to what; zeros are left out.

    >>> outcomes({"passed": 3, "failed": 0, "unmeasured": 1})
    '3 passed, 1 unmeasured'
    """
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)


def costs(cost: Cost) -> str:
    """What something cost, in words."""
    parts = [f"{cost.evaluations:,} evaluations" if cost.evaluations != 1 else "1 evaluation"]
    if cost.tokens:
        parts.append(f"{cost.tokens:,} tokens")
    if cost.cost_usd:
        parts.append(f"${cost.cost_usd:.2f}" if cost.cost_usd >= 0.01 else f"${cost.cost_usd:.2g}")
    return ", ".join([*parts, f"{cost.seconds:.1f} s" if cost.seconds >= 0.05 else "under 0.1 s"])


def test_gain(gain: Gain | None) -> str:
    """What the test split says, in words; "" where it was not scored.

    >>> from autopilot.core.types import Gain
    >>> test_gain(Gain(0.44, 0.836, 0.3, 0.49))
    'test 0.440 -> 0.836 (95% interval of the gain 0.300 .. 0.490)'
    >>> test_gain(Gain(0.44, 0.836, items=7))
    'test 0.440 -> 0.836 over the 7 items that have a value in both'
    """
    if gain is None or gain.after is None:
        return ""
    if gain.before is None:
        return f"test {figure(gain.after)}"
    text = f"test {' -> '.join(figures(gain.before, gain.after))}"
    if gain.items is not None:
        text += f" over the {gain.items} items that have a value in both"
    if gain.low is None:
        return text
    return f"{text} (95% interval of the gain {' .. '.join(figures(gain.low, gain.high))})"


def spending(spent: Spent) -> str:
    """What model calls have cost, in words."""
    dollars = f"${spent.cost_usd:.2f}" if spent.cost_usd >= 0.01 else f"${spent.cost_usd:.2g}"
    unknown = f", the price of {spent.unpriced} is unknown" if spent.unpriced else ""
    return f"{counted(spent.calls, 'model call')}, {spent.tokens:,} tokens, {dollars}{unknown}"


def counted(number: int, noun: str) -> str:
    """A number and what it counts.

    >>> counted(1, "epoch"), counted(2, "epoch")
    ('1 epoch', '2 epochs')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def pairs(values: Mapping[str, Any]) -> str:
    """Names and values on a line; a name that is its own value is said once."""
    return ", ".join(f"{name}={value}" if name != value else name for name, value in values.items())


def iso(time_s: int) -> str:
    """A time as programs read it, UTC."""
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="seconds")


def git_date(time_s: float) -> str:
    """A time as git shows it, in the local time zone."""
    local = time.localtime(time_s)
    return time.strftime(f"%a %b {local.tm_mday} %H:%M:%S %Y %z", local)


def ago(seconds: float) -> str:
    """How long ago, as git says it."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length or (unit == "minute" and seconds >= length):
            return f"{counted(int(seconds // length), unit)} ago"
    return f"{counted(max(int(seconds), 0), 'second')} ago"
