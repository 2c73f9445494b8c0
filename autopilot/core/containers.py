"""Modules that hold modules: by index, and by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Self

from autopilot.core.module import Module
from autopilot.errors import ModuleError


class ModuleList(Module):
    """Modules in a list, registered under their index."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        for module in modules:
            self.append(module)

    def append(self, module: Module) -> Self:
        """Adds a module at the end."""
        setattr(self, str(len(self._modules)), module)
        return self

    def __getitem__(self, index: int) -> Module:
        return list(self._modules.values())[index]

    def __iter__(self) -> Iterator[Module]:
        return iter(list(self._modules.values()))

    def __len__(self) -> int:
        return len(self._modules)


class ModuleDict(Module):
    """Modules by name."""

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        super().__init__()
        for name, module in (modules or {}).items():
            self[name] = module

    def __setitem__(self, name: str, module: Module) -> None:
        own = name not in self._modules and hasattr(self, name)
        if own or not name or "." in name:
            raise ModuleError(
                f"{name!r} cannot be the name of a module in a ModuleDict",
                hint="use a name without dots that is none of its attributes",
            )
        setattr(self, name, module)

    def __getitem__(self, name: str) -> Module:
        return self._modules[name]

    def __delitem__(self, name: str) -> None:
        delattr(self, name)

    def __contains__(self, name: str) -> bool:
        return name in self._modules

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._modules))

    def __len__(self) -> int:
        return len(self._modules)

    def items(self) -> Iterator[tuple[str, Module]]:
        """Name and module."""
        return iter(list(self._modules.items()))
