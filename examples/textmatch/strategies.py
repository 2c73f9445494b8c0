"""The strategies: each reads the gradient and edits the rules, without a model.

Everything a strategy knows comes from the gradient (the train split) and from the rules file; what
it tries next follows from `self.attempt`, so a resumed run goes on exactly where it stopped.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

from feedback import Observation, RuleGradient
from rulebook import Key, RuleBook

from autopilot.core.gradient import Gradient
from autopilot.core.parameter import Parameter, PathParameter
from autopilot.core.rules import Rule

Weights = dict[Key, float]

LIGHTEST, HEAVIEST = 0.1, 4.0


def all_strategies() -> list[Rule]:
    """The strategies in the order in which they take turns; the last two are risky."""
    return [
        AddTerms("add missing words", _is_word, per_category=16),
        AddTerms("add word groups", _is_group, per_category=12),
        AddTerms("add missing phrases", _is_phrase, per_category=16, share=0.4),
        AddTerms("split broad groups", _is_pair, per_category=16, share=0.4),
        TuneWeights(),
        DropMisfiringRules(),
        AddTerms("add rare words", _is_word, per_category=32, share=0.5, support=1),
        DropOldRules(),
    ]


def _is_word(term: str) -> bool:
    return term.isalpha() and len(term) > 2


def _is_phrase(term: str) -> bool:
    return " " in term and not _is_pair(term)


def _is_group(term: str) -> bool:
    return term.startswith("@") and not _is_pair(term)


def _is_pair(term: str) -> bool:
    return " + " in term


def log_odds(gradient: RuleGradient, key: Key, doubt: float = 2.0) -> float:
    """How much a term speaks for a category; 0 says nothing, below zero it speaks against.

    Args:
        gradient: Where the term was seen.
        key: The term and the category.
        doubt: That many imagined tickets of average make-up keep rare terms modest.
    """
    usual = gradient.labels[key.category] / gradient.labels.total()
    if not 0 < usual < 1:
        return 0.0
    inside, anywhere = gradient.seen[key.category][key.term], gradient.seen_anywhere[key.term]
    share = (inside + doubt * usual) / (anywhere + doubt)
    return math.log(share / (1 - share)) - math.log(usual / (1 - usual))


class Edit(Rule):
    """What the strategies share: read the file, change the weights, write the file."""

    def applies(self, gradient: Gradient) -> bool:
        return isinstance(gradient, RuleGradient) and bool(gradient.missed)

    def apply(self, parameter: Parameter, gradient: Gradient) -> str | None:
        if not isinstance(parameter, PathParameter) or not isinstance(gradient, RuleGradient):
            raise TypeError(f"{self.name} edits a rules file by a RuleGradient")
        book = RuleBook.parse(parameter.read_text())
        weights = dict(book.weights)
        summary = self.edit(weights, gradient)
        if weights == book.weights:
            return None
        parameter.write_text(RuleBook(weights, book.header).render())
        return summary

    @abstractmethod
    def edit(self, weights: Weights, gradient: RuleGradient) -> str:
        """Changes the weights in place; returns what was done."""


class AddTerms(Edit):
    """Adds the most telling terms of one kind, from tickets that went wrong or nearly so.

    Args:
        name: The strategy's name.
        kind: Which terms.
        per_category: How many at most.
        share: Of the log-odds, as the weight: less for terms that overlap with others.
        support: A term must occur in that many tickets of the category.
    """

    def __init__(
        self,
        name: str,
        kind: Callable[[str], bool],
        per_category: int,
        share: float = 1.0,
        support: int = 2,
    ) -> None:
        self.name = name
        self.kind = kind
        self.per_category = per_category
        self.share = share
        self.support = support

    def edit(self, weights: Weights, gradient: RuleGradient) -> str:
        # Each attempt also looks at tickets that were sorted more safely than at the one before.
        lead = 3.0 + 2.0 * self.attempt
        added: Counter[str] = Counter()
        unsure = gradient.terms_where(lambda o: o.missed or o.lead < lead)
        for category, tickets in unsure.items():
            ranked = sorted(self._candidates(category, tickets, weights, gradient), reverse=True)
            for _, key in ranked[: self.per_category]:
                weight = self.share * min(log_odds(gradient, key), HEAVIEST)
                weights[key] = max(round(weight, 1), LIGHTEST)
                added[category] += 1
        most = ", ".join(category for category, _ in added.most_common(3))
        return f"{self.name}: {added.total()}, most for {most}"

    def _candidates(
        self, category: str, tickets: Counter[str], weights: Weights, gradient: RuleGradient
    ) -> Iterator[tuple[float, Key]]:
        """New rules, each with what it may be expected to bring."""
        for term, count in tickets.items():
            key = Key(category, term)
            if not self.kind(term) or key in weights:
                continue
            if gradient.seen[category][term] < self.support:
                continue
            telling = log_odds(gradient, key)
            if telling > 0.5:
                yield count * telling, key


class TuneWeights(Edit):
    """Weighs all rules anew: by their log-odds, then corrected ticket by ticket.

    The correction is an averaged perceptron (Freund and Schapire, 1999) with a margin, which
    grows with each attempt.
    """

    name = "tune weights"
    passes = 10
    rate = 0.1

    def edit(self, weights: Weights, gradient: RuleGradient) -> str:
        margin = 3.0 * 2.0 ** (self.attempt % 3)
        current = {key: log_odds(gradient, key) for key in weights}
        sums: Weights = defaultdict(float)
        for _ in range(self.passes):
            for observation in gradient.observations:
                self._correct(current, observation, list(gradient.labels), margin)
            for key, weight in current.items():
                sums[key] += weight
        for key in weights:
            weights[key] = round(sums[key] / self.passes, 1)
        return f"{self.name}: {len(weights)} rules, margin {margin:g}"

    def _correct(
        self, weights: Weights, observation: Observation, labels: list[str], margin: float
    ) -> None:
        scores = dict.fromkeys(labels, 0.0)
        for key in observation.fired:
            scores[key.category] = scores.get(key.category, 0.0) + weights[key]
        own = scores.pop(observation.label)
        rival = max(scores, key=scores.__getitem__)
        if own - scores[rival] >= margin:
            return
        for key in observation.fired:
            if key.category == observation.label:
                weights[key] += self.rate
            elif key.category == rival:
                weights[key] -= self.rate


class DropMisfiringRules(Edit):
    """Drops rules that fire more often wrongly than rightly, and say little."""

    name = "drop misfiring rules"

    def edit(self, weights: Weights, gradient: RuleGradient) -> str:
        bad = [
            key
            for key, firing in gradient.firings.items()
            if len(firing.wrong) > len(firing.right) and log_odds(gradient, key) < 1.0
        ]
        for key in bad:
            del weights[key]
        return f"{self.name}: {len(bad)}, such as {min(bad, default='none')}"


class DropOldRules(Edit):
    """Drops the tenth of the rules that were there first: what is old may be outdated."""

    name = "drop old rules"

    def edit(self, weights: Weights, gradient: RuleGradient) -> str:
        old = list(weights)[: max(5, len(weights) // 10)]
        for key in old:
            del weights[key]
        return f"{self.name}: {len(old)}, such as {old[0]}"
