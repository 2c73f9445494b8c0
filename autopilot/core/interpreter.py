"""The interpreter that evaluates: what Python has imported once, it does not read again."""

from __future__ import annotations

import importlib.machinery
from enum import StrEnum

_IMPORTABLE = tuple(importlib.machinery.all_suffixes())


class Fresh(StrEnum):
    """When a new process evaluates: at another Python file (auto), or any other file (always)."""

    auto = "auto"
    always = "always"
    never = "never"


class Restart(BaseException):  # no error: nobody but who started the process catches it
    """Another process is to go on, whose interpreter has seen no other state."""


class Interpreter:
    """This process as the one that evaluates; it is never replaced, a supervised one may be."""

    def check(self, state: str) -> str:
        """Called before each evaluation.

        Args:
            state: The parameters' state that is measured.

        Returns:
            Why the state cannot be imported: the error of each of its items; "" if it can.

        Raises:
            Restart: this process has imported the files of another state.
        """
        return ""


def is_importable(name: str) -> bool:
    """Whether Python may import a file: a process that has imported it does not see it change.

    A script without such an ending, or text that is executed, is not known by its name.
    """
    return name.endswith(_IMPORTABLE)
