"""Recording calls: a module call leaves a Node on the Datum that it returns.

Nothing else holds the nodes: a graph lives as long as its data. A node's upstream is, in this order
of preference, the call whose Datum is returned unchanged, the calls that produced the items of the
returned Datum, the calls made inside `forward` whose results no other call consumed, and the calls
that produced the inputs. So a pipeline stays connected even where its forward builds a new Datum,
or where a stage returns a text that the next one gets.

The recording state is a context variable: calls in different threads never mix their graphs.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from operator import itemgetter
from typing import Any

from autopilot.core.node import Node, Recorded
from autopilot.core.types import Datum


class _Frame:
    """What was called inside a call that is going on: when it began, and its node."""

    __slots__ = ("called", "calls", "module")

    def __init__(self, module: Recorded) -> None:
        self.module = module
        self.calls: list[tuple[int, Node]] = []
        self.called: set[int] = set()


_enabled: ContextVar[bool] = ContextVar("autopilot_grad_enabled", default=True)
_frame: ContextVar[_Frame | None] = ContextVar("autopilot_frame", default=None)
_going_on: list[_Frame] = []
_begun = itertools.count()


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
    module: Recorded, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
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


def attach(module: Recorded, batch: object, output: Datum, upstream: Sequence[Node] = ()) -> None:
    """Records a call after the fact: for a result that was answered from a record."""
    output.grad_fn = Node(module, (batch,), output, list(upstream))


def _enclosing(module: Recorded) -> _Frame | None:
    """The call that this one is made in; from a thread that it started, too.

    A thread that was started without the context finds the only call that is going on elsewhere of
    a module which this one is a part of.
    """
    frame = _frame.get()
    if frame is not None or not _going_on:
        return frame
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

    A call got the result of another where it got a value of it. One that got neither a result nor
    anything of the enclosing call's own inputs got what was made of the results before it: those
    of other modules that nothing has used yet. Where the returned Datum says which calls it is
    from, what is still unused (it decided what to call, say) goes to the next other module's call.
    """
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
        if not call.upstream and not got & given:
            for earlier in calls[:position]:
                if id(earlier) not in used and earlier.module is not call.module:
                    join(call, earlier)
        made = (id(value) for value in _values((call.output,)))
        makers |= {key: position for key in made if key not in given and key not in makers}
    for position, call in enumerate(calls) if returned else ():
        later = (other for other in calls[position + 1 :] if other.module is not call.module)
        following = next(later, None)
        if id(call) not in used and following is not None:
            join(following, call)


def _values(inputs: Iterable[object]) -> Iterator[object]:
    """Everything in the values that can be told from its likes: not None, not a small number."""
    stack = list(inputs)
    while stack:
        value = stack.pop()
        if value is None or isinstance(value, bool | int | float) or value == "":
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
