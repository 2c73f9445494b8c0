"""The one place that prints.

With --json a command prints one JSON document on stdout and nothing else there; everything meant
for a person goes to stderr then. Without it, stdout has the answer, stderr has progress and errors.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from autopilot.errors import AutopilotError

if TYPE_CHECKING:
    from rich.console import Console


class Output:
    """Prints for a person or for a program.

    Args:
        as_json: One JSON document on stdout instead of text.
        verbose: Tracebacks of our own errors too.
        color: False: none; True: where the terminal has them.
        stdout: Where answers go.
        stderr: Where progress and errors go.
    """

    def __init__(
        self,
        *,
        as_json: bool = False,
        verbose: bool = False,
        color: bool = True,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ) -> None:
        self.as_json, self.verbose, self.color = as_json, verbose, color
        self._stdout, self._stderr = stdout, stderr

    @property
    def stdout(self) -> TextIO:
        """Where answers go."""
        return self._stdout or sys.stdout

    @property
    def stderr(self) -> TextIO:
        """Where progress and errors go."""
        return self._stderr or sys.stderr

    @property
    def people(self) -> TextIO:
        """Where text for a person goes: stdout, unless a program reads that."""
        return self.stderr if self.as_json else self.stdout

    @cached_property
    def console(self) -> Console:
        """A rich console on the stream for people."""
        from rich.console import Console

        return Console(
            file=self.people, no_color=not self.color, highlight=False, soft_wrap=True, emoji=False
        )

    @property
    def is_terminal(self) -> bool:
        """Whether a person watches."""
        return self.people.isatty()

    def line(self, text: str = "", style: str = "") -> None:
        """One line for a person; rich markup in it is shown as it is."""
        if self.is_terminal and style and self.color:
            from rich.text import Text

            self.console.print(Text(text, style=style))
        else:
            print(_printable(text), file=self.people, flush=True)

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()
    ) -> None:
        """A plain table, columns as wide as needed.

        Args:
            columns: Heads.
            rows: Cells.
            right: Heads of the columns that are set to the right.
        """
        for text in align(columns, rows, right):
            self.line(text)

    def document(self, value: Any) -> None:
        """The command's answer for a program; nothing without --json."""
        if self.as_json:
            text = json.dumps(jsonable(value), ensure_ascii=False, indent=2, allow_nan=False)
            print(_printable(text), file=self.stdout, flush=True)

    def warning(self, text: str) -> None:
        """One line on stderr."""
        print(_printable(f"warning: {text}"), file=self.stderr, flush=True)

    def error(self, error: AutopilotError) -> None:
        """What is wrong, and what to do; on stderr."""
        traceback = getattr(error, "user_traceback", "")
        if traceback:
            print(_printable(traceback.rstrip()), file=self.stderr)
        print(_printable(f"error: {error.message}"), file=self.stderr)
        if error.hint:
            print(_printable(f"  hint: {error.hint}"), file=self.stderr)
        self.stderr.flush()
        self.document({"error": error.message, "hint": error.hint})


def align(
    columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()
) -> list[str]:
    """A table's lines, two spaces between columns, nothing at a line's end.

    >>> align(["epoch", "verdict"], [["0", "baseline"], ["10", "kept"]], right=["epoch"])
    ['epoch  verdict', '    0  baseline', '   10  kept']
    """
    grid = [list(columns), *[list(row) for row in rows]]
    widths = [max(len(row[i]) for row in grid) for i in range(len(columns))]
    lines = []
    for row in grid:
        cells = [
            cell.rjust(width) if head in right else cell.ljust(width)
            for cell, width, head in zip(row, widths, columns, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def number(value: float | None, *, signed: bool = False) -> str:
    """A metric's value with three decimals; more where it would read as zero.

    >>> number(0.5833), number(0.134, signed=True), number(None), number(12345.6)
    ('0.583', '+0.134', '-', '12346')
    """
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    sign = "+" if signed else ""
    if value and abs(value) < 0.001:
        return format(value, f"{sign}.2e")
    return format(value, f"{sign}.0f" if abs(value) >= 10000 else f"{sign}.3f")


def jsonable(value: Any) -> Any:
    """A value as JSON has it: dataclasses as objects, NaN and infinity as strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value) if isinstance(value, Path) else repr(value)


def _printable(text: str) -> str:
    """Names that are not UTF-8 must not end a run: they are shown with a question mark."""
    return text.encode("utf-8", "replace").decode()
