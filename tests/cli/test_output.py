"""What is printed: columns that a terminal has, JSON that programs read, odd characters in both."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.live import Live

from autopilot.cli.output import Output, guarded
from autopilot.cli.pages.listing import shorten_end
from autopilot.errors import AutopilotError, OutputError
from autopilot.text import display_width, shorten
from tests.cli.conftest import COMMAND, Place

TEXT = st.text(st.sampled_from("ab 規。e\u0301\u200b\t\n") | st.characters(), max_size=60)


@given(TEXT, st.integers(0, 50))
def test_a_shortened_text_fits_and_is_the_beginning(text, width):
    line = " ".join(text.split())
    for short in (shorten(text, width), shorten_end(line, width)):
        assert display_width(short) <= max(width, 3)
        if short != line:
            assert short.endswith("...")
            assert line.startswith(short[:-3])
            # Nothing more would have fitted.
            kept = len(short) - 3
            rest = line[kept:].lstrip()
            assert display_width(line[: kept + len(line[kept:]) - len(rest) + 1]) > width - 3


@pytest.mark.parametrize("cut", [shorten, shorten_end])
def test_shortening_is_linear(cut):
    def seconds(text):
        best = 1e9
        for _ in range(5):
            started = time.process_time()
            cut(text, 60)
            best = min(best, time.process_time() - started)
        return best

    assert seconds("規則太寬。" * 40_000) < 60 * seconds("規則太寬。" * 4_000) + 0.01
    assert seconds("規則太寬。" * 40_000) < 1.0


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_a_document_with_odd_characters_is_json(encoding):
    given = {"t": "\x7f\x9b\x1b\0 規 \ud83d \u2028", "k\ud83d": float("nan")}
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Output(as_json=True, stdout=stream).document(given)
    stream.seek(0)
    text = stream.read()
    assert not set(text) & {"\x1b", "\x7f", "\x9b", "\0"}
    expected = given | {"k\ud83d": "NaN"}
    if encoding != "utf-8":
        expected["t"] = expected["t"].replace("規", "?")
    assert json.loads(text) == expected


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_no_text_steers_the_terminal_or_reorders_what_it_shows() -> None:
    """Where a person reads it: lines, errors, JSON, a patch; a pipe gets a patch as it is."""
    odd = "\x1b[2J\r \ud83d \0 \u202e\u2066\u200f\u061c\u2028\ufeff\U000e0041 ok"
    odd += " \ud83d\ude00 \u0633\u200c"
    escaped = r"\x1b[2J\r @ \x00 \u202e\u2066\u200f\u061c\u2028\ufeff\U000e0041 ok"
    shown = f"{escaped.replace('@', chr(0xFFFD))} \U0001f600 \u0633\u200c"
    out, err = Terminal(), Terminal()
    output = Output(stdout=out, stderr=err)
    output.line(odd)
    output.line(odd, "green")
    output.error(AutopilotError(odd.replace("\u2028", ""), hint=odd))
    output.raw(b"\x1b[1;32m+" + odd.replace("\ud83d ", "").encode("utf-8", "replace") + b"\x1b[m\n")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert plain.splitlines()[:2] == [shown] * 2
    assert "\x1b[1;32m+" in out.getvalue()
    assert len(err.getvalue().splitlines()) == 2
    Output(as_json=True, stdout=(document := Terminal())).document({"text": odd})
    for text in (plain, err.getvalue(), document.getvalue()):
        assert not set(text) & set(odd) - set("[2J ok\u0633\u200c") - {"\r"}, ascii(text)
    assert json.loads(document.getvalue())["text"] == odd.replace("\ud83d\ude00", "\U0001f600")
    pipe = io.TextIOWrapper(io.BytesIO())
    Output(stdout=pipe).raw(b"\x1b[2J\xff\r\n")
    assert pipe.buffer.getvalue() == b"\x1b[2J\xff\r\n"  # type: ignore[attr-defined]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_output_is_named_once_and_ends_no_run() -> None:
    err = io.StringIO()
    with Path("/dev/full").open("w") as full, pytest.raises(OutputError, match="No space left"):
        Output(stdout=full, stderr=err).line("one")
    with Path("/dev/full").open("w") as full:
        output = Output(stdout=full, stderr=err)
        output.go_on()
        pid = os.fork()  # a supervised process finds it out, and the next one knows
        if pid == 0:
            output.lines(["one", "two"])
            os._exit(0)
        os.waitpid(pid, 0)
        output.lines(["three", "four"])
        output.console.print("five")
        print("six", file=full, flush=True)  # the user's code has no error of ours
        assert err.getvalue() == ""
        output.beside(full).line("seven")
    with Path("/dev/full").open("w") as full:
        Output(stdout=full, stderr=full).error(AutopilotError("wrong", hint="mend"))  # nothing


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_run_goes_on_where_it_cannot_print(place: Place) -> None:
    def shell(end: str, *arguments: str) -> tuple[int, list[str]]:
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {end}', "sh", *COMMAND, *arguments],
            cwd=place.top,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr.splitlines()

    code, said = shell(">/dev/full", "run", "counter.py", "-e", "a", "--max-epochs", "2")
    assert (code, len(said)) == (0, 1), said
    assert said[0].startswith("warning: stdout cannot be written: No space left on device")
    assert shell(">&- 2>&-", "run", "counter.py", "-e", "b", "--max-epochs", "2") == (0, [])
    for name in ("a", "b"):
        assert place.call("show", "2", "-e", name).out
    # No file got the number of a stream that was closed, and what was printed.
    kept = (place.top / ".git" / "autopilot").rglob("*")
    written = [path.read_bytes() for path in kept if path.is_file()]
    assert not any(b"read it:   git log" in content for content in written)
    # Of what is recorded nowhere the output is all: also where the user's code runs in a child.
    for command in ("status --json", "--help", "policy explain a", "run counter.py --dry-run"):
        code, said = shell(">/dev/full", *command.split())
        assert (code, len(said)) == (1, 2)
        assert said[0] == "error: stdout cannot be written: No space left on device"


def test_a_live_line_survives_its_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with SIGHUP ignored: what is drawn, and printed beside it, goes nowhere."""
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        output = Output()
        output.go_on()
        live = Live("epoch 1", console=output.console, auto_refresh=False)
        live.start(refresh=True)
        assert os.read(ours, 4096)
        os.close(ours)
        live.refresh()
        print("the user's code", flush=True)
        output.line("a row")
        live.stop()
        output.line("the end", "green")


