"""What the `ai` commands share: how a generator or judge is found, what it may cost, what is seen.

It is a TARGET in the style of `autopilot run`, or the one that the project's own command line has.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from autopilot.cli.context import Context
from autopilot.cli.output import INTERRUPTED, Output, own_stdout
from autopilot.core.figures import spending
from autopilot.errors import UsageError

if TYPE_CHECKING:
    from autopilot.ai.datasets.worklist import Origin
    from autopilot.core.records.ledger import Ledger, Limits

K = TypeVar("K")

_EVERY_S = 5.0

Dollars = Annotated[
    float | None, typer.Option("--budget-usd", min=0, help="Stop before it costs more dollars.")
]
Tokens = Annotated[
    int | None, typer.Option("--budget-tokens", min=1, help="Stop before more tokens are used.")
]
Calls = Annotated[
    int | None, typer.Option("--budget-calls", min=0, help="Stop before more calls are made.")
]


def budget_of(usd: float | None, tokens: int | None, calls: int | None) -> Limits | None:
    """The budget that options ask for; None where they ask for none."""
    from autopilot.core.records.ledger import Limits

    if usd is None and tokens is None and calls is None:
        return None
    given = (calls, tokens, usd)
    return Limits(*(math.inf if limit is None else limit for limit in given))


def find(context: Context, origin: Origin, kind: type[K]) -> K:
    """The generator or judge that is meant. The working directory is the context's from then on.

    Args:
        context: The command's.
        origin: What was asked for.
        kind: DataGenerator or Judge.

    Raises:
        UsageError: nothing is named, and the project has none.
        TargetError: what is named cannot be loaded.
    """
    from autopilot.engine.target import load_target

    folder = context.working_folder()
    os.chdir(folder)
    if not origin.target:
        noun = "generator" if kind.__name__ == "DataGenerator" else "judge"
        project = context.own_cli() if context.project else context.cli
        own = getattr(project, noun, None)
        if not isinstance(own, kind):
            whose = (
                f"the project {context.project} has no {noun}"
                if context.project
                else (f"there is no {noun} of a project")
            )
            raise UsageError(
                f"no TARGET is given, and {whose}",
                hint=f"name one: path/to/file.py or path/to/file.py:Name, a {kind.__name__}",
            )
        if origin.hparams:
            raise UsageError("-H is for a TARGET", hint="the project's own is made already")
        return own
    sys.path.insert(0, str(folder))
    return load_target(origin.target, folder, origin.hparams, kind)


class Meter:
    """Says how far it is: on a terminal in a live line, elsewhere in a line now and then.

    Args:
        output: Prints.
        verb: What was done with the items: "made".
    """

    def __init__(self, output: Output, verb: str) -> None:
        self.output, self.verb = output, verb
        self._status: Any = None
        self._told_s = time.monotonic()

    def __call__(self, done: int, total: int, ledger: Ledger) -> None:
        """After each item."""
        spent = ledger.total()
        text = f"{done} of {total} {self.verb}"
        text += f", {spending(spent)}" if spent.calls else ""
        if self.output.is_terminal and not self.output.as_json:
            if self._status is None:
                self._status = self.output.console.status(text)
                self._status.start()
            self._status.update(text)
        elif done < total and time.monotonic() - self._told_s >= _EVERY_S:
            self._told_s = time.monotonic()
            self.output.line(text)

    def stop(self) -> None:
        """Ends the live line."""
        if self._status is not None:
            self._status.stop()
            self._status = None


@contextlib.contextmanager
def watched(output: Output, verb: str) -> Iterator[Meter]:
    """A Meter while the body lasts."""
    meter = Meter(output, verb)
    try:
        yield meter
    finally:
        meter.stop()


def resumable(context: Context, again: str, work: Callable[[Output], int]) -> int:
    """Does work that Ctrl-C or a spent budget ends and that goes on later.

    Args:
        context: The command's.
        again: The command that goes on.
        work: Gets an output to which the user's own code cannot print; returns how many items are
            missing at its end.

    Returns:
        The exit code: 1 where items are missing.
    """
    from autopilot.engine.supervisor import interruptible
    from autopilot.errors import BudgetExceededError

    with own_stdout(context.output) as output, interruptible():
        try:
            missing = work(output)
        except KeyboardInterrupt:
            output.line("interrupted: nothing that was paid is lost", "yellow")
            output.line(f"go on: {again}")
            output.document({"interrupted": True, "resume": again})
            return INTERRUPTED
        except BudgetExceededError as spent:
            output.line(f"stopped: {spent.message}", "yellow")
            option = {"call": "calls", "token": "tokens", "dollar": "usd"}
            which = option.get(spent.message.partition(" ")[0])
            more = f" --budget-{which} MORE" if which else ""
            output.line(f"go on: {again}{more}")
            output.document({"interrupted": True, "reason": spent.message, "resume": again})
            return INTERRUPTED
    return 1 if missing else 0
