"""An optimizer's step and what surrounds it: hooks, blocked strategies, and the guard of files."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autopilot.core.parameter import Parameter
from autopilot.core.records.record import MetricsRecord
from autopilot.core.selection import State
from autopilot.core.signatures import as_call, check_function
from autopilot.core.types import Cost
from autopilot.errors import InputsChangedError, UsageError


@dataclass(frozen=True, slots=True)
class Step:
    """The report of an optimizer's step: the commit's subject, body and trailer.

    Args:
        summary: One line, as a commit's subject reads: "add missing words for billing".
        strategy: The name under which memory counts how it went.
        rationale: Why.
        cost: The cost of the step.
    """

    summary: str = ""
    strategy: str = ""
    rationale: str = ""
    cost: Cost = Cost()


StepHook = Callable[[Any, Step | None], Any]


class Stepping:
    """The base of every optimizer: its parameters, blocked strategies, and hooks after a step.

    Attributes:
        ranks: Whether `step` goes by `preferred`. Set by the class.
        preferred: The strategies by how they did, the best choice first, where the run chooses them
            so (`--strategies`): of several candidates, the second one takes the second. The name ""
            is one that was not tried yet. Empty: `step` takes them in turn.
        merges: Whether `step` reads `to_merge`. Set by the class.
        to_merge: Of two states whose changes conflict: name to diff from their common ancestor, the
            present state first. Empty: `step` is an ordinary one.
    """

    confined = False
    needs_gradient = True
    steerable = ranks = merges = False
    proposal = (1, 1)
    preferred: Sequence[State] = ()
    to_merge: Mapping[str, str] = {}  # replaced, never changed

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        self.parameters = list(parameters)
        if not self.parameters:
            raise ValueError("an optimizer needs at least one parameter")
        self._forbidden: set[str] = set()
        self._blocked_by_memory: frozenset[str] = frozenset()
        self._post_hooks: list[StepHook] = []
        self._depth = 0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "step" in cls.__dict__:
            # As torch.optim does: hooks belong to step(), also where a user calls it.
            setattr(cls, "step", _with_hooks(cls.__dict__["step"]))  # noqa: B010

    def tell(self, record: MetricsRecord) -> None:
        """Learns how an epoch went; called after each one, the baseline included.

        A resumed run calls it for all recorded epochs, oldest first, before `load_state_dict`.

        Args:
            record: The epoch's val record: its verdict, value, and the parameters' values.
        """

    def is_told(self) -> bool:
        """Whether `tell` does something."""
        return type(self).tell is not Stepping.tell

    def reads_feedback(self) -> bool:
        """Whether a step looks at gradients; if not, a run without a train split makes none."""
        return self.needs_gradient

    def zero_grad(self) -> None:
        """Forgets the gradients of the parameters."""
        for parameter in self.parameters:
            parameter.grad = None

    @property
    def blocked(self) -> frozenset[str]:
        """Names of strategies that must not be used; the loop assigns those that memory blocks."""
        return self._blocked_by_memory | self._forbidden

    @blocked.setter
    def blocked(self, names: Iterable[str]) -> None:
        self._blocked_by_memory = frozenset(names)

    def block_strategy(self, name: str) -> None:
        """Forbids a strategy, whatever memory says."""
        self._forbidden.add(name)

    def unblock_strategy(self, name: str) -> None:
        """Allows a strategy again, until memory blocks it."""
        self._forbidden.discard(name)
        self._blocked_by_memory -= {name}

    def register_step_post_hook(self, hook: StepHook) -> Callable[[], None]:
        """Calls `hook(optimizer, step)` after each step; returns a function that removes it.

        Raises:
            UsageError: it does not take these arguments.
        """
        check_function(hook, "the step hook", ["optimizer", "step"], UsageError)
        self._post_hooks.append(hook)
        return lambda: self._post_hooks.remove(hook) if hook in self._post_hooks else None

    def __repr__(self) -> str:
        return as_call(self)


def _with_hooks(step: Callable[[Any], Any]) -> Callable[[Any], Any]:
    if inspect.iscoroutinefunction(step):
        return step  # the checks before a run refuse it by this

    @functools.wraps(step)
    def run(self: Stepping) -> Any:
        self._depth += 1
        try:
            outcome = step(self)
        finally:
            self._depth -= 1
        # A subclass that calls super().step() is one step, not two.
        if self._depth == 0:
            for hook in list(self._post_hooks):  # a hook may remove itself
                hook(self, outcome)
        return outcome

    return run


class Guard:
    """Keeps a step to the parameters and knows which files evaluations read.

    This is the contract, and the guard of a run without files of its own, which watches nothing.

    Invariants:

    - Between `confine` and `put_back` an agent may write that is not trusted. Afterwards, every
      difference outside of the parameters is undone or named.
    - Both may be called twice; the second call does nothing.

    Attributes:
        listens: Whether files that are read now belong to an evaluation; off during a step.
    """

    listens = True

    def confine(self) -> None:
        """Begins a time in which only the parameters may change."""

    def put_back(self) -> list[str]:
        """Undoes all changes beside the parameters.

        Returns:
            What was tried, a sentence each.

        Raises:
            ConfinementError: the user's own files were changed: they are left as they are.
        """
        return []

    def inputs(self, known: Iterable[str] = ()) -> Mapping[str, str] | None:
        """The files of the repository that evaluations read so far, beside the parameters.

        Args:
            known: Repository paths that earlier sessions read.

        Returns:
            Repository path to blob id, as the files are now; "" for a missing file. None if reads
            are not followed.
        """
        return None

    def environment(self) -> Mapping[str, str]:
        """The environment of evaluations so far, see Event; empty if it is not followed."""
        return {}

    def use(self, word: str) -> None:
        """Takes down what else evaluations depend on: "chance", "programs", "models", ..."""

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """In the body nothing is evaluated: what it uses is not taken down."""
        yield


def check_inputs(known: Mapping[str, str], now: Mapping[str, str], slug: str) -> None:
    """Refuses to compare scores of different evaluators or data.

    Args:
        known: Repository path to blob id, as the files were first read.
        now: The same as they are now.

    Raises:
        InputsChangedError: it names the first file that differs.
    """
    changed = [name for name, blob in known.items() if now.get(name, blob) != blob]
    if changed:
        name = changed[0]
        what = "has changed" if now[name] else "is gone"
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise InputsChangedError(
            f"{name}{more} {what} since the baseline was measured: scores cannot be compared",
            hint=f"put it back as it was (blob {known[name][:10]}), then: autopilot resume {slug}; "
            "or start another experiment. What the evaluation itself writes, git should not track",
        )
