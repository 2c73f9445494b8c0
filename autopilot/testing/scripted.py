"""What does as it is told: for tests of what stands around it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from autopilot.core.optimizer import Optimizer, Step
from autopilot.core.parameter import Parameter

Edit = Callable[[Sequence[Parameter]], Any]


class ScriptedOptimizer(Optimizer):
    """Does what a script says, one entry a step: for tests of policies, callbacks and stores.

    Args:
        parameters: What may be changed.
        script: For each step a pair of a strategy's name and what to do: a function that gets the
            parameters, a value for the first parameter, or an error to raise; None does nothing.
            After the last entry nothing is done any more. A blocked strategy's entry is passed
            over.

    >>> x = Parameter(1)
    >>> optimizer = ScriptedOptimizer([x], [("two", 2), None, ("double", lambda ps: 0)])
    >>> optimizer.step().strategy, x.data, optimizer.step()
    ('two', 2, None)
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        script: Sequence[tuple[str, Edit | BaseException | Any] | None],
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
            strategy, what = entry
            if strategy in self.blocked:
                continue
            if isinstance(what, BaseException):
                raise what
            if callable(what):
                what(self.parameters)
            else:
                self.parameters[0].data = what
            return Step(summary=f"{strategy} at {self.position}", strategy=strategy)
        return None

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.position = int(state["position"])
