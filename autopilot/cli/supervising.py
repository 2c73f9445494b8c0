"""What a user sees of a run's processes: that one died, or had to be ended."""

from __future__ import annotations

from collections.abc import Callable

from autopilot import audit
from autopilot.cli.output import INTERRUPTED, Output, guarded
from autopilot.core.progress import Death
from autopilot.engine.board import Child
from autopilot.engine.supervisor import Supervisor


def supervised(output: Output, work: Callable[[Child], int], slug: str = "") -> int:
    """Runs work in a process of its own, and again where that dies.

    Args:
        output: Prints.
        work: Returns the exit code. What it raises is printed by the process that it runs in.
        slug: The experiment's name where that exists.

    Returns:
        The exit code.
    """
    told: list[str] = []

    def tell(death: Death) -> None:
        if output.is_terminal:
            output.console.show_cursor()  # a live line hid it
        output.line(f"       {death.reason} {death.position}; it goes on", "yellow")

    def overdue(past_s: float, name: str) -> None:
        told.append(name)
        output.line(f"time budget: over by {past_s:.0f} s, and an item does not end", "yellow")

    output.goes_on = True
    code = Supervisor(lambda child: guarded(output, lambda: work(child)), tell, overdue, slug).run()
    if code is None:
        how = f"autopilot resume {told[0]} --budget-seconds N"
        output.line(f"the item was killed; go on: {how}")
        reason = "time budget: an item did not end"
        output.document({"experiment": told[0], "interrupted": True, "stop_reason": reason})
        return INTERRUPTED
    audit.end()  # the process that did the work has told what was executed
    return code
