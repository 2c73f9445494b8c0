"""Gathering: the feedback of a split, kept batch by batch and sent back at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from autopilot.core.direction import gained, wish
from autopilot.core.gradient import Finding, Gradient, TextGradient
from autopilot.core.graph import Graph
from autopilot.core.parameter import Parameter
from autopilot.core.signatures import as_call
from autopilot.core.types import Datum
from autopilot.errors import EvaluationError, ModuleError


class Gatherer(ABC):
    """The part of a Loss that subclasses inherit and do not write; the contract is Loss's."""

    def __init__(self, parameters: Iterable[Parameter] | None = None) -> None:
        self.parameters = None if parameters is None else list(parameters)
        self._gathered: list[tuple[Datum, Gradient]] = []

    @abstractmethod
    def forward(self, data: Datum, targets: Any) -> Gradient | None:
        """See Loss."""

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

    def backward(self, *, retain_graph: bool = False) -> None:
        """Sends back what was gathered since the last call, and forgets it.

        Raises:
            GraphError: no parameters were given, and the data was not returned by a module call.
        """
        # Emptied first: what raises below must not be sent a second time.
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

    def __repr__(self) -> str:
        return as_call(self)


def worst_first(data: Datum, monitor: str, mode: str) -> Gradient | None:
    """The feedback of the items that have some, did not pass, or have the value that decides.

    Args:
        data: A module's result.
        monitor: The item metric that decides; "" where it is none.
        mode: Its direction.
    """
    alone = len(data) == 1
    found = [item for item in data.leaves() if _speaks(item, monitor)]
    # From 0.1 (best) to 1 (worst), by rank of the monitored value; errors are the worst.
    values = {item.id: item.metrics[monitor] for item in found if monitor in item.metrics}
    best_first = sorted(set(values.values()), key=lambda value: -gained(0.0, value, mode))
    ranks = {value: number for number, value in enumerate(best_first, 1)}
    badness = {name: 0.1 + 0.9 * ranks[v] / len(ranks) for name, v in values.items()}
    if badness:
        found.sort(key=lambda item: -badness.get(item.id, 1.0))
    findings = []
    for item in found:
        value = item.metrics.get(monitor)
        about = item.id if value is None else f"{item.id}: {monitor} {value:.6g}"
        request = "make this item succeed"
        if value is not None and item.outcome != "failed":
            request = wish(monitor, mode)
        findings.append(
            Finding(
                direction=item.feedback or item.error_message or request,
                severity=badness.get(item.id, 1.0),
                evidence=() if alone and not badness else (about,),
                item="" if alone else item.id,
            )
        )
    return TextGradient.of(findings) if findings else None


def _speaks(item: Datum, monitor: str) -> bool:
    if item.outcome == "unmeasured":
        return False
    return bool(item.feedback) or item.outcome in ("failed", "error") or monitor in item.metrics
