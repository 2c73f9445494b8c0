"""The ledger: the cost of model calls by role, and what is left of the budget.

A call reserves the most that it can cost before it is made, and settles its real cost. So calls
side by side cannot overshoot together: a call that finds too little left waits while others may
still give back a part of their reserve, and is refused when no other call is going on.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import astuple, dataclass, field, replace
from operator import add
from typing import Self

from autopilot.audit import holding
from autopilot.core.types import Cost
from autopilot.errors import BudgetExceededError
from autopilot.text import counted

_LEAST_USD = 0.01


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be spent; infinite without a limit."""

    calls: float = math.inf
    tokens: float = math.inf
    cost_usd: float = math.inf
    seconds: float = math.inf

    def __and__(self, other: Limits) -> Limits:
        return Limits(*map(min, astuple(self), astuple(other)))


@dataclass(frozen=True, slots=True)
class Spent:
    """The cost of a role's calls.

    Args:
        cost_usd: Dollars, of the calls whose price is known.
        unpriced: Calls whose price is unknown.
    """

    calls: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    unpriced: int = 0

    @classmethod
    def of(cls, cost: Cost, *, known: bool) -> Self:
        """The cost of one call.

        Args:
            known: Whether its price is.
        """
        return cls(1, cost.tokens, cost.cost_usd, 0 if known else 1)

    def render(self) -> str:
        """Calls, tokens and dollars, and for how many calls those are unknown.

        >>> Spent(3, 360, 0.012, unpriced=1).render()
        '3 calls, 360 tokens, $0.012 and unknown dollars for 1 call'
        """
        calls, tokens = counted(self.calls, "call"), f", {self.tokens} tokens"
        if 0 < self.unpriced == self.calls and not self.cost_usd:
            return f"{calls}{tokens if self.tokens else ''}, at unknown cost"
        unknown = f" and unknown dollars for {counted(self.unpriced, 'call')}"
        return f"{calls}{tokens}, ${self.cost_usd:.4g}" + unknown * bool(self.unpriced)

    def __add__(self, other: Spent) -> Spent:
        return Spent(*map(add, astuple(self), astuple(other)))


@dataclass(frozen=True, slots=True)
class Loan:
    """A ledger's state, of which all but a share is for others: see `Ledger.lend`."""

    limits: Limits = Limits()  # frozen
    elapsed_s: float = 0.0
    by_role: Mapping[str, Spent] = field(default_factory=dict)
    others: Spent = Spent()  # frozen


