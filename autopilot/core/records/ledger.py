"""The ledger: what model calls cost, by role, and what is left of the budget.

A call reserves the most that it can cost before it is made, and settles what it did cost. So calls
side by side cannot overshoot together: one that finds too little left waits while others may still
give back what they reserved, and is refused only when nobody can.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from autopilot.core.types import Cost
from autopilot.errors import BudgetExceededError

_LEAST_USD = 0.01


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be spent. Infinite: as much as it takes.

    Args:
        calls: Model calls.
        tokens: Tokens read and written.
        cost_usd: Dollars.
        seconds: Wall clock of the run.
    """

    calls: float = math.inf
    tokens: float = math.inf
    cost_usd: float = math.inf
    seconds: float = math.inf

    def __and__(self, other: Limits) -> Limits:
        return Limits(
            min(self.calls, other.calls),
            min(self.tokens, other.tokens),
            min(self.cost_usd, other.cost_usd),
            min(self.seconds, other.seconds),
        )


@dataclass(frozen=True, slots=True)
class Spent:
    """What a role has cost.

    Args:
        calls: Model calls that were made.
        tokens: Tokens read and written.
        cost_usd: Dollars, of the calls whose price is known.
        unpriced: Calls whose price is unknown.
    """

    calls: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    unpriced: int = 0

    def render(self) -> str:
        """Calls, tokens and dollars, and for how many calls those are unknown.

        >>> Spent(3, 360, 0.012, unpriced=1).render()
        '3 calls, 360 tokens, $0.012 and unknown dollars for 1 call'
        """
        calls = "call" if self.calls == 1 else "calls"
        return f"{self.calls} {calls}, {self.tokens} tokens, {_dollars(self)}"

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.calls + other.calls,
            self.tokens + other.tokens,
            self.cost_usd + other.cost_usd,
            self.unpriced + other.unpriced,
        )


