"""What an experiment has come to, on one page: the answer of `Experiment.summary()`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autopilot.core.direction import gained
from autopilot.core.records.events import decision_among
from autopilot.core.records.record import TOGETHER, Event, Manifest, MetricsRecord
from autopilot.core.types import Cost, Gain

_BEGINNINGS = ("started", "resumed")
_ENDS = ("finished", "stopped", "interrupted", "crashed")


@dataclass(frozen=True, slots=True)
class Tally:
    """How often a strategy was used, and how often its epoch was kept."""

    used: int
    kept: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What an experiment has come to.

    Args:
        slug: Its name.
        idea: What was tried, in words.
        hypothesis: What was expected, in words.
        epochs: Judged epochs, the baseline not counted.
        kept: How many of them were kept.
        monitor: The val metric that decides; "" before the baseline.
        mode: "max" or "min".
        baseline: Its value at epoch 0; None where missing or not finite.
        best: Its best value.
        best_epoch: The epoch with that value.
        metrics: Split to metric name to value, of the best epoch; test too, once it is scored.
        strategies: Strategy to how it went.
        cost: What all judged epochs cost.
        started: When it began, ISO 8601, UTC; "" if it never ran.
        ended: How the last session ended; "" while it runs, or if it was killed.
        decision: The latest decision of a person, None if there is none.
        test: The test split's word on baseline and best state; None where it was not scored.
    """

    slug: str
    idea: str = ""
    hypothesis: str = ""
    epochs: int = 0
    kept: int = 0
    monitor: str = ""
    mode: str = "max"
    baseline: float | None = None
    best: float | None = None
    best_epoch: int = 0
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    strategies: Mapping[str, Tally] = field(default_factory=dict)
    cost: Cost = Cost()
    started: str = ""
    ended: str = ""
    decision: Event | None = None
    test: Gain | None = None

    @property
    def gain(self) -> float | None:
        """What the best epoch gained on the baseline, positive is better; None where unknown."""
        if self.baseline is None or self.best is None:
            return None
        return gained(self.baseline, self.best, self.mode)


def summarize(
    manifest: Manifest,
    history: Sequence[MetricsRecord],
    metrics: Mapping[str, Mapping[str, float]],
    events: Sequence[Event],
    test: Gain | None = None,
) -> Summary:
    """Puts a summary together.

    Args:
        manifest: What the experiment is.
        history: The val records of its judged epochs, oldest first.
        metrics: The best epoch's, by split.
        events: What happened, oldest first.
        test: What the best epoch gained on the test split.
    """
    judged = [record for record in history if record.epoch > 0]
    last = history[-1] if history else None
    started = next((event.time for event in events if event.name in _BEGINNINGS), "")
    sessions = [event for event in events if event.name in (*_ENDS, *_BEGINNINGS)]
    ended = sessions[-1].name if sessions and sessions[-1].name in _ENDS else ""
    return Summary(
        slug=manifest.slug,
        idea=manifest.idea,
        hypothesis=manifest.hypothesis,
        epochs=len(judged),
        kept=sum(record.verdict == "kept" for record in judged),
        monitor=last.monitor if last else "",
        mode=last.mode if last else "max",
        baseline=last.baseline if last else None,
        best=last.best if last else None,
        best_epoch=last.best_epoch if last else 0,
        metrics=metrics,
        strategies=_tallies(judged),
        cost=last.spent if last else Cost(),
        started=started,
        ended=ended,
        decision=decision_among(events),
        test=test,
    )


def _tallies(judged: Sequence[MetricsRecord]) -> dict[str, Tally]:
    found: dict[str, Tally] = {}
    for record in judged:
        for name in filter(None, record.strategy.split(TOGETHER)):
            before = found.get(name, Tally(0, 0))
            kept = before.kept + (record.verdict == "kept")
            found[name] = Tally(before.used + 1, kept)
    return found
