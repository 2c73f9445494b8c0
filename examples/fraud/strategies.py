"""The strategies: each reads the errors on train and edits rules.toml, without a model.

Each takes what is best on train, and says how far train rises. Whether that holds for cases that no
rule was made for, only val knows.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace

from feedback import CaseGradient
from rulebook import Region, RuleBook, Threshold

from autopilot.core.gradient import Gradient
from autopilot.core.parameter import Parameter, PathParameter
from autopilot.core.rules import Rule

STEPS = 40
WIDTHS = (0.05, 0.03, 0.1)


def all_strategies() -> list[Rule]:
    """The strategies in the order in which they take turns; the last one overfits."""
    return [MoveThreshold(), AddRule(), ChangePoints(), LearnByHeart()]


class Edit(Rule):
    """What the strategies share: of all edits that help train, each attempt takes the next."""

    def applies(self, gradient: Gradient) -> bool:
        return isinstance(gradient, CaseGradient) and bool(gradient.wrong)

    def apply(self, parameter: Parameter, gradient: Gradient) -> str | None:
        if not isinstance(parameter, PathParameter) or not isinstance(gradient, CaseGradient):
            raise TypeError(f"{self.name} edits rules.toml by a CaseGradient")
        book = RuleBook.parse(parameter.read_text())
        before = gradient.score(book)
        scored = [
            (gradient.score(other), other, what) for other, what in self.edits(book, gradient)
        ]
        better = sorted((each for each in scored if each[0] > before), key=lambda each: -each[0])
        if not better:
            return None
        after, other, what = better[self.attempt % len(better)]
        parameter.write_text(other.render())
        return f"{what}: train f2 {before:.3f} -> {after:.3f}"

    @abstractmethod
    def edits(self, book: RuleBook, gradient: CaseGradient) -> Iterator[tuple[RuleBook, str]]:
        """Other rules, each with what was changed."""


class MoveThreshold(Edit):
    """Moves the threshold of a rule."""

    name = "move a threshold"

    def edits(self, book: RuleBook, gradient: CaseGradient) -> Iterator[tuple[RuleBook, str]]:
        for at, rule in enumerate(book.rules):

            def moved(above: float, at: int = at, rule: Threshold = rule) -> RuleBook:
                return with_rule(book, at, replace(rule, above=above))

            best = best_threshold(rule.feature, moved, gradient)
            yield moved(best), f"{rule} moves to {best:g}"


class AddRule(Edit):
    """Adds a rule."""

    name = "add a rule"

    def edits(self, book: RuleBook, gradient: CaseGradient) -> Iterator[tuple[RuleBook, str]]:
        for feature in gradient.cases[0].values:

            def added(above: float, feature: str = feature) -> RuleBook:
                return replace(book, rules=(*book.rules, Threshold(feature, above)))

            other = added(best_threshold(feature, added, gradient))
            yield other, f"add {other.rules[-1]}"


class ChangePoints(Edit):
    """Changes how much a rule counts."""

    name = "change points"

    def edits(self, book: RuleBook, gradient: CaseGradient) -> Iterator[tuple[RuleBook, str]]:
        for at, rule in enumerate(book.rules):
            for points in (rule.points + 1, rule.points - 1):
                yield with_rule(book, at, replace(rule, points=points)), f"{rule}: {points} points"
        for limit in (book.limit - 1, book.limit + 1):
            yield replace(book, limit=limit), f"a case is flagged at {limit} points"


class LearnByHeart(Edit):
    """Makes an exception of every error, for all cases that are close to it in three features."""

    name = "learn errors by heart"

    def edits(self, book: RuleBook, gradient: CaseGradient) -> Iterator[tuple[RuleBook, str]]:
        features = list(dict.fromkeys(rule.feature for rule in book.rules))[:3]
        for width in WIDTHS:
            regions = tuple(
                Region(
                    case.target,
                    {name: around(case.values[name], width) for name in features},
                )
                for case in gradient.wrong
            )
            other = replace(book, exceptions=book.exceptions + regions)
            yield other, f"{len(regions)} exceptions, {width:.0%} around each error"


def with_rule(book: RuleBook, at: int, rule: Threshold) -> RuleBook:
    """The same rules but for one."""
    return replace(book, rules=(*book.rules[:at], rule, *book.rules[at + 1 :]))


def around(value: float, width: float) -> tuple[float, float]:
    """The lowest and the highest value that are that close to a value."""
    return round((1 - width) * value, 4), round((1 + width) * value, 4)


def best_threshold(
    feature: str, book_with: Callable[[float], RuleBook], gradient: CaseGradient
) -> float:
    """The threshold of a feature with which rules are best on train; of equals, the lowest."""
    values = sorted(case.values[feature] for case in gradient.cases)
    steps = range(1, len(values), max(1, len(values) // STEPS))
    thresholds = [round((values[i - 1] + values[i]) / 2, 4) for i in steps]
    return max(thresholds, key=lambda above: gradient.score(book_with(above)))
