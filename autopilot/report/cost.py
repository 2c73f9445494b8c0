"""What model calls cost, by the role that asked."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field

from autopilot.core.records.record import LlmRecord
from autopilot.core.types import Cost
from autopilot.tracking.journal import Journal


@dataclass(slots=True)
class RoleCost:
    """What the model calls of a role cost.

    Args:
        role: Who asked; "other" is what was spent without a recorded call.
        models: Who answered.
        calls: How many.
        unpriced: Those whose price was not known.
        cost: In all.
        by_epoch: Epoch to its part.
    """

    role: str
    models: set[str] = field(default_factory=set)
    calls: int = 0
    unpriced: int = 0
    cost: Cost = Cost()
    by_epoch: dict[int, Cost] = field(default_factory=dict)

    def add(self, record: LlmRecord) -> None:
        """Takes in a call."""
        self.models.add(record.model)
        self.calls += 1
        self.unpriced += not record.priced
        self.cost += record.cost
        self.by_epoch[record.epoch] = self.by_epoch.get(record.epoch, Cost()) + record.cost


def roles_of(journal: Journal, line: Container[str], costs: Sequence[Cost]) -> list[RoleCost]:
    """What each role's calls cost, the dearest first, and what was spent beside them.

    Args:
        journal: The experiment's notes.
        line: The commits that count.
        costs: What the epochs cost.
    """
    roles: dict[str, RoleCost] = {}
    for commit, record in journal.read(LlmRecord):
        if commit in line:
            roles.setdefault(record.role, RoleCost(record.role)).add(record)
    spent, told = sum(costs, Cost()), sum((role.cost for role in roles.values()), Cost())
    tokens, usd = spent.tokens - told.tokens, spent.cost_usd - told.cost_usd
    if tokens > 0 or usd > 1e-9:
        rest = Cost(tokens=max(tokens, 0), cost_usd=max(usd, 0.0))
        roles["other"] = RoleCost("other", cost=rest)
    return sorted(roles.values(), key=lambda r: (-r.cost.cost_usd, -r.cost.tokens, r.role))
