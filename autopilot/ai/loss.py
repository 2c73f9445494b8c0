"""JudgeLoss: a judge's feedback on each item, back-propagated."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from autopilot.ai.gradient import ConcatCollator, GradientCollator
from autopilot.ai.judge import Judge, Judgement
from autopilot.core.gradient import Finding, Gradient
from autopilot.core.loss import Loss
from autopilot.core.parameter import Parameter
from autopilot.core.types import Datum


class JudgeLoss(Loss):
    """Asks a judge about every item of a batch, and makes a gradient of what did not pass.

    Args:
        judge: Who says what passed and what to do better.
        collator: Makes one gradient of the findings.
        parameters: What the feedback is for; without it, it goes back through the modules that
            produced the data.

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
    ) -> None:
        super().__init__(parameters)
        self.judge = judge
        self.collator = collator or ConcatCollator()

    def forward(self, data: Datum, targets: Any = None) -> Gradient | None:
        items = list(data.leaves())
        judged = self.judge.judge_all(list(zip(items, _targets(items, targets), strict=True)))
        several = len(items) > 1
        findings = [
            _finding(item, judgement, several=several)
            for item, judgement in zip(items, judged, strict=True)
            if not judgement.success
        ]
        return self.collator.collate(findings) if findings else None


def _finding(item: Datum, judgement: Judgement, *, several: bool) -> Finding:
    return Finding(
        direction=judgement.feedback or "make this item succeed",
        attribution=judgement.attribution,
        severity=min(max(1.0 - judgement.score, 0.0), 1.0),
        evidence=(item.id,) if several else (),
        item=item.id if several else "",
    )


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
