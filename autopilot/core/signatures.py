"""What the loop calls of the user's, looked at before it is called: its arguments, and async."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from types import CoroutineType
from typing import Any

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
    if callable(method):
        check_function(method, f"{type(owner).__name__}.{name}", given, kind)


def check_function(
    function: Callable[..., Any],
    label: str,
    given: Sequence[str],
    kind: type[AutopilotError] = ModuleError,
) -> None:
    """As `check_call`, for what is at hand.

    Args:
        function: What is called.
        label: How it is called in errors.
        given: The names of the arguments.
        kind: What is raised.

    Raises:
        AutopilotError: it cannot take them, or is async.
    """
    own = ("self",) if inspect.ismethod(function) else ()
    names = (label.rpartition(".")[2], getattr(function, "__name__", ""), "function")
    name = next(name for name in names if name.isidentifier())
    line = f"def {name}({', '.join((*own, *given))})"
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise kind(
            f"{label} is async, and the loop does not await it",
            hint=f"make it a plain {line}, and await inside: asyncio.run(...)",
        )
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*given)
    except TypeError:
        empty = inspect.Signature.empty
        plain = [each.replace(annotation=empty) for each in signature.parameters.values()]
        taken = signature.replace(parameters=plain, return_annotation=empty)
        count = {0: "no arguments", 1: "one argument: "}.get(
            len(given), f"{len(given)} arguments: "
        )
        raise kind(
            f"{label}{taken} gets {count}{', '.join(given)}", hint=f"define it as: {line}"
        ) from None


def as_call(owner: object) -> str:
    """An object as the call that makes it: the arguments that differ from their defaults.

    Reads the attributes that are named as the constructor's parameters.

    >>> from autopilot.core.metrics import Quantile
    >>> Quantile("words", 0.5, failed=0.0)
    Quantile('words', 0.5, failed=0.0)
    """
    kind, shown, in_order = type(owner), list[str](), True
    for each in list(inspect.signature(kind.__init__).parameters.values())[1:]:
        value = getattr(owner, each.name, each.default)
        text = getattr(value, "__name__", None) or f"{value!r:.80}"
        if value is each.default or text == repr(each.default):
            # The arguments behind one that is left out need their names.
            in_order = False
        else:
            by_place = in_order and each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
            shown.append(text if by_place else f"{each.name}={text}")
    return f"{kind.__name__}({', '.join(shown)})"


def check_awaited(value: object, what: str, kind: type[AutopilotError] = EvaluationError) -> None:
    """Looks for coroutines that nobody awaited, in a value or in the items of a result.

    They are closed, so that the interpreter does not complain about them later.

    Raises:
        AutopilotError: there is one.
    """
    found = [value] if isinstance(value, CoroutineType) else _coroutines(value)
    for coroutine in found:
        coroutine.close()
    if found or inspect.isawaitable(value):
        name = getattr(found[0] if found else value, "__qualname__", type(value).__name__)
        raise kind(
            f"{what} returned a coroutine: nothing awaited {name}",
            hint="await it in the method that makes it: asyncio.run(...)",
        )


def _coroutines(value: object) -> list[CoroutineType[Any, Any, Any]]:
    items: object = [value, *value.leaves()] if isinstance(value, Datum) else value
    found: list[CoroutineType[Any, Any, Any]] = []
    for item in items if isinstance(items, list | tuple) else ():
        places = (vars(item), item.metrics, item.metadata) if isinstance(item, Datum) else ()
        for held in ({"": item}, *places):
            # By their types, in C: this is asked of each item that is evaluated.
            if isinstance(held, dict) and CoroutineType in map(type, held.values()):
                found += [each for each in held.values() if isinstance(each, CoroutineType)]
    return found
