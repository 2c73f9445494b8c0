"""What was missed and what was flagged for nothing: a loss and its gradient."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

from rulebook import RuleBook, Values

from autopilot.core.gradient import Gradient
from autopilot.core.loss import Loss
from autopilot.core.types import Datum

BETA = 2.0  # a miss costs as much as four false alarms


@dataclass(frozen=True, slots=True)
class Case:
    """A case of the train split.

    Args:
        id: The case's.
        values: Feature to value.
        target: Whether it should be flagged.
        flagged: Whether it was.
    """

    id: str
    values: Values
    target: bool
    flagged: bool


class CaseGradient(Gradient):
    """Feedback on the rules: all cases, those that went well included.

    Args:
        cases: One for each case: who moves a threshold must also know what it would break.
    """

    def __init__(self, cases: Iterable[Case]) -> None:
        self.cases = tuple(sorted(cases, key=lambda case: case.id))

    @property
    def values(self) -> tuple[Case, ...]:  # type: ignore[override]  # read-only view
        return self.cases

    def accumulate(self, other: Gradient) -> Gradient:
        if not isinstance(other, CaseGradient):
            raise TypeError(f"a CaseGradient cannot take in a {type(other).__name__}")
        return CaseGradient(self.cases + other.cases)

    def for_items(self, ids: Set[str]) -> CaseGradient:
        return CaseGradient(case for case in self.cases if case.id in ids)

    @property
    def wrong(self) -> list[Case]:
        """The cases that were missed, or flagged for nothing."""
        return [case for case in self.cases if case.flagged != case.target]

    def about(self) -> str:
        """The kind of error that is more frequent."""
        missed = sum(case.target for case in self.wrong)
        return "missed cases" if 2 * missed >= len(self.wrong) else "false alarms"

    def score(self, book: RuleBook) -> float:
        """F2 of other rules on the same cases, without running the system again."""
        # As `FBeta`, without a Datum for each case: this is asked of hundreds of rules an epoch.
        wrong = right = 0.0
        for case in self.cases:
            flagged = book.flags(case.values)
            if flagged and case.target:
                right += 1 + BETA**2
            elif flagged != case.target:
                wrong += BETA**2 if case.target else 1
        return right / (right + wrong) if right else 0.0

    def render(self) -> str:
        """The errors, a line each."""
        missed = [case for case in self.wrong if case.target]
        alarms = [case for case in self.wrong if not case.target]
        parts = [f"{len(missed)} missed, {len(alarms)} false alarms of {len(self.cases)} cases"]
        for title, cases in (("missed", missed), ("false alarm", alarms)):
            for case in cases[:5]:
                values = ", ".join(f"{name} {value:g}" for name, value in case.values.items())
                parts.append(f"  {title} {case.id}: {values}")
        return "\n".join(parts)


class CaseLoss(Loss):
    """Compares what the rules flagged with what they should have."""

    def forward(self, data: Datum, targets: Datum) -> CaseGradient:
        return CaseGradient(
            Case(
                answer.id,
                case.metadata["values"],
                answer.metadata["target"],
                answer.metadata["prediction"],
            )
            for answer, case in zip(data.leaves(), targets.leaves(), strict=True)
        )
