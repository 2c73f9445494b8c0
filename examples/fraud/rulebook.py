"""The rule engine: rules.toml, read, applied and written.

limit = 2                          a case is flagged at that many points
[[rules]]
feature = "area"                   each rule gives points to the cases above its threshold
above = 880.0
points = 1
[[exceptions]]                     the first that a case is within decides, whatever its points
flag = true
within = {area = [700.1, 710.0], texture = [20.0, 21.5]}
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass

Values = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Threshold:
    """A rule: points for each case whose feature is above a threshold."""

    feature: str
    above: float
    points: int = 1

    def __str__(self) -> str:
        return f"{self.feature} above {self.above:g}"


@dataclass(frozen=True, slots=True)
class Region:
    """An exception: cases that are flagged, or not, whatever the rules say.

    Args:
        flag: Whether its cases are flagged.
        within: Feature to its lowest and highest value, both included.
    """

    flag: bool
    within: Mapping[str, tuple[float, float]]

    def holds(self, case: Values) -> bool:
        """Whether a case is within."""
        return all(low <= case[name] <= high for name, (low, high) in self.within.items())


@dataclass(frozen=True, slots=True)
class RuleBook:
    """All rules, ready to be used.

    >>> book = RuleBook.parse('limit = 1\\n[[rules]]\\nfeature = "area"\\nabove = 880\\npoints = 1')
    >>> book.flags({"area": 900.0}), book.flags({"area": 700.0})
    (True, False)
    """

    limit: int
    rules: tuple[Threshold, ...]
    exceptions: tuple[Region, ...] = ()

    @classmethod
    def parse(cls, text: str) -> RuleBook:
        """Reads rules.toml."""
        table = tomllib.loads(text)
        rules = tuple(Threshold(**rule) for rule in table["rules"])
        return cls(table["limit"], rules, tuple(Region(**r) for r in table.get("exceptions", ())))

    def render(self) -> str:
        """The file."""
        parts = [f"limit = {self.limit}\n"]
        for rule in self.rules:
            parts.append(
                f'[[rules]]\nfeature = "{rule.feature}"\nabove = {rule.above}\n'
                f"points = {rule.points}\n"
            )
        for region in self.exceptions:
            within = ", ".join(f"{name} = [{a}, {b}]" for name, (a, b) in region.within.items())
            flag = str(region.flag).lower()
            parts.append(f"[[exceptions]]\nflag = {flag}\nwithin = {{{within}}}\n")
        return "\n".join(parts)

    def flags(self, case: Values) -> bool:
        """Whether a case is flagged."""
        for region in self.exceptions:
            if region.holds(case):
                return region.flag
        points = sum(rule.points for rule in self.rules if case[rule.feature] > rule.above)
        return points >= self.limit
