"""Judging a dataset: a verdict, a score and feedback for each item, and their summary."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from autopilot.ai.datasets.worklist import BudgetLine, Origin, Watch, Worklist
from autopilot.ai.judge import Judge, Judgement
from autopilot.ai.model.recording import numbered
from autopilot.core.records.ledger import Limits
from autopilot.core.types import Datum, as_datum, digest
from autopilot.data.dataset import read_jsonl
from autopilot.errors import AgentError, DataError, NoMoreCallsError


class Beginning(BaseModel):
    """The data that is judged; the first line."""

    kind: Literal["judging"] = "judging"
    data: list[str]
    origin: Origin = Field(default_factory=Origin)


class Verdict(BaseModel):
    """A judged item.

    Args:
        key: A digest of the split and the whole item.
        split: The item's own "split", else the name of its file.
        success, score, score_range, feedback, attribution: See Judgement.
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
    """An item that could not be judged; see Verdict and `worklist.Failure`."""

    kind: Literal["failed"] = "failed"
    key: str
    id: str
    split: str
    reason: str
    ask_anew: bool = False


Line = Annotated[Beginning | BudgetLine | Verdict | Unjudged, Field(discriminator="kind")]


@dataclass(frozen=True, slots=True)
class _Item:
    key: str
    split: str
    datum: Datum


class Judging(Worklist[Beginning, Verdict, Unjudged]):
    """The worklist of the verdicts on a dataset.

    Args:
        path: The file of verdicts; model calls are in `<name>.calls.jsonl` beside it.
    """

    noun = "verdicts"
    begin_hint = "judge something into it first"

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        calls = path.with_name(f"{path.name.removesuffix('.jsonl')}.calls.jsonl")
        super().__init__(path, calls, Line, Beginning, Verdict, Unjudged, "key")

    def run(
        self,
        judge: Judge,
        data: Sequence[str | Path],
        *,
        budget: Limits | None = None,
        origin: Origin | None = None,
        watch: Watch = lambda *_: None,
    ) -> JudgingSummary:
        """Judges each item of some files, several at once; equal ones of a split count once.

        The judge gets the item both as what is judged and as its target.

        Args:
            judge: The judge.
            data: JSON Lines files.
            budget: Limits, kept for later sessions.
            origin: How the command line found the judge.
            watch: See `Worklist.work_off`.

        Raises:
            DataError: the file holds verdicts already; the data cannot be read.
            BudgetExceededError: too little is left; `resume` goes on with a larger budget.
            AgentError: no item could be judged.
        """
        beginning = Beginning(data=[str(path) for path in data], origin=origin or Origin())
        # Before anything is written: data that cannot be read leaves no file behind.
        items = _read_items(beginning)
        with self.begin(beginning):
            return self._judge(judge, items, budget, watch)

    def resume(
        self, judge: Judge, *, budget: Limits | None = None, watch: Watch = lambda *_: None
    ) -> JudgingSummary:
        """Judges items without a verdict, new lines of the data included; pays nothing twice.

        Where a model's answer was unusable, it is asked anew.

        Args:
            judge: The same as before.
            budget: Replaces the one of earlier sessions.
            watch: See `run`.

        Raises:
            DataError: there is nothing to resume, or an item with a verdict is gone or changed.
        """
        items = _read_items(self.first_line())
        gone = self.done.keys() - items.keys()
        if gone:
            first = min((self.done[key] for key in gone), key=lambda verdict: verdict.id)
            raise DataError(
                f"{len(gone)} items with a verdict are gone or changed, such as {first.id} of "
                f"{first.split}",
                hint="put the data back, or judge it into another file",
            )
        with self.held():
            return self._judge(judge, items, budget, watch)

    def summary(self) -> JudgingSummary:
        """Counts, means, and the most frequent feedback.

        Raises:
            DataError: nothing was begun.
        """
        self.first_line()
        verdicts = list(self.done.values())
        by_split: dict[str, list[Verdict]] = {}
        for verdict in verdicts:
            by_split.setdefault(verdict.split, []).append(verdict)
        feedback = Counter(" ".join(v.feedback.split()) for v in verdicts if not v.success)
        feedback.pop("", None)
        return JudgingSummary(
            all=Rates.of(verdicts),
            splits={split: Rates.of(found) for split, found in by_split.items()},
            failed=len(self.failed),
            feedback=dict(feedback.most_common()),
            reasons=dict(Counter(line.reason for line in self.failed.values()).most_common()),
        )

    def histograms(self, by: str = "split", bins: int = 10) -> list[Histogram]:
        """The scores of each group of items, in the order of the groups' names.

        Args:
            by: "split", or a field of the items.
            bins: Number of bins from the lowest score to the highest.

        Raises:
            DataError: no item has the field; nothing was begun.
        """
        self.first_line()
        groups: dict[str, list[Verdict]] = {}
        fields: dict[str, None] = {}
        for verdict in self.done.values():
            fields |= dict.fromkeys(verdict.item)
            value = verdict.split if by == "split" else verdict.item.get(by, "(none)")
            groups.setdefault(str(value), []).append(verdict)
        if by != "split" and groups and by not in fields:
            raise DataError(
                f"no item has a field {by!r}", hint=f"there are: split, {', '.join(fields)}"
            )
        ranges = [verdict.score_range for found in groups.values() for verdict in found]
        low, high = (
            min((x for x, _ in ranges), default=0.0),
            max((x for _, x in ranges), default=1.0),
        )

        def binned(found: list[Verdict]) -> tuple[int, ...]:
            shares = ((v.score - low) / (high - low) for v in found)
            # 1e-9: a score of 0.3 whose share is 0.2999... in binary still counts from 0.3 on.
            places = Counter(min(int(share * bins + 1e-9), bins - 1) for share in shares)
            return tuple(places[place] for place in range(bins))

        return [
            Histogram(group, binned(found), Rates.of(found), (low, high))
            for group, found in sorted(groups.items())
        ]

    def _judge(
        self, judge: Judge, items: Mapping[str, _Item], budget: Limits | None, watch: Watch
    ) -> JudgingSummary:
        # An item that failed and was since taken out of the data is not missing.
        self.failed = {key: line for key, line in self.failed.items() if key in items}
        self.work_off(
            items,
            lambda item: self.append(_judged(judge, item, self.asked_anew[item.key])),
            judge.num_workers,
            limits=Limits(),
            budget=budget,
            watch=watch,
        )
        if not self.done:
            reason = next(iter(self.failed.values())).reason
            holds = ", ".join(sorted(next(iter(items.values())).datum.metadata)) or "nothing"
            raise AgentError(
                f"none of {len(items)} items could be judged: {reason}",
                hint=f"the first item holds {holds}; mend the data, the judge or its model, and "
                "resume it",
            )
        return self.summary()


