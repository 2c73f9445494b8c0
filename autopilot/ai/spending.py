"""What an agent's call costs, reserved and counted in the run that is going on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from autopilot.core.ledger import Ledger, Reservation
from autopilot.core.run import current_run


def current_ledger() -> Ledger:
    """The ledger of the run that is going on; outside of runs, one that nobody looks at."""
    run = current_run()
    return Ledger() if run is None else run.ledger


@contextmanager
def spend(role: str, tokens: int = 0, cost_usd: float = 0.0) -> Iterator[Reservation]:
    """Reserves what a call may cost; the block settles it.

    Raises:
        BudgetExceededError: too little is left.
    """
    with current_ledger().reserve(role, tokens, cost_usd) as reservation:
        yield reservation
