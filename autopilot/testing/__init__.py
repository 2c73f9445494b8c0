"""Contract suites for stores and memories, and a scripted optimizer: for your own tests.

A suite is a class. Derive it, say how one of yours is made, and pytest runs every test of the
contract on it; the suites run here on the in-memory and on the git implementation alike.

    class TestMyStore(StoreContract):
        def make_store(self, folder):
            return MyStore(folder)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.parameter import Parameter
from autopilot.testing.memories import MemoryContract
from autopilot.testing.stores import StoreContract

__all__ = ["MemoryContract", "ScriptedOptimizer", "StoreContract"]

Action = Callable[[Sequence[Parameter]], Any]


class ScriptedOptimizer(Optimizer):
    """Follows a script, one entry a step.

    Args:
        parameters: List of Parameter.
        script: For each step a pair of a strategy's name and an action: a function that gets the
            parameters, a value for the first parameter, or an error to raise; None does nothing.
            Entries of blocked strategies are skipped; after the last entry, nothing is done.

    >>> x = Parameter(1)
    >>> optimizer = ScriptedOptimizer([x], [("two", 2), None, ("double", lambda ps: 0)])
    >>> optimizer.step().strategy, x.data, optimizer.step()
    ('two', 2, None)
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        script: Sequence[tuple[str, Action | BaseException | Any] | None],
    ) -> None:
        super().__init__(parameters)
        self.script = list(script)
        self.position = 0

    def step(self) -> Step | None:
        while self.position < len(self.script):
            entry = self.script[self.position]
            self.position += 1
            if entry is None:
                return None
            strategy, action = entry
            if strategy in self.blocked:
                continue
            if isinstance(action, BaseException):
                raise action
            if callable(action):
                action(self.parameters)
            else:
                self.parameters[0].data = action
            return Step(summary=f"{strategy} at {self.position}", strategy=strategy)
        return None

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.position = int(state["position"])
