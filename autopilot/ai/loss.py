"""JudgeLoss: a judge's feedback on each item, back-propagated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from weakref import WeakValueDictionary

from autopilot.ai.gradient import ConcatCollator, GradientCollator
from autopilot.ai.judge import Judge, no_judgement
from autopilot.ai.judgement import Judgement, own_judgement
from autopilot.core.gradient import Finding, Gradient
from autopilot.core.loss import Loss
from autopilot.core.parameter import Parameter
from autopilot.core.types import Datum


class JudgeLoss(Loss):
    """Asks a judge about every item, and makes a gradient of what did not pass or could be better.

    On every split, the items that nobody scored are judged: they get success, feedback, and the
    metric "score". One that cannot be judged is `unmeasured`, with the reason. Items that the
    module scored itself keep what they have, and are judged where feedback is needed only: in
    training. Items that failed with an error are not judged.

    Args:
        judge: Who says what passed and what to do better.
        collator: Makes one gradient of the findings.
        parameters: What the feedback is for; without it, it goes back through the modules that
            produced the data.
        every_item: Items that the module scored itself get the judge's score and feedback too, on
            every split; their success stays. So it is where "score" is the monitored metric.

    >>> loss = JudgeLoss(judge=Judge(), parameters=[prompt := Parameter("be brief")])
    >>> loss(Datum(items=[Datum(success=False, feedback="too long", id="a"), Datum()]))
    >>> loss.backward()
    >>> prompt.grad.findings[0].direction, prompt.grad.findings[0].item
    ('too long', 'a')
    """

    def __init__(
        self,
        judge: Judge,
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
        chosen = [(i, t) for i, t in _pairs(data, targets) if self._is_to_be_scored(i)]
        for (item, _), found in zip(chosen, self.judge.attempt_all(chosen), strict=True):
            self._take(item, found)

    def forward(self, data: Datum, targets: Any = None) -> Gradient | None:
        pairs = _pairs(data, targets)
        for item, _ in pairs:
            # Without a Trainer, a module may give the same objects again, answered anew.
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
        judged = {id(item): found for (item, _), found in of_own if not found.error}
        several = len(pairs) > 1
        findings = [
            _finding(item, found, several=several)
            for item, _ in pairs
            if (found := judged.get(id(item)) or self._recorded(item)) is not None
            and _has_feedback(found)
        ]
        if self.monitor == "score":
            findings.sort(key=lambda finding: -finding.severity)
        return self.collator.collate(findings) if findings else None

    def _is_to_be_scored(self, item: Datum) -> bool:
        if item.attribution is not None:
            return False
        if self._is_own(item):
            return self.every_item or self._lacks_score(item)
        return item.outcome == "unscored"

    def _is_own(self, item: Datum) -> bool:
        """Whether the module scored the item itself: by its success, or the metric that decides."""
        own_metric = item.outcome == "unscored" and self.monitor in item.metrics
        return own_metric or item.outcome in ("passed", "failed")

    def _lacks_score(self, item: Datum) -> bool:
        return self.monitor == "score" and "score" not in item.metrics

    def _take(self, item: Datum, found: Judgement) -> None:
        """Writes down what the judge said of an item; the module's own success stays."""
        if found.error:
            # What the module scored itself is measured without the judge.
            if not self._is_own(item) or self._lacks_score(item):
                item.unmeasured = f"{type(self.judge).__name__}: {found.error}"
            return
        self._range = found.score_range
        if item.outcome == "unscored":
            item.success = found.success
        if found.score is not None:
            # A score of the module's own is its metric: it stays too.
            item.metrics = {"score": found.score, **item.metrics}
        item.feedback = found.feedback or item.feedback
        item.attribution = found.attribution

    def _recorded(self, item: Datum) -> Judgement | None:
        """What an item itself holds of its judgement; None where it says nothing about the system.

        A result that is answered from the record after a kill comes to the same as a new one.
        """
        if item.outcome == "unmeasured":
            return None
        own = own_judgement(item)
        return replace(own, attribution=item.attribution or "", score_range=self._range)


def _has_feedback(found: Judgement) -> bool:
    """Whether something did not pass, or passed with advice and less than the highest score."""
    if found.success is False:
        return True
    is_best = found.success and found.score == found.score_range[1]
    return bool(found.feedback) and not is_best


def _finding(item: Datum, found: Judgement, *, several: bool) -> Finding:
    low, high = found.score_range
    score = low if found.score is None else found.score
    return Finding(
        direction=found.feedback or "make this item succeed",
        attribution=found.attribution,
        severity=min(max((high - score) / (high - low), 0.0), 1.0),
        evidence=(item.id,) if several else (),
        item=item.id if several else "",
    )


def _pairs(data: Datum, targets: Any) -> list[tuple[Datum, Datum | None]]:
    items = list(data.leaves())
    return list(zip(items, _targets(items, targets), strict=True))


def _targets(items: list[Datum], targets: Any) -> list[Datum | None]:
    """The target of each item: by place where the numbers agree, else by id."""
    if not isinstance(targets, Datum):
        if isinstance(targets, list | tuple) and len(targets) == len(items):
            return [t if isinstance(t, Datum) else Datum(metadata={"value": t}) for t in targets]
        return [None] * len(items)
    known = list(targets.leaves())
    if len(known) == len(items):
        return list(known)
    by_id = {target.id: target for target in known}
    return [by_id.get(item.id) for item in items]
