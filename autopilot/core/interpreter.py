"""The processes that evaluate: an interpreter that has seen one state, and one for each item."""

from __future__ import annotations

import importlib.machinery
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Protocol

from autopilot.core.failures import Failures
from autopilot.core.progress import Death
from autopilot.core.types import Datum

Aside = tuple[Failures, list[str], list[str]]
"""Beside an item's result: its failures, and the run's further notes and violations."""
_IMPORTABLE = tuple(importlib.machinery.all_suffixes())


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
        """Called before each evaluation.

        Args:
            state: The parameters' state that is measured.

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
        finished: Callable[[int, tuple[Datum, Aside] | Death], None],
    ) -> None:
        """Evaluates items, in any order.

        Args:
            numbers: Their positions in the batch.
            evaluate: Called in the item's process, which has the state of this one.
            finished: Called here with each item's result, or with the end of its process.

        Raises:
            BaseException: `evaluate` raised it; the items that had begun are finished before.
        """


def is_importable(name: str) -> bool:
    """Whether Python may import a file: a process that has imported it does not see it change.

    A script without such an ending, or text that is executed, is not known by its name.
    """
    return name.endswith(_IMPORTABLE)
