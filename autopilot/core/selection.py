"""The states that candidates start from: the contract of a selection, and five of them.

A selection sees the pool of all states that were kept, with their scores, and draws from the
chance that it is given and nothing else: the same pool and seed give the same parents, so a resumed
run and a replay choose as the run did. To add one, subclass `Selection` and name it with
`--select package.module:Class`. Strategies are chosen by the same contract (`--strategies`).
"""

from __future__ import annotations

import hashlib
import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from operator import attrgetter, eq, ge
from random import Random

from autopilot.errors import AutopilotError, UsageError, UserCodeError

_BY_VALUE = attrgetter("value", "age")
_BY_TIME, _PAIRED = attrgetter("epoch", "name"), 16


@dataclass(frozen=True, slots=True)
class State:
    """A measured state of the parameters, or anything else that can be chosen, as a strategy.

    Args:
        name: Names it, as the tag does: "epoch-0007-c2".
        value: The monitored metric, higher is better: a metric to be minimized has its sign turned.
        scores: One number for each val item, or for each objective; higher is better, -inf where
            it has no value. All states of a pool have the same items in the same order.
        age: Of two equal states the older one, whose age is higher, is the better one.
        tries: How many candidates were made from it.
        gains: How many of these were better than it.
        revision: Where it is in the store.
        epoch: The epoch that measured it.
        parents: The names of the states that it was made from; of a merge, two.
    """

    name: str
    value: float
    scores: Sequence[float] = ()
    age: int = 0
    tries: int = 0
    gains: int = 0
    revision: str = ""
    epoch: int = 0
    parents: Sequence[str] = ()


def dominates(one: State, other: State) -> bool:
    """Whether a state is at least as good everywhere, and better somewhere.

    >>> dominates(State("a", 1.0, (1, 1)), State("b", 0.5, (0, 1)))
    True
    """
    return one.scores != other.scores and all(map(ge, one.scores, other.scores))


class Frontier:
    """The states that no other one dominates, kept up state by state.

    Attributes:
        states: The undominated states, in the order in which they were added.
        best: The best score of each item.

    >>> frontier = Frontier([State("a", 0.5, (1, 0)), State("b", 0.5, (0, 1))])
    >>> frontier.add(State("c", 0.0, (0, 0)))
    False
    >>> [state.name for state in frontier.states]
    ['a', 'b']
    """

    def __init__(self, states: Iterable[State] = ()) -> None:
        self.states: list[State] = []
        self._masks: list[int] = []
        self._first: Sequence[float] | None = None
        self.best: list[float] = []
        self._holders: list[list[str]] = []
        self._counts, self._present = dict[str, int](), set[tuple[float, ...]]()
        for state in states:
            self.add(state)

    def copy(self) -> Frontier:
        """A frontier of the same states, to be tried out."""
        made = Frontier()
        made.states, made._masks, made._first = [*self.states], [*self._masks], self._first
        made.best, made._holders = [*self.best], [[*names] for names in self._holders]
        made._counts, made._present = dict(self._counts), {*self._present}
        return made

    def add(self, state: State) -> bool:
        """Takes a state in, unless one dominates it; those that it dominates leave.

        Returns:
            Whether no state dominates it.
        """
        if self._first is None:
            self._first = state.scores
            self.best = [-math.inf] * len(state.scores)
            self._holders = [[] for _ in state.scores]
        mask, scores = self._mask(state.scores), tuple(state.scores)
        # Where another state has the same scores, neither it nor any other changes its place.
        others = () if scores in self._present else tuple(enumerate(self._masks))
        # A state that dominates has all bits of the other: most pairs need no look at the scores.
        above = [at for at, other in others if mask & other == mask]
        if any(dominates(self.states[at], state) for at in above):
            return False
        under = [at for at, other in others if mask & other == other]
        for at in reversed([at for at in under if dominates(state, self.states[at])]):
            del self._masks[at]
            self._present.discard(tuple(self.states[at].scores))
            self._counts.pop(self.states.pop(at).name)
        self._present.add(scores)
        self.states.append(state)
        self._masks.append(mask)
        self._counts[state.name] = 0
        for place, score in enumerate(state.scores):
            if score > self.best[place]:
                for name in self._holders[place]:
                    if name in self._counts:
                        self._counts[name] -= 1
                self.best[place], self._holders[place] = score, []
            if score == self.best[place] > -math.inf:
                self._holders[place].append(state.name)
                self._counts[state.name] += 1
        return True

    def weights(self) -> list[int]:
        """For each state how many items no other state is better at; at least 1.

        So a state that is good all round, and the best at nothing, is chosen now and then.
        """
        return [max(1, self._counts[state.name]) for state in self.states]

    def _mask(self, scores: Sequence[float]) -> int:
        """Two bits for each item: better than the first state, and at least as good."""
        assert self._first is not None
        pairs = list(zip(scores, self._first, strict=True))
        bits = [score > first for score, first in pairs]
        return _bits([*bits, *(score >= first for score, first in pairs)])


