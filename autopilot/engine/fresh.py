"""A process whose interpreter has seen one state only: at the next one, another process goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum

from autopilot.core.interpreter import Interpreter, Restart
from autopilot.engine.board import Child
from autopilot.git.objects import Entry
from autopilot.tracking.parameters import is_importable


class Fresh(StrEnum):
    """When a new process evaluates."""

    always = "always"
    auto = "auto"
    never = "never"


class OneState(Interpreter):
    """This process, as the interpreter of one state.

    Args:
        child: Another one goes on after it.
        imported: The parameters' files as they were imported.
        entries: The parameters' files in a state.
        how: "auto": another one at other Python files; "always": at any other file.
    """

    def __init__(
        self,
        child: Child,
        imported: Mapping[str, Entry],
        entries: Callable[[str], Mapping[str, Entry]],
        how: Fresh,
    ) -> None:
        self._child, self._entries, self._how = child, entries, how
        self._imported, self._state = self._of_interest(imported), ""

    def check(self, state: str) -> None:
        if state == self._state:
            return
        if self._of_interest(self._entries(state)) != self._imported:
            self._child.board.leave_to_next(state)
            raise Restart
        self._state = state

    def _of_interest(self, entries: Mapping[str, Entry]) -> dict[str, Entry]:
        every = self._how == Fresh.always
        return {name: entry for name, entry in entries.items() if every or is_importable(name)}