# The first of ours, one before the command, one of the command's, one of the loop's.
@pytest.mark.parametrize(
    "module",
    ["autopilot.cli.output", "autopilot.engine.loading", "typer", "autopilot.engine.session"],
)
@pytest.mark.parametrize("end", ["pass", "raise RuntimeError('__set_name__') from error"])
def test_ctrl_c_while_the_program_starts(place: Place, module: str, end: str) -> None:
    program = """
import os, signal, sys, time
class Interrupt:
    def find_spec(self, name, *rest, at=sys.argv[1], end=sys.argv[2]):
        if name == at:
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(9)
            except KeyboardInterrupt as error:  # as the import of a class may make of it
                exec(end)
                raise
sys.meta_path.insert(0, Interrupt())
from autopilot.cli.main import main
sys.argv[:3] = ["autopilot"]
main()
"""
    command = [sys.executable, "-P", "-c", program, module, end, "run", "counter.py"]
    done = subprocess.run(command, cwd=place.top, capture_output=True, text=True, check=False)

    assert done.returncode == 130, done
    assert done.stdout + done.stderr in ("", "interrupted\n"), done


def test_a_platform_without_what_is_needed_is_told_so_in_one_line(tmp_path: Path) -> None:
    """A Python that has no fcntl, as on Windows; nothing else is imported that needs it."""
    program = """
import sys
class Windows:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, *rest):
        return None if name in ("fcntl", "termios") else self.finder.find_spec(name, *rest)
sys.meta_path[:] = map(Windows, sys.meta_path)
from autopilot.cli.main import main
sys.argv[1:] = ["status"]
main()
"""
    command = [sys.executable, "-P", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, ""), done
    first, second = done.stderr.splitlines()
    assert first == f"error: autopilot does not run on {sys.platform}: Python has no fcntl there"
    assert second.startswith("  hint: use Linux")


def test_an_interrupted_import_may_raise_something_else(capsys) -> None:
    def command() -> int:
        raise RuntimeError("Error calling __set_name__") from KeyboardInterrupt()

    assert guarded(Output(), command) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_hint_offers_no_option_of_another_command() -> None:
    output = Output()
    output.options = frozenset({"--live", "--link"})
    room = "make room there"
    assert output.own_hint(f"{room}, or run with --in-place") == room
    assert output.own_hint("record them; or let it: --live") == "record them; or let it: --live"
    assert output.own_hint("ask anew: --nothing") == "ask anew: --nothing"
    command = "autopilot resume demo --block-after 0"
    assert output.own_hint(f"wait, or {command}") == f"wait, or {command}"
    output.options = frozenset({"--in-place"})
    assert output.own_hint(f"{room}, or run with --in-place").endswith("--in-place")
