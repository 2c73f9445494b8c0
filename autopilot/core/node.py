"""Node: one recorded call of a module, as `Datum.grad_fn` holds it.

It stands below the Datum and the module, which both refer to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from autopilot.core.gradient import Gradient
from autopilot.core.parameter import Parameter

NodeHook = Callable[["Node", Gradient], Gradient | None]


class RecordedModule(Protocol):
    """A module as the graph sees it: its calls are recorded, and feedback goes back through it."""

    @property
    def forward(self) -> Callable[..., Any]:
        """The method that a plain call of the module runs."""

    def backward(self, gradient: Gradient, inputs: tuple[Any, ...], output: Any) -> Any:
        """Takes the feedback on an output and returns the feedback for the upstream calls."""

    def parameters(self, recurse: bool = True) -> list[Parameter]:  # as in torch.nn
        """Its parameters, with those of its submodules unless `recurse` is False."""

    def children(self) -> Iterator[RecordedModule]:
        """Its direct submodules."""

    def modules(self) -> Iterator[RecordedModule]:
        """The module itself and all submodules."""


# Two calls are two nodes, however alike; a weak reference shows when a graph is let go.
@dataclass(slots=True, eq=False, repr=False, weakref_slot=True)
class Node:
    """One call of a module.

    Args:
        module: The module that was called.
        inputs: The positional arguments, then the values of the keyword arguments.
        output: The returned value.
        upstream: The nodes that the feedback goes on to.
        called: Ids of the modules that were called inside this call; they have their own nodes.
        is_step: It is a step of the module around a call of the module itself, which takes the
            feedback: one pass through a system counts once.
        hooks: Called with the node and its gradient before the module sees it.
        freed: The graph was let go after a backward.
    """

    module: RecordedModule
    inputs: tuple[Any, ...]
    output: object
    upstream: list[Node]
    called: frozenset[int] = frozenset()
    is_step: bool = field(default=False, kw_only=True)
    hooks: list[NodeHook] = field(default_factory=list, kw_only=True)
    freed: bool = field(default=False, kw_only=True)

    def register_hook(self, hook: NodeHook) -> None:
        """Calls `hook(node, gradient)` before the module sees it; what it returns replaces it."""
        self.hooks.append(hook)

    def free(self) -> None:
        """Lets go of inputs, output and upstream."""
        self.inputs, self.output, self.upstream, self.freed = (), None, [], True

    def __repr__(self) -> str:
        return f"Node({type(self.module).__name__}, upstream={len(self.upstream)})"
