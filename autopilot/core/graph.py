"""The graph: which module produced which Datum from which data, and feedback going back along it.

A module call leaves a Node on the Datum that it returns. Nothing else holds the nodes: a graph
lives as long as its data. A node's upstream is, in this order of preference, the call whose Datum
is returned unchanged, the calls that produced the items of the returned Datum, the calls made
inside `forward` whose results no other call consumed, and the calls that produced the inputs. So a
pipeline stays connected even where its forward builds a new Datum, or where a stage returns a text
that the next one gets.

Source of the idea: reverse-mode automatic differentiation as in PyTorch's autograd.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from operator import itemgetter
from typing import Any

from autopilot.audit import holding
from autopilot.core.gradient import Gradient
from autopilot.core.node import Node as Node  # its public home is here
from autopilot.core.node import RecordedModule
from autopilot.core.parameter import Parameter
from autopilot.core.types import Datum
from autopilot.errors import GraphError


class _Frame:
    """A call that is going on: the calls made inside it, each with its number and node."""

    __slots__ = ("called", "calls", "module")

    def __init__(self, module: RecordedModule) -> None:
        self.module = module
        self.calls: list[tuple[int, Node]] = []
        self.called: set[int] = set()


# Context variables: calls in different threads never mix their graphs.
_enabled: ContextVar[bool] = ContextVar("autopilot_grad_enabled", default=True)
_frame: ContextVar[_Frame | None] = ContextVar("autopilot_frame", default=None)
_visited: ContextVar[Node | None] = ContextVar("autopilot_node", default=None)
_going_on: list[_Frame] = []
_begun = itertools.count()


def is_grad_enabled() -> bool:
    """Whether module calls are being recorded here."""
    return _enabled.get()


def no_grad() -> AbstractContextManager[None]:
    """Module calls inside are not recorded."""
    return holding(_enabled, False)


def enable_grad() -> AbstractContextManager[None]:
    """Module calls inside are recorded, also within `no_grad`."""
    return holding(_enabled, True)


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
    with holding(_visited, node):
        backward = node.module.backward
        returned = gradient if node.is_step else backward(gradient, node.inputs, node.output)
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
    """The feedback on a batch split over calls: a call for some items gets the part about these.

    A call is for the items that it returned, or for the i-th item where one module was called
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


def own_parameters(module: RecordedModule) -> list[Parameter]:
    """The parameters that a call's feedback is for: the module's and those of its submodules.

    During backward without those of the submodules that were called, which have their own nodes.
    """
    node = _visited.get()
    called = node.called if node is not None and node.module is module else frozenset()
    found: dict[int, Parameter] = {}
    stack: list[RecordedModule] = [module]
    while stack:
        current = stack.pop()
        for parameter in current.parameters(recurse=False):
            if parameter.requires_grad:
                found[id(parameter)] = parameter
        stack.extend(child for child in current.children() if id(child) not in called)
    return list(found.values())


