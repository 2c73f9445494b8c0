"""The processes that evaluate: an interpreter that has seen one state, and one for each item.

And their chance: the global generators of `random`, numpy and torch, whenever imported.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, all_suffixes
from types import ModuleType
from typing import Protocol

from autopilot.core.failures import Failures
from autopilot.core.progress import Death, Position
from autopilot.core.types import Datum

Aside = tuple[Failures, list[str], list[str]]
"""Beside an item's result: its failures, and the run's further notes and violations."""
Result = tuple[Datum, Aside] | Death
"""Of another process: a result, or its end."""
_IMPORTABLE = tuple(all_suffixes())


class Fresh(StrEnum):
    """When a new process evaluates: at another Python file (auto), or any other file (always)."""

    auto = "auto"
    always = "always"
    never = "never"


class Restart(BaseException):  # no error: nobody but who started the process catches it
    """Another process is to go on, whose interpreter has seen no other state."""


class Interpreter:
    """This process as the one that evaluates; it is never replaced, a supervised one may be.

    Args:
        why: Why its only state cannot be imported; "" if it can.
    """

    def __init__(self, why: str = "") -> None:
        self._why = why

    def check(self, state: str) -> str:
        """Called before each evaluation of a state of the parameters.

        Returns:
            Why the state cannot be imported: the error of each of its items; "" if it can.

        Raises:
            Restart: this process has imported the files of another state.
        """
        return self._why


class Jobs(Protocol):
    """Evaluates the items of a batch side by side, each in a process of its own."""

    def run(
        self,
        numbers: Sequence[int],
        evaluate: Callable[[int], tuple[Datum, Aside]],
        finished: Callable[[int, Result], None],
    ) -> None:
        """Evaluates items, in any order.

        Args:
            numbers: Their positions in the batch.
            evaluate: Called in the item's process, which has the state of this one.
            finished: Called here with each item's result, or with the end of its process.

        Raises:
            BaseException: `evaluate` raised it; the items that had begun are finished before.
        """


class Machines(Protocol):
    """Evaluates batches, or the items of batches, at workers that may be other machines.

    The state is that of the experiment at the time. All results are those of an evaluation here.

    Attributes:
        by_item: An item has a process and a seed of its own; otherwise a batch has.
        width: How many batches are begun before the first of them is asked for.
    """

    by_item: bool
    width: int

    def begin(self, position: Position, parts: Mapping[int, Datum]) -> None:
        """Begins to evaluate a batch.

        Args:
            parts: Its items by their positions, each as a batch of one; or -1 to all of it.
        """

    def finish(
        self,
        position: Position,
        parts: Mapping[int, Datum],
        finished: Callable[[int, Result], None],
    ) -> None:
        """Waits for the results of a batch; begins with what has not begun.

        Args:
            finished: Called with each part's result, or with its death where every worker that had
                it was lost.

        Raises:
            ConnectionError: no worker answers.
            BaseException: a worker raised it, as an evaluation here would have.
        """

    def drop(self) -> None:
        """Forgets what was begun and is not finished."""


def is_importable(name: str) -> bool:
    """Whether Python may import a file: a process that has imported it does not see it change.

    A script without such an ending, or text that is executed, is not known by its name.
    """
    return name.endswith(_IMPORTABLE)


# --- seeds --------------------------------------------------------------------------------------

# Module to the function that seeds its global generator.
_SEEDERS = {"numpy": "random.seed", "torch": "manual_seed"}


def seed_everything(*parts: object) -> None:
    """Seeds the global generators from the parts.

    Those of numpy and torch too; where one is not imported yet, as soon as it is, until `leave`.
    """
    # Not hash(): it differs between processes, and a resumed run needs the same chance.
    text = "/".join(str(part) for part in parts)
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
    random.seed(number)
    _late.number = number
    for name in _SEEDERS:
        _seed(name, number)
    if _late not in sys.meta_path and not all(name in sys.modules for name in _SEEDERS):
        sys.meta_path.insert(0, _late)


def generators(*, are_new: bool = False) -> tuple[object, ...]:
    """The states of the global generators: equal where nothing was drawn in between.

    Args:
        are_new: They were seeded just now; to ask Python's own takes longer than to seed it.
    """
    # Seeding makes the first word what no draw leaves there, and the last one a full count.
    own: Sequence[int] = () if are_new else random.getstate()[1]
    found: list[object] = [are_new or (own[0], own[-1]) == (1 << 31, len(own) - 1)]
    # A user's own module may have that name, and one may be in the middle of its import.
    with contextlib.suppress(AttributeError):
        if (numpy := sys.modules.get("numpy")) is not None:
            _, words, *rest = numpy.random.get_state()
            found += [words.tobytes(), *rest]
        if (torch := sys.modules.get("torch")) is not None:
            found += [torch.get_rng_state().numpy().tobytes()]
            if torch.cuda.is_initialized():  # its devices have generators of their own
                found.append(object())
    return tuple(found)


def seed_of(seed: int, repeat: int) -> int:
    """The seed of a repeated measurement; the first has the experiment's own.

    >>> seed_of(7, 0), seed_of(7, 1) == seed_of(7, 2)
    (7, False)
    """
    if repeat == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}/repeat/{repeat}".encode()).digest()[:4], "big")


def leave() -> None:
    """Ends `seed_everything`: modules imported from now on are not seeded."""
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
    """Finds the modules that have a generator as the other finders do, and seeds them at once."""

    number = 0

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _SEEDERS:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_seed(module: ModuleType) -> None:
                execute(module)
                _seed(name, self.number)

            # The module keeps its own loader, as resources and tracebacks ask it for files.
            spec.loader.exec_module = execute_and_seed  # type: ignore[method-assign]  # this one's
        return spec


_late = _Late()
