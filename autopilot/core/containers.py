"""Modules that hold modules and parameters: by index, by name, and one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, overload

from autopilot.core.module import Module
from autopilot.core.parameter import Parameter
from autopilot.errors import ModuleError

Part = Module | Parameter


class ModuleList(Module):
    """Modules and parameters in a list, registered under their index.

    >>> prompts = ModuleList([Parameter("be brief"), Parameter("be kind")])
    >>> [p.data for p in prompts.append(Parameter("cite")).parameters()]
    ['be brief', 'be kind', 'cite']
    """

    def __init__(self, modules: Iterable[Part] = ()) -> None:
        super().__init__()
        self.extend(modules)

    def append(self, module: Part) -> Self:
        """Adds one at the end."""
        return self._replace([*self, module])

    def extend(self, modules: Iterable[Part]) -> Self:
        """Adds several at the end."""
        return self._replace([*self, *modules])

    def insert(self, index: int, module: Part) -> Self:
        """Adds one before an index; the following ones move up."""
        parts = list(self)
        parts.insert(index, module)
        return self._replace(parts)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> Any:
        found = list(self)[index]
        return type(self)(found) if isinstance(found, list) else found

    def __setitem__(self, index: int, module: Part) -> None:
        parts = list(self)
        parts[index] = module
        self._replace(parts)

    def __delitem__(self, index: int | slice) -> None:
        parts = list(self)
        del parts[index]
        self._replace(parts)

    def __iter__(self) -> Iterator[Any]:
        return iter([self.__dict__[str(index)] for index in range(len(self))])

    def __contains__(self, module: object) -> bool:
        return any(module is part for part in self)

    def __len__(self) -> int:
        return len(self._modules) + len(self._parameters)

    def _replace(self, parts: list[Part]) -> Self:
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


class ModuleDict(Module):
    """Modules and parameters by name."""

    def __init__(self, modules: Mapping[str, Part] | None = None) -> None:
        super().__init__()
        self.update(modules or {})

    def update(self, modules: Mapping[str, Part]) -> None:
        """Adds several, or puts them in the place of those of the same name."""
        for name, module in modules.items():
            self[name] = module

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
        self.pop(name)

    def pop(self, name: str) -> Any:
        """Removes one and returns it."""
        part = self[name]
        delattr(self, name)
        return part

    def clear(self) -> None:
        """Removes all."""
        for name in self:
            delattr(self, name)

    def __contains__(self, name: object) -> bool:
        return name in self._parts()

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts())

    def __len__(self) -> int:
        return len(self._parts())

    def keys(self) -> Iterable[str]:
        """The names."""
        return self._parts().keys()

    def values(self) -> Iterable[Any]:
        """The modules and parameters."""
        return self._parts().values()

    def items(self) -> Iterable[tuple[str, Any]]:
        """Name and module or parameter."""
        return self._parts().items()

    def _parts(self) -> dict[str, Part]:
        # In the order in which they were added.
        held = self._modules.keys() | self._parameters.keys()
        return {name: value for name, value in self.__dict__.items() if name in held}


def _check(holder: Module, part: object) -> None:
    if not isinstance(part, Module | Parameter):
        raise ModuleError(
            f"a {type(holder).__name__} holds modules and parameters, not a {type(part).__name__}",
            hint="wrap a value: Parameter(value)",
        )