class Ledger:
    """What was spent and what is reserved. May be used from several threads at once.

    Args:
        limits: How much may be spent.
        elapsed_s: What earlier sessions took of the wall clock.

    >>> ledger = Ledger(Limits(tokens=100))
    >>> with ledger.reserve("judge", tokens=80) as call:
    ...     call.settle(Cost(tokens=30))
    >>> ledger.by_role()["judge"].tokens
    30
    >>> ledger.reserve("judge", tokens=80)
    Traceback (most recent call last):
    autopilot.errors.BudgetExceededError: token budget: 30 of 100 spent, a call may take 80
    """

    def __init__(self, limits: Limits = Limits(), elapsed_s: float = 0.0) -> None:  # frozen
        self.limits = limits
        self.in_step = False
        self._began = time.monotonic() - elapsed_s
        self._changed = threading.Condition()
        self._by_role: dict[str, Spent] = {}
        self._reserved = Spent()
        self._in_flight = 0
        self._open, self._step = Cost(), Cost()

    def by_role(self) -> Mapping[str, Spent]:
        """Role to what it has cost, in the order in which they first paid."""
        with self._changed:
            return dict(self._by_role)

    def total(self) -> Spent:
        """What all roles have cost."""
        with self._changed:
            return self._total()

    def render(self) -> str:
        """One line: the total, what is left, and the roles."""
        total, limits = self.total(), self.limits
        parts = [total.render()]
        left = {
            "calls": limits.calls - total.calls,
            "tokens": limits.tokens - total.tokens,
            "dollars": limits.cost_usd - total.cost_usd,
            "seconds": limits.seconds - self.elapsed_s(),
        }
        parts += [f"{max(n, 0):.6g} {name} left" for name, n in left.items() if math.isfinite(n)]
        parts += [f"{role}: {x.tokens} tokens" for role, x in self.by_role().items()]
        return ", ".join(parts)

    def elapsed_s(self) -> float:
        """The wall clock, over all sessions."""
        return time.monotonic() - self._began

    def reserve(self, role: str, tokens: int = 0, cost_usd: float = 0.0) -> Reservation:
        """Sets aside the most that a call can cost; waits for others where that may help.

        Raises:
            BudgetExceededError: too little is left; the call must not be made.
        """
        return self._reserve(role, Spent(1, tokens, cost_usd), cost_usd)

    def reserve_left(self, role: str, most_usd: float = math.inf) -> Reservation:
        """Sets aside the dollars that are left, for a call that can be told how much it may cost.

        Raises:
            BudgetExceededError: less than a cent is left.
        """
        return self._reserve(role, Spent(1, 0, _LEAST_USD), most_usd)

    def _reserve(self, role: str, least: Spent, most_usd: float) -> Reservation:
        with self._changed:
            while True:
                refusal = self._refusal(least)
                if not refusal:
                    break
                if self._in_flight == 0 or self._refusal(least, alone=True):
                    raise BudgetExceededError(
                        refusal, hint="give it a larger budget and resume: nothing is paid twice"
                    )
                self._changed.wait(timeout=1.0)
            free = self.limits.cost_usd - self._total().cost_usd - self._reserved.cost_usd
            most = max(min(most_usd, free), least.cost_usd)
            # Without a limit nobody counts what is set aside.
            wanted = replace(least, cost_usd=most) if math.isfinite(most) else least
            self._in_flight += 1
            self._reserved += wanted
        return Reservation(self, role, wanted, most)

    def charge(self, role: str, cost: Cost, *, known: bool, judged: bool) -> None:
        """Takes in what a call of an earlier session cost.

        Args:
            role: Who paid.
            cost: Tokens and dollars.
            known: Whether the price was known.
            judged: It is part of an epoch's or a step's record already.
        """
        with self._changed:
            self._take_in(role, cost, known=known)
            if not judged:
                self._add(cost)

    def take_epoch(self) -> Cost:
        """What calls outside of steps have cost since the last time."""
        with self._changed:
            taken, self._open = self._open, Cost()
        return taken

    def take_step(self) -> Cost:
        """What calls inside of steps have cost since the last time."""
        with self._changed:
            taken, self._step = self._step, Cost()
        return taken

    def _settle(self, role: str, wanted: Spent, cost: Cost | None, *, known: bool) -> None:
        with self._changed:
            self._in_flight -= 1
            self._reserved = Spent(
                self._reserved.calls - wanted.calls,
                self._reserved.tokens - wanted.tokens,
                self._reserved.cost_usd - wanted.cost_usd if self._in_flight else 0.0,
            )
            if cost is not None:
                self._take_in(role, cost, known=known)
                self._add(cost)
            self._changed.notify_all()

    def _add(self, cost: Cost) -> None:
        paid = Cost(tokens=cost.tokens, cost_usd=cost.cost_usd)
        if self.in_step:
            self._step += paid
        else:
            self._open += paid

    def _take_in(self, role: str, cost: Cost, *, known: bool) -> None:
        spent = Spent(1, cost.tokens, cost.cost_usd, 0 if known else 1)
        self._by_role[role] = self._by_role.get(role, Spent()) + spent

    def _total(self) -> Spent:
        return sum(self._by_role.values(), Spent())

    def _refusal(self, wanted: Spent, *, alone: bool = False) -> str:
        """Why a call cannot be made now; with `alone`, if all others gave everything back."""
        spent = self._total()
        held = spent if alone else spent + self._reserved
        limits = self.limits
        elapsed = self.elapsed_s()
        if elapsed >= limits.seconds:
            return f"time budget: {elapsed:.1f} of {limits.seconds:g} s spent"
        if held.calls + wanted.calls > limits.calls:
            return f"call budget: {spent.calls} of {limits.calls:g} made"
        if held.tokens + wanted.tokens > limits.tokens:
            return (
                f"token budget: {spent.tokens} of {limits.tokens:g} spent, "
                f"a call may take {wanted.tokens}"
            )
        # Sums of cents are not exact: a call that just fits is let through.
        if held.cost_usd + wanted.cost_usd > limits.cost_usd + 1e-9:
            return (
                f"dollar budget: ${spent.cost_usd:.4g} of ${limits.cost_usd:g} spent, "
                f"a call may take ${wanted.cost_usd:.2g}"
            )
        return ""


class Reservation:
    """What a call set aside; settle it, or leave the block to give it back.

    Attributes:
        cost_usd: The dollars that it set aside; infinite without a limit.
        settled: What the call cost, once that is said.
        known: Whether its price was known.
    """

    def __init__(self, ledger: Ledger, role: str, wanted: Spent, cost_usd: float) -> None:
        self._ledger, self._role, self._wanted = ledger, role, wanted
        self.cost_usd = cost_usd
        self.settled, self.known = Cost(), True
        self._settled = False

    def settle(self, cost: Cost, *, known: bool = True) -> None:
        """The call was made and cost this; the first time counts.

        Args:
            cost: Tokens and dollars.
            known: Whether the price was known.
        """
        self._end(cost, known=known)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._end(None, known=True)

    def _end(self, cost: Cost | None, *, known: bool) -> None:
        if not self._settled:
            self._settled = True
            self.settled, self.known = cost or Cost(), known
            self._ledger._settle(self._role, self._wanted, cost, known=known)


def _dollars(spent: Spent) -> str:
    calls = "call" if spent.unpriced == 1 else "calls"
    if spent.unpriced:
        return f"${spent.cost_usd:.4g} and unknown dollars for {spent.unpriced} {calls}"
    return f"${spent.cost_usd:.4g}"
