"""What the memory commands say: lessons and trends as lines for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autopilot.core.direction import direction_words
from autopilot.core.figures import figure, signed
from autopilot.core.memory import DECISIONS, Memory, Trend
from autopilot.core.records.record import Lesson
from autopilot.text import align, shorten
from autopilot.tracking.notebook import Notebook

_ABOUT = 20
_STRATEGY = 40
_WHAT = 100


def lessons(found: Sequence[Lesson], *, with_slug: bool) -> list[str]:
    """Lessons, one a line; what none of them has takes no column."""
    columns = [*(["experiment"] if with_slug else []), "epoch", "outcome", "gain", "strategy"]
    about = [x for x in ("category", "node") if any(getattr(lesson, x) for lesson in found)]
    rows = [_row(lesson, about, with_slug=with_slug) for lesson in found]
    columns += [*about, "what was done, and why it went so"]
    return align(columns, rows, ["epoch", "gain"])


def trend(
    notebook: Notebook, found: Trend, ahead: int, strategies: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Where the metric is going, and thanks to what.

    Args:
        notebook: The experiment.
        found: Its trend.
        ahead: How many epochs to project.
        strategies: What `by_strategy` gives.
    """
    if found.direction == "unknown":
        return [f"{notebook.slug}: no epoch is judged yet, so there is no trend"]
    monitor, mode = notebook.monitor
    over = "the last epoch" if found.epochs == 1 else f"the last {found.epochs} epochs"
    lines = [
        f"{notebook.slug}: val {monitor} ({direction_words(mode)}) is {found.direction}",
        f"best:       {figure(found.best)}",
        f"rate:       a gain of {signed(found.rate, of=found.best)} an epoch over {over}, "
        f"{found.kept:.0%} of them kept",
    ]
    projected = found.projection(ahead)
    if projected is not None:
        after = "1 more epoch" if ahead == 1 else f"{ahead} more epochs"
        lines.append(
            f"projection: {figure(projected)} after {after} at this rate (a straight line: "
            "it knows no end of the scale)"
        )
    rows = [
        [
            shorten(row["strategy"], _STRATEGY),
            str(row["used"]),
            str(row["kept"]),
            signed(row["gain"], of=found.best),
            row["blocked"] or "",
        ]
        for row in strategies
    ]
    columns = ["strategy", "used", "kept", "gain", "blocked"]
    return [*lines, "", *align(columns, rows, columns[1:4])] if rows else lines


def _row(lesson: Lesson, about: list[str], *, with_slug: bool) -> list[str]:
    hand = " (by hand)" if lesson.by_hand and lesson.outcome not in DECISIONS else ""
    what = "; ".join(filter(None, [lesson.summary, lesson.reason]))
    return [
        *([lesson.experiment] if with_slug else []),
        str(lesson.epoch),
        f"{lesson.outcome}{hand}",
        signed(lesson.delta, of=lesson.value),
        shorten(lesson.strategy, _STRATEGY) or "unnamed",
        *(shorten(getattr(lesson, name), _ABOUT) for name in about),
        shorten(what, _WHAT),
    ]


def by_strategy(memory: Memory) -> list[dict[str, Any]]:
    """The strategies, those that gained most first."""
    blocked = memory.blocked()
    found: dict[str, dict[str, Any]] = {}
    for lesson in memory.lessons:
        if lesson.outcome in DECISIONS:
            continue
        for name in lesson.strategies():
            row = found.setdefault(
                name,
                {"strategy": name, "used": 0, "kept": 0, "gain": 0.0, "blocked": blocked.get(name)},
            )
            row["used"] += 1
            if lesson.outcome == "kept":
                row["kept"] += 1
                row["gain"] += lesson.delta or 0.0
    return sorted(found.values(), key=lambda row: (-row["gain"], row["strategy"]))
