"""The graph: which module produced which Datum from what, and feedback going back along it.

How calls are recorded is in `autopilot.core.tape`.
Source of the idea: reverse-mode automatic differentiation as in PyTorch's autograd.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar

from autopilot.core.gradient import Gradient
from autopilot.core.node import Node, Recorded
from autopilot.core.parameter import Parameter
from autopilot.core.tape import (
    attach,
    enable_grad,
    is_grad_enabled,
    no_grad,
    producers_of,
    record,
)
from autopilot.core.types import Datum
from autopilot.errors import GraphError

__all__ = [
    "Graph",
    "Node",
    "attach",
    "enable_grad",
    "is_grad_enabled",
    "no_grad",
    "own_parameters",
    "record",
]

_visited: ContextVar[Node | None] = ContextVar("autopilot_node", default=None)


class Graph:
    """The nodes that led to some outputs.

    Args:
        outputs: Datums that modules returned.

    Raises:
        GraphError: an output was not produced by a module call, or its graph is freed.
    """

    def __init__(self, outputs: Datum | Sequence[Datum]) -> None:
        self.roots = producers_of([outputs] if isinstance(outputs, Datum) else outputs)
        self.outputs = outputs
        if not self.roots:
            raise GraphError(
                "the data carries no graph: it was not returned by a module call",
                hint="call module(batch) rather than module.forward(batch), outside no_grad()",
            )

    def nodes(self) -> list[Node]:
        """All nodes, each before the nodes that its feedback goes on to."""
        order: list[Node] = []
        state: dict[int, bool] = {}
        stack: list[tuple[Node, bool]] = [(root, False) for root in self.roots]
        while stack:
            node, leaving = stack.pop()
            if leaving:
                order.append(node)
                continue
            if id(node) in state:
                continue
            state[id(node)] = True
            stack.append((node, True))
            stack.extend((upstream, False) for upstream in node.upstream)
        return order[::-1]

    def backward(self, gradient: Gradient, *, retain_graph: bool = False) -> None:
        """Sends feedback back: each node once, after everything that consumed its output.

        Args:
            gradient: The feedback on the outputs.
            retain_graph: Keep the graph for a second backward.

        Raises:
            GraphError: the graph was freed by an earlier backward.
        """
        nodes = self.nodes()
        if any(node.freed for node in nodes):
            raise GraphError(
                "the graph was freed by an earlier backward",
                hint="pass retain_graph=True to the first one",
            )
        parts = _parts(gradient, self.outputs, self.roots)
        pending: dict[int, Gradient] = {
            id(root): part for root, part in zip(self.roots, parts, strict=True) if part is not None
        }
        for node in nodes:
            incoming = pending.pop(id(node), None)
            if incoming is None:
                continue
            for hook in node.hooks:
                replaced = hook(node, incoming)
                incoming = incoming if replaced is None else replaced
            for upstream, outgoing in _pass_on(node, incoming):
                held = pending.get(id(upstream))
                pending[id(upstream)] = outgoing if held is None else held.accumulate(outgoing)
        if not retain_graph:
            self.free()

    def free(self) -> None:
        """Lets go of the graph; feedback can no longer be sent back along it."""
        for node in self.nodes():
            node.free()


def _pass_on(node: Node, gradient: Gradient) -> Iterator[tuple[Node, Gradient]]:
    token = _visited.set(node)
    try:
        backward = node.module.backward
        returned = gradient if node.is_step else backward(gradient, node.inputs, node.output)
    finally:
        _visited.reset(token)
    if returned is None:
        return
    if isinstance(returned, Mapping):
        pairs = [(upstream, returned.get(upstream.module)) for upstream in node.upstream]
    elif isinstance(returned, list | tuple):
        if len(returned) != len(node.upstream):
            raise GraphError(
                f"{type(node.module).__name__}.backward returned {len(returned)} gradients "
                f"for {len(node.upstream)} upstream calls",
                hint="return one gradient for all, one for each upstream call, or a dict by module",
            )
        pairs = list(zip(node.upstream, returned, strict=True))
    else:
        parts = _parts(returned, node.output, node.upstream)
        pairs = list(zip(node.upstream, parts, strict=True))
    for upstream, outgoing in pairs:
        if outgoing is not None:
            yield upstream, outgoing


def _parts(gradient: Gradient, output: object, calls: Sequence[Node]) -> list[Gradient | None]:
    """What of the feedback on a batch each call gets: of a call for some items, theirs alone.

    A call is for the items that it returned; or for the i-th item, where one module was called
    once for each.
    """
    items = output.items if isinstance(output, Datum) else []
    if len(calls) < 2 or not items:
        return [gradient] * len(calls)
    known = {item.id for item in items}
    one_each = len(calls) == len(items) and len({id(call.module) for call in calls}) == 1
    parts: list[Gradient | None] = []
    for position, call in enumerate(calls):
        returned = call.output
        ids = {leaf.id for leaf in returned.leaves()} if isinstance(returned, Datum) else set()
        if not ids or not ids <= known:
            ids = {items[position].id} if one_each else known
        parts.append(gradient.for_items(ids) if ids != known else gradient)
    return parts


def own_parameters(module: Recorded) -> list[Parameter]:
    """The parameters that a call's feedback is for.

    During backward: the module's parameters and those of its submodules that were used without
    being called, since the called ones have nodes of their own. Elsewhere: all.
    """
    node = _visited.get()
    called = node.called if node is not None and node.module is module else frozenset()
    found: dict[int, Parameter] = {}
    stack: list[Recorded] = [module]
    while stack:
        current = stack.pop()
        for parameter in current.parameters(recurse=False):
            if parameter.requires_grad:
                found[id(parameter)] = parameter
        stack.extend(child for child in current.children() if id(child) not in called)
    return list(found.values())