def _bits(each: Iterable[bool]) -> int:
    return int("".join("01"[bit] for bit in each) or "0", 2)


class Pool:
    """All states that a candidate can start from.

    Attributes:
        states: In the order in which they were kept, the baseline first.
        frontier: Those that no other dominates.
        merged: The names of each two that were merged.
        tip: The name of the branch's best state: over fewer items, another's value may be higher.
    """

    def __init__(self, states: Iterable[State] = ()) -> None:
        self.states: dict[str, State] = {}
        self.frontier, self.merged, self.tip = Frontier(), set[frozenset[str]](), ""
        for state in states:
            self.add(state)

    def add(self, state: State) -> None:
        """Takes a state in."""
        self.states[state.name] = state
        self.frontier.add(state)

    def count(self, name: str, *, gained: bool) -> None:
        """A candidate was made from a state; it was better than it, or not."""
        if (state := self.states.get(name)) is not None:  # a reader may lack its record
            self.states[name] = replace(state, tries=state.tries + 1, gains=state.gains + gained)

    def ranked(self) -> list[State]:
        """All states, the branch's best one first, the others by value."""
        states = self.states.values()
        return sorted(states, key=lambda s: (s.name == self.tip, *_BY_VALUE(s)), reverse=True)

    def pairs(self, chance: Random) -> Iterator[tuple[State, State, State]]:
        """Undominated states to be merged, each pair's better one first.

        Each of two is better than the other on an item, neither was made from the other, and they
        were not merged before. The third is the newest state that both come from. Those pairs come
        first that are together the best on most items; of equal ones, chance decides.
        """
        states, best = self.frontier.states, self.frontier.best
        drawn = chance.sample(states, min(_PAIRED, len(states)))
        lines = {state.name: self._line(state.name) for state in drawn}
        held = {state.name: _bits(map(eq, state.scores, best)) for state in drawn}
        pairs = sorted(
            combinations(drawn, 2),
            key=lambda pair: -(held[pair[0].name] | held[pair[1].name]).bit_count(),
        )
        for pair in pairs:
            ours, theirs = sorted(pair, key=lambda state: (-state.value, -state.age, state.name))
            names, shared = {ours.name, theirs.name}, lines[ours.name] & lines[theirs.name]
            # Of two undominated states, each is better somewhere unless they are equal everywhere.
            is_new = ours.scores != theirs.scores and names not in self.merged
            if is_new and shared and not shared & names:
                yield ours, theirs, max((self.states[name] for name in shared), key=_BY_TIME)

    def _line(self, name: str) -> set[str]:
        """The names of a state and of all that it comes from."""
        found, left = set[str](), [name]
        while left:
            if (each := left.pop()) not in found:
                found.add(each)
                left += self.states[each].parents
        return found


class Selection(ABC):
    """Chooses the states that the candidates of an epoch start from.

    Attributes:
        reads_scores: Whether it looks at the scores of items, which are read from records.
        reads_trials: Whether it looks at tries and gains, which are read from records too.
    """

    reads_scores = True
    reads_trials = True

    @abstractmethod
    def choose(self, pool: Pool, count: int, chance: Random) -> list[State]:
        """The chosen states, each once, fewer where the pool has fewer.

        Args:
            pool: At least one state.
            count: How many; 1 or more.
            chance: The only source of chance.
        """

    def chosen(self, pool: Pool, count: int, chance: Random) -> list[State]:
        """The chosen states, after a look at them.

        Raises:
            UserCodeError: it raised, or gave none, too many, one twice, or no state of the pool.
        """
        try:
            found: object = self.choose(pool, count, chance)
        except Exception as error:  # the user's own code
            said = f"{type(self).__name__}.choose raised {type(error).__name__}: {error}"
            hint = getattr(error, "hint", "") or "mend it, then resume the run"
            raise UserCodeError(said, hint=hint) from error
        given = list(found) if isinstance(found, Sequence) else [found]
        names = [each.name if isinstance(each, State) else repr(each) for each in given]
        wrong = [f"{name}, no state of the pool" for name in names if name not in pool.states]
        wrong += ["a state twice"] * (len(set(names)) < len(names))
        wrong += [f"{len(names)} states"] * (not 0 < len(names) <= count)
        if wrong:
            raise UserCodeError(
                f"{type(self).__name__}.choose gave {wrong[0]}",
                hint=f"it is to give 1 to {count} states of the pool, each once",
            )
        return [pool.states[name] for name in names]


