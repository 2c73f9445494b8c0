"""The one place that prints.

With --json a command prints one JSON document on stdout and nothing else there; everything meant
for a person goes to stderr then. Without it, stdout has the answer, stderr has progress and errors.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO

from autopilot import audit
from autopilot.errors import AutopilotError, UsageError
from autopilot.text import HIDDEN, align, as_json, jsonable, redact, whole

if TYPE_CHECKING:
    from rich.console import Console

# What a command's process ends with; an interrupted run can be resumed.
DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

PROGRESS = "AUTOPILOT_PROGRESS"
"""A variable of the environment: where it is set, an evaluation prints a line a second."""

FOR_AGENT = "AUTOPILOT_FOR_AGENT"
"""A variable of the environment: where it is set, answers lack the content of val items."""

_SECRET_OPTION = re.compile(
    r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|AUTH|COOKIE|HEADER", re.IGNORECASE
)
_LOGIN = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_LONGEST_ARGUMENT = 200
_ALTERNATIVE = re.compile(r"(?=[,;] or )")
_SPELLED = re.compile(r"\b(autopilot|git|pip|gh|glab) ")
_OPTION = re.compile(r"(?<!\S)--[a-z][a-z-]+")


class Output:
    """Prints for a person or for a program.

    Args:
        as_json: One JSON document on stdout instead of text.
        verbose: Tracebacks of our own errors too.
        color: False: none; True: where the terminal has them.

    Attributes:
        goes_on: Whether the command goes on when the reader of its output has left.
        options: The options of the command; empty where it is not known.
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
        self.goes_on = False
        self.options: frozenset[str] = frozenset()
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
        made.options = self.options
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

        return Console(
            file=self.people, no_color=not self.color, highlight=False, soft_wrap=True, emoji=False
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

    def raw(self, data: bytes) -> None:
        """Bytes on stdout as they are: a patch."""
        self.stdout.flush()
        buffer = getattr(self.stdout, "buffer", None)
        if buffer is None:
            self.stdout.write(data.decode("utf-8", "replace"))
        else:
            buffer.write(data)
            buffer.flush()

    def line(self, text: str = "", style: str = "") -> None:
        """One line for a person; rich markup in it is shown as it is."""
        try:
            if self.is_terminal and style and self.color:
                from rich.text import Text

                self.console.print(Text(_printable(text, self.people), style=style))
            else:
                print(_printable(text, self.people), file=self.people, flush=True)
        except BrokenPipeError:
            if not self.goes_on:
                raise
            # A run is not over because its reader has left: `autopilot run ... | head`.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.people.fileno())

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

    def document(self, value: Any) -> None:
        """The command's answer for a program, an object; nothing without --json."""
        if self.as_json:
            plain = jsonable(value)
            trail = audit.current()
            if trail is not None:
                plain["expose"] = jsonable(trail.executed)
            text = as_json(plain, indent=2)
            encoding = self.stdout.encoding or "utf-8"
            print(text.encode(encoding, "replace").decode(encoding), file=self.stdout, flush=True)

    def trail(self) -> None:
        """Prints the executed commands on stderr; with --json they are in the document."""
        trail = audit.current()
        if trail is None or self.as_json or self.stderr.closed:
            return
        heading = f"executed in {trail.seconds:.1f} s: {len(trail.executed) or 'nothing'}"
        rows = [
            [
                each.kind,
                "-" if each.code is None else str(each.code),
                "-" if each.seconds is None else f"{each.seconds:.3f}",
                each.command + (f"  ({each.detail})" if each.detail else ""),
            ]
            for each in trail.executed
        ]
        table = align(["kind", "code", "seconds", "command"], rows, ("code", "seconds"))
        for text in [heading, *(table if rows else [])]:
            print(_printable(text, self.stderr), file=self.stderr)
        self.stderr.flush()

    def warning(self, text: str) -> None:
        """One line on stderr."""
        print(_printable(f"warning: {text}", self.stderr), file=self.stderr, flush=True)

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

    def confirm(self, question: str, otherwise: str) -> bool:
        """Asks a person at the terminal; anything but yes is no.

        Args:
            otherwise: The hint where no person can answer.

        Raises:
            UsageError: no person can answer: it is a script, or a program reads the answer.
        """
        if not self.can_ask:
            raise UsageError(
                "this needs your confirmation, and there is no terminal to ask on", hint=otherwise
            )
        return self.ask(question).lower() in ("y", "yes")

    @property
    def can_ask(self) -> bool:
        """Whether a person can answer: it is no script, and no program reads the answer."""
        return not self.as_json and sys.stdin.isatty()

    def ask(self, question: str) -> str:
        """The answer of a person at the terminal; empty for Enter alone.

        Raises:
            KeyboardInterrupt: the input was closed, as by Ctrl-D.
        """
        print(_printable(f"{question} ", self.people), end="", file=self.people, flush=True)
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
            print(_printable(traceback.rstrip(), self.stderr), file=self.stderr)
        # What the user's own code raised may have many lines.
        line = " ".join(message.splitlines())
        print(_printable(f"error: {line}", self.stderr), file=self.stderr)
        if hint:
            print(_printable(f"  hint: {hint}", self.stderr), file=self.stderr)
        notes = [redact(note) for note in getattr(error, "__notes__", ())]
        for note in notes:
            print(_printable(note, self.stderr), file=self.stderr)
        self.stderr.flush()
        self.document({"error": message, "hint": hint} | ({"notes": notes} if notes else {}))


def guarded(output: Output, command: Callable[[], int]) -> int:
    """The exit code of a command; its errors are printed, and then what was executed.

    Args:
        command: Returns its exit code. With --verbose, what it raises is raised.
    """
    try:
        return command()
    except AutopilotError as error:
        output.error(error)
        if output.verbose:
            raise
        return USAGE if isinstance(error, UsageError) else FAILED
    except KeyboardInterrupt as interrupt:
        for note in ("interrupted", *getattr(interrupt, "__notes__", ())):
            print(note, file=sys.stderr)  # noqa: T201  # nothing else may be imported yet
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has seen enough: `autopilot log | head`.
        sys.stderr.close()
        return FAILED
    except OSError as error:
        # Such as a full disk under `autopilot run ... > log`.
        named = f"{error.filename}: " if error.filename else ""
        hint = "mend that, then again; --verbose shows where it happened"
        with contextlib.suppress(OSError):
            output.error(AutopilotError(f"{named}{error.strerror or error}", hint=hint))
        if output.verbose:
            raise
        return FAILED
    finally:
        output.trail()
        audit.end()


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
    sys.stdout.flush()
    with os.fdopen(os.dup(descriptor), "w", encoding="utf-8") as answers:
        os.dup2(sys.stderr.fileno(), descriptor)
        try:
            yield output.beside(answers)
        finally:
            sys.stdout.flush()
            answers.flush()
            os.dup2(answers.fileno(), descriptor)


def redact_command(command: Sequence[str]) -> str:
    """A command as it would be typed, without secrets: also the logins of addresses, and values of
    options whose names tell that they are secret. What is long is shortened.

    >>> redact_command(["git", "push", "https://ada:pw@host/x.git"])
    'git push https://[hidden]@host/x.git'
    >>> redact_command(["agent", "--api-key", "a b", "--token=c"])
    'agent --api-key [hidden] --token=[hidden]'
    """
    shown: list[str] = []
    follows = False
    for argument in command:
        name, equals, value = argument.partition("=")
        is_option = argument.startswith("-")
        secret = bool(_SECRET_OPTION.search(name) or value.lower().startswith("authorization"))
        if follows and not is_option:
            shown.append(HIDDEN)
        elif secret and equals:
            shown.append(f"{name}={HIDDEN}")
        else:
            text = _LOGIN.sub(HIDDEN, redact(argument))
            rest = len(text) - _LONGEST_ARGUMENT
            cut = f"{text[:_LONGEST_ARGUMENT]}... ({rest} more characters)" if rest > 0 else text
            shown.append(cut if HIDDEN in cut else shlex.quote(cut))
        follows = is_option and secret and not equals
    return " ".join(shown)


# All of them but the tab and the line break. What a model wrote must not steer the terminal.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def _printable(text: str, stream: TextIO) -> str:
    """Replaces characters that the stream cannot carry: they must not end a run."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    visible = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
    return whole(visible).encode(encoding, "replace").decode(encoding)
