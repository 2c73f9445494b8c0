"""Judgements of items, and JudgeLoss, which back-propagates them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from weakref import WeakValueDictionary

from autopilot.ai.gradient import ConcatCollator, GradientCollator
from autopilot.core.exchanges import NO_WORDS, exchange, with_targets
from autopilot.core.gradient import Finding, Gradient
from autopilot.core.loss import Loss
from autopilot.core.parameter import Parameter
from autopilot.core.types import Datum
from autopilot.errors import AgentError

UNIT = (0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Judgement:
    """A judge's verdict on an item.

    Args:
        success: Whether the item passed; None if the judge does not say.
        score: Higher is better; None if the judge does not say.
        feedback: How to do better, in words.
        attribution: The rule, file or part that the feedback is about.
        error: Why the item could not be judged; the other fields mean nothing then.
        again: The model's answer was unusable: asked anew, it may be usable.
        hint: What to do about the error.
        score_range: The lowest and the highest score.
    """

    success: bool | None
    score: float | None
    feedback: str = ""
    attribution: str = ""
    error: str = ""
    again: bool = field(default=False, repr=False)
    score_range: tuple[float, float] = field(default=UNIT, repr=False)
    hint: str = field(default="", repr=False)


def own_judgement(item: Datum) -> Judgement:
    """The judgement that an item holds itself; success and score are None if it holds none."""
    success = {"passed": True, "failed": False, "error": False}.get(item.outcome)
    score = None if success is None else item.metrics.get("score", float(success))
    low, high = UNIT if score is None else (min(0.0, score), max(1.0, score))
    feedback = item.feedback or item.error_message or ""
    return Judgement(success, score, feedback, score_range=(low, high))


Pairs = Sequence[tuple[Datum, Datum | None]]


class ItemJudge(Protocol):
    """Judges items with their targets; see `autopilot.ai.judge.Judge`."""

    def attempt_all(self, pairs: Pairs) -> list[Judgement]:
        """The judgement of each item, failures included."""

    def judge_all(self, pairs: Pairs) -> list[Judgement]:
        """As `attempt_all`; raises AgentError if no item could be judged."""

    def range_of(self) -> tuple[float, float]:
        """The lowest and the highest score."""


class JudgeLoss(Loss):
    """Asks a judge about items, and makes a gradient of those that did not pass or can be better.

    On every split, items without a score are judged: they get success, feedback, and the metric
    "score". An item that cannot be judged is `unmeasured`, with the reason. Items that the module
    scored itself keep their results, and are judged only in training, for feedback. Items that
    failed with an error are not judged.

    Args:
        judge: The judge.
        collator: Makes one gradient of the findings.
        parameters: The parameters that get the feedback; without them, it goes back through the
            modules that produced the data.
        every_item: Items that the module scored itself get the judge's score and feedback too, on
            every split; their success stays. Without it, this applies if "score" is the monitored
            metric.

    >>> from autopilot.ai.judge import Judge
    >>> loss = JudgeLoss(judge=Judge(), parameters=[prompt := Parameter("be brief")])
    >>> loss(Datum(items=[Datum(success=False, feedback="too long", id="a"), Datum()]))
    >>> loss.backward()
    >>> prompt.grad.findings[0].direction, prompt.grad.findings[0].item
    ('too long', 'a')
    """

    def __init__(
        self,
        judge: ItemJudge,
        collator: GradientCollator | None = None,
        parameters: Iterable[Parameter] | None = None,
        *,
        every_item: bool = False,
    ) -> None:
        super().__init__(parameters)
        self.judge = judge
        self.collator = collator or ConcatCollator()
        self.every_item = every_item
        self._range = judge.range_of()
        self._by_hand: WeakValueDictionary[int, Datum] = WeakValueDictionary()

    def score(self, data: Datum, targets: Any) -> None:
        chosen = [
            (item, target)
            for item, target in with_targets(data, targets)
            if item.attribution is None  # else it was judged already
            and (
                (self.every_item or self._lacks_score(item))
                if self._is_own(item)
                else item.outcome == "unscored"
            )
        ]
        for (item, _), found in zip(chosen, self.judge.attempt_all(chosen), strict=True):
            self._take(item, found)

    def forward(self, data: Datum, targets: Any = None) -> Gradient | None:
        pairs = with_targets(data, targets)
        for item, _ in pairs:
            # Without a Trainer, a module may return the same objects with new answers: the
            # judgement of the previous answer must not count for the new one.
            if self._by_hand.pop(id(item), None) is item:
                if item.success is not None:
                    item.metrics = {n: v for n, v in item.metrics.items() if n != "score"}
                item.success = item.unmeasured = item.attribution = None
        unscored = [i for i, _ in pairs if i.outcome == "unscored" and not self._is_own(i)]
        self.score(data, targets)
        self._by_hand.update((id(item), item) for item in unscored)
        if unscored and all(item.outcome == "unmeasured" for item, _ in pairs):
            raise no_judgement(len(pairs), unscored[0].unmeasured or "")
        own = [pair for pair in pairs if pair[0].attribution is None and self._is_own(pair[0])]
        of_own = zip(own, self.judge.judge_all(own), strict=True)
        # By identity: items of a batch may have equal ids.
        judged = {id(item): found for (item, _), found in of_own if not found.error}
        several = len(pairs) > 1
        findings = [
            _finding(item, target, found, several=several)
            for item, target in pairs
            if (found := judged.get(id(item)) or self._recorded(item)) is not None
            and _has_feedback(found)
        ]
        if self.monitor == "score":
            findings.sort(key=lambda finding: -finding.severity)
        return self.collator.collate(findings) if findings else None

    def _is_own(self, item: Datum) -> bool:
        """Whether the module scored the item itself: by success, or by the monitored metric."""
        own_metric = item.outcome == "unscored" and self.monitor in item.metrics
        return own_metric or item.outcome in ("passed", "failed")

    def _lacks_score(self, item: Datum) -> bool:
        return self.monitor == "score" and "score" not in item.metrics

    def _take(self, item: Datum, found: Judgement) -> None:
        """Stores a judgement in its item; the module's own success stays."""
        if found.error:
            # An item that the module scored itself is measured without the judge.
            if not self._is_own(item) or self._lacks_score(item):
                item.unmeasured = f"{type(self.judge).__name__}: {found.error}"
            return
        self._range = found.score_range
        if item.outcome == "unscored":
            item.success = found.success
        if found.score is not None:
            # The module's own metric "score" wins over the judge's.
            item.metrics = {"score": found.score, **item.metrics}
        item.feedback = found.feedback or item.feedback
        item.attribution = found.attribution

    def _recorded(self, item: Datum) -> Judgement | None:
        """The judgement that an item holds; None if it says nothing about the system.

        So a result that is read from the record after a kill has the same effect as a new one.
        """
        if item.outcome == "unmeasured":
            return None
        own = own_judgement(item)
        return replace(own, attribution=item.attribution or "", score_range=self._range)


def _has_feedback(found: Judgement) -> bool:
    """Whether an item did not pass, or passed with feedback and less than the highest score."""
    if found.success is False:
        return True
    is_best = found.success and found.score == found.score_range[1]
    return bool(found.feedback) and not is_best


def _finding(item: Datum, target: Datum | None, found: Judgement, *, several: bool) -> Finding:
    low, high = found.score_range
    score = low if found.score is None else found.score
    return Finding(
        direction=found.feedback or NO_WORDS,
        attribution=found.attribution,
        # One that failed is no trifle whatever its score: a judge may score the form alone.
        severity=min(max((high - score) / (high - low), 0.1 if found.success else 0.5), 1.0),
        evidence=(item.id,) if several else (),
        item=item.id if several else "",
        **exchange(item, target),
    )


def no_judgement(count: int, reason: str, hint: str = "") -> AgentError:
    """The error for items of which none could be judged."""
    all_of = f"none of {count} items" if count > 1 else "the only item"
    not_one = "could be judged" if count > 1 else "could not be judged"
    return AgentError(
        f"{all_of} {not_one}: {reason}", hint=hint or "try the judge on one item by hand"
    )