class BestSelection(Selection):
    """The best states by value."""

    reads_scores = reads_trials = False

    def choose(self, pool: Pool, count: int, chance: Random) -> list[State]:
        return pool.ranked()[:count]


class FrontierSelection(Selection):
    """Samples the undominated states, each as often as there are items that none is better at.

    Source of the idea: Agrawal et al., "GEPA: Reflective Prompt Evolution Can Outperform
    Reinforcement Learning", 2025.
    """

    reads_trials = False

    def choose(self, pool: Pool, count: int, chance: Random) -> list[State]:
        left = list(zip(pool.frontier.states, pool.frontier.weights(), strict=True))
        chosen = list[State]()
        while left and len(chosen) < count:
            at = chance.choices(range(len(left)), [weight for _, weight in left])[0]
            chosen.append(left.pop(at)[0])
        return chosen


class BeamSelection(Selection):
    """Samples the best states by value, each as often as any other.

    Args:
        width: How many of the best.
    """

    reads_scores = reads_trials = False

    def __init__(self, width: int = 4) -> None:
        self.width = _at_least_one(width, "beam")

    def choose(self, pool: Pool, count: int, chance: Random) -> list[State]:
        best = pool.ranked()[: self.width]
        return chance.sample(best, min(count, len(best)))


class TournamentSelection(Selection):
    """The best of some states that are drawn by chance, for each parent anew.

    Args:
        size: How many are drawn.
    """

    reads_scores = reads_trials = False

    def __init__(self, size: int = 3) -> None:
        self.size = _at_least_one(size, "tournament")

    def choose(self, pool: Pool, count: int, chance: Random) -> list[State]:
        chosen, left = list[State](), list(pool.states.values())
        while left and len(chosen) < count:
            drawn = chance.sample(left, min(self.size, len(left)))
            chosen.append(max(drawn, key=_BY_VALUE))
            left.remove(chosen[-1])
        return chosen


class BanditSelection(Selection):
    """The states whose candidates gained most often, with a bonus for those seldom tried: UCB1.

    Source: Auer, Cesa-Bianchi, Fischer, "Finite-time Analysis of the Multiarmed Bandit Problem",
    2002.
    """

    reads_scores = False

    def choose(self, pool: Pool, count: int, chance: Random) -> list[State]:
        total = sum(state.tries for state in pool.states.values())

        def bound(state: State) -> tuple[float, float, int]:
            # What was never tried comes first, the best of it before the others.
            if not state.tries:
                return math.inf, *_BY_VALUE(state)
            mean = state.gains / state.tries
            return mean + math.sqrt(2 * math.log(total) / state.tries), *_BY_VALUE(state)

        return sorted(pool.states.values(), key=bound, reverse=True)[:count]


SELECTIONS: dict[str, type[Selection]] = {
    "best": BestSelection,
    "frontier": FrontierSelection,
    "beam": BeamSelection,
    "tournament": TournamentSelection,
    "bandit": BanditSelection,
}


def selection(named: str, option: str = "--select", *, imports: bool = True) -> Selection:
    """The selection of a name: "frontier", "beam:8", or "package.module:Class" for one's own.

    Args:
        option: The option that it is the value of.
        imports: Whether one's own is imported; else another one stands in for it.

    Raises:
        UsageError: there is none of that name, or its number is none.
    """
    name, _, more = named.partition(":")
    # Strategies have no results on items, of which a frontier is made.
    kind, of_states = SELECTIONS.get(name), option == "--select"
    first = "best, frontier" if of_states else "turn, best"
    hint = f"one of: {first}, beam:K, tournament, bandit; or module:Class of your own"
    try:
        if kind in (BeamSelection, TournamentSelection):
            return kind(*([int(more)] if more else []))
        if kind is not None and not more and (of_states or kind is not FrontierSelection):
            return kind()
        if kind is None and name and more:
            if not imports:
                return BestSelection()
            made = getattr(importlib.import_module(name), more)()
            if isinstance(made, Selection):
                return made
    except AutopilotError:
        raise
    except Exception as error:  # the user's own code
        raise UsageError(f"{option} {named}: {error}", hint=hint) from error
    raise UsageError(f"{option}: {named!r} is no selection", hint=hint)


def chance_of(*what: object) -> Random:
    """The chance of a choice: the same for the same seed, purpose and epoch."""
    digest = hashlib.sha256("/".join(map(str, what)).encode()).digest()
    return Random(int.from_bytes(digest[:4], "big"))


def _at_least_one(number: int, name: str) -> int:
    if number < 1:
        raise ValueError(f"{name} of {number} has none to choose from")
    return number
