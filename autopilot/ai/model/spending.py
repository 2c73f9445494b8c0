"""What an agent's call costs, reserved and counted in the run that is going on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from autopilot.ai.model.recording import keep_lost
from autopilot.core.records.ledger import Ledger, Reservation
from autopilot.core.run import current_run, say
from autopilot.core.types import Cost
from autopilot.errors import AgentError, AgentNotFoundError


def current_ledger() -> Ledger:
    """The ledger of the run that is going on; outside of runs, one that nobody looks at."""
    run = current_run()
    return Ledger() if run is None else run.ledger


@contextmanager
def spend(role: str, model: str, most_usd: float = math.inf) -> Iterator[Reservation]:
    """Reserves what a program's call may cost, all that is left if need be; the block settles it.

    A call that fails after its program was started may have been paid: it counts, and is recorded.

    Args:
        role: Under which name it is counted.
        model: The model, or the program where that is not known.
        most_usd: The most that it may cost.

    Raises:
        BudgetExceededError: too little is left.
    """
    ledger = current_ledger()
    with ledger.reserve_left(role, most_usd) as reservation:
        try:
            yield reservation
        except AgentNotFoundError:
            raise
        except AgentError as error:
            reservation.settle(Cost(), known=False)
            paid, known = reservation.settled, reservation.known
            keep_lost(role, model, paid, error.message, priced=known)
            raise
        if not reservation.known and math.isfinite(ledger.limits.cost_usd):
            say(f"what {model} costs is unknown: its calls do not count in dollars")
