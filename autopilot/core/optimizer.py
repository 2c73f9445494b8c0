"""Optimizers: read the gradients, change the parameters."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autopilot.core.memory import MemoryContext
from autopilot.core.parameter import Parameter
from autopilot.core.signatures import check_function
from autopilot.core.types import Cost
from autopilot.errors import StateError, UsageError


@dataclass(frozen=True, slots=True)
class Step:
    """What an optimizer did: the commit's subject, body and trailer.

    Args:
        summary: One line, as a commit's subject reads: "add missing words for billing".
        strategy: The name under which memory counts how it went.
        rationale: Why.
        cost: What it cost.
    """

    summary: str = ""
    strategy: str = ""
    rationale: str = ""
    cost: Cost = Cost()


StepHook = Callable[["Optimizer", "Step | None"], Any]


class Optimizer:
    """Changes parameters by their gradients. Subclasses define `step`.

    Args:
        parameters: What may be changed.

    Attributes:
        confined: Whether somebody works in `step` who is not trusted to keep to the parameters:
            an agent. Then what it changed elsewhere is put back after the step, in a run that
            has a worktree. Set by the class.
        needs_gradient: Whether a step without any feedback is of no use: the run stops then and
            says why there is none. False for a search that asks for none. Set by the class.
        parameters: List of Parameter.
        blocked: Names of strategies that must not be used: those given to `block_strategy`, and
            those that memory blocks, which the loop assigns.
        context: What memory knows now; the loop sets it before each step.

    Raises:
        ValueError: no parameters.

    >>> class Halve(Optimizer):
    ...     def step(self):
    ...         for parameter in self.parameters:
    ...             parameter.data /= 2
    ...         return Step(summary="halve")
    >>> x = Parameter(8.0)
    >>> _ = Halve([x]).step()
    >>> x.data
    4.0
    """

    confined = False
    needs_gradient = True

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        self.parameters = list(parameters)
        if not self.parameters:
            raise ValueError("an optimizer needs at least one parameter")
        self._forbidden: set[str] = set()
        self._blocked_by_memory: frozenset[str] = frozenset()
        self.context: MemoryContext | None = None
        self._post_hooks: list[StepHook] = []
        self._depth = 0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "step" in cls.__dict__:
            # As torch.optim does: hooks belong to step(), whoever calls it.
            setattr(cls, "step", _with_hooks(cls.__dict__["step"]))  # noqa: B010

    def step(self) -> Step | None:
        """Reads `param.grad`, changes the parameters, says what it did.

        A strategy in `blocked` must not be used. Returning None, or changing nothing, is fine: the
        epoch is recorded as unchanged.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no step()")

    def exhausted(self) -> str:
        """Why there is nothing left to try: the run stops with it. Empty as long as there is."""
        return ""

    def strategies(self) -> Sequence[str]:
        """The names of what it can do, so that memory can tell what was never tried."""
        return ()

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """What `step` depends on beside parameters and gradients, as JSON; saved at each step."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` returned.

        Raises:
            StateError: the state does not fit.
        """
        if state:
            raise StateError(
                f"{type(self).__name__} has a state_dict but no load_state_dict",
                hint="override load_state_dict, so that a resumed run continues exactly",
            )

    @property
    def blocked(self) -> frozenset[str]:
        """See the class."""
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


def _with_hooks(step: Callable[[Any], Any]) -> Callable[[Any], Any]:
    if inspect.iscoroutinefunction(step):
        return step  # an error, which is told at the start of a run

    @functools.wraps(step)
    def run(self: Optimizer) -> Any:
        self._depth += 1
        try:
            outcome = step(self)
        finally:
            self._depth -= 1
        # A subclass that calls super().step() is one step, not two.
        if self._depth == 0:
            for hook in list(self._post_hooks):
                hook(self, outcome)
        return outcome

    return run
