"""The user's methods and constructors: checked before the loop calls them, and shown in a repr.

And the fields of a dataclass from which the options of the command line are made.
"""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from types import CoroutineType
from typing import Any

from autopilot.core.types import Datum, said_of
from autopilot.errors import AutopilotError, EvaluationError, ModuleError
from autopilot.text import is_secret


def option(text: str, *, fixed: bool = False, **details: Any) -> Any:
    """An option's field in a table of options; None: not asked for.

    Args:
        fixed: Holds for the whole experiment: a resumed run cannot change it.
        details: As typer.Option takes them; `names` is the option if it is not the field's name,
            `type` what it is read as if not the field's type.
    """
    return field(default=None, metadata={"help": text, "fixed": fixed, **details})


def defines(owner: object, base: type, name: str) -> bool:
    """Whether an object's class overrides a method of its base class."""
    return getattr(getattr(owner, name), "__func__", None) is not getattr(base, name)


def check_init(owner: object, *attributes: str) -> None:
    """Raises a ModuleError where a class's own __init__ was not called: it lacks attributes."""
    if not all(hasattr(owner, name) for name in attributes):
        raise ModuleError(
            f"{type(owner).__name__}.__init__ did not call super().__init__()",
            hint="make it the first line of __init__",
        )


def check_call(
    owner: object, name: str, given: Sequence[str] = (), kind: type[AutopilotError] = ModuleError
) -> None:
    """Checks that an object's method can be called with these arguments; see `check_function`.

    A method that does not exist passes.
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
    """Checks that the loop can call a function with these arguments, by position.

    A function whose signature Python does not know passes.

    Raises:
        AutopilotError: it cannot take them, or is async; the hint is the line to write.
    """
    # The hint shows the line as it stands in the user's class, where self is an argument.
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
        counts = {0: "no arguments", 1: "one argument: "}
        count = counts.get(len(given), f"{len(given)} arguments: ")
        raise kind(
            f"{label}{taken} gets {count}{', '.join(given)}", hint=f"define it as: {line}"
        ) from None


@reprlib.recursive_repr("...")
def as_call(owner: object) -> str:
    """An object as the call that makes it: the arguments that differ from their defaults.

    Reads the attributes that are named as the constructor's parameters, with or without an
    underscore in front. An argument of more than 80 characters ends in "...".

    >>> from autopilot.core.metrics import Quantile
    >>> Quantile("words", 0.5, failed=0.0)
    Quantile('words', 0.5, failed=0.0)
    """
    kind, shown, in_order = type(owner), list[str](), True
    for each in list(inspect.signature(kind.__init__).parameters.values())[1:]:
        value = getattr(owner, each.name, getattr(owner, f"_{each.name}", each.default))
        text = getattr(value, "__name__", None) or repr(value)
        text = text if len(text) <= 80 else f"{text[:77]}..."
        if getattr(type(value), "__repr__", None) is object.__repr__:
            text = f"{type(value).__name__}(...)"
        if value is each.default or text == repr(each.default):
            # The arguments behind one that is left out need their names.
            in_order = False
        else:
            by_place = in_order and each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
            shown.append(text if by_place else f"{each.name}={text}")
    return f"{kind.__name__}({', '.join(shown)})"


def plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are texts, numbers, dicts or tuples of them, and no secrets."""
    return {
        name: value
        for name, value in given.items()
        if _is_plain(value) and not is_secret(name.upper(), str(value))
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    return isinstance(value, str | int | float)


def check_awaited(value: object, what: str, kind: type[AutopilotError] = EvaluationError) -> None:
    """Refuses coroutines that were not awaited, in a value or in the items of a result.

    They are closed, so that the interpreter does not warn about them later.
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
    held: list[object] = []
    for item in items if isinstance(items, list | tuple) else ():
        if not isinstance(item, Datum):
            held.append(item)
            continue
        held += said_of(item)
        if isinstance(item.metrics, dict):
            held += item.metrics.values()
        if isinstance(item.metadata, dict):
            held += item.metadata.values()
    # By their types, in C: this is asked of each item that is evaluated.
    if CoroutineType not in map(type, held):
        return []
    return [each for each in held if isinstance(each, CoroutineType)]
