"""What the loop calls of the user's, looked at before it is called: its arguments, and async."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence

from autopilot.core.types import Datum
from autopilot.errors import AutopilotError, EvaluationError, ModuleError


def defines(owner: object, base: type, name: str) -> bool:
    """Whether an object has a method of its own in the place of its base class's."""
    return getattr(getattr(owner, name), "__func__", None) is not getattr(base, name)


def check_call(
    owner: object, name: str, given: Sequence[str] = (), kind: type[AutopilotError] = ModuleError
) -> None:
    """Looks at a method that the loop calls with these arguments, by position.

    A method that does not exist, or whose signature Python cannot tell, passes.

    Args:
        owner: Whose method it is.
        name: The method's.
        given: The names of the arguments.
        kind: What is raised.

    Raises:
        AutopilotError: it cannot take them, or is async; the hint is the line to write.
    """
    method = getattr(owner, name, None)
    if not callable(method):
        return
    label = f"{type(owner).__name__}.{name}"
    own = ("self",) if inspect.ismethod(method) else ()
    line = f"def {name}({', '.join((*own, *given))})"
    if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
        raise kind(
            f"{label} is async, and the loop does not await it",
            hint=f"make it a plain {line}, and await inside: asyncio.run(...)",
        )
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*given)
    except TypeError:
        empty = inspect.Parameter.empty
        taken = ", ".join(str(p.replace(annotation=empty)) for p in signature.parameters.values())
        count = {0: "no arguments", 1: "one argument: "}.get(
            len(given), f"{len(given)} arguments: "
        )
        raise kind(
            f"{label}({taken}) gets {count}{', '.join(given)}", hint=f"define it as: {line}"
        ) from None


def check_awaited(value: object, what: str, kind: type[AutopilotError] = EvaluationError) -> None:
    """Looks for coroutines that nobody awaited, in a value or in the items of a result.

    They are closed, so that the interpreter does not complain about them later.

    Raises:
        AutopilotError: there is one.
    """
    found = [each for each in _parts(value) if inspect.iscoroutine(each)]
    for coroutine in found:
        coroutine.close()
    if found or inspect.isawaitable(value):
        name = getattr(found[0] if found else value, "__qualname__", type(value).__name__)
        raise kind(
            f"{what} returned a coroutine: nothing awaited {name}",
            hint="await it in the method that makes it: asyncio.run(...)",
        )


def _parts(value: object) -> Iterable[object]:
    yield value
    items: object = value.items if isinstance(value, Datum) else value
    for item in items if isinstance(items, list | tuple) else ():
        yield item
        if isinstance(item, Datum):
            yield item.success
            yield from item.metrics.values() if isinstance(item.metrics, dict) else ()
