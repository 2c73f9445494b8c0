"""What went wrong, with structure: a loss that explains, and the gradient it produces."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from functools import cached_property, lru_cache

from rulebook import NO_CATEGORY, Judgement, Key, terms

from autopilot.core.gradient import Gradient
from autopilot.core.loss import Loss
from autopilot.core.types import Datum


@dataclass(frozen=True, slots=True)
class Observation:
    """How one training ticket went.

    Args:
        id: The ticket's.
        text: The ticket.
        label: Where it belongs.
        prediction: Where the rules sent it.
        lead: By how much the label's score was ahead of all others.
        fired: The rules that fired.
    """

    id: str
    text: str
    label: str
    prediction: str
    lead: float
    fired: tuple[Key, ...]

    @property
    def missed(self) -> bool:
        """Whether it went to the wrong place, or nowhere."""
        return self.label != self.prediction


@dataclass(frozen=True, slots=True)
class Firing:
    """How one rule did: the tickets of its own category that it fired on, and the others.

    Args:
        right: Ids.
        wrong: Ids.
    """

    right: tuple[str, ...]
    wrong: tuple[str, ...]


class RuleGradient(Gradient):
    """Feedback on the rules: which fired wrongly, what none of them caught, what was confused.

    Args:
        observations: How each ticket went, those that went well included: to tell whether a word
            is telling one must also know where else it occurs.
    """

    def __init__(self, observations: Iterable[Observation]) -> None:
        self.observations = tuple(sorted(observations, key=lambda o: o.id))

    @property
    def values(self) -> tuple[Observation, ...]:  # type: ignore[override]  # read-only view
        return self.observations

    def accumulate(self, other: Gradient) -> Gradient:
        if not isinstance(other, RuleGradient):
            raise TypeError(f"a RuleGradient cannot take in a {type(other).__name__}")
        return RuleGradient(self.observations + other.observations)

    def for_items(self, ids: Set[str]) -> RuleGradient:
        return RuleGradient(o for o in self.observations if o.id in ids)

    def about(self) -> str:
        """The category with the most tickets that went wrong; of equals, the first by name."""
        missed = Counter(o.label for o in self.missed)
        return min(missed, key=lambda label: (-missed[label], label), default="")

    @cached_property
    def missed(self) -> list[Observation]:
        """The tickets that went wrong."""
        return [o for o in self.observations if o.missed]

    @cached_property
    def firings(self) -> dict[Key, Firing]:
        """Each rule that fired, with the tickets that it was right and wrong about."""
        right: dict[Key, list[str]] = defaultdict(list)
        wrong: dict[Key, list[str]] = defaultdict(list)
        for o in self.observations:
            for key in o.fired:
                (right if key.category == o.label else wrong)[key].append(o.id)
        keys = dict.fromkeys(key for o in self.observations for key in o.fired)
        return {key: Firing(tuple(right[key]), tuple(wrong[key])) for key in keys}

    @cached_property
    def labels(self) -> Counter[str]:
        """Tickets per category."""
        return Counter(o.label for o in self.observations)

    @cached_property
    def seen(self) -> dict[str, Counter[str]]:
        """For each category, the terms of its tickets, with how many have them."""
        return _seen(tuple((o.text, o.label) for o in self.observations))

    @cached_property
    def seen_anywhere(self) -> Counter[str]:
        """For each term, how many tickets have it."""
        total: Counter[str] = Counter()
        for counts in self.seen.values():
            total.update(counts)
        return total

    @cached_property
    def missing(self) -> dict[str, Counter[str]]:
        """For each category, the terms of its missed tickets, counted in the same way."""
        return self.terms_where(lambda o: o.missed)

    def terms_where(self, chosen: Callable[[Observation], bool]) -> dict[str, Counter[str]]:
        """The same for any choice of tickets."""
        found: dict[str, Counter[str]] = {label: Counter() for label in sorted(self.labels)}
        for o in filter(chosen, self.observations):
            found[o.label].update(terms(o.text))
        return found

    @cached_property
    def confusions(self) -> Counter[tuple[str, str]]:
        """(where it belongs, where it went) of the missed tickets, counted."""
        return Counter((o.label, o.prediction) for o in self.missed)

    def render(self, lines: int = 5) -> str:
        """The worst of each kind, for a person.

        Args:
            lines: How many are shown of each; how many are left out is said.
        """
        parts = [f"{len(self.missed)} of {len(self.observations)} tickets went wrong"]
        parts += _section("went elsewhere", self._confusion_lines(), lines)
        parts += _section("fired wrongly", self._firing_lines(), lines)
        parts += _section("words that no rule knows", self._missing_lines(), lines)
        return "\n".join(parts)

    def _confusion_lines(self) -> list[str]:
        ranked = sorted(self.confusions.items(), key=lambda item: (-item[1], item[0]))
        return [f"{label} -> {prediction}: {count}" for (label, prediction), count in ranked]

    def _firing_lines(self) -> list[str]:
        bad = [(key, f) for key, f in self.firings.items() if len(f.wrong) > len(f.right)]
        bad.sort(key=lambda item: (len(item[1].right) - len(item[1].wrong), item[0]))
        return [
            f"{key} (right {len(f.right)}, wrong {len(f.wrong)}, such as {', '.join(f.wrong[:3])})"
            for key, f in bad
        ]

    def _missing_lines(self) -> list[str]:
        lines = []
        for label, counts in self.missing.items():
            known = {key.term for key in self.firings if key.category == label}
            words = [w for w in counts if w.isalpha() and len(w) > 3 and w not in known]
            words.sort(key=lambda w: (-counts[w] * self.seen[label][w] / self.seen_anywhere[w], w))
            if words:
                lines.append(f"{label}: {', '.join(words[:6])}")
        return lines


@lru_cache(maxsize=1)
def _seen(tickets: tuple[tuple[str, str], ...]) -> dict[str, Counter[str]]:
    """Counts once what is the same in every epoch."""
    found: dict[str, Counter[str]] = {label: Counter() for label in sorted({t[1] for t in tickets})}
    for text, label in tickets:
        found[label].update(terms(text))
    return found


def _section(title: str, lines: list[str], limit: int) -> list[str]:
    if not lines:
        return []
    more = [f"  ... and {len(lines) - limit} more"] if len(lines) > limit else []
    return [f"{title}:", *(f"  {line}" for line in lines[:limit]), *more]


class RuleLoss(Loss):
    """Compares where the rules sent each ticket with where it belongs."""

    def forward(self, data: Datum, targets: Datum) -> RuleGradient:
        return RuleGradient(
            Observation(
                id=answer.id,
                text=ticket.metadata["text"],
                label=ticket.metadata["label"],
                prediction=answer.metadata["prediction"],
                lead=answer.metadata["lead"],
                fired=tuple(Key(*key) for key in answer.metadata["fired"]),
            )
            for answer, ticket in zip(data.leaves(), targets.leaves(), strict=True)
        )


def explain(label: str, judgement: Judgement, weights: Mapping[Key, float]) -> str:
    """Feedback on one ticket in words; empty where it went well."""
    prediction = judgement.category
    if prediction == label:
        return ""
    if prediction == NO_CATEGORY:
        return f"no rule caught this {label} ticket"
    culprits = [key for key in judgement.fired if key.category == prediction]
    culprits.sort(key=lambda key: -weights[key])
    named = ", ".join(str(key) for key in culprits[:3])
    return f"this {label} ticket went to {prediction}, mostly because of {named}"
