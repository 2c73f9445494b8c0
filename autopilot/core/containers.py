"""Modules that hold modules and parameters: by index, by name, and one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, MutableSequence
from typing import Any, Self

from autopilot.core.module import Module
from autopilot.core.parameter import Parameter
from autopilot.errors import ModuleError

Part = Module | Parameter


class ModuleList(Module, MutableSequence[Any]):
    """Modules and parameters in a list, registered under their index.

    >>> prompts = ModuleList([Parameter("be brief"), Parameter("be kind")])
    >>> [p.data for p in prompts.append(Parameter("cite")).parameters()]
    ['be brief', 'be kind', 'cite']
    """

    def __init__(self, modules: Iterable[Part] = ()) -> None:
        super().__init__()
        self.extend(modules)

    def append(self, value: Part) -> Self:  # type: ignore[override]  # itself, as in torch.nn
        """Adds one at the end."""
        return self.extend([value])

    def extend(self, values: Iterable[Part]) -> Self:  # type: ignore[override]  # as above
        """Adds several at the end."""
        return self._replace([*self, *values])

    def insert(self, index: int, value: Part) -> Self:  # type: ignore[override]  # as above
        """Adds one before an index; the following ones move up."""
        return self._changed("insert", index, value)

    def __getitem__(self, index: Any) -> Any:
        found = list(self)[index]
        return type(self)(found) if isinstance(index, slice) else found

    def __setitem__(self, index: Any, value: Any) -> None:
        self._changed("__setitem__", index, value)

    def __delitem__(self, index: int | slice) -> None:
        self._changed("__delitem__", index)

    def __iter__(self) -> Iterator[Any]:
        return iter([self.__dict__[str(index)] for index in range(len(self))])

    def __len__(self) -> int:
        return len(self._modules) + len(self._parameters)

    def _changed(self, method: str, *arguments: Any) -> Self:
        parts = list(self)
        getattr(parts, method)(*arguments)
        return self._replace(parts)

    def _replace(self, parts: list[Part]) -> Self:
        # All are checked before the first is set: a refused change leaves the list as it was.
        for part in parts:
            _check(self, part)
        for index in range(len(self)):
            delattr(self, str(index))
        for index, part in enumerate(parts):
            setattr(self, str(index), part)
        return self


class Sequential(ModuleList):
    """Modules one after the other: each gets what the one before it returned.

    >>> class Add(Module):
    ...     def forward(self, x):
    ...         return x + 1
    >>> Sequential(Add(), Add())(1)
    3
    """

    def __init__(self, *modules: Part | Iterable[Part]) -> None:
        parts: list[Part] = []
        for module in modules:
            parts += [module] if isinstance(module, Module | Parameter) else list(module)
        super().__init__(parts)

    def forward(self, batch: Any) -> Any:
        for module in self:
            batch = module(batch)
        return batch


class ModuleDict(Module, MutableMapping[str, Any]):
    """Modules and parameters by name, in the order in which they were added."""

    # A mapping compares by content and has no hash; a module is one thing, whatever it holds.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __init__(self, modules: Mapping[str, Part] | None = None) -> None:
        super().__init__()
        self.update(modules or {})

    def __setitem__(self, name: str, module: Part) -> None:
        own = name not in self and hasattr(self, name)
        if own or not name or "." in name:
            raise ModuleError(
                f"{name!r} cannot be the name of a module in a ModuleDict",
                hint="use a name without dots that is none of its attributes",
            )
        _check(self, module)
        setattr(self, name, module)

    def __getitem__(self, name: str) -> Any:
        return self._parts()[name]

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
        delattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts())

    def __len__(self) -> int:
        return len(self._parts())

    def _parts(self) -> dict[str, Part]:
        held = self._modules.keys() | self._parameters.keys()
        return {name: value for name, value in self.__dict__.items() if name in held}


def _check(holder: Module, part: object) -> None:
    if not isinstance(part, Module | Parameter):
        raise ModuleError(
            f"a {type(holder).__name__} holds modules and parameters, not a {type(part).__name__}",
            hint="wrap a value: Parameter(value)",
        )