def _judged(judge: Judge, item: _Item, asked_before: int) -> Verdict | Unjudged:
    datum = item.datum
    try:
        with numbered("a", 1 + asked_before):
            found = judge.attempt(datum, datum)
    except NoMoreCallsError:
        raise
    except (AgentError, ConnectionError, TimeoutError) as outage:
        # A service did not answer: other items are judged meanwhile, and a resume asks again.
        found = Judgement(None, None, error=str(outage))
    if found.error or found.success is None or found.score is None:
        reason = found.error or "the judge says nothing of it"
        return Unjudged(
            key=item.key, id=datum.id, split=item.split, reason=reason, ask_anew=found.again
        )
    return Verdict(
        key=item.key,
        id=datum.id,
        split=item.split,
        success=found.success,
        score=found.score,
        score_range=found.score_range,
        feedback=found.feedback,
        attribution=found.attribution,
        item=datum.metadata,
    )


def _read_items(beginning: Beginning) -> dict[str, _Item]:
    """Key to item of all files; equal items of a split have one key."""
    items: dict[str, _Item] = {}
    for path in map(Path, beginning.data):
        for number, value in enumerate(read_jsonl(path, None)):
            split = str(value.get("split") or path.stem)
            key = digest([split, value], 16)
            items.setdefault(key, _Item(key, split, as_datum(value, number)))
    if not items:
        raise DataError(
            f"{', '.join(beginning.data)}: there is nothing to judge",
            hint="name JSON Lines files with one item a line",
        )
    return items


@dataclass(frozen=True, slots=True)
class Rates:
    """The number of items, of those that passed, and the mean score; None if there are no items."""

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
        """The share that passed; None if there are no items."""
        return self.passed / self.items if self.items else None


@dataclass(frozen=True, slots=True)
class JudgingSummary:
    """Counts of a judging; texts are most frequent first.

    Args:
        failed: Items that could not be judged.
    """

    all: Rates
    splits: Mapping[str, Rates]
    failed: int
    feedback: Mapping[str, int]
    reasons: Mapping[str, int]

    @property
    def missing(self) -> int:
        """Items without a verdict."""
        return self.failed


@dataclass(frozen=True, slots=True)
class Histogram:
    """The scores of the items that have one value in common.

    `counts` are items by score, in bins of equal width from the lowest to the highest score.
    """

    group: str
    counts: tuple[int, ...]
    rates: Rates
    score_range: tuple[float, float] = (0.0, 1.0)
