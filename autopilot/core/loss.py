"""Losses: an evaluator that gathers feedback batch by batch and sends it back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from autopilot.core.gradient import Finding, Gradient, TextGradient
from autopilot.core.graph import Graph
from autopilot.core.parameter import Parameter
from autopilot.core.types import Datum
from autopilot.errors import EvaluationError, ModuleError


class Loss:
    """Gathers feedback in `forward`, fills `param.grad` in `backward`.

    Used as it is, a Loss takes the feedback that the failed items carry. Subclasses override
    `forward(data, targets)` and return a Gradient, or None where there is nothing to say.

    Args:
        parameters: What the feedback is for. Without it, backward finds them: the feedback goes
            back through the modules that produced the data.

    >>> from autopilot.core.module import Module
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

    def __init__(self, parameters: Iterable[Parameter] | None = None) -> None:
        self.parameters = None if parameters is None else list(parameters)
        self._gathered: list[tuple[Datum, Gradient]] = []

    def __call__(self, data: Datum, targets: Any = None) -> None:
        if "_gathered" not in self.__dict__:
            raise ModuleError(
                f"{type(self).__name__}.__init__ did not call super().__init__()",
                hint="make it the first line of __init__",
            )
        gradient = self.forward(data, targets)
        if gradient is not None and not isinstance(gradient, Gradient):
            raise EvaluationError(
                f"{type(self).__name__}.forward returned a {type(gradient).__name__}, "
                "not a Gradient",
                hint="return Gradient(value), TextGradient(direction), or None",
            )
        if gradient is not None:
            self._gathered.append((data, gradient))

    def forward(self, data: Datum, targets: Any) -> Gradient | None:
        """Feedback on one batch.

        Args:
            data: What the module returned.
            targets: The batch that it got, ground truth included.

        Returns:
            The feedback, or None where there is nothing to improve.
        """
        findings = [
            Finding(
                direction=item.feedback or item.error_message or "make this item succeed",
                severity=1.0,
                evidence=(item.id,) if len(data) > 1 else (),
                item=item.id if len(data) > 1 else "",
            )
            for item in data.leaves()
            if not item.success
        ]
        return TextGradient.of(findings) if findings else None

    def score(self, data: Datum, targets: Any) -> None:
        """Scores the items that nobody scored: may fill their `success`, `metrics` and `feedback`.

        Called once for every batch of every split, before its metrics are taken. The default
        leaves the items as they are.

        Args:
            data: What the module returned; to be changed in place.
            targets: The batch that it got, ground truth included.
        """

    def backward(self, *, retain_graph: bool = False) -> None:
        """Sends back what was gathered since the last call, and forgets it.

        Raises:
            GraphError: no parameters were given, and the data was not returned by a module call.
        """
        gathered, self._gathered = self._gathered, []
        graphs: list[Graph] = []
        for data, gradient in gathered:
            if self.parameters is None:
                graphs.append(Graph(data))
                # Results may share a part of their graph: all of it is kept until the last.
                graphs[-1].backward(gradient, retain_graph=True)
                continue
            for parameter in self.parameters:
                if parameter.requires_grad:
                    parameter.accumulate_grad(gradient)
        for graph in graphs if not retain_graph else ():
            graph.free()

    def reset(self) -> None:
        """Forgets what was gathered."""
        self._gathered.clear()


class ChainLoss(Loss):
    """Several losses on one module: each sees every batch, their feedback adds up.

    Args:
        losses: At least one.
    """

    def __init__(self, losses: Sequence[Loss]) -> None:
        super().__init__()
        self.losses = list(losses)

    def __call__(self, data: Datum, targets: Any = None) -> None:
        for loss in self.losses:
            loss(data, targets)

    def score(self, data: Datum, targets: Any) -> None:
        for loss in self.losses:
            loss.score(data, targets)

    def backward(self, *, retain_graph: bool = False) -> None:
        *first, last = self.losses
        for loss in first:
            loss.backward(retain_graph=True)
        last.backward(retain_graph=retain_graph)

    def reset(self) -> None:
        for loss in self.losses:
            loss.reset()
