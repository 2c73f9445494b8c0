"""The graph: which module produced which Datum from what, and feedback going back along it.

A module call records a Node on the Datum that it returns, as a tensor has its `grad_fn`. Nothing
else holds the nodes: a graph lives as long as its data. A node's upstream is, in this order of
preference, the call whose Datum is returned unchanged, the calls that produced the items of the
returned Datum, the calls made inside `forward` whose results no other call consumed, and the calls
that produced the inputs. So a pipeline stays connected even where its forward builds a new Datum.

The recording state is a context variable: calls in different threads never mix their graphs.
Source of the idea: reverse-mode automatic differentiation as in PyTorch's autograd.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from autopilot.core.types import Datum
from autopilot.errors import GraphError

if TYPE_CHECKING:
    from autopilot.core.gradient import Gradient
    from autopilot.core.module import Module
    from autopilot.core.parameter import Parameter

NodeHook = Callable[["Node", "Gradient"], "Gradient | None"]


class Node:
    """One call of a module.

    Args:
        module: What was called.
        inputs: The positional arguments, then the values of the keyword arguments.
        output: What it returned.
        upstream: The nodes that the feedback goes on to.
        called: The modules that were called inside this call; they have nodes of their own.
        is_step: It is a step of the module around a call of the module itself, which takes the
            feedback: one pass through a system counts once.
    """

    __slots__ = (
        "__weakref__",
        "called",
        "freed",
        "hooks",
        "inputs",
        "is_step",
        "module",
        "output",
        "upstream",
    )

    def __init__(
        self,
        module: Module,
        inputs: tuple[Any, ...],
        output: object,
        upstream: Sequence[Node],
        called: frozenset[int] = frozenset(),
        *,
        is_step: bool = False,
    ) -> None:
        self.module = module
        self.inputs = inputs
        self.output = output
        self.upstream = list(upstream)
        self.called = called
        self.is_step = is_step
        self.hooks: list[NodeHook] = []
        self.freed = False

    def register_hook(self, hook: NodeHook) -> None:
        """Calls `hook(node, gradient)` before the module sees it; what it returns replaces it."""
        self.hooks.append(hook)

    def free(self) -> None:
        """Lets go of inputs, output and upstream."""
        self.inputs, self.output, self.upstream, self.freed = (), None, [], True

    def __repr__(self) -> str:
        return f"Node({type(self.module).__name__}, upstream={len(self.upstream)})"


class _Frame:
    """What was called inside a call that is going on."""

    __slots__ = ("called", "calls")

    def __init__(self) -> None:
        self.calls: list[Node] = []
        self.called: set[int] = set()


_enabled: ContextVar[bool] = ContextVar("autopilot_grad_enabled", default=True)
_frame: ContextVar[_Frame | None] = ContextVar("autopilot_frame", default=None)
_visited: ContextVar[Node | None] = ContextVar("autopilot_node", default=None)


def is_grad_enabled() -> bool:
    """Whether module calls are being recorded here."""
    return _enabled.get()


@contextmanager
def no_grad() -> Iterator[None]:
    """Module calls inside are not recorded."""
    with _set_grad_enabled(False):
        yield


@contextmanager
def enable_grad() -> Iterator[None]:
    """Module calls inside are recorded, also within `no_grad`."""
    with _set_grad_enabled(True):
        yield


@contextmanager
def _set_grad_enabled(enabled: bool) -> Iterator[None]:
    token = _enabled.set(enabled)
    try:
        yield
    finally:
        _enabled.reset(token)


def record(
    module: Module, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Calls the function and records the call as a Node on the Datum that it returns."""
    inputs = (*args, *kwargs.values())
    sources = _producers(inputs)
    frame = _Frame()
    token = _frame.set(frame)
    try:
        output = function(*args, **kwargs)
    finally:
        _frame.reset(token)
    if isinstance(output, Datum) and any(output is value for value in inputs):
        # The caller's own Datum is no result: it would carry this call into the next epoch.
        output = copy.copy(output)
    upstream, called = _upstream(output, frame, sources), frozenset(frame.called)
    is_step = id(module) in called and function != module.forward
    node = Node(module, inputs, output, upstream, called, is_step=is_step)
    if isinstance(output, Datum):
        output.grad_fn = node
    if (outer := _frame.get()) is not None:
        outer.calls.append(node)
        outer.called |= {id(module), *frame.called}
    return output


def attach(module: Module, batch: object, output: Datum, upstream: Sequence[Node] = ()) -> None:
    """Records a call after the fact: for a result that was answered from a record."""
    output.grad_fn = Node(module, (batch,), output, upstream)


def _upstream(output: object, frame: _Frame, sources: list[Node]) -> list[Node]:
    if isinstance(output, Datum) and output.grad_fn is not None:
        return [output.grad_fn]
    produced = _producers(output.items) if isinstance(output, Datum) else []
    if produced:
        return produced
    if not frame.calls:
        return sources
    consumed = {id(node) for call in frame.calls for node in call.upstream}
    return [call for call in frame.calls if id(call) not in consumed]


def _producers(values: Iterable[object]) -> list[Node]:
    """The nodes of all Datums in the values, at any depth of lists, tuples, dicts and items."""
    found: dict[int, Node] = {}
    stack: list[object] = list(values)[::-1]
    while stack:
        value = stack.pop()
        if isinstance(value, Datum):
            if value.grad_fn is not None:
                found[id(value.grad_fn)] = value.grad_fn
            elif value.items:
                stack.extend(reversed(value.items))
        elif isinstance(value, list | tuple):
            stack.extend(reversed(value))
        elif isinstance(value, dict):
            stack.extend(reversed(list(value.values())))
    return list(found.values())


class Graph:
    """The nodes that led to some outputs.

    Args:
        outputs: Datums that modules returned.

    Raises:
        GraphError: an output was not produced by a module call, or its graph is freed.
    """

    def __init__(self, outputs: Datum | Sequence[Datum]) -> None:
        self.roots = _producers([outputs] if isinstance(outputs, Datum) else outputs)
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


def own_parameters(module: Module) -> list[Parameter]:
    """The parameters that a call's feedback is for.

    During backward: the module's parameters and those of its submodules that were used without
    being called, since the called ones have nodes of their own. Elsewhere: all.
    """
    node = _visited.get()
    called = node.called if node is not None and node.module is module else frozenset()
    found: dict[int, Parameter] = {}
    stack = [module]
    while stack:
        current = stack.pop()
        for parameter in current.parameters(recurse=False):
            if parameter.requires_grad:
                found[id(parameter)] = parameter
        stack.extend(child for child in current.children() if id(child) not in called)
    return list(found.values())