def record(
    module: RecordedModule,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Calls the function and records the call as a Node on the Datum that it returns."""
    inputs = (*args, *kwargs.values())
    sources = producers_of(inputs)
    outer, begun = _enclosing(module), next(_begun)
    frame = _Frame(module)
    token = _frame.set(frame)
    _going_on.append(frame)
    try:
        output = function(*args, **kwargs)
    finally:
        _going_on.remove(frame)
        _frame.reset(token)
    if isinstance(output, Datum) and any(output is value for value in inputs):
        # The caller's own Datum is no result: it would carry this call into the next epoch.
        output = copy.copy(output)
    upstream, called = _upstream(inputs, output, frame, sources), frozenset(frame.called)
    is_step = id(module) in called and function != module.forward
    node = Node(module, inputs, output, upstream, called, is_step=is_step)
    if isinstance(output, Datum):
        output.grad_fn = node
    if outer is not None:
        outer.calls.append((begun, node))
        outer.called |= {id(module), *frame.called}
    return output


def attach(module: RecordedModule, batch: object, output: Datum) -> None:
    """Records a call after the fact, where calls are: for a result that comes from a record."""
    if is_grad_enabled():
        output.grad_fn = Node(module, (batch,), output, [])


def _enclosing(module: RecordedModule) -> _Frame | None:
    """The call that this one is made in, from the same thread or from one that it started."""
    frame = _frame.get()
    if frame is not None or not _going_on:
        return frame
    # A new thread has no context of the call that started it. If just one call of a module that
    # contains this one is going on, it is that call; of several, any guess could be wrong.
    found = [
        other
        for other in list(_going_on)
        if other.module is not module and any(part is module for part in other.module.modules())
    ]
    return found[0] if len(found) == 1 else None


def _upstream(
    inputs: tuple[Any, ...], output: object, frame: _Frame, sources: list[Node]
) -> list[Node]:
    calls = [node for _, node in sorted(frame.calls, key=itemgetter(0))]
    returned: list[Node] = []
    if isinstance(output, Datum):
        own = output.grad_fn
        returned = [own] if own is not None else producers_of(output.items)
    if calls:
        _link(calls, inputs, returned)
    if returned:
        return returned
    if not calls:
        return sources
    consumed = {id(node) for call in calls for node in call.upstream}
    return [call for call in calls if id(call) not in consumed]


def _link(calls: Sequence[Node], inputs: tuple[Any, ...], returned: Sequence[Node]) -> None:
    """Joins calls whose data went through values that carry no graph: texts, lists, a new Datum.

    Without this, a forward that passes on `result.metadata["text"]` would cut the graph, and the
    first stages of a pipeline would never get feedback.

    Args:
        calls: The calls made inside one `forward`, in the order in which they began.
        returned: The calls that its returned Datum names.
    """
    # By identity, since equal values may have nothing to do with each other. A value of the
    # enclosing inputs links nothing: every call may read those.
    given = {id(value) for value in _values(inputs)}
    used = {id(node) for call in calls for node in call.upstream} | {id(n) for n in returned}

    def join(call: Node, earlier: Node) -> None:
        if earlier not in call.upstream:
            call.upstream.append(earlier)
            used.add(id(earlier))

    makers: dict[int, int] = {}
    for position, call in enumerate(calls):
        got = {id(value) for value in _values(call.inputs)}
        for maker in sorted({makers[key] for key in got & makers.keys()}):
            join(call, calls[maker])
        # It got neither a result nor an input: its data was made of results (an f-string of two
        # replies, say), so it depends on those of other modules that nothing has used yet.
        if not call.upstream and not got & given:
            for earlier in calls[:position]:
                if id(earlier) not in used and earlier.module is not call.module:
                    join(call, earlier)
        made = (id(value) for value in _values((call.output,)))
        makers |= {key: position for key in made if key not in given and key not in makers}
    # If the returned Datum names its calls, a result that is still unused decided what to call (a
    # router): its feedback comes through the next call of another module.
    for position, call in enumerate(calls) if returned else ():
        later = (other for other in calls[position + 1 :] if other.module is not call.module)
        following = next(later, None) if id(call) not in used else None
        if following is not None:
            join(following, call)


def _values(inputs: Iterable[object]) -> Iterator[object]:
    """All values, at any depth, that can be identified by object identity."""
    stack = list(inputs)
    while stack:
        value = stack.pop()
        # Python shares one None, one empty text and the small numbers among all their uses.
        if (
            value is None
            or isinstance(value, bool | int | float)
            or (isinstance(value, str) and not value)
        ):
            continue
        yield value
        if isinstance(value, Datum):
            stack += [*value.items, *value.metadata.values()]
        elif isinstance(value, list | tuple):
            stack += value
        elif isinstance(value, dict):
            stack += value.values()


def producers_of(values: Iterable[object]) -> list[Node]:
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


def is_simple(data: Datum) -> bool:
    """Whether a result is that of one call, of nothing that was computed before."""
    node = data.grad_fn
    if node is not None and node.is_step and len(node.upstream) == 1:
        # A step that returns what its module returned is that call.
        (inner,) = node.upstream
        node = inner if inner.module is node.module and inner.output is data else node
    return node is not None and not node.upstream and not node.called
