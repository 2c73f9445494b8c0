"""Recording calls: a module call leaves a Node on the Datum that it returns.

Nothing else holds the nodes: a graph lives as long as its data. A node's upstream is, in this order
of preference, the call whose Datum is returned unchanged, the calls that produced the items of the
returned Datum, the calls made inside `forward` whose results no other call consumed, and the calls
that produced the inputs. So a pipeline stays connected even where its forward builds a new Datum.

The recording state is a context variable: calls in different threads never mix their graphs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from autopilot.core.types import Datum

if TYPE_CHECKING:
    from autopilot.core.gradient import Gradient
    from autopilot.core.module import Module

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
    sources = producers_of(inputs)
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
    produced = producers_of(output.items) if isinstance(output, Datum) else []
    if produced:
        return produced
    if not frame.calls:
        return sources
    consumed = {id(node) for call in frame.calls for node in call.upstream}
    return [call for call in frame.calls if id(call) not in consumed]


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
