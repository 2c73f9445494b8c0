"""The contract of a loss: an evaluator that gathers feedback batch by batch and sends it back."""

from __future__ import annotations

from typing import Any, Protocol

from autopilot.core.gradient import Gradient
from autopilot.core.scoring import Gatherer, worst_first
from autopilot.core.types import Datum


class Loss(Gatherer):
    """Gathers feedback in `forward`, fills `param.grad` in `backward`.

    Used as it is, a Loss takes the feedback of every item that has some or did not pass; where the
    monitored value is a metric of the items, of all of them, the worst first, with their values.
    Subclasses override `forward(data, targets)` and return a Gradient, or None where there is
    nothing to say; a Loss that scores items overrides `score` too.

    Inherited: `loss(data, targets)` gathers, `backward()` sends everything gathered to the
    parameters and forgets it, `reset()` forgets it, `mark()` remembers it to be put back.

    Args:
        parameters: The parameters that the feedback is for. Without it, backward finds them: the
            feedback goes back through the modules that produced the data.

    Attributes:
        monitor: The item metric that decides; the Trainer sets it. "" where it is none.
        mode: Its direction, "max" or "min".

    >>> from autopilot.core.module import Module
    >>> from autopilot.core.parameter import Parameter
    >>> class Echo(Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.prompt = Parameter("be brief")
    ...     def forward(self, batch):
    ...         return Datum(success=False, feedback="too long")
    >>> echo, loss = Echo(), Loss()
    >>> loss(echo(Datum()), None)
    >>> loss.backward()
    >>> echo.prompt.grad.render()
    'too long'
    """

    monitor: str = ""
    mode: str = "max"

    def forward(self, data: Datum, targets: Any) -> Gradient | None:
        """Feedback on one batch; None where there is nothing to improve.

        Args:
            data: The module's result.
            targets: The batch that it was given, ground truth included.
        """
        return worst_first(data, self.monitor, self.mode, targets)

    def score(self, data: Datum, targets: Any) -> None:
        """Scores the unscored items: may fill their `success`, `metrics` and `feedback`, in place.

        Called once for every batch of every split, before its metrics are taken, with the
        arguments of `forward`. The default leaves the items as they are.
        """

    def direct(self, monitor: str, mode: str) -> None:
        """Sets the item metric that decides, and its direction."""
        self.monitor, self.mode = monitor, mode


class Scorer(Protocol):
    """A Judge, as `AutoPilotModule.configure_judge` returns it."""

    def as_loss(self) -> Loss:
        """A loss that scores the items of every split."""
