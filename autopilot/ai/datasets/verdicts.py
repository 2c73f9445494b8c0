"""What a judge said of a dataset: the lines of its file, their summary and their distribution."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from autopilot.errors import DataError


class Verdict(BaseModel):
    """What the judge said of an item.

    Args:
        key: A digest of the split and the whole item.
        split: The item's own "split", else the name of its file.
        success: Whether it passed.
        score: Higher is better.
        score_range: The lowest and the highest score.
        feedback: What to do better.
        attribution: What that is about.
        item: The whole item.
    """

    kind: Literal["verdict"] = "verdict"
    key: str
    id: str
    split: str
    success: bool
    score: float
    score_range: tuple[float, float] = (0.0, 1.0)
    feedback: str = ""
    attribution: str = ""
    item: dict[str, Any]


class Unjudged(BaseModel):
    """An item that could not be judged; a resumed judging tries it again.

    Args:
        key: See Verdict.
        id: See Verdict.
        split: See Verdict.
        reason: Why.
        ask_anew: An answer could not be used: what is recorded of it answers nothing any more.
    """

    kind: Literal["failed"] = "failed"
    key: str
    id: str
    split: str
    reason: str
    ask_anew: bool = False


@dataclass(frozen=True, slots=True)
class Rates:
    """How some items did.

    Args:
        items: How many.
        passed: That passed.
        mean_score: None of no items.
    """

    items: int
    passed: int
    mean_score: float | None

    @classmethod
    def of(cls, verdicts: Sequence[Verdict]) -> Rates:
        """The rates of some verdicts."""
        mean = math.fsum(v.score for v in verdicts) / len(verdicts) if verdicts else None
        return cls(len(verdicts), sum(v.success for v in verdicts), mean)

    @property
    def pass_rate(self) -> float | None:
        """The share that passed; None of no items."""
        return self.passed / self.items if self.items else None


@dataclass(frozen=True, slots=True)
class Summary:
    """What a judging came to.

    Args:
        all: Of all verdicts.
        splits: Of each split.
        failed: Items that could not be judged.
        feedback: On items that did not pass, with how often; most frequent first.
        reasons: Why items could not be judged, with how often.
    """

    all: Rates
    splits: Mapping[str, Rates]
    failed: int
    feedback: Mapping[str, int]
    reasons: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often which score was given, in one group of items.

    Args:
        group: The value that they have in common.
        counts: Items by score, in bins of equal width; the highest score is in the last.
        rates: Of the group.
        score_range: From where to where the bins are.
    """

    group: str
    counts: tuple[int, ...]
    rates: Rates
    score_range: tuple[float, float] = (0.0, 1.0)


def summarize(verdicts: Sequence[Verdict], failed: Sequence[Unjudged]) -> Summary:
    """Counts, means, and the most frequent feedback."""
    by_split: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_split.setdefault(verdict.split, []).append(verdict)
    feedback = Counter(" ".join(v.feedback.split()) for v in verdicts if not v.success)
    feedback.pop("", None)
    return Summary(
        all=Rates.of(verdicts),
        splits={split: Rates.of(found) for split, found in by_split.items()},
        failed=len(failed),
        feedback=dict(feedback.most_common()),
        reasons=dict(Counter(line.reason for line in failed).most_common()),
    )


def histograms(verdicts: Iterable[Verdict], by: str = "split", bins: int = 10) -> list[Histogram]:
    """The scores of each group of items, in the order of the groups' names.

    Args:
        verdicts: The verdicts.
        by: "split", or a field of the items.
        bins: Bins from the lowest score to the highest.

    Raises:
        DataError: no item has the field.
    """
    groups: dict[str, list[Verdict]] = {}
    fields: dict[str, None] = {}
    for verdict in verdicts:
        fields |= dict.fromkeys(verdict.item)
        value = verdict.split if by == "split" else verdict.item.get(by, "(none)")
        groups.setdefault(str(value), []).append(verdict)
    if by != "split" and groups and by not in fields:
        raise DataError(
            f"no item has a field {by!r}", hint=f"there are: split, {', '.join(fields)}"
        )
    ranges = [verdict.score_range for found in groups.values() for verdict in found]
    low, high = min((x for x, _ in ranges), default=0.0), max((x for _, x in ranges), default=1.0)
    return [
        Histogram(
            group,
            _binned([(v.score - low) / (high - low) for v in found], bins),
            Rates.of(found),
            (low, high),
        )
        for group, found in sorted(groups.items())
    ]


def _binned(shares: Iterable[float], bins: int) -> tuple[int, ...]:
    # A hair is added, so that 0.3 is not counted below 0.3 since it is 0.2999 in binary.
    places = Counter(min(int(share * bins + 1e-9), bins - 1) for share in shares)
    return tuple(places[place] for place in range(bins))
