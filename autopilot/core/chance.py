"""Chance that repeats itself: the global generators of `random`, numpy and torch are seeded."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Module to the function that seeds its global generator.
_SEEDERS = {"numpy": "random.seed", "torch": "manual_seed"}


def seed_everything(*parts: object) -> None:
    """Seeds the global generators from the parts.

    Those of numpy and torch too; where one is not imported yet, as soon as it is, until `leave`.
    """
    text = "/".join(str(part) for part in parts)
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
    random.seed(number)
    _late.number = number
    for name in _SEEDERS:
        _seed(name, number)
    if _late not in sys.meta_path and not all(name in sys.modules for name in _SEEDERS):
        sys.meta_path.insert(0, _late)


def seed_of(seed: int, repeat: int) -> int:
    """The seed of a repeated measurement; the first has the experiment's own.

    >>> seed_of(7, 0), seed_of(7, 1) == seed_of(7, 2)
    (7, False)
    """
    if repeat == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}/repeat/{repeat}".encode()).digest()[:4], "big")


def leave() -> None:
    """Ends what `seed_everything` began: what is imported from here on is not seeded."""
    if _late in sys.meta_path:
        sys.meta_path.remove(_late)


def _seed(name: str, number: int) -> None:
    function: object = sys.modules.get(name)
    for part in _SEEDERS[name].split("."):
        # A user's own module may have that name, and one may be in the middle of its import.
        function = getattr(function, part, None)
    if callable(function):
        function(number)


class _Late(MetaPathFinder):
    """Finds the modules that have a generator as everybody else would, and seeds them at once.

    Attributes:
        number: What they are seeded with.
    """

    def __init__(self) -> None:
        self.number = 0

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _SEEDERS:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _SeedingLoader(spec.loader)
                return spec
        return None


class _SeedingLoader(Loader):
    """Another loader, and seeding after it.

    Args:
        loader: The module's own.
    """

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The module's own, as resources and tracebacks ask it for files and source.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _seed(module.__name__, _late.number)


_late = _Late()
