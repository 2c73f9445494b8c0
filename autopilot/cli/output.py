"""The one place that prints.

With --json a command prints one JSON document on stdout and nothing else there; everything meant
for a person goes to stderr then. Without it, stdout has the answer, stderr has progress and errors.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any, TextIO, cast

from autopilot import audit
from autopilot.errors import AutopilotError, OutputError, UsageError, remedy
from autopilot.text import align, as_json, jsonable, redact, visible, whole

if TYPE_CHECKING:
    from rich.console import Console

# What a command's process ends with; an interrupted run can be resumed.
DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

PROGRESS = "AUTOPILOT_PROGRESS"
"""A variable of the environment: where it is set, an evaluation prints a line a second."""

FOR_AGENT = "AUTOPILOT_FOR_AGENT"
"""A variable of the environment: where it is set, answers lack the content of val items."""

_ALTERNATIVE = re.compile(r"(?=[,;] or )")
_SPELLED = re.compile(r"\b(autopilot|git|pip|gh|glab) ")
_COLOR = re.compile(r"(\x1b\[[0-9;]*m)")
_OPTION = re.compile(r"(?<!\S)--[a-z][a-z-]+")


class Output:
    """Prints for a person or for a program.

    Args:
        as_json: One JSON document on stdout instead of text.
        verbose: Tracebacks of our own errors too.
        color: False: none; True: where the terminal has them.

    Attributes:
        options: The options of the command; empty where it is not known.
        damaged: What the command left out since it cannot be read, by its message.
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
        self._lost: mmap.mmap | None = None
        self.options: frozenset[str] = frozenset()
        self.damaged: dict[str, AutopilotError] = {}
        self._stdout, self._stderr = stdout, stderr

    @classmethod
    def for_arguments(cls, arguments: Sequence[str]) -> Output:
        """Reports an error in the arguments themselves, as far as they can be read."""
        return cls(
            as_json="--json" in arguments,
            verbose="--verbose" in arguments,
            color="--no-color" not in arguments and "NO_COLOR" not in os.environ,
        )

    def beside(self, stdout: TextIO) -> Output:
        """The same on another stdout, for a program."""
        made = Output(as_json=True, verbose=self.verbose, stdout=stdout)
        made.options, made._lost = self.options, self._lost
        return made

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

        file = cast(IO[str], _Drawing(self))
        return Console(
            file=file, no_color=not self.color, highlight=False, soft_wrap=True, emoji=False
        )

    @property
    def is_for_agent(self) -> bool:
        """Whether an agent reads it, which must not see the content of val items."""
        return bool(os.environ.get(FOR_AGENT))

    @property
    def is_terminal(self) -> bool:
        """Whether a person watches."""
        return self.people.isatty()

    @property
    def width(self) -> int | None:
        """The terminal's columns; None where nothing is shortened, as in a pipe."""
        return shutil.get_terminal_size().columns if self.is_terminal else None

    def go_on(self) -> Output:
        """From now on, also in processes that are forked, no output that is lost ends the command.

        A run is not over because its reader has left, as of `autopilot run ... | head`. It is for
        commands whose work is recorded: of the others, the output is all that there is.
        """
        self._lost = mmap.mmap(-1, 1)
        return self

    def raw(self, data: bytes) -> None:
        """Bytes on stdout as they are, such as a patch; on a terminal, of escapes only colors."""
        if not self.stdout.isatty() and hasattr(self.stdout, "buffer"):
            with self.writing(self.stdout):
                self.stdout.flush()
                self.stdout.buffer.write(data)
                self.stdout.buffer.flush()
            return
        parts = _COLOR.split(data.decode("utf-8", "replace"))
        with self.writing(self.stdout):
            self.stdout.write("".join(p if i % 2 else visible(p) for i, p in enumerate(parts)))
            self.stdout.flush()

    def write(self, text: str, stream: TextIO, end: str = "\n", *, is_answer: bool = False) -> None:
        """Writes a text, with escapes for what would steer a terminal.

        Raises:
            OutputError: as `writing` raises it.
        """
        with self.writing(stream, is_answer=is_answer):
            print(_printable(text, stream), end=end, file=stream, flush=True)

    @contextlib.contextmanager
    def writing(self, stream: TextIO, *, is_answer: bool = False) -> Iterator[None]:
        """Writes to a stream in the body. If that fails, all that follows is lost.

        Raises:
            OutputError: stdout takes no more, and the command cannot go on without; the message is
                empty where its reader has left.
        """
        if self._lost and self._lost[0] and stream is self.stdout:
            give_up(stream)
        try:
            yield
        except OSError as error:
            give_up(stream)
            if stream is self.stderr:
                return
            has_left = isinstance(error, BrokenPipeError)
            text = f"stdout cannot be written: {error.strerror or error}"
            if self._lost is None or (is_answer and not has_left):
                hint = f"{remedy(text)}, or send it to another file"
                raise OutputError("" if has_left else text, hint=hint) from error
            if not (self._lost[0] or has_left):
                self.warning(f"{text}; the work goes on, read it with autopilot log")
            self._lost[0] = 1

    def line(self, text: str = "", style: str = "") -> None:
        """One line for a person; rich markup in it is shown as it is."""
        if self.is_terminal and style and self.color:
            from rich.text import Text

            self.console.print(Text(_printable(text, self.people), style=style))
        else:
            self.write(text, self.people)

    def lines(self, texts: Iterable[str]) -> None:
        """Lines for a person."""
        for text in texts:
            self.line(text)

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()
    ) -> None:
        """A plain table, columns as wide as needed.

        Args:
            right: Heads of the columns that are set to the right.
        """
        self.lines(align(columns, rows, right))

    def document(self, found: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """The command's answer for a program, an object; nothing without --json."""
        if self.as_json:
            plain = jsonable({**(found or {}), **more})
            trail = audit.current()
            if trail is not None:
                plain["expose"] = jsonable(trail.executed)
            self.write(as_json(plain, indent=2), self.stdout, is_answer=True)

    def trail(self) -> None:
        """Prints the executed commands on stderr; with --json they are in the document."""
        trail = audit.current()
        if trail is not None and not self.as_json:
            self.write("\n".join(trail.lines()), self.stderr)

    def warning(self, text: str) -> None:
        """One line on stderr."""
        self.write(f"warning: {text}", self.stderr)

    def own_hint(self, hint: str) -> str:
        """A hint without the alternatives that take an option which this command does not have.

        Several commands reach the errors of the library, and `--in-place` is for `run` alone.
        """
        if not self.options:
            return hint
        # What is spelled out as a command may have any option.
        parts = [part for part in _ALTERNATIVE.split(hint) if part]
        own = [
            p for p in parts if _SPELLED.search(p) or self.options.issuperset(_OPTION.findall(p))
        ]
        text = "".join(own).removeprefix(", or ").removeprefix("; or ")
        if text and parts[0] not in own:
            # The words before a colon lead to each of the alternatives.
            lead, colon, _ = parts[0].rpartition(": ")
            text = f"{lead}{colon}{text}" if not _OPTION.search(lead) else text
        return text or hint

    @property
    def can_ask(self) -> bool:
        """Whether a person can answer: it is no script, and no program reads the answer."""
        return not self.as_json and sys.stdin.isatty()

    def ask(self, question: str) -> str:
        """The answer of a person at the terminal; empty for Enter alone.

        Raises:
            KeyboardInterrupt: the input was closed, as by Ctrl-D.
        """
        self.write(f"{question} ", self.people, end="")
        answer = sys.stdin.readline()
        if not answer:
            self.line()
            raise KeyboardInterrupt
        return answer.strip()

    def error(self, error: AutopilotError) -> None:
        """Prints an error and its hint on stderr."""
        # The user's own code may have put a key into what it raised.
        message, hint = redact(error.message), redact(self.own_hint(error.hint))
        traceback = redact(getattr(error, "user_traceback", ""))
        if traceback:
            self.write(traceback.rstrip(), self.stderr)
        # What the user's own code raised may have many lines.
        self.write(f"error: {' '.join(message.splitlines())}", self.stderr)
        if hint:
            self.write(f"  hint: {hint}", self.stderr)
        notes = [redact(note) for note in getattr(error, "__notes__", ())]
        for note in notes:
            self.write(note, self.stderr)
        with contextlib.suppress(OutputError):
            self.document({"error": message, "hint": hint} | ({"notes": notes} if notes else {}))

    def flush(self) -> None:
        """Writes what is held back of stdout, as of what the user's code prints.

        Raises:
            OutputError: as `writing` raises it.
        """
        with self.writing(self.stdout):
            self.stdout.flush()


class _Drawing:
    """A stream that rich draws on whenever it likes, also in a thread of its own."""

    def __init__(self, output: Output) -> None:
        # A live line takes the place of stdout with a stream that leads back to here.
        self._output, self._stream = output, output.people

    def write(self, text: str) -> None:
        with self._output.writing(self._stream):
            self._stream.write(text)
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def give_up(stream: TextIO) -> None:
    """Loses what a stream still holds, and all that it is given from now on."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()


def guarded(output: Output, command: Callable[[], int], how: Callable[[], str] = lambda: "") -> int:
    """The exit code of a command; its errors are printed, and then what was executed.

    Args:
        command: Returns its exit code. With --verbose, what it raises is raised.
        how: Says how to go on after an interrupt; "" where nothing was begun.
    """
    try:
        try:
            code = command()
        except OSError as error:
            if not error.filename:
                output.write("", output.stdout)  # was it stdout? others print, too, as of --help
            raise
        output.flush()
        return code
    except OutputError as error:
        if error.message:
            output.error(error)
        return FAILED
    except AutopilotError as error:
        output.error(error)
        if output.verbose:
            raise
        return USAGE if isinstance(error, UsageError) else FAILED
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or str(error)
        hint = f"{remedy(reason)}, then again; --verbose shows where it happened"
        output.error(AutopilotError(f"{named}{reason}", hint=hint))
        if output.verbose:
            raise
        return FAILED
    except BaseException as error:
        if (interrupt := interrupt_of(error)) is None:
            raise
        notes = "interrupted", *getattr(interrupt, "__notes__", ()), how()
        for note in filter(None, notes):
            output.write(note, output.stderr)
        return INTERRUPTED
    finally:
        output.trail()
        audit.end()


def interrupt_of(error: BaseException) -> BaseException | None:
    """The Ctrl-C behind an error: in an import it may come as one of the class just made."""
    found: BaseException | None = error
    while found and not isinstance(found, KeyboardInterrupt):
        found = found.__cause__
    return found


@contextlib.contextmanager
def own_stdout(output: Output) -> Iterator[Output]:
    """With --json, what the user's code prints goes to stderr, child processes included."""
    if not output.as_json:
        yield output
        return
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        given = output.stdout
        with contextlib.redirect_stdout(sys.stderr):
            yield output.beside(given)
        return
    output.flush()
    with os.fdopen(os.dup(descriptor), "w", encoding="utf-8") as answers:
        os.dup2(sys.stderr.fileno(), descriptor)
        try:
            yield output.beside(answers)
        finally:
            sys.stdout.flush()
            answers.flush()
            os.dup2(answers.fileno(), descriptor)


def _printable(text: str, stream: TextIO) -> str:
    """Replaces characters that the stream cannot carry: they must not end a run."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return whole(visible(text)).encode(encoding, "replace").decode(encoding)
