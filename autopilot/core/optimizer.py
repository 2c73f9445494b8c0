"""The contract of an optimizer: it reads the gradients and changes the parameters.

It is torch.optim's: hold the parameters, `step`, `zero_grad`, `state_dict`. Ready-made ones stand
in `core/rules.py` and `ai/optimizer.py`; what every optimizer inherits stands in
`core/stepping.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from autopilot.core.memory import MemoryContext
from autopilot.core.parameter import Parameter
from autopilot.core.stepping import Step, Stepping
from autopilot.errors import StateError

__all__ = ["Optimizer", "Step"]


class Optimizer(Stepping):
    """Changes parameters by their gradients. Subclasses define `step`.

    Inherited: `zero_grad()` forgets the gradients, `blocked` names the strategies that must not be
    used, `register_step_post_hook(hook)` calls `hook(optimizer, step)` after each step.

    Attributes:
        parameters: List of Parameter, at least one (else ValueError).
        context: The knowledge of memory; the loop sets it before each step.
        confined: Whether an agent that may write elsewhere works in `step`. In a run that has a
            worktree, all changes beside the parameters are then undone. Set by the class.
        needs_gradient: Whether a step is of no use without feedback: the run then stops and says
            why there is none. False for a search, which has no default patience. Set by the class.
        proposal: Which of how many candidates of the epoch the next step makes: (2, 4) is the
            second of four, and all start from the same state of the optimizer. A step that depends
            on chance gets its own; one that does not takes the second of its choices.
        preferred, to_merge: The strategies by how they did, and a merge to be made: see Stepping.
        steerable: Whether `step` reads what people say: `current_run().wishes`. Set by the class.

    >>> class Halve(Optimizer):
    ...     def step(self):
    ...         for parameter in self.parameters:
    ...             parameter.data /= 2
    ...         return Step(summary="halve")
    >>> x = Parameter(8.0)
    >>> Halve([x]).step().summary, x.data
    ('halve', 4.0)
    """

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        super().__init__(parameters)
        self.context: MemoryContext | None = None

    def step(self) -> Step | None:
        """Reads `param.grad`, changes the parameters, says what it did.

        None, or a step that changes nothing, is fine: the epoch is recorded as unchanged.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no step()")

    def exhausted(self) -> str:
        """Why there is nothing left to try, which stops the run; empty as long as there is."""
        return ""

    def strategies(self) -> Sequence[str]:
        """The names of what it can do, so that memory can tell what was never tried."""
        return ()

    def state_dict(self) -> dict[str, Any]:
        """The state of `step` beside parameters and gradients, as JSON; saved at each step."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` returned; raises StateError if it does not fit."""
        if state:
            raise StateError(
                f"{type(self).__name__} has a state_dict but no load_state_dict",
                hint="override load_state_dict, so that a resumed run continues exactly",
            )
