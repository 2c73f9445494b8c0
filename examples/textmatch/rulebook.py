"""The language of rules.txt: a category, a term to look for, and how much it counts.

    # a comment
    delivery: parcel
    billing: "charged twice" 2
    returns: refund* 1.5
    app: @device 0.7
    returns: @appliance + @broken 1.2

A ticket goes to the category whose rules in it add up to most. A term is a word, a phrase of two
words, the beginning of a word (`refund*`), a group of words from groups.txt (`@device`), or two
groups that both occur in the ticket.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path
from typing import NamedTuple

GROUPS_FILE = Path(__file__).parent / "groups.txt"
SHORTEST_STEM = 3
NO_CATEGORY = "none"

_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
_TERM = re.compile(rf"@\w+(?: \+ @\w+)?|{_WORD.pattern}(?:\*| {_WORD.pattern})?")
_LINE = re.compile(
    r"""(?P<category>\w+) \s*:\s*
        (?: "(?P<quoted>[^"]+)" | (?P<plain>[^"]+?) )
        (?: \s+ (?P<weight>-?\d+(?:\.\d+)?) )?""",
    re.VERBOSE,
)


class Key(NamedTuple):
    """What a rule is known by; its weight is the rule's value."""

    category: str
    term: str

    def __str__(self) -> str:
        bare = self.term.startswith("@") or not re.search(r"[ \d]", self.term)
        return f"{self.category}: {self.term}" if bare else f'{self.category}: "{self.term}"'


class RuleBook:
    """All rules, ready to be used.

    Args:
        weights: Each rule's weight; higher counts more, below zero counts against.
        header: The comment at the top of the file, kept as it is.

    >>> book = RuleBook.parse('billing: "charged twice" 2\\ndelivery: parcel')
    >>> book.judge("I was charged twice for one parcel").category
    'billing'
    """

    def __init__(self, weights: dict[Key, float], header: str = "") -> None:
        self.weights = weights
        self.header = header
        self._judged: dict[str, Judgement] = {}
        self.categories = list(dict.fromkeys(key.category for key in weights))
        self._by_term: dict[str, list[tuple[Key, float]]] = defaultdict(list)
        for key, weight in weights.items():
            self._by_term[key.term].append((key, weight))

    @classmethod
    def parse(cls, text: str) -> RuleBook:
        """Reads a rules file.

        Raises:
            ValueError: a line is not a rule; it names the line.
        """
        weights: dict[Key, float] = {}
        header: list[str] = []
        for number, raw in enumerate(text.splitlines(), start=1):
            line = raw.strip()
            if line.startswith("#") and not weights:
                header.append(line)
            if not line or line.startswith("#"):
                continue
            match = _LINE.fullmatch(line.partition("#")[0].strip())
            term = _tidy(match["quoted"] or match["plain"]) if match else ""
            if match is None or not _TERM.fullmatch(term):
                raise ValueError(f"rules line {number} is no rule: {line!r}")
            weights[Key(match["category"], term)] = float(match["weight"] or 1)
        return cls(weights, "\n".join(header))

    def render(self) -> str:
        """The file: a block for each category, its rules in the order they were added."""
        blocks: dict[str, list[str]] = {}
        for key, weight in self.weights.items():
            line = str(key) if weight == 1 else f"{key} {weight:g}"
            blocks.setdefault(key.category, []).append(line)
        parts = [self.header] if self.header else []
        parts += ["\n".join(lines) for lines in blocks.values()]
        return "\n\n".join(parts) + "\n"

    def judge(self, text: str) -> Judgement:
        """Where a ticket goes, and why; the rules do not change, so once is enough."""
        if text not in self._judged:
            self._judged[text] = self._judge(text)
        return self._judged[text]

    def _judge(self, text: str) -> Judgement:
        fired: list[Key] = []
        scores = dict.fromkeys(self.categories, 0.0)
        for term in sorted(self._by_term.keys() & terms(text)):
            for key, weight in self._by_term[term]:
                fired.append(key)
                scores[key.category] += weight
        return Judgement(scores, fired)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the rules say about one ticket.

    Args:
        scores: Each category's sum of weights.
        fired: The rules that fired, in alphabetical order of their terms.
    """

    scores: dict[str, float]
    fired: list[Key]

    @property
    def category(self) -> str:
        """The highest score, of equals the first in the file; NO_CATEGORY if none is above 0."""
        best = max(self.scores, key=self.scores.__getitem__, default=NO_CATEGORY)
        return best if self.scores.get(best, 0) > 0 else NO_CATEGORY

    def lead(self, label: str) -> float:
        """By how much a category is ahead of all others; below zero it is behind."""
        others = (score for category, score in self.scores.items() if category != label)
        return self.scores.get(label, 0.0) - max(others, default=0.0)


def _tidy(term: str) -> str:
    """A term as `terms` spells it: lower case, single spaces, groups in alphabetical order."""
    return " + ".join(sorted(" ".join(part.split()) for part in term.lower().split("+")))


@cache
def terms(text: str) -> frozenset[str]:
    """Everything in a ticket that a rule may name.

    >>> sorted(terms("my phone"))
    ['@device', 'my', 'my phone', 'pho*', 'phon*', 'phone', 'phone*']
    """
    words = _WORD.findall(text.lower().replace("’", "'"))
    found = set(words)
    for word in words:
        found.update(f"{word[:n]}*" for n in range(SHORTEST_STEM, len(word) + 1))
    members = _groups()
    groups = sorted({name for term in found & members.keys() for name in members[term]})
    found.update(groups)
    found.update(f"{one} + {other}" for one, other in combinations(groups, 2))
    found.update(f"{first} {second}" for first, second in pairwise(words))
    return frozenset(found)


@cache
def _groups() -> dict[str, list[str]]:
    """For each word or stem in groups.txt, the groups that it belongs to."""
    members: dict[str, list[str]] = defaultdict(list)
    for line in GROUPS_FILE.read_text(encoding="utf-8").splitlines():
        name, _, words = line.partition(":")
        if name.startswith("@"):
            for word in words.split():
                members[word].append(name)
    return members
