"""Losses: an evaluator that gathers feedback batch by batch and sends it back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from autopilot.core.direction import wish
from autopilot.core.gradient import Finding, Gradient, TextGradient
from autopilot.core.graph import Graph
from autopilot.core.parameter import Parameter
from autopilot.core.types import Datum
from autopilot.errors import EvaluationError, ModuleError


class Loss:
    """Gathers feedback in `forward`, fills `param.grad` in `backward`.

    Used as it is, a Loss takes the feedback of every item that has some or did not pass; where the
    monitored value is a metric of the items, of all of them, the worst first, with their values.
    Subclasses override `forward(data, targets)` and return a Gradient, or None where there is
    nothing to say.

    Args:
        parameters: What the feedback is for. Without it, backward finds them: the feedback goes
            back through the modules that produced the data.

    Attributes:
        monitor: The item metric that decides; the Trainer sets it. "" where it is none.
        mode: Its direction, "max" or "min".

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

    monitor: str = ""
    mode: str = "max"

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
        alone = len(data) == 1
        found = [item for item in data.leaves() if self._speaks(item)]
        badness = self._badness(found)
        ranked = sorted(found, key=lambda item: -badness.get(item.id, 1.0)) if badness else found
        findings = [
            Finding(
                direction=item.feedback or item.error_message or self._wish(item),
                severity=badness.get(item.id, 1.0),
                evidence=() if alone and not badness else (self._evidence(item),),
                item="" if alone else item.id,
            )
            for item in ranked
        ]
        return TextGradient.of(findings) if findings else None

    def _speaks(self, item: Datum) -> bool:
        """Whether an item has something to say: feedback, no success, or a value that decides."""
        if item.outcome == "unmeasured":
            return False
        said = item.feedback or item.outcome in ("failed", "error")
        return bool(said) or self.monitor in item.metrics

    def _badness(self, items: Sequence[Datum]) -> dict[str, float]:
        """Id to 0.1 (best) to 1 (worst), by rank of the monitored value; errors are the worst."""
        values = {i.id: i.metrics[self.monitor] for i in items if self.monitor in i.metrics}
        ranks = sorted(set(values.values()), reverse=self.mode == "max")
        place = {value: number for number, value in enumerate(ranks, start=1)}
        return {name: 0.1 + 0.9 * place[value] / len(ranks) for name, value in values.items()}

    def _wish(self, item: Datum) -> str:
        if self.monitor not in item.metrics or item.outcome == "failed":
            return "make this item succeed"
        return wish(self.monitor, self.mode)

    def _evidence(self, item: Datum) -> str:
        value = item.metrics.get(self.monitor)
        return item.id if value is None else f"{item.id}: {self.monitor} {value:.6g}"

    def direct(self, monitor: str, mode: str) -> None:
        """Says which item metric decides, and its direction."""
        self.monitor, self.mode = monitor, mode

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

    def mark(self, parameters: Iterable[Parameter] = ()) -> Callable[[], None]:
        """Remembers what is gathered, and the gradients of some parameters.

        Returns:
            A function that puts all of it back.
        """
        gathered = list(self.__dict__.get("_gathered", ()))
        gradients = [(parameter, parameter.grad) for parameter in parameters]

        def put_back() -> None:
            self._gathered = list(gathered)
            for parameter, gradient in gradients:
                parameter.grad = gradient

        return put_back

    def reset(self) -> None:
        """Forgets what was gathered."""
        self._gathered.clear()


class Scorer(Protocol):
    """What `AutoPilotModule.configure_judge` returns: a Judge."""

    def as_loss(self) -> Loss:
        """A loss that scores the items of every split."""


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

    def direct(self, monitor: str, mode: str) -> None:
        super().direct(monitor, mode)
        for loss in self.losses:
            loss.direct(monitor, mode)

    def score(self, data: Datum, targets: Any) -> None:
        for loss in self.losses:
            loss.score(data, targets)

    def backward(self, *, retain_graph: bool = False) -> None:
        *first, last = self.losses
        for loss in first:
            loss.backward(retain_graph=True)
        last.backward(retain_graph=retain_graph)

    def mark(self, parameters: Iterable[Parameter] = ()) -> Callable[[], None]:
        marks = [loss.mark() for loss in self.losses] + [super().mark(parameters)]

        def put_back() -> None:
            for back in marks:
                back()

        return put_back

    def reset(self) -> None:
        for loss in self.losses:
            loss.reset()