class Ledger:
    """The amounts spent and reserved. May be used from several threads at once.

    Args:
        elapsed_s: The wall clock of earlier sessions.
        by_role: Role to its cost in judged epochs.

    Attributes:
        in_step: Whether calls are now made inside of an optimizer's step.

    >>> ledger = Ledger(Limits(tokens=100))
    >>> with ledger.reserve("judge", tokens=80) as call:
    ...     call.settle(Cost(tokens=30))
    >>> ledger.by_role()["judge"].tokens
    30
    >>> ledger.reserve("judge", tokens=80)
    Traceback (most recent call last):
    autopilot.errors.BudgetExceededError: token budget: 30 of 100 spent, a call may take 80
    """

    def __init__(
        self,
        limits: Limits = Limits(),  # frozen
        elapsed_s: float = 0.0,
        by_role: Mapping[str, Spent] = {},
    ) -> None:
        self.limits = limits
        self.in_step = False
        self._began = time.monotonic() - elapsed_s
        self._changed = threading.Condition()  # it may be entered twice by one thread
        self._by_role = dict(by_role)
        self._reserved: list[Spent] = []
        self._open, self._step = Cost(), Cost()
        self._others = Spent()

    def leave(self, of: int) -> None:
        """From now on, this is one of so many ledgers that share what is left."""
        _, self._others = self._shares(self.total(), of)

    def lend(self, of: int) -> tuple[Loan, Reservation]:
        """Sets aside one of so many equal shares of what is left, for calls made elsewhere.

        Their costs are charged once they are known, and the reservation is settled without one.
        """
        with self._changed:
            aside = sum(self._reserved, self._others)
            wanted, rest = self._shares(self.total() + aside, of)
            self._reserved.append(wanted)
        loan = Loan(self.limits, self.elapsed_s(), self.by_role(), aside + rest)
        return loan, Reservation(self, "", wanted, wanted.cost_usd)

    def _shares(self, held: Spent, of: int) -> tuple[Spent, Spent]:
        """One of so many equal shares of what is left beside an amount, and the others together."""
        limits = self.limits.calls, self.limits.tokens, self.limits.cost_usd
        pairs = zip(limits, (held.calls, held.tokens, held.cost_usd), strict=True)
        left = [max(most - n, 0.0) if math.isfinite(most) else 0.0 for most, n in pairs]
        calls, tokens, usd = ((each / of, each - each / of) for each in left)
        return (
            Spent(math.floor(calls[0]), math.floor(tokens[0]), usd[0]),
            Spent(math.ceil(calls[1]), math.ceil(tokens[1]), usd[1]),
        )

    @classmethod
    def of_loan(cls, loan: Loan) -> Self:
        """The ledger of calls that are paid from a loan."""
        made = cls(loan.limits, loan.elapsed_s, loan.by_role)
        made._others = loan.others
        return made

    def by_role(self) -> Mapping[str, Spent]:
        """Role to its cost, in the order in which they first paid."""
        with self._changed:
            return dict(self._by_role)

    def total(self) -> Spent:
        """The cost of all roles."""
        return sum(self.by_role().values(), Spent())

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

    def count(self, seconds: float) -> None:
        """Adds wall clock that passed before this session."""
        self._began -= seconds

    def reserve(self, role: str, tokens: int = 0, cost_usd: float = 0.0) -> Reservation:
        """Sets aside the most that a call can cost; waits for others where that may help.

        Raises:
            BudgetExceededError: too little is left; the call must not be made.
        """
        return self._reserve(role, Spent(1, tokens, cost_usd), cost_usd)

    def reserve_left(self, role: str, most_usd: float = math.inf) -> Reservation:
        """Sets aside the dollars that are left, for a call that takes a limit of its own.

        Raises:
            BudgetExceededError: less than a cent is left.
        """
        return self._reserve(role, Spent(1, 0, _LEAST_USD), most_usd)

    def _reserve(self, role: str, least: Spent, most_usd: float) -> Reservation:
        outer = _holding.get()
        if outer is not None:
            # The inner call is the one that is paid, and would wait for the outer one without end.
            outer.settle(None)
        with self._changed:
            while (reservation := self.try_reserve(role, least, most_usd)) is None:
                # With a timeout, since time itself may run out: nothing notifies of that.
                self._changed.wait(timeout=1.0)
        return reservation

    def try_reserve(self, role: str, least: Spent, most_usd: float) -> Reservation | None:
        """Sets aside an amount; None where another call has to be settled first.

        Args:
            least: The amount that the call needs.
            most_usd: The dollars that it takes at most.

        Raises:
            BudgetExceededError: too little is left; the call must not be made.
        """
        with self._changed:
            if refusal := self._refusal(least, sum(self._reserved, Spent())):
                # Waiting helps only if the call fits once all others gave everything back.
                if not self._reserved or self._refusal(least, Spent()):
                    raise BudgetExceededError(
                        refusal, hint="give it a larger budget and resume: nothing is paid twice"
                    )
                return None
            held = (self.total() + sum(self._reserved, self._others)).cost_usd
            most = max(min(most_usd, self.limits.cost_usd - held), least.cost_usd)
            # Without a limit, infinity is not set aside: it could not be added up.
            wanted = replace(least, cost_usd=most) if math.isfinite(most) else least
            self._reserved.append(wanted)
        return Reservation(self, role, wanted, most)

    def charge(self, role: str, cost: Cost, *, known: bool, judged: bool) -> None:
        """Adds the cost of a call of an earlier session.

        Args:
            judged: Whether it is part of an epoch's or a step's record already.
        """
        with self._changed:
            self._take_in(role, cost, known=known)
            if not judged:
                self._add(cost)

    def take_epoch(self) -> Cost:
        """The cost of calls outside of steps since the last time."""
        with self._changed:
            taken, self._open = self._open, Cost()
        return taken

    def take_step(self) -> Cost:
        """The cost of calls inside of steps since the last time."""
        with self._changed:
            taken, self._step = self._step, Cost()
        return taken

    def settle(self, role: str, wanted: Spent, cost: Cost | None, *, known: bool) -> None:
        """Ends a reservation; see Reservation.settle."""
        with self._changed:
            self._reserved.remove(wanted)
            if cost is not None:
                self._take_in(role, cost, known=known)
                self._add(cost)
            self._changed.notify_all()

    def _add(self, cost: Cost) -> None:
        # A call's seconds are part of its epoch's wall clock already.
        paid = replace(cost, evaluations=0, seconds=0.0)
        if self.in_step:
            self._step += paid
        else:
            self._open += paid

    def _take_in(self, role: str, cost: Cost, *, known: bool) -> None:
        spent = Spent.of(cost, known=known)
        self._by_role[role] = self._by_role.get(role, Spent()) + spent

    def _refusal(self, wanted: Spent, reserved: Spent) -> str:
        """Why a call cannot be made beside what is reserved; empty if it can."""
        spent, limits, elapsed = self.total(), self.limits, self.elapsed_s()
        after = spent + reserved + wanted + self._others
        if elapsed >= limits.seconds:
            return f"time budget: {elapsed:.1f} of {limits.seconds:g} s spent"
        if after.calls > limits.calls:
            return f"call budget: {spent.calls} of {limits.calls:g} made"
        if after.tokens > limits.tokens:
            used = f"token budget: {spent.tokens} of {limits.tokens:g} spent"
            return f"{used}, a call may take {wanted.tokens}"
        # Sums of cents are not exact: a call that just fits is let through.
        if after.cost_usd > limits.cost_usd + 1e-9:
            used = f"dollar budget: ${spent.cost_usd:.4g} of ${limits.cost_usd:g} spent"
            return f"{used}, a call may take ${wanted.cost_usd:.2g}"
        return ""


class Reservation:
    """The amount that a call set aside; settle it, or leave the block to give it back.

    Attributes:
        cost_usd: Its dollars; infinite without a limit.
    """

    def __init__(self, ledger: Ledger, role: str, wanted: Spent, cost_usd: float) -> None:
        self._ledger, self.role, self.wanted = ledger, role, wanted
        self.cost_usd = cost_usd
        self._is_open = True

    def settle(self, cost: Cost | None, *, known: bool = True) -> None:
        """Ends it; a second call does nothing.

        Args:
            cost: Tokens and dollars; None if the call was not made.
        """
        if self._is_open:
            self._is_open = False
            self._ledger.settle(self.role, self.wanted, cost, known=known)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.settle(None)

    def giving_way(self) -> AbstractContextManager[None]:
        """A call in the body takes its place: this one is given back, and counts no more."""
        return holding(_holding, self)


_holding: ContextVar[Reservation | None] = ContextVar("autopilot_reservation", default=None)
