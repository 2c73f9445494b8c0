"""What SQLite says of a query before it runs it, as feedback: a loss and its gradient."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Set
from dataclasses import dataclass
from functools import cached_property

from autopilot.core.gradient import Gradient
from autopilot.core.loss import Loss
from autopilot.core.types import Datum

_INDEX = re.compile(r"INDEX (\w+)")
_TABLE = re.compile(r"\b(?:FROM|JOIN) ([a-z_]+)(?: ([a-z_]+))?")
_COMPARED = re.compile(r"(?:(\w+)\.)?(\w+) [<=>]+ ")


@dataclass(frozen=True, slots=True)
class Plan:
    """How one call of the training workload ran.

    Args:
        id: The call's.
        query: The query's name; its file is queries/NAME.sql. Empty for a write.
        text: The query.
        lines: The lines of EXPLAIN QUERY PLAN.
        steps: Steps of SQLite's virtual machine; lower is better.
    """

    id: str
    query: str
    text: str
    lines: tuple[str, ...]
    steps: int

    @property
    def columns(self) -> list[tuple[str, str]]:
        """(table, column) that an index might help: those that a query with a scan compares.

        >>> text = "SELECT o.id FROM orders o WHERE o.day = :day"
        >>> Plan("1", "day", text, ("SCAN o",), 9).columns
        [('orders', 'day')]
        """
        if not any(line.startswith("SCAN") for line in self.lines):
            return []
        tables = {alias or table: table for table, alias in _TABLE.findall(self.text)}
        first = next(iter(tables.values()))
        found = [(tables.get(name, first), column) for name, column in _COMPARED.findall(self.text)]
        return [each for each in dict.fromkeys(found) if each[1] != "id"]


class PlanGradient(Gradient):
    """Feedback on indexes and queries: the plan of each call, and its cost.

    Args:
        plans: One for each call.
    """

    def __init__(self, plans: Iterable[Plan]) -> None:
        self.plans = tuple(sorted(plans, key=lambda plan: plan.id))

    @property
    def values(self) -> tuple[Plan, ...]:  # type: ignore[override]  # read-only view
        return self.plans

    def accumulate(self, other: Gradient) -> Gradient:
        if not isinstance(other, PlanGradient):
            raise TypeError(f"a PlanGradient cannot take in a {type(other).__name__}")
        return PlanGradient(self.plans + other.plans)

    def for_items(self, ids: Set[str]) -> PlanGradient:
        return PlanGradient(plan for plan in self.plans if plan.id in ids)

    def about(self) -> str:
        """The query that costs most."""
        return next(iter(self.costs), "")

    @cached_property
    def costs(self) -> dict[str, int]:
        """Steps of all calls of a query, by its name; the most expensive first."""
        total: Counter[str] = Counter()
        for plan in self.plans:
            total[plan.query] += plan.steps
        return {name: steps for name, steps in total.most_common() if name}

    @cached_property
    def one_each(self) -> list[Plan]:
        """A plan for each query, the most expensive query first."""
        found = {plan.query: plan for plan in self.plans}
        return [found[name] for name in self.costs]

    @cached_property
    def used(self) -> set[str]:
        """The names of all indexes that a plan uses."""
        return {name for plan in self.plans for line in plan.lines for name in _INDEX.findall(line)}

    def render(self) -> str:
        """Each query with its cost and its plan, the most expensive first."""
        parts = []
        for plan in self.one_each:
            parts.append(f"{plan.query}: {self.costs[plan.query]} steps")
            parts += [f"  {line}" for line in plan.lines]
        return "\n".join(parts)


class PlanLoss(Loss):
    """Collects the plans of all calls, those that went well included: they say what is used."""

    def forward(self, data: Datum, targets: Datum) -> PlanGradient:
        return PlanGradient(
            Plan(
                id=call.id,
                query=call.metadata.get("query", ""),
                text=call.metadata.get("text", ""),
                lines=tuple(call.metadata["plan"]),
                steps=round(1000 * call.metrics["kilosteps"]),
            )
            for call in data.leaves()
            if "plan" in call.metadata
        )
